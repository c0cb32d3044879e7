"""Two's complement and unsigned integers of 1 to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sateen.errors import FormatError
from sateen.formats.base import MAX_BITS, Format, as_integers, as_values, in_chunks


@dataclass(frozen=True)
class Integer(Format):
    """`int{bits}`, `uint{bits}`, or `int{bits}n` without the lowest value (int8n is -127 to 127).

    The code that `narrow` leaves out is never produced; it still decodes as two's complement, as in
    hardware. int1 is {-1, 0}.

    Raises
    ------
    FormatError
        bits outside 1 to 8; narrow and unsigned; narrow with one bit, which leaves only zero.
    """

    bits: int
    signed: bool = True
    narrow: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 1 <= self.bits <= MAX_BITS:
            raise FormatError(f"Integer: bits = {self.bits!r}; it must be 1 to {MAX_BITS}")
        if self.narrow and not self.signed:
            raise FormatError(f"Integer: narrow uint{self.bits}; only signed integers have a narrow form")
        if self.narrow and self.bits == 1:
            raise FormatError("Integer: narrow int1 has no value but zero; use int2n for -1, 0, 1")

    @property
    def name(self) -> str:
        return f"{'' if self.signed else 'u'}int{self.bits}{'n' if self.narrow else ''}"

    @property
    def lsb_exponent(self) -> int:
        return 0

    @cached_property
    def min_fixed(self) -> int:
        return (int(self.narrow) - (1 << self.bits - 1)) if self.signed else 0

    @cached_property
    def max_fixed(self) -> int:
        return (1 << self.bits - self.signed) - 1

    def _fixed(self) -> list[int]:
        codes = range(1 << self.bits)
        return [c - (1 << self.bits) if self.signed and c >> self.bits - 1 else c for c in codes]

    def encode(self, values: Any) -> np.ndarray:
        return in_chunks(self._encode_chunk, as_values(values, self.name))

    def _encode_chunk(self, values: np.ndarray) -> np.ndarray:
        """float64 (N,) to codes (N,)."""
        rounded = np.rint(values)  # ties to even: the even integer has the even code
        if np.isnan(rounded).any():
            raise FormatError(f"{self.name}: cannot encode NaN; the values must be numbers")
        return self._codes(np.clip(rounded, self.min_fixed, self.max_fixed).astype(np.int16))

    def from_fixed(self, fixed: Any) -> np.ndarray:
        fixed = as_integers(fixed, f"{self.name}: fixed-point values")
        return self._codes(np.clip(fixed, self.min_fixed, self.max_fixed).astype(np.int16))

    def _codes(self, values: np.ndarray) -> np.ndarray:
        return (values & (1 << self.bits) - 1).astype(np.uint8)
