"""Small networks with every kind of layer that can be trained, and samples for them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def network(rng=None, classes=3) -> onnx.ModelProto:
    """8 × 8 × 2: Conv, Clip, overlapping MaxPool, a residual block with a strided shortcut, AveragePool, Gemm."""
    rng = rng or np.random.default_rng(5)
    values = {
        "w1": rng.normal(0, 0.4, (8, 2, 3, 3)), "b1": rng.normal(0, 0.1, 8),
        "w2": rng.normal(0, 0.15, (8, 8, 3, 3)), "b2": rng.normal(0, 0.1, 8),
        "w3": rng.normal(0, 0.2, (16, 8, 3, 3)), "b3": np.zeros(16),
        "w4": rng.normal(0, 0.2, (16, 8, 1, 1)), "b4": np.zeros(16),
        "w5": rng.normal(0, 0.3, (classes, 16)), "b5": np.zeros(classes),
        "six": np.array(6.0), "none": np.array(0.0),
    }  # fmt: skip
    same = {"pads": [1] * 4, "kernel_shape": [3, 3]}
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", **same),
        node("Clip", ["c1", "none", "six"], ["r1"], "clip1"),
        node("MaxPool", ["r1"], ["p1"], "pool1", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        node("Conv", ["p1", "w2", "b2"], ["c2"], "conv2", **same),
        node("Add", ["c2", "p1"], ["a2"], "add2"),
        node("Relu", ["a2"], ["r2"], "relu2"),
        node("Conv", ["r2", "w3", "b3"], ["c3"], "conv3", strides=[2, 2], **same),
        node("Conv", ["r2", "w4", "b4"], ["c4"], "conv4", strides=[2, 2], kernel_shape=[1, 1]),
        node("Add", ["c3", "c4"], ["a3"], "add3"),
        node("Relu", ["a3"], ["r3"], "relu3"),
        node("AveragePool", ["r3"], ["v"], "average", kernel_shape=[2, 2]),
        node("Flatten", ["v"], ["f"], "flatten"),
        node("Gemm", ["f", "w5", "b5"], ["y"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(count=24, classes=3, seed=1) -> tuple[np.ndarray, np.ndarray]:
    """Noise (N, 2, 8, 8) around a pattern for each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    patterns = np.random.default_rng(0).normal(0, 1, (classes, 2, 8, 8))
    return (patterns[labels] + rng.normal(0, 0.3, (count, 2, 8, 8))).astype(np.float32), labels
