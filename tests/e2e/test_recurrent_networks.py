"""Recurrent networks in all four engines."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from four_engines import check, machine
from test_moving_networks import Nodes

STEPS, FEATURES, HIDDEN = 4, 3, 5


def recurrent(
    n: Nodes, kind: str, x: str, features: int, hidden: int, *, both: bool = False
) -> tuple[str, ...]:
    """Y, Y_h and, of an LSTM, Y_c."""
    gates, d = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 1 + both
    shapes = ((d, gates * hidden, features), (d, gates * hidden, hidden), (d, 2 * gates * hidden))
    inputs = [x, *(n.constant(n.rng.normal(0, 0.5, s), np.float32) for s in shapes)]
    names = [f"{kind}{len(n.nodes)}.{k}" for k in range(2 + (kind == "LSTM"))]
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    direction = "bidirectional" if both else "forward"
    made = onnx.helper.make_node(
        kind, inputs, names, f"{kind}{len(n.nodes)}", hidden_size=hidden,
        direction=direction, **extra,
    )  # fmt: skip
    n.nodes.append(made)
    return tuple(names)


def stacked() -> onnx.ModelProto:
    """A GRU in both directions, an LSTM, and a layer for the last state: as torch exports them."""
    n = Nodes(1, STEPS, FEATURES)
    first, _ = recurrent(n, "GRU", n("Transpose", "x", perm=[1, 0, 2]), FEATURES, 3, both=True)
    y = n("Reshape", n("Transpose", first, perm=[0, 2, 1, 3]), n.constant([STEPS, 1, 6]))
    _, last, _ = recurrent(n, "LSTM", y, 6, HIDDEN)
    weight = n.constant(n.rng.normal(0, 0.5, (HIDDEN, 3)), np.float32)
    return n.model(n("MatMul", n("Squeeze", last, n.constant([0])), weight))


def spoken() -> onnx.ModelProto:
    """Tokens: rows of a table, a GRU over them, its last state."""
    n = Nodes(1, STEPS)
    y = n("Gather", n.constant(n.rng.normal(0, 1, (10, FEATURES)), np.float32), "x")
    _, last = recurrent(n, "GRU", n("Transpose", y, perm=[1, 0, 2]), FEATURES, 3)
    model = n.model(n("Squeeze", last, n.constant([0])))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    return model


def two_paths() -> onnx.ModelProto:
    """A GRU along the columns of a plane, both ways, and one along its rows, all lines at once."""
    n = Nodes(1, FEATURES, 3, STEPS)
    x = n("Reshape", n("Transpose", "x", perm=[3, 0, 2, 1]), n.constant([STEPS, 3, FEATURES]))
    y, _ = recurrent(n, "GRU", x, FEATURES, 2, both=True)
    y = n("Reshape", n("Transpose", y, perm=[2, 0, 1, 3]), n.constant([3, STEPS, 4]))
    y, _ = recurrent(n, "GRU", y, 4, 4)
    return n.model(n("Transpose", n("Squeeze", y, n.constant([1])), perm=[2, 0, 1]))


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize("activations", ["int8", "e4m3"])
def test_recurrent(activations, tmp_path):
    samples = np.random.default_rng(1).normal(0, 1, (16, STEPS, FEATURES)).astype(np.float32)
    check(stacked(), samples, machine("int8", activations, product=True), tmp_path)


@pytest.mark.rtl
@pytest.mark.slow
def test_sequences_side_by_side(tmp_path):
    samples = np.random.default_rng(1).normal(0, 1, (16, FEATURES, 3, STEPS)).astype(np.float32)
    check(two_paths(), samples, machine("int8", "int8", product=True), tmp_path)


@pytest.mark.rtl
@pytest.mark.slow
def test_tokens(tmp_path):
    tokens = np.random.default_rng(1).integers(0, 10, (16, STEPS))
    check(spoken(), tokens, machine("int8", "int8", product=True), tmp_path)
