"""Mobile networks with squeeze-and-excitation: a factor for each channel, computed from the means of all.

Ref: Howard et al., arXiv 1905.02244, table 2 (MobileNetV3-Small); Tan & Le, arXiv 1905.11946 (EfficientNet-B0).
"""

from __future__ import annotations

import numpy as np
import onnx

from sateen.models.network_builder import NetworkBuilder

SMALL_BLOCKS = (
    (3, 16, 16, True, "Relu", 2),
    (3, 72, 24, False, "Relu", 2),
    (3, 88, 24, False, "Relu", 1),
    (5, 96, 40, True, "HardSwish", 2),
    (5, 240, 40, True, "HardSwish", 1),
    (5, 240, 40, True, "HardSwish", 1),
    (5, 120, 48, True, "HardSwish", 1),
    (5, 144, 48, True, "HardSwish", 1),
    (5, 288, 96, True, "HardSwish", 2),
    (5, 576, 96, True, "HardSwish", 1),
    (5, 576, 96, True, "HardSwish", 1),
)
"""Kernel, expanded channels, channels, whether gated, function and stride of MobileNetV3-Small's blocks."""
B0_STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
"""Factor of expansion, kernel, channels, blocks and stride of EfficientNet-B0's stages."""


def mobilenet_v3_small(seed: int = 0) -> onnx.ModelProto:
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.hard_swish("stem.hs", b.conv("stem", b.input("image", 3, 224, 224), 16, 3, 2))
    for i, (kernel, inner, channels, gated, function, stride) in enumerate(SMALL_BLOCKS):
        name, y = f"block{i}", x
        if inner != b.shapes[x][0]:
            y = b.function(function, f"{name}.f1", b.conv(f"{name}.expand", y, inner, 1))
        y = b.function(function, f"{name}.f2", b.depthwise(f"{name}.depthwise", y, kernel, stride))
        if gated:
            y = b.gate(f"{name}.gate", y, _eighths(inner / 4), "Relu", "HardSigmoid")
        y = b.conv(f"{name}.project", y, channels, 1)
        x = b.add(f"{name}.add", x, y) if stride == 1 and channels == b.shapes[x][0] else y
    x = b.global_pool("pool", b.hard_swish("head.hs", b.conv("head", x, 576, 1)))
    x = b.hard_swish("features.hs", b.linear("features", x, 1024))
    b.linear("logits", x, 1000)
    return b.model("mobilenet_v3_small", "logits")


def efficientnet_b0(seed: int = 0) -> onnx.ModelProto:
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.silu("stem.silu", b.conv("stem", b.input("image", 3, 224, 224), 32, 3, 2))
    for i, (factor, kernel, channels, count, stride) in enumerate(B0_STAGES, 1):
        for j in range(count):
            name, y, step = f"stage{i}.{j}", x, stride if j == 0 else 1
            inputs = b.shapes[x][0]
            if factor > 1:
                y = b.silu(f"{name}.silu1", b.conv(f"{name}.expand", y, inputs * factor, 1))
            y = b.silu(f"{name}.silu2", b.depthwise(f"{name}.depthwise", y, kernel, step))
            y = b.gate(f"{name}.gate", y, max(1, inputs // 4), "Silu", "Sigmoid")
            y = b.conv(f"{name}.project", y, channels, 1)
            x = b.add(f"{name}.add", x, y) if step == 1 and channels == inputs else y
    x = b.global_pool("pool", b.silu("head.silu", b.conv("head", x, 1280, 1)))
    b.linear("logits", x, 1000)
    return b.model("efficientnet_b0", "logits")


def _eighths(channels: float) -> int:
    """The multiple of 8 nearest to it, of at least 8 and nine tenths of it."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found
