"""Networks that enlarge planes and move pixels, in all four engines, on chip and through memory, and exported."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from four_engines import check, machine
from onnx import TensorProto, helper, numpy_helper


class Nodes:
    """ONNX nodes one after another."""

    def __init__(self, *shape: int) -> None:
        self.rng = np.random.default_rng(0)
        self.shape, self.nodes, self.constants = shape, [], []

    def constant(self, values: object, dtype: type = np.int64) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def __call__(self, op: str, *inputs: str, **attributes: object) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, list(inputs), [out], name=f"{op}{len(self.nodes)}", **attributes)
        )
        return out

    def conv(self, x: str, channels: int, outputs: int, kernel: int = 1, **attributes: object) -> str:
        weight = self.rng.normal(0, 1 / kernel / channels**0.5, (outputs, channels, kernel, kernel))
        return self("Conv", x, self.constant(weight, np.float32), pads=[kernel // 2] * 4, **attributes)

    def model(self, *outputs: str) -> onnx.ModelProto:
        ports = [[helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]]
        ports.append([helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs])
        graph = helper.make_graph(self.nodes, "moving", *ports, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def unet() -> onnx.ModelProto:
    """Both kinds of enlarging, with the larger plane beside them."""
    n = Nodes(1, 3, 8, 12)
    first = n("Relu", n.conv("x", 3, 6, 3))
    small = n("Relu", n.conv(n("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2]), 6, 8, 3))
    up = n("ConvTranspose", small, n.constant(n.rng.normal(0, 0.3, (8, 5, 3, 3)), np.float32), strides=[2, 2],
           pads=[1] * 4, output_padding=[1, 1])  # fmt: skip
    near = n("Resize", small, "", n.constant([1, 1, 2, 2], np.float32), mode="nearest")
    linear = n("Resize", small, "", n.constant([1, 1, 2, 2], np.float32), mode="linear")
    return n.model(n.conv(n("Concat", first, up, near, linear, axis=1), 27, 3))


def shuffled() -> onnx.ModelProto:
    """Pixels to channels and back, rows in another order, borders that mirror."""
    n = Nodes(1, 4, 8, 8)
    y = n("SpaceToDepth", n.conv("x", 4, 4, 3), blocksize=2)
    y = n("DepthToSpace", n("Relu", n.conv(y, 16, 24)), blocksize=2)
    y = n("Pad", y, n.constant([0, 0, 1, 2, 0, 0, 2, 1]), mode="reflect")
    y = n("Gather", y, n.constant([10, 0, 3, 3, 7, 1]), axis=2)
    return n.model(n.conv(n("AveragePool", y, kernel_shape=[3, 3], pads=[1] * 4), 6, 3), y)


def detector() -> onnx.ModelProto:
    """The heads' boxes one behind the other; a sum of two layouts; numbers that differ from row to row."""
    n = Nodes(1, 3, 8, 8)
    heads = []
    for stride in (1, 2):
        y = n.conv("x", 3, 8, 3, strides=[stride] * 2)
        heads.append(n("Reshape", n("Transpose", y, perm=[0, 2, 3, 1]), n.constant([1, -1, 4])))
    y = n("Concat", *heads, axis=1)
    y = n("Add", y, n.constant(n.rng.normal(0, 1, (160, 1)), np.float32))
    turned = n(
        "Transpose", n("MatMul", y, n.constant(n.rng.normal(0, 1, (4, 4)), np.float32)), perm=[0, 2, 1]
    )
    return n.model(n("Add", n("Transpose", turned, perm=[0, 2, 1]), y), turned)


def reduced() -> onnx.ModelProto:
    """Sums of channels that lie apart, means of planes one behind the other, the largest of neighbouring rows."""
    n = Nodes(1, 3, 8, 8)
    halves = n("Reshape", n("Relu", n.conv("x", 3, 8, 3)), n.constant([1, 2, 4, 8, 8]))
    added = n("ReduceSum", halves, n.constant([1]), keepdims=0)
    planes = [n("Unsqueeze", y, n.constant([1])) for y in (added, n.conv("x", 3, 4, 3))]
    mean = n("ReduceMean", n("Concat", *planes, axis=1), n.constant([1]), keepdims=0)
    rows = n("Reshape", mean, n.constant([1, 4, 4, 2, 8]))
    return n.model(mean, n.conv(n("ReduceMax", rows, n.constant([3]), keepdims=0), 4, 3))


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "depth"),
    [(reduced, 1024), (unet, 1024), (unet, 128), (shuffled, 1024), (shuffled, 64), (detector, 1024)],
)
def test_moving(network, depth, tmp_path):
    """With the smaller buffer most tensors go through memory, in stripes."""
    model = network()
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    samples = np.random.default_rng(1).normal(0, 1, (4, *shape[1:])).astype(np.float32)
    config = machine("int8", "e4m3" if network is shuffled else "int8", act_bank_depth=depth)
    check(model, samples, config, tmp_path, interval=1 if depth == 1024 else 2)
