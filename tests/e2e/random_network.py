"""Random small ONNX networks, drawn by Hypothesis: shapes, strides, padding, residuals, pooling, activations."""

from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Clip", None)
FORMATS = (
    ("int8", "int8"),
    ("int8", "uint8"),
    ("int4", "int4"),
    ("e3m2", "e3m2"),
    ("e4m3fn", "e4m3fn"),
    ("int4", "e2m3"),
    ("e2m1", "int8"),
    ("int3", "e3m0"),
)


@dataclass
class Network:
    model: onnx.ModelProto
    shape: tuple[int, ...]  # of the input, without batch
    seed: int

    def samples(self, n: int) -> np.ndarray:
        rng = np.random.default_rng(self.seed + 1)
        return rng.normal(0, 1, (n, *self.shape)).astype(np.float32)


@st.composite
def networks(draw) -> Network:
    """One to four blocks and, often, a classifier."""
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    channels, height, width = draw(st.integers(1, 9)), draw(st.integers(1, 10)), draw(st.integers(1, 10))
    shape = (channels, height, width)

    def add(op: str, *inputs: str, **attributes) -> str:
        name = f"{op.lower()}{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(*shape: int, scale: float) -> str:
        name = f"w{len(weights)}"
        weights.append(numpy_helper.from_array(rng.normal(0, scale, shape).astype(np.float32), name))
        return name

    def conv(
        x: str, inputs: int, outputs: int, kernel, stride, pads, dilation=(1, 1), groups: int = 1
    ) -> str:
        fan = inputs // groups * kernel[0] * kernel[1]
        operands = [x, constant(outputs, inputs // groups, *kernel, scale=fan**-0.5)]
        if draw(st.booleans()):
            operands.append(constant(outputs, scale=0.1))
        return add(
            "Conv",
            *operands,
            kernel_shape=kernel,
            strides=stride,
            pads=pads,
            dilations=dilation,
            group=groups,
        )

    def activate(x: str) -> str:
        kind = draw(st.sampled_from(ACTIVATIONS))
        if kind is None:
            return x
        if kind == "Clip":
            bounds = []
            for value in (0.0, 1.5):
                weights.append(numpy_helper.from_array(np.array(value, np.float32), f"w{len(weights)}"))
                bounds.append(weights[-1].name)
            return add("Clip", x, *bounds)
        return add(kind, x)

    x = "x"
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("conv", "conv", "residual", "pool", "depthwise", "concat")))
        if kind == "conv" or (kind == "pool" and (height < 2 or width < 2)):
            kernel = (draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width))))
            pads = [draw(st.integers(0, k // 2)) for k in kernel] + [
                draw(st.integers(0, k // 2)) for k in kernel
            ]
            stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
            outputs = draw(st.integers(1, 20))
            x = activate(conv(x, channels, outputs, kernel, stride, pads))
            height = (height + pads[0] + pads[2] - kernel[0]) // stride[0] + 1
            width = (width + pads[1] + pads[3] - kernel[1]) // stride[1] + 1
            channels = outputs
        elif kind == "residual":
            y = activate(conv(x, channels, channels, (3, 3), (1, 1), [1] * 4))
            x = activate(add("Add", conv(y, channels, channels, (1, 1), (1, 1), [0] * 4), x))
        elif kind == "depthwise":
            x = activate(conv(x, channels, channels, (3, 3), (1, 1), [1] * 4, groups=channels))
        elif kind == "concat":
            more = draw(st.integers(1, 12))
            x = add("Concat", x, conv(x, channels, more, (1, 1), (1, 1), [0] * 4), axis=1)
            channels += more
        else:
            op = draw(st.sampled_from(("MaxPool", "AveragePool")))
            x = add(op, x, kernel_shape=[2, 2], strides=[2, 2])
            height, width = height // 2, width // 2
    if draw(st.booleans()):
        x = add("Flatten", x)
        features = channels * height * width
        classes = draw(st.integers(1, 12))
        x = add(
            "Gemm",
            x,
            constant(classes, features, scale=features**-0.5),
            constant(classes, scale=0.1),
            transB=1,
        )
    elif x == "x":
        x = conv(x, channels, 4, (1, 1), (1, 1), [0] * 4)
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *shape])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return Network(onnx.shape_inference.infer_shapes(model), shape, seed)
