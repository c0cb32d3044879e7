"""`sateen cost`, `sateen report` and `sateen bitstream`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from sateen import api
from sateen.cli_io import emit, emit_json, emit_table, progress
from sateen.errors import BuildError
from sateen.manifest import read_manifest


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
    read_manifest(Path(args.build))
    raise BuildError(
        f"board '{args.board}': bitstreams are not made yet; {args.build}/accelerator.v is plain Verilog "
        "with AXI4 ports for a flow of your own"
    )
