"""Models that are quantized already: the file's codes are the reference's, or the error says why not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from networks import lenet, residual, run_slowly
from onnx_nets import Net, runtime, samples

from sateen.compiler.export.model import export_onnx
from sateen.compiler.importer import check_model, import_model
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.conformed import conformed
from sateen.compiler.quantize.given import activation_format, conform, weight_format
from sateen.compiler.quantize.network import quantize
from sateen.errors import DataError, FormatError, ModelError
from sateen.formats import parse_format
from sateen.sim.reference import reference_codes, run_reference

QONNX = ("qonnx.custom_op.general", "onnx.brevitas")


def compiled(model, weights=None, activations=None):
    """Without calibration data, in the file's formats or those that are given."""
    graph = import_model(model)
    weights = weights or weight_format(graph)
    activations = activations or activation_format(graph)
    graph = conform(graph, activations)
    return quantize(graph, None, weight_format=weights, activation_format=activations)


def in_qonnx(model, feeds, monkeypatch):
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    monkeypatch.setattr(onnx, "IR_VERSION", 10)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.domain in QONNX:
            node.domain, node.op_type = QONNX[0], {"Quant": "IntQuant"}.get(node.op_type, node.op_type)
    return execute_onnx(ModelWrapper(copy).transform(InferShapes()), feeds)


def same(model, want, feeds, qgraph=None, tolerance=1e-5):
    """The reference gives what another implementation gave, up to the float32 rounding of the other."""
    qgraph = qgraph or compiled(model)
    got = run_reference(qgraph, feeds)
    for name, y in want.items():
        assert np.ptp(y) > 0, "the case excites nothing"
        np.testing.assert_allclose(got[name].reshape(y.shape), y, rtol=tolerance, atol=tolerance)
    return qgraph


# -- round trips ---------------------------------------------------------------------------------------------

FORMATS = [
    ("int8", "int8"), ("int8", "uint8"), ("int4", "int4"), ("int4", "uint4"), ("int2n", "uint2"), ("int3", "int8"),
    ("e4m3fn", "e4m3fn"), ("e2m1", "e2m1"), ("e3m2", "e3m2"), ("int4", "e4m3fn"), ("e2m1", "int8"),
]  # fmt: skip


@pytest.mark.parametrize("network", [lenet, residual])
@pytest.mark.parametrize("formats", FORMATS, ids="-".join)
def test_our_own_export_comes_back_code_by_code(network, formats):
    graph, b = network(0)
    statistics = calibrate(graph, b.samples(), run=run_slowly)
    first = quantize(graph, statistics, weight_format=formats[0], activation_format=formats[1])
    second = compiled(export_onnx(first))
    assert (second.metadata["weight_format"], second.metadata["activation_format"]) == formats
    x = b.samples(3, seed=4)
    codes = [reference_codes(q, x) for q in (first, second)]
    assert len(first.ops) == len(second.ops)
    for ours, theirs in zip(first.ops, second.ops, strict=True):
        raw = ours.raw
        if hasattr(ours, "weight"):
            assert (ours.weight.codes == theirs.weight.codes).all()
        if not raw:
            assert (codes[0][ours.output] == codes[1][theirs.output]).all()
            quant = second.tensors[theirs.output].quant  # a file's own scale divides in float32
            assert first.tensors[ours.output].quant == replace(quant, precision="float64", added=0)
        else:  # a bias is stored as float32 if it needs more than 32 bits
            real = [codes[0][ours.output] * ours.raw_scale, codes[1][theirs.output] * theirs.raw_scale]
            np.testing.assert_allclose(*real, rtol=1e-6, atol=1e-6)


# -- QDQ, as ONNX Runtime and PyTorch write it ---------------------------------------------------------


class Qdq(Net):
    """Every tensor between QuantizeLinear and DequantizeLinear."""

    def qdq(self, x, scale, zero=0, kind=np.int8):
        arguments = self.constant(scale, np.float32), self.constant(zero, kind)
        return self("DequantizeLinear", self("QuantizeLinear", x, *arguments), *arguments)

    def weights(self, shape, exponents, axis=0, kind=np.int8, low=-127, high=127):
        scale = np.exp2(np.resize(exponents, shape[axis])).astype(np.float32)
        codes = self.constant(self.rng.integers(low, high + 1, shape), kind)
        return self("DequantizeLinear", codes, self.constant(scale), axis=axis), scale

    def qconv(self, x, scale, channels, outputs, *kernel, kind=np.int8, low=-127, high=127, **attributes):
        shape = (outputs, channels, *kernel)
        weight, steps = self.weights(shape, (-8, -7, -9), kind=kind, low=low, high=high)
        bias = self.constant(self.rng.integers(-3000, 3000, outputs), np.int32)
        bias = self("DequantizeLinear", bias, self.constant(steps * np.float32(scale)), axis=0)
        return self("Conv", x, weight, bias, **attributes)


