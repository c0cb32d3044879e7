"""`sateen layers`."""

from __future__ import annotations

import argparse
import csv
import io
from typing import Any

from rich.markup import escape
from rich.table import Table

from sateen.cli.io import emit, emit_json, emit_table, result_path
from sateen.files import check_writable, write_file
from sateen.mapped import Build, open
from sateen.reporting.page import LIMITS
from sateen.samples import RANDOM, RANDOM_MEANS_NOTHING

_COLUMNS = (
    "layer", "kind", "output", "cycles", "share", "utilization", "limited by", "moved",
    "signal to noise", "largest error", "clipped",
)  # fmt: skip


def layers(args: argparse.Namespace) -> int:
    build = open(args.build)
    rows = build.layers
    if args.csv:
        path = result_path(args.csv)
        check_writable(path, "layers")
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_file(path, out.getvalue(), "layers")
    if args.trace:
        build.trace(result_path(args.trace))
    if args.json:
        emit_json({"build": args.build, "cycles": build.cycles, "layers": rows})
    elif args.csv or args.trace:
        for file in filter(None, (args.csv, args.trace)):
            emit(f"{file}: {len(rows)} layers")
    else:
        _table(build, rows)
    return 0


def _table(build: Build, rows: list[dict[str, Any]]) -> None:
    table = Table(*_COLUMNS)
    for column in table.columns[3:]:
        column.justify = "right"
    table.columns[6].justify = "left"

    def percent(value: float | None, digits: str = ".1f") -> str:
        return "" if value is None else f"{100 * value:{digits}} %"

    for row in rows:
        snr = row["snr_db"]
        table.add_row(
            escape(row["name"]),
            row["kind"],
            row["output_shape"],
            f"{row['cycles']:,}",
            percent(row["cycles"] / max(1, build.cycles)),
            percent(row["utilization"] if row["macs"] else None),
            LIMITS.get(row["limited_by"] or "", ""),
            f"{row['bytes_loaded'] + row['bytes_stored']:,}",
            "" if snr is None else f"{snr:.1f} dB",
            percent(row["largest_error"], ".2g"),
            percent(row["clipped"], ".2g"),
        )
    emit_table(table)
    if build.manifest.get("ptq", {}).get("calibration") == RANDOM:
        emit(RANDOM_MEANS_NOTHING)
    emit(f"{build.cycles:,} cycles; layers overlap: each has those by which it moves the end of the run")
