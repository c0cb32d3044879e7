"""GPTQ and AdaRound: never worse than rounding to nearest on their own objective, and right on small matrices."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from networks import Builder, everything, residual, run_slowly

from sateen.compiler.ptq.adaround import AdaRound, learn_rounding, neighbours
from sateen.compiler.ptq.always import Rounding
from sateen.compiler.ptq.gptq import Gptq, descend, round_layer
from sateen.compiler.ptq.layer_passes import together
from sateen.compiler.ptq.layerwise import Moments, moments, output_error
from sateen.compiler.ptq.passes import Context
from sateen.compiler.ptq.state import State
from sateen.compiler.quantize.activations import plan_activations
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.quantize.options import Options
from sateen.compiler.quantize.scales import grid, weight_scales
from sateen.errors import ConfigError, DataError, FormatError, ModelError
from sateen.formats import parse_format
from sateen.formats.sparsity import parse_sparsity
from sateen.ir.nodes import Conv
from sateen.ir.quantized import Linear
from sateen.sim.reference import run_reference

FORMATS = ["int4", "int2n", "e2m1", "e3m2", "e3m0", "uint3"]


def layer(fmt, o=6, k=10, seed=0, noise=0.1):
    """Weights, correlated moments without shift, and scales."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (500, k)) @ rng.normal(0, 1, (k, k)) + rng.normal(0, 1, k)
    noisy = x + rng.normal(0, noise, x.shape)
    weight = rng.normal(0, 1, (o, k))
    weight = np.abs(weight) if fmt.min_fixed == 0 else weight
    m, n = noisy.mean(axis=0), x.mean(axis=0)
    seen = Moments(500, m, n, (noisy - m).T @ (noisy - m) / 500, (noisy - m).T @ (x - n) / 500)
    return weight, seen, weight_scales(weight, fmt), x, noisy


def nearest(weight, fmt, scale):
    return fmt.decode(fmt.encode(weight / scale[:, None])) * scale[:, None]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("sweeps", [0, 8])
def test_no_row_is_worse_than_rounded_to_nearest(name, order, sweeps):
    fmt = parse_format(name)
    weight, seen, scale, *_ = layer(fmt)
    options = Gptq(order=order, sweeps=sweeps, refit=False)
    h = seen.damped(options.damping)
    found = round_layer(weight, seen, fmt, scale, options)
    assert np.isin(np.round(found / scale[:, None], 9), np.round(grid(fmt), 9)).all()
    error, plain = output_error(found, weight, h), output_error(nearest(weight, fmt, scale), weight, h)
    assert (error <= plain * (1 + 1e-12)).all()
    if name != "uint3":
        assert error.sum() < 0.95 * plain.sum()


@pytest.mark.parametrize("name", ["int3", "e2m1"])
def test_against_every_rounding_of_a_small_layer(name):
    """All neighbours of three columns: the best of them is found, or one almost as good."""
    fmt = parse_format(name)
    ratios = []
    for seed in range(20):
        weight, seen, scale, *_ = layer(fmt, o=1, k=3, seed=seed)
        h = seen.damped(0.01)
        best = min(
            output_error(np.array([choice]) * scale[:, None], weight, h)[0]
            for choice in itertools.product(grid(fmt), repeat=3)
        )
        found = round_layer(weight, seen, fmt, scale, Gptq(refit=False))
        ratios.append(output_error(found, weight, h)[0] / best)
        start = nearest(weight, fmt, scale)
        assert output_error(
            descend(start, weight, h, lambda v, j, scale=scale: nearest(v[:, None], fmt, scale)[:, 0], 9),
            weight,
            h,
        ) <= output_error(start, weight, h)
    assert min(ratios) >= 1 - 1e-9
    assert np.median(ratios) < 1.05


def test_refitting_lowers_the_error_against_the_float_output():
    """Where the inputs' errors are larger than those of the weights' rounding."""
    fmt = parse_format("int8")
    weight, seen, scale, x, noisy = layer(fmt, noise=1.0)

    def error(found):
        return np.var(x @ weight.T - noisy @ found.T, axis=0).sum()

    fitted, given = (round_layer(weight, seen, fmt, scale, Gptq(refit=r)) for r in (True, False))
    assert error(fitted) < 0.9 * error(given)


def test_weights_are_not_fitted_to_fewer_rows_than_columns():
    weight, seen, *_ = layer(parse_format("int8"), noise=1.0)
    assert not np.allclose(replace(seen, rows=10).refit(weight, 0.01), weight)
    assert replace(seen, rows=9).refit(weight, 0.01) is weight


@pytest.mark.parametrize("name", FORMATS)
def test_adaround_betters_rounding_to_nearest(name):
    fmt = parse_format(name)
    weight, seen, scale, *_ = layer(fmt, k=16)
    target, h = seen.refit(weight, 0.01), seen.damped(0.01)
    start = nearest(target, fmt, scale)
    found = learn_rounding(start, weight, seen, fmt, scale, AdaRound(), 0.01)
    assert np.isin(np.round(found / scale[:, None], 9), np.round(grid(fmt), 9)).all()
    assert (output_error(found, target, h) <= output_error(start, target, h)).all()
    if name != "uint3":
        assert output_error(found, target, h).sum() < 0.95 * output_error(start, target, h).sum()


