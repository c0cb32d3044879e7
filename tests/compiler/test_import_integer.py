"""Integer operators, and inputs and outputs that are codes: ONNX Runtime's own where scales are powers of two."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from integer_nets import MICROSOFT, IntegerNet, both, coded, feeds_of, low, middle, quantized, same
from onnx import TensorProto, numpy_helper
from onnx_nets import Net, runtime
from onnxruntime import quantization

from sateen.compiler.check import check_model
from sateen.compiler.export import compare_with_file, export_onnx
from sateen.compiler.importer import import_model
from sateen.compiler.importer.integer_forms import OPERATORS, REFUSED
from sateen.errors import DataError, ModelError
from sateen.ir.nodes import Concat, Conv
from sateen.ir.serialize import from_bytes, to_bytes
from sateen.sim.reference import run_reference

BOTH = pytest.mark.parametrize("kind", [np.uint8, np.int8])


# -- operators -----------------------------------------------------------------------------------------------


def conv_net(kind, weights=np.int8, zero=0, group=1, per_channel=True, domain="", **attributes):
    net = IntegerNet(kind, seed=2)
    x, *pair = net.quantized(net.input("N", 4, 7, 7), 2**-5, middle(kind) + 3)
    scale = net.scale(np.exp2(np.resize((-7, -9, -8), 8)) if per_channel else 2.0**-8)
    codes = net.codes(8, 4 // group, 3, 3, kind=weights)
    zeros = net.constant(np.full(8 if per_channel else (), zero), weights)
    result = net.pair(2**-2, middle(kind) - 9)
    y = net(
        "QLinearConv", x, *pair, codes, scale, zeros, *result, net.bias(8), group=group, domain=domain, **attributes
    )  # fmt: skip
    return net.output(net("DequantizeLinear", y, *result))


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize(
    ("kind", "weights", "zero"),
    [
        (np.int8, np.int8, 0), (np.uint8, np.int8, 0), (np.uint8, np.uint8, 128), (np.uint8, np.uint8, 119),
        (np.uint8, np.uint8, 0),
    ],
)  # fmt: skip
def test_qlinear_conv(kind, weights, zero, group):
    """Zero points of weights and activations, padding, per-channel scales, int32 biases."""
    same(conv_net(kind, weights, zero, group, pads=[1, 0, 2, 1], strides=[2, 1]).model())


def test_weights_that_need_nine_bits_are_read_in_two_parts():
    graph = import_model(conv_net(np.uint8, np.uint8, 119).model())
    conv = next(n for n in graph.nodes if isinstance(n, Conv) and n.given is not None)
    assert conv.given.format.name == "int8" and 0 < conv.given.again <= 4
    assert conv.weight.shape[3] == 4 + conv.given.again
    assert [n for n in graph.nodes if isinstance(n, Concat)]
    integers = conv.weight / conv.given.scale[:, None, None, None]
    assert integers.min() >= -128 and integers.max() <= 127
    macs = [
        getattr(op, "macs", None) for op in quantized(conv_net(np.uint8, np.uint8, 119).model()).graph.ops
    ]
    assert 5 * 5 * 8 * 3 * 3 * 4 in macs  # those of the file


def test_weights_of_two_signs_become_one_format():
    net = IntegerNet(seed=3)
    x, *pair = net.quantized(net.input("N", 4, 5, 5), 2**-5, 100)
    for zero in (0, 128):
        result = net.pair(2**-1, 77)
        codes = net.codes(4, 4, 1, 1, kind=np.uint8)
        weights = codes, net.scale(2**-8), net.zero(zero, np.uint8)
        x, pair = net("QLinearConv", x, *pair, *weights, *result), result
    same(net.output(net("DequantizeLinear", x, *pair)).model())


@BOTH
@pytest.mark.parametrize("per_column", [False, True])
def test_qlinear_matmul(kind, per_column):
    net = IntegerNet(kind, seed=4)
    x, *pair = net.quantized(net.input("N", 20), 2**-5, middle(kind) + 5)
    scale = net.scale(np.exp2(np.resize((-7, -8), 6)) if per_column else 2**-8)
    zeros = net.constant(np.resize((3, -2), 6) if per_column else 3, np.int8)
    result = net.pair(2**-2, middle(kind) + 1)
    y = net("QLinearMatMul", x, *pair, net.codes(20, 6, low=-90, high=90), scale, zeros, *result)
    same(net.output(net("DequantizeLinear", y, *result)).model())


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("transposed", [0, 1])
def test_qgemm(transposed, real):
    net = IntegerNet(seed=5)
    x, *pair = net.quantized(net.input("N", 12), 2**-5, 130)
    shape = (6, 12) if transposed else (12, 6)
    scale = net.scale(np.exp2(np.resize((-7, -8), 6)))
    weights = net.codes(*shape), scale, net.constant(np.zeros(6), np.int8)
    result = net.pair(2**-2, 120)
    inputs = (x, *pair, *weights, net.bias(6), *(() if real else result))
    y = net("QGemm", *inputs, domain=MICROSOFT, transB=transposed, alpha=1.0)
    same(net.output(y if real else net("DequantizeLinear", y, *result)).model())


def elementwise(kind, op, result, **attributes):
    net = IntegerNet(kind, seed=6)
    x, *pair = net.quantized(net.input("N", 4, 6, 6), 2**-5, middle(kind) + 7)
    result = net.pair(*result)
    y = net(op, x, *pair, *result, domain=MICROSOFT, **attributes)
    return net.output(net("DequantizeLinear", y, *result)).model()


@BOTH
@pytest.mark.parametrize(
    ("op", "scale", "attributes"),
    [
        ("QLinearSigmoid", 2**-8, {}),
        ("QLinearLeakyRelu", 2**-5, {"alpha": 0.25}),
        ("QLinearAveragePool", 2**-6, {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("QLinearGlobalAveragePool", 2**-7, {}),
        ("QLinearReduceMean", 2**-7, {"axes": [2, 3], "keepdims": 1}),
    ],
)
def test_operators_of_one_tensor(kind, op, scale, attributes):
    zero = low(kind) if op == "QLinearSigmoid" else middle(kind)
    model = elementwise(kind, op, (scale, zero), **attributes)
    if op == "QLinearReduceMean":  # of which ONNX Runtime has no implementation here
        assert not [f for f in check_model(model) if not f.supported]
        return
    same(model)


@BOTH
def test_qlinear_add_and_concat_of_different_scales(kind):
    net = IntegerNet(kind, seed=7)
    a = net.quantized(net.input("N", 4, 6, 6), 2**-5, middle(kind) + 3)
    b = net.quantized(net.input("N", 4, 6, 6, name="z"), 2**-4, middle(kind) - 8)
    total = net.pair(2**-4, middle(kind) + 2)
    s = net("QLinearAdd", *a, *b, *total, domain=MICROSOFT)
    joined = net.pair(2**-4, middle(kind) - 1)
    y = net("QLinearConcat", *joined, s, *total, *a, *b, domain=MICROSOFT, axis=1)
    same(net.output(net("DequantizeLinear", y, *joined)).model())


def test_qlinear_add_and_mul_of_a_constant():
    net = IntegerNet(seed=8)
    x, *pair = net.quantized(net.input("N", 4, 6, 6), 2**-5, 120)
    scaled, shifted = net.pair(2**-5, 124), net.pair(2**-5, 110)
    constant = net.constant(np.array([3, 20, 250, 128]).reshape(4, 1, 1), np.uint8), *net.pair(2**-7, 128)
    y = net("QLinearMul", x, *pair, *constant, *scaled, domain=MICROSOFT)
    y = net("QLinearAdd", y, *scaled, *constant, *shifted, domain=MICROSOFT)
    same(net.output(net("DequantizeLinear", y, *shifted)).model())


@pytest.mark.parametrize("coded", [False, True])
def test_softmax_is_rounded_on_the_host(coded):
    net = IntegerNet(np.int8, seed=9)
    x, *pair = net.quantized(net.input("N", 10), 2**-4, 5)
    result = net.pair(2**-8, -128)
    y = net("QLinearSoftmax", x, *pair, *result, domain=MICROSOFT, axis=-1, opset=17)
    if coded:
        model = net.outputs_of(TensorProto.INT8, y).model()
    else:
        model = net.output(net("DequantizeLinear", y, *result)).model()
    for want, got in both(model, 16):
        steps = np.abs(got.astype(float) - want) / (1 if coded else 2**-8)
        assert steps.max() <= 1 and np.mean(steps > 0) < 0.02
    graph = import_model(model)
    assert [op.kind for op in graph.outputs[0].host] == ["softmax", "round"]


@pytest.mark.parametrize("op", ["ConvInteger", "MatMulInteger"])
def test_sums_are_int32(op):
    net = IntegerNet(seed=10)
    zero = net.zero(117)
    if op == "ConvInteger":
        x = net.code_input("N", 3, 6, 6)
        y = net(op, x, net.codes(5, 3, 3, 3, kind=np.uint8), zero, net.zero(121), pads=[1, 1, 1, 1])
    else:
        x = net.code_input("N", 14)
        y = net(op, x, net.codes(14, 5, kind=np.uint8), zero, net.constant([121, 3, 128, 9, 200], np.uint8))
    model = net.outputs_of(TensorProto.INT32, y).model()
    same(model)
    assert import_model(model).outputs[0].port.kind == "int32"


def test_sums_that_are_scaled():
    """As ONNX Runtime wrote quantized files at first: ConvInteger, Cast, Mul by the product of scales, Add."""
    net = IntegerNet(seed=11)
    x, scale, zero = net.quantized(net.input("N", 3, 8, 8), 2**-5, 117)
    y = net("ConvInteger", x, net.codes(5, 3, 3, 3, kind=np.uint8), zero, net.zero(125), pads=[1, 1, 1, 1])
    product = net("Mul", scale, net.scale(2**-7))
    y = net("Add", net("Mul", net("Cast", y, to=1), product), net.scale(np.arange(5).reshape(5, 1, 1) / 4))
    y = net("MaxPool", net("Relu", y), kernel_shape=[2, 2], strides=[2, 2])
    y, scale, zero = net.quantized(y, 2**-1, 10)
    flat = net("Flatten", y)
    y = net("MatMulInteger", flat, net.codes(80, 4), zero)
    y = net("Mul", net("Cast", y, to=1), net("Mul", scale, net.scale(2**-6)))
    same(net.output(y).model())


def test_channels_last():
    net = IntegerNet(seed=12)
    x, *pair = net.quantized(net.input("N", 6, 6, 4), 2**-5, 120)
    result = net.pair(2**-2, 110)
    weights = net.codes(8, 4, 3, 3), net.scale(2**-8), net.zero(0, np.int8)
    attributes = {"domain": MICROSOFT, "channels_last": 1}
    y = net("QLinearConv", x, *pair, *weights, *result, net.bias(8), pads=[1, 1, 1, 1], **attributes)
    pooled = net.pair(2**-2, 100)
    y = net("QLinearAveragePool", y, *result, *pooled, kernel_shape=[2, 2], strides=[2, 2], **attributes)
    same(net.output(net("DequantizeLinear", y, *pooled)).model())


# -- codes in between ----------------------------------------------------------------------------------------


@BOTH
def test_codes_are_moved_and_chosen(kind):
    net = IntegerNet(kind, seed=13)
    zero = middle(kind) + 4
    x, *pair = net.quantized(net.input("N", 4, 8, 8), 2**-5, zero)
    y = net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1])
    y = net("Pad", y, net.constant([0, 0, 1, 1, 0, 0, 1, 1]), net.zero(zero))
    part = net("Slice", y, net.constant([1]), net.constant([3]), net.constant([1]))
    y = net("Concat", y, part, axis=1)
    y = net("Transpose", y, perm=[0, 2, 3, 1])
    same(net.output(net("DequantizeLinear", y, *pair)).model())


def test_relu_and_cast_of_codes():
    net = IntegerNet(np.int8, seed=14)
    x, *pair = net.quantized(net.input("N", 4, 5, 5), 2**-5)
    same(net.output(net("DequantizeLinear", net("Relu", x), *pair)).model())
    x, *pair = net.quantized(net.input("N", 4, 5, 5, name="z"), 2**-5, -6)
    same(net.output(net("Cast", x, to=1)).model())


def test_codes_of_different_scales_are_not_joined():
    net = IntegerNet(seed=15)
    a, *pair = net.quantized(net.input("N", 4, 5, 5), 2**-5, 6)
    b, *_ = net.quantized(net.input("N", 4, 5, 5, name="z"), 2**-4, 6)
    model = net.output(net("DequantizeLinear", net("Concat", a, b, axis=1), *pair)).model()
    assert next(f.op_type for f in check_model(model) if f.supported is False) == "Concat"


# -- inputs and outputs of codes -----------------------------------------------------------------------------


@BOTH
def test_codes_go_in_and_come_out(kind):
    """Scales are no powers of two: a step next to a tie, and what the following layers make of it."""
    for want, got in both(coded(kind), 64):
        assert want.dtype == kind
        steps = np.abs(got.astype(int) - want)
        assert steps.max() <= 2 and np.mean(steps > 0) < 0.1
    port = import_model(coded(kind)).inputs[0]
    assert (port.kind, port.codes.scale) == (np.dtype(kind).name, pytest.approx(0.0371))
    assert not [f for f in check_model(coded(kind)) if not f.supported]


def test_codes_that_go_straight_through():
    net = IntegerNet(np.int8, seed=17)
    x = net.code_input("N", 4, 5, 5)
    pair = net.pair(0.02, 7)
    y = net("QLinearLeakyRelu", x, *pair, *pair, domain=MICROSOFT, alpha=1.0)
    model = net.outputs_of(TensorProto.INT8, y).model()
    x = feeds_of(model)
    got = run_reference(quantized(model).graph, x)
    np.testing.assert_array_equal(next(iter(got.values())), x["x"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda x: x.astype(np.float32),
            "type float32; the model takes int8 codes, -128 to 127, that stand for 0.0371",
        ),
        (lambda x: x.astype(np.int16) + 60, "it holds 187; the model takes int8 codes, -128 to 127"),
    ],
)
def test_other_arrays_are_refused(change, says):
    graph = quantized(coded()).graph
    x = feeds_of(coded())
    x["x"].flat[0] = 127
    with pytest.raises(DataError, match=says):
        run_reference(graph, {"x": change(x["x"])})
    run_reference(graph, {"x": x["x"].astype(np.int64)})  # the numbers count, not how many bytes they have


def test_the_ports_survive_the_file_and_the_export():
    graph = quantized(coded()).graph
    again = from_bytes(to_bytes(graph))
    assert (again.inputs, again.outputs) == (graph.inputs, graph.outputs)
    feeds = feeds_of(coded(), 16)
    want = next(iter(run_reference(again, feeds).values()))
    got = next(iter(runtime(export_onnx(graph), feeds).values()))
    assert got.dtype == want.dtype == np.int8
    steps = np.abs(got.astype(int) - want)
    assert steps.max() <= 2 and np.mean(steps > 0) < 0.05


def test_sums_survive_the_export():
    net = IntegerNet(seed=18)
    y = net("ConvInteger", net.code_input("N", 3, 6, 6), net.codes(5, 3, 3, 3, low=-9, high=9), net.zero(117))
    model = net.outputs_of(TensorProto.INT32, y).model()
    feeds = feeds_of(model)
    exported = export_onnx(quantized(model).graph)
    np.testing.assert_array_equal(*(next(iter(runtime(m, feeds).values())) for m in (model, exported)))


def test_a_quantized_output_is_codes():
    """Of a file whose last node is QuantizeLinear, and whose output is read elsewhere, too."""
    net = IntegerNet(np.int8, seed=19)
    x, *pair = net.quantized(net.input("N", 4, 5, 5), 2**-5, -6)
    net.outputs_of(TensorProto.INT8, x)
    same(net.output(net("DequantizeLinear", net("MaxPool", x, kernel_shape=[2, 2]), *pair)).model())


def test_integers_whose_scale_nobody_says_are_refused():
    net = Net()
    x = net.input("N", 4, kind=TensorProto.INT8)
    model = net.output(net("Add", x, net.constant([1], np.int8))).model()
    assert "its type is int8" in " ".join(str(f) for f in check_model(model))


def test_codes_of_floating_point_types_are_no_output():
    net = Net(opset=19)
    zero = net.constant(np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)))
    y = net("QuantizeLinear", net.input("N", 4), net.constant(0.5, np.float32), zero)
    net.outputs += [onnx.helper.make_tensor_value_info(y, TensorProto.FLOAT8E4M3FN, None)]
    [finding] = [f for f in check_model(net.model()) if f.supported is False]
    assert finding.op_type == "graph output" and "codes of e4m3fn" in finding.reason


# -- files of ONNX Runtime's quantizer ----------------------------------------------------------------------


class Samples(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        self.left = [{"x": rng.normal(size=(1, 3, 12, 12)).astype(np.float32)} for _ in range(6)]

    def get_next(self):
        return self.left.pop() if self.left else None


def floating(path) -> None:
    net = Net(seed=23)
    x = net("Relu", net.conv(net.input("N", 3, 12, 12), 3, 8, 3, 3, pads=[1] * 4))
    y = net("LeakyRelu", net.conv(x, 8, 8, 3, 3, group=8, pads=[1] * 4), alpha=0.1)
    y = net("Add", x, y)
    pooled = net("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    other = net("Sigmoid", net.conv(y, 8, 8, 2, 2, strides=[2, 2]))
    y = net("Relu", net.conv(net("Concat", pooled, other, axis=1), 16, 8, 3, 3))
    y = net("Flatten", net("GlobalAveragePool", y))
    y = net("Gemm", y, net.random(8, 6), net.random(6))
    onnx.save(net.output(net("Softmax", y, axis=-1)).model(), path)


@pytest.mark.parametrize("form", [quantization.QuantFormat.QOperator, quantization.QuantFormat.QDQ])
@pytest.mark.parametrize(
    ("activations", "weights"), [("QUInt8", "QUInt8"), ("QUInt8", "QInt8"), ("QInt8", "QInt8")]
)
@pytest.mark.parametrize("per_channel", [False, True])
def test_files_quantized_by_onnxruntime(form, activations, weights, per_channel, tmp_path):
    """Of any scales: a step next to a tie, that later layers read."""
    floating(tmp_path / "float.onnx")
    quantization.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "integer.onnx",
        Samples(),
        quant_format=form,
        activation_type=quantization.QuantType[activations],
        weight_type=quantization.QuantType[weights],
        per_channel=per_channel,
        extra_options={"WeightSymmetric": weights == "QInt8"},
    )
    model = onnx.load(tmp_path / "integer.onnx")
    assert all(f.supported for f in check_model(model))
    [(want, got)] = both(model, 16)
    steps = np.abs(got - want) * 256
    assert steps.max() < 6 and np.mean(steps > 0.5) < 0.2
    found = compare_with_file(model, import_model(model), quantized(model).graph, feeds_of(model, 16))
    assert found.codes > 40_000 and found.differ < 2e-3 * found.codes
    assert found.steps <= 3  # of a table's result, where it is steep
    assert found.ties + found.float32 + found.constants == found.differ


@pytest.mark.parametrize("weights", ["QUInt8", "QInt8"])
def test_files_quantized_dynamically_by_onnxruntime(weights, tmp_path):
    floating(tmp_path / "float.onnx")
    kind = quantization.QuantType[weights]
    quantization.quantize_dynamic(tmp_path / "float.onnx", tmp_path / "integer.onnx", weight_type=kind)
    [(want, got)] = both(onnx.load(tmp_path / "integer.onnx"), 16, calibrate=True)
    assert np.corrcoef(want.ravel(), got.ravel())[0, 1] > 0.99


# -- dynamic scales ------------------------------------------------------------------------------------------


def dynamic(domain_form: bool):
    net = IntegerNet(seed=20)
    x = net("Relu", net.conv(net.input("N", 3, 8, 8), 3, 4, 3, 3))
    y = net("DynamicQuantizeLinear", x, outputs=3)
    scale, zero = f"{y}_1", f"{y}_2"
    z = net("ConvInteger", y, net.codes(5, 4, 3, 3), zero, net.zero(4, np.int8))
    z = net("Mul", net("Cast", z, to=1), net("Mul", scale, net.scale(0.01)))
    z = net("Flatten", net("GlobalAveragePool", net("Relu", z)))
    weights = net.codes(5, 6), net.scale(np.linspace(0.01, 0.02, 6)), net.zero(np.zeros(6), np.int8)
    if domain_form:
        z = net("DynamicQuantizeMatMul", z, *weights, net.random(6), domain=MICROSOFT)
    else:
        y = net("DynamicQuantizeLinear", z, outputs=3)
        arguments = (y, weights[0], f"{y}_1", weights[1], f"{y}_2", weights[2], net.random(6))
        z = net("MatMulIntegerToFloat", *arguments, domain=MICROSOFT)
    return net.output(z).model()


@pytest.mark.parametrize("domain_form", [False, True])
def test_dynamic_scales_are_calibrated(domain_form, caplog):
    model = dynamic(domain_form)
    with caplog.at_level(logging.WARNING):
        [(want, got)] = both(model, 32, calibrate=True)
    assert "the file finds the scale in each sample" in caplog.text
    assert f"'{next(n.name for n in model.graph.node if n.op_type.startswith('Dynamic'))}'" in caplog.text
    assert np.corrcoef(want.ravel(), got.ravel())[0, 1] > 0.999
    with pytest.raises(DataError, match=r"no calibration data|not how it is rounded"):
        quantized(model)


def test_a_dynamic_scale_that_is_given_out_is_refused():
    net = Net()
    y = net("DynamicQuantizeLinear", net.input("N", 4), outputs=3)
    model = net.output(y, f"{y}_1", f"{y}_2").model()
    findings = [f for f in check_model(model) if f.supported is False]
    assert findings and findings[0].op_type == "DynamicQuantizeLinear"


# -- what is said --------------------------------------------------------------------------------------------


def test_findings_are_of_the_file_s_nodes():
    model = conv_net(np.uint8, np.uint8, 119).model()
    assert [f.node for f in check_model(model)] == [n.name for n in model.graph.node]
    assert [f.op_type for f in check_model(model)] == [n.op_type for n in model.graph.node]
    model.graph.initializer.append(numpy_helper.from_array(np.array([3.0, 4.0], np.float32), "scales"))
    model.graph.node[1].input[4] = "scales"
    assert [f.op_type for f in check_model(model) if f.supported is False] == ["QLinearConv"]


@pytest.mark.parametrize("op", sorted(REFUSED))
def test_other_operators_of_onnxruntime_are_refused_with_a_reason(op):
    net = Net()
    model = net.output(net(op, net.input("N", 4), domain=MICROSOFT)).model()
    [finding] = [f for f in check_model(model) if f.supported is False]
    assert finding.reason == REFUSED[op] and finding.remedy


@pytest.mark.parametrize("op", OPERATORS)
def test_an_operator_without_its_inputs_is_refused_in_one_line(op):
    net = Net()
    domain = MICROSOFT if op.startswith(("QLinear", "QGemm", "MatMulIntegerTo", "DynamicQuantizeM")) else ""
    if op in ("QLinearConv", "QLinearMatMul"):
        domain = ""
    model = net.output(net(op, net.input("N", 4), domain=domain)).model()
    try:
        findings = [str(f) for f in check_model(model) if f.supported is False]
        assert findings and all("\n" not in f for f in findings)
    except ModelError as e:  # ONNX's own checker knows how many inputs there must be
        assert "\n" not in str(e)


def test_the_model_is_not_changed():
    model = coded()
    before = model.SerializeToString(deterministic=True)
    import_model(model)
    assert model.SerializeToString(deterministic=True) == before