def everything(activations=np.int8, zero=0):
    """Conv, Relu, MaxPool, Add, Concat, GlobalAveragePool, Flatten, Gemm; scales are powers of two."""
    net = Qdq(opset=17)
    low = np.iinfo(activations).min
    x = net.qdq(net.input(1, 3, 8, 8), 2**-5, zero, activations)
    a = net("Relu", net.qconv(x, 2**-5, 3, 8, 3, 3, pads=[1, 1, 1, 1]))
    a = net.qdq(a, 2**-4, low, activations)
    b = net.qdq(net.qconv(a, 2**-4, 8, 8, 1, 1), 2**-3, zero, activations)
    total = net.qdq(net("Relu", net("Add", a, b)), 2**-3, low, activations)
    pooled = net.qdq(net("MaxPool", total, kernel_shape=[2, 2], strides=[2, 2]), 2**-2, zero, activations)
    other = net.qdq(net("MaxPool", b, kernel_shape=[2, 2], strides=[2, 2]), 2**-3, zero, activations)
    both = net.qdq(net("Concat", pooled, other, axis=1), 2**-2, zero, activations)
    mean = net.qdq(net("GlobalAveragePool", both), 2**-5, zero, activations)
    flat = net("Flatten", mean)
    weight, steps = net.weights((5, 16), (-7, -8))
    bias = net(
        "DequantizeLinear", net.constant([1, -2, 300, 4, -500], np.int32), net.constant(steps * 2**-5), axis=0
    )
    y = net.qdq(net("Gemm", flat, weight, bias, transB=1), 2**-4, zero, activations)
    return net.output(y)


@pytest.mark.parametrize(("kind", "zero"), [(np.int8, 0), (np.int8, -7), (np.uint8, 128), (np.uint8, 90)])
def test_power_of_two_scales_differ_nowhere_from_onnxruntime(kind, zero):
    model = everything(kind, zero).model()
    feeds = samples(model, seed=3)
    qgraph = same(model, runtime(model, feeds), feeds, tolerance=0)
    assert qgraph.metadata["activation_format"] == np.dtype(kind).name
    assert not [f for f in check_model(model) if not f.supported]


def test_other_scales_differ_by_one_step_at_most():
    net = Qdq(opset=17)
    x = net.qdq(net.input(1, 3, 8, 8), 0.0213)
    a = net.qdq(net("Relu", net.qconv(x, 0.0213, 3, 8, 3, 3)), 0.0371)
    model = net.output(net.qdq(net("AveragePool", a, kernel_shape=[3, 3]), 0.0227)).model()
    feeds = samples(model, seed=1)
    want = next(iter(runtime(model, feeds).values()))
    got = next(iter(run_reference(compiled(model), feeds).values()))
    steps = np.abs(np.rint((got - want) / 0.0227))
    assert steps.max() <= 1
    assert np.count_nonzero(steps) <= 0.05 * steps.size


def test_uint8_and_int8_in_one_network():
    net = Qdq(opset=17)
    x = net.qdq(net.input(1, 2, 6, 6), 2**-5, 100, np.uint8)
    a = net.qdq(net.qconv(x, 2**-5, 2, 4, 3, 3), 2**-4, -3, np.int8)
    model = net.output(net.qdq(net("Relu", a), 2**-5, 0, np.uint8)).model()
    feeds = samples(model)
    qgraph = same(model, runtime(model, feeds), feeds, tolerance=0)
    assert qgraph.metadata["activation_format"] == "int8"
    for wider in ("uint8", "int8"):
        same(
            model, runtime(model, feeds), feeds, compiled(model, activations=parse_format(wider)), tolerance=0
        )
    with pytest.raises(FormatError, match=r"tensor 'x' is quantized as uint8.*int4.*--activations uint8"):
        compiled(model, activations=parse_format("int4"))


