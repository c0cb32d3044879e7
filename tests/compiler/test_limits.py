"""Every limit that docs/operators.md states is one that the importer holds, and the other way round."""

import numpy as np
import pytest
from onnx import TensorProto
from onnx_nets import Net

from sateen.compiler.importer import check_model, limits
from sateen.compiler.importer.handlers import HANDLERS
from sateen.compiler.importer.limits import LIMITS

COMPARISONS = ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "And", "Or", "Xor")


def image(net):
    """Two computed tensors of equal shapes, which are functions of different ones."""
    x = net.input(1, 4, 6, 6)
    return net.conv(x, 4, 4, 1, 1), net.conv(x, 4, 4, 3, 3, pads=[1, 1, 1, 1])


def two(op):
    return lambda net: net(op, *image(net))


def with_vector(op):
    return lambda net: net(
        op, image(net)[0], net.constant(np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1))
    )


def image_of(net, name):
    return net.conv(net.input(1, 4, 6, 6, name=name), 4, 4, 1, 1)


def one(op, *constants, **attributes):
    """`constants`: arrays, taken as further inputs."""
    return lambda net: net(op, image(net)[0], *(net.constant(c) for c in constants), **attributes)


def gather_by_computed(net):
    x = image(net)[0]
    return net("Gather", x, net("ArgMax", x, axis=1, keepdims=0), axis=2)


def scattered(net):
    x = image(net)[0]
    at = net.constant([[0, 0], [0, 2]], np.int64)
    return net("ScatterND", x, at, net.constant(np.zeros((2, 6, 6)), np.float32))


def solid(op, **attributes):
    return lambda net: net(op, net.input(1, 4, 6, 6, 6), **attributes)


def conv_of_a_solid(net):
    return net.conv(net.input(1, 4, 6, 6, 6), 4, 4, 1, 1, 1)


def pool_with_indices(net):
    y = net("MaxPool", image(net)[0], outputs=2, kernel_shape=[2, 2])
    net.output(f"{y}_1")
    return y


def where_of_two(net):
    a, b = image(net)
    return net("Where", net("Greater", a, net.constant(np.float32(0))), a, b)


def resized(op):
    """By a window that grows with the reduction."""
    return lambda net: net(
        op, image(net)[0], "", net.constant(np.float32([1, 1, 0.5, 0.5])), mode="linear", antialias=1
    )


def transposed_conv_of_a_solid(net):
    return net("ConvTranspose", net.input(1, 4, 6, 6, 6), net.random(4, 4, 1, 1, 1))


def reversed_sequences(net):
    return net("ReverseSequence", image(net)[0], net.constant([2, 3, 2, 2]), batch_axis=1, time_axis=2)


def cast_like(net):
    return net("CastLike", image(net)[0], net.constant(np.int32(1)))


def hardmax_inside(net):
    return net.conv(net("Hardmax", image(net)[0], axis=1), 4, 4, 1, 1)


def chosen_inside(op):
    """Its result is given out, and computed with."""

    def build(net):
        x = image(net)[0]
        constants = [net.constant([2])] if op == "TopK" else []
        y = net(op, x, *constants, outputs=2 if constants else 1, axis=1)
        if not constants:
            return net("Identity", net("Neg", net("Cast", y, to=TensorProto.FLOAT)))
        return net("Neg", y)

    return build


def many_others(op, *constants):
    """Three dimensions that are not normalized."""

    def build(net):
        x = net("Reshape", image(net)[0], net.constant([1, 2, 2, 6, 6]))
        return net("Relu", net(op, x, *(net.random(6) for _ in range(len(constants))), axis=4))

    return build


def half_planes(op, shape, factors, **attributes):
    def build(net):
        x = net("Reshape", image(net)[0], net.constant(shape))
        return net(op, x, *(net.random(*size) for size in factors), **attributes)

    return build


QONNX = "qonnx.custom_op.general"


def quantizer(op, *constants, **attributes):
    return one(op, *(np.float32(c) for c in constants), domain=QONNX, **attributes)


def blocked(net):
    """Two scales along the sum of each output channel."""
    codes = net.constant(np.ones((4, 4, 1, 1)), np.int8)
    scales = net.constant(np.ones((4, 2, 1, 1)), np.float32)
    weight = net("DequantizeLinear", codes, scales, axis=1, block_size=2)
    return net("Conv", image(net)[0], weight)


def dequantized_by_channel(net):
    codes = net("QuantizeLinear", image(net)[0], net.constant(1, np.float32), net.constant(0, np.int8))
    return net("DequantizeLinear", codes, net.constant([1, 2, 1, 1], np.float32), axis=1)


def trunc(bits, mode="FLOOR", kind="AveragePool"):
    """Of the sum of four codes, right after the pool."""

    def build(net):
        x = net.input(1, 4, 6, 6)
        x = net("Quant", x, *(net.constant(np.float32(c)) for c in (0.5, 0, 4)), domain=QONNX)
        y = net(kind, x, kernel_shape=[2, 2], strides=[2, 2])
        constants = [net.constant(np.float32(c)) for c in (0.125, 0, bits + 2, bits)]
        return net("Trunc", y, *constants, domain=QONNX, rounding_mode=mode)

    return build


def attention(outputs, *past):
    """Of one tensor with itself, its outputs used."""

    def build(net):
        x = image(net)[0]
        y = net("Attention", x, x, x, "", *(net.constant(p) for p in past), outputs=outputs)
        net.output(*(f"{y}_{k}" for k in range(1, outputs)))
        return y

    return build


