"""Reconstruction: never worse than its start by its own objective, on the grid, and what the integers then do."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import replace

import numpy as np
import pytest
from networks import Builder, everything, lenet, residual, run_slowly
from recipe_runs import run_recipe

from sateen.compiler.ptq.always import Rounding
from sateen.compiler.ptq.blocks import split_blocks
from sateen.compiler.ptq.gptq import Gptq
from sateen.compiler.ptq.passes import Context, run_passes
from sateen.compiler.ptq.recipe import RECIPES, Recipe
from sateen.compiler.ptq.reconstruct import Reconstruct
from sateen.compiler.ptq.state import State
from sateen.compiler.quantize.activations import plan_activations, rescaled
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.quantize.network import quantize
from sateen.compiler.quantize.options import Options
from sateen.compiler.quantize.scales import grid
from sateen.errors import ConfigError
from sateen.formats import parse_format
from sateen.formats.sparsity import parse_sparsity
from sateen.ir.nodes import Activation, Conv
from sateen.ir.quantized import Linear
from sateen.sim.reference import reference_codes, run_reference

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra learn")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path))
    return tmp_path / "reconstruct"


def planned(graph, x, activations="int4"):
    statistics, fmt = calibrate(graph, x), parse_format(activations)
    return statistics, plan_activations(fuse(graph), statistics, Options(fmt, fmt))


def convs(graph):
    return [n for n in graph.nodes if isinstance(n, Conv)]


def fast(**options):
    return Reconstruct(**({"iterations": 60, "batch": 16, "rate": 0.005} | options))


def learn(graph, x, weights, activations, options, progress=None):
    """The state and the context of reconstruction alone."""
    context = Context(x, Options(parse_format(weights), parse_format(activations)))
    context = replace(context, progress=progress) if progress else context
    state = State(fuse(graph), *planned(graph, x, activations))
    return run_passes(state, [options], context), context


def apply(graph, x, weights, activations, options):
    state, context = learn(graph, x, weights, activations, options)
    scales = {name: f.scale for name, f in state.fitted.items()}
    (said,) = state.said["reconstruct"]
    return state.rounded.graph, scales, state.plan, said, Rounding().run(state, context).quantized


# -- blocks ------------------------------------------------------------------------------------------------


def names(blocks):
    return [[n.name for n in b.nodes] for b in blocks]


def test_blocks_end_where_the_network_is_one_tensor():
    graph, _ = residual()
    blocks, by_layer = split_blocks(fuse(graph), "block", lambda node: True)
    assert names(blocks) == [
        ["conv0", "clip1"],
        ["conv2", "conv3", "add4", "clip5"],
        ["average_pool6", "conv7"],
    ]
    assert [(b.inputs, b.outputs) for b in blocks] == [
        (("x",), ("clip1",)),
        (("clip1",), ("clip5",)),
        (("clip5",), ("conv7",)),
    ]
    assert blocks[1].name == "conv2 to conv3" and not by_layer
    layers, _ = split_blocks(fuse(graph), "layer", lambda node: True)
    assert [[c.name for c in b.convs] for b in layers] == [["conv0"], ["conv2"], ["conv3"], ["conv7"]] or [
        [c.name for c in b.convs] for b in layers
    ] == [["conv0"], ["conv3"], ["conv2"], ["conv7"]]
    whole, _ = split_blocks(fuse(graph), "network", lambda node: True)
    assert len(whole) == 1 and len(whole[0].nodes) == len(graph.nodes)


def test_a_function_without_gradient_parts_its_block():
    b = Builder()
    a = b.function(b.conv(b.input(6, 6, 3), 4), "floor")
    c = b.clip(b.conv(a, 4))
    graph = b.graph(b.conv(b.clip(b.add(a, c)), 4))

    def smooth(node):
        return not (isinstance(node, Activation) and node.function == "floor")

    blocks, by_layer = split_blocks(fuse(graph), "block", smooth)
    assert names(blocks)[:2] == [["conv0"], ["floor1"]] and not by_layer
    blocks, by_layer = split_blocks(fuse(graph), "network", smooth)
    assert by_layer == ["conv0 to conv6"]
    assert names(blocks) == [["conv0"], ["floor1"], ["conv2", "clip3"], ["add4", "clip5"], ["conv6"]]
    assert [n for part in names(blocks) for n in part] == [n.name for n in graph.nodes]


# -- learning ----------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("network", [residual, everything])
@pytest.mark.parametrize("rounding", ["flexround", "adaround"])
@pytest.mark.parametrize("formats", [("int3", "int4"), ("e2m1", "e2m1")])
def test_the_error_falls_and_the_weights_lie_on_the_grid(network, rounding, formats):
    graph, b = network()
    x = b.samples(64)
    new, scales, _, said, _ = apply(graph, x, *formats, fast(rounding=rounding))
    left = [e["left"] for e in said["blocks"]]
    assert len(left) >= 3 and max(left) <= 1 and min(left) < 0.95
    values = grid(parse_format(formats[0]))
    for conv in convs(new):
        codes = conv.weight / scales[conv.name][:, None, None, None]
        assert np.abs(codes[..., None] - values).min(axis=-1).max() < 1e-9


@needs_torch
def test_the_integers_are_nearer_to_the_float_network():
    graph, b = residual()
    x = b.samples(96)
    out = graph.outputs[0]
    real = out.present(run_slowly(graph, x)[out.tensor])
    formats = {"weight_format": "int3", "activation_format": "int4"}
    recipes = (RECIPES["fast"], Recipe("learned", (fast(), fast(unit="network", iterations=200))))
    plain, learned = (
        np.mean((run_reference(run_recipe(graph, x, r, **formats)[0], x)["out"] - real) ** 2) for r in recipes
    )
    assert learned < 0.8 * plain


@needs_torch
@pytest.mark.parametrize("loss", ["mse", "prediction"])
@pytest.mark.parametrize("unit", ["layer", "block", "network"])
def test_units_and_losses(unit, loss):
    graph, b = lenet()
    _, _, _, said, _ = apply(graph, b.samples(48), "int3", "int4", fast(unit=unit, loss=loss))
    assert len(said["blocks"]) == (1 if unit == "network" else 3)
    assert min(e["left"] for e in said["blocks"]) < 1
    assert not said["by_layer"]


@needs_torch
def test_what_cannot_get_better_stays():
    graph, b = residual()
    x = b.samples(16)
    statistics, plan = planned(graph, x, "int8")
    rounded = quantize(graph, statistics, weight_format="int8", activation_format="int8", plan=plan)
    new, scales, kept, said, _ = apply(graph, x, "int8", "int8", fast(iterations=2, rate=1e3, scale_rate=1e3))
    assert all(e["left"] == 1 for e in said["blocks"]) and kept == plan
    ops = [op for op in rounded.ops if isinstance(op, Linear) and op.macs is None]
    for conv, op in zip(convs(new), ops, strict=True):
        used = op.weight.format.decode(op.weight.codes) * scales[conv.name][:, None, None, None]
        np.testing.assert_array_equal(used, conv.weight)


@needs_torch
def test_zeros_stay():
    b = Builder()
    graph = b.graph(b.conv(b.clip(b.conv(b.input(6, 6, 4), 8)), 4))
    first, last = convs(graph)
    last.weight[..., 1::2] = 0
    first.weight[3] = 0
    first.bias[3] = 0
    object.__setattr__(last, "sparsity", parse_sparsity("1:2"))
    for rounding in ("flexround", "adaround"):
        new, _, _, _, qgraph = apply(graph, b.samples(32), "e2m1", "int6", fast(rounding=rounding))
        found = convs(new)
        assert not found[1].weight[..., 1::2].any() and found[1].weight[..., ::2].any()
        assert not found[0].weight[3].any()
        assert qgraph.ops[-1].weight.sparsity == parse_sparsity("1:2")


@needs_torch
@pytest.mark.parametrize("network", [residual, everything])
@pytest.mark.parametrize("formats", [("int4", "int4"), ("e2m1", "e3m2")])
def test_the_simulation_foretells_the_integers(network, formats):
    """But near ties, of which average pooling makes many, and where scales that meet in an Add have moved by 2**-10."""
    from sateen.compiler.ptq.torch_graph import channels_second
    from sateen.compiler.ptq.torch_rounding import nearest
    from sateen.compiler.ptq.torch_simulate import constants, fixed_rules, folded_zeros, run

    graph, b = network()
    x = b.samples(64)
    new, scales, plan, _, qgraph = apply(graph, x, *formats, fast())
    codes = reference_codes(qgraph, x)
    weights = {
        c.name: nearest(c.weight, scales[c.name], c.bias, parse_format(formats[0])) for c in convs(new)
    }
    inputs = {p.name: channels_second(plan.rounded(p.name, p.to_hwc(x[p.name]))) for p in graph.inputs}
    written = {n.output for n in graph.nodes}
    raw = {op.output for op in qgraph.ops if isinstance(op, Linear) and op.raw}
    rules = fixed_rules(plan.quants, [t for t in plan.quants if t not in raw])
    assert all(t in written or t in inputs for t in rules)
    found = run(
        graph.nodes, inputs, constants(weights, parse_format(formats[0]), folded_zeros(fuse(graph))), rules
    )
    for op in qgraph.ops:
        y = found[op.output].numpy().transpose(0, 2, 3, 1)
        if op.output in raw:
            near = np.isclose(codes[op.output] * op.raw_scale, y, atol=0.02 * y.std())
            assert near.mean() > 0.9
            continue
        quant = qgraph.tensors[op.output].quant
        same = np.isclose(quant.dequantize(codes[op.output]), y, atol=1e-3 * quant.scale)
        assert same.mean() > (0.9 if network is everything else 0.99), op.output


# -- what goes on, and what is refused ---------------------------------------------------------------------


@needs_torch
def test_learned_scales_reach_the_integers():
    graph, b = residual()
    x = b.samples(48)
    _, before = planned(graph, x)
    _, scales, plan, _, qgraph = apply(graph, x, "int4", "int4", fast(scale_rate=0.01))
    moved = [t for t in plan.quants if abs(plan.quants[t].scale / before.quants[t].scale - 1) > 1e-2]
    assert moved
    for name, tensor in qgraph.tensors.items():
        assert tensor.quant == plan.quants[name]
    for op in qgraph.ops:
        if op.name in scales:
            np.testing.assert_allclose(op.weight.scale, scales[op.name], rtol=1e-3)
    again = rescaled(fuse(graph), plan, {t: q.scale for t, q in plan.quants.items()})
    for t, q in again.quants.items():
        assert q.scale == pytest.approx(plan.quants[t].scale, rel=2**-10)


@needs_torch
def test_the_recipe_says_what_was_done_and_is_deterministic(cache):
    graph, b = residual()
    recipe = Recipe(
        "mine",
        (Gptq(), fast(iterations=20), fast(iterations=20, unit="network", loss="prediction", seed=3)),
        input_terms=0,
    )
    done = []
    formats = {"weight_format": "e2m1", "activation_format": "e2m1"}
    one, record = run_recipe(
        graph, b.samples(16), recipe, **formats, progress=lambda i, n: done.append(i / n)
    )
    assert done == sorted(done) and done[-1] == 1
    assert [p["name"] for p in record["passes"]] == ["gptq", "reconstruct", "reconstruct"]
    assert record["passes"][2]["seed"] == 3 and record["passes"][2]["threads"] == 1
    assert [len(r["blocks"]) for r in record["reconstruct"]] == [3, 1]
    assert len(list(cache.glob("*.npz"))) == 4
    next(cache.glob("*-1.npz")).write_bytes(b"damaged")
    for path in cache.glob("*-0.npz"):
        path.unlink()
    two, _ = run_recipe(graph, b.samples(16), recipe, **formats)
    for p, q in zip(one.ops, two.ops, strict=True):
        assert p.weight.codes.tobytes() == q.weight.codes.tobytes() and (p.bias == q.bias).all()
    assert one.tensors == two.tensors


@needs_torch
def test_an_interrupted_run_goes_on(cache):
    graph, b = residual()
    x = b.samples(16)

    def interrupt(i, n):
        if i > n / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(graph, x, "int4", "int4", fast(), interrupt)
    kept = {p: p.stat().st_mtime_ns for p in cache.glob("*.npz")}
    assert len(kept) == 1
    resumed = apply(graph, x, "int4", "int4", fast())
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items()) and len(list(cache.glob("*.npz"))) == 3
    for path in cache.glob("*.npz"):
        path.unlink()
    fresh = apply(graph, x, "int4", "int4", fast())
    for p, q in zip(convs(resumed[0]), convs(fresh[0]), strict=True):
        np.testing.assert_array_equal(p.weight, q.weight)
    assert resumed[2:4] == fresh[2:4]


@needs_torch
def test_powers_of_two_stay_powers_of_two():
    graph, b = residual()
    recipe = Recipe("mine", (fast(iterations=10),), power_of_two=True)
    qgraph, record = run_recipe(graph, b.samples(16), recipe, weight_format="int4", activation_format="int4")
    assert all(np.log2(t.quant.scale) % 1 == 0 for t in qgraph.tensors.values())
    assert not record["reconstruct"][0]["scales"]


@needs_torch
def test_layers_where_no_gradient_passes(caplog):
    b = Builder()
    y = b.function(b.conv(b.input(6, 6, 3), 4), "sign")
    graph = b.graph(b.conv(b.clip(b.conv(y, 4)), 4))
    with caplog.at_level(logging.WARNING, "sateen"):
        _, _, _, said, _ = apply(graph, b.samples(32), "int4", "int4", fast(unit="network", iterations=20))
    assert said["by_layer"] == ["conv0 to conv4"] and len(said["blocks"]) == 3
    assert "no gradient through all of conv0 to conv4; learned by layers" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "stage"}, r"unit = 'stage'; it must be layer, block, network"),
        ({"rounding": "up"}, r"rounding = 'up'; it must be flexround, adaround"),
        ({"loss": "kl"}, r"loss = 'kl'; it must be mse, prediction"),
        ({"drop": 1.0}, r"drop = 1.0; it must be at least 0 and below 1"),
        ({"iterations": 0}, r"iterations = 0; it must be positive"),
        ({"rate": float("nan")}, r"rate = nan; it must be positive"),
        ({"seed": -1}, r"seed = -1; it must not be negative"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ConfigError, match="reconstruct: " + message):
        Reconstruct(**options)


def test_without_torch(monkeypatch):
    graph, b = residual()
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "torch" else real(n, *a))
    with pytest.raises(ConfigError, match=r"needs PyTorch.*pip install 'sateen\[learn\]'.*--ptq best"):
        run_recipe(graph, b.samples(16), RECIPES["learned"], weight_format="int4", activation_format="int4")
