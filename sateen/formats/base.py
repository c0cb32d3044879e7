"""What integers and minifloats share: every code is an exact integer times one power of two per format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from sateen.errors import FormatError

MAX_BITS = 8
"""Codes are bytes; a unary function of a code is a table of at most 256 entries."""


CHUNK = 1 << 15
"""Elements that element-wise work handles at a time."""


class Format(ABC):
    """A number format of at most 8 bits; instances are frozen, hashable and equal when their fields are.

    A code is a uint8 with the format's bits lowest and zeros above, two's complement for signed integers:
    int8 -1 is 0xFF, int4 -1 is 0x0F. `value(code) = fixed(code) * 2**lsb_exponent`, exactly.
    """

    # -- what a subclass says ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def name(self) -> str:
        """As `parse_format` reads it."""

    bits: int
    """Bits of a code."""

    @property
    @abstractmethod
    def lsb_exponent(self) -> int:
        """The fixed-point unit is 2**lsb_exponent."""

    @abstractmethod
    def _fixed(self) -> list[int]:
        """The fixed-point value of every code in order; NaN and infinity give the saturated value."""

    @abstractmethod
    def encode(self, values: Any) -> np.ndarray:
        """float64 values of any shape to uint8 codes: nearest, ties to the even code, saturating.

        Infinities saturate. FormatError for NaN where the format has none.
        """

    @abstractmethod
    def from_fixed(self, fixed: Any) -> np.ndarray:
        """Integers of any size, units of 2**lsb_exponent, to uint8 codes, as `encode`; 0 is `zero_code`."""

    @property
    @abstractmethod
    def min_fixed(self) -> int:
        """Least value that `encode` gives, in fixed-point units."""

    @property
    @abstractmethod
    def max_fixed(self) -> int:
        """Greatest finite value, in fixed-point units."""

    # -- what follows --------------------------------------------------------------------------------------

    @property
    def zero_code(self) -> int:
        """The code of +0."""
        return 0

    @cached_property
    def fixed_bits(self) -> int:
        """Bits of a two's complement number that holds the fixed-point value of every code."""
        return max((v if v >= 0 else ~v).bit_length() for v in self._fixed()) + 1

    @property
    def min(self) -> float:
        """Least value that `encode` gives."""
        return self.min_fixed * 2.0**self.lsb_exponent

    @property
    def max(self) -> float:
        """Greatest finite value."""
        return self.max_fixed * 2.0**self.lsb_exponent

    @property
    def smallest(self) -> float:
        """Least magnitude above zero."""
        return 2.0**self.lsb_exponent

    @cached_property
    def _fixed_table(self) -> np.ndarray:
        table = np.array(self._fixed(), np.int64)
        table.flags.writeable = False
        return table

    @cached_property
    def _value_table(self) -> np.ndarray:
        table = self._fixed_table * 2.0**self.lsb_exponent
        table.flags.writeable = False
        return table

    def decode(self, codes: Any) -> np.ndarray:
        """Codes of any shape to float64 values, exact; NaN, infinities and -0 where the format has them."""
        return np.take(self._value_table, self._checked(codes))

    def fixed(self, codes: Any) -> np.ndarray:
        """Codes of any shape to int64: value = fixed * 2**lsb_exponent. NaN and infinity give ±max_fixed."""
        return np.take(self._fixed_table, self._checked(codes))

    def _checked(self, codes: Any) -> np.ndarray:
        codes = np.asarray(codes)
        if codes.dtype.kind not in "iu":
            raise FormatError(f"{self.name}: codes must be integers (uint8), not {codes.dtype}; see encode()")
        fits = codes.dtype == np.uint8 and self.bits == MAX_BITS
        if not fits and codes.size:
            low, high, limit = int(codes.min()), int(codes.max()), (1 << self.bits) - 1
            if low < 0 or high > limit:
                bad = low if low < 0 else high
                raise FormatError(
                    f"{self.name}: code {bad} is outside 0 to {limit}; a code holds its {self.bits} bits "
                    "lowest, negative integers in two's complement"
                )
        return codes

    def __str__(self) -> str:
        return self.name


def in_chunks(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """An element-wise function that gives codes, piece by piece: the temporaries stay in the cache."""
    flat = np.ascontiguousarray(values).reshape(-1)
    codes = np.empty(flat.size, np.uint8)
    for i in range(0, flat.size, CHUNK):
        codes[i : i + CHUNK] = function(flat[i : i + CHUNK])
    return codes.reshape(values.shape)


def as_values(values: Any, name: str) -> np.ndarray:
    """Real numbers as float64, or FormatError."""
    array = np.asarray(values)
    if array.dtype == np.float64:
        return array
    if array.dtype.kind != "c":
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            pass
    raise FormatError(f"{name}: values to encode must be real numbers, not {array.dtype}")


def as_integers(values: Any, what: str) -> np.ndarray:
    """Integers of any size: int64, or an object array of Python integers where int64 is too small."""
    array = np.asarray(values)
    if array.dtype == np.int64:
        return array
    if array.size == 0 or (array.dtype.kind in "iu" and array.dtype != np.uint64):
        return array.astype(np.int64)
    if not isinstance(values, np.ndarray):
        array = np.asarray(values, object)  # NumPy makes float64 of a list with 0 and 2**63
    if array.dtype.kind not in "uO":
        raise FormatError(f"{what} must be integers, not {array.dtype}; convert exactly first")
    array = array.astype(object)
    for v in array.flat:
        if not isinstance(v, (int, np.integer)) or isinstance(v, bool):
            raise FormatError(f"{what} must be integers, not {type(v).__name__}; convert exactly first")
    try:
        return array.astype(np.int64)
    except OverflowError:
        return array