def test_weights_with_a_zero_point_that_int8_holds():
    def model(zero):
        net = Net(opset=17)
        x = Qdq.qdq(net, net.input(1, 2, 4, 4), 2**-4)
        codes = net.constant(np.linspace(0, 255, 6).reshape(3, 2, 1, 1), np.uint8)
        arguments = net.constant(2**-7, np.float32), net.constant(zero, np.uint8)
        weight = net("DequantizeLinear", codes, *arguments)
        return net.output(Qdq.qdq(net, net("Conv", x, weight), 2**-4)).model()

    good = model(128)
    feeds = samples(good)
    assert same(good, runtime(good, feeds), feeds, tolerance=0).metadata["weight_format"] == "int8"
    assert same(model(20), runtime(model(20), feeds), feeds, tolerance=0).metadata["weight_format"] == "int8"


def test_fake_quantized_constants_and_transposed_weights():
    """As PyTorch's fake_quantize exports: float weights, QuantizeLinear, DequantizeLinear, Transpose, MatMul."""
    net = Qdq(opset=17)
    x = net.qdq(net.input(1, 6), 2**-4)
    arguments = net.constant(np.exp2([-6, -7, -6, -5]), np.float32), net.constant(np.zeros(4), np.int8)
    codes = net("QuantizeLinear", net.random(4, 6), *arguments, axis=0)
    weight = net("Transpose", net("DequantizeLinear", codes, *arguments, axis=0), perm=[1, 0])
    y = net("Add", net("MatMul", x, weight), net.random(4))
    model = net.output(net.qdq(y, 2**-4)).model()
    feeds = samples(model)
    qgraph = same(model, runtime(model, feeds), feeds, tolerance=0)
    steps = np.exp2([-6, -7, -6, -5]) / qgraph.ops[0].weight.scale  # finer where there is room, for the bias
    assert set(steps) <= {1.0, 2.0, 4.0}


def test_int4_weights_with_int8_activations():
    import ml_dtypes

    net = Qdq(opset=21)
    x = net.qdq(net.input(1, 3, 6, 6), 2**-5)
    y = net.qconv(x, 2**-5, 3, 4, 3, 3, kind=ml_dtypes.int4, low=-8, high=7)
    model = net.output(net.qdq(y, 2**-5)).model()
    feeds = samples(model)
    qgraph = same(model, runtime(model, feeds), feeds, tolerance=0)
    assert (qgraph.metadata["weight_format"], qgraph.metadata["activation_format"]) == ("int4", "int8")
    same(model, runtime(model, feeds), feeds, compiled(model, weights=parse_format("int8")), tolerance=0)
    with pytest.raises(FormatError, match=r"times its scale \(int4 in the file\), which int2 does not have"):
        compiled(model, weights=parse_format("int2"))


# -- QONNX, as Brevitas and QKeras write it --------------------------------------------------------------


class Brevitas(Net):
    domain = QONNX[0]
    operator = "Quant"

    def quant(self, x, scale, bits, signed=1, narrow=0, zero=0, mode="ROUND"):
        inputs = [self.constant(v, np.float32) for v in (scale, zero, bits)]
        return self(
            self.operator, x, *inputs, domain=self.domain, signed=signed, narrow=narrow, rounding_mode=mode
        )

    def bipolar(self, x, scale):
        return self("BipolarQuant", x, self.constant(scale, np.float32), domain=self.domain)

    def batch_norm(self, x, channels):
        constants = [self.random(channels, low=low) for low in (-0.5, -0.5, -0.2, 0.5)]
        return self("BatchNormalization", x, *constants)


def agrees_with_qonnx(net, y, monkeypatch, tolerance=1e-6):
    model = net.output(y).model()
    feeds = samples(model)
    return same(model, in_qonnx(model, feeds, monkeypatch), feeds, tolerance=tolerance)


@pytest.mark.parametrize("domain", QONNX)
@pytest.mark.parametrize("bits", range(1, 9))
def test_quant_of_every_width(bits, domain, monkeypatch):
    net = Brevitas(seed=bits)
    net.domain, net.operator = domain, "IntQuant" if bits % 2 else "Quant"
    x = net.quant(net.input(1, 3, 6, 6), 2**-3, bits, signed=0)
    weight = net.quant(
        net.random(4, 3, 3, 3), np.exp2([-1, -2, -1, -3]).reshape(4, 1, 1, 1), max(bits, 2), narrow=1
    )
    y = net("Relu", net("Conv", x, weight, pads=[1, 1, 1, 1]))
    y = net.quant(y, 2**-2, bits, signed=0, narrow=int(bits > 2))
    qgraph = agrees_with_qonnx(net, y, monkeypatch)
    assert qgraph.metadata["weight_format"] == f"int{max(bits, 2)}n"
    assert qgraph.metadata["activation_format"] == f"uint{bits}"


