"""Vision transformers and their kin with seeded random weights: DeiT-Tiny, a small one, a block of three others."""

from __future__ import annotations

import numpy as np
import onnx

from sateen.models.token_builder import TokenBuilder

BRANCH = 0.3
"""Power that a branch adds to what it branches off, so that many of them in a row leave a stream of usual size."""


def deit_tiny(seed: int = 0) -> onnx.ModelProto:
    """DeiT-Tiny: patches of 16 × 16, a class token, 12 blocks of 192 features and 3 heads.

    Ref: Touvron et al., arXiv 2012.12877, table 1.
    """
    b = TokenBuilder(np.random.default_rng(seed))
    image = b.input("image", 3, 224, 224)
    return _vision(b, "deit_tiny", image, 16, 192, 12, 3, 4, 1000, first=1.0, positions=0.3, power=1.1)


def digits_vit(
    seed: int = 0, depth: int = 2, features: int = 32, heads: int = 4, patch: int = 2
) -> onnx.ModelProto:
    """A vision transformer of 8 × 8 × 1, small enough to be trained: ten logits."""
    b = TokenBuilder(np.random.default_rng(seed))
    image = b.input("input", 1, 8, 8)
    return _vision(
        b, "digits_vit", image, patch, features, depth, heads, 2, 10, first=0.02, positions=0.02, power=1.0
    )


def _vision(
    b: TokenBuilder, name: str, image: str, patch: int, features: int, depth: int, heads: int, wider: int,
    classes: int, *, first: float, positions: float, power: float,
) -> onnx.ModelProto:  # fmt: skip
    """Patches, class token, positions, `depth` blocks, logits; `first` and `positions` are deviations of what is
    stored, `power` that of the sum, and an MLP is `wider` times as wide inside."""
    side = b.shapes[image][-1] // patch
    x = b.conv("patches", image, features, patch, patch, pads=[0] * 4)
    x = b.transpose("tokens", b.lines("lines", x), 1, 0)
    token = b.constant("class", (first * b.rng.standard_normal((1, 1, features))).astype(np.float32))
    b.node("Concat", "sequence", [token, x], axis=1)
    x = b.derived("sequence", (side**2 + 1, features), 1.0)
    where = positions * b.rng.standard_normal((1, side**2 + 1, features))
    b.node("Add", "positions.add", [x, b.constant("positions", where.astype(np.float32))])
    x = b.derived("positions.add", b.shapes[x], power)
    for i in range(depth):
        block = f"block{i}"
        y = b.attention(f"{block}.attention", b.layer_norm(f"{block}.norm1", x), heads, BRANCH)
        x = b.add(f"{block}.add1", x, y)
        y = b.mlp(f"{block}.mlp", b.layer_norm(f"{block}.norm2", x), wider * features, BRANCH)
        x = b.add(f"{block}.add2", x, y)
    x = b.layer_norm("norm", x)
    last = b.power[x]
    b.node("Gather", "first", [x, b.constant("zero", np.array(0))], axis=1)
    b.linear("logits", b.derived("first", (features,), last), classes)
    return b.model(name, "logits")


def swin_block(seed: int = 0) -> onnx.ModelProto:
    """Of Swin-T's second stage, shifted: 28 × 28 tokens of 192 features in windows of 7 × 7, 6 heads.

    Scores have the bias of relative positions and the mask of what the shift has put side by side.
    """
    size, features, heads, window, shift = 28, 192, 6, 7, 3
    side = size // window
    b = TokenBuilder(np.random.default_rng(seed))
    image = b.input("input", features, size, size)
    x = b.transpose("tokens", image, 1, 2, 0)
    y = b.roll("shift", b.layer_norm("norm1", x), shift)
    y = b.reshape("rows", y, side, window, side, window, features)
    y = b.transpose("turned", y, 0, 2, 1, 3, 4)
    windows = b.constant("windows.shape", np.array([side**2, window**2, features]))
    b.node("Reshape", "windows", ["turned", windows])
    y = b.derived("windows", (side**2, window**2, features), b.power[y])
    bias = 0.5 * b.rng.standard_normal((1, heads, window**2, window**2))
    y = b.attention("attention", y, heads, BRANCH, [bias, shift_mask(size, window, shift)])
    back = b.constant("back.shape", np.array([1, side, side, window, window, features]))
    b.node("Reshape", "back", [y, back])
    y = b.derived("back", (side, side, window, window, features), b.power[y])
    y = b.reshape("plane", b.transpose("back.turned", y, 0, 2, 1, 3, 4), size, size, features)
    x = b.add("add1", x, b.roll("back.shift", y, -shift))
    y = b.mlp("mlp", b.layer_norm("norm2", x), 4 * features, BRANCH)
    return b.model("swin_block", b.transpose("output", b.add("add2", x, y), 2, 0, 1))


def shift_mask(size: int, window: int, shift: int) -> np.ndarray:
    """-100 for each pair of tokens that were not neighbours before the shift, (windows, 1, tokens, tokens)."""
    part = np.zeros(size, int)
    part[-window:], part[-shift:] = 1, 2
    region = (3 * part[:, None] + part).reshape(size // window, window, size // window, window)
    tokens = region.transpose(0, 2, 1, 3).reshape(-1, 1, window**2)
    return np.where(tokens == tokens.transpose(0, 2, 1), 0.0, -100.0)[:, None]


def convnext_block(seed: int = 0) -> onnx.ModelProto:
    """Of ConvNeXt-T's second stage: 7 × 7 depthwise over 28 × 28, 192 channels, LayerNorm, an MLP of 768."""
    features, size = 192, 28
    b = TokenBuilder(np.random.default_rng(seed))
    x = b.input("input", features, size, size)
    y = b.transpose("tokens", b.depthwise("depthwise", x, 7), 1, 2, 0)
    y = b.mlp("mlp", b.layer_norm("norm", y), 4 * features, BRANCH)
    scale = b.constant("scale", b.rng.uniform(0.8, 1.2, features).astype(np.float32))
    power = b.power[y]
    b.node("Mul", "scaled", [y, scale])
    y = b.transpose("back", b.derived("scaled", (size, size, features), power), 2, 0, 1)
    return b.model("convnext_block", b.add("add", x, y))


def mixer_block(seed: int = 0) -> onnx.ModelProto:
    """Of Mixer-S/16: 196 tokens of 512 features, an MLP of 256 over the tokens, then one of 2,048 over the features.

    Ref: Tolstikhin et al., arXiv 2105.01601, table 1.
    """
    tokens, features = 196, 512
    b = TokenBuilder(np.random.default_rng(seed))
    x = b.transpose("tokens", b.lines("lines", b.input("input", features, 14, 14)), 1, 0)
    y = b.transpose("turned", b.layer_norm("norm1", x), 1, 0)
    y = b.transpose("back", b.mlp("mix", y, features // 2, BRANCH), 1, 0)
    x = b.add("add1", x, y)
    y = b.mlp("mlp", b.layer_norm("norm2", x), 4 * features, BRANCH)
    b.reshape("output", b.add("add2", x, y), tokens, features)
    return b.model("mixer_block", "output")
