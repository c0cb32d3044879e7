"""The reference engine against the definition in Python integers, and its answers to bad input."""

from __future__ import annotations

import numpy as np
import pytest
import slow_reference
from networks import NETWORKS, Builder, everything, lenet, residual, run_slowly

from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.network import quantize
from sateen.errors import DataError
from sateen.formats import parse_format
from sateen.sim.reference import (
    finish_outputs,
    quantize_inputs,
    reference_codes,
    run_reference,
    value_order,
)

FORMATS = [
    ("int8", "int8"),
    ("int8", "uint8"),
    ("int4", "uint5"),
    ("int2", "int3"),
    ("uint1", "int8"),
    ("e2m1", "int8"),
    ("int8", "e3m2"),
    ("e3m0", "e1m2"),
    ("e4m3fn", "e4m3fn"),
    ("e4m3fn", "int8"),
    ("e5m2", "e5m2"),
    ("e5m0", "e5m2"),
]


def build(network, weights, activations, seed=0, **options):
    graph, b = network(seed)
    if weights.startswith("uint"):
        for node in graph.nodes:
            if hasattr(node, "weight"):
                np.abs(node.weight, out=node.weight)
    statistics = calibrate(graph, b.samples(), run=run_slowly)
    qgraph = quantize(graph, statistics, weight_format=weights, activation_format=activations, **options)
    return graph, b, qgraph


@pytest.mark.parametrize(("weights", "activations"), FORMATS)
@pytest.mark.parametrize("power_of_two", [False, True])
def test_equals_the_definition(weights, activations, power_of_two):
    _, b, qgraph = build(everything, weights, activations, power_of_two=power_of_two)
    x = b.samples(1, seed=3)
    x["x"] *= 1.5  # beyond the calibrated range: clamps and saturation at work
    tensors = reference_codes(qgraph, x)
    assert set(tensors) == set(qgraph.tensors)
    assert tensors["x"].tobytes() == quantize_inputs(qgraph, x)["x"].tobytes()
    assert slow_reference.differences(qgraph, {k: v[0] for k, v in tensors.items()}, samples=40) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_batches_and_chunks_do_not_matter(name, monkeypatch):
    _, b, qgraph = build(NETWORKS[name], "int8", "int8")
    x = b.samples(9, seed=2)
    whole = run_reference(qgraph, x)
    monkeypatch.setattr("sateen.sim.reference._CHUNK_ELEMENTS", 1)
    parts = run_reference(qgraph, x)
    single = [run_reference(qgraph, {"x": x["x"][i : i + 1]}) for i in range(9)]
    for key, value in whole.items():
        assert value.dtype == np.float32
        assert value.tobytes() == parts[key].tobytes()
        assert value.tobytes() == np.concatenate([s[key] for s in single]).tobytes()


def test_outputs_follow_from_codes_and_accumulators():
    graph, b, qgraph = build(everything, "int8", "int8")
    x = b.samples(2)
    tensors = reference_codes(qgraph, x)
    outputs = finish_outputs(qgraph, tensors)
    raw = qgraph.producer(graph.outputs[0].tensor)
    assert raw.raw and tensors[raw.output].dtype == np.int64
    real = (tensors[raw.output] * raw.raw_scale).astype(np.float32)
    assert outputs["out"].tobytes() == real[:, 0, 0].tobytes()
    coded = graph.outputs[1]
    values = qgraph.tensors[coded.tensor].quant.dequantize(tensors[coded.tensor])
    assert outputs["out1"].tobytes() == values.transpose(0, 3, 1, 2).astype(np.float32).tobytes()
    wide = finish_outputs(qgraph, tensors | {raw.output: tensors[raw.output].astype(object)})
    assert wide["out"].tobytes() == outputs["out"].tobytes()


def test_softmax_runs_on_the_host():
    b = Builder()
    y = b.gemm(b.input(2, 2, 3), 4)
    graph = b.graph(y, softmax=True)
    qgraph = quantize(
        graph, calibrate(graph, b.samples(), run=run_slowly), weight_format="int8", activation_format="int8"
    )
    out = run_reference(qgraph, b.samples(5))["out"]
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-6)


def test_graph_without_ops():
    b = Builder()
    graph = b.graph(b.input(2, 2, 3))
    qgraph = quantize(
        graph, calibrate(graph, b.samples(), run=run_slowly), weight_format="int8", activation_format="int8"
    )
    x = b.samples(2)
    np.testing.assert_allclose(run_reference(qgraph, x)["out"], x["x"], atol=0.03)


@pytest.mark.parametrize("name", ["int8", "uint4", "e3m2", "e4m3fn", "e5m2", "e2m1", "int8n"])
def test_value_order(name):
    fmt = parse_format(name)
    rank, code = value_order(fmt)
    fixed = fmt.fixed(np.arange(1 << fmt.bits))
    order = np.argsort(fixed, kind="stable")
    assert (np.diff(rank[order].astype(int)) >= 0).all()
    assert (fmt.fixed(code)[rank] == np.clip(fixed, fmt.min_fixed, fmt.max_fixed)).all()
    assert code[rank[fmt.zero_code]] == fmt.zero_code


BAD_INPUTS = [
    (lambda x: {}, "input 'x': missing; give an array of shape \\(N, 1, 12, 12\\)"),
    (lambda x: {"x": x, "y": x}, "input 'y': the network has no such input; it has x"),
    (lambda x: {"x": x[0]}, "input 'x': shape \\(1, 12, 12\\); it must be \\(N, 1, 12, 12\\)"),
    (lambda x: {"x": x[..., :5]}, "input 'x': shape"),
    (lambda x: {"x": x[:0]}, "input 'x': no samples"),
    (lambda x: {"x": x.astype(str)}, "input 'x': type <U.*; it must hold real numbers"),
    (lambda x: {"x": x.astype(complex)}, "input 'x': type complex128"),
    (lambda x: {"x": x > 0}, "input 'x': type bool"),
    (lambda x: {"x": np.where(np.arange(len(x))[:, None, None, None] == 1, np.nan, x)}, "sample 1 holds NaN"),
    (lambda x: {"x": x / 0}, "input 'x': sample 0 holds NaN or infinity"),
]


@pytest.mark.parametrize(("change", "message"), BAD_INPUTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_input_is_one_line(change, message):
    _, b, qgraph = build(lenet, "int8", "int8")
    with pytest.raises(DataError, match=message) as e:
        run_reference(qgraph, change(b.samples(2)["x"]))
    assert "\n" not in str(e.value)


def test_inputs_of_different_batch():
    b = Builder()
    graph = b.graph(b.add(b.input(2, 2, 3), b.input(2, 2, 3, "z")))
    qgraph = quantize(
        graph, calibrate(graph, b.samples(), run=run_slowly), weight_format="int8", activation_format="int8"
    )
    x = b.samples(2)
    with pytest.raises(DataError, match="input 'z': 1 samples, but 'x' has 2"):
        run_reference(qgraph, {"x": x["x"], "z": x["z"][:1]})


def test_integer_images_are_inputs_too():
    _, _, qgraph = build(residual, "int8", "int8")
    x = np.random.default_rng(0).integers(-3, 3, (2, 3, 8, 8))
    ints = run_reference(qgraph, {"x": x})
    assert ints["out"].tobytes() == run_reference(qgraph, {"x": x.astype(np.float64)})["out"].tobytes()
