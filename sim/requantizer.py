"""Requantization of whole arrays, fast: what `sateen.formats.requantize` defines, looked up.

Every boundary between two codes lies at a multiple of half a fixed-point unit, so t = acc*M*2**-s decides the
code through j = floor(2t) + ceil(2t) alone: even j is 2t itself, odd j lies strictly between. A table over j
holds rounding, zero point, clamp and activation table at once; it is computed by the definition.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from sateen.formats import Format
from sateen.formats.requantize import requantize, times
from sateen.ir.quantized import Factor, Residual, Summed
from sateen.sim.integer import FLOAT64_EXACT, INT64_EXACT

_TABLE_RANGE = 1 << 18
"""Fixed-point units to either side that a table covers: e4m3 at most; wider formats (e5m2) are computed."""


class Requantizer:
    """Accumulators of an op to codes. `bound` is for |acc|, `residual_bound` for |fixed(r) - zero_point|."""

    def __init__(self, op: Summed, bound: int, residual_bound: int = 0) -> None:
        self.op = op
        fmt = op.requantized.format
        bias = op.bias.astype(object)
        m, s = op.multiplier.astype(object), op.shift.astype(object)
        with_bias = bound + max((abs(int(b)) for b in bias), default=0)
        self.accumulator_exact = with_bias
        self.factor = isinstance(op.residual, Factor)
        terms = with_bias * int(m.max()) * (residual_bound if self.factor else 1)
        if isinstance(op.residual, Residual):
            self._addend = op.residual.multiplier << (s - op.residual.shift)
            terms += residual_bound * int(self._addend.max())
        self._path = "exact"
        reach = max(abs(fmt.min_fixed), abs(fmt.max_fixed)) + abs(op.requantized.zero_after)
        if not op.raw and reach <= _TABLE_RANGE:
            if terms < FLOAT64_EXACT:
                self._path = "float"
                self._scale = op.multiplier * np.ldexp(1.0, 1 - op.shift)  # of 2t
                self._offset = op.bias.astype(np.float64) * self._scale
                if isinstance(op.residual, Residual):
                    self._residual_scale = op.residual.multiplier * 2.0 ** (1 - op.residual.shift)
            elif terms < INT64_EXACT // 4:
                self._path = "int"
        if self._path != "exact":
            fixed = np.clip(fmt.fixed(fmt.codes), op.low, op.high)
            last = fmt.from_fixed(fixed) if op.table is None else op.table[fmt.from_fixed(fixed)]
            self._table = np.take(last, _rounded(fmt, op.requantized.zero_after))
            self._first = 4 * (fmt.min_fixed - op.requantized.zero_after)
            self._last = self._first + len(self._table) - 1

    def with_bias(self, acc: np.ndarray) -> np.ndarray:
        """acc + bias as int64, or Python integers where those do not fit."""
        if acc.dtype != object:
            acc = acc.astype(np.int64)  # floats that hold integers would stay floats in an array of objects
        if self.accumulator_exact >= INT64_EXACT:
            return acc.astype(object) + self.op.bias
        return acc.astype(np.int64) + self.op.bias.astype(np.int64)

    def __call__(self, acc: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
        """Codes (N, OH, OW, O) of the op's output; residual: fixed(r) - zero_point, which broadcasts to that shape."""
        if self._path == "float":
            return self._float(acc, residual)
        if self._path == "int":
            return self._int(acc, residual)
        op = self.op
        addend: Any = 0
        total = self.with_bias(acc)
        if residual is not None and self.factor:
            total = times(total, residual)
        elif residual is not None:
            addend = residual.astype(object) * self._addend
        codes = requantize(
            total,
            op.multiplier,
            op.shift,
            op.requantized.format,
            op.requantized.zero_after,
            op.low,
            op.high,
            addend,
        )
        return codes if op.table is None else np.take(op.table, codes)

    def _float(self, acc: np.ndarray, residual: np.ndarray | None) -> np.ndarray:
        # Every number is a multiple of 2**-shift and below 2**(53-shift): products and sums are exact.
        t2 = acc * self._scale
        t2 += self._offset
        if residual is not None and self.factor:
            t2 *= residual
        elif residual is not None:
            t2 += residual * self._residual_scale
        np.clip(t2, self._first / 2, self._last / 2, out=t2)
        j = np.floor(t2)
        np.ceil(t2, out=t2)
        j += t2
        j -= self._first
        return np.take(self._table, j.astype(np.int32))

    def _int(self, acc: np.ndarray, residual: np.ndarray | None) -> np.ndarray:
        p = self.with_bias(acc) * self.op.multiplier
        if residual is not None and self.factor:
            p *= residual
        elif residual is not None:
            p += residual * self._addend.astype(np.int64)
        shift = self.op.shift - 1
        right = np.clip(shift, 0, 62)  # |p| < 2**62: further shifts change neither floor nor stickiness
        j = np.clip(p >> right, self._first, self._last)
        j = 2 * j + ((p & (np.int64(1) << right) - 1) != 0)
        if (shift < 0).any():
            j = np.where(shift < 0, 4 * np.clip(p, self._first, self._last), j)
        return np.take(self._table, np.clip(j, self._first, self._last) - self._first)


@lru_cache(maxsize=16)
def _rounded(fmt: Format, zero_point: int) -> np.ndarray:
    """The code, not clamped, for every j from 4 * (min_fixed - zero_point) to 4 * (max_fixed - zero_point)."""
    j = np.arange(4 * (fmt.min_fixed - zero_point), 4 * (fmt.max_fixed - zero_point) + 1)
    return requantize(j, 1, 2, fmt, zero_point)
