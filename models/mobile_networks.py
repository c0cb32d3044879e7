"""Networks for phones at 224 × 224: MobileNet V1, V2 and V4, MobileOne, ShuffleNetV2, EfficientNet-Lite0.

Ref: arXiv 1704.04861 (table 1), 1801.04381 (table 2), 2404.10518 (MNv4-Conv-S), 2206.04040 (MobileOne-S0 as it is
deployed, its branches merged), 1807.11164 (table 5, 1×), 1905.11946 (B0, without squeeze-and-excitation).
"""

from __future__ import annotations

import numpy as np
import onnx

from sateen.models.network_builder import NetworkBuilder

IMAGE = 224
CLASSES = 1000

V1_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1)
)  # fmt: skip
"""Channels and stride of each pair of a depthwise and a 1×1 convolution."""
V2_STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3), (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)  # fmt: skip
"""Expansion, channels, blocks, stride of the first and kernel of each stage."""
LITE0_STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip
V4_BLOCKS = (
    (96, 5, 5, 3, 2), (96, 0, 3, 2, 1), (96, 0, 3, 2, 1), (96, 0, 3, 2, 1), (96, 0, 3, 2, 1), (96, 3, 0, 4, 1),
    (128, 3, 3, 6, 2), (128, 5, 5, 4, 1), (128, 0, 5, 4, 1), (128, 0, 5, 3, 1), (128, 0, 3, 4, 1), (128, 0, 3, 4, 1),
)  # fmt: skip
"""Channels, kernel of the depthwise convolution in front (0: none) and in the middle, expansion, stride."""
ONE_STAGES = ((48, 2), (128, 8), (256, 10), (1024, 1))
SHUFFLE_STAGES = ((116, 4), (232, 8), (464, 4))


def _start(seed: int, channels: int) -> tuple[NetworkBuilder, str]:
    b = NetworkBuilder(np.random.default_rng(seed))
    return b, b.conv("stem", b.input("input", 3, IMAGE, IMAGE), channels, 3, 2)


def _end(b: NetworkBuilder, name: str, x: str) -> onnx.ModelProto:
    b.linear("logits", b.global_pool("avgpool", x), CLASSES)
    return b.model(name, "logits")


def mobilenet_v1(seed: int = 0) -> onnx.ModelProto:
    b, x = _start(seed, 32)
    x = b.relu("stem.relu", x)
    for i, (channels, stride) in enumerate(V1_BLOCKS, 1):
        x = b.relu(f"block{i}.relu1", b.depthwise(f"block{i}.depthwise", x, 3, stride))
        x = b.relu(f"block{i}.relu2", b.conv(f"block{i}.pointwise", x, channels, 1))
    return _end(b, "mobilenet_v1", x)


def _inverted_residuals(b: NetworkBuilder, x: str, stages: tuple[tuple[int, int, int, int, int], ...]) -> str:
    for i, (expansion, channels, count, first, kernel) in enumerate(stages, 1):
        for j in range(count):
            name, stride = f"stage{i}.{j}", first if j == 0 else 1
            y = x
            if expansion > 1:
                y = b.relu6(f"{name}.relu1", b.conv(f"{name}.expand", x, expansion * b.shapes[x][0], 1))
            y = b.relu6(f"{name}.relu2", b.depthwise(f"{name}.depthwise", y, kernel, stride))
            y = b.conv(f"{name}.project", y, channels, 1)
            x = b.add(f"{name}.add", x, y) if b.shapes[x] == b.shapes[y] else y
    return x


def mobilenet_v2(seed: int = 0) -> onnx.ModelProto:
    b, x = _start(seed, 32)
    x = _inverted_residuals(b, b.relu6("stem.relu", x), V2_STAGES)
    return _end(b, "mobilenet_v2", b.relu6("head.relu", b.conv("head", x, 1280, 1)))


def efficientnet_lite0(seed: int = 0) -> onnx.ModelProto:
    b, x = _start(seed, 32)
    x = _inverted_residuals(b, b.relu6("stem.relu", x), LITE0_STAGES)
    return _end(b, "efficientnet_lite0", b.relu6("head.relu", b.conv("head", x, 1280, 1)))


def mobilenet_v4_conv_small(seed: int = 0) -> onnx.ModelProto:
    b, x = _start(seed, 32)
    x = b.relu("stem.relu", x)
    for i, (middle, channels) in enumerate(((32, 32), (96, 64)), 1):
        x = b.relu(f"fused{i}.relu1", b.conv(f"fused{i}.conv", x, middle, 3, 2))
        x = b.relu(f"fused{i}.relu2", b.conv(f"fused{i}.project", x, channels, 1))
    for i, (channels, front, middle, expansion, stride) in enumerate(V4_BLOCKS):
        name, y = f"block{i}", x
        if front:
            y = b.depthwise(f"{name}.front", y, front, 1 if middle else stride)
        y = b.relu(f"{name}.relu1", b.conv(f"{name}.expand", y, expansion * b.shapes[x][0], 1))
        if middle:
            y = b.relu(f"{name}.relu2", b.depthwise(f"{name}.middle", y, middle, stride))
        y = b.conv(f"{name}.project", y, channels, 1)
        x = b.add(f"{name}.add", x, y) if b.shapes[x] == b.shapes[y] else y
    x = b.relu("head1.relu", b.conv("head1", x, 960, 1))
    x = b.linear("head2", b.global_pool("avgpool", x), 1280)
    b.linear("logits", b.relu("head2.relu", x), CLASSES)
    return b.model("mobilenet_v4_conv_small", "logits")


def mobileone_s0(seed: int = 0) -> onnx.ModelProto:
    b, x = _start(seed, 48)
    x = b.relu("stem.relu", x)
    for i, (channels, count) in enumerate(ONE_STAGES, 1):
        for j in range(count):
            name = f"stage{i}.{j}"
            x = b.relu(f"{name}.relu1", b.depthwise(f"{name}.depthwise", x, 3, 2 if j == 0 else 1))
            x = b.relu(f"{name}.relu2", b.conv(f"{name}.pointwise", x, channels, 1))
    return _end(b, "mobileone_s0", x)


def shufflenet_v2(seed: int = 0) -> onnx.ModelProto:
    b, x = _start(seed, 24)
    x = b.max_pool("maxpool", b.relu("stem.relu", x), 3, 2, [1] * 4)
    for i, (channels, count) in enumerate(SHUFFLE_STAGES, 2):
        half = channels // 2
        for j in range(count):
            name, stride = f"stage{i}.{j}", 2 if j == 0 else 1
            if stride == 2:
                left = b.depthwise(f"{name}.left.depthwise", x, 3, 2)
                left = b.relu(f"{name}.left.relu", b.conv(f"{name}.left.pointwise", left, half, 1))
                right = x
            else:
                left, right = b.halves(f"{name}.split", x)
            y = b.relu(f"{name}.relu1", b.conv(f"{name}.conv1", right, half, 1))
            y = b.conv(f"{name}.conv2", b.depthwise(f"{name}.depthwise", y, 3, stride), half, 1)
            y = b.concat(f"{name}.concat", left, b.relu(f"{name}.relu2", y))
            x = b.shuffle(f"{name}.shuffle", y, 2)
    return _end(b, "shufflenet_v2", b.relu("head.relu", b.conv("head", x, 1024, 1)))
