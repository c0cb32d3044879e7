"""Small networks of tokens and gates, with samples (N, H, W, C) for them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sateen.compiler.importer import import_model
from sateen.compiler.training import Settings, Trainer, fitting, initial, make_plan
from sateen.models.transformers import digits_vit


def gated() -> onnx.ModelProto:
    """8 × 8 × 1: Conv with SiLU, a gate of channels, a product, a leaky slope, a Concat, a norm of planes."""
    rng = np.random.default_rng(3)
    values = {
        "w1": rng.normal(0, 0.4, (8, 1, 3, 3)), "w2": rng.normal(0, 0.4, (8, 8, 1, 1)),
        "w3": rng.normal(0, 0.3, (8, 8, 3, 3)), "w4": rng.normal(0, 0.3, (8, 16, 1, 1)),
        "scale": rng.uniform(0.5, 1.5, 8), "offset": rng.normal(0, 0.1, 8), "w5": rng.normal(0, 0.3, (10, 8)),
        "b5": np.zeros(10),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1] * 4, strides=[2, 2]),
        node("Sigmoid", ["c1"], ["s1"], "sigmoid1"),
        node("Mul", ["c1", "s1"], ["r1"], "silu1"),
        node("GlobalAveragePool", ["r1"], ["p"], "squeeze"),
        node("Conv", ["p", "w2"], ["e"], "excite"),
        node("HardSigmoid", ["e"], ["g"], "gate"),
        node("Mul", ["r1", "g"], ["m"], "scaled"),
        node("Conv", ["m", "w3"], ["c3"], "conv3", pads=[1] * 4),
        node("Mul", ["c3", "m"], ["q"], "quadratic"),
        node("LeakyRelu", ["q"], ["l"], "leaky", alpha=0.25),
        node("Concat", ["l", "m"], ["j"], "join", axis=1),
        node("Conv", ["j", "w4"], ["c4"], "conv4"),
        node("InstanceNormalization", ["c4", "scale", "offset"], ["n"], "norm"),
        node("Relu", ["n"], ["rn"], "relu"),
        node("GlobalAveragePool", ["rn"], ["v"], "mean"),
        node("Flatten", ["v"], ["f"], "flatten"),
        node("Gemm", ["f", "w5", "b5"], ["y"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "gated",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


NETS = {
    "vit": lambda: digits_vit(depth=1, features=8, heads=2, patch=4),
    "gated": gated,
}


def digits(count=16, seed=1) -> tuple[np.ndarray, np.ndarray]:
    """Noise (N, 1, 8, 8) around a pattern for each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    patterns = np.random.default_rng(0).normal(0, 1, (10, 1, 8, 8))
    return (patterns[labels] + rng.normal(0, 0.3, (count, 1, 8, 8))).astype(np.float32), labels


def token_trainer(net: str, fmt="int8", gradients="int8", **more):
    settings = Settings(sparsity="2:4", weights=fmt, activations=fmt, gradients=gradients, **more)
    plan = make_plan(import_model(NETS[net]()), settings)
    state = initial(plan, settings)
    x, labels = digits()
    hwc = plan.graph.inputs[0].to_hwc(x).astype(np.float32)
    state.scales[plan.input] = fitting(float(np.abs(hwc).max()), settings.formats[1])
    return Trainer(plan, settings, state), hwc, labels
