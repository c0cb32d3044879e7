"""Where the file's own scale rounds a single value, on the host or in a table, it does so in the file's type.

The oracles are ONNX's reference implementation, ONNX Runtime and the qonnx package.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx_nets import Net, runtime
from test_import_quantized import Brevitas, Qdq, compiled, in_qonnx

from sateen.compiler.float_executor import float_outputs, run_float
from sateen.compiler.importer import import_model
from sateen.compiler.quantize.calibrate import calibrate
from sateen.formats import parse_format
from sateen.ir.quant import rounded_to
from sateen.sim.reference import run_reference

TENSORS = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}


def reference(model, feeds):
    """The graph's only output."""
    (y,) = run_reference(compiled(model, weights=parse_format("int8")), feeds).values()
    return y


def near_ties(scale: float, count: int, kind: type = np.float32) -> np.ndarray:
    """(count,) numbers next to the middle between two steps, and on it as near as the type allows."""
    rng = np.random.default_rng(0)
    middle = kind(scale) * (rng.integers(-140, 300, count) + 0.5).astype(kind)
    beside = np.nextafter(middle, rng.choice([-np.inf, np.inf], count).astype(kind))
    return np.where(rng.random(count) < 0.5, beside, middle)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("codes", "scale", "zero"),
    [(np.int8, 2 / 255, 0), (np.uint8, 2 / 255, 128), (np.uint8, 0.05, 127), (np.int8, 1 / 127, -7)]
    + [(t, 0.1, 0) for t in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4)],
)
def test_graph_inputs_divide_in_the_type_of_the_scale(kind, codes, scale, zero):
    net = Net(opset=21)
    x = net.input(1, 4096, kind=TENSORS[kind])
    arguments = net.constant(scale, kind), net.constant(zero, codes)
    y = net("DequantizeLinear", net("QuantizeLinear", x, *arguments), *arguments)
    model = net.output(y).model()
    feeds = {"x": near_ties(scale, 4096, kind)[None]}
    model.graph.output[0].type.tensor_type.elem_type = TENSORS[kind]
    (want,) = ReferenceEvaluator(model).run(None, feeds)
    assert (reference(model, feeds) == want.astype(np.float32)).all()
    exact = np.rint(feeds["x"].astype(np.float64) / float(kind(scale)))
    inexact = np.rint(feeds["x"] / kind(scale)) != exact
    assert inexact.any(), "no sample on which the type makes a difference"


def test_images_from_minus_1_to_1_as_onnxruntime_has_them():
    net = Qdq(opset=17)
    x = net.qdq(net.input(1, 3, 16, 16), 2 / 255, 0)
    feeds = {"x": (np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16)) / 127.5 - 1).astype(np.float32)}
    model = net.output(net("Relu", x)).model()
    (want,) = runtime(model, feeds).values()
    assert (reference(model, feeds) == want).all()


def test_the_quotient_is_that_of_precision():
    """QuantizeLinear's attribute of that name, from opset 23."""
    net = Net(opset=23)
    x = net.input(1, 4096)
    arguments = net.constant(0.05, np.float32), net.constant(3, np.int8)
    y = net("QuantizeLinear", x, *arguments, precision=TensorProto.FLOAT16)
    model = net.output(net("DequantizeLinear", y, *arguments)).model()
    feeds = {"x": near_ties(0.05, 4096)[None]}
    (want,) = ReferenceEvaluator(model).run(None, feeds)
    assert (reference(model, feeds) == want).all()


@pytest.mark.parametrize(("before", "after"), [(0.05, 0.06), (0.04, 0.016), (0.03, 0.1), (0.07, 0.028)])
@pytest.mark.parametrize("between", ["", "Relu", "Mul", "Clip"])
def test_codes_to_codes_in_float32(before, after, between):
    """Tables have all 256 codes; a factor between two quantizers is one of them, too."""
    net = Qdq(opset=17)
    x = net.qdq(net.input(1, 256), before)
    more = {
        "Mul": [net.constant(0.7, np.float32)],
        "Clip": [net.constant(v, np.float32) for v in (-1.3, 2.5)],
    }
    x = net(between, x, *more.get(between, [])) if between else x
    model = net.output(net.qdq(x, after, -3)).model()
    feeds = {"x": (np.arange(-128, 128, dtype=np.float32) * np.float32(before))[None]}
    (want,) = runtime(model, feeds).values()
    assert (reference(model, feeds) == want).all()


@pytest.mark.parametrize(("zero", "signed", "scale"), [(0, 1, 0.1), (3, 1, 0.1), (5, 0, 0.3), (-7, 1, -0.2)])
def test_quant_adds_its_zero_point_before_it_rounds(zero, signed, scale, monkeypatch):
    net = Brevitas()
    x = net.quant(net.input(1, 2048), scale, 6, signed=signed, zero=zero)
    y = net.quant(x, 0.25, 5, zero=1, narrow=1)
    model = net.output(y).model()
    feeds = {"x": near_ties(scale, 2048)[None]}
    (want,) = in_qonnx(model, feeds, monkeypatch).values()
    assert (reference(model, feeds) == want).all()


def test_bfloat16_rounds_to_nearest_even():
    x = np.random.default_rng(0).normal(0, 1, 4096) * np.exp2(np.arange(-20, 20).repeat(103)[:4096])
    want = x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    assert (rounded_to("bfloat16", x.astype(np.float32).astype(np.float64)) == want).all()


# -- what calibration sees -----------------------------------------------------------------------------


def test_calibration_sees_the_files_quantizers():
    """The zero point at the lowest code stands for a Relu, saturation for a clip; the last tensor is left open."""
    net = Qdq(opset=17)
    x = net.qdq(net.input(4, 3, 8, 8), 2**-5)
    a = net.qdq(net.qconv(x, 2**-5, 3, 8, 3, 3), 2**-7, -128)
    y = net("Relu", net.qdq(net.qconv(a, 2**-7, 8, 4, 3, 3), 2**-4, -20))
    model = net.output(y).model()
    feeds = {"x": np.random.default_rng(1).normal(0, 1, (4, 3, 8, 8)).astype(np.float32)}
    (want,) = runtime(model, feeds).values()
    graph = import_model(model)
    np.testing.assert_array_equal(float_outputs(graph, run_float(graph, feeds))[y], want)
    seen = calibrate(graph, feeds).tensors[y]
    assert (seen.minimum, seen.maximum) == (want.min(), want.max())
    blind = run_float(import_model(without_quantizers(model)), feeds)
    assert blind[y].max() > 1.5 * want.max(), "the quantizers make no difference"


def without_quantizers(model):
    """Of computed tensors: each QuantizeLinear and DequantizeLinear becomes an Identity."""
    constants = {t.name for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in constants:
            node.op_type = "Identity"
            del node.input[1:]
    return model
