"""One rounding of an exact sum to a format's grid, in the arithmetic that its bounds allow."""

from __future__ import annotations

import numpy as np

from sateen.formats import Format
from sateen.formats.requantize import requantize
from sateen.sim.gradients import largest
from sateen.sim.integer import FLOAT64_EXACT

_INT64_SAFE = 1 << 62

Term = tuple[np.ndarray, int]
"""Integers, and the exponent of what they count."""


def rounded(terms: list[Term], exponent: int, fmt: Format, low: int, high: int) -> np.ndarray:
    """The sum of `terms`, in units of 2**exponent rounded to the format's grid, clamped: integers as float32.

    Exact up to the rounding, whatever the terms' sizes; float32 holds every value of a format of at most 8 bits.
    """
    least = min(e for _, e in terms)
    bound = sum((largest(t) + 1) << e - least for t, e in terms)
    if bound < FLOAT64_EXACT:
        total = np.zeros(1)
        for t, e in terms:
            total = total + (t.astype(np.float64) if e == least else t * 2.0 ** (e - least))
        return _finish(total, least - exponent, fmt, low, high)
    kind = np.int64 if bound < _INT64_SAFE else object
    whole: np.ndarray = np.zeros(1, kind)
    for t, e in terms:
        part = t if t.dtype == object else t.astype(np.int64)
        whole = whole + part.astype(kind) * (1 << e - least)
    shift = exponent - least
    if kind is np.int64 and shift >= 16:  # the last bit kept is far below where it is rounded
        excess = max(0, int(bound).bit_length() - 53)
        odd = (whole >> excess) | ((whole & (1 << excess) - 1) != 0)
        return _finish(odd.astype(np.float64), excess - shift, fmt, low, high)
    factor, shift = (1, shift) if shift >= 0 else (1 << -shift, 0)
    codes = requantize(whole.astype(object) * factor, 1, shift, fmt, 0, low, high)
    return fmt.fixed(codes).astype(np.float32)


def _finish(total: np.ndarray, exponent: int, fmt: Format, low: int, high: int) -> np.ndarray:
    total *= 2.0**exponent
    np.clip(total, low, high, out=total)  # both ends are on the grid
    if fmt.uniform:
        np.rint(total, out=total)
        return total.astype(np.float32)
    return fmt.round_fixed(total).astype(np.float32) + np.float32(0)  # -0 becomes +0
