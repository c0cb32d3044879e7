"""Constants joined to computed tensors, and outputs that the host chooses from, in all four engines, and exported."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from four_engines import check, machine
from test_moving_networks import Nodes


def tokens() -> onnx.ModelProto:
    """A class token before the patches, behind a map of coordinates; the best two classes and their places, the largest
    of all, the first smallest."""
    n = Nodes(1, 3, 6, 5)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 6), np.linspace(-1, 1, 5), indexing="ij"))
    y = n.conv(n("Concat", "x", n.constant(grid[None], np.float32), axis=1), 5, 4, 3)
    y = n("Transpose", n("Reshape", y, n.constant([1, 4, 30])), perm=[0, 2, 1])
    y = n("Concat", n.constant(n.rng.normal(0, 1, (1, 1, 4)), np.float32), y, axis=1)
    y = n("MatMul", y, n.constant(n.rng.normal(0, 0.5, (4, 6)), np.float32))
    n.nodes.append(onnx.helper.make_node("TopK", [y, n.constant([2])], ["best", "places"], "TopK", axis=1))
    return n.model("best", "places", n("ArgMax", y, axis=2, keepdims=0), n("ArgMin", y, axis=1))


@pytest.mark.rtl
@pytest.mark.slow
def test_tokens(tmp_path):
    samples = np.random.default_rng(1).normal(0, 1, (8, 3, 6, 5)).astype(np.float32)
    check(tokens(), samples, machine("int8", "int8", act_bank_depth=64), tmp_path)
