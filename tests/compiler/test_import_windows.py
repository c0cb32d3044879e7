"""Parts of one sample in the place of the batch, as windows of an image are: operators take each by itself."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_nets import Net, compare, kinds

SIDE, PART, CHANNELS = 6, 3, 4


def parts(net: Net) -> str:
    """(4, channels, 3, 3), the quarters of an image (1, 4, 6, 6)."""
    x = net.conv(net.input(1, CHANNELS, SIDE, SIDE), CHANNELS, CHANNELS, 1, 1)
    x = net("Reshape", x, net.constant([1, CHANNELS, 2, PART, 2, PART]))
    x = net("Transpose", x, perm=[0, 2, 4, 1, 3, 5])
    return net("Reshape", x, net.constant([4, CHANNELS, PART, PART]))


def whole(net: Net, x: str, channels: int = CHANNELS) -> str:
    x = net("Reshape", x, net.constant([1, 2, 2, channels, PART, PART]))
    x = net("Transpose", x, perm=[0, 3, 1, 4, 2, 5])
    return net("Reshape", x, net.constant([1, channels, SIDE, SIDE]))


@pytest.mark.parametrize(
    "attributes", [{"pads": [1, 1, 1, 1]}, {"pads": [1, 1, 1, 1], "group": CHANNELS}, {"pads": [0, 1, 2, 1]}]
)
def test_a_convolution_pads_each_part(attributes):
    net = Net()
    x = net.conv(parts(net), CHANNELS, CHANNELS, 3, 3, **attributes)
    graph = compare(net.output(whole(net, x)))
    assert kinds(graph).count("Conv") >= 4


def test_a_pointwise_convolution_takes_all_parts_at_once():
    net = Net()
    graph = compare(net.output(whole(net, net.conv(parts(net), CHANNELS, 8, 1, 1), 8)))
    assert kinds(graph).count("Conv") == 2


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_rows_of_parts(axis):
    """Softmax, and division by the norm as exporters write it, over channels, rows or columns of each part."""
    net = Net()
    x = net("Softmax", parts(net), axis=axis)
    compare(net.output(whole(net, net("Relu", x))))
    net = Net()
    x = parts(net)
    length = net("Clip", net("ReduceL2", x, axes=[axis], keepdims=1), net.constant(np.float32(1e-12)))
    compare(net.output(whole(net, net("Div", x, net("Expand", length, net("Shape", x))))))


def test_rows_among_many_dimensions():
    """Cosine attention: heads of windows, each divided by its norm."""
    net, heads, d, tokens = Net(), 2, 3, PART * PART
    x = net("Reshape", parts(net), net.constant([4, CHANNELS, tokens]))
    x = net("MatMul", net("Transpose", x, perm=[0, 2, 1]), net.random(CHANNELS, 2 * heads * d))
    x = net("Reshape", x, net.constant([4, tokens, 2, heads, d]))
    x = net("Transpose", x, perm=[2, 0, 3, 1, 4])  # (2, windows, heads, tokens, d)
    q, k = (net("Gather", x, net.constant(i), axis=0) for i in range(2))

    def unit(x: str) -> str:
        length = net("Clip", net("ReduceL2", x, axes=[-1], keepdims=1), net.constant(np.float32(1e-12)))
        return net("Div", x, net("Expand", length, net("Shape", x)))

    y = net("MatMul", unit(q), net("Transpose", unit(k), perm=[0, 1, 3, 2]))
    y = net("Mul", y, net.constant(np.array([2.0, 3.0], np.float32).reshape(1, heads, 1, 1)))
    y = net("Softmax", y)
    compare(net.output(net("Reshape", net("Relu", y), net.constant([1, 4 * heads, tokens, tokens]))))
