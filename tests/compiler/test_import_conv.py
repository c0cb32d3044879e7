"""Convolutions, products and what folds into them, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx_nets import RUNTIME_OPSET, Net, compare, kinds

OPSETS = (9, 11, 13, 17, 21, RUNTIME_OPSET)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 1, 1, 1]},
        {"pads": [0, 1, 2, 0], "strides": [2, 1]},
        {"strides": [3, 2], "dilations": [2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
        {"auto_pad": "VALID", "strides": [1, 2]},
        {"kernel_shape": [3, 2], "pads": [2, 0, 1, 1]},
    ],
    ids=str,
)
def test_conv(opset, attributes):
    net = Net(opset)
    x = net.input("N", 3, 9, 8)
    graph = compare(net.output(net.conv(x, 3, 5, 3, 2, **attributes)))
    assert kinds(graph) == ["Conv"]
    assert graph.inputs[0].view == (3, 9, 8) and graph.inputs[0].axes == (1, 2, 0)


@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_groups(group):
    net = Net()
    x = net.input(1, 6, 7, 5)
    compare(net.output(net.conv(x, 6, 12, 3, 3, group=group, pads=[1, 0, 1, 2])))


@pytest.mark.parametrize(
    "attributes", [{}, {"pads": [2, 1], "strides": [2]}, {"dilations": [3], "auto_pad": "VALID"}]
)
def test_conv_1d(attributes):
    net = Net()
    x = net.input(2, 4, 11)
    x = net("Relu", net.conv(x, 4, 6, 3, **attributes))
    x = net("MaxPool", x, kernel_shape=[2], strides=[2])
    x = net.conv(x, 6, 6, 1, group=3)
    x = net("AveragePool", x, kernel_shape=[2])
    graph = compare(net.output(net("GlobalAveragePool", x)))
    assert all(s[0] == 1 for s in graph.shapes.values())


def test_sequence_as_tall_image():
    """A 1-D convolution written as 2-D on (N, C, L, 1), then plain 1-D on the same tensor."""
    net = Net()
    x = net.input(1, 3, 10, 1)
    y = net.conv(x, 3, 4, 3, 1, pads=[1, 0, 1, 0])
    y = net("Squeeze", y, net.constant([3], np.int64))
    y = net.conv(y, 4, 5, 3)
    y = net("Unsqueeze", y, net.constant([2], np.int64))
    compare(net.output(net.conv(y, 5, 2, 1, 2)))


def test_transposed_image():
    """Height and width swapped before a convolution: the kernel is turned, no data moves."""
    net = Net()
    x = net.input(1, 3, 6, 7)
    y = net.conv(x, 3, 4, 3, 3)
    y = net("Transpose", y, perm=[0, 1, 3, 2])
    y = net.conv(y, 4, 5, 2, 3, strides=[2, 1], pads=[0, 1, 1, 0])
    compare(net.output(net("MaxPool", y, kernel_shape=[2, 1], strides=[2, 1])))


@pytest.mark.parametrize("opset", OPSETS)
def test_gemm(opset):
    net = Net(opset)
    x = net.input("batch", 10)
    y = net("Gemm", x, net.random(10, 7), net.random(7), alpha=0.5, beta=2.0)
    y = net("Gemm", y, net.random(6, 7), net.random(1, 6), transB=1)
    y = net("Gemm", y, net.random(6, 5), net.random())
    if opset >= 11:
        y = net("Gemm", y, net.random(5, 4), "")
    graph = compare(net.output(y))
    assert set(kinds(graph)) == {"Conv"}


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("how", ["flatten", "reshape", "flatten2"])
def test_flatten_then_gemm(nhwc, how):
    """The weights are permuted to the channel-last tensor, whichever order ONNX flattens in."""
    net = Net()
    x = net.input(1, 2, 6, 5)
    y = net.conv(x, 2, 3, 3, 3)
    y = net("Transpose", y, perm=[0, 2, 3, 1]) if nhwc else y
    if how == "flatten":
        y = net("Flatten", y)
    elif how == "flatten2":
        y = net("Flatten", net("Reshape", y, net.constant([0, -1, 6])))
    else:
        y = net("Reshape", y, net.constant([-1, 36]))
    graph = compare(net.output(net("Gemm", y, net.random(36, 4), net.random(4))))
    assert graph.nodes[-1].weight.shape == (4, 4, 3, 3)


@pytest.mark.parametrize(
    "shape, constant",
    [
        ((6,), (6, 4)),
        ((5, 6), (6, 4)),
        ((2, 5, 6), (6, 4)),
        ((5, 6), (6,)),
        ((2, 3, 6), (1, 1, 6, 4)),
        ((6,), (6,)),
    ],
)
def test_matmul(shape, constant):
    net = Net()
    x = net.input("N", *shape)
    graph = compare(net.output(net("Tanh", net("MatMul", x, net.random(*constant)))))
    assert kinds(graph) == ["Conv", "Activation"]


def test_matmul_constant_on_the_left():
    net = Net()
    x = net.input("N", 6, 5)
    compare(net.output(net("MatMul", net.random(4, 6), x)))


def test_mlp_mixer_tokens():
    """(N, T, C) through products along channels with a residual between them."""
    net = Net()
    x = net.input("N", 3, 8, 8)
    y = net.conv(x, 3, 6, 4, 4, strides=[4, 4])
    y = net("Transpose", net("Reshape", y, net.constant([0, 6, 4])), perm=[0, 2, 1])
    z = net("Erf", net("MatMul", y, net.random(6, 12)))
    z = net("Add", net("MatMul", z, net.random(12, 6)), y)
    z = net("ReduceMean", z, axes=[1], keepdims=0)
    compare(net.output(net("Gemm", z, net.random(6, 3))))


@pytest.mark.parametrize("opset", (9, 13, 15, RUNTIME_OPSET))
def test_batch_normalization_is_folded(opset):
    net = Net(opset)
    x = net.input(1, 3, 6, 6)
    y = net.conv(x, 3, 4, 3, 3)
    y = net("BatchNormalization", y, net.random(4), net.random(4), net.random(4), net.random(4, low=0.5))
    y = net("Relu", y)
    y = net(
        "BatchNormalization",
        y,
        net.random(4),
        net.random(4),
        net.random(4),
        net.random(4, low=0.5),
        epsilon=0.1,
    )
    y = net.conv(y, 4, 2, 3, 3)
    assert kinds(compare(net.output(y))) == ["Conv", "Activation", "Conv"]


def test_batch_normalization_that_cannot_be_folded():
    net = Net()
    x = net.input(1, 3, 6, 6)
    y = net("Relu", net("BatchNormalization", x, *(net.random(3, low=0.5) for _ in range(4))))
    y = net("BatchNormalization", y, *(net.random(3, low=0.5) for _ in range(4)))
    graph = compare(net.output(net.conv(y, 3, 2, 3, 3, pads=[1, 1, 1, 1])))
    assert kinds(graph) == ["Conv", "Activation", "Conv", "Conv"]
    assert graph.nodes[0].groups == 3


def test_batch_normalization_of_features():
    net = Net()
    x = net.input("N", 12)
    y = net("Gemm", x, net.random(12, 5))
    y = net("BatchNormalization", y, *(net.random(5, low=0.5) for _ in range(4)))
    assert kinds(compare(net.output(y))) == ["Conv"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("first", [False, True])
def test_arithmetic_with_constants(op, shape, first):
    if op == "Div" and first and shape not in ((), (1,), (1, 1, 1)):
        pytest.skip("refused")
    net = Net()
    x = net.input(1, 3, 5, 5)
    y = net("Sigmoid", net.conv(x, 3, 4, 3, 3))
    c = net.random(*shape, low=0.5)
    y = net(op, c, y) if first else net(op, y, c)
    graph = compare(net.output(net("Relu", y)))
    assert kinds(graph)[0] == "Conv"


def test_constants_fold_into_the_convolution_before():
    net = Net()
    x = net.input(1, 3, 5, 5)
    y = net("Mul", net.conv(x, 3, 4, 3, 3, pads=[1, 1, 1, 1]), net.random(4, 1, 1))
    y = net("Sub", net("Add", y, net.random(1, 4, 1, 1)), net.random())
    graph = compare(net.output(y))
    assert kinds(graph) == ["Conv"]
    assert graph.nodes[0].name == "Conv0"


def test_input_scaling_folds_into_the_first_convolution():
    net = Net()
    x = net.input("N", 8, 8, 3)
    y = net("Div", net("Sub", x, net.random(3)), net.random(3, low=1.0))
    y = net("Transpose", y, perm=[0, 3, 1, 2])
    graph = compare(net.output(net.conv(y, 3, 4, 3, 3)))
    assert kinds(graph) == ["Conv"]
    assert graph.inputs[0].hwc == (8, 8, 3)


def test_input_offset_stays_before_a_padded_convolution():
    net = Net()
    x = net.input("N", 3, 8, 8)
    y = net("Sub", x, net.constant(0.5, np.float32))
    graph = compare(net.output(net.conv(y, 3, 4, 3, 3, pads=[1, 1, 1, 1])))
    assert kinds(graph) == ["Conv", "Conv"]


def test_constant_per_flattened_feature():
    """After a Flatten, a constant may differ from channel to channel but not from pixel to pixel."""
    net = Net()
    x = net.input(1, 2, 4, 4)
    y = net("Flatten", net.conv(x, 2, 3, 3, 3))
    c = net.constant(np.repeat(np.arange(3), 4).astype(np.float32))
    compare(net.output(net("Gemm", net("Tanh", net("Mul", y, c)), net.random(12, 2))))


def test_channel_shuffle():
    net = Net()
    x = net.input(1, 4, 5, 5)
    y = net("Relu", net.conv(x, 4, 6, 1, 1, group=2))
    y = net("Reshape", y, net.constant([0, 2, 3, 5, 5]))
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3, 4]), net.constant([0, 6, 5, 5]))
    z = net.conv(y, 6, 6, 3, 3, group=3)
    w = net.conv(y, 6, 2, 3, 3)
    graph = compare(net.output(z, w))
    assert len(graph.nodes) == 5


def test_shared_weights_and_two_outputs():
    net = Net()
    x = net.input(1, 3, 6, 6)
    w = net.random(3, 3, 3, 3)
    a = net("Conv", x, w, pads=[1, 1, 1, 1])
    b = net("Conv", net("Relu", a), w)
    compare(net.output(a, b))


def test_conv_of_a_graph_output_is_not_changed():
    """The scale after a convolution whose value is a graph output must stay a node of its own."""
    net = Net()
    x = net.input(1, 3, 4, 4)
    a = net.conv(x, 3, 2, 1, 1)
    graph = compare(net.output(net("Mul", a, net.random(2, 1, 1)), a))
    assert kinds(graph) == ["Conv", "Conv"]


def test_weights_made_by_nodes():
    """Weights behind Constant, Transpose, Cast and DequantizeLinear nodes are constants all the same."""
    net = Net(13)
    x = net.input(1, 3, 5, 5)
    w = net("Transpose", net.random(3, 3, 3, 4), perm=[3, 2, 0, 1])
    y = net("Conv", x, w)
    codes = net.constant(net.rng.integers(-100, 100, (4, 4, 1, 1)), np.int8)
    w2 = net("DequantizeLinear", codes, net.constant(0.01, np.float32), net.constant(3, np.int8))
    y = net("Conv", y, w2)
    w3 = net("Cast", net.constant(net.rng.normal(size=(2, 4, 1, 1)), np.float64), to=onnx.TensorProto.FLOAT)
    graph = compare(net.output(net("Conv", y, w3)))
    assert kinds(graph) == ["Conv"] * 3
