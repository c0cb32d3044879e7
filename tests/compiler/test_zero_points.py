"""Zero points of minifloats and inputs of several terms: precision gained, and the machine's integers unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from networks import NETWORKS, Builder, run_slowly

from sateen.compiler.export.compare import compare_with_onnxruntime
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.input_terms import split_input
from sateen.compiler.quantize.network import accumulator_bits, quantize, residual_shifts_fit
from sateen.compiler.quantize.scales import Observed, activation_quant
from sateen.compiler.schedule.backend import generate
from sateen.errors import DataError
from sateen.formats import parse_format
from sateen.ir.quantized import Linear, Quant
from sateen.machine.presets import preset
from sateen.sim.program import Interpreter
from sateen.sim.reference import quantize_inputs, reference_codes

MINIFLOATS = ["e2m1", "e3m2", "e4m3", "e4m3fn", "e3m0", "e1m4", "e5m2"]


def seen(x, name="x") -> Observed:
    return Observed(name, float(x.min()), float(x.max()), np.ravel(x))


def images(b: Builder, n=24, seed=3):
    """Inputs from 0 to 255, as images are."""
    rng = np.random.default_rng(seed)
    return {p.name: rng.integers(0, 256, (n, *p.shape)).astype(np.float32) for p in b.inputs}


def quantized(graph, x, weights, activations, **options):
    statistics = calibrate(graph, x, run=run_slowly)
    return quantize(graph, statistics, weight_format=weights, activation_format=activations, **options)


@pytest.mark.parametrize("name", MINIFLOATS)
def test_a_zero_point_uses_the_codes_of_the_missing_sign(name):
    fmt = parse_format(name)
    x = np.random.default_rng(0).uniform(0, 255, 4000)
    quant = activation_quant(seen(x), fmt)
    error = np.mean((quant.dequantize(quant.quantize(x)) - x) ** 2)
    scales = 255 / fmt.max * np.exp2(np.linspace(-4, 1, 100))
    symmetric = min(np.mean((Quant(fmt, s).dequantize(Quant(fmt, s).quantize(x)) - x) ** 2) for s in scales)
    assert quant.zero_point < 0
    assert error < 0.6 * symmetric
    assert quant.dequantize(np.array([quant.zero_code])) == 0


@pytest.mark.parametrize("name", ["e3m2", "int4"])
def test_rounding_is_to_the_nearest_value(name):
    fmt = parse_format(name)
    quant = Quant(fmt, 0.3, -3)
    x = np.linspace(-9, 9, 999)
    values = quant.dequantize(np.arange(1 << fmt.bits))
    nearest = np.abs(x[:, None] - values).min(axis=1)
    np.testing.assert_allclose(np.abs(quant.dequantize(quant.quantize(x)) - x), nearest, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("weights", "activations"), [("e3m2", "e3m2"), ("int4", "e2m1"), ("e4m3", "e4m3fn")])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_program_equals_reference(network, weights, activations, power_of_two):
    graph, b = NETWORKS[network]()
    x = images(b)
    qgraph = quantized(graph, x, weights, activations, power_of_two=power_of_two, input_terms=2)
    assert any(isinstance(op, Linear) and op.requantized.zero_before for op in qgraph.ops)
    bits = accumulator_bits(qgraph)
    assert residual_shifts_fit(qgraph, bits)
    config = preset("tiny").replace(
        weight_format=weights, activation_format=activations, acc_bits=bits, table=True
    )
    program = generate(qgraph, config)
    part = {k: v[:2] for k, v in x.items()}
    codes, wanted = quantize_inputs(qgraph, part), reference_codes(qgraph, part)
    data = np.zeros((2, program.data_size), np.uint8)
    for r in program.inputs:
        start = r.offset - program.data_offset
        data[:, start : start + r.size] = r.pack(codes[r.tensor], config)
    Interpreter(
        config, program.constants, program.code, program.program_offset, data, program.data_offset
    ).run()
    for r in program.outputs:
        start = r.offset - program.data_offset
        found = r.unpack(data[:, start : start + r.size], config)
        assert np.array_equal(found.astype(object), wanted[r.tensor].astype(object))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "formats", [("int8", "e4m3fn"), ("int4", "int4"), ("int4", "e4m3fn"), ("e4m3fn", "e5m2")]
)
def test_the_export_has_the_same_zero_points_and_terms(network, formats):
    graph, b = NETWORKS[network]()
    x = images(b)
    result = compare_with_onnxruntime(quantized(graph, x, *formats, input_terms=2), x)
    assert result["skipped"] == "" and result["codes"] > 0
    assert result["max_steps"] <= 1
    assert result["differing"] <= 2e-3 * result["codes"]


@pytest.mark.parametrize("name", ["int4", "int6", "e2m1", "e3m2", "e2m3", "uint3"])
def test_terms_are_as_precise_as_they_say(name):
    fmt = parse_format(name)
    x = np.random.default_rng(1).uniform(0, 255, 3000)
    errors = []
    for terms in (1, 2, 3, 4):
        quant, count = split_input(seen(x), fmt, terms)
        assert count == terms
        codes = quant.quantize_terms(x[:, None], terms)
        assert codes.shape == (3000, terms)
        errors.append(np.mean((quant.dequantize(codes).sum(axis=1) - x) ** 2))
    assert errors[1] < 0.5 * errors[0] and errors[2] < errors[1] and errors[3] < errors[2]


def test_as_many_terms_as_eight_bits_need():
    x = np.random.default_rng(1).uniform(0, 255, 3000)
    counts = {
        n: split_input(seen(x), parse_format(n), 0)[1] for n in ("int8", "uint8", "int7", "e3m2", "int2")
    }
    assert counts["int8"] == counts["uint8"] == counts["int7"] == 1
    assert 1 < counts["e3m2"] <= 4 and counts["int2"] == 4
    with pytest.raises(DataError, match=r"input terms = 5; they must be 1 to 4, or 0"):
        split_input(seen(x), parse_format("int4"), 5)


def test_only_inputs_that_convolutions_alone_read_are_split():
    b = Builder()
    x, y = b.input(6, 6, 3), b.input(6, 6, 3, "y")
    graph = b.graph(b.add(b.conv(x, 3), y), b.conv(x, 4))
    qgraph = quantized(graph, images(b), "int4", "int4", input_terms=3)
    assert [qgraph.terms(p) for p in qgraph.inputs] == [3, 1]
    plain = quantized(graph, images(b), "int4", "int4")
    total = [
        sum(op.macs or 0 for op in g.ops if isinstance(op, Linear) and op.input == "x")
        for g in (qgraph, plain)
    ]
    assert total[0] == 6 * 6 * 9 * 3 * 7 and total[1] == 0  # None: those of the convolution
