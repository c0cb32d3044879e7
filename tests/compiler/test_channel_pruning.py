"""Channels removed: which go together, what each costs by least squares, and the smaller network on all engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import Builder

import sateen
from sateen.compiler.float_executor import run_float
from sateen.compiler.prune.channels import Words, _fitted, _Reader, channel_sets, prune_channels
from sateen.compiler.ptq.hessian import columns
from sateen.errors import ConfigError, DataError, ModelError
from sateen.ir.nodes import Conv
from sateen.models.data import write_digits_npz

MODELS = Path(__file__).resolve().parents[2] / "models"
ONE = Words(1, 1)


def residual():
    """Joined by an Add, passed on by a depthwise layer and a pool, and read twice."""
    b = Builder(seed=4)
    x = b.clip(b.conv(b.input(8, 8, 3), 8))
    y = b.clip(b.conv(x, 6))
    z = b.clip(b.add(b.conv(y, 8), x))
    z = b.pool(b.clip(b.conv(z, 8, groups=8)), "max", 2)
    return b, b.graph(b.gemm(b.pool(b.conv(z, 5), "average", 4), 4))


def test_channels_that_an_add_or_a_depthwise_layer_joins_go_together():
    _, graph = residual()
    found = channel_sets(graph)
    assert [(s.channels, len(s.writers), len(s.readers), len(s.passing)) for s in found] == [
        (8, 2, 2, 1),
        (6, 1, 1, 0),
        (5, 1, 1, 0),
    ]


def test_channels_that_more_than_convolutions_read_stay():
    b = Builder(seed=1)
    x = b.input(4, 4, 2)
    joined = b.concat(b.conv(x, 4), b.conv(x, 4))
    grouped = b.conv(b.conv(joined, 8), 8, groups=2)
    graph = b.graph(b.conv(b.select(b.conv(grouped, 6), [1, 0, 2]), 3))
    assert channel_sets(graph) == []
    same, cuts = prune_channels(graph, 1.0, samples={}, words=ONE)
    assert same is graph and cuts == []
    with pytest.raises(ConfigError, match="no channel of the network can be removed"):
        prune_channels(graph, 0.5, samples=b.samples(), words=ONE)


def test_a_smaller_network_has_the_shapes_it_says():
    b, graph = residual()
    x = b.samples(32)
    small, cuts = prune_channels(graph, 0.5, samples=x, words=Words(2, 2))
    assert sum(c.before - c.after for c in cuts) > 0 and all(
        c.after % 2 == 0 or c.after == c.before for c in cuts
    )
    tensors = run_float(small, x)
    for name, (h, w, c) in small.shapes.items():
        assert tensors[name].shape == (32, h, w, c), name
    assert work(small, Words(2, 2)) <= 0.5 * work(graph, Words(2, 2))


def work(graph, words):
    convs = [n for n in graph.nodes if isinstance(n, Conv)]
    return sum(words.steps(graph, c, graph.shapes[c.input][2], graph.shapes[c.output][2]) for c in convs)


def test_channels_that_others_make_up_for_go_first_and_leave_the_outputs():
    b = Builder(seed=2)
    x = b.input(6, 6, 3)
    hidden = b.conv(x, 8)
    graph = b.graph(b.conv(b.clip(hidden), 4))
    first = next(n for n in graph.nodes if n.name == hidden)
    weight, bias = first.weight.copy(), first.bias.copy()
    weight[[1, 6]], bias[[1, 6]] = weight[[3, 4]] * [[[[2.0]]], [[[0.5]]]], bias[[3, 4]] * [2.0, 0.5]
    graph = replace(
        graph, nodes=tuple(replace(n, weight=weight, bias=bias) if n is first else n for n in graph.nodes)
    )
    samples = b.samples(32)
    small, (cut,) = prune_channels(graph, 0.8, samples=samples, words=ONE)
    assert (cut.before, cut.after) == (8, 6)
    output = graph.outputs[0].tensor
    before, after = run_float(graph, samples)[output], run_float(small, samples)[output]
    assert np.sqrt(np.mean((after - before) ** 2)) < 0.03 * before.std()
    further, _ = prune_channels(graph, 0.6, samples=samples, words=ONE)
    there = run_float(further, samples)[output]
    assert np.mean((there - before) ** 2) > 10 * np.mean(
        (after - before) ** 2
    )  # no other channel is made up for


def test_the_loss_of_a_channel_is_that_of_least_squares():
    rng = np.random.default_rng(5)
    x, weight = (
        rng.standard_normal((200, 3 * 4)) @ rng.standard_normal((12, 12)),
        rng.standard_normal((5, 12)),
    )
    reader = _Reader(weight.copy(), np.linalg.inv(x.T @ x), 4, 1.0)

    def least(gone):
        left = [j for j in range(12) if j % 4 not in gone]
        return sum(np.linalg.lstsq(x[:, left], x @ row, rcond=None)[1].sum() for row in weight)

    assert reader.losses([0, 2, 3]) == pytest.approx([least({c}) for c in (0, 2, 3)])
    first = reader.losses([2])[0]
    reader.remove(2)
    assert np.allclose(reader.values[:, [2, 6, 10]], 0, atol=1e-9)
    assert first + reader.losses([1])[0] == pytest.approx(least({1, 2}))


def test_weights_that_are_fitted_again_are_the_nearest():
    b = Builder(seed=6)
    graph = b.graph(b.conv(b.input(6, 6, 3), 4))
    conv = graph.nodes[0]
    rng = np.random.default_rng(7)
    x, target = rng.standard_normal((40, 6, 6, 3)), rng.standard_normal((40, 6, 6, 4))
    fitted = _fitted(conv, x, target)
    matrix = np.concatenate(list(columns(conv, x)))
    matrix = np.column_stack([matrix, np.ones(len(matrix))])
    y = target.reshape(-1, 4)

    def error(c):
        return np.sum((matrix @ np.column_stack([c.weight.reshape(4, -1), c.bias]).T - y) ** 2)

    best = np.sum((matrix @ np.linalg.lstsq(matrix, y, rcond=None)[0] - y) ** 2)
    assert best <= error(fitted) < best * 1.001 and error(conv) > 1.5 * best


@pytest.mark.parametrize("keep", [0, -1, 1.5, float("nan"), "half", True])
def test_a_part_that_is_none(keep):
    with pytest.raises(ConfigError, match="must be a number above 0 and at most 1"):
        prune_channels(residual()[1], keep, samples={}, words=ONE)


def test_what_is_refused():
    b, graph = residual()
    with pytest.raises(DataError, match="needs calibration samples"):
        prune_channels(graph, 0.5, samples={}, words=ONE)
    with pytest.raises(
        ConfigError, match=r"channels = 0\.01: the least that can be left of the work is 0\.\d+"
    ):
        prune_channels(graph, 0.01, samples=b.samples(), words=ONE)
    broken = replace(graph.nodes[0], weight=graph.nodes[0].weight * np.nan)
    with pytest.raises(ModelError, match="NaN or infinity"):
        prune_channels(replace(graph, nodes=(broken, *graph.nodes[1:])), 0.5, samples=b.samples(), words=ONE)


@pytest.mark.rtl
def test_a_network_with_fewer_channels_on_every_engine(tmp_path):
    calibration, test, _ = write_digits_npz(tmp_path)
    config = sateen.AcceleratorConfig(
        name="cut", rows=2, cols=2, lanes=1, group=1, act_banks=2, act_bank_depth=2048, weight_depth=512, acc_depth=64,
        vector_lanes=1, bus_bits=32, queue_depth=2, narrow=True,
    )  # fmt: skip
    model = MODELS / "digits_resnet.onnx"
    options = {"calibration": calibration, "config": config, "ptq": "fast"}
    whole = sateen.compile(model, tmp_path / "whole", **options)
    manifest = sateen.compile(model, tmp_path / "build", channels=0.4, **options)
    cut = manifest["ptq"]["channels"]
    assert cut["left"] == 0.4 and any(s["after"] < s["before"] for s in cut["sets"])
    assert manifest["cycles"] < 0.5 * whole["cycles"] and "channels" not in whole["ptq"]
    build = sateen.open(tmp_path / "build")
    with np.load(test) as found:
        images = {"input": found["input"][:2]}
    expected = build.run(images, "reference").outputs
    for engine in ("program", "rtl"):
        run = build.run(images, engine)
        assert all(np.array_equal(run.outputs[k], expected[k]) for k in expected), engine
    assert run.cycles == 2 * manifest["cycles"]
    smaller = sateen.load(model).without_channels(0.4, calibration=calibration, machine=config)
    quantized = smaller.quantize(calibration=calibration, ptq="fast")
    assert quantized.map(config).cycles == manifest["cycles"]
    assert all(np.array_equal(v, expected[k]) for k, v in quantized.run(images).items())


def test_patterns_come_on_top(tmp_path):
    calibration, _, _ = write_digits_npz(tmp_path)
    machine = sateen.preset("ulx3s-85f-sparse")
    network = sateen.load(MODELS / "digits_resnet.onnx")
    smaller = network.without_channels(0.8, calibration=calibration, machine=machine)
    sparse = smaller.quantize(calibration=calibration, sparsity="2:4").map(machine)
    assert sparse.cycles < smaller.quantize(calibration=calibration).map(machine).cycles
    assert sparse.cycles < network.quantize(calibration=calibration, sparsity="2:4").map(machine).cycles
