"""The formats by name."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from sateen.errors import FormatError
from sateen.formats.base import Format, NoSuchFormat
from sateen.formats.integer import Integer
from sateen.formats.minifloat import Minifloat

REDUCTION = 4608
"""Elements: the longest dot product of ResNet-18, 3x3x512; `table` gives accumulators for it."""

ONNX_TYPES = {
    name: name.upper() for name in ("int2", "uint2", "int4", "uint4", "int8", "uint8")
} | {"e4m3fn": "FLOAT8E4M3FN", "e5m2": "FLOAT8E5M2", "e2m1": "FLOAT4E2M1"}  # fmt: skip
"""Formats that ONNX has a type for; the others are written as QONNX."""

FAMILIES: tuple[type[Format], ...] = (Integer, Minifloat)
"""What `parse_format` knows, in the order of tables."""


@cache
def parse_format(name: str) -> Format:
    """Find a number format by name.

    Parameters
    ----------
    name : int4, uint8, int8n, e4m3fn, e5m2, e3m2, ..., or with another bias, e4m3b11

    Returns
    -------
    Format
        With `encode`, `decode`, `fixed`, `bits`, `min`, `max`.

    Raises
    ------
    FormatError
        Unknown name; the message gives the limit, the nearest valid format and the names that exist.

    Examples
    --------
    >>> e3m2 = sateen.parse_format("e3m2")
    >>> e3m2.decode(e3m2.encode([0.3, 5.1]))
    """
    existing = ", ".join(family.names for family in FAMILIES)
    if not isinstance(name, str):
        raise FormatError(f"format {name!r}: a format is given by name; formats are {existing}")
    text = name.strip().lower()
    for family in FAMILIES:
        if match := family.pattern.fullmatch(text):
            try:
                return family.of_match(match)
            except NoSuchFormat as e:
                raise FormatError(
                    f"unknown format {name!r}: {e}; nearest is '{e.nearest}'. Formats are {existing}"
                ) from None
    raise FormatError(
        f"unknown format {name!r}; did you mean '{_nearest_name(text)}'? Formats are {existing}"
    )


def _nearest_name(text: str) -> str:
    import difflib  # only an error needs it

    names = [f.name for f in all_formats()]
    return (difflib.get_close_matches(text, names, n=1, cutoff=0.0) or ["int8"])[0]


@cache
def all_formats() -> tuple[Format, ...]:
    """Every format with the standard bias: unsigned, signed, narrow, minifloats by width, e4m3fn."""
    return tuple(f for family in FAMILIES for f in family.members())


def accumulator_bits(a: Format, w: Format, length: int) -> int:
    """Bits of a two's complement accumulator that no sum of `length` products can overflow."""
    if length < 1:
        raise FormatError(f"accumulator of {a} x {w}: {length} products; it must be 1 or more")
    return a.fixed_bits + w.fixed_bits + (length - 1).bit_length()  # ceil(log2(length))


def table(formats: Iterable[Format] | None = None) -> list[dict[str, Any]]:
    """One row per format, by default of all.

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
        for f in (all_formats() if formats is None else formats)
    ]


def markdown_table() -> str:
    """`table` for docs/formats.md, without the narrow integers, which differ from the others in one value."""
    lines = [
        "| format | bits | min | max | smallest | lsb | fixed bits | accumulator | ONNX |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in table(f for f in all_formats() if not f.narrow):
        numbers = [row["bits"], *(f"{row[k]:.7g}" for k in ("min", "max", "smallest"))]
        cells = [row["name"], *numbers, f"2^{row['lsb']}", row["fixed_bits"], row["accumulator"], row["onnx"]]
        lines.append(f"| {' | '.join(str(c) for c in cells)} |")
    return "\n".join(lines)
