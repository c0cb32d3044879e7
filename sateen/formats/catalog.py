"""The formats by name."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from sateen.errors import FormatError
from sateen.formats.base import MAX_BITS, Format
from sateen.formats.integer import Integer
from sateen.formats.minifloat import MAX_BIAS, MAX_EXPONENT_BITS, MIN_BITS, Minifloat

REDUCTION = 4608
"""Elements: the longest dot product of ResNet-18, 3x3x512; `table` gives accumulators for it."""

ONNX_TYPES = {
    name: name.upper() for name in ("int2", "uint2", "int4", "uint4", "int8", "uint8")
} | {"e4m3fn": "FLOAT8E4M3FN", "e5m2": "FLOAT8E5M2", "e2m1": "FLOAT4E2M1"}  # fmt: skip
"""Formats that ONNX has a type for; the others are written as QONNX."""

_INTEGER = re.compile(r"(u?)int(\d{1,9})(n?)")
_MINIFLOAT = re.compile(r"e(\d{1,9})m(\d{1,9})(?:b(\d{1,9}))?(fn)?")

_EXISTING = (
    f"int1 to int{MAX_BITS}, uint1 to uint{MAX_BITS}, int2n to int{MAX_BITS}n (without the lowest value), "
    f"eXmY of {MIN_BITS} to {MAX_BITS} bits with 1 to {MAX_EXPONENT_BITS} exponent bits, e4m3fn"
)


@cache
def parse_format(name: str) -> Format:
    """The format called `name`: int4, uint8, int8n, e4m3fn, e5m2, e3m2, ..., or with another bias, e4m3b11.

    Raises
    ------
    FormatError
        Unknown name; the message gives the limit, the nearest valid format and the names that exist.
    """
    if not isinstance(name, str):
        raise FormatError(f"format {name!r}: a format is given by name; formats are {_EXISTING}")
    text = name.strip().lower()
    if match := _INTEGER.fullmatch(text):
        return _integer(name, unsigned=bool(match[1]), bits=int(match[2]), narrow=bool(match[3]))
    if match := _MINIFLOAT.fullmatch(text):
        bias = None if match[3] is None else int(match[3])
        return _minifloat(name, int(match[1]), int(match[2]), bias, fn=bool(match[4]))
    raise FormatError(
        f"unknown format {name!r}; did you mean '{_nearest_name(text)}'? Formats are {_EXISTING}"
    )


def _integer(name: str, *, unsigned: bool, bits: int, narrow: bool) -> Format:
    def nearest() -> str:
        b = min(max(bits, 2 if narrow and not unsigned else 1), MAX_BITS)
        return Integer(b, signed=not unsigned, narrow=narrow and not unsigned).name

    if not 1 <= bits <= MAX_BITS:
        raise _unknown(name, f"integers have 1 to {MAX_BITS} bits, not {bits}", nearest())
    if narrow and unsigned:
        raise _unknown(name, "only signed integers have a narrow form", nearest())
    if narrow and bits == 1:
        raise _unknown(
            name, "without its lowest value int1 has only zero; narrow takes 2 bits or more", nearest()
        )
    return Integer(bits, signed=not unsigned, narrow=narrow)


def _minifloat(name: str, e: int, m: int, bias: int | None, *, fn: bool) -> Format:
    def nearest() -> str:
        exponent = min(max(e, 1), MAX_EXPONENT_BITS)
        mantissa = min(max(m, MIN_BITS - 1 - exponent), MAX_BITS - 1 - exponent)
        return Minifloat(exponent, max(mantissa, 0)).name

    if e < 1:
        raise _unknown(name, f"a minifloat has 1 to {MAX_EXPONENT_BITS} exponent bits", nearest())
    if e > MAX_EXPONENT_BITS:
        reason = (
            f"at most {MAX_EXPONENT_BITS} exponent bits, because sums are exact "
            "and more would take accumulators of 128 bits and beyond"
        )
        raise _unknown(name, reason, nearest())
    if not MIN_BITS <= 1 + e + m <= MAX_BITS:
        reason = f"sign, exponent and mantissa are {1 + e + m} bits; a minifloat has {MIN_BITS} to {MAX_BITS}"
        raise _unknown(name, reason, nearest())
    if fn and ((e, m) != (4, 3) or bias not in (None, 7)):
        raise _unknown(name, "'fn' exists only as e4m3fn", Minifloat(e, m).name)
    if bias is not None and bias > MAX_BIAS:
        raise _unknown(name, f"the bias is 0 to {MAX_BIAS}, not {bias}", Minifloat(e, m).name)
    return Minifloat(e, m, bias, "fn" if fn else None)


def _unknown(name: str, reason: str, nearest: str) -> FormatError:
    return FormatError(f"unknown format {name!r}: {reason}; nearest is '{nearest}'. Formats are {_EXISTING}")


def _nearest_name(text: str) -> str:
    import difflib  # only an error needs it

    names = [f.name for f in all_formats()]
    return (difflib.get_close_matches(text, names, n=1, cutoff=0.0) or ["int8"])[0]


@cache
def all_formats() -> tuple[Format, ...]:
    """Every format with the standard bias: unsigned, signed, narrow, minifloats by width, e4m3fn."""
    widths = range(1, MAX_BITS + 1)
    integers = [Integer(b, signed=False) for b in widths] + [Integer(b) for b in widths]
    narrow = [Integer(b, narrow=True) for b in widths if b > 1]
    minifloats = [
        Minifloat(e, b - 1 - e)
        for b in range(MIN_BITS, MAX_BITS + 1)
        for e in range(1, min(b - 1, MAX_EXPONENT_BITS) + 1)
    ]
    return (*integers, *narrow, *minifloats, Minifloat(4, 3, 7, "fn"))


def accumulator_bits(a: Format, w: Format, length: int) -> int:
    """Bits of a two's complement accumulator that no sum of `length` products can overflow."""
    if length < 1:
        raise FormatError(f"accumulator of {a} x {w}: {length} products; it must be 1 or more")
    return a.fixed_bits + w.fixed_bits + (length - 1).bit_length()  # ceil(log2(length))


def table() -> list[dict[str, Any]]:
    """One row per format for `sateen formats`.

    Keys: name; bits; min, max, smallest (float; least magnitude above zero); lsb (its exponent: the unit is
    2**lsb); fixed_bits; accumulator (bits, format times itself, REDUCTION products); onnx (type or "QONNX").
    """
    return [
        {
            "name": f.name,
            "bits": f.bits,
            "min": f.min,
            "max": f.max,
            "smallest": f.smallest,
            "lsb": f.lsb_exponent,
            "fixed_bits": f.fixed_bits,
            "accumulator": accumulator_bits(f, f, REDUCTION),
            "onnx": ONNX_TYPES.get(f.name, "QONNX"),
        }
        for f in all_formats()
    ]


def markdown_table() -> str:
    """`table` for docs/formats.md, without the narrow integers, which differ from the others in one value."""
    lines = [
        "| format | bits | min | max | smallest | lsb | fixed bits | accumulator | ONNX |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in table():
        if row["name"].startswith("int") and row["name"].endswith("n"):
            continue
        numbers = [row["bits"], *(f"{row[k]:.7g}" for k in ("min", "max", "smallest"))]
        cells = [row["name"], *numbers, f"2^{row['lsb']}", row["fixed_bits"], row["accumulator"], row["onnx"]]
        lines.append(f"| {' | '.join(str(c) for c in cells)} |")
    return "\n".join(lines)
