"""Requantization, exact, with one rounding: the NumPy model that the RTL's vector unit is tested against.

Everything is integers in fixed-point units (2**lsb_exponent) of the output format. Where the numbers allow,
and on real networks they do, the work is done in float64 without ever rounding there: products below 2**53
are exact, and a larger number is first shortened by rounding to odd, which no later rounding to nearest can
tell from the full number. What is left goes through Python integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sateen.errors import FormatError
from sateen.formats.base import CHUNK, Format, as_integers

_EXACT_BITS = 53  # integers below 2**53 are exact in float64
_MAX_SHIFT = 1000  # 2.0**-shift stays a normal float64
_LIMB = 32


def round_shift(t: Any, shift: Any, fmt: Format) -> np.ndarray:
    """RNE_format(t * 2**-shift) on the format's grid, which goes on above its range; ties to the even code.

    Parameters
    ----------
    t : integers, int64 or object, any shape
    shift : integers, 0 or more, broadcast against t

    Returns
    -------
    Fixed-point values, int64, or object where int64 is too small.
    """
    t, shift = as_integers(t, "t"), _shifts(shift)
    shape = np.broadcast_shapes(t.shape, shift.shape)
    if 0 in shape:
        return np.zeros(shape, np.int64)
    excess = _bit_length(t) - _EXACT_BITS
    if excess > 0:
        # The kept last bit must lie below the rounding position: at least 2 bits of the shift remain.
        if int(shift.min()) < excess + 2:
            return _round_large(t, shift, fmt)
        t, shift = _shorten(t, excess), shift - excess
    return fmt.round_fixed(t * np.ldexp(1.0, -shift)).astype(np.int64)


def times(a: Any, b: Any) -> np.ndarray:
    """a*b of integers, which broadcast: int64, or object where int64 is too small."""
    a, b = as_integers(a, "a"), as_integers(b, "b")
    if a.size and b.size and _bit_length(a) + _bit_length(b) > 62:
        a = a.astype(object)
    return np.asarray(a * b)


def requantize(
    acc: Any,
    multiplier: Any,
    shift: Any,
    fmt: Format,
    zero_point: Any = 0,
    low: int | None = None,
    high: int | None = None,
    addend: Any = 0,
) -> np.ndarray:
    """encode(clamp(round_shift(acc*multiplier + addend, shift, fmt) + zero_point, low, high)), codes.

    All arguments are integers and broadcast; `low` and `high` are in fixed-point units, the format's range by
    default. Exact for integers of any size. A result of zero is the code of +0.
    """
    acc, multiplier = as_integers(acc, "acc"), as_integers(multiplier, "multiplier")
    addend, shift = as_integers(addend, "addend"), _shifts(shift)
    zero_point = as_integers(zero_point, "zero_point")
    low = fmt.min_fixed if low is None else max(int(low), fmt.min_fixed)
    high = fmt.max_fixed if high is None else min(int(high), fmt.max_fixed)
    if low > high:
        raise FormatError(f"{fmt}: the clamp is empty, low = {low} and high = {high} fixed-point units")
    shape = np.broadcast_shapes(acc.shape, multiplier.shape, addend.shape, shift.shape, zero_point.shape)
    if 0 in shape:
        return np.zeros(shape, fmt.code_dtype)
    bits = max(_bit_length(acc) + _bit_length(multiplier), _bit_length(addend)) + 1
    if bits <= _EXACT_BITS:
        # Powers of two scale exactly, and every product and sum of integers here is below 2**53.
        scale = np.ldexp(1.0, -shift)

        def codes(acc: np.ndarray, scale: np.ndarray, addend: np.ndarray, zero: np.ndarray) -> np.ndarray:
            rounded = fmt.round_fixed(acc * scale + addend) + zero
            return fmt.from_fixed(np.clip(rounded, low, high).astype(np.int64))

        out = np.empty(shape, fmt.code_dtype)
        operands = (acc, multiplier * scale, addend * scale, zero_point)
        _blockwise(codes, [x.reshape((1,) * (len(shape) - x.ndim) + x.shape) for x in operands], out)
        return out
    if bits < 63:
        rounded = round_shift(acc * multiplier + addend, shift, fmt)
    elif _fits_limbs(acc, multiplier, addend, shift):
        rounded = round_shift(_multiply_shortened(acc, multiplier, addend), shift - _LIMB, fmt)
    else:
        rounded = round_shift(acc.astype(object) * multiplier + addend, shift, fmt)
    return fmt.from_fixed(np.minimum(np.maximum(rounded + zero_point, low), high))


def _blockwise(function: Callable[..., np.ndarray], operands: list[np.ndarray], out: np.ndarray) -> None:
    """out = function(*operands), broadcasting, in blocks of at most CHUNK elements; all have out's rank."""
    if out.size <= CHUNK:
        out[...] = function(*operands)
        return
    axis = next(i for i, n in enumerate(out.shape) if n > 1)
    step = max(1, CHUNK * out.shape[axis] // out.size)
    for start in range(0, out.shape[axis], step):
        part = (slice(None),) * axis + (slice(start, start + step),)
        _blockwise(function, [x if x.shape[axis] == 1 else x[part] for x in operands], out[part])


def _shifts(shift: Any) -> np.ndarray:
    shift = as_integers(shift, "shift")
    if shift.size and (shift.dtype != np.int64 or int(shift.min()) < 0 or int(shift.max()) > _MAX_SHIFT):
        raise FormatError(f"shift {shift.min()} to {shift.max()}; it must be 0 to {_MAX_SHIFT}")
    return shift


def _bit_length(x: np.ndarray) -> int:
    """Bits of the largest magnitude."""
    return max(abs(int(x.max())), abs(int(x.min()))).bit_length()


def _shorten(t: np.ndarray, bits: int) -> np.ndarray:
    """t * 2**-bits rounded to odd, int64: the last bit is 1 whenever a bit is lost."""
    return ((t >> bits) | (t & (1 << bits) - 1 != 0)).astype(np.int64)


def _fits_limbs(acc: np.ndarray, multiplier: np.ndarray, addend: np.ndarray, shift: np.ndarray) -> bool:
    return (
        all(x.dtype == np.int64 for x in (acc, multiplier, addend))
        and max(_bit_length(acc), _bit_length(addend)) < 62
        and _bit_length(multiplier) < 31
        and int(multiplier.min()) >= 0
        and int(shift.min()) >= _LIMB + 2
    )


def _multiply_shortened(acc: np.ndarray, multiplier: np.ndarray, addend: np.ndarray) -> np.ndarray:
    """(acc * multiplier + addend) * 2**-32 rounded to odd; the exact number may have 93 bits."""
    mask = (1 << _LIMB) - 1
    low = (acc & mask) * multiplier  # 32 + 31 bits, not negative
    high = (acc >> _LIMB) * multiplier + (low >> _LIMB) + (addend >> _LIMB)  # 30 + 31 bits, sign, carries
    low = (low & mask) + (addend & mask)
    return (high + (low >> _LIMB)) | (low & mask != 0)


def _round_large(t: np.ndarray, shift: np.ndarray, fmt: Format) -> np.ndarray:
    """Python integers, one by one: for more than 53 bits where the shift is too small to shorten them."""

    def rounded(t: int, shift: int) -> int:
        t, shift = int(t), int(shift)
        magnitude = abs(t)
        exponent = int(fmt.step_exponent(magnitude.bit_length() - 1 - shift))
        unit = shift + exponent
        quotient, rest = magnitude >> unit, magnitude & (1 << unit) - 1
        half = 1 << unit >> 1
        if rest > half or (rest == half and unit and fmt.has_odd_code(quotient, exponent)):
            quotient += 1
        value = quotient << exponent
        return -value if t < 0 else value

    result = np.frompyfunc(rounded, 2, 1)(t, shift)
    return as_integers(result, "t")
