"""Functions of a row, softmax and normalization, in integers: the NumPy model that the RTL's ROW is tested against.

A row's elements become fixed-point numbers of `fraction_bits`, exact sums and one reciprocal between; a requantization
of each channel makes codes of them. Nothing here depends on the order of a row's elements.

    softmax        e(x) = mantissa * 2**exponent, a table of the input's codes (`exponentials`)
                   t(x) = e(x) relative to the row's greatest exponent, TERM_BITS, cut off
                   y(x) = mantissa * reciprocal(sum of t), shifted
    normalization  d(x) = n*x - sum of x,  v = n * (sum of x**2) - (sum of x)**2 + epsilon, exact
                   y(x) = d(x) * reciprocal_root(v), shifted

Not centred, the sum of x counts as 0: it is x / sqrt(mean of x**2 + epsilon), and with n = 1 x / sqrt(sum of x**2).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np

from sateen.formats.base import Format, as_integers

COUNT_BITS = 16
"""Of the elements of a row, and of n."""
MOST_ELEMENTS = (1 << COUNT_BITS) - 1
EPSILON_BITS = 72
"""With its fraction; a machine takes as many as `variance_bits`, less one."""
EPSILON_FRACTION = 8
"""Bits of v behind the point, which epsilon alone has; even."""
MANTISSA_BITS = 16
"""Of an exponential, its leading one included."""
EXPONENT_BITS = 16
GUARD_BITS = 8
"""Of an exponential in the sum, below those of the greatest."""
TERM_BITS = MANTISSA_BITS + GUARD_BITS
ZERO_BITS = 1
"""Of x, the code's fixed-point value less its zero point, beyond those of the value."""


def reciprocal_bits(fmt: Format) -> int:
    """Of a reciprocal behind the point; it has two before. Where a normalized value and an offset cancel, what is left
    of its error is less than a step, too."""
    return max(16, fmt.fixed_bits + 1)


def significand_bits(fmt: Format) -> int:
    """Of what a reciprocal is taken of; even."""
    return reciprocal_bits(fmt) + 8 & ~1


def fraction_bits(fmt: Format) -> int:
    """Behind the point, of what is requantized: finer than the finest step of the format by 8 bits."""
    return fmt.fixed_bits + 8


def element_bits(fmt: Format) -> int:
    """Of x, two's complement."""
    return fmt.fixed_bits + ZERO_BITS


def variance_bits(fmt: Format) -> int:
    """Of v, which is never negative; even."""
    square = 2 * element_bits(fmt) - 1
    exact = square + 2 * COUNT_BITS + EPSILON_FRACTION + 1
    return exact + exact % 2


def epsilon_bits(fmt: Format) -> int:
    """Of epsilon that the format's rows can use, so that v is of `variance_bits`."""
    return min(EPSILON_BITS, variance_bits(fmt) - 1)


def sum_bits() -> int:
    """Of the sum of a softmax; even."""
    return TERM_BITS + COUNT_BITS


def head_room(fmt: Format) -> int:
    """Bits that the product with a reciprocal is shifted left by, so that the shift behind it is to the right."""
    return max(0, fraction_bits(fmt) - reciprocal_bits(fmt))


@dataclass(frozen=True, slots=True, eq=False)
class Exponentials:
    """exp(x) of every code, up to one factor: mantissa * 2**exponent, both uint16 (2**bits,)."""

    mantissa: np.ndarray
    exponent: np.ndarray

    @property
    def words(self) -> np.ndarray:
        """As a machine keeps them, the exponent above the mantissa: uint32."""
        return self.mantissa.astype(np.uint32) | self.exponent.astype(np.uint32) << MANTISSA_BITS

    @staticmethod
    def of_words(words: np.ndarray) -> Exponentials:
        mask = (1 << MANTISSA_BITS) - 1
        return Exponentials((words & mask).astype(np.uint16), (words >> MANTISSA_BITS).astype(np.uint16))


def exponentials(values: np.ndarray) -> Exponentials:
    """Of real numbers (2**bits,), one for each code. Exponents end at 0: what lies 2**16 octaves below the greatest
    counts as more."""
    octaves = np.asarray(values, np.float64) / np.log(2)
    exponent = np.floor(octaves)
    mantissa = np.rint(np.exp2(octaves - exponent + MANTISSA_BITS - 1))
    carried = mantissa == 1 << MANTISSA_BITS
    mantissa, exponent = np.where(carried, mantissa / 2, mantissa), exponent + carried
    exponent = np.maximum(exponent - exponent.max() + (1 << EXPONENT_BITS) - 1, 0)
    return Exponentials(mantissa.astype(np.uint16), exponent.astype(np.uint16))


