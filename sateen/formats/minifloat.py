"""Floating-point formats of 3 to 8 bits: sign, exponent, mantissa, with subnormals and signed zero."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from sateen.errors import FormatError
from sateen.formats.base import MAX_BITS, Format, NoSuchFormat, QonnxForm, as_integers, as_values, in_chunks

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

    family: ClassVar[str] = "minifloat"
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"e(\d{1,9})m(\d{1,9})(?:b(\d{1,9}))?(fn)?")
    names: ClassVar[str] = (
        f"eXmY of {MIN_BITS} to {MAX_BITS} bits with 1 to {MAX_EXPONENT_BITS} exponent bits, e4m3fn"
    )
    uniform: ClassVar[bool] = False  # not even e1mX, whose steps happen to be equal
    signed: ClassVar[bool] = True  # type: ignore[misc]

    exponent_bits: int
    mantissa_bits: int  # type: ignore[assignment]
    bias: int | None = None
    specials: str | None = None

    @classmethod
    def of_match(cls, match: re.Match[str]) -> Minifloat:
        e, m, bias = int(match[1]), int(match[2]), None if match[3] is None else int(match[3])

        def nearest() -> Minifloat:
            exponent = min(max(e, 1), MAX_EXPONENT_BITS)
            mantissa = min(max(m, MIN_BITS - 1 - exponent), MAX_BITS - 1 - exponent)
            return cls(exponent, max(mantissa, 0))

        if e < 1:
            raise NoSuchFormat(f"a minifloat has 1 to {MAX_EXPONENT_BITS} exponent bits", nearest())
        if e > MAX_EXPONENT_BITS:
            raise NoSuchFormat(
                f"at most {MAX_EXPONENT_BITS} exponent bits, because sums are exact "
                "and more would take accumulators of 128 bits and beyond",
                nearest(),
            )
        if not MIN_BITS <= 1 + e + m <= MAX_BITS:
            raise NoSuchFormat(
                f"sign, exponent and mantissa are {1 + e + m} bits; a minifloat has {MIN_BITS} to {MAX_BITS}",
                nearest(),
            )
        if match[4] and ((e, m) != (4, 3) or bias not in (None, 7)):
            raise NoSuchFormat("'fn' exists only as e4m3fn", cls(e, m))
        if bias is not None and bias > MAX_BIAS:
            raise NoSuchFormat(f"the bias is 0 to {MAX_BIAS}, not {bias}", cls(e, m))
        return cls(e, m, bias, match[4])

    @classmethod
    def members(cls) -> tuple[Minifloat, ...]:
        """Those with the standard bias by width, then e4m3fn."""
        splits = (
            cls(e, b - 1 - e)
            for b in range(MIN_BITS, MAX_BITS + 1)
            for e in range(1, min(b - 1, MAX_EXPONENT_BITS) + 1)
        )
        return (*splits, cls(4, 3, 7, "fn"))

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

    @property
    def qonnx(self) -> QonnxForm:
        assert self.bias is not None
        numbers = (
            ("exponent_bits", self.exponent_bits),
            ("mantissa_bits", self.mantissa_bits),
            ("exponent_bias", self.bias),
            ("max", self.max),
        )
        return QonnxForm(
            "FloatQuant", numbers, {"has_inf": 0, "has_nan": 0, "has_subnormal": 1, "saturation": 1}
        )

    @property
    def grid(self) -> tuple[object, ...]:
        return (self.exponent_bits, self.mantissa_bits, self.bias)

    def step_exponent(self, top: Any) -> Any:
        return np.maximum(top - self.mantissa_bits, 0)

    def has_odd_code(self, steps: int, exponent: int) -> bool:
        return bool(steps + (exponent << self.mantissa_bits) & 1)

    def round_fixed(self, t: np.ndarray) -> np.ndarray:
        t = np.asarray(t)
        significand, exponent = self._rounded(np.abs(t))
        return np.copysign(significand * power_of_two(exponent), t)

    def _rounded(self, magnitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float64 magnitudes in fixed-point units to whole significands, and the int64 exponents of their units.

        Exact in float64, as scalings by powers of two are. A significand of 2**(m+1) carries into the exponent
        field by itself.
        """
        exponent = self.step_exponent(binary_exponent(magnitude))
        significand = magnitude * power_of_two(-exponent)
        if self.mantissa_bits:  # the parity of the code is that of the significand
            return np.rint(significand), exponent
        # without a mantissa the exponent counts, too: a tie goes down where it is odd
        return np.where(exponent & 1, np.ceil(significand - 0.5), np.rint(significand)), exponent

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
        return in_chunks(self._encode_chunk, as_values(values, self.name), self.code_dtype)

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
        return np.where(nan, nan_codes, self._encode_numbers(np.where(nan, 0.0, values))).astype(
            self.code_dtype
        )

    def _encode_numbers(self, values: np.ndarray) -> np.ndarray:
        """float64 (N,) without NaN to codes (N,)."""
        magnitude = np.minimum(np.abs(values), self.max) * 2.0**-self.lsb_exponent
        significand, exponent = self._rounded(magnitude)
        codes = significand.astype(np.int64)
        codes += exponent << self.mantissa_bits
        codes |= np.signbit(values).astype(np.int64) << self.bits - 1
        return codes.astype(self.code_dtype)


def binary_exponent(magnitude: np.ndarray) -> np.ndarray:
    """floor(log2(x)) of normal positive float64 x as int64; hugely negative for 0 and subnormal x."""
    return (magnitude.view(np.int64) >> _FLOAT64_MANTISSA) - _FLOAT64_BIAS


def power_of_two(exponent: np.ndarray) -> np.ndarray:
    """2.0**exponent for int64 exponents of normal float64."""
    return ((exponent + _FLOAT64_BIAS) << _FLOAT64_MANTISSA).view(np.float64)
