"""LUT, FF, DSP and accumulator width of every multiply-accumulate unit, in every format.

    .venv/bin/python benchmarks/mac_units.py [FORMAT ...] [--family NAME] [--lanes N] [--implementation NAME]
        [--no-synthesis]

Writes fpga/library/mac_units.json, the tables in docs/results/mac_units.md and a plot for each family (matplotlib).
With formats, families, lanes or implementations only those are measured again. Results are cached; from nothing it
takes hours on two cores.
"""

# extras: benchmark

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.progress import track

import sateen.fpga.library
from sateen.formats import all_formats, parse_format
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.synthesis import tool_version
from sateen.fpga.library.mac_units import (
    FIELDS,
    LANES,
    TABLE,
    K,
    best,
    integer_of_width,
    measure,
    published_accumulator_bits,
    rows,
    swept_formats,
    units,
)
from sateen.hw.library.mac import IMPLEMENTATIONS
from sateen.hw.library.mac_datapath import exact_bits

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
BEGIN, END = "<!-- tables: benchmarks/mac_units.py -->", "<!-- end of tables -->"
REDUCTION = 4608
"""Dot length for which the paper gives accumulators."""
GOAL = 1.2
Row = dict[str, Any]


def synthesize(
    names: list[str],
    families: list[str],
    lanes: list[int] | None,
    implementations: list[str],
    workers: int,
) -> None:
    """Measure and write the table, after each family: what is done is kept."""
    swept = swept_formats()
    formats = [parse_format(n) for n in names] or [*swept, *(f for f in all_formats() if f not in swept)]
    table = {tuple(r[k] for k in FIELDS[:4]): r for r in rows()}
    for name in families:
        mine = [n for n in LANES[name] if lanes is None or n in lanes]
        found = [u for f in formats for u in units([f], [n for n in mine if n == 1 or f in swept])]
        chosen = [u for u in found if u.implementation in implementations]
        replaced = {(f.name, i, n, name) for f in formats for i in implementations for n in mine}
        table = {k: r for k, r in table.items() if k not in replaced}
        measured = measure(chosen, FAMILIES[name], workers)
        for _, row in track(measured, description=name, total=len(chosen)):
            table[tuple(row[k] for k in FIELDS[:4])] = row
        write(list(table.values()))


