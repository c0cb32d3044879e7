"""Patterns layer by layer: what is put together is what pruning gives, and a search keeps its budget."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sateen
from sateen.errors import ConfigError
from sateen.explorer.layers import divergence, evolve, guided, levels, measured_losses, trace_losses
from sateen.formats import parse_sparsity
from sateen.ir.nodes import Conv

MODEL = Path(__file__).resolve().parents[2] / "models/digits_cnn.onnx"


@pytest.fixture(scope="module")
def made(digits):
    with np.load(digits[0]) as samples:
        x = {"input": samples["input"][:32]}
    return levels(sateen.load(MODEL).graph, ("2:4", "1:4"), x, "magnitude")


def cost(chosen):
    """Stands for cycles: the weights of each layer that are kept."""
    return sum(
        round(w * parse_sparsity(p).density) for w, p in zip((2304, 2304, 4096, 320), chosen, strict=True)
    )


def test_layers_are_those_that_can_be_sparse(made):
    assert len(made.names) == 4 and made.patterns == (
        "dense",
        "2:4",
        "1:4",
    )  # the first has one input channel
    sparse = made.network(("1:4", "dense", "2:4", "dense"))
    before = {n.name: n for n in made.graph.nodes if isinstance(n, Conv)}
    for node in sparse.nodes:
        if isinstance(node, Conv):
            level = dict(zip(made.names, ("1:4", "dense", "2:4", "dense"), strict=True)).get(
                node.name, "dense"
            )
            share = np.count_nonzero(node.weight) / np.count_nonzero(before[node.name].weight)
            assert share == pytest.approx(parse_sparsity(level).density, abs=0.02)


def test_divergence_is_zero_for_the_same_and_grows_with_sparsity(made):
    dense, half, quarter = (made.divergence((p,) * 4) for p in ("dense", "2:4", "1:4"))
    assert dense == pytest.approx(0.0, abs=1e-12) and 0 < half < quarter
    logits = np.log([[0.5, 0.5]])
    assert divergence(logits, np.log([[0.25, 0.75]])) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert divergence(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])) == pytest.approx(
        divergence(logits, logits * 0 + np.log([[0.25, 0.75]]))
    )


def test_a_search_keeps_the_budget_and_is_no_worse_than_its_start(made):
    start = ("2:4",) * 4
    budget = cost(start)
    evolved = evolve(made, start, cost, budget, generations=4, seed=1)
    chosen = guided(made, measured_losses(made), cost, budget)
    assert cost(evolved) <= budget and cost(chosen) <= budget
    assert made.divergence(evolved) <= made.divergence(start)
    assert evolve(made, start, cost, budget, generations=4, seed=1) == evolved


def test_the_trace_of_the_hessian_estimates_what_a_small_change_loses(made):
    """Of weights that move little, in random directions; what pruning does is further away, and is ranked."""
    rng, node = np.random.default_rng(3), next(n for n in made.graph.nodes if n.name == made.names[1])
    noise = 0.02 * np.abs(node.weight).mean() * rng.standard_normal(node.weight.shape)
    moved = replace(node, weight=(node.weight + noise).astype(np.float32))
    near = replace(made, layers=made.layers | {(node.name, "2:4"): moved})
    there = replace(made.graph, nodes=tuple(moved if n.name == node.name else n for n in made.graph.nodes))
    expected = trace_losses(near, probes=16)[node.name, "2:4"]
    assert expected == pytest.approx(near.divergence_of(there), rel=0.5)
    losses, measured = trace_losses(made), measured_losses(made)
    for name in made.names:
        assert 0 < losses[name, "2:4"] < losses[name, "1:4"]
    worst = max(made.names, key=lambda name: measured[name, "1:4"])
    assert losses[worst, "1:4"] >= np.median([losses[name, "1:4"] for name in made.names])


def test_a_budget_that_nothing_keeps(made):
    with pytest.raises(ConfigError, match="no map of these patterns takes as few as 10 cycles"):
        guided(made, measured_losses(made), cost, 10)
    with pytest.raises(ConfigError, match="more than the budget of 10"):
        evolve(made, ("2:4",) * 4, cost, 10)


def test_explore_gives_layers_patterns_of_their_own(digits, tmp_path):
    space = {"preset": "tiny", "group": 4, "rows": 2, "cols": 4, "sparsity": ["1:4"], "act_bank_depth": 1024}
    calibration, data, labels = digits
    found = sateen.explore(
        MODEL, tmp_path / "study", calibration=calibration, data=data, labels=labels, space=space, trials=1,
        per_layer=1, sparsity_method="magnitude", objectives="fps,accuracy",
    )  # fmt: skip
    assert found["trials"] == 2
    member = next(m for m in found["front"] if m["layers"])  # in no more cycles
    manifest = sateen.pick(tmp_path / "study", member["index"], tmp_path / "build")
    assert manifest["cycles"] == member["cycles"] and "--sparsity-map" in member["command"]
    again = sateen.compile(
        MODEL, tmp_path / "again", calibration=calibration, config=member["toml"], ptq="fast",
        sparsity_map=member["toml"].replace(".toml", ".sparsity.toml"), sparsity_method="magnitude",
    )  # fmt: skip
    assert again["files"] == manifest["files"]
