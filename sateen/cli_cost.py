"""`sateen cost`, `sateen report` and `sateen bitstream`."""

from __future__ import annotations

import argparse
from typing import Any

from rich.markup import escape
from rich.table import Table

from sateen import api
from sateen.cli_io import emit, emit_json, emit_table, progress
from sateen.fpga.vivado import VENDOR_BOARDS


def cost(args: argparse.Namespace) -> int:
    with progress("cost") as report:
        found = api.cost(args.build, args.device, progress=report)
    if args.json:
        emit_json({"build": args.build, **found})
        return 0
    for device in found["devices"].values():
        emit_table(_table(device))
    return 0


def _table(device: dict[str, Any]) -> Table:
    table = Table("part", "LUT", "FF", "DSP", f"BRAM ({device['bram_unit']})", "carry", title=device["title"])
    for column in table.columns[1:]:
        column.justify = "right"
    for part in device["parts"]:
        table.add_row(escape(part["name"]), *_numbers(part))
    table.add_section()
    table.add_row("total", *_numbers(device["total"]), style="bold")
    return table


def _numbers(c: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{c[k]:,}" for k in ("lut", "ff", "dsp", "bram", "carry"))


def report(args: argparse.Namespace) -> int:
    path = api.report(args.build, args.output)
    if args.json:
        emit_json({"build": args.build, "report": str(path)})
    else:
        emit(str(path))
    return 0


def bitstream(args: argparse.Namespace) -> int:
    if args.board in VENDOR_BOARDS:
        return _vivado(args)
    with progress("bitstream") as report:
        found = api.bitstream(
            args.build,
            args.board,
            clock=args.clock,
            baud=args.baud,
            seed=args.seed,
            output=args.output,
            progress=report,
        )
    if args.json:
        emit_json({"build": args.build, **{k: v for k, v in found.items() if k != "build"}})
        return 0
    table = Table("resource", "used", "there is", "", title=f"{found['title']}, {found['part']}")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, there in found["available"].items():
        if used := found["used"][name]:
            table.add_row(
                escape(name), f"{used:,}", f"{there:,}", f"{100 * used / there:.0f} %" if there else ""
            )
    emit_table(table)
    emit(
        f"clock {found['clock_mhz']:g} MHz, the slowest path allows {found['fmax_mhz']:.1f}; {found['cycles']:,} "
        f"cycles a sample, {found['frames_per_second']:,.0f} samples a second, the serial line not counted"
    )
    emit(f"{found['bitstream']}: {found['size_bytes']:,} bytes; {found['flash']}")
    if found["note"]:
        emit(f"{found['board']} {found['note']}")
    return 0


def _vivado(args: argparse.Namespace) -> int:
    paths = api.vivado(args.build, args.board, clock=args.clock, output=args.output)
    project = next(p for p in paths if p.name == "project.tcl")
    if args.json:
        emit_json({"build": args.build, "board": args.board, "project": str(project), "bitstream": None})
        return 0
    emit(
        f"{VENDOR_BOARDS[args.board].title}: its bitstream takes Vivado, for which here is a project (not tried in it):"
    )
    emit(f"vivado -mode batch -source {project}")
    return 0
