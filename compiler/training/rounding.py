"""One rounding of an exact sum to a format's grid, in the arithmetic that its bounds allow."""

from __future__ import annotations

import numpy as np

from sateen.formats import Format
from sateen.formats.requantize import requantize
from sateen.sim.exact_sums import INT64_SAFE, ExactSum, largest
from sateen.sim.integer import FLOAT64_EXACT

_FLOAT_BITS = 53
_BLOCK = 1 << 15
"""Elements at a time, that stay in a cache."""
_LIMB = 58
"""Bits of the lower limb of a sum: some of them add within int64."""

Term = tuple[np.ndarray | ExactSum, int]
"""Integers, and the exponent of what they count."""
_Part = tuple[np.ndarray, int]


def rounded(terms: list[Term], exponent: int, fmt: Format, low: int, high: int) -> np.ndarray:
    """The sum of `terms`, in units of 2**exponent rounded to the format's grid, clamped: integers as float32.

    Exact up to the rounding, whatever the terms' sizes; float32 holds every value of a format of at most 8 bits.
    """
    parts: list[_Part] = []
    for t, e in terms:
        parts += [(p, e + shift) for p, shift in t.parts] if isinstance(t, ExactSum) else [(t, e)]
    least = min(e for _, e in parts)
    bound = sum((largest(t) + 1) << e - least for t, e in parts)
    if bound < FLOAT64_EXACT:
        total = np.zeros(1)
        for t, e in parts:
            total = total + (t.astype(np.float64) if e == least else t * 2.0 ** (e - least))
        return _finish(total, least - exponent, fmt, low, high)
    excess = bound.bit_length() - _FLOAT_BITS
    objects = any(t.dtype == object for t, _ in parts)
    if excess <= min(_LIMB, exponent - least - 2) and not objects:
        # The last bit kept is below where anything is rounded.
        shape = np.broadcast_shapes(*(t.shape for t, _ in parts))
        flat = [(np.broadcast_to(t, shape).reshape(shape[0], -1), e - least) for t, e in parts]
        out = np.empty(flat[0][0].shape, np.float32)
        step = max(1, _BLOCK // max(1, out.shape[1]))
        for i in range(0, len(out), step):
            total = _to_odd([(t[i : i + step], up) for t, up in flat], excess)
            out[i : i + step] = _finish(total, least + excess - exponent, fmt, low, high)
        return out.reshape(shape)
    kind = np.int64 if bound < INT64_SAFE else object
    whole: np.ndarray = np.zeros(1, kind)
    for t, e in parts:
        part = t if t.dtype == object else t.astype(np.int64)
        whole = whole + part.astype(kind) * (1 << e - least)
    shift = exponent - least
    factor, shift = (1, shift) if shift >= 0 else (1 << -shift, 0)
    codes = requantize(whole.astype(object) * factor, 1, shift, fmt, 0, low, high)
    return fmt.fixed(codes).astype(np.float32)


def _to_odd(parts: list[_Part], excess: int) -> np.ndarray:
    """The sum of array * 2**up over parts, in units of 2**excess rounded to odd, float64."""
    whole: np.ndarray = np.zeros(1, np.int64)
    below: np.ndarray = np.zeros(1, np.int64)
    for t, up in parts:
        data = t.astype(np.int64)
        if up >= excess:
            whole = whole + (data << up - excess)
        else:
            down = excess - up
            whole = whole + (data >> down)
            below = below + ((data & (1 << down) - 1) << up)
    whole = whole + (below >> excess)
    return (whole | ((below & (1 << excess) - 1) != 0)).astype(np.float64)


def _finish(total: np.ndarray, exponent: int, fmt: Format, low: int, high: int) -> np.ndarray:
    total *= 2.0**exponent
    np.clip(total, low, high, out=total)  # both ends are on the grid
    if fmt.uniform:
        np.rint(total, out=total)
        return total.astype(np.float32)
    return fmt.round_fixed(total).astype(np.float32) + np.float32(0)  # -0 becomes +0
