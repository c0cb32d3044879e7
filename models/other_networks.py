"""Networks that do not classify images: detection backbones, face landmarks, speech, anomaly detection.

Ref: Redmon & Farhadi, arXiv 1612.08242 (darknet's tiny configuration for VOC); Ultralytics YOLOv8n up to its SPPF;
Kartynnik et al., arXiv 1907.06724 (face mesh, as published for TFLite); Kriman et al., arXiv 1910.10261, table 1
(QuartzNet 5×5); Dai et al., arXiv 1610.00087 (M5 on raw audio); MLPerf Tiny's autoencoder.
"""

from __future__ import annotations

import numpy as np
import onnx

from sateen.models.network_builder import NetworkBuilder, Size

YOLO_STAGES = ((32, 1), (64, 2), (128, 2), (256, 1))
"""Channels and bottlenecks of YOLOv8n's stages, each of which halves the plane."""
FACE_STAGES = ((16, 2), (32, 2), (64, 2), (128, 2), (128, 2), (128, 2))
QUARTZ_BLOCKS = ((256, 33), (256, 39), (512, 51), (512, 63), (512, 75))
"""Channels and kernel of QuartzNet's blocks of five separable convolutions."""
FRAMES = 1000
"""Of 10 ms each: ten seconds of speech."""


def tiny_yolo_v2(seed: int = 0) -> onnx.ModelProto:
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.input("image", 3, 416, 416)
    for i, channels in enumerate((16, 32, 64, 128, 256, 512)):
        x = b.leaky_relu(f"conv{i}.leaky", b.conv(f"conv{i}", x, channels, 3))
        x = b.max_pool(f"pool{i}", x, 2, 2) if i < 5 else b.max_pool(f"pool{i}", x, 2, 1, [0, 0, 1, 1])
    for i in (6, 7):
        x = b.leaky_relu(f"conv{i}.leaky", b.conv(f"conv{i}", x, 1024, 3))
    b.conv("grid", x, 125, 1)
    return b.model("tiny_yolo_v2", "grid")


def yolo_v8n_backbone(seed: int = 0) -> onnx.ModelProto:
    """Three outputs, at strides 8, 16 and 32 of a 640 × 640 image."""
    b = NetworkBuilder(np.random.default_rng(seed))

    def conv(name: str, x: str, out: int, kernel: Size, stride: Size = 1) -> str:
        return b.silu(f"{name}.silu", b.conv(name, x, out, kernel, stride))

    x, outputs = conv("stem", b.input("image", 3, 640, 640), 16, 3, 2), []
    for i, (channels, count) in enumerate(YOLO_STAGES, 2):
        x = conv(f"stage{i}.down", x, channels, 3, 2)
        parts = [*b.halves(f"stage{i}.split", conv(f"stage{i}.in", x, channels, 1))]
        for j in range(count):
            y = conv(f"stage{i}.{j}.conv1", parts[-1], channels // 2, 3)
            y = conv(f"stage{i}.{j}.conv2", y, channels // 2, 3)
            parts.append(b.add(f"stage{i}.{j}.add", parts[-1], y))
        x = conv(f"stage{i}.out", b.concat(f"stage{i}.concat", *parts), channels, 1)
        outputs += [x] if i in (3, 4) else []
    parts = [conv("sppf.in", x, 128, 1)]
    for i in range(3):
        parts.append(b.max_pool(f"sppf.pool{i}", parts[-1], 5, 1, [2] * 4))
    outputs.append(conv("sppf.out", b.concat("sppf.concat", *parts), 256, 1))
    return b.model("yolo_v8n_backbone", *outputs)


def face_mesh(seed: int = 0) -> onnx.ModelProto:
    """468 points in three dimensions, and whether there is a face, of a 192 × 192 image."""
    b = NetworkBuilder(np.random.default_rng(seed))

    def block(name: str, x: str, channels: int, stride: int) -> str:
        y = b.conv(f"{name}.pointwise", b.depthwise(f"{name}.depthwise", x, 3, stride), channels, 1)
        if stride == 2:
            x = b.max_pool(f"{name}.pool", x, 2, 2)
        if b.shapes[x][0] < channels:
            x = b.pad_channels(f"{name}.widened", x, channels)
        return b.prelu(f"{name}.prelu", b.add(f"{name}.add", x, y))

    x = b.prelu("stem.prelu", b.conv("stem", b.input("face", 3, 192, 192), 16, 3, 2))
    for i, (channels, count) in enumerate(FACE_STAGES):
        if i:
            x = block(f"stage{i}.down", x, channels, 2)
        for j in range(count):
            x = block(f"stage{i}.{j}", x, channels, 1)
    points = b.prelu("points.prelu", b.conv("points.in", x, 32, 1))
    b.conv("points", block("points.block", points, 32, 1), 1404, b.shapes[x][1:], pads=[0] * 4)
    score = b.prelu("score.prelu", b.conv("score.in", x, 32, 1))
    b.conv("score", block("score.block", score, 32, 1), 1, b.shapes[x][1:], pads=[0] * 4)
    return b.model("face_mesh", "points", "score")


def quartznet_5x5(seed: int = 0) -> onnx.ModelProto:
    """Letters at every other frame, of 64 mel bands over ten seconds."""
    b = NetworkBuilder(np.random.default_rng(seed))

    def separable(name: str, x: str, channels: int, kernel: int, **options: int) -> str:
        return b.conv(
            f"{name}.pointwise", b.depthwise(f"{name}.depthwise", x, kernel, **options), channels, 1
        )

    x = b.relu("c1.relu", separable("c1", b.input("mel", 64, FRAMES), 256, 33, stride=2))
    for i, (channels, kernel) in enumerate(QUARTZ_BLOCKS, 1):
        y = x
        for j in range(1, 6):
            y = separable(f"b{i}.{j}", y, channels, kernel)
            if j < 5:
                y = b.relu(f"b{i}.{j}.relu", y)
        x = b.relu(f"b{i}.relu", b.add(f"b{i}.add", b.conv(f"b{i}.projection", x, channels, 1), y))
    x = b.relu("c2.relu", separable("c2", x, 512, 87, dilation=2))
    b.conv("letters", b.relu("c3.relu", b.conv("c3", x, 1024, 1)), 29, 1)
    return b.model("quartznet_5x5", "letters")


def m5(seed: int = 0) -> onnx.ModelProto:
    """Words of one second of raw audio, 16 000 samples."""
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.conv("conv1", b.input("audio", 1, 16_000), 128, 80, 4, pads=[38, 38])
    x = b.max_pool("pool1", b.relu("conv1.relu", x), 4, 4)
    for i, channels in enumerate((128, 256, 512), 2):
        x = b.max_pool(f"pool{i}", b.relu(f"conv{i}.relu", b.conv(f"conv{i}", x, channels, 3)), 4, 4)
    b.linear("logits", b.global_pool("avgpool", x), 35)
    return b.model("m5", "logits")


def autoencoder(seed: int = 0) -> onnx.ModelProto:
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.input("frames", 640)
    sizes = (*(128,) * 4, 8, *(128,) * 4, 640)
    for i, (name, size) in enumerate(zip((f"fc{i}" for i in range(len(sizes))), sizes, strict=True)):
        x = b.linear(name, x, size)
        x = b.relu(f"{name}.relu", x) if i < len(sizes) - 1 else x
    return b.model("autoencoder", x)
