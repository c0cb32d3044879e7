"""Activations, pooling, padding, layout and joins, against ONNX Runtime."""

import numpy as np
import pytest
from onnx import TensorProto
from onnx_nets import RUNTIME_OPSET, Net, compare, kinds

from sateen.ir.nodes import Activation, Conv, Pool

OPSETS = (9, 11, 13, 17, 21, RUNTIME_OPSET)

UNARY = {
    "Relu": (9, {}),
    "LeakyRelu": (9, {"alpha": 0.2}),
    "Elu": (9, {"alpha": 1.5}),
    "Selu": (9, {}),
    "Celu": (12, {"alpha": 0.7}),
    "Softplus": (9, {}),
    "Softsign": (9, {}),
    "Sigmoid": (9, {}),
    "Tanh": (9, {}),
    "HardSigmoid": (9, {"alpha": 0.3, "beta": 0.4}),
    "HardSwish": (14, {}),
    "Mish": (18, {}),
    "Gelu": (20, {}),
    "Erf": (9, {}),
    "Exp": (9, {}),
    "Abs": (9, {}),
    "Neg": (9, {}),
    "Sign": (9, {}),
    "Floor": (9, {}),
    "Ceil": (9, {}),
    "Round": (11, {}),
    "ThresholdedRelu": (10, {"alpha": 0.4}),
    "Shrink": (9, {"bias": 0.1, "lambd": 0.6}),
    "Sin": (9, {}),
    "Atan": (9, {}),
    "Sinh": (9, {}),
    "Asinh": (9, {}),
}
POSITIVE = ("Sqrt", "Log", "Reciprocal")


@pytest.mark.parametrize("op", UNARY)
def test_unary(op):
    since, attributes = UNARY[op]
    for opset in {max(since, 13), since, RUNTIME_OPSET}:
        net = Net(opset)
        y = net(op, net.conv(net.input("N", 3, 4, 4), 3, 4, 1, 1), **attributes)
        assert kinds(compare(net.output(y))) == ["Conv", "Activation"]


@pytest.mark.parametrize("op", POSITIVE)
def test_unary_of_positive_values(op):
    net = Net()
    compare(net.output(net(op, net.input("N", 6))), low=0.5)


def test_gelu_tanh():
    net = Net(20)
    compare(net.output(net("Gelu", net.input("N", 6), approximate="tanh")))


@pytest.mark.parametrize("bounds", [(-0.5, 0.7), (0.0, 6.0), (None, 0.3), (-0.2, None), (1.0, -1.0)])
@pytest.mark.parametrize("opset", [9, 11, 17])
def test_clip(opset, bounds):
    if opset == 9 and bounds == (1.0, -1.0):
        pytest.skip("onnxruntime refuses it")
    net = Net(opset)
    x = net.input("N", 5)
    if opset < 11:
        y = net("Clip", x, **{k: v for k, v in zip(("min", "max"), bounds, strict=True) if v is not None})
    else:
        y = net("Clip", x, *("" if b is None else net.constant(b, np.float32) for b in bounds))
    node = compare(net.output(y)).nodes[0]
    assert isinstance(node, Activation) and node.function == "clip"


def test_prelu_with_one_slope():
    net = Net()
    x = net.input("N", 3, 4, 4)
    y = net("PRelu", x, net.constant([[[0.25]]], np.float32))
    compare(net.output(net("PRelu", net.conv(y, 3, 2, 1, 1), net.constant([[[0.1]], [[0.1]]], np.float32))))


@pytest.mark.parametrize("op, c", [("Pow", 2.0), ("Max", 0.25), ("Min", -0.1)])
def test_binary_with_a_number(op, c):
    net = Net()
    compare(net.output(net(op, net.input("N", 6), net.constant(c, np.float32))), low=0.1)


def silu(net, x):
    return net("Mul", x, net("Sigmoid", x))


def gelu(net, x):
    y = net("Erf", net("Div", x, net.constant(np.sqrt(2), np.float32)))
    y = net("Mul", x, net("Add", y, net.constant(1.0, np.float32)))
    return net("Mul", y, net.constant(0.5, np.float32))


def hard_swish(net, x):
    three, zero, six = (net.constant(v, np.float32) for v in (3.0, 0.0, 6.0))
    return net("Div", net("Mul", x, net("Clip", net("Add", x, three), zero, six)), six)


