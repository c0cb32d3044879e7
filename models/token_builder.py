"""Layers of transformers for `NetworkBuilder`, as torch writes them: tokens before features, no batch in shapes.

Ref: Touvron et al., arXiv 2012.12877 (DeiT); Liu et al., arXiv 2103.14030 (Swin); Liu et al., arXiv 2201.03545
(ConvNeXt).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sateen.models.network_builder import NetworkBuilder

GELU_POWER = 0.43
"""Mean square of GELU of a normal variable, about."""


class TokenBuilder(NetworkBuilder):
    """Shapes end with the features; (tokens, features) unless said otherwise."""

    # -- layout ---------------------------------------------------------------------------------------------

    def reshape(self, name: str, x: str, *shape: int) -> str:
        self.node("Reshape", name, [x, self.constant(f"{name}.shape", np.array([1, *shape]))])
        return self.derived(name, shape, self.power[x])

    def transpose(self, name: str, x: str, *order: int) -> str:
        """Dimensions in a new order, counted without the batch."""
        self.node("Transpose", name, [x], perm=[0, *(i + 1 for i in order)])
        return self.derived(name, tuple(self.shapes[x][i] for i in order), self.power[x])

    def slice(self, name: str, x: str, axis: int, low: int, high: int) -> str:
        """Elements [low, high) of a dimension, counted without the batch."""
        ends = {"starts": low, "ends": high, "axes": axis + 1}
        named = [self.constant(f"{name}.{part}", np.array([value])) for part, value in ends.items()]
        self.node("Slice", name, [x, *named])
        shape = list(self.shapes[x])
        shape[axis] = high - low
        return self.derived(name, tuple(shape), self.power[x])

    def roll(self, name: str, x: str, shift: int) -> str:
        """Rows and columns of (rows, columns, features) moved up and left by `shift`, those that leave put behind."""
        for axis in (0, 1):
            size, made = self.shapes[x][axis], f"{name}.{axis}"
            at = shift % size
            parts = [self.slice(f"{made}.a", x, axis, at, size), self.slice(f"{made}.b", x, axis, 0, at)]
            shape, power = self.shapes[x], self.power[x]
            self.node("Concat", made, parts, axis=axis + 1)
            x = self.derived(made, shape, power)
        return x

    # -- layers ---------------------------------------------------------------------------------------------

    def layer_norm(self, name: str, x: str) -> str:
        features = self.shapes[x][-1]
        named = {
            "weight": self.rng.uniform(0.8, 1.2, features),
            "bias": 0.1 * self.rng.standard_normal(features),
        }
        constants = [self.constant(f"{name}.{part}", v.astype(np.float32)) for part, v in named.items()]
        self.node("LayerNormalization", name, [x, *constants], axis=-1, epsilon=1e-6)
        return self.derived(name, self.shapes[x], 1.0)

    def project(self, name: str, x: str, out: int, gain: float = 1.0) -> str:
        """Linear layer of the features: a MatMul and an Add of the bias. `gain` is the power of what it leaves."""
        *before, features = self.shapes[x]
        weight = self.rng.standard_normal((features, out)) * math.sqrt(gain / self.power[x] / features)
        bias = 0.05 * self.rng.standard_normal(out)
        named = [
            self.constant(f"{name}.{p}", v.astype(np.float32))
            for p, v in (("weight", weight), ("bias", bias))
        ]
        y = self.node("MatMul", f"{name}.product", [x, named[0]])
        self.node("Add", name, [named[1], y])
        return self.derived(name, (*before, out), gain)

    def gelu(self, name: str, x: str) -> str:
        """By Erf, in five nodes."""
        values = {"root": math.sqrt(2), "one": 1.0, "half": 0.5}
        root, one, half = (
            self.constant(f"{name}.{part}", np.array(value, np.float32)) for part, value in values.items()
        )
        erf = self.node("Erf", f"{name}.erf", [self.node("Div", f"{name}.scaled", [x, root])])
        y = self.node("Mul", f"{name}.product", [x, self.node("Add", f"{name}.sum", [erf, one])])
        self.node("Mul", name, [y, half])
        return self.derived(name, self.shapes[x], GELU_POWER * self.power[x])

    def mlp(self, name: str, x: str, hidden: int, gain: float = 1.0) -> str:
        y = self.gelu(f"{name}.gelu", self.project(f"{name}.fc1", x, hidden))
        return self.project(f"{name}.fc2", y, self.shapes[x][-1], gain)

    def attention(
        self, name: str, x: str, heads: int, gain: float = 1.0, biases: Sequence[np.ndarray] = ()
    ) -> str:
        """Of all tokens; of (windows, tokens, features), within windows. `biases` are added to the scores.

        A bias is (heads, tokens, tokens), or (windows, 1, tokens, tokens).
        """
        *windows, tokens, features = self.shapes[x]
        size, count = features // heads, math.prod(windows)
        projected = self.project(f"{name}.qkv", x, 3 * features)
        split = self.constant(f"{name}.split", np.array([count, tokens, 3, heads, size]))
        y = self.node("Reshape", f"{name}.parts", [projected, split])
        y = self.node("Transpose", f"{name}.turned", [y], perm=[2, 0, 3, 1, 4])
        axis = self.constant(f"{name}.axis", np.array([0]))
        ones = self.constant(f"{name}.ones", np.ones(3, np.int64))
        parts = [f"{name}.{part}" for part in "qkv"]
        self.node("Split", f"{name}.split3", [y, ones], [f"{p}.part" for p in parts], axis=0)
        q, k, v = (self.node("Squeeze", p, [f"{p}.part", axis]) for p in parts)
        scale = self.constant(f"{name}.scale", np.array(size**-0.5, np.float32))
        q = self.node("Mul", f"{name}.scaled", [q, scale])
        k = self.node("Transpose", f"{name}.keys", [k], perm=[0, 1, 3, 2])
        scores = self.node("MatMul", f"{name}.scores", [q, k])
        for i, bias in enumerate(biases):
            added = self.constant(f"{name}.bias{i}", bias.astype(np.float32))
            scores = self.node("Add", f"{name}.biased{i}", [scores, added])
        y = self.node(
            "MatMul", f"{name}.values", [self.node("Softmax", f"{name}.softmax", [scores], axis=-1), v]
        )
        y = self.node("Transpose", f"{name}.back", [y], perm=[0, 2, 1, 3])
        merged = self.constant(f"{name}.merged", np.array([count, tokens, features]))
        y = self.node("Reshape", f"{name}.joined", [y, merged])
        self.derived(y, self.shapes[x], MEAN_OF_VALUES)
        return self.project(f"{name}.proj", y, features, gain)


MEAN_OF_VALUES = 0.05
"""Mean square of an average of values that are weighed by the softmax of random scores, about."""
