"""Residual networks at 224 × 224: ResNet-18, -34, -50 and RegNetX-400MF; MLPerf Tiny's ResNet8 at 32 × 32.

Ref: He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385, table 1; Radosavovic et al., Designing
Network Design Spaces, arXiv 2003.13678, table 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from sateen.models.network_builder import NetworkBuilder

IMAGE = 224
CLASSES = 1000
STAGES = (64, 128, 256, 512)
"""Channels of the first convolutions of a stage's blocks; all stages but the first halve the plane."""
REGNET = ((1, 32), (2, 64), (7, 160), (12, 400))
"""Blocks and channels of RegNetX-400MF's stages, of 16 channels a group, each of which halves the plane."""


def resnet(blocks: Sequence[int], *, bottleneck: bool = False, name: str, seed: int = 0) -> onnx.ModelProto:
    """`blocks` in each stage; input "input" (1, 3, 224, 224), output "logits" (1, 1000).

    Gain 2 keeps the power through a Relu (He initialization). The smaller gains on both sides of a sum make up for its
    growth, as batch normalization would: activations keep their size from block to block (root mean square about 3).
    """
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.relu("relu1", b.conv("conv1", b.input("input", 3, IMAGE, IMAGE), STAGES[0], 7, 2, gain=2.0))
    x = b.max_pool("maxpool", x, 3, 2, [1] * 4)
    for i, (channels, count) in enumerate(zip(STAGES, blocks, strict=True), 1):
        for j in range(count):
            stride = 2 if i > 1 and j == 0 else 1
            x = (_bottleneck if bottleneck else _basic)(b, f"layer{i}.{j}", x, channels, stride)
    b.linear("logits", b.global_pool("avgpool", x), CLASSES, gain=1.0, weight="fc")
    return b.model(name, "logits")


def _basic(b: NetworkBuilder, name: str, x: str, channels: int, stride: int) -> str:
    y = b.relu(f"{name}.relu1", b.conv(f"{name}.conv1", x, channels, 3, stride, gain=2.0))
    return _sum(b, name, x, b.conv(f"{name}.conv2", y, channels, 3, gain=0.5), stride)


def _bottleneck(b: NetworkBuilder, name: str, x: str, channels: int, stride: int) -> str:
    y = b.relu(f"{name}.relu1", b.conv(f"{name}.conv1", x, channels, 1, gain=2.0))
    y = b.relu(f"{name}.relu2", b.conv(f"{name}.conv2", y, channels, 3, stride, gain=2.0))
    return _sum(b, name, x, b.conv(f"{name}.conv3", y, 4 * channels, 1, gain=0.5), stride)


def _sum(b: NetworkBuilder, name: str, x: str, y: str, stride: int) -> str:
    """The block's end: what it read, projected where the shape has changed, added."""
    if b.shapes[x] != b.shapes[y]:
        x = b.conv(f"{name}.downsample", x, b.shapes[y][0], 1, stride, gain=1.0)
    last = "relu3" if f"{name}.relu2" in b.shapes else "relu2"
    return b.relu(f"{name}.{last}", b.add(f"{name}.add", y, x))


def resnet8(seed: int = 0) -> onnx.ModelProto:
    """Without normalization; input "input" (1, 3, 32, 32), output "logits" (1, 10)."""
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.relu("relu1", b.conv("conv1", b.input("input", 3, 32, 32), 16, 3))
    for i, channels in enumerate((16, 32, 64), 1):
        stride = 1 if i == 1 else 2
        y = b.relu(f"block{i}.relu1", b.conv(f"block{i}.conv1", x, channels, 3, stride))
        y = b.conv(f"block{i}.conv2", y, channels, 3)
        x = x if i == 1 else b.conv(f"block{i}.shortcut", x, channels, 1, stride)
        x = b.relu(f"block{i}.relu2", b.add(f"block{i}.add", y, x))
    b.linear("logits", b.global_pool("avgpool", x), 10, weight="fc")
    return b.model("resnet8", "logits")


def resnet18(seed: int = 0) -> onnx.ModelProto:
    return resnet((2, 2, 2, 2), name="resnet18", seed=seed)


def resnet34(seed: int = 0) -> onnx.ModelProto:
    return resnet((3, 4, 6, 3), name="resnet34", seed=seed)


def resnet50(seed: int = 0) -> onnx.ModelProto:
    return resnet((3, 4, 6, 3), bottleneck=True, name="resnet50", seed=seed)


def regnet_x_400mf(seed: int = 0) -> onnx.ModelProto:
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.relu("stem.relu", b.conv("stem", b.input("input", 3, IMAGE, IMAGE), 32, 3, 2))
    for i, (count, channels) in enumerate(REGNET, 1):
        for j in range(count):
            name, stride = f"stage{i}.{j}", 2 if j == 0 else 1
            y = b.relu(f"{name}.relu1", b.conv(f"{name}.conv1", x, channels, 1))
            y = b.conv(f"{name}.conv2", y, channels, 3, stride, groups=channels // 16)
            y = b.conv(f"{name}.conv3", b.relu(f"{name}.relu2", y), channels, 1)
            x = _sum(b, name, x, y, stride)
    b.linear("logits", b.global_pool("avgpool", x), CLASSES)
    return b.model("regnet_x_400mf", "logits")
