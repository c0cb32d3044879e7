"""Floating-point formats of 3 to 8 bits: sign, exponent, mantissa, with subnormals and signed zero."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sateen.errors import FormatError
from sateen.formats.base import MAX_BITS, Format, as_integers, as_values, in_chunks

MIN_BITS = 3
MAX_EXPONENT_BITS = 5
MAX_BIAS = 63
SPECIALS = ("none", "fn", "ieee")

_FLOAT64_BIAS, _FLOAT64_MANTISSA = 1023, 52
_TABLE_SPAN = 1 << 17  # fixed-point values; below it, from_fixed looks the code up


@dataclass(frozen=True)
class Minifloat(Format):
    """`e{exponent_bits}m{mantissa_bits}`: all codes are finite numbers, unless `specials` says otherwise.

    With the fields E and M of a code, bias b and m mantissa bits, the magnitude is M * 2**(1-b-m) if E = 0
    and (2**m + M) * 2**(E-b-m) above.

    Parameters
    ----------
    exponent_bits, mantissa_bits : int
        1 to 5 and 0 to 6; with the sign 3 to 8 bits.
    bias : int, optional
        0 to 63; 2**(exponent_bits-1) - 1 by default. Another bias appends `b{bias}` to the name.
    specials : str, optional
        "none"; "fn" is e4m3fn, whose last code of each sign is NaN; "ieee" is e5m2, whose last exponent holds
        the infinities and NaNs. The default is "ieee" for e5m2 and "none" for all others.
        Ref: OCP 8-bit Floating Point Specification 1.0, section 4.

    Raises
    ------
    FormatError
        A split, bias or set of specials that does not exist.
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int | None = None
    specials: str | None = None

    def __post_init__(self) -> None:
        e, m = self.exponent_bits, self.mantissa_bits
        for field, value in (("exponent_bits", e), ("mantissa_bits", m)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise FormatError(f"Minifloat: {field} = {value!r}; it must be an integer")
        if not 1 <= e <= MAX_EXPONENT_BITS:
            raise FormatError(
                f"Minifloat e{e}m{m}: exponent_bits = {e}; it must be 1 to {MAX_EXPONENT_BITS}, because "
                "exact accumulation of more would need 128 bits and beyond"
            )
        if m < 0 or not MIN_BITS <= 1 + e + m <= MAX_BITS:
            raise FormatError(f"Minifloat e{e}m{m}: {1 + e + m} bits; it must be {MIN_BITS} to {MAX_BITS}")
        standard = (1 << e - 1) - 1
        if self.bias is None:
            object.__setattr__(self, "bias", standard)
        if not isinstance(self.bias, int) or isinstance(self.bias, bool) or not 0 <= self.bias <= MAX_BIAS:
            raise FormatError(f"Minifloat e{e}m{m}: bias = {self.bias!r}; it must be 0 to {MAX_BIAS}")
        if self.specials is None:
            object.__setattr__(self, "specials", "ieee" if (e, m, self.bias) == (5, 2, 15) else "none")
        if self.specials not in SPECIALS:
            raise FormatError(
                f"Minifloat e{e}m{m}: specials = {self.specials!r}; it must be one of {', '.join(SPECIALS)}"
            )
        allowed = {(4, 3, 7): ("none", "fn"), (5, 2, 15): ("ieee",)}.get((e, m, self.bias), ("none",))
        if self.specials not in allowed:
            raise FormatError(
                f"Minifloat e{e}m{m}, bias {self.bias}: specials = {self.specials!r}; here it must be "
                f"{' or '.join(allowed)} (fn is e4m3fn, ieee is e5m2)"
            )

    @cached_property
    def bits(self) -> int:  # type: ignore[override]
        return 1 + self.exponent_bits + self.mantissa_bits

    @cached_property
    def name(self) -> str:
        standard = (1 << self.exponent_bits - 1) - 1
        suffix = "fn" if self.specials == "fn" else "" if self.bias == standard else f"b{self.bias}"
        return f"e{self.exponent_bits}m{self.mantissa_bits}{suffix}"

    @cached_property
    def lsb_exponent(self) -> int:
        assert self.bias is not None
        return 1 - self.bias - self.mantissa_bits

    @cached_property
    def sign_mask(self) -> int:
        """The sign bit of a code."""
        return 1 << self.bits - 1

    @cached_property
    def max_code(self) -> int:
        """The code of the greatest finite value."""
        if self.specials == "fn":
            return self.sign_mask - 2
        if self.specials == "ieee":
            return self.sign_mask - 1 - (1 << self.mantissa_bits)
        return self.sign_mask - 1

    @property
    def nan_code(self) -> int | None:
        """The code that `encode` gives a positive NaN, None where there is no NaN."""
        return {"none": None, "fn": 0x7F, "ieee": 0x7E}[self.specials or "none"]

    @cached_property
    def max_fixed(self) -> int:
        return self._magnitude(self.max_code)

    @cached_property
    def min_fixed(self) -> int:
        return -self.max_fixed

    def _magnitude(self, code: int) -> int:
        m = self.mantissa_bits
        exponent, mantissa = code >> m, code & (1 << m) - 1
        return ((1 << m) + mantissa) << exponent - 1 if exponent else mantissa

    def _fixed(self) -> list[int]:
        magnitudes = [self._magnitude(min(c, self.max_code)) for c in range(self.sign_mask)]
        return magnitudes + [-v for v in magnitudes]

    @cached_property
    def _value_table(self) -> np.ndarray:  # type: ignore[override]
        magnitudes = self._fixed_table[: self.sign_mask] * 2.0**self.lsb_exponent
        magnitudes[self.max_code + 1 :] = np.nan
        if self.specials == "ieee":
            magnitudes[self.max_code + 1] = np.inf
        table = np.concatenate([magnitudes, -magnitudes])  # -0.0 keeps its sign
        table.flags.writeable = False
        return table

    def encode(self, values: Any) -> np.ndarray:
        return in_chunks(self._encode_chunk, as_values(values, self.name))

    def from_fixed(self, fixed: Any) -> np.ndarray:
        fixed = as_integers(fixed, f"{self.name}: fixed-point values")
        clipped = np.clip(fixed, self.min_fixed, self.max_fixed).astype(np.int64)
        if self._code_table is not None:
            return np.take(self._code_table, clipped - self.min_fixed)
        # Below 2**53, so float64 is exact.
        return self.encode(clipped * 2.0**self.lsb_exponent)

    @cached_property
    def _code_table(self) -> np.ndarray | None:
        """The code of every fixed-point value in the range, where that is a small table."""
        if self.max_fixed - self.min_fixed >= _TABLE_SPAN:
            return None
        return self.encode(np.arange(self.min_fixed, self.max_fixed + 1) * 2.0**self.lsb_exponent)

    def _encode_chunk(self, values: np.ndarray) -> np.ndarray:
        """float64 (N,) to codes (N,)."""
        nan = np.isnan(values)
        if not nan.any():
            return self._encode_numbers(values)
        if self.nan_code is None:
            raise FormatError(
                f"{self.name}: cannot encode NaN, the format has none; the values must be numbers"
            )
        nan_codes = np.where(np.signbit(values), self.nan_code | self.sign_mask, self.nan_code)
        return np.where(nan, nan_codes, self._encode_numbers(np.where(nan, 0.0, values))).astype(np.uint8)

    def _encode_numbers(self, values: np.ndarray) -> np.ndarray:
        """float64 (N,) without NaN to codes (N,)."""
        m = self.mantissa_bits
        magnitude = np.minimum(np.abs(values), self.max) * 2.0**-self.lsb_exponent
        # Exponent of the unit in the last place: exact in float64, as are both scalings by powers of two.
        exponent = binary_exponent(magnitude)
        exponent -= m
        np.maximum(exponent, 0, out=exponent)
        significand = round_significand(magnitude * power_of_two(-exponent), exponent, m)
        # A significand of 2**(m+1) carries into the exponent field by itself.
        codes = significand.astype(np.int64)
        codes += exponent << m
        codes |= np.signbit(values).astype(np.int64) << self.bits - 1
        return codes.astype(np.uint8)


def binary_exponent(magnitude: np.ndarray) -> np.ndarray:
    """floor(log2(x)) of normal positive float64 x as int64; hugely negative for 0 and subnormal x."""
    return (magnitude.view(np.int64) >> _FLOAT64_MANTISSA) - _FLOAT64_BIAS


def power_of_two(exponent: np.ndarray) -> np.ndarray:
    """2.0**exponent for int64 exponents of normal float64."""
    return ((exponent + _FLOAT64_BIAS) << _FLOAT64_MANTISSA).view(np.float64)


def round_significand(significand: np.ndarray, exponent: np.ndarray, mantissa_bits: int) -> np.ndarray:
    """Nearest integer, ties to the even code, of a magnitude in units of 2**exponent of the format's lsb.

    The code is significand + (exponent << mantissa_bits). With a mantissa its parity is the significand's;
    without one the exponent counts, so a tie goes down where the exponent is odd.
    """
    if mantissa_bits:
        return np.rint(significand)
    return np.where(exponent & 1, np.ceil(significand - 0.5), np.rint(significand))
