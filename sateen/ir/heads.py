"""Where the factors of a batch of matrix products lie in (H, W, C) tensors, so that none has to be moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int, int, int]
INPUT, WEIGHT, OUTPUT = range(3)
"""The matrices of a product."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Matrices of `groups` × `heads` products, each the (W, C) of one row, or of one row and a run of its channels.

    A row of a tensor with `in_channels` holds all heads of a group, one run of channels after the other; else it holds
    one head, and the heads of a group are neighbouring rows. `transposed` multiplies by the second matrix transposed.
    """

    heads: int = 1
    in_channels: tuple[bool, bool, bool] = (False, False, False)
    """Of the first matrix, the second, and the product."""
    transposed: bool = False

    def split(self, which: int, shape: Shape) -> tuple[int, int, int, int]:
        """(groups, heads, pixels, channels) of a tensor. ValueError where it has no whole heads."""
        h, w, c = shape
        if (c if self.in_channels[which] else h) % self.heads:
            raise ValueError(f"{shape} is not {self.heads} heads")
        return (
            (h, self.heads, w, c // self.heads)
            if self.in_channels[which]
            else (h // self.heads, self.heads, w, c)
        )

    def joined(self, which: int, sizes: tuple[int, int, int, int]) -> Shape:
        """The inverse of `split`."""
        groups, heads, w, c = sizes
        return (groups, w, heads * c) if self.in_channels[which] else (groups * heads, w, c)

    def shape(self, first: Shape, second: Shape) -> Shape:
        """Of the product. ValueError where the factors do not fit."""
        groups, heads, w, k = self.split(INPUT, first)
        others, _, pixels, channels = self.split(WEIGHT, second)
        if others != groups or k != (channels if self.transposed else pixels):
            raise ValueError(f"{first} does not meet {second}")
        return self.joined(OUTPUT, (groups, heads, w, pixels if self.transposed else channels))

    def rows(self, which: int, low: int, high: int) -> tuple[int, int]:
        """Rows of a factor that the product's rows [low, high) are made of."""
        if self.in_channels[OUTPUT] == self.in_channels[which]:
            return low, high
        if self.in_channels[OUTPUT]:
            return low * self.heads, high * self.heads
        return low // self.heads, -(-high // self.heads)

    def multiply(self, x: np.ndarray, y: np.ndarray, product: Callable[[Any, Any], Any]) -> np.ndarray:
        """The product (N, H, W, C) of two such; `product` multiplies (N', M, K) by (N', K, O)."""
        n = len(x)
        a, b = (self._matrices(which, t) for which, t in ((INPUT, x), (WEIGHT, y)))
        out = product(
            a.reshape(-1, *a.shape[3:]), b.reshape(-1, *b.shape[3:]).swapaxes(1, 2 if self.transposed else 1)
        )
        out = out.reshape(*a.shape[:3], *out.shape[1:])
        if self.in_channels[OUTPUT]:
            return out.swapaxes(2, 3).reshape(n, a.shape[1], out.shape[3], -1)
        return out.reshape(n, -1, *out.shape[3:])

    def _matrices(self, which: int, x: np.ndarray) -> np.ndarray:
        """(N, groups, heads, W, C) of (N, H, W, C)."""
        groups, heads, w, c = self.split(which, x.shape[1:])
        if self.in_channels[which]:
            return x.reshape(len(x), groups, w, heads, c).swapaxes(2, 3)
        return x.reshape(len(x), groups, heads, w, c)
