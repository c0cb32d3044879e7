"""What a file does to its input before it rounds it is computed as the file says, on the host."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx_nets import Net, runtime, samples
from test_import_quantized import Brevitas, Qdq, compiled, in_qonnx

from sateen.compiler.export.model import export_onnx
from sateen.compiler.importer import check_model, import_model
from sateen.errors import ModelError
from sateen.formats import parse_format
from sateen.ir.ports import InputOp
from sateen.ir.serialize import from_bytes, to_bytes
from sateen.sim.reference import run_reference


def images(*shape):
    """Of bytes from 0 to 1: what file after file rescales to -1 to 1."""
    return (np.random.default_rng(0).integers(0, 256, shape) / 255).astype(np.float32)


def kinds(model):
    return [op.kind for port in import_model(model).inputs for op in port.host]


def build(model):
    return compiled(model, weights=parse_format("int8"))


def ends_right(model, feeds, want):
    """The reference, a graph that was saved and read, and the export have exactly these values."""
    qgraph = build(model)
    (got,) = run_reference(qgraph, feeds).values()
    assert np.ptp(want) > 0
    assert (got == want).all()
    (again,) = run_reference(from_bytes(to_bytes(qgraph)), feeds).values()
    assert (again == want).all()
    return qgraph


@pytest.mark.parametrize(("bits", "scale"), [(2, 1.0), (3, 2 / 7), (8, 2 / 255), (4, 0.0371)])
def test_rescaled_images_before_quant(bits, scale, monkeypatch):
    """As in TFC-2W2A: Reshape, Mul, Sub, Quant."""
    net = Brevitas()
    x = net("Reshape", net.input(4, 1, 14, 14), net.constant([4, 196], np.int64))
    x = net("Sub", net("Mul", x, net.constant(2.0, np.float32)), net.constant([1.0], np.float32))
    model = net.output(net.quant(x, scale, bits, narrow=1)).model()
    feeds = {"x": images(4, 1, 14, 14)}
    assert kinds(model) == ["affine", "affine"]
    (want,) = in_qonnx(model, feeds, monkeypatch).values()
    exported = export_onnx(ends_right(model, feeds, want), 4)
    (again,) = in_qonnx(exported, feeds, monkeypatch).values()
    assert (again == want).all()


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_normalized_images_before_quantizelinear(last):
    """(x - mean) / deviation for each channel rounds twice in float32."""
    net = Qdq(opset=17)
    shape = (2, 16, 16, 3) if last else (2, 3, 16, 16)
    numbers = [np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])]
    mean, deviation = (net.constant(n if last else n.reshape(3, 1, 1)) for n in numbers)
    x = net("Div", net("Sub", net.input(*shape), mean), deviation)
    x = net.qdq(x, np.float32(2.64 / 127), 3)
    x = net("Transpose", x, perm=[0, 3, 1, 2]) if last else x
    model = net.output(net.qdq(net("MaxPool", x, kernel_shape=[2, 2]), np.float32(2.64 / 127), 3)).model()
    feeds = {"x": images(*shape)}
    (want,) = runtime(model, feeds).values()
    exported = export_onnx(ends_right(model, feeds, want))
    (again,) = runtime(exported, feeds).values()
    assert (again == want).all()
    assert kinds(exported) == ["affine", "affine"]


@pytest.mark.parametrize(
    "first", ["Clip", "Relu", "BipolarQuant", "Pad", "MaxPool", "Slice", "Mul, Pad, Clip"]
)
def test_operations_between_input_and_quantizer(first, monkeypatch):
    net = Brevitas()
    x = net.input(2, 3, 8, 8)
    for operator in first.split(", "):
        match operator:
            case "Clip":
                x = net("Clip", x, net.constant(-0.3, np.float32), net.constant(0.7, np.float32))
            case "Pad":
                x = net("Pad", x, net.constant([0, 0, 1, 1, 0, 0, 0, 1], np.int64))
            case "Mul":
                x = net("Mul", x, net.constant(0.3, np.float32))
            case "MaxPool":
                mean = net.constant(np.float32([0.1, -0.2, 0.3]).reshape(3, 1, 1))
                x = net("Sub", net("MaxPool", x, kernel_shape=[2, 2]), mean)
            case "Slice":
                arguments = [net.constant([v], np.int64) for v in (1, 7, 2)]
                x = net("Mul", net("Slice", x, *arguments), net.constant(-0.7, np.float32))
            case "BipolarQuant":
                x = net.bipolar(net("Mul", x, net.constant(-3.0, np.float32)), 0.5)
            case _:
                x = net(operator, x)
    y = x if first == "BipolarQuant" else net.quant(x, 0.01, 8)
    weight = net.quant(net.constant(np.eye(3).reshape(3, 3, 1, 1), np.float32), 1.0, 4)
    model = net.output(net("Conv", y, weight)).model()
    feeds = samples(model)
    (want,) = in_qonnx(model, feeds, monkeypatch).values()
    ends_right(model, feeds, want)
    assert not [f for f in check_model(model) if not f.supported]


def test_a_relu_that_the_quantizer_does_as_well_is_no_work_for_the_host(monkeypatch):
    net = Brevitas()
    model = net.output(net.quant(net("Relu", net.input(2, 64)), 0.1, 4, signed=0)).model()
    feeds = samples(model)
    assert kinds(model) == []
    (want,) = in_qonnx(model, feeds, monkeypatch).values()
    ends_right(model, feeds, want)


def test_half_precision_is_that_of_the_file():
    net = Net(opset=21)
    x = net.input(4, 1024, kind=TensorProto.FLOAT16)
    x = net("Mul", x, net.constant(1.7, np.float16))
    arguments = net.constant(0.013, np.float16), net.constant(0, np.int8)
    y = net("DequantizeLinear", net("QuantizeLinear", x, *arguments), *arguments)
    model = net.output(y).model()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    feeds = {"x": images(4, 1024).astype(np.float16)}
    (want,) = ReferenceEvaluator(model).run(None, feeds)
    (got,) = run_reference(build(model), feeds).values()
    assert (got == want.astype(np.float32)).all()


def test_what_is_read_elsewhere_stays_on_the_machine():
    """The product is an output too; what the file rounds of it has a port of its own."""
    net = Qdq(opset=17)
    x = net("Mul", net.input(1, 3, 4, 4), net.constant(0.5, np.float32))
    ports = import_model(net.output(net("Add", x, x), net.qdq(net("Neg", x), 0.1)).model()).inputs
    assert sorted([op.kind for op in p.host] for p in ports) == [[], ["affine", "neg"]]


def test_an_unknown_operation():
    with pytest.raises(ModelError, match=r"'spin' is not known; known are affine, clip, bipolar, abs, "):
        InputOp("spin").apply(np.zeros((1, 1, 1, 1)))


def test_the_logarithm_of_nothing_saturates():
    """Speech: a logarithm of the energies. -inf is the least code, NaN is 0, as in tables."""
    net = Qdq(opset=17)
    model = net.output(net.qdq(net("Log", net.input(1, 4)), 0.0625)).model()
    feeds = {"x": np.float32([[0.0, 1.0, 2.0, -1.0]])}
    (got,) = run_reference(build(model), feeds).values()
    assert got.tolist() == [[-8.0, 0.0, 0.6875, 0.0]]
