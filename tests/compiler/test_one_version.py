"""Tensors that a file rounds in several ways: each version is what ONNX Runtime, or qonnx, has."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_nets import Net, runtime, samples
from test_import_quantized import Brevitas, Qdq, compiled, in_qonnx, same

from sateen.compiler.export.model import export_onnx
from sateen.compiler.float_executor import float_outputs, run_float
from sateen.compiler.importer import check_model, import_model
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.given import conform
from sateen.compiler.quantize.network import quantize
from sateen.formats import parse_format
from sateen.ir.nodes import Conv
from sateen.ir.serialize import from_bytes, to_bytes
from sateen.sim.reference import run_reference


def image(seed: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).uniform(-1.2, 1.2, (2, 3, 6, 6)).astype(np.float32)}


def agrees(net: Net) -> onnx.ModelProto:
    """The reference, what is saved and read, and the export give exactly what ONNX Runtime gives for the file."""
    model = net.model()
    assert all(f.supported for f in check_model(model))
    qgraph = same(model, runtime(model, image()), image(), tolerance=0)
    want = run_reference(qgraph, image())
    again = run_reference(from_bytes(to_bytes(qgraph)), image())
    exported = export_onnx(qgraph)
    assert [i.name for i in exported.graph.input] == ["x"]
    theirs = runtime(exported, image())
    for name, y in want.items():
        assert (again[name] == y).all() and (theirs[name] == y).all()
    return model


def forked_input(*, scales=(2**-7, 2**-5)) -> Qdq:
    """The input in fine steps to one layer, in coarse ones to another."""
    net = Qdq(opset=17)
    x = net.input("N", 3, 6, 6)
    fine, coarse = (net.qdq(x, s) for s in scales)
    a = net.qdq(net.qconv(fine, scales[0], 3, 4, 3, 3), 2**-4)
    b = net.qdq(net("Relu", net.qconv(coarse, scales[1], 3, 4, 3, 3)), 2**-3)
    return net.output(net.qdq(net("Add", a, b), 2**-3))


def test_an_input_in_two_steps():
    model = agrees(forked_input())
    ports = import_model(model).inputs
    assert [p.source for p in ports] == ["x", "x"] and len({p.name for p in ports}) == 2


def test_an_input_in_one_way_stays_one():
    net = Qdq(opset=17)
    x = net.input("N", 3, 6, 6)
    a, b = (net.qdq(net.qconv(net.qdq(x, 2**-6), 2**-6, 3, 4, 1, 1), 2**-4) for _ in range(2))
    assert len(import_model(agrees(net.output(net.qdq(net("Add", a, b), 2**-3)))).inputs) == 1


def test_what_is_done_first_differs():
    """Once as it is, once shifted, clipped and in other steps, once the largest of a window."""
    net = Qdq(opset=17)
    x = net.input("N", 3, 6, 6)
    shifted = net("Sub", net("Mul", x, net.constant(np.float32(0.5))), net.constant(np.float32(0.125)))
    shifted = net.qdq(
        net("Clip", shifted, net.constant(np.float32(-0.4)), net.constant(np.float32(0.3))), 2**-8
    )
    pooled = net.qdq(net("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4), 2**-6)
    y = [net.qdq(net.qconv(t, s, 3, 4, 1, 1), 2**-4)
         for t, s in ((net.qdq(x, 2**-6), 2**-6), (shifted, 2**-8), (pooled, 2**-6))]  # fmt: skip
    model = agrees(net.output(net.qdq(net("Add", net.qdq(net("Add", y[0], y[1]), 2**-4), y[2]), 2**-3)))
    ports = import_model(model).inputs
    assert sorted(len(p.host) for p in ports) == [0, 3]  # the pooled one has the first's codes


def test_ties_are_those_of_each_scale():
    """0.05 and 0.1 divide in float32, each for itself: one is not made of the other's codes."""
    net = Qdq(opset=17)
    x = net.input("N", 3, 6, 6)
    y = [net.qdq(x, s) for s in (0.05, 0.1)]
    model = net.output(*y).model()
    feeds = {"x": (np.random.default_rng(0).integers(-60, 60, (4, 3, 6, 6)) * 0.025).astype(np.float32)}
    found = run_reference(compiled(model, weights=parse_format("int8")), feeds)
    for name, want in runtime(model, feeds).items():
        assert (found[name] == want).all()


