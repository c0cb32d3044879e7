"""Quantized networks: accuracy, the machine's constraints, bounds that are reached, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from networks import NETWORKS, Builder, everything, mlp, residual, run_slowly

from sateen.compiler.quantize.bounds import signed_bits
from sateen.compiler.quantize.calibrate import Statistics, TensorStatistics, calibrate
from sateen.compiler.quantize.network import accumulator_bits, quantize, residual_shifts_fit
from sateen.errors import DataError, FormatError, ModelError
from sateen.formats import parse_format
from sateen.ir.nodes import Activation
from sateen.ir.quantized import Concat, Linear, MaxPool
from sateen.sim.reference import reference_codes, run_reference


def quantized(graph, b, weights="int8", activations="int8", **options):
    statistics = calibrate(graph, b.samples(), run=run_slowly)
    return quantize(graph, statistics, weight_format=weights, activation_format=activations, **options)


def cosine(a, b) -> float:
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-30))


ACCURACY = [
    ("int8", "int8", {}, 0.999),
    ("int8", "int8", {"scale_method": "minmax"}, 0.999),
    ("int8", "int8", {"scale_method": "percentile"}, 0.999),
    ("int8", "int8", {"power_of_two": True}, 0.998),
    ("int8", "uint8", {}, 0.999),
    ("int6", "int6", {}, 0.98),
    ("e4m3fn", "e4m3fn", {}, 0.98),
    ("e3m2", "e3m2", {}, 0.96),
    ("e3m2", "int8", {}, 0.96),
    ("int4", "e2m3", {}, 0.95),
    ("e2m1", "e2m1", {}, 0.9),
]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("weights", "activations", "options", "least"), ACCURACY)
def test_accuracy_against_float(name, weights, activations, options, least):
    graph, b = NETWORKS[name]()
    qgraph = quantized(graph, b, weights, activations, **options)
    x = b.samples(8, seed=7)
    real, found = run_slowly(graph, x), run_reference(qgraph, x)
    for output in graph.outputs:
        expected = output.present(real[output.tensor])
        assert cosine(found[output.port.name], expected) >= least, output.port.name


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "formats", [("int8", "int8"), ("e5m2", "e5m2"), ("int2", "e4m3fn"), ("e2m1", "uint3")]
)
@pytest.mark.parametrize("power_of_two", [False, True])
def test_what_the_machine_needs(name, formats, power_of_two):
    graph, b = NETWORKS[name]()
    qgraph = quantized(graph, b, *formats, power_of_two=power_of_two)
    written = {p.name for p in qgraph.inputs}
    for op in qgraph.ops:
        assert set(op.inputs) <= written
        written.add(op.output)
        quants = [qgraph.tensors[t].quant for t in (*op.inputs, op.output)]
        if isinstance(op, Concat | MaxPool):
            assert len(set(quants)) == 1
            continue
        fmt = op.requantized.format
        assert op.weight.codes.dtype == np.uint8
        assert int(op.weight.codes.max()) < 1 << op.weight.format.bits
        assert ((op.multiplier >= 1) & (op.multiplier < 1 << 16)).all()
        assert ((op.shift >= 0) & (op.shift <= 127)).all()
        assert fmt.min_fixed <= op.low <= op.high <= fmt.max_fixed
        on_grid = fmt.fixed(fmt.from_fixed(np.array([op.low, op.high])))
        assert on_grid.tolist() == [op.low, op.high]
        if op.raw:
            assert not qgraph.consumers(op.output)
            assert op.table is None and op.residual is None
        if op.table is not None:
            assert op.table.shape == (1 << fmt.bits,)
        if power_of_two and op.macs is None:
            assert (op.multiplier & (op.multiplier - 1) == 0).all()
    assert set(qgraph.tensors) == written
    bits = accumulator_bits(qgraph)
    assert residual_shifts_fit(qgraph, bits)
    assert residual_shifts_fit(qgraph, bits + 20)


def test_multiplications_are_counted_once():
    graph, b = everything()
    counted = {op.name: op.macs for op in quantized(graph, b).ops if isinstance(op, Linear)}
    convolutions = {n.name for n in graph.nodes if hasattr(n, "weight")}
    assert {name for name, macs in counted.items() if macs is None} == convolutions
    assert {macs for name, macs in counted.items() if name not in convolutions} == {0}


# -- accumulators ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "activations"), [("int8", "int8"), ("e3m2", "uint4"), ("int4", "e5m2")])
def test_the_accumulator_bound_is_reached(weights, activations):
    graph, b = mlp()
    qgraph = quantized(graph, b, weights, activations)
    op = qgraph.ops[0]
    w = op.weight.fixed.reshape(len(op.weight.codes), -1).astype(object)
    fixed = qgraph.tensors["x"].quant.format.fixed(np.arange(1 << parse_format(activations).bits))
    least, most = int(fixed.min()), int(fixed.max())
    low = high = 0
    for row, bias in zip(w, op.bias, strict=True):
        up = sum(v * (most if v > 0 else least) for v in row)  # the input that drives this channel highest
        down = sum(v * (least if v > 0 else most) for v in row)
        low, high = min(low, down, down + int(bias)), max(high, up, up + int(bias))
    ranges = op.sums(qgraph.reach)
    assert min(r[0] for r in ranges) == min(low, *map(int, op.bias))
    assert max(r[1] for r in ranges) == max(high, *map(int, op.bias))
    assert accumulator_bits(qgraph) >= signed_bits(low, high)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_accumulator_exceeds_the_bound(name):
    graph, b = NETWORKS[name]()
    qgraph = quantized(graph, b)
    raw = [op for op in qgraph.ops if isinstance(op, Linear) and op.raw]
    x = {"x": b.samples(4)["x"] * 100}
    codes = reference_codes(qgraph, x)
    limit = 1 << accumulator_bits(qgraph) - 1
    for op in raw:
        assert np.abs(codes[op.output]).max() < limit


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-128, 127, 8), (-129, 0, 9), (0, 128, 9)]
)
def test_signed_bits(low, high, bits):
    assert signed_bits(low, high) == bits


def test_at_least_eight_bits():
    b = Builder()
    graph = b.graph(b.add(b.input(2, 2, 1), b.input(2, 2, 1, "y")))
    assert accumulator_bits(quantized(graph, b, "int2", "int2")) == 8


# -- single rules ------------------------------------------------------------------------------------------


def test_outputs_read_by_others_have_codes():
    b = Builder()
    y = b.conv(b.input(4, 4, 2), 3)
    z = b.conv(y, 3)
    qgraph = quantized(b.graph(y, z), b)
    assert [op.raw for op in qgraph.ops] == [False, True]


def test_dead_channels_do_not_widen_accumulators():
    graph, b = residual()
    before = accumulator_bits(quantized(graph, b))
    for node in graph.nodes:
        if hasattr(node, "weight"):
            node.weight[0] *= 1e-12  # as after batch norm with a vanished channel
            node.weight[1] = 0
            node.bias[1] = 0
    qgraph = quantized(graph, b)
    assert accumulator_bits(qgraph) <= before + 3
    assert residual_shifts_fit(qgraph, accumulator_bits(qgraph))
    x = b.samples(4, seed=9)
    real, found = run_slowly(graph, x), run_reference(qgraph, x)
    assert cosine(found["out"], graph.outputs[0].present(real[graph.outputs[0].tensor])) > 0.999


def test_clamps_are_at_the_bounds():
    b = Builder()
    graph = b.graph(b.clip(b.conv(b.input(4, 4, 2), 3), -0.5, 0.25))
    for activations in ("int8", "uint8", "e3m2"):
        out = run_reference(quantized(graph, b, "int8", activations), b.samples(8))["out"]
        np.testing.assert_allclose([out.min(), out.max()], [-0.5, 0.25], rtol=0.02)


def test_a_table_reads_what_is_worth_reading():
    """The sigmoid of a wide range: clipping its input costs nothing, resolution around zero counts."""
    b = Builder()
    y = b.conv(b.input(4, 4, 2), 3)
    graph = b.graph(b.function(y, "sigmoid"))
    graph.nodes[0].weight[:] *= 30
    x = b.samples(16)
    qgraph = quantized(graph, b, "int8", "int5")
    seen = np.abs(run_slowly(graph, x)[y]).max()
    assert qgraph.ops[0].requantized.scale * 16 < seen / 2


def test_a_constant_input_is_no_obstacle():
    b = Builder()
    graph = b.graph(b.clip(b.conv(b.input(4, 4, 2), 3)))
    x = {"x": np.zeros((3, 2, 4, 4), np.float32)}
    statistics = calibrate(graph, x, run=run_slowly)
    qgraph = quantize(graph, statistics, weight_format="int8", activation_format="int8")
    assert np.isfinite(run_reference(qgraph, x)["out"]).all()


def test_is_deterministic():
    graph, b = everything()
    one, two = quantized(graph, b), quantized(graph, b)
    for p, q in zip(one.ops, two.ops, strict=True):
        if isinstance(p, Linear):
            assert p.weight.codes.tobytes() == q.weight.codes.tobytes()
            assert (p.bias == q.bias).all() and (p.multiplier == q.multiplier).all()
    assert one.tensors == two.tensors


# -- refusals ----------------------------------------------------------------------------------------------


def test_unsigned_weights_cannot_be_negative():
    graph, b = mlp()
    with pytest.raises(
        FormatError, match=r"Conv 'conv0': its least weight is -.*uint8 has no negative values"
    ):
        quantized(graph, b, "uint8")


def test_a_weight_format_without_a_positive_value():
    graph, b = everything()
    with pytest.raises(FormatError, match="Add or activation 'add4': int1 has no positive value"):
        quantized(graph, b, "int1")


def test_weights_that_are_not_finite():
    graph, b = mlp()
    statistics = calibrate(graph, b.samples(), run=run_slowly)
    graph.nodes[0].weight[0, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="Conv 'conv0': weights or bias hold NaN"):
        quantize(graph, statistics, weight_format="int8", activation_format="int8")


def test_statistics_of_another_network():
    graph, _ = mlp()
    with pytest.raises(DataError, match="calibration has no tensor 'x'"):
        quantize(graph, Statistics({}, 0), weight_format="int8", activation_format="int8")


def test_unknown_names():
    graph, b = mlp()
    with pytest.raises(FormatError, match="unknown format 'int99'"):
        quantized(graph, b, "int99")
    with pytest.raises(DataError, match="scale method 'best' is unknown"):
        quantized(graph, b, scale_method="best")


def test_samples_that_do_not_excite_the_network():
    b = Builder()
    y = b.function(b.conv(b.input(2, 2, 1), 1, 1), "tanh")
    graph = b.graph(y)
    assert isinstance(graph.nodes[1], Activation)
    statistics = calibrate(graph, b.samples(), run=run_slowly)
    tiny = {
        k: TensorStatistics(v.minimum * 1e-12, v.maximum * 1e-12, v.values * 1e-12) if k == "conv0" else v
        for k, v in statistics.tensors.items()
    }
    with pytest.raises(DataError, match=r"'conv0': one step of the sum is .* steps of the output"):
        quantize(graph, Statistics(tiny, 1), weight_format="int8", activation_format="int8")


def test_the_bias_makes_up_for_coarse_weights():
    b = Builder()
    graph = b.graph(b.conv(b.clip(b.conv(b.input(6, 6, 8), 16)), 8, pad=0))
    x = b.samples(64)
    statistics = calibrate(graph, x, run=run_slowly)
    assert statistics.tensors["x"].mean.shape == (8,)
    qgraph = quantize(graph, statistics, weight_format="int2n", activation_format="int8")
    real, found = run_slowly(graph, x)[graph.outputs[0].tensor], reference_codes(qgraph, x)
    op = qgraph.ops[-1]
    values = qgraph.tensors[op.input].quant.dequantize(found[op.input])
    weight = op.weight.format.decode(op.weight.codes) * op.weight.scale[:, None, None, None]
    change = (values.mean(axis=(0, 1, 2)) * (weight - graph.nodes[-1].weight)).sum(axis=(1, 2, 3))
    error = (found[op.output] * op.raw_scale - real).mean(axis=(0, 1, 2))
    assert np.abs(error).max() < 0.5 * np.abs(change).max()
