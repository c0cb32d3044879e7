"""Networks of integer operators, and the comparison of our codes with ONNX Runtime's."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx_nets import Net, runtime

from sateen.compiler.importer import import_model
from sateen.compiler.pipeline import Quantized, quantize_graph
from sateen.machine.presets import preset
from sateen.sim.reference import run_reference

MICROSOFT = "com.microsoft"
KINDS = {np.dtype(np.int8): TensorProto.INT8, np.dtype(np.uint8): TensorProto.UINT8}


class IntegerNet(Net):
    """Codes of one type between operators; scales are powers of two unless given."""

    def __init__(self, kind=np.uint8, seed: int = 0, opset: int = 17) -> None:
        super().__init__(opset, seed)
        self.kind = np.dtype(kind)

    def scale(self, value) -> str:
        return self.constant(value, np.float32)

    def zero(self, value=0, kind=None) -> str:
        return self.constant(value, kind or self.kind)

    def pair(self, scale: float, zero: int = 0) -> tuple[str, str]:
        return self.scale(scale), self.zero(zero)

    def quantized(self, x: str, scale: float, zero: int = 0) -> tuple[str, str, str]:
        """QuantizeLinear; its codes, scale and zero point."""
        pair = self.pair(scale, zero)
        return self("QuantizeLinear", x, *pair), *pair

    def codes(self, *shape: int, kind=np.int8, low: int | None = None, high: int | None = None) -> str:
        info = np.iinfo(kind)
        low, high = info.min if low is None else low, info.max if high is None else high
        values = self.rng.integers(low, high + 1, shape)
        values.flat[:2] = low, high
        return self.constant(values, kind)

    def bias(self, outputs: int, most: int = 3000) -> str:
        return self.constant(self.rng.integers(-most, most, outputs), np.int32)

    def code_input(self, *shape: int | str, name: str = "x") -> str:
        return self.input(*shape, name=name, kind=KINDS[self.kind])

    def outputs_of(self, kind: int, *names: str) -> Net:
        self.outputs += [helper.make_tensor_value_info(n, kind, None) for n in names]
        return self


def low(kind):
    return int(np.iinfo(kind).min)


def middle(kind):
    return low(kind) + 128


def feeds_of(model: onnx.ModelProto, n: int = 4, seed: int = 1) -> dict[str, np.ndarray]:
    """All codes, or normal numbers, for each graph input; `n` samples where the batch is open."""
    rng = np.random.default_rng(seed)
    constant = {t.name for t in model.graph.initializer}
    found = {}
    for info in model.graph.input:
        if info.name in constant:
            continue
        dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
        shape = (dims[0] or n, *dims[1:])
        kind = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        if np.issubdtype(kind, np.integer):
            found[info.name] = rng.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, shape).astype(kind)
        else:
            found[info.name] = rng.normal(0, 1, shape).astype(kind)
    return found


def quantized(model: onnx.ModelProto, calibration: dict[str, np.ndarray] | None = None) -> Quantized:
    """In the file's own formats."""
    graph = import_model(model)
    return quantize_graph(
        graph, "net", config=preset("tiny"), calibration=calibration, fixed_formats=(False, False)
    )


def both(model: onnx.ModelProto, n: int = 4, calibrate: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each output what ONNX Runtime and the reference give, of one type and shape."""
    feeds = feeds_of(model, n)
    want = runtime(model, feeds)
    got = run_reference(quantized(model, feeds if calibrate else None).graph, feeds)
    assert list(got) == list(want)
    for name, y in want.items():
        assert got[name].dtype == y.dtype and got[name].shape == y.shape, (name, got[name].dtype, y.dtype)
        assert np.ptp(y.astype(float)) > 0, f"the case excites nothing in {name}"
    return [(y, got[name]) for name, y in want.items()]


def same(model: onnx.ModelProto, n: int = 4) -> None:
    """Every output code is ONNX Runtime's."""
    for want, got in both(model, n):
        np.testing.assert_array_equal(got, want)


def coded(kind=np.int8, scale=0.0371) -> onnx.ModelProto:
    """As tf2onnx writes an int8 file of TensorFlow Lite: codes in, codes out, channels last, Softmax rounded."""
    net = IntegerNet(kind, seed=16)
    x = net.code_input("N", 9, 9, 3)
    zero = middle(kind) + 11
    first = net.pair(scale, zero)
    y = net("DequantizeLinear", net("Transpose", x, perm=[0, 3, 1, 2]), *first)
    for channels, group, step in ((3, 1, 0.061), (6, 6, 0.083), (6, 1, 0.1)):
        steps = net.scale(net.rng.uniform(0.002, 0.006, 6))
        weights = net(
            "DequantizeLinear",
            net.codes(6, channels // group, 3, 3),
            steps,
            net.zero(np.zeros(6), np.int8),
            axis=0,
        )
        bias = net("DequantizeLinear", net.bias(6), net("Mul", steps, first[0]), axis=0)
        y = net("Relu", net("Conv", y, weights, bias, group=group, pads=[1, 1, 1, 1]))
        first = net.pair(step, low(kind))
        y = net("DequantizeLinear", net("QuantizeLinear", y, *first), *first)
    y = net("AveragePool", y, kernel_shape=[9, 9])
    y = net("Reshape", net("QuantizeLinear", y, *first), net.constant([-1, 6]))
    y = net("DequantizeLinear", y, *first)
    weights = net("DequantizeLinear", net.codes(6, 5), net.scale(0.03), net.zero(0, np.int8))
    last = net.pair(0.2, middle(kind) + 4)
    y = net("DequantizeLinear", net("QuantizeLinear", net("MatMul", y, weights), *last), *last)
    y = net("QuantizeLinear", net("Softmax", y, axis=-1), *net.pair(2**-8, low(kind)))
    return net.outputs_of(KINDS[net.kind], y).model()


def asymmetric() -> onnx.ModelProto:
    """uint8 weights that need nine bits less their zero points, in whole, grouped and depthwise convolutions, with an
    addition and a concatenation of other scales between them, as ONNX Runtime's operators."""
    net = IntegerNet(seed=21)
    x = net.code_input("N", 4, 8, 8)
    first = net.pair(0.031, 117)
    parts = []
    for group, zero, step in ((1, 125, 0.4), (2, 121, 0.3), (4, 113, 0.2)):
        weights = net.codes(4, 4 // group, 3, 3, kind=np.uint8), net.scale(0.007), net.zero(zero)
        result = net.pair(step, 100 + zero // 10)
        y = net("QLinearConv", x, *first, *weights, *result, net.bias(4), group=group, pads=[1, 1, 1, 1])
        parts.append((y, *result))
    total, joined, last = net.pair(0.45, 120), net.pair(0.5, 131), net.pair(0.9, 99)
    s = net("QLinearAdd", *parts[0], *parts[1], *total, domain=MICROSOFT)
    y = net("QLinearConcat", *joined, s, *total, *parts[2], domain=MICROSOFT, axis=1)
    y = net("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    weights = net.codes(3, 8, 1, 1), net.scale(0.01), net.zero(0, np.int8)
    y = net("QLinearConv", y, *joined, *weights, *last, net.bias(3))
    return net.outputs_of(TensorProto.UINT8, y).model()
