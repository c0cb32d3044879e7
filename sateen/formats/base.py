"""What all number formats share: every code is an exact integer times one power of two per format."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from sateen.errors import FormatError

MAX_BITS = 8
"""Of the formats that have a name: a machine's table of a unary function has an entry for each code."""

CHUNK = 1 << 15
"""Elements that element-wise work handles at a time."""


class NoSuchFormat(Exception):
    """The name of a format that its family does not have: the limit, and the nearest that it has."""

    def __init__(self, limit: str, nearest: Format) -> None:
        super().__init__(limit)
        self.nearest = nearest.name


@dataclass(frozen=True, slots=True)
class QonnxForm:
    """How QONNX states the rounding to a format: an operator of a value, its scale and `inputs`, which are scalars."""

    operator: str
    inputs: tuple[tuple[str, float], ...]
    """By name, in the order of the operator."""
    attributes: dict[str, Any]
    zero_point: bool = False
    """A zero point comes after the scale."""
    negated: bool = False
    """Its codes have the opposite sign: scale and zero point are negated."""


def code_dtype(bits: int) -> np.dtype[Any]:
    """The type of arrays of codes of so many bits: the narrowest unsigned integer that holds one."""
    return np.dtype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)


class Format(ABC):
    """A number format; instances are frozen, hashable and equal when their fields are.

    A code is an unsigned integer of `code_dtype` (uint8) with the format's bits lowest and zeros above, two's
    complement for signed integers: int8 -1 is 0xFF, int4 -1 is 0x0F. `value(code) = fixed(code) * 2**lsb_exponent`,
    exactly. A subclass is a family, and a row of `catalog.FAMILIES`; its circuits are in `sateen.hw.formats`.
    """

    # -- what a family says --------------------------------------------------------------------------------

    family: ClassVar[str]
    """Its name."""
    pattern: ClassVar[re.Pattern[str]]
    """Of the names of its formats."""
    names: ClassVar[str]
    """Those names in words, for messages."""

    @classmethod
    @abstractmethod
    def of_match(cls, match: re.Match[str]) -> Format:
        """The format that a match of `pattern` names. Raises NoSuchFormat."""

    @classmethod
    @abstractmethod
    def members(cls) -> tuple[Format, ...]:
        """All that tables and tests go through."""

    uniform: ClassVar[bool]
    """All steps are one unit of 2**lsb_exponent, and a zero point is added to what is rounded already. If false, the
    steps may differ, a zero point is one of the values and is added before the rounding (ADR 0014)."""

    # -- what a format says --------------------------------------------------------------------------------

    @property
    @abstractmethod
    def name(self) -> str:
        """As `parse_format` reads it."""

    bits: int
    """Bits of a code."""
    signed: bool
    """There are values below zero."""
    narrow: bool = False
    """The lowest code is never produced, so that the range is symmetric."""
    mantissa_bits: int | None
    """Of a value, after its leading one, where these are as many for all values but the least; else None."""

    @property
    @abstractmethod
    def qonnx(self) -> QonnxForm:
        """For files, of formats that are no type of ONNX."""

    @property
    @abstractmethod
    def lsb_exponent(self) -> int:
        """The fixed-point unit is 2**lsb_exponent."""

    @abstractmethod
    def _fixed(self) -> list[int]:
        """The fixed-point value of every code in order; NaN and infinity give the saturated value."""

    @property
    @abstractmethod
    def grid(self) -> tuple[object, ...]:
        """Equal for formats whose values lie at the same places, as far as their ranges go."""

    @abstractmethod
    def step_exponent(self, top: Any) -> Any:
        """log2 of the step, in fixed-point units, from 2**top to 2**(top + 1); top is an int or an int64 array.

        Below the units (top < 0) it is that of the least magnitudes. The rule goes on above the format's range.
        """

    @abstractmethod
    def has_odd_code(self, steps: int, exponent: int) -> bool:
        """Whether the code of the magnitude steps * 2**exponent is odd: a tie then goes to the other neighbour."""

    @abstractmethod
    def round_fixed(self, t: np.ndarray) -> np.ndarray:
        """float64 in fixed-point units to the nearest of the grid, which goes on above the range; ties to the even
        code."""

    @abstractmethod
    def encode(self, values: Any) -> np.ndarray:
        """float64 values of any shape to codes: nearest, ties to the even code, saturating.

        Infinities saturate. FormatError for NaN where the format has none.
        """

    @abstractmethod
    def from_fixed(self, fixed: Any) -> np.ndarray:
        """Integers of any size, units of 2**lsb_exponent, to codes, as `encode`; 0 is `zero_code`."""

    @property
    @abstractmethod
    def min_fixed(self) -> int:
        """Least value that `encode` gives, in fixed-point units."""

    @property
    @abstractmethod
    def max_fixed(self) -> int:
        """Greatest finite value, in fixed-point units."""

    # -- what follows --------------------------------------------------------------------------------------

    def wider(self) -> tuple[Format, ...]:
        """Formats of more bits that have all values of this one, by bits."""
        return ()

    @property
    def zero_code(self) -> int:
        """The code of +0."""
        return 0

    def positive_zero(self, codes: np.ndarray) -> np.ndarray:
        """Codes in which every zero is +0."""
        return np.where(self.fixed(codes) == 0, self.zero_code, codes).astype(self.code_dtype)

    @cached_property
    def code_dtype(self) -> np.dtype[Any]:
        """Of arrays of codes."""
        return code_dtype(self.bits)

    @property
    def codes(self) -> np.ndarray:
        """All codes in order, (2**bits,)."""
        return np.arange(1 << self.bits, dtype=self.code_dtype)

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
            raise FormatError(
                f"{self.name}: codes must be integers ({self.code_dtype}), not {codes.dtype}; see encode()"
            )
        fits = codes.dtype == self.code_dtype and self.bits == 8 * codes.dtype.itemsize
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


def in_chunks(
    function: Callable[[np.ndarray], np.ndarray], values: np.ndarray, dtype: np.dtype[Any]
) -> np.ndarray:
    """An element-wise function that gives codes, piece by piece: the temporaries stay in the cache."""
    flat = np.ascontiguousarray(values).reshape(-1)
    codes = np.empty(flat.size, dtype)
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
