"""What one multiply-accumulate costs in each format: the committed measurements, and what they measure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from amaranth.back import rtlil

from sateen.errors import FormatError
from sateen.formats import Format, Integer, Minifloat, all_formats, parse_format
from sateen.fpga.boards.devices import Family
from sateen.fpga.flow.batch import synthesize_many
from sateen.fpga.flow.cost import resources
from sateen.hw.library.mac import IMPLEMENTATIONS, MAC, why_not
from sateen.hw.library.mac_datapath import exact_bits

K = 4096
"""Products in a sum: the accumulator holds so many of the largest ones."""

LANES = {"ecp5": (1, 2, 4, 8), "xcup": (1, 2, 4, 8)}
"""What is compared in each family."""

DELAY_PS = {"ecp5": 10_000, "xcup": None}
"""What logic of units without DSPs may take, 100 MHz: Yosys maps to the least delay otherwise, with more LUTs. Where it
hardly matters, None."""

TABLE = "mac_units.json"
"""{"k", "tool", "units": [a dict of FIELDS, ...]}; see benchmarks/mac_units.py."""

FIELDS = ("format", "implementation", "lanes", "family", "acc_bits", "lut", "ff", "dsp", "carry")


@dataclass(frozen=True, slots=True)
class Unit:
    """One multiply-accumulate unit, both operands of one format."""

    format: Format
    implementation: str
    lanes: int

    @property
    def with_dsp(self) -> bool:
        return self.implementation in ("dsp", "packed")

    def mac(self) -> MAC:
        return MAC(a=self.format, w=self.format, lanes=self.lanes, k=K, implementation=self.implementation)

    def rtlil(self) -> str:
        return rtlil.convert(self.mac(), name="mac", emit_src=False)


def units(formats: Iterable[Format], lanes: Iterable[int]) -> list[Unit]:
    """All that exist."""
    return [
        Unit(f, implementation, n)
        for f in formats
        for implementation in IMPLEMENTATIONS
        for n in lanes
        if not why_not(implementation, f, f, n)
    ]


def swept_formats() -> list[Format]:
    """What is compared: signed integers of 3 to 8 bits and minifloats with every split."""
    return [f for f in all_formats() if f.bits > 2 and f.signed and not f.narrow]


def measure(chosen: list[Unit], family: Family, workers: int = 2) -> Iterator[tuple[Unit, dict[str, Any]]]:
    """Synthesize units; rows of FIELDS as they come in. Raises BuildError."""
    for with_dsp in (False, True):
        part = [u for u in chosen if u.with_dsp == with_dsp]
        found = synthesize_many(
            [u.rtlil() for u in part],
            family,
            top="mac",
            options="" if with_dsp else "-nodsp",
            delay_ps=None if with_dsp else DELAY_PS[family.name],
            workers=workers,
        )
        for n, cells in found:
            unit, count = part[n], resources(cells, family)
            yield (
                unit,
                {
                    "format": unit.format.name,
                    "implementation": unit.implementation,
                    "lanes": unit.lanes,
                    "family": family.name,
                    "acc_bits": exact_bits(unit.format, unit.format, K),
                    **{k: count[k] for k in ("lut", "ff", "dsp", "carry")},
                },
            )


def rows() -> list[dict[str, Any]]:
    """The committed measurements; empty where there are none."""
    path = files("sateen.fpga.library") / TABLE
    if not path.is_file():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    return [dict(zip(FIELDS, unit, strict=True)) for unit in content["units"]]


def best(
    table: list[dict[str, Any]], name: str, family: str, lanes: int = 1, *, dsp: bool | None = None
) -> dict[str, Any] | None:
    """The unit of a format with the fewest LUTs; with `dsp`, of those that use DSPs, or that use none."""
    found = [
        r
        for r in table
        if (r["format"], r["family"], r["lanes"]) == (name, family, lanes)
        and (dsp is None or (r["implementation"] in ("dsp", "packed")) == dsp)
    ]
    return min(found, key=lambda r: (r["lut"], r["ff"]), default=None)


def published_accumulator_bits(fmt: Format, n: int) -> int:
    """The accumulator for products of a format with itself, dot length n.

    Ref: "Shedding the bits: pushing the boundaries of quantization with minifloats on FPGAs",
    arXiv 2311.12359, section on accumulator sizes.
    """
    length = (n - 1).bit_length()  # ceil(log2 n)
    match fmt:
        case Integer():
            return 2 * fmt.bits + length + 1
        case Minifloat():
            return 2 * ((1 << fmt.exponent_bits) + fmt.mantissa_bits) + length - 1
    raise FormatError(f"{fmt}: the paper gives accumulators of integers and minifloats")


def integer_of_width(fmt: Format) -> Format:
    """What a format is compared with."""
    return parse_format(f"int{fmt.bits}")
