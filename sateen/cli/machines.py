"""`sateen boards`, `sateen presets` and `sateen cache`."""

from __future__ import annotations

import argparse

from rich.markup import escape
from rich.table import Table

from sateen.cli.io import emit, emit_json, emit_table
from sateen.errors import ConfigError
from sateen.files import cache_dir, clean_cache, kept_in_cache
from sateen.fpga.boards.capacity import TITLES
from sateen.fpga.boards.catalog import BOARDS
from sateen.fpga.flow.vivado import VENDOR_BOARDS
from sateen.machine.config import as_toml
from sateen.machine.presets import PRESETS, preset
from sateen.on_board import boards as rows_of_boards


def boards(args: argparse.Namespace) -> int:
    rows = rows_of_boards()
    if args.json:
        emit_json({"boards": rows, "vivado": list(VENDOR_BOARDS)})
        return 0
    table = Table("board", "", "part", *TITLES.values(), "clock of its preset", "multipliers")
    for column in table.columns[3:]:
        column.justify = "right"
    for row in rows:
        counts = [f"{row[k]:,}" for k in TITLES]
        clock, multipliers = f"{row['clock_mhz']:g} MHz", f"{row['multipliers']}"
        table.add_row(*map(escape, (row["board"], row["title"], row["part"])), *counts, clock, multipliers)
    emit_table(table)
    emit(f"Vivado projects, not bitstreams: {', '.join(VENDOR_BOARDS)}")
    return 0


def presets(args: argparse.Namespace) -> int:
    if args.name is not None:
        config = preset(args.name)
        if args.json:
            emit_json(config.stated())
        else:
            emit(as_toml(config).rstrip("\n"))
        return 0
    if args.json:
        emit_json({"presets": {name: c.stated() for name, c in PRESETS.items()}})
        return 0
    table = Table("preset", "multipliers", "rows", "columns", "lanes", "bus", "buffers", "for")
    for column in table.columns[1:7]:
        column.justify = "right"
    for name, c in PRESETS.items():
        patterns = ", ".join(p for p in c.patterns if p != "dense")
        about = BOARDS[name].title if name in BOARDS else f"patterns {patterns}" if patterns else ""
        sizes = (c.multipliers, c.rows, c.cols, c.lanes, f"{c.bus_bits} bit")
        act = c.act_banks * c.act_bank_depth * c.act_word_bits // 8192
        table.add_row(name, *map(str, sizes), f"{act} KiB", escape(about))
    emit_table(table)
    emit(
        'sateen presets NAME prints a preset as TOML; a TOML file that says base = "NAME" begins with its fields'
    )
    return 0


def cache(args: argparse.Namespace) -> int:
    if args.limit is not None and not args.clean:
        raise ConfigError("--limit says how much --clean leaves; add --clean")
    if args.clean:
        removed = clean_cache(0 if args.limit is None else args.limit << 20)
        if args.json:
            emit_json({"folder": str(cache_dir()), "removed_bytes": removed})
        else:
            emit(f"{cache_dir()}: {removed / (1 << 20):,.1f} MiB removed, the oldest first")
        return 0
    kinds = kept_in_cache()
    if args.json:
        emit_json(
            {
                "folder": str(cache_dir()),
                "kinds": {k: {"files": n, "bytes": b} for k, (n, b) in kinds.items()},
            }
        )
        return 0
    table = Table("kind", "files", "MiB", title=str(cache_dir()))
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, (files, size) in sorted(kinds.items()):
        table.add_row(escape(kind), f"{files:,}", f"{size / (1 << 20):,.1f}")
    table.add_section()
    totals = [sum(v[i] for v in kinds.values()) for i in (0, 1)]
    table.add_row("total", f"{totals[0]:,}", f"{totals[1] / (1 << 20):,.1f}", style="bold")
    emit_table(table)
    return 0
