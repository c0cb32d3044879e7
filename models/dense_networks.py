"""Networks whose outputs are planes or boxes: segmentation, super-resolution, detectors with their heads.

Ref: Ronneberger et al., arXiv 1505.04597 (U-Net; 16 channels at first, padded); Shi et al., arXiv 1609.05158 (ESPCN);
Ultralytics YOLOv5n and YOLOv8n, at 320 × 320, up to the sums that boxes and classes are computed from.
"""

from __future__ import annotations

import numpy as np
import onnx

from sateen.models.network_builder import NetworkBuilder, Size

SIDE = 320
"""Pixels of the detectors' images."""
V5_STAGES = ((32, 1), (64, 2), (128, 3), (256, 1))
"""Channels and bottlenecks of YOLOv5n's stages."""
V8_STAGES = ((32, 1), (64, 2), (128, 2), (256, 1))
CLASSES = 80


def unet(seed: int = 0) -> onnx.ModelProto:
    """Two classes of each pixel of a 128 × 128 image; enlarged by ConvTranspose, then by Resize."""
    b = NetworkBuilder(np.random.default_rng(seed))

    def double(name: str, x: str, channels: int) -> str:
        x = b.relu(f"{name}.relu1", b.conv(f"{name}.conv1", x, channels, 3))
        return b.relu(f"{name}.relu2", b.conv(f"{name}.conv2", x, channels, 3))

    x, kept = double("down0", b.input("image", 3, 128, 128), 16), []
    for i, channels in enumerate((32, 64, 128, 256), 1):
        kept.append(x)
        x = double(f"down{i}", b.max_pool(f"pool{i}", x, 2, 2), channels)
    for i in reversed(range(4)):
        channels = b.shapes[kept[i]][0]
        if i > 1:
            x = b.conv_transpose(f"up{i}", x, channels, 2, 2)
        else:
            x = b.conv(f"up{i}.conv", b.resize(f"up{i}", x, "linear"), channels, 1)
        x = double(f"join{i}", b.concat(f"join{i}.concat", kept[i], x), channels)
    b.conv("logits", x, 2, 1)
    return b.model("unet", "logits")


def espcn(seed: int = 0) -> onnx.ModelProto:
    """Three times as many rows and columns of a 96 × 96 plane."""
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.function("Tanh", "tanh1", b.conv("conv1", b.input("luma", 1, 96, 96), 64, 5))
    x = b.function("Tanh", "tanh2", b.conv("conv2", x, 32, 3))
    b.depth_to_space("large", b.conv("conv3", x, 9, 3), 3)
    return b.model("espcn", "large")


def _silu_conv(b: NetworkBuilder, name: str, x: str, out: int, kernel: Size, stride: Size = 1) -> str:
    pads = [2] * 4 if kernel == 6 else None
    return b.silu(f"{name}.silu", b.conv(name, x, out, kernel, stride, pads=pads))