def mish(net, x):
    return net("Mul", x, net("Tanh", net("Softplus", x)))


def square(net, x):
    return net("Sub", net("Mul", x, x), net("Max", x, net("Neg", x)))


@pytest.mark.parametrize("function", [silu, gelu, hard_swish, mish, square], ids=lambda f: f.__name__)
def test_functions_spelled_out_become_one_table(function):
    """Exporters write many activations as arithmetic on one tensor."""
    net = Net()
    y = function(net, net.conv(net.input("N", 3, 4, 4), 3, 4, 3, 3))
    graph = compare(net.output(net.conv(y, 4, 2, 1, 1)))
    assert kinds(graph) == ["Conv", "Activation", "Conv"]
    assert graph.nodes[1].function == "composed"


def test_clamps_merge():
    net = Net()
    x = net("Relu", net.input("N", 4, 3, 3))
    graph = compare(net.output(net("Clip", x, "", net.constant(1.0, np.float32))))
    assert [(n.low, n.high) for n in graph.nodes] == [(0, 1)]


@pytest.mark.parametrize("operator", ["Add", "Mul", "swish"])
def test_functions_that_use_their_operand_twice(operator):
    """40 of them, one behind the other: as many parts, not 2**40."""
    net = Net(17)
    x = net.input("N", 3, 4, 4)
    for _ in range(40):
        x = net("Mul", x, net("Sigmoid", x)) if operator == "swish" else net(operator, x, x)
    (node,) = compare(net.output(x), low=-1).nodes
    assert isinstance(node, Activation) and node.expression is not None
    assert len(node.expression.postorder()) <= 1 + 2 * 40


@pytest.mark.parametrize("opset", OPSETS)
def test_residual(opset):
    net = Net(opset)
    x = net.input("N", 3, 6, 6)
    a = net("Relu", net.conv(x, 3, 4, 3, 3, pads=[1, 1, 1, 1]))
    b = net.conv(a, 4, 4, 3, 3, pads=[1, 1, 1, 1])
    c = net("Sum", net("Add", a, b), net("Sub", b, net.conv(x, 3, 4, 1, 1)), a)
    assert kinds(compare(net.output(net("Relu", c)))).count("Add") == 4


def test_residual_of_inputs_in_another_order():
    """Both inputs are NHWC, which only one of them shows; the other learns it from the sum."""
    net = Net()
    x, y = net.input("N", 6, 5, 3), net.input("N", 6, 5, 3, name="y")
    z = net("Add", net("Relu", x), net("Tanh", y))
    z = net.conv(net("Transpose", z, perm=[0, 3, 1, 2]), 3, 2, 3, 3)
    assert [p.hwc for p in compare(net.output(z)).inputs] == [(6, 5, 3)] * 2


POOLS = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 3], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [2, 3], "auto_pad": "VALID", "strides": [3, 1]},
]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("attributes", POOLS, ids=str)
def test_max_pool(opset, attributes):
    net = Net(opset)
    y = net("MaxPool", net.input("N", 3, 9, 8), **attributes)
    assert kinds(compare(net.output(y))) == ["Pool"]


@pytest.mark.parametrize("size", range(4, 12))
@pytest.mark.parametrize("kernel, stride, pad", [(2, 2, 0), (3, 2, 1), (3, 3, 1), (2, 3, 1), (3, 2, 0)])
def test_max_pool_ceil_mode(size, kernel, stride, pad):
    net = Net(12)
    y = net(
        "MaxPool", net.input("N", 2, size, 9), kernel_shape=[kernel, 2], strides=[stride, 2],
        pads=[pad, 0, pad, 0], ceil_mode=1,
    )  # fmt: skip
    compare(net.output(y))


def test_max_pool_dilation():
    net = Net(12)
    y = net("MaxPool", net.input("N", 3, 9, 8), kernel_shape=[2, 3], dilations=[3, 2], pads=[1, 0, 0, 1])
    compare(net.output(y))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("attributes", POOLS, ids=str)