def write(table: list[Row]) -> None:
    order = [f.name for f in all_formats()]
    table.sort(
        key=lambda r: (
            order.index(r["format"]),
            IMPLEMENTATIONS.index(r["implementation"]),
            r["family"],
            r["lanes"],
        )
    )
    lines = ",\n".join(f"  {json.dumps([r[k] for k in FIELDS])}" for r in table)
    head = f'"k": {K},\n "tool": {json.dumps(tool_version())},\n "fields": {json.dumps(FIELDS)}'
    path = Path(sateen.fpga.library.__path__[0]) / TABLE
    path.write_text(f'{{\n {head},\n "units": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def tables(table: list[Row]) -> str:
    text = []
    for family in FAMILIES.values():
        have = [f for f in swept_formats() if best(table, f.name, family.name)]
        if not have:
            continue
        text += [f"## {family.title}", "", *best_table(table, have, family.name), ""]
        text += ["Every unit, LUT/FF/DSP:", "", *full_table(table, have, family.name), ""]
    return "\n".join(text)


def best_table(table: list[Row], formats: list, family: str) -> list[str]:
    """Best units without DSP for each number of lanes, and what a DSP leaves, one line for each format."""
    lines = [
        "| format | accumulator | published | "
        + " | ".join(f"LUT per MAC, {n} lane{'s' * (n > 1)}" for n in LANES[family])
        + " | with DSP: LUT/DSP |",
        "|---|--:|--:|" + "--:|" * (len(LANES[family]) + 1),
    ]
    for f in sorted(formats, key=lambda f: (f.bits, f.family)):
        cells = [f.name, str(exact_bits(f, f, REDUCTION)), str(published_accumulator_bits(f, REDUCTION))]
        for n in LANES[family]:
            unit = best(table, f.name, family, n, dsp=False)
            base = best(table, integer_of_width(f).name, family, n, dsp=False)
            cells.append(
                "" if unit is None else f"{unit['lut'] / n:.1f} {unit['implementation']}{ratio(unit, base)}"
            )
        with_dsp = best([r for r in table if r["implementation"] == "dsp"], f.name, family)
        cells.append("" if with_dsp is None else f"{with_dsp['lut']}/{with_dsp['dsp']}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def ratio(unit: Row, base: Row | None) -> str:
    if base is None or unit["format"] == base["format"]:
        return ""
    value = unit["lut"] / base["lut"]
    return f" ({value:.2f}×)" if value <= GOAL else f" (**{value:.2f}×**)"


def full_table(table: list[Row], formats: list, family: str) -> list[str]:
    lines = [
        f"| format | implementation | {' | '.join(f'{n} lane{chr(115) * (n > 1)}' for n in LANES[family])} |",
        "|---|---|" + "--:|" * len(LANES[family]),
    ]
    for f in formats:
        for implementation in IMPLEMENTATIONS:
            found = {
                r["lanes"]: f"{r['lut']}/{r['ff']}/{r['dsp']}"
                for r in table
                if (r["format"], r["family"], r["implementation"]) == (f.name, family, implementation)
            }
            if found:
                cells = " | ".join(found.get(n, "") for n in LANES[family])
                lines.append(f"| {f.name} | {implementation} | {cells} |")
    return lines


def plot(table: list[Row], family: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    have = [f for f in swept_formats() if best(table, f.name, family)]
    have.sort(key=lambda f: (f.bits, f.family))
    names = [f.name for f in have]
    swept = LANES[family]
    figure, axes = pyplot.subplots(4, len(swept), figsize=(22, 13), sharex=True, sharey="row", squeeze=False)
    for column, lanes in enumerate(swept):
        for line, key in enumerate(("lut", "ff", "dsp")):
            axis = axes[line][column]
            for implementation, marker in zip(IMPLEMENTATIONS, "os^DPv", strict=True):
                color = f"C{IMPLEMENTATIONS.index(implementation)}"
                points = [
                    (names.index(r["format"]), r[key] / lanes)
                    for r in table
                    if (r["family"], r["lanes"], r["implementation"]) == (family, lanes, implementation)
                    and r["format"] in names
                ]
                if points:
                    axis.plot(
                        *zip(*points, strict=True), marker, c=color, ms=5, label=implementation, alpha=0.8
                    )
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(f"{key.upper()} per MAC")
        axes[0][column].set_title(f"{lanes} lane{'s' * (lanes > 1)}")
        axis = axes[3][column]
        ours = [exact_bits(f, f, K) for f in have]
        axis.plot(names, ours, "k_", ms=9, label=f"exact, K = {K}")
        axis.plot(names, [published_accumulator_bits(f, K) for f in have], "rx", label="arXiv 2311.12359")
        axis.tick_params(axis="x", rotation=90)
        axis.grid(alpha=0.3)
    axes[3][0].set_ylabel("accumulator bits")
    axes[0][-1].legend()  # several lanes have all implementations
    axes[3][0].legend()
    figure.suptitle(f"Multiply-accumulate units on {FAMILIES[family].title}, counted by Yosys")
    figure.tight_layout()
    figure.savefig(RESULTS / f"mac_units_{family}.png", dpi=70)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("formats", nargs="*")
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument(
        "--lanes", type=int, choices=sorted({n for lanes in LANES.values() for n in lanes}), action="append"
    )
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, action="append")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument(
        "--no-synthesis", action="store_true", help="tables and plots of the committed figures"
    )
    args = parser.parse_args()
    if not args.no_synthesis:
        implementations = args.implementation or list(IMPLEMENTATIONS)
        synthesize(args.formats, args.family or list(FAMILIES), args.lanes, implementations, args.workers)
    table = rows()
    path = RESULTS / "mac_units.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{tables(table)}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    for family in FAMILIES:
        plot(table, family)


if __name__ == "__main__":
    main()
