"""Image classifiers at 224 × 224 without residuals: AlexNet, VGG, SqueezeNet, GoogLeNet, DenseNet-121.

Ref: Krizhevsky, arXiv 1404.5997 (one tower); Simonyan & Zisserman, arXiv 1409.1556, table 1, A and D; Iandola et al.,
arXiv 1602.07360 (release 1.1); Szegedy et al., arXiv 1409.4842, table 1, normalized instead of LRN, no side heads;
Huang et al., arXiv 1608.06993, table 1.
"""

from __future__ import annotations

import numpy as np
import onnx

from sateen.models.network_builder import NetworkBuilder, Size

IMAGE = 224
CLASSES = 1000

VGG_STAGES = {"vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3)}
VGG_CHANNELS = (64, 128, 256, 512, 512)
FIRES = ((16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), (64, 256), (64, 256))
"""SqueezeNet 1.1: squeezed and expanded channels; None is a pool."""
INCEPTIONS = (
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), None,
    (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128), None, (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
)  # fmt: skip
"""GoogLeNet: channels of 1×1; of 3×3, reduced and out; of 5×5, reduced and out; behind the pool. None is a pool."""
DENSE_BLOCKS = (6, 12, 24, 16)
GROWTH = 32


def _start(seed: int) -> tuple[NetworkBuilder, str]:
    b = NetworkBuilder(np.random.default_rng(seed))
    return b, b.input("input", 3, IMAGE, IMAGE)


def _conv(b: NetworkBuilder, name: str, x: str, out: int, kernel: Size, stride: Size = 1) -> str:
    return b.relu(f"{name}.relu", b.conv(name, x, out, kernel, stride))


def _classify(b: NetworkBuilder, x: str) -> None:
    """Two hidden layers of 4096, as AlexNet and VGG have."""
    x = b.flatten("flatten", x)
    for name in ("fc1", "fc2"):
        x = b.relu(f"{name}.relu", b.linear(name, x, 4096))
    b.linear("logits", x, CLASSES)


def alexnet(seed: int = 0) -> onnx.ModelProto:
    b, x = _start(seed)
    x = b.relu("conv1.relu", b.conv("conv1", x, 64, 11, 4, pads=[2] * 4))
    x = _conv(b, "conv2", b.max_pool("pool1", x, 3, 2), 192, 5)
    x = b.max_pool("pool2", x, 3, 2)
    for i, channels in enumerate((384, 256, 256), 3):
        x = _conv(b, f"conv{i}", x, channels, 3)
    _classify(b, b.max_pool("pool5", x, 3, 2))
    return b.model("alexnet", "logits")


def _vgg(name: str, seed: int) -> onnx.ModelProto:
    b, x = _start(seed)
    for i, (count, channels) in enumerate(zip(VGG_STAGES[name], VGG_CHANNELS, strict=True), 1):
        for j in range(1, count + 1):
            x = _conv(b, f"conv{i}_{j}", x, channels, 3)
        x = b.max_pool(f"pool{i}", x, 2, 2)
    _classify(b, x)
    return b.model(name, "logits")


def vgg11(seed: int = 0) -> onnx.ModelProto:
    return _vgg("vgg11", seed)


def vgg16(seed: int = 0) -> onnx.ModelProto:
    return _vgg("vgg16", seed)


def squeezenet(seed: int = 0) -> onnx.ModelProto:
    b, x = _start(seed)
    x = b.relu("conv1.relu", b.conv("conv1", x, 64, 3, 2, pads=[0] * 4))
    x = b.max_pool("pool1", x, 3, 2, ceil=True)
    for i, fire in enumerate(FIRES, 2):
        if fire is None:
            x = b.max_pool(f"pool{i}", x, 3, 2, ceil=True)
            continue
        squeezed, expanded = fire
        y = _conv(b, f"fire{i}.squeeze", x, squeezed, 1)
        parts = [_conv(b, f"fire{i}.expand{k}", y, expanded, k) for k in (1, 3)]
        x = b.concat(f"fire{i}", *parts)
    b.global_pool("avgpool", _conv(b, "classifier", x, CLASSES, 1))
    return b.model("squeezenet", "flatten")


def googlenet(seed: int = 0) -> onnx.ModelProto:
    b, x = _start(seed)
    x = b.max_pool("pool1", _conv(b, "conv1", x, 64, 7, 2), 3, 2, ceil=True)
    x = _conv(b, "conv3", _conv(b, "conv2", x, 64, 1), 192, 3)
    x = b.max_pool("pool2", x, 3, 2, ceil=True)
    for i, block in enumerate(INCEPTIONS, 3):
        if block is None:
            x = b.max_pool(f"pool{i}", x, 3, 2, ceil=True)
            continue
        one, three_in, three, five_in, five, pooled = block
        name = f"inception{i}"
        parts = [
            _conv(b, f"{name}.one", x, one, 1),
            _conv(b, f"{name}.three", _conv(b, f"{name}.three_in", x, three_in, 1), three, 3),
            _conv(b, f"{name}.five", _conv(b, f"{name}.five_in", x, five_in, 1), five, 5),
            _conv(b, f"{name}.pooled", b.max_pool(f"{name}.pool", x, 3, 1, [1] * 4), pooled, 1),
        ]
        x = b.concat(name, *parts)
    b.linear("logits", b.global_pool("avgpool", x), CLASSES)
    return b.model("googlenet", "logits")


def densenet121(seed: int = 0) -> onnx.ModelProto:
    """Each layer normalizes what all layers in front of it gave, so that those normalizations stand by themselves."""
    b, x = _start(seed)
    x = b.max_pool("pool0", _conv(b, "conv0", x, 64, 7, 2), 3, 2, [1] * 4)
    for i, count in enumerate(DENSE_BLOCKS, 1):
        for j in range(1, count + 1):
            name = f"block{i}.{j}"
            y = b.relu(f"{name}.norm1.relu", b.normalize(f"{name}.norm1", x))
            y = b.conv(f"{name}.conv2", _conv(b, f"{name}.conv1", y, 4 * GROWTH, 1), GROWTH, 3)
            x = b.concat(f"{name}.concat", x, y)
        x = b.relu(f"norm{i}.relu", b.normalize(f"norm{i}", x))
        if i < len(DENSE_BLOCKS):
            x = b.conv(f"transition{i}", x, b.shapes[x][0] // 2, 1)
            x = b.average_pool(f"transition{i}.pool", x, 2, 2)
    b.linear("logits", b.global_pool("avgpool", x), CLASSES)
    return b.model("densenet121", "logits")