def softmax_rows(codes: np.ndarray, table: Exponentials, fmt: Format) -> np.ndarray:
    """(..., n) codes to probabilities, int64 of `fraction_bits(fmt)`; `fmt` is the format that they are rounded to."""
    mantissa = np.take(table.mantissa, codes).astype(np.int64)
    exponent = np.take(table.exponent, codes).astype(np.int64)
    below = exponent.max(axis=-1, keepdims=True) - exponent
    total = (mantissa << GUARD_BITS >> np.minimum(below, 62)).sum(axis=-1, keepdims=True)
    bits, inverse = reciprocal(total, fmt, root=False)
    shift = bits - GUARD_BITS + reciprocal_bits(fmt) - fraction_bits(fmt) + below
    return _shifted(_exact(mantissa, MANTISSA_BITS + reciprocal_bits(fmt) > 60) * inverse, shift)


def normalize_rows(
    x: np.ndarray, fmt: Format, *, count: int, epsilon: int, centred: bool = True
) -> np.ndarray:
    """(..., n) fixed-point values less their zero point to normalized ones, integers of `fraction_bits(fmt)`.

    Parameters
    ----------
    count : n, or 1 for the norm of the row
    epsilon : in units of v, the square of those of count * x, with EPSILON_FRACTION
    """
    x = as_integers(x, "x")
    wide = variance_bits(fmt) > 63
    total = x.sum(axis=-1, keepdims=True) if centred else np.zeros((*x.shape[:-1], 1), np.int64)
    squares = _exact(x, wide)
    variance = count * (squares * squares).sum(axis=-1, keepdims=True) - _exact(total, wide) * total
    variance = (variance << EPSILON_FRACTION) + epsilon
    bits, inverse = reciprocal(variance, fmt, root=True)
    shift = (bits - EPSILON_FRACTION) // 2 + reciprocal_bits(fmt) - fraction_bits(fmt)
    long = element_bits(fmt) + COUNT_BITS + reciprocal_bits(fmt) + 3 > 62
    return _shifted(_exact(count * x - total, long) * inverse, shift)


def _exact(x: np.ndarray, wide: bool) -> np.ndarray:
    return x.astype(object) if wide else x


def reciprocal(total: np.ndarray, fmt: Format, *, root: bool) -> tuple[np.ndarray, np.ndarray]:
    """1 / total, or the reciprocal of its root, cut off.

    Returns
    -------
    bits, inverse : int64
        An even number of bits that holds the total, and, with `reciprocal_bits` behind the point, the reciprocal of
        total * 2**-bits, of which `significand_bits` count. The largest there is for a total of 0.
    """
    places, kept = reciprocal_bits(fmt), significand_bits(fmt)
    largest = (4 << places) - 1

    def one(total: int, bits: int) -> int:
        total = int(total)
        significand = total >> max(bits - kept, 0) << max(kept - bits, 0)
        if not significand:
            return largest
        inverse = (
            isqrt((1 << kept + 2 * places) // significand) if root else (1 << kept + places) // significand
        )
        return min(inverse, largest)

    bits = np.frompyfunc(lambda t: int(t).bit_length() + 1 & ~1, 1, 1)(total)
    return bits.astype(np.int64), np.frompyfunc(one, 2, 1)(total, bits).astype(np.int64)


def _shifted(product: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """floor(product * 2**-shift), int64 where it fits."""
    if product.dtype == object:
        found = np.frompyfunc(lambda p, s: p >> s if s >= 0 else p << -s, 2, 1)(product, shift.astype(object))
        return as_integers(found, "rows")
    right, left = np.clip(shift, 0, 63), np.clip(-shift, 0, 63)
    return product >> right << left


def as_rows(x: np.ndarray, groups: int, plane: bool) -> Any:
    """(N, H, W, C) as rows (N, rows, n): of each pixel, or of the plane, the channels of each group."""
    n, h, w, c = x.shape
    split = x.reshape(n, h * w, groups, c // groups)
    return split.transpose(0, 2, 1, 3).reshape(n, groups, -1) if plane else split.reshape(n, -1, c // groups)


def from_rows(rows: np.ndarray, shape: tuple[int, ...], groups: int, plane: bool) -> np.ndarray:
    """What `as_rows` took apart."""
    n, h, w, c = shape
    if not plane:
        return rows.reshape(shape)
    return rows.reshape(n, groups, h * w, c // groups).transpose(0, 2, 1, 3).reshape(shape)
