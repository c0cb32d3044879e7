"""A transformer small enough to be trained on 8 × 8 digits, with seeded random weights."""

from __future__ import annotations

import numpy as np
import onnx

from sateen.models.token_builder import TokenBuilder

BRANCH = 0.3
"""Power that a branch adds to what it branches off."""


def digits_vit(
    seed: int = 0, depth: int = 2, features: int = 32, heads: int = 4, patch: int = 2
) -> onnx.ModelProto:
    """A vision transformer of 8 × 8 × 1: patches, class token, positions, `depth` blocks, ten logits."""
    side = 8 // patch
    b = TokenBuilder(np.random.default_rng(seed))
    x = b.conv("patches", b.input("input", 1, 8, 8), features, patch, patch, pads=[0] * 4)
    x = b.transpose("tokens", b.lines("lines", x), 1, 0)
    first = b.constant("class", (0.02 * b.rng.standard_normal((1, 1, features))).astype(np.float32))
    b.node("Concat", "sequence", [first, x], axis=1)
    x = b.derived("sequence", (side**2 + 1, features), 1.0)
    where = 0.02 * b.rng.standard_normal((1, side**2 + 1, features))
    b.node("Add", "positions.add", [x, b.constant("positions", where.astype(np.float32))])
    x = b.derived("positions.add", b.shapes[x], 1.0)
    for i in range(depth):
        name = f"block{i}"
        y = b.attention(f"{name}.attention", b.layer_norm(f"{name}.norm1", x), heads, BRANCH)
        x = b.add(f"{name}.add1", x, y)
        y = b.mlp(f"{name}.mlp", b.layer_norm(f"{name}.norm2", x), 2 * features, BRANCH)
        x = b.add(f"{name}.add2", x, y)
    x = b.layer_norm("norm", x)
    power = b.power[x]
    b.node("Gather", "first", [x, b.constant("zero", np.array(0))], axis=1)
    b.linear("logits", b.derived("first", (features,), power), 10)
    return b.model("digits_vit", "logits")
