"""The float executor against plain loops."""

import numpy as np
import pytest

from sateen.compiler import float_executor as F
from sateen.errors import DataError, ModelError
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv, Pool
from sateen.ir.ports import HostOp, Output, Port

RNG = np.random.default_rng(3)


def loops(x, kernel, stride, dilation, pads, fill, at):
    """`at(window)` for the taps of each output pixel."""
    x = np.pad(x, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)), constant_values=fill)
    _, h, w, _ = x.shape
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    rows = []
    for y in range(0, h - reach[0] + 1, stride[0]):
        row = [
            at(x[:, y : y + reach[0] : dilation[0], c : c + reach[1] : dilation[1]])
            for c in range(0, w - reach[1] + 1, stride[1])
        ]
        rows.append(np.stack(row, 1))
    return np.stack(rows, 1)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(
    "kernel, stride, dilation, pads",
    [
        ((1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
        ((3, 2), (2, 1), (1, 2), (1, 0, 2, 3)),
        ((2, 3), (3, 2), (2, 1), (0, 1, 0, 0)),
    ],
)
def test_conv(groups, kernel, stride, dilation, pads):
    node = Conv("c", "x", "y", RNG.normal(size=(12, *kernel, 6 // groups)), RNG.normal(size=12), stride, dilation,
                pads, groups)  # fmt: skip
    x = RNG.normal(size=(3, 7, 8, 6))

    def at(window):
        parts = np.split(window, groups, axis=3)
        weights = np.split(node.weight, groups)
        return np.concatenate(
            [np.einsum("nyxi,oyxi->no", p, w) for p, w in zip(parts, weights, strict=True)], 1
        )

    want = loops(x, kernel, stride, dilation, pads, 0.0, at) + node.bias
    np.testing.assert_allclose(F.conv(node, x), want, rtol=1e-10, atol=1e-10)


def test_conv_in_portions(monkeypatch):
    node = Conv("c", "x", "y", RNG.normal(size=(4, 3, 3, 2)), np.zeros(4))
    x = RNG.normal(size=(5, 6, 6, 2))
    whole = F.conv(node, x)
    monkeypatch.setattr(F, "COLUMN_BYTES", 1)
    np.testing.assert_allclose(F.conv(node, x), whole, rtol=1e-12)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_pool(kind):
    node = Pool("p", "x", "y", kind, (2, 3), (2, 1), (1, 2), (1, 0, 0, 2))
    x = RNG.normal(size=(2, 6, 7, 3)) - 5
    fill, at = (
        (-np.inf, lambda w: w.max(axis=(1, 2))) if kind == "max" else (0.0, lambda w: w.mean(axis=(1, 2)))
    )
    want = loops(x, node.kernel, node.stride, node.dilation, node.pads, fill, at)
    np.testing.assert_allclose(F.pool(node, x), want)


def one_conv():
    node = Conv("c", "x", "y", np.eye(3).reshape(3, 1, 1, 3), np.zeros(3))
    ports = Port("x", (3, 2, 2), (3, 2, 2), (1, 2, 0)), Port("y", (3, 4), (3, 2, 2), (1, 2, 0))
    return Graph(
        "g", ports[:1], (Output(ports[1], "y", (HostOp("softmax", -2),)),), (node,), {"x": (2, 2, 3)}
    )


def test_ports_and_host_operations():
    x = RNG.normal(size=(2, 3, 2, 2))
    y = F.float_outputs(one_conv(), F.run_float(one_conv(), {"x": x}))["y"]
    e = np.exp(x.reshape(2, 3, 4))
    np.testing.assert_allclose(y, e / e.sum(axis=1, keepdims=True))
    with pytest.raises(ModelError, match="'sort' is not known"):
        HostOp("sort").apply(x)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({}, "'x' is missing"),
        ({"x": np.zeros((1, 2, 2, 3))}, r"shape \(1, 2, 2, 3\); it must be \(N, 3, 2, 2\)"),
    ],
)
def test_wrong_inputs(inputs, message):
    with pytest.raises(DataError, match=message):
        F.run_float(one_conv(), inputs)
