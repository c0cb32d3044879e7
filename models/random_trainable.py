"""Random small networks that can be trained: what `sateen.compiler.training` takes, in any order and shape."""

from __future__ import annotations

import random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def random_trainable(rng: random.Random) -> tuple[onnx.ModelProto, tuple[int, int, int], int]:
    """Convolutions of any kernel, stride and padding, with and without Relu, Clip, sums and pools; logits by a Gemm."""
    values: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []
    node = helper.make_node
    numbers = np.random.default_rng(rng.randrange(1 << 30))
    h, w, c = shape = rng.randint(4, 8), rng.randint(4, 8), rng.randint(1, 9)
    x, classes = "x", rng.choice([2, 3, 5, 20, 40])

    def conv(k: int, source: str, outputs: int, kernel: list[int], stride: list[int], pads: list[int]) -> str:
        values[f"w{k}"] = numbers.normal(0, 1 / np.sqrt(c * kernel[0] * kernel[1]), (outputs, c, *kernel))
        values[f"b{k}"] = numbers.normal(0, 0.1, outputs)
        nodes.append(
            node(
                "Conv",
                [source, f"w{k}", f"b{k}"],
                [f"c{k}"],
                f"conv{k}",
                kernel_shape=kernel,
                strides=stride,
                pads=pads,
            )
        )
        return f"c{k}"

    for k in range(rng.randint(1, 4)):
        same = rng.random() < 0.4
        kernel = [min(rng.randint(1, 3), n) for n in (h, w)]
        stride, pads = [1, 1], [0] * 4
        outputs = c if same else rng.randint(2, 20)
        if same:
            kernel, pads = [3, 3], [1] * 4
        else:
            stride = [rng.randint(1, 2) for _ in range(2)]
            pads = [rng.randint(0, n - 1) for n in kernel * 2]
        y = conv(k, x, outputs, kernel, stride, pads)
        if same and rng.random() < 0.7:
            nodes.append(node("Add", [y, x], [f"a{k}"], f"add{k}"))
            y = f"a{k}"
        h, w = ((n + pads[i] + pads[i + 2] - kernel[i]) // stride[i] + 1 for i, n in enumerate((h, w)))
        c = outputs
        kind = rng.choice(["Relu", "Relu", "Clip", ""])
        if kind:
            more = [] if kind == "Relu" else ["low", "high"]
            nodes.append(node(kind, [y, *more], [f"r{k}"], f"activation{k}"))
            y = f"r{k}"
        if min(h, w) > 1 and rng.random() < 0.5:
            pool = rng.choice(["MaxPool", "MaxPool", "AveragePool"])
            size, step = [min(rng.randint(2, 3), n) for n in (h, w)], [rng.randint(1, 2) for _ in range(2)]
            border = [rng.randint(0, pool == "MaxPool") for _ in range(4)]
            nodes.append(node(pool, [y], [f"p{k}"], f"pool{k}", kernel_shape=size, strides=step, pads=border))
            y = f"p{k}"
            h, w = ((n + border[i] + border[i + 2] - size[i]) // step[i] + 1 for i, n in enumerate((h, w)))
        x = y
    values |= {"low": np.array(0.0), "high": np.array(1.0)}
    features = c * h * w
    if rng.random() < 0.5:
        nodes.append(node("GlobalAveragePool", [x], ["g"], "global"))
        x, features = "g", c
    values["wg"], values["bg"] = numbers.normal(0, 0.3, (classes, features)), np.zeros(classes)
    nodes += [
        node("Flatten", [x], ["f"], "flatten"),
        node("Gemm", ["f", "wg", "bg"], ["y"], "gemm", transB=1),
    ]
    used = {n for v in nodes for n in v.input}
    graph = helper.make_graph(
        nodes, "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", shape[2], *shape[:2]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items() if k in used],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), shape, classes