def _pooled(b: NetworkBuilder, x: str, channels: int) -> str:
    """SPPF: three pools of 5 × 5 one behind the other."""
    parts = [_silu_conv(b, "sppf.in", x, channels // 2, 1)]
    for i in range(3):
        parts.append(b.max_pool(f"sppf.pool{i}", parts[-1], 5, 1, [2] * 4))
    return _silu_conv(b, "sppf.out", b.concat("sppf.concat", *parts), channels, 1)


def yolo_v5n(seed: int = 0) -> onnx.ModelProto:
    """Boxes, objectness and classes of three anchors, at strides 8, 16 and 32."""
    b = NetworkBuilder(np.random.default_rng(seed))

    def c3(name: str, x: str, channels: int, count: int, shortcut: bool = True) -> str:
        half = channels // 2
        y = _silu_conv(b, f"{name}.in", x, half, 1)
        for j in range(count):
            z = _silu_conv(b, f"{name}.{j}.conv1", y, half, 1)
            z = _silu_conv(b, f"{name}.{j}.conv2", z, half, 3)
            y = b.add(f"{name}.{j}.add", y, z) if shortcut else z
        beside = _silu_conv(b, f"{name}.beside", x, half, 1)
        return _silu_conv(b, f"{name}.out", b.concat(f"{name}.concat", y, beside), channels, 1)

    x, levels = _silu_conv(b, "stem", b.input("image", 3, SIDE, SIDE), 16, 6, 2), []
    for i, (channels, count) in enumerate(V5_STAGES, 2):
        x = c3(f"stage{i}", _silu_conv(b, f"stage{i}.down", x, channels, 3, 2), channels, count)
        levels.append(x)
    x = _silu_conv(b, "neck4.narrow", _pooled(b, x, 256), 128, 1)
    up = c3("neck4", b.concat("neck4.joined", b.resize("neck4.up", x), levels[2]), 128, 1, False)
    y = _silu_conv(b, "neck3.narrow", up, 64, 1)
    small = c3("neck3", b.concat("neck3.joined", b.resize("neck3.up", y), levels[1]), 64, 1, False)
    z = b.concat("head4.joined", _silu_conv(b, "head4.down", small, 64, 3, 2), y)
    middle = c3("head4", z, 128, 1, False)
    z = b.concat("head5.joined", _silu_conv(b, "head5.down", middle, 128, 3, 2), x)
    large = c3("head5", z, 256, 1, False)
    outputs = [
        b.function("Sigmoid", f"boxes{i}", b.conv(f"boxes{i}.sum", t, 3 * (5 + CLASSES), 1))
        for i, t in enumerate((small, middle, large), 3)
    ]
    return b.model("yolo_v5n", *outputs)


def yolo_v8n(seed: int = 0) -> onnx.ModelProto:
    """Distributions of the four sides of a box, and classes, for each cell of three planes, in one row."""
    b = NetworkBuilder(np.random.default_rng(seed))

    def c2f(name: str, x: str, channels: int, count: int, shortcut: bool = True) -> str:
        parts = [*b.halves(f"{name}.split", _silu_conv(b, f"{name}.in", x, channels, 1))]
        for j in range(count):
            y = _silu_conv(b, f"{name}.{j}.conv1", parts[-1], channels // 2, 3)
            y = _silu_conv(b, f"{name}.{j}.conv2", y, channels // 2, 3)
            parts.append(b.add(f"{name}.{j}.add", parts[-1], y) if shortcut else y)
        return _silu_conv(b, f"{name}.out", b.concat(f"{name}.concat", *parts), channels, 1)

    x, levels = _silu_conv(b, "stem", b.input("image", 3, SIDE, SIDE), 16, 3, 2), []
    for i, (channels, count) in enumerate(V8_STAGES, 2):
        x = c2f(f"stage{i}", _silu_conv(b, f"stage{i}.down", x, channels, 3, 2), channels, count)
        levels.append(x)
    last = _pooled(b, x, 256)
    middle = c2f("neck4", b.concat("neck4.joined", b.resize("neck4.up", last), levels[2]), 128, 1, False)
    small = c2f("neck3", b.concat("neck3.joined", b.resize("neck3.up", middle), levels[1]), 64, 1, False)
    y = b.concat("head4.joined", _silu_conv(b, "head4.down", small, 64, 3, 2), middle)
    middle = c2f("head4", y, 128, 1, False)
    y = b.concat("head5.joined", _silu_conv(b, "head5.down", middle, 128, 3, 2), last)
    large = c2f("head5", y, 256, 1, False)
    rows = []
    for i, t in enumerate((small, middle, large), 3):
        found = []
        for kind, inner, outputs in (("box", 64, 64), ("class", 80, CLASSES)):
            y = _silu_conv(b, f"{kind}{i}.conv1", t, inner, 3)
            y = _silu_conv(b, f"{kind}{i}.conv2", y, inner, 3)
            found.append(b.conv(f"{kind}{i}", y, outputs, 1))
        rows.append(b.lines(f"level{i}.row", b.concat(f"level{i}", *found)))
    b.side_by_side("boxes", *rows)
    return b.model("yolo_v8n", "boxes")