@pytest.mark.parametrize(
    "last", ["Conv", "Relu", "BatchNormalization", "MaxPool", "AveragePool", "Add", "Concat"]
)
def test_a_sum_in_two_steps(last):
    """Rounded from the exact sum each time, and once more without a Relu between."""
    net = Qdq(opset=17)
    x = net.qdq(net.input("N", 3, 6, 6), 2**-6)
    y = net.qconv(x, 2**-6, 3, 4, 3, 3)
    match last:
        case "Relu":
            y = net("Relu", y)
        case "BatchNormalization":
            numbers = [np.float32(v) for v in ([1, 2, 0.5, -1], [0, 0.5, -0.5, 1], [0] * 4, [1] * 4)]
            y = net("BatchNormalization", y, *(net.constant(n) for n in numbers), epsilon=0.0)
        case "MaxPool":
            y = net("MaxPool", y, kernel_shape=[2, 2])
        case "AveragePool":
            y = net("AveragePool", net.qdq(y, 2**-5), kernel_shape=[2, 2])
        case "Add":
            y = net("Add", y, net.qdq(net.qconv(x, 2**-6, 3, 4, 3, 3), 2**-4))
        case "Concat":
            y = net("Concat", y, net.qconv(x, 2**-6, 3, 2, 3, 3), axis=1)
    channels = 6 if last == "Concat" else 4
    fine, coarse = net.qdq(y, 2**-5), net.qdq(y, 2**-3, 20, np.int8)
    a = net.qdq(net.qconv(fine, 2**-5, channels, 3, 1, 1), 2**-4)
    b = net.qdq(net.qconv(coarse, 2**-3, channels, 3, 1, 1), 2**-2)
    agrees(net.output(net.qdq(net("Add", a, b), 2**-3)))


def test_a_sum_that_is_given_out_as_it_is():
    net = Qdq(opset=17)
    y = net.qconv(net.qdq(net.input("N", 3, 6, 6), 2**-6), 2**-6, 3, 4, 3, 3)
    model = agrees(net.output(y, net.qdq(net.qconv(net.qdq(y, 2**-4), 2**-4, 4, 2, 1, 1), 2**-3)))
    assert sum(isinstance(n, Conv) for n in import_model(model).nodes) == 3


def test_a_sum_beside_what_it_is_rounded_to():
    net = Qdq(opset=17)
    y = net.qconv(net.qdq(net.input("N", 3, 6, 6), 2**-6), 2**-6, 3, 4, 3, 3)
    agrees(net.output(net.qdq(net("Add", y, net.qdq(y, 2**-3)), 2**-4)))


def test_qonnx(monkeypatch):
    net = Brevitas()
    x = net.input(1, 3, 6, 6)
    weights = [net.quant(net.random(4, 3, 1, 1), 2**-3, 4) for _ in range(2)]
    a, b = (
        net("Conv", net.quant(x, s, n), w) for s, n, w in zip((2**-4, 2**-2), (6, 3), weights, strict=True)
    )
    a = net("Add", net.quant(a, 2**-3, 6), net.quant(b, 2**-2, 6))
    model = net.output(net.quant(a, 0.25, 6)).model()
    feeds = samples(model)
    same(model, in_qonnx(model, feeds, monkeypatch), feeds)


def test_a_version_that_is_not_rounded_is_calibrated():
    """The other keeps the file's steps; the float engine has the raw values beside them."""
    net = Qdq(opset=17)
    x = net.input("N", 3, 6, 6)
    a = net.qdq(net.qconv(net.qdq(x, 2**-3), 2**-3, 3, 4, 1, 1), 2**-4)
    model = net.output(net("Add", a, net.conv(x, 3, 4, 1, 1))).model()
    graph = conform(import_model(model), parse_format("int8"))
    assert [p.name in graph.quantizers for p in graph.inputs] == [True, False]
    want = runtime(model, image())
    for name, y in float_outputs(graph, run_float(graph, image())).items():
        np.testing.assert_allclose(y, want[name], rtol=1e-5, atol=1e-5)
    statistics = calibrate(graph, image(3))
    qgraph = quantize(graph, statistics, weight_format="int8", activation_format="int8")
    (got,), (y,) = run_reference(qgraph, image()).values(), want.values()
    assert np.abs(got - y).max() < 0.1
