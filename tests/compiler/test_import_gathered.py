"""Moves of pixels that are brought together: the same values in fewer passes; and maps as pieces and back."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_nets import Net, compare

from sateen.ir.nodes import Arrange, Conv, MatMul
from sateen.ir.pieces import collected, covered, map_of


def rolled(net: Net, x: str, axis: int, shift: int, size: int) -> str:
    parts = []
    for low, high in ((shift, size), (0, shift)):
        ends = [net.constant([v], np.int64) for v in (low, high, axis)]
        parts.append(net("Slice", x, *ends))
    return net("Concat", *parts, axis=axis)


def windows(net: Net, x: str, size: int, window: int, channels: int) -> str:
    n = size // window
    y = net("Reshape", x, net.constant([1, n, window, n, window, channels], np.int64))
    y = net("Transpose", y, perm=[0, 1, 3, 2, 4, 5])
    return net("Reshape", y, net.constant([n * n, window * window, channels], np.int64))


def back(net: Net, x: str, size: int, window: int, channels: int) -> str:
    n = size // window
    y = net("Reshape", x, net.constant([1, n, n, window, window, channels], np.int64))
    y = net("Transpose", y, perm=[0, 1, 3, 2, 4, 5])
    return net("Reshape", y, net.constant([1, size, size, channels], np.int64))


def test_shifted_windows_are_one_move_each_way():
    size, window, c = 6, 3, 4
    net = Net(17)
    x = net("Transpose", net.conv(net.input(1, 3, size, size), 3, c, 1, 1), perm=[0, 2, 3, 1])
    y = rolled(net, rolled(net, x, 1, 2, size), 2, 1, size)
    y = windows(net, y, size, window, c)
    q, k, v = (net("MatMul", y, net.random(c, c)) for _ in range(3))
    q = net("Mul", q, net.constant(0.5, np.float32))
    p = net("Softmax", net("MatMul", q, net("Transpose", k, perm=[0, 2, 1])), axis=-1)
    y = net("MatMul", net("MatMul", p, v), net.random(c, c))
    y = back(net, y, size, window, c)
    y = rolled(net, rolled(net, y, 1, size - 2, size), 2, size - 1, size)
    graph = compare(net.output(net("Add", x, y)))
    moves = [n for n in graph.nodes if isinstance(n, Arrange)]
    assert len(moves) == 2
    assert sum(isinstance(n, Conv) for n in graph.nodes) == 5
    assert sum(isinstance(n, MatMul) for n in graph.nodes) == 2


def test_a_way_and_back_moves_nothing():
    net = Net(17)
    x = net.conv(net.input(1, 3, 6, 6), 3, 4, 1, 1)
    y = net("Transpose", x, perm=[0, 2, 3, 1])
    y = net("Relu", back(net, windows(net, y, 6, 2, 4), 6, 2, 4))
    graph = compare(net.output(net("Transpose", y, perm=[0, 3, 1, 2])))
    assert not any(isinstance(n, Arrange) for n in graph.nodes)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_a_map(seed):
    rng = np.random.default_rng(seed)
    h, w, parts = (int(v) for v in rng.integers(1, 9, 3))
    part = rng.integers(0, parts, (h, w)) if seed % 2 else np.full((h, w), parts - 1)
    row, column = np.divmod(rng.permutation(h * w).reshape(h, w), w)
    if seed % 4 < 2:
        row, column = np.roll(np.indices((h, w)), int(rng.integers(0, 9)), axis=(1, 2))
    pieces = collected(part, row, column, 4096)
    assert pieces is not None
    assert covered(tuple(pieces), (h, w))
    for found, wanted in zip(map_of(pieces, (h, w)), (part, row, column), strict=True):
        np.testing.assert_array_equal(found, wanted)
    if h * w > 16:
        scattered = np.divmod(rng.permutation(h * w).reshape(h, w), w)
        assert collected(part, *scattered, 0) is None
