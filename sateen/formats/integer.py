"""Two's complement and unsigned integers of 1 to 8 bits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from sateen.errors import FormatError
from sateen.formats.base import MAX_BITS, Format, NoSuchFormat, QonnxForm, as_integers, as_values, in_chunks


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

    family: ClassVar[str] = "integer"
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"(u?)int(\d{1,9})(n?)")
    names: ClassVar[str] = (
        f"int1 to int{MAX_BITS}, uint1 to uint{MAX_BITS}, int2n to int{MAX_BITS}n (without the lowest value)"
    )
    uniform: ClassVar[bool] = True
    mantissa_bits: ClassVar[None] = None  # type: ignore[misc]

    bits: int
    signed: bool = True
    narrow: bool = False

    @classmethod
    def of_match(cls, match: re.Match[str]) -> Integer:
        unsigned, bits, narrow = bool(match[1]), int(match[2]), bool(match[3])

        def nearest() -> Integer:
            signed_narrow = narrow and not unsigned
            return cls(min(max(bits, 1 + signed_narrow), MAX_BITS), not unsigned, signed_narrow)

        if not 1 <= bits <= MAX_BITS:
            raise NoSuchFormat(f"integers have 1 to {MAX_BITS} bits, not {bits}", nearest())
        if narrow and unsigned:
            raise NoSuchFormat("only signed integers have a narrow form", nearest())
        if narrow and bits == 1:
            raise NoSuchFormat(
                "without its lowest value int1 has only zero; narrow takes 2 bits or more", nearest()
            )
        return cls(bits, signed=not unsigned, narrow=narrow)

    @classmethod
    def members(cls) -> tuple[Integer, ...]:
        """Unsigned, signed, narrow."""
        widths = range(1, MAX_BITS + 1)
        narrow = (cls(b, narrow=True) for b in widths if b > 1)
        return (*(cls(b, signed=False) for b in widths), *map(cls, widths), *narrow)

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

    @property
    def qonnx(self) -> QonnxForm:
        # a signed bit is -1 and 1 there: -1 and 0 are written as -(0 and 1)
        bit = self.signed and self.bits == 1
        return QonnxForm(
            "Quant",
            (("bits", self.bits),),
            {"signed": int(self.signed and not bit), "narrow": int(self.narrow)},
            zero_point=True,
            negated=bit,
        )

    @property
    def grid(self) -> tuple[object, ...]:
        return ("uniform", self.lsb_exponent)

    def step_exponent(self, top: Any) -> Any:
        return 0 * top

    def has_odd_code(self, steps: int, exponent: int) -> bool:
        return bool(steps & 1)

    def round_fixed(self, t: np.ndarray) -> np.ndarray:
        return np.rint(t)  # ties to even: the even integer has the even code

    def wider(self) -> tuple[Format, ...]:
        return tuple(Integer(b, self.signed) for b in range(self.bits + 1, MAX_BITS + 1))

    def _fixed(self) -> list[int]:
        codes = range(1 << self.bits)
        return [c - (1 << self.bits) if self.signed and c >> self.bits - 1 else c for c in codes]

    def encode(self, values: Any) -> np.ndarray:
        return in_chunks(self._encode_chunk, as_values(values, self.name), self.code_dtype)

    def _encode_chunk(self, values: np.ndarray) -> np.ndarray:
        """float64 (N,) to codes (N,)."""
        rounded = self.round_fixed(values)
        if np.isnan(rounded).any():
            raise FormatError(f"{self.name}: cannot encode NaN; the values must be numbers")
        return self._codes(rounded)

    def from_fixed(self, fixed: Any) -> np.ndarray:
        return self._codes(as_integers(fixed, f"{self.name}: fixed-point values"))

    def _codes(self, values: np.ndarray) -> np.ndarray:
        """Whole numbers of any size and type to codes."""
        signed = np.dtype(f"i{2 * self.code_dtype.itemsize}")  # holds unsigned codes, too
        clipped = np.clip(values, self.min_fixed, self.max_fixed).astype(signed)
        return (clipped & (1 << self.bits) - 1).astype(self.code_dtype)
