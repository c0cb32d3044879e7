"""The exported ONNX model against the reference engine: in ONNX Runtime, ONNX's own evaluator and qonnx."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from networks import NETWORKS, Builder, everything, lenet, residual, run_slowly

from sateen.compiler.export.compare import compare_with_onnxruntime
from sateen.compiler.export.model import export_onnx
from sateen.compiler.export.network_writer import uses_standard_types
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.network import quantize
from sateen.ir.graph import Graph
from sateen.ir.ports import HostOp, Output, Port
from sateen.sim.reference import run_reference

STANDARD = [
    ("int8", "int8"),
    ("int8", "uint8"),
    ("int4", "uint4"),
    ("int2", "int8"),
    ("e4m3fn", "e4m3fn"),
    ("e4m3fn", "e5m2"),
]


def run_qonnx(qgraph, x, monkeypatch):
    """qonnx makes a model of each node, in ONNX's newest file version, which ONNX Runtime may not know yet."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    monkeypatch.setattr(onnx, "IR_VERSION", 10)
    batch = len(next(iter(x.values())))
    return execute_onnx(ModelWrapper(export_onnx(qgraph, batch=batch)), x)


def quantized(network, weights, activations, seed=0, **options):
    graph, b = network(seed)
    statistics = calibrate(graph, b.samples(), run=run_slowly)
    return b, quantize(graph, statistics, weight_format=weights, activation_format=activations, **options)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("formats", [("int8", "int8"), ("int8", "uint8"), ("int4", "uint4")])
@pytest.mark.parametrize("seed", [0, 1])
def test_onnxruntime_agrees_on_every_code_of_power_of_two_scales(name, formats, seed):
    b, qgraph = quantized(NETWORKS[name], *formats, seed=seed, power_of_two=True)
    result = compare_with_onnxruntime(qgraph, b.samples(12, seed=5))
    assert result["codes"] > 0
    assert {v for k, v in result.items() if k != "codes"} == {0, ""}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("formats", STANDARD)
def test_onnxruntime_differs_by_at_most_one_step(name, formats):
    b, qgraph = quantized(NETWORKS[name], *formats)
    result = compare_with_onnxruntime(qgraph, b.samples(12, seed=5))
    assert result["skipped"] == ""
    assert result["max_steps"] <= 1
    assert result["differing"] <= 1e-3 * result["codes"]


@pytest.mark.parametrize("formats", STANDARD)
def test_outputs_have_the_names_and_shapes_of_the_original(formats):
    import onnxruntime as ort

    b, qgraph = quantized(everything, *formats)
    model = export_onnx(qgraph)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    if model.doc_string:  # for types that ONNX Runtime's fusions spoil
        assert "graph_optimization_level to ORT_ENABLE_BASIC" in model.doc_string
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert bool(model.doc_string) == (formats not in [("int8", "int8"), ("int8", "uint8")])
    session = ort.InferenceSession(model.SerializeToString(), options)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("x", ["N", 4, 8, 8])]
    x = b.samples(5, seed=2)
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, x), strict=True))
    expected = run_reference(qgraph, x)
    assert list(found) == [o.port.name for o in qgraph.outputs]
    for key, value in expected.items():
        assert found[key].shape == value.shape
        a, c = found[key].ravel(), value.ravel()
        assert a @ c / np.sqrt((a @ a) * (c @ c)) > 0.999


