"""Branches of a Concat whose ranges are far apart keep their precision, and the network its function."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks import Builder, everything
from recipe_runs import run_recipe

from sateen.compiler.float_executor import run_float
from sateen.compiler.importer import import_model
from sateen.compiler.ptq.recipe import RECIPES, Recipe
from sateen.compiler.quantize.branches import scale_branches, scaled, split_branches
from sateen.compiler.quantize.calibrate import calibrate
from sateen.formats import parse_format
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv
from sateen.models.random_network import SCALES, random_network
from sateen.sim.reference import run_reference

RATIOS = (1.0, 10.0, 100.0, 1e4, 1e-4)


def forked(ratio: float, *, alike: bool = False) -> Graph:
    """Three branches, the second `ratio` times smaller. The layer that reads them makes up for it, unless its weights
    are `alike`."""
    b = Builder(3)
    x = b.input(8, 8, 4)
    y = b.concat(b.clip(b.conv(x, 8)), b.clip(b.conv(x, 8)), b.function(b.conv(x, 8), "tanh"))
    graph = b.graph(b.gemm(b.pool(b.clip(b.conv(y, 16)), "average", 4), 6))
    convs = [n for n in graph.nodes if isinstance(n, Conv)]
    weight = convs[3].weight.copy()
    weight[..., 8:16] *= 1.0 if alike else ratio
    changed = {
        convs[1].name: replace(convs[1], weight=convs[1].weight / ratio, bias=convs[1].bias / ratio),
        convs[3].name: replace(convs[3], weight=weight),
    }
    return replace(graph, nodes=tuple(changed.get(n.name, n) for n in graph.nodes))


def samples(graph: Graph, seed: int = 1, count: int = 48) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {p.name: rng.normal(0, 1, (count, *p.shape)).astype(np.float32) for p in graph.inputs}


def decibels(graph: Graph, weights: str, activations: str, recipe: Recipe = RECIPES["fast"]) -> float:
    """Signal over noise of the integer network's first output, on samples that calibration has not seen."""
    formats = {"weight_format": weights, "activation_format": activations}
    found, _ = run_recipe(graph, samples(graph), recipe, **formats)
    test, output = samples(graph, 2), graph.outputs[0]
    wanted = output.present(run_float(graph, test)[output.tensor])
    lost = run_reference(found, test)[output.port.name] - wanted
    return float(10 * np.log10(np.mean(wanted**2) / np.mean(lost**2)))


@pytest.mark.parametrize("formats", [("int8", "int8"), ("int4", "int4"), ("e4m3", "e4m3"), ("e2m1", "e3m2")])
def test_precision_does_not_depend_on_the_ratio(formats, caplog):
    near = decibels(forked(1), *formats)
    for ratio in RATIOS[1:]:
        assert decibels(forked(ratio), *formats) > near - 2, ratio
    assert not caplog.records


def test_balanced_recipe_too():
    near, far = (decibels(forked(ratio), "int8", "int8", RECIPES["balanced"]) for ratio in (1, 1e4))
    assert far > near - 2


@pytest.mark.parametrize("ratio", RATIOS)
def test_weights_that_do_not_make_up_for_it(ratio):
    """A branch that hardly counts is not given a scale at the expense of the others' weights."""
    graph = forked(ratio, alike=True)
    small = 24 if ratio < 1 else 0  # then two branches of three are small, and a scale is shared by rows
    assert decibels(graph, "int4", "int8") > decibels(forked(1), "int4", "int8") - 2 - small


def test_nothing_changes_without_far_branches():
    for graph in (forked(1), forked(4), everything()[0]):
        seen = calibrate(graph, samples(graph))
        found, factors = scale_branches(graph, seen, parse_format("int8"), parse_format("int8"))
        assert found is graph and not factors


