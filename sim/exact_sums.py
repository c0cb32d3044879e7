"""Sums of products of integers in floating point, exact: operands are split until no sum of a part can lose a bit.

A sum is exact, in any order, while the sum of its terms' magnitudes stays below 2**24 (float32) or 2**53 (float64).
Beyond it the weights, and where these do not help the other operand too, are split into parts for which it does, each
a multiple of a power of two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sateen.sim.integer import FLOAT32_EXACT, FLOAT64_EXACT

INT64_SAFE = 1 << 62
_UNIT_BOUND = 1 << 49
"""Of sums with weights of -1, 0 and 1: below it each part of the weights takes some bits of them."""


@dataclass(frozen=True, slots=True)
class ExactSum:
    """The sum of array * 2**shift over `parts`, arrays of one shape that hold integers, as floats below 2**53."""

    parts: tuple[tuple[np.ndarray, int], ...]

    def integers(self) -> np.ndarray:
        """One array: float32, float64, int64, or Python integers where these are too small."""
        if len(self.parts) == 1:
            data, shift = self.parts[0]
            if shift == 0:
                return data
        bound = sum((largest(p) + 1) << shift for p, shift in self.parts)
        kind = np.int64 if bound < INT64_SAFE else object
        return np.asarray(sum(p.astype(np.int64).astype(kind) * (1 << shift) for p, shift in self.parts))

    def rounded(self) -> np.ndarray:
        """The float64 nearest to each sum."""
        if len(self.parts) > 2:
            return self.integers().astype(np.float64)
        whole, *rest = (p * 2.0**shift for p, shift in self.parts)  # exact, and one addition at most
        return np.asarray(whole + rest[0] if rest else whole, np.float64)


def largest(x: np.ndarray) -> int:
    """The greatest magnitude."""
    return max(int(x.max(initial=0)), -int(x.min(initial=0)))


def products(
    prepare: Callable[[np.ndarray, type], np.ndarray],
    apply: Callable[[np.ndarray, np.ndarray], np.ndarray],
    bound: Callable[[np.ndarray, np.ndarray], int],
    x: np.ndarray,
    weight: np.ndarray,
) -> ExactSum:
    """apply(prepare(x, type), weight in that type), bilinear in x and weight, exact.

    `bound(x, weight)` is that of the sum of the magnitudes of a result's terms, and shrinks with either operand.
    """
    prepared: dict[type, np.ndarray] = {}

    def result(part: np.ndarray, kind: type) -> np.ndarray:
        if kind not in prepared:
            prepared[kind] = prepare(x, kind)
        return apply(prepared[kind], part.astype(kind, copy=False))

    most = bound(x, weight)
    if most >= FLOAT64_EXACT and bound(x, np.sign(weight)) >= _UNIT_BOUND:
        high, low, shift = _split(x, largest(x).bit_length() // 2)
        parts = [(p, s + shift) for p, s in products(prepare, apply, bound, high, weight).parts]
        return ExactSum((*parts, *products(prepare, apply, bound, low, weight).parts))
    found: list[tuple[np.ndarray, int]] = []
    while most >= FLOAT64_EXACT:
        high, weight, shift = _split(weight, most.bit_length() - 52)
        found.append((result(high, np.float64), shift))
        most = bound(x, weight)
    found.append((result(weight, np.float32 if most < FLOAT32_EXACT else np.float64), 0))
    return ExactSum(tuple(found))


def _split(x: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray, int]:
    """high, low and shift with x = high * 2**shift + low; neither is greater than x, low is below 2**shift."""
    wide = x.astype(np.float64, copy=False)
    high = np.trunc(wide * 2.0**-shift)
    return high, wide - high * 2.0**shift, shift