SCALES = np.array([1, 2, 1, 1], np.float32).reshape(4, 1, 1)

CASES = {
    ("Conv", limits.ONE_OR_TWO_D): conv_of_a_solid,
    **{(op, limits.CONSTANT_OR_SAME): two(op) for op in ("Pow", "Mod", *COMPARISONS)},
    **{(op, limits.NUMBER): with_vector(op) for op in ("Pow", "Mod", *COMPARISONS)},
    ("Where", limits.ONE_TENSOR): where_of_two,
    ("MaxPool", limits.ONE_OR_TWO_D): solid("MaxPool", kernel_shape=[2, 2, 2]),
    ("MaxPool", limits.NO_INDICES): pool_with_indices,
    ("AveragePool", limits.ONE_OR_TWO_D): solid("AveragePool", kernel_shape=[2, 2, 2]),
    ("Hardmax", limits.LAST): hardmax_inside,
    **{(op, limits.LAST): chosen_inside(op) for op in ("ArgMax", "ArgMin", "TopK")},
    **{(op, limits.TWO_OTHERS): many_others(op) for op in ("Softmax", "LogSoftmax")},
    ("LayerNormalization", limits.TWO_OTHERS): many_others("LayerNormalization", "scale"),
    ("RMSNormalization", limits.TWO_OTHERS): many_others("RMSNormalization", "scale"),
    ("LpNormalization", limits.TWO_OTHERS): many_others("LpNormalization"),
    **{
        (op, limits.ROWS): half_planes(op, [1, 4, 2, 3, 6], [(3, 6)], axis=3)
        for op in ("LayerNormalization", "RMSNormalization")
    },
    ("MeanVarianceNormalization", limits.TWO_OTHERS): half_planes(
        "MeanVarianceNormalization", [1, 2, 2, 6, 6], [], axes=[-1]
    ),
    ("MeanVarianceNormalization", limits.ROWS): half_planes(
        "MeanVarianceNormalization", [1, 4, 2, 3, 6], [], axes=[3, 4]
    ),
    ("LRN", limits.TWO_OTHERS): solid("LRN", size=3),
    ("Attention", limits.NO_CACHE): attention(1, *[np.zeros((1, 4, 2, 6), np.float32)] * 2),
    ("Attention", limits.RESULT_ALONE): attention(2),
    ("Einsum", limits.PRODUCTS): one("Einsum", equation="abcc->abc"),
    ("InstanceNormalization", limits.ROWS): half_planes("InstanceNormalization", [1, 8, 3, 6], [(8,), (8,)]),
    ("LpNormalization", limits.EUCLIDEAN): one("LpNormalization", p=1, axis=1),
    ("Resize", limits.COORDINATES): resized("Resize"),
    ("ConvTranspose", limits.ONE_OR_TWO_D): transposed_conv_of_a_solid,
    ("ScatterND", limits.A_BOX): scattered,
    ("Gather", limits.CONSTANT_INDICES): gather_by_computed,
    ("LpPool", limits.ONE_OR_TWO_D): solid("LpPool", kernel_shape=[2, 2, 2]),
    ("ReverseSequence", limits.ONE_LENGTH): reversed_sequences,
    ("Cast", limits.TO_FLOAT): one("Cast", to=TensorProto.INT32),
    ("CastLike", limits.TO_FLOAT): cast_like,
    ("QuantizeLinear", limits.PER_TENSOR): one(
        "QuantizeLinear", SCALES.ravel(), np.zeros(4, np.int8), axis=1
    ),
    ("QuantizeLinear", limits.TYPES): one("QuantizeLinear", np.float32(1), np.int16(0)),
    ("DequantizeLinear", limits.PER_TENSOR): dequantized_by_channel,
    ("DequantizeLinear", limits.PER_OUTPUT): blocked,
    **{(op, limits.PER_TENSOR): quantizer(op, SCALES, 0, 4) for op in ("Quant", "IntQuant")},
    **{(op, limits.EIGHT_BITS): quantizer(op, 1, 0, 9) for op in ("Quant", "IntQuant")},
    **{
        (op, limits.NEAREST): quantizer(op, 1, 0, 4, rounding_mode="FLOOR") for op in ("Quant", "IntQuant")
    },
    ("FloatQuant", limits.PER_TENSOR): quantizer("FloatQuant", SCALES, 2, 1, 1, 6),
    ("FloatQuant", limits.EIGHT_BITS): quantizer("FloatQuant", 1, 5, 10, 15, 65504),
    ("FloatQuant", limits.NEAREST): quantizer("FloatQuant", 1, 2, 1, 1, 6, rounding_mode="FLOOR"),
    ("BipolarQuant", limits.PER_TENSOR): quantizer("BipolarQuant", SCALES),
    ("Trunc", limits.AFTER_POOL): trunc(4, kind="MaxPool"),
    ("Trunc", limits.EIGHT_BITS): trunc(9),
    ("Trunc", limits.ROUNDING): trunc(4, "UP"),
}  # fmt: skip


@pytest.mark.parametrize(("operator", "limit"), CASES)
def test_the_importer_holds_the_limit(operator, limit):
    net = Net(opset=23 if operator in ("RMSNormalization", "Attention") else 21)
    net.output(CASES[operator, limit](net))
    found = [f for f in check_model(net.model()) if f.op_type == operator and not f.supported]
    assert [f.limit for f in found] == [limit], found


def test_every_limit_of_the_table_has_a_case():
    assert {(op, limit) for op, listed in LIMITS.items() for limit in listed} == set(CASES)
    assert set(LIMITS) <= set(HANDLERS)