def _random_factors(graph: Graph, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    branches = split_branches(graph)
    roots = {int(b) for of in branches.of.values() for b in of} - branches.fixed
    return scaled(graph, branches, {b: 2.0 ** int(rng.integers(-12, 12)) for b in sorted(roots)})


@pytest.mark.parametrize("seed", range(40))
def test_scaling_keeps_every_bit(seed):
    """Of what a float network gives, whatever it is made of."""
    graph = import_model(random_network(seed, SCALES["small"])) if seed else everything()[0]
    changed = _random_factors(graph, seed)
    changed.verify()
    x = samples(graph)
    wanted, found = run_float(graph, x), run_float(changed, x)
    for output in graph.outputs:
        np.testing.assert_array_equal(found[output.tensor], wanted[output.tensor])


def test_every_kind_of_node():
    """Selections, clips with bounds, tables, nested Concats, Adds and pools behind and before a Concat."""
    b = Builder(4)
    x, z = b.input(6, 6, 3), b.input(6, 6, 2, "z")
    first = b.concat(b.clip(b.conv(x, 4), -1.0, 3.0), z, b.function(b.conv(x, 2), "sigmoid"))
    first = b.select(first, [7, -1, 0, 4, 4, 1], crop=(1, 0, 0, 1))
    second = b.concat(
        b.pool(first, "max", 3, 1, 1), b.function(b.conv(first, 3), "leaky_relu", alpha=0.1), first
    )
    second = b.clip(b.add(second, b.conv(second, 15)))
    y = b.pool(b.concat(second, b.function(b.clip(b.conv(second, 2)), "tanh")), "average", 5)
    graph = b.graph(b.conv(y, 4, 1))
    changed = _random_factors(graph, 7)
    of = split_branches(graph).of
    assert len({int(i) for b in of.values() for i in b}) >= 6
    assert sum(a is not b for a, b in zip(graph.nodes, changed.nodes, strict=True)) >= 9
    assert any(p.host for p in changed.inputs)
    x = samples(graph)
    for t in (o.tensor for o in graph.outputs):
        np.testing.assert_array_equal(run_float(changed, x)[t], run_float(graph, x)[t])


@pytest.mark.parametrize("reader", ["output", "tanh", "add"])
def test_readers_that_cannot_take_a_scale(reader, caplog):
    """The branches stay as they are, with a warning."""
    b = Builder(3)
    x = b.input(4, 4, 3)
    small = b.function(b.conv(x, 4), "sigmoid")
    large = b.clip(b.conv(x, 4, std=None))
    y = b.concat(small, large)
    match reader:
        case "tanh":
            y = b.function(y, "tanh")
        case "add":
            y = b.add(y, b.concat(large, small))
    graph = b.graph(y if reader == "output" else b.conv(y, 2, 1))
    convs = [n for n in graph.nodes if isinstance(n, Conv)]
    loud = replace(convs[1], weight=convs[1].weight * 1e4)
    graph = replace(graph, nodes=tuple(loud if n is convs[1] else n for n in graph.nodes))
    seen = calibrate(graph, samples(graph))
    assert scale_branches(graph, seen, parse_format("int8"), parse_format("int8"))[0] is graph
    run_recipe(graph, samples(graph), RECIPES["fast"], weight_format="int8", activation_format="int8")
    assert "they share a scale" in caplog.text


def test_a_fixed_branch_sets_the_range():
    """The network's output cannot be scaled: the others come to it, though they are larger."""
    b = Builder(5)
    x = b.input(4, 4, 3)
    shown, other = b.clip(b.conv(x, 4)), b.clip(b.conv(x, 4))
    graph = b.graph(shown, b.conv(b.concat(shown, other), 4))
    convs = [n for n in graph.nodes if isinstance(n, Conv)]
    weight = convs[2].weight.copy()
    weight[..., 4:] /= 1024
    changed = {convs[1].name: replace(convs[1], weight=convs[1].weight * 1024),
               convs[2].name: replace(convs[2], weight=weight)}  # fmt: skip
    graph = replace(graph, nodes=tuple(changed.get(n.name, n) for n in graph.nodes))
    seen = calibrate(graph, samples(graph))
    _, factors = scale_branches(graph, seen, parse_format("int8"), parse_format("int8"))
    assert set(factors) == {other} and factors[other] < 1 / 128
    assert decibels(graph, "int8", "int8") > 30
