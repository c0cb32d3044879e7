"""Equalization: the float function unchanged, ranges alike, and what cannot be rescaled left alone."""

from __future__ import annotations

import numpy as np
import pytest
from networks import NETWORKS, Builder, residual, run_slowly

from sateen.compiler.ptq.channels import channel_sets, read_range, rescale, written_range
from sateen.compiler.ptq.equalize import LARGEST_FACTOR, Equalize, equalize
from sateen.compiler.ptq.smooth import Smooth, smooth
from sateen.compiler.quantize.calibrate import Statistics, calibrate
from sateen.compiler.quantize.network import quantize
from sateen.errors import ConfigError, DataError
from sateen.ir.nodes import Conv
from sateen.sim.reference import run_reference


def chain(spread=3.0):
    """conv, Relu, depthwise conv, leaky Relu, max pool, grouped conv; the first with unequal channels."""
    b = Builder()
    y = b.clip(b.conv(b.input(8, 8, 3), 8))
    y = b.function(b.conv(y, 8, groups=8), "leaky_relu", alpha=0.1)
    y = b.conv(b.pool(y, "max", 2), 4, groups=2)
    graph = b.graph(y)
    graph.nodes[0].weight[:] *= np.exp2(b.rng.normal(0, spread, 8))[:, None, None, None]
    return graph, b


CASES = NETWORKS | {"chain": chain}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", ["equalize", "smooth"])
def test_the_float_function_is_unchanged(name, method):
    graph, b = CASES[name]()
    x = b.samples(6)
    new = equalize(graph) if method == "equalize" else smooth(graph, calibrate(graph, x, run=run_slowly))
    before, after = run_slowly(graph, x), run_slowly(new, x)
    for output in graph.outputs:
        wanted = before[output.tensor]
        np.testing.assert_allclose(after[output.tensor], wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


def test_any_factors_leave_the_function_as_it_is():
    for name in ("chain", "residual"):
        graph, b = CASES[name]()
        x = b.samples(3)
        wanted = run_slowly(graph, x)[graph.outputs[0].tensor]
        assert channel_sets(graph)
        for found in channel_sets(graph):
            graph = rescale(graph, found, np.random.default_rng(0).uniform(0.1, 10, found.channels))
        np.testing.assert_allclose(run_slowly(graph, x)[graph.outputs[0].tensor], wanted, atol=1e-9)


def test_a_residual_is_rescaled_with_its_branches():
    graph, _ = residual()
    sets = channel_sets(graph)
    assert [(len(s.writers), len(s.readers), s.channels) for s in sets] == [(1, 2, 8), (2, 1, 12)]


def test_ranges_become_equal():
    graph, _ = chain()
    new = equalize(graph)
    for found in channel_sets(new):
        written, read = written_range(new, found), read_range(new, found)
        before = np.log2(written_range(graph, found) / read_range(graph, found))
        assert np.abs(np.log2(written / read)).max() < 0.05 < np.abs(before).max()


def test_what_is_not_homogeneous_is_left_alone():
    b = Builder()
    y = b.clip(b.conv(b.input(4, 4, 2), 4), 0, 6)  # ReLU6
    y = b.function(b.conv(y, 4), "sigmoid")
    y = b.concat(b.conv(y, 4), y)
    graph = b.graph(b.conv(y, 3))
    assert channel_sets(graph) == []


def test_dead_channels_are_left_alone():
    graph, b = chain()
    graph.nodes[0].weight[2] = 0
    graph.nodes[0].bias[2] = 0
    graph.nodes[2].weight[5] = 0
    x = b.samples(8)
    for new in (equalize(graph), smooth(graph, calibrate(graph, x, run=run_slowly))):
        for node in new.nodes:
            assert not isinstance(node, Conv) or np.isfinite(node.weight).all()
        found = run_slowly(new, x)[graph.outputs[0].tensor]
        np.testing.assert_allclose(found, run_slowly(graph, x)[graph.outputs[0].tensor], atol=1e-6)
    assert LARGEST_FACTOR > 1


@pytest.mark.parametrize("method", ["equalize", "smooth"])
def test_unequal_channels_quantize_better(method):
    graph, b = chain()
    x = b.samples(64)
    statistics = calibrate(graph, x, run=run_slowly)
    new = equalize(graph) if method == "equalize" else smooth(graph, statistics, Smooth(0.7))
    real = run_slowly(graph, x)[graph.outputs[0].tensor]
    errors = []
    for g in (graph, new):
        qgraph = quantize(g, calibrate(g, x, run=run_slowly), weight_format="int8", activation_format="int5")
        errors.append(np.mean((run_reference(qgraph, x)["out"] - graph.outputs[0].present(real)) ** 2))
    assert errors[1] < 0.8 * errors[0]


def test_refusals():
    graph, _ = chain()
    with pytest.raises(DataError, match="calibration has no tensor 'conv0'"):
        smooth(graph, Statistics({}, 0))
    with pytest.raises(ConfigError, match=r"smooth: alpha = 1.5; it must be 0 to 1"):
        Smooth(1.5)
    with pytest.raises(ConfigError, match=r"equalize: iterations = 0"):
        Equalize(0)