def binary(seed=0, scale=0.5):
    """Bipolar weights and activations, batch normalization that turns some signs, as in binary networks."""
    net = Brevitas(seed=seed)
    x = net.quant(net.input(1, 3, 8, 8), 2**-6, 8)
    y = net("Conv", x, net.bipolar(net.random(8, 3, 3, 3), 0.25), pads=[1, 1, 1, 1])
    y = net("Clip", net.batch_norm(y, 8), net.constant(-1, np.float32), net.constant(1, np.float32))
    y = net.bipolar(y, scale)
    y = net("Conv", y, net.bipolar(net.random(8, 8, 3, 3), 0.5), net.random(8), pads=[1, 1, 1, 1])
    y = net.bipolar(net("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]), 1.0)
    weight = net.quant(net.random(5, 128), 0.25, 2, narrow=1)  # ternary
    return net, net("Gemm", net("Flatten", y), weight, transB=1)


@pytest.mark.parametrize("seed", range(3))
def test_bipolar_and_ternary_networks(seed, monkeypatch):
    net, y = binary(seed)
    qgraph = agrees_with_qonnx(net, y, monkeypatch)
    assert qgraph.metadata["weight_format"] == "int2n"
    assert qgraph.metadata["activation_format"] == "int8"


def test_the_sign_of_zero_is_positive(monkeypatch):
    """Sums of exactly zero, and biases that are whole steps of the sum."""
    net = Brevitas(seed=1)
    x = net.bipolar(net.quant(net.input(1, 4, 6, 6), 2**-4, 4), 0.5)
    bias = net.constant([0, 0.25, -0.25, 0.5, -0.5, 0.1], np.float32)
    y = net("Conv", x, net.bipolar(net.random(6, 4, 1, 1), 0.25), bias)
    qgraph = agrees_with_qonnx(net, net.bipolar(y, 1.0), monkeypatch)
    assert qgraph.metadata["activation_format"] == "int4"


def test_two_quantizers_in_a_row_and_around_relu(monkeypatch):
    net = Brevitas(seed=2)
    x = net.quant(net.quant(net.input(1, 3, 6, 6), 2**-5, 8), 2**-3, 5)
    y = net("Conv", x, net.quant(net.random(4, 3, 1, 1), 2**-3, 4))
    y = net.quant(net("Relu", net.quant(y, 0.037, 8)), 0.0523, 4, signed=0)
    y = net.quant(net("Add", y, net.quant(y, 2**-1, 3, signed=0)), 2**-3, 6)
    agrees_with_qonnx(net, y, monkeypatch, tolerance=0.13)


@pytest.mark.parametrize(
    ("e", "m", "bias", "top"), [(4, 3, 7, 448), (2, 1, 1, 6), (3, 2, 3, 28), (3, 2, 3, 14), (4, 3, 11, 30)]
)
def test_float_quant(e, m, bias, top, monkeypatch):
    net = Brevitas(seed=e)

    def quant(x, scale):
        inputs = [net.constant(v, np.float32) for v in (scale, e, m, bias, top)]
        flags = {"has_inf": 0, "has_nan": 0, "has_subnormal": 1, "saturation": 1, "rounding_mode": "ROUND"}
        return net("FloatQuant", x, *inputs, domain=QONNX[0], **flags)

    x = quant(net.input(1, 3, 6, 6), 2**-4)
    y = net("Conv", x, quant(net.random(4, 3, 3, 3), 2**-6), net.constant(2.0 ** -np.arange(4), np.float32))
    agrees_with_qonnx(net, quant(net("Relu", y), 2**-4), monkeypatch)


# -- errors --------------------------------------------------------------------------------------------------


def by_input_channel(net):
    weight = net.quant(net.random(4, 3, 1, 1), np.array([1, 2, 3]).reshape(1, 3, 1, 1), 4)
    return net("Conv", net.quant(net.input(1, 3, 4, 4), 0.5, 4), weight)


def wide_weights(net):
    return net("Conv", net.quant(net.input(1, 3, 4, 4), 0.5, 4), net.quant(net.random(4, 3, 1, 1), 0.01, 12))


def trunc(net):
    x = net.conv(net.quant(net.input(1, 3, 4, 4), 0.5, 4), 3, 3, 1, 1)
    return net("Trunc", x, *(net.constant(v, np.float32) for v in (0.5, 0, 6, 4)), domain=QONNX[1])


def mixed_concat(net):
    x = net.quant(net.input(1, 3, 4, 4), 0.5, 4)
    y = net.quant(net.conv(x, 3, 3, 1, 1), 0.25, 4)
    return net.conv(net("Concat", x, y, axis=1), 6, 2, 1, 1)


def mixed_dequantize(net):
    codes = net("QuantizeLinear", net.input(1, 3), net.constant(0.5, np.float32), net.constant(1, np.int8))
    return net("DequantizeLinear", codes, net.constant(0.25, np.float32), net.constant(1, np.int8))


def codes_in_use(net):
    codes = net("QuantizeLinear", net.input(1, 3), net.constant(0.5, np.float32), net.constant(1, np.int8))
    return net("Neg", codes)


ERRORS = {
    by_input_channel: r"scales of its weights .* differ within an output channel.*one scale for each output",
    wide_weights: r"do not fit 8 bits \(it has 12 bits\)",
    trunc: r"Trunc.*something else than the sum of an average pool.*right after an AveragePool",
    mixed_concat: r"joins tensors of different quantizers.*put a quantizer after it",
    mixed_dequantize: r"scale 0.25 and zero point 1 are not those of the QuantizeLinear before it \(0.5, 1\)",
    codes_in_use: r"computes with the codes of 'quantizelinear0'; put a DequantizeLinear",
}


@pytest.mark.parametrize("case", ERRORS, ids=lambda c: c.__name__)
def test_what_cannot_be_kept_is_an_error(case):
    net = Brevitas()
    model = net.output(case(net)).model()
    with pytest.raises(ModelError, match=ERRORS[case]):
        import_model(model)
    assert [f for f in check_model(model) if not f.supported]


def test_a_sign_of_something_unrounded():
    net = Brevitas()
    x = net.quant(net.input(1, 3, 4, 4), 0.5, 4)
    y = net.bipolar(net("Add", net.conv(x, 3, 3, 1, 1), x), 1.0)
    with pytest.raises(DataError, match=r"BipolarQuant .* takes the sign of .*put a Quant before it"):
        compiled(net.output(y).model(), weights=parse_format("int8"))


def test_formats_that_no_machine_holds_together():
    net = Brevitas()
    x = net.quant(net.input(1, 3, 4, 4), 0.5, 4)
    inputs = [net.constant(v, np.float32) for v in (0.1, 4, 3, 7, 448)]
    y = net(
        "FloatQuant",
        net.conv(x, 3, 3, 1, 1),
        *inputs,
        domain=QONNX[0],
        has_inf=0,
        has_nan=0,
        has_subnormal=1,
        saturation=1,
    )
    graph = import_model(net.output(y).model())
    with pytest.raises(FormatError, match=r"no one format holds all tensors.*int4 \(as 'x'\), e4m3fn"):
        activation_format(graph)


def test_tensors_without_a_quantizer_are_calibrated_and_named(caplog):
    net = Brevitas()
    y = net("Sigmoid", net.conv(net.quant(net.input(1, 3, 4, 4), 0.5, 4), 3, 3, 1, 1))
    model = net.output(net.quant(y, 2**-4, 4, signed=0)).model()
    with pytest.raises(
        DataError, match=r"the model says of 'conv1' not how it is rounded; give --calibration"
    ):
        compiled(model, weights=parse_format("int8"))
    graph = conform(import_model(model), parse_format("uint4"))
    found = quantize(graph, calibrate(graph, samples(model)), weight_format="int8", activation_format="uint4")
    assert "does not quantize them: conv1" in caplog.text
    assert found.tensors["x"].quant.scale == 0.5


@pytest.mark.parametrize(("function", "chosen"), [("Sigmoid", "int8"), ("Relu", "uint4")])
def test_the_format_is_the_files_where_it_rounds_all(function, chosen):
    """What a table reads is rounded first: by the file, or in 8 bits."""
    net = Brevitas()
    x = net.quant(net.input(1, 3, 4, 4), 0.5, 4, signed=0)
    y = net.quant(net(function, net.conv(x, 3, 3, 1, 1)), 2**-4, 4, signed=0)
    graph = import_model(net.output(net.conv(y, 3, 2, 1, 1)).model())
    network, found = conformed(graph, None)
    assert found.name == chosen
    assert {q.quant.format.name for q in network.graph.quantizers.values()} == {chosen}
    assert conformed(graph, parse_format("uint4"))[1].name == "uint4"
