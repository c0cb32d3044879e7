"""Random small networks of tokens and gates that can be trained: attention, normalizations, functions, products."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sateen.models.transformers import digits_vit

FUNCTIONS = ("Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Softplus", "Selu", "Relu")


def random_tokens(rng: random.Random) -> onnx.ModelProto:
    """For 8 × 8 × 1, with ten logits."""
    if rng.random() < 0.5:
        heads = rng.choice([1, 2, 3])
        return digits_vit(
            rng.randrange(1 << 30), rng.randint(1, 2), heads * rng.choice([2, 4]), heads, rng.choice([2, 4])
        )
    return _gates(rng)


def _gates(rng: random.Random) -> onnx.ModelProto:
    """Blocks of a convolution and a function: multiplied by what the block read, joined with it, or normalized."""
    numbers = np.random.default_rng(rng.randrange(1 << 30))
    values: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []
    x, c, side = "x", 1, 8

    def add(kind: str, inputs: list[str], name: str, **more: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{name}.out"], name, **more))
        return f"{name}.out"

    def conv(name: str, source: str, outputs: int, kernel: int, stride: int) -> str:
        values[f"{name}.w"] = numbers.normal(0, 1 / np.sqrt(c * kernel**2), (outputs, c, kernel, kernel))
        values[f"{name}.b"] = numbers.normal(0, 0.1, outputs)
        pads = [kernel // 2] * 4
        return add("Conv", [source, f"{name}.w", f"{name}.b"], name, pads=pads, strides=[stride] * 2)

    for k in range(rng.randint(1, 3)):
        kind = rng.choice(["multiply", "squeeze", "join", "normalize", "plain"])
        same = kind in ("multiply", "join")
        stride = 1 if same or side < 4 else rng.choice([1, 2])
        outputs = c if kind == "multiply" else rng.randint(2, 10)
        y = add(
            rng.choice(FUNCTIONS), [conv(f"conv{k}", x, outputs, rng.choice([1, 3]), stride)], f"function{k}"
        )
        side = -(-side // stride)
        if kind == "multiply":
            y = add("Mul", [y, x], f"product{k}")
        elif kind == "join":
            y = add("Concat", [x, y], f"join{k}", axis=1)
            outputs += c
        elif kind == "normalize":
            values |= {
                f"scale{k}": numbers.uniform(0.5, 2, outputs),
                f"offset{k}": numbers.normal(0, 0.2, outputs),
            }
            y = add("InstanceNormalization", [y, f"scale{k}", f"offset{k}"], f"norm{k}", epsilon=1e-3)
        c = outputs
        if kind == "squeeze":
            gate = conv(f"excite{k}", add("GlobalAveragePool", [y], f"mean{k}"), c, 1, 1)
            y = add("Mul", [y, add("Sigmoid", [gate], f"gate{k}")], f"scaled{k}")
        x = y
    values |= {"logits.w": numbers.normal(0, 0.3, (10, c)), "logits.b": np.zeros(10)}
    x = add("Flatten", [add("GlobalAveragePool", [x], "mean")], "flatten")
    y = add("Gemm", [x, "logits.w", "logits.b"], "logits", transB=1)
    graph = helper.make_graph(
        nodes, "gates",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