def test_average_pool(opset, attributes):
    net = Net(opset)
    y = net("AveragePool", net.input("N", 3, 9, 8), count_include_pad=1, **attributes)
    assert kinds(compare(net.output(y))) == ["Pool"]


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("opset", [9, 13, 18, RUNTIME_OPSET])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [2], [1], [1, 2, 3]], ids=str)
def test_reduce_mean(opset, axes, keep):
    net = Net(opset)
    x = net.conv(net.input("N", 3, 5, 4), 3, 6, 1, 1)
    if opset < 18:
        y = net("ReduceMean", x, axes=axes, keepdims=keep)
    else:
        y = net("ReduceMean", x, net.constant(axes, np.int64), keepdims=keep)
    compare(net.output(y))


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pool(op):
    net = Net()
    y = net(op, net.conv(net.input("N", 3, 5, 4), 3, 6, 3, 3))
    y = net("Gemm", net("Flatten", y), net.random(6, 2))
    graph = compare(net.output(y))
    assert isinstance(graph.nodes[1], Pool) and graph.nodes[1].kernel == (3, 2)


def test_reductions_of_an_image_with_channels_last():
    net = Net(13)
    x = net.input("N", 6, 5, 3)
    y = net("ReduceMean", net("Relu", x), axes=[1, 2], keepdims=0)
    graph = compare(net.output(y))
    assert graph.inputs[0].hwc == (6, 5, 3)


def test_reduce_sum_and_max():
    net = Net(13)
    x = net.conv(net.input("N", 3, 6, 5), 3, 4, 1, 1)
    axes = net.constant([2, 3], np.int64)
    compare(net.output(net("ReduceSum", x, axes, keepdims=0), net("ReduceMax", x, axes=[2, 3])))


@pytest.mark.parametrize("opset", [9, 11, 13, 18, RUNTIME_OPSET])
@pytest.mark.parametrize("after", ["Conv", "AveragePool", "MaxPool", "Relu"])
def test_pad(opset, after):
    net = Net(opset)
    x = net("Relu", net.input("N", 3, 6, 5))
    amounts = [0, 0, 1, 0, 0, 0, 2, 1]
    y = net("Pad", x, pads=amounts) if opset < 11 else net("Pad", x, net.constant(amounts, np.int64))
    if after == "Conv":
        y = net.conv(y, 3, 4, 3, 3, pads=[0, 1, 0, 0])
    elif after == "Relu":
        y = net("Tanh", y)
    else:
        y = net(after, y, kernel_shape=[3, 3], strides=[2, 2])
    graph = compare(net.output(y))
    assert kinds(graph) == (["Activation", "Conv", "Activation"] if after == "Relu" else
                            ["Activation", "Conv" if after == "Conv" else "Pool"])  # fmt: skip