def test_neighbours_of_a_minifloat_are_a_step_of_the_binade_apart():
    fmt = parse_format("e2m1")
    low, high = neighbours(np.array([[0.2, 2.5, 3.0, -4.7, 99.0, -99.0]]), fmt, np.ones(1))
    assert low.tolist() == [[0, 2, 3, -6, 6, -6]]
    assert high.tolist() == [[0.5, 3, 4, -4, 6, -6]]


def test_moments_are_those_of_the_columns():
    rng = np.random.default_rng(0)
    conv = Conv("c", "x", "y", rng.normal(0, 1, (4, 2, 2, 3)), np.zeros(4))
    x, y = rng.normal(1, 1, (5, 4, 4, 3)), rng.normal(2, 1, (5, 4, 4, 3))
    found = moments(conv, x, y)
    at = [(i, j) for i in range(3) for j in range(3)]
    a, b = (np.concatenate([v[:, i : i + 2, j : j + 2].reshape(5, -1) for i, j in at]) for v in (x, y))
    np.testing.assert_allclose(found.mean, a.mean(axis=0))
    np.testing.assert_allclose(found.float_mean, b.mean(axis=0))
    np.testing.assert_allclose(found.square, np.cov(a.T, bias=True), atol=1e-9)
    np.testing.assert_allclose(found.cross, (a - a.mean(0)).T @ (b - b.mean(0)) / len(a), atol=1e-9)


def apply(graph, x, weights, activations, options=None, learned=None):
    statistics = calibrate(graph, x)
    settings = Options(parse_format(weights), parse_format(activations))
    network = fuse(graph)
    state = State(network, statistics, plan_activations(network, statistics, settings))
    (rounding,) = together([options or Gptq(), *([learned] if learned else [])])
    found = rounding.run(state, Context(x, settings))
    found.verify(settings)
    plain, better = (Rounding().run(s, Context(x, settings)).quantized for s in (state, found))
    return plain, better, found.rounded.graph


@pytest.mark.parametrize("network", [residual, everything])
@pytest.mark.parametrize("formats", [("int3", "int8"), ("e2m1", "e3m2")])
def test_the_integers_come_nearer_to_the_float_network(network, formats):
    graph, b = network()
    x = b.samples(96)
    plain, better, new = apply(graph, x, *formats)
    real = run_slowly(graph, x)
    errors = []
    for qgraph in (plain, better):
        found = run_reference(qgraph, x)
        errors.append(
            sum(np.sum((found[o.port.name] - o.present(real[o.tensor])) ** 2) for o in graph.outputs)
        )
    assert errors[1] < 0.9 * errors[0]
    for node, op in zip(
        [n for n in new.nodes if isinstance(n, Conv)],
        [o for o in better.ops if isinstance(o, Linear) and o.macs is None],
        strict=True,
    ):
        used = op.weight.format.decode(op.weight.codes) * op.weight.scale[:, None, None, None]
        np.testing.assert_allclose(used, node.weight, rtol=1e-3, atol=1e-9)  # nothing is rounded twice


def test_sparse_layers_stay_sparse_and_dead_channels_zero():
    b = Builder()
    graph = b.graph(b.conv(b.clip(b.conv(b.input(6, 6, 4), 8)), 4))
    first, last = (n for n in graph.nodes if isinstance(n, Conv))
    last.weight[..., 1::2] = 0
    first.weight[3] = 0
    first.bias[3] = 0
    object.__setattr__(last, "sparsity", parse_sparsity("1:2"))
    _, _, new = apply(graph, b.samples(32), "int4", "int8", learned=AdaRound(50))
    found = [n for n in new.nodes if isinstance(n, Conv)]
    assert not found[1].weight[..., 1::2].any() and found[1].weight[..., ::2].any()
    assert not found[0].weight[3].any()


def test_constant_inputs_are_rounded_to_nearest():
    b = Builder()
    graph = b.graph(b.conv(b.input(3, 3, 2), 4, 1))
    x = {"x": np.ones((16, 2, 3, 3), np.float32)}
    _, found, _ = apply(graph, x, "int4", "int8")
    real = run_slowly(graph, x)[graph.outputs[0].tensor]
    out = graph.outputs[0].present(real)
    assert np.abs(run_reference(found, x)["out"] - out).max() < 0.02 * np.abs(out).max()


def test_refusals():
    b = Builder()
    graph = b.graph(b.conv(b.input(3, 3, 2), 4, 1))
    x = b.samples(16)
    with pytest.raises(FormatError, match=r"Conv 'conv0': its least weight .* uint4 has no negative values"):
        apply(graph, x, "uint4", "int8")
    with pytest.raises(DataError, match="holds NaN or infinity"):
        apply(graph, {"x": np.full_like(x["x"], np.nan)}, "int4", "int8")
    graph.nodes[0].weight[0] = np.inf
    statistics = calibrate(
        Builder.graph(b, "conv0"),
        x,
        run=lambda *_: {"x": np.ones((1, 3, 3, 2)), "conv0": np.ones((1, 3, 3, 4))},
    )
    int4 = Options(parse_format("int4"), parse_format("int8"))
    plan = plan_activations(fuse(graph), statistics, int4)
    with pytest.raises(ModelError, match="weights or bias hold NaN or infinity"):
        Gptq().run(State(fuse(graph), statistics, plan), Context(x, int4))
    with pytest.raises(ConfigError, match=r"gptq: damping = 0; it must be from 1e-06 to 1"):
        Gptq(damping=0)
    with pytest.raises(ConfigError, match=r"adaround: iterations = 0"):
        AdaRound(iterations=0)