def test_float4_in_the_onnx_evaluator():
    """ONNX Runtime has no FLOAT4E2M1, ONNX's reference evaluator does."""
    from onnx.reference import ReferenceEvaluator

    b, qgraph = quantized(lenet, "e2m1", "e2m1")
    x = b.samples(2, seed=3)
    assert "cannot run it" in compare_with_onnxruntime(qgraph, x)["skipped"]
    model = export_onnx(qgraph)
    found = ReferenceEvaluator(model).run(None, x)[0]
    np.testing.assert_allclose(found, run_reference(qgraph, x)["out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["residual", "everything"])
@pytest.mark.parametrize(
    "formats",
    [("int8", "e3m2"), ("e3m2", "e3m2"), ("int5", "uint6"), ("int4n", "e2m3"), ("e4m3fn", "e4m3"), ("e2m1", "int7n")],
)  # fmt: skip
def test_qonnx_agrees(name, formats, monkeypatch):
    b, qgraph = quantized(NETWORKS[name], *formats)
    assert not uses_standard_types(qgraph)
    x = b.samples(2, seed=3)
    assert "QONNX" in compare_with_onnxruntime(qgraph, x)["skipped"]
    found = run_qonnx(qgraph, x, monkeypatch)
    for key, value in run_reference(qgraph, x).items():
        assert found[key].shape == value.shape
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-4 * np.abs(value).max())


def test_signed_bits_in_qonnx(monkeypatch):
    """int1 is -1 and 0, which QONNX would read as -1 and 1."""
    b = Builder()
    graph = b.graph(b.conv(b.clip(b.conv(b.input(4, 4, 2), 3)), 2))
    statistics = calibrate(graph, b.samples(), run=run_slowly)
    for activations in ("int1", "uint1", "int8"):
        qgraph = quantize(graph, statistics, weight_format="int1", activation_format=activations)
        x = b.samples(1)
        found = run_qonnx(qgraph, x, monkeypatch)["out"]
        np.testing.assert_allclose(found, run_reference(qgraph, x)["out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "port",
    [
        Port("x", (4, 6, 5), (4, 6, 5)),  # channels last
        Port("x", (5, 4, 6), (5, 4, 6), (1, 2, 0)),  # channels first
        Port("x", (120,), (5, 4, 6), (1, 2, 0)),  # flat
        Port("x", (5, 24), (5, 4, 6), (1, 2, 0)),
        Port("x", (6, 5, 4), (6, 5, 4), (2, 0, 1)),
    ],
)
@pytest.mark.parametrize("host", [(), (HostOp("softmax", -1),), (HostOp("log_softmax", -1),)])
def test_views_of_inputs_and_outputs(port, host):
    import onnxruntime as ort

    b = Builder()
    b.inputs.append(port)
    b.shapes["x"] = port.hwc
    y = b.clip(b.conv("x", 5), -1, 1)
    out = Output(Port("y", port.shape, port.view, port.axes), y, host)
    graph = Graph("views", (port,), (out,), tuple(b.nodes), b.shapes)
    qgraph = quantize(
        graph,
        calibrate(graph, b.samples(), run=run_slowly),
        weight_format="int8",
        activation_format="int8",
        power_of_two=True,
    )
    x = b.samples(3)
    found = ort.InferenceSession(export_onnx(qgraph).SerializeToString()).run(None, x)[0]
    np.testing.assert_allclose(found, run_reference(qgraph, x)["y"], rtol=1e-6, atol=1e-6)


def test_names_that_clash():
    """An output called like an inner tensor, and one tensor under two names."""
    import onnxruntime as ort

    b = Builder()
    y = b.clip(b.conv(b.input(3, 3, 2), 2))
    ports = [Port(name, (2, 3, 3), (2, 3, 3), (1, 2, 0)) for name in ("conv0", "x_codes")]
    graph = Graph("", tuple(b.inputs), tuple(Output(p, y) for p in ports), tuple(b.nodes), b.shapes)
    qgraph = quantize(
        graph, calibrate(graph, b.samples(), run=run_slowly), weight_format="int8", activation_format="int8"
    )
    session = ort.InferenceSession(export_onnx(qgraph).SerializeToString())
    assert [o.name for o in session.get_outputs()] == ["conv0", "x_codes"]
    first, second = session.run(None, b.samples(2))
    assert first.tobytes() == second.tobytes()


def test_is_reproducible():
    graph, b = residual()
    statistics = calibrate(graph, b.samples(), run=run_slowly)
    qgraph = quantize(graph, statistics, weight_format="int4", activation_format="uint8")
    one, two = (export_onnx(qgraph).SerializeToString(deterministic=True) for _ in range(2))
    assert one == two