def test_pad_before_max_pool_of_negative_values():
    """There a padded zero can be the maximum, so that the padding stays."""
    net = Net()
    y = net("Pad", net.input("N", 3, 6, 6), net.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    graph = compare(net.output(net("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])))
    assert kinds(graph) == ["Conv", "Pool"]


def test_pad_of_channels_and_of_nhwc():
    net = Net()
    x = net.input("N", 6, 5, 3)
    y = net("Pad", x, net.constant([0, 1, 1, 0, 0, 0, 0, 0], np.int64))
    y = net.conv(net("Transpose", y, perm=[0, 3, 1, 2]), 3, 4, 2, 2)
    y = net("Pad", y, net.constant([0, 1, 0, 0, 0, 2, 0, 1], np.int64))
    graph = compare(net.output(net.conv(y, 7, 2, 1, 1)))
    assert graph.inputs[0].hwc == (6, 5, 3)


@pytest.mark.parametrize("opset", [18, RUNTIME_OPSET])
def test_pad_with_axes(opset):
    net = Net(opset)
    x = net.input("N", 3, 6, 5)
    y = net("Pad", x, net.constant([1, 2], np.int64), "", net.constant([-2], np.int64))
    compare(net.output(net.conv(y, 3, 2, 3, 3)))


@pytest.mark.parametrize("opset", OPSETS)
def test_concat(opset):
    net = Net(opset)
    x = net.input("N", 3, 6, 6)
    a, b = net.conv(x, 3, 4, 3, 3, pads=[1, 1, 1, 1]), net("Relu", x)
    y = net("Concat", a, b, x, axis=1)
    z = net("Concat", net("GlobalAveragePool", y), net("GlobalMaxPool", y), axis=-3)
    assert kinds(compare(net.output(net.conv(y, 10, 2, 1, 1), z))).count("Concat") == 2


def test_concat_of_features_and_channels_last():
    net = Net()
    x, y = net.input("N", 6), net.input("N", 5, 4, 3, name="y")
    t = net("Relu", y)
    t = net("Concat", t, net("Tanh", y), axis=3)
    t = net("ReduceMean", t, axes=[1, 2], keepdims=0)
    compare(net.output(net("Gemm", net("Concat", t, x, axis=1), net.random(12, 3))))


def test_dense_block():
    net = Net()
    x = net.input("N", 4, 5, 5)
    for channels in (4, 7, 10):
        y = net("BatchNormalization", x, *(net.random(channels, low=0.5) for _ in range(4)))
        x = net("Concat", x, net.conv(net("Relu", y), channels, 3, 3, 3, pads=[1, 1, 1, 1]), axis=1)
    compare(net.output(x))


@pytest.mark.parametrize("opset", OPSETS)
def test_layout_operators(opset):
    net = Net(opset)
    y = net.conv(net.input("N", 3, 6, 6), 3, 8, 6, 6)
    if opset < 13:
        y = net("Unsqueeze", net("Squeeze", y, axes=[2, 3]), axes=[1])
    else:
        y = net("Squeeze", y, net.constant([-1, 2], np.int64))
        y = net("Unsqueeze", y, net.constant([1], np.int64))
    y = net("Dropout", net("Identity", y))
    y = net("Flatten", net("Cast", y, to=TensorProto.FLOAT), axis=1)
    compare(net.output(net("Gemm", y, net.random(8, 3), net.random(3))))


def test_shape_arithmetic():
    """x.view(x.size(0), -1), as exporters write it."""
    net = Net()
    x = net.conv(net.input("batch", 3, 4, 4), 3, 2, 1, 1)
    size = net("Gather", net("Shape", x), net.constant(0, np.int64))
    size = net("Unsqueeze", size, net.constant([0], np.int64))
    shape = net("Concat", size, net.constant([-1], np.int64), axis=0)
    compare(net.output(net("Gemm", net("Reshape", x, shape), net.random(32, 2))))


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_outputs_in_other_orders(batch):
    net = Net()
    y = net.conv(net.input(batch, 3, 4, 5), 3, 6, 1, 1)
    n = batch if isinstance(batch, int) else -1
    compare(net.output(
        y,
        net("Transpose", y, perm=[0, 2, 3, 1]),
        net("Transpose", y, perm=[0, 3, 1, 2]),
        net("Flatten", y),
        net("Reshape", y, net.constant([n, 2, 3, 20], np.int64)),
        net("Reshape", net("Transpose", y, perm=[0, 2, 3, 1]), net.constant([n, 20, 6], np.int64)),
        net("Reshape", net("Transpose", y, perm=[0, 2, 3, 1]), net.constant([n, 8, 15], np.int64)),
    ))  # fmt: skip


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [9, 11, 13, RUNTIME_OPSET])
def test_softmax_at_the_end(op, opset):
    net = Net(opset)
    y = net.conv(net.input("N", 3, 4, 4), 3, 5, 4, 4)
    y = net("Flatten", net(op, net("Identity", y), axis=1))
    compare(net.output(y))


def test_softmax_of_each_pixel():
    net = Net()
    y = net.conv(net.input("N", 3, 4, 4), 3, 5, 1, 1)
    compare(net.output(net("Transpose", net("Softmax", y, axis=1), perm=[0, 2, 3, 1])))


def test_output_that_is_read_again_and_inputs_given_out():
    net = Net()
    x = net.input("N", 3, 4, 4)
    y = net.conv(x, 3, 3, 1, 1)
    z = net("Relu", y)
    graph = compare(net.output(y, z, net("Identity", z), net("Identity", x)))
    assert isinstance(graph.nodes[-1], Conv)


def test_integer_image():
    net = Net()
    x = net("Cast", net.input("N", 8, 8, 3, kind=TensorProto.UINT8), to=TensorProto.FLOAT)
    y = net("Div", x, net.constant(255.0, np.float32))
    y = net.conv(net("Transpose", y, perm=[0, 3, 1, 2]), 3, 2, 3, 3)
    compare(net.output(y), low=0)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats(kind):
    net = Net()
    x = net("Cast", net.input("N", 4, 6, 6, kind=kind), to=TensorProto.FLOAT)
    compare(net.output(net.conv(x, 4, 2, 3, 3)))


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (2, 1, 3, 7), ()])
def test_inputs_of_any_rank(shape):
    net = Net()
    compare(net.output(net("Tanh", net.input("N", *shape))))


def test_prelu_with_a_slope_per_channel():
    net = Net()
    x = net.conv(net.input("N", 3, 4, 4), 3, 4, 1, 1)
    graph = compare(net.output(net("PRelu", x, net.random(4, 1, 1))))
    assert "Add" in kinds(graph)


@pytest.mark.parametrize("opset", [9, 11, 13, RUNTIME_OPSET])
@pytest.mark.parametrize(
    "axis, start, end, step",
    [(1, 1, 4, 1), (1, 0, 99, 2), (2, 0, 99, 2), (3, 1, -1, 1), (2, 1, 99, 3), (-1, -2, 99, 1)],
)
def test_slice(opset, axis, start, end, step):
    if opset == 9 and step > 1:
        pytest.skip("no steps there")
    net = Net(opset)
    x = net("Relu", net.conv(net.input("N", 3, 7, 6), 3, 5, 1, 1))
    if opset == 9:
        y = net("Slice", x, starts=[start], ends=[end], axes=[axis])
    else:
        y = net("Slice", x, *(net.constant([v], np.int64) for v in (start, end, axis, step)))
    compare(net.output(y))


def test_resnet_shortcut_without_weights():
    """Every second pixel, and zero channels around: option A of the CIFAR ResNets."""
    net = Net()
    x = net("Relu", net.conv(net.input("N", 3, 8, 8), 3, 4, 3, 3))
    a = net.conv(x, 4, 8, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1])
    b = net("Slice", x, *(net.constant([v, v], np.int64) for v in (0, 99)), net.constant([2, 3], np.int64),
            net.constant([2, 2], np.int64))  # fmt: skip
    b = net("Pad", b, net.constant([0, 2, 0, 0, 0, 2, 0, 0], np.int64))
    compare(net.output(net("Relu", net("Add", a, b))))


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_split_and_shuffle(opset):
    """A ShuffleNet V2 unit."""
    net = Net(opset)
    x = net("Relu", net.conv(net.input("N", 3, 6, 6), 3, 8, 3, 3))
    if opset == 9:
        a = net("Split", x, outputs=2, axis=1, split=[4, 4])
    elif opset == 13:
        a = net("Split", x, net.constant([4, 4], np.int64), outputs=2, axis=1)
    else:
        a = net("Split", x, outputs=2, axis=1, num_outputs=2)
    b = net("Relu", net.conv(a + "_1", 4, 4, 3, 3, group=4, pads=[1, 1, 1, 1]))
    y = net("Concat", a, b, axis=1)
    y = net("Reshape", y, net.constant([0, 2, 4, 4, 4], np.int64))
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3, 4]), net.constant([0, 8, 4, 4], np.int64))
    compare(net.output(net.conv(y, 8, 3, 1, 1), net("Relu", y)))


def soft_shrink(net, x):
    """As PyTorch's exporter writes it."""
    low, high, zero = (net.constant(v, np.float32) for v in (-0.5, 0.5, 0.0))
    right = net("Where", net("Greater", x, high), net("Sub", x, high), zero)
    return net("Where", net("Less", x, low), net("Sub", x, low), right)


def test_choices_by_the_value_itself_become_one_table():
    net = Net()
    y = soft_shrink(net, net.conv(net.input("N", 3, 4, 4), 3, 4, 3, 3))
    assert kinds(compare(net.output(y))) == ["Conv", "Activation"]


@pytest.mark.parametrize("axis, index", [(1, 0), (2, -1), (3, [0, 2]), (1, [1, 2]), (2, [4])])
def test_gather(axis, index):
    net = Net()
    x = net("Relu", net.conv(net.input("N", 3, 5, 4), 3, 4, 1, 1))
    compare(net.output(net("Tanh", net("Gather", x, net.constant(index, np.int64), axis=axis))))
