"""Reshapes that cut dimensions anew, padding of merged dimensions, products with a constant for each head."""

import numpy as np
import pytest
from onnx_nets import Net, compare, kinds


def source(net: Net, *shape: int) -> str:
    """A computed tensor (1, *shape)."""
    y = net.conv(net.input(1, 3, *shape[1:]), 3, shape[0], 1, 1)
    return net("Relu", y)


def reshaped(net: Net, x: str, *shape: int) -> str:
    return net("Reshape", x, net.constant(shape, np.int64))


@pytest.mark.parametrize(
    ("shape", "new"),
    [((4, 6, 5), (4, 5, 6)), ((4, 6, 5), (5, 4, 6)), ((4, 6, 10), (8, 5, 6)), ((6, 4, 5), (4, 5, 6))],
)
def test_cut_anew(shape, new):
    net = Net()
    y = reshaped(net, source(net, *shape), 1, *new)
    compare(net.output(y, net.conv(y, new[0], 3, 1, 1)))


def test_skewed():
    """Scores of relative positions: padded, in one row, and cut one further on."""
    net = Net()
    y = source(net, 4, 6, 11)
    y = net("Pad", y, net.constant([0, 0, 0, 1, 0, 0, 0, 0], np.int64))
    y = net("Slice", reshaped(net, y, 1, 4, 12, 6), *(net.constant([v], np.int64) for v in (1, 12, 2)))
    compare(net.output(net("Softmax", reshaped(net, y, 1, 4, 6, 11))))


@pytest.mark.parametrize("shape", [(4, 60), (24, 10), (4, 6, 10)])
def test_pads_of_merged_dimensions(shape):
    net = Net()
    y = reshaped(net, source(net, 4, 6, 10), 1, *shape)
    n = len(shape)
    pads = [*([0] * n), 3, *([0] * n), 2]
    compare(net.output(net("Tanh", net("Pad", y, net.constant(pads, np.int64)))))


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 2, 3, 1], [0, 1, 2, 3]])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("lead", [(1, 4), (4,), (1,)])
def test_a_matrix_for_each_head(order, left, lead):
    net = Net()
    tokens = net("MatMul", net.input(1, 6, 8), net.random(8, 20))
    x = net("Transpose", reshaped(net, tokens, 1, 6, 4, 5), perm=order)
    shape = [(1, 6, 4, 5)[d] for d in order]
    lead = (*lead[:-1], shape[1] if lead[-1] > 1 else 1)
    operands = [net.random(*lead, 3, shape[2]), x] if left else [x, net.random(*lead, shape[3], 7)]
    compare(net.output(net("MatMul", *operands)))


def test_heads_in_channels_are_groups():
    net = Net()
    tokens = net("MatMul", net.input(1, 6, 8), net.random(8, 20))
    x = net("Transpose", reshaped(net, tokens, 1, 6, 4, 5), perm=[0, 2, 1, 3])
    graph = compare(net.output(net("MatMul", x, net.random(4, 5, 7))))
    assert kinds(graph)[:2] == ["Conv", "Conv"] and graph.nodes[1].groups == 4
