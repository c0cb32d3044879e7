"""ResNet-18 at 224 × 224 with random weights: the whole standard network, for compile time, cycles and cost.

Ref: He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385, table 1. Batch normalization
is already folded into the convolutions. `python -m sateen.models.resnet18 --out resnet18.onnx` writes it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IMAGE = 224
CLASSES = 1000
STAGES = (64, 128, 256, 512)
"""Channels; each stage has two blocks, and all but the first halve the plane."""
MACS = 1_814_073_344
"""Multiplications of all convolutions and the last Gemm for one image."""


@dataclass
class _Builder:
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str, shape: tuple[int, ...], gain: float) -> list[str]:
        """Normal weights of variance gain / fan-in, and a small bias as folded normalization leaves."""
        values = self.rng.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
        bias = 0.05 * self.rng.standard_normal(shape[0])
        names = [f"{name}.weight", f"{name}.bias"]
        for n, v in zip(names, (values, bias), strict=True):
            self.weights.append(numpy_helper.from_array(v.astype(np.float32), n))
        return names

    def conv(self, name: str, x: str, shape: tuple[int, int, int], stride: int = 1, gain: float = 2.0) -> str:
        """`shape` is outputs, inputs, kernel. Gain 2 keeps the power through a Relu (He initialization)."""
        o, i, k = shape
        inputs = [x, *self.weight(name, (o, i, k, k), gain)]
        pads, strides = [k // 2] * 4, [stride] * 2
        return self.node("Conv", name, inputs, kernel_shape=[k, k], pads=pads, strides=strides)

    def block(self, name: str, x: str, inputs: int, outputs: int, stride: int) -> str:
        y = self.node("Relu", f"{name}.relu1", [self.conv(f"{name}.conv1", x, (outputs, inputs, 3), stride)])
        # The smaller gains on both sides of the sum make up for its growth, as batch normalization would:
        # activations keep their size from block to block (root mean square about 3).
        y = self.conv(f"{name}.conv2", y, (outputs, outputs, 3), gain=0.5)
        if stride != 1 or inputs != outputs:
            x = self.conv(f"{name}.downsample", x, (outputs, inputs, 1), stride, gain=1.0)
        return self.node("Relu", f"{name}.relu2", [self.node("Add", f"{name}.add", [y, x])])


def resnet18(seed: int = 0) -> onnx.ModelProto:
    """The network with weights drawn from `seed`; input "input" (1, 3, 224, 224), output "logits" (1, 1000).

    Fit for inputs of zero mean and unit variance, as the usual normalization of images gives.
    """
    b = _Builder(np.random.default_rng(seed))
    x = b.node("Relu", "relu1", [b.conv("conv1", "input", (STAGES[0], 3, 7), stride=2)])
    x = b.node("MaxPool", "maxpool", [x], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    inputs = STAGES[0]
    for i, outputs in enumerate(STAGES, 1):
        for j in (0, 1):
            x = b.block(f"layer{i}.{j}", x, inputs, outputs, stride=2 if i > 1 and j == 0 else 1)
            inputs = outputs
    x = b.node("Flatten", "flatten", [b.node("GlobalAveragePool", "avgpool", [x])], axis=1)
    b.node("Gemm", "logits", [x, *b.weight("fc", (CLASSES, inputs), 1.0)], transB=1)
    graph = helper.make_graph(
        b.nodes,
        "resnet18",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, IMAGE, IMAGE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        b.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="sateen")
    model.ir_version = 8  # what opset 17 was released with
    return model


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sateen.models.resnet18", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("resnet18.onnx"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    onnx.save(resnet18(options.seed), options.out)
    print(f"{options.out}: {options.out.stat().st_size} bytes, {MACS} MACs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
