"""`sateen compare`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from rich.markup import escape
from rich.table import Table

from sateen.cli.io import emit_json, emit_table
from sateen.reporting.compare import compare as compare_builds


def compare(args: argparse.Namespace) -> int:
    found = compare_builds(args.builds, args.device)
    if args.json:
        emit_json(found)
        return 0
    builds = found["builds"]
    table = Table("", *(escape(b["build"]) for b in builds))
    layers = Table("layer: cycles", *(escape(b["build"]) for b in builds))
    for column in (*table.columns[1:], *layers.columns[1:]):
        column.justify = "right"
    for title, text in ROWS.items():
        table.add_row(title, *(escape(text(b)) for b in builds))
    for source in ("estimated", "measured"):
        table.add_section()
        for name in ("lut", "ff", "dsp", "bram"):
            cells = ("" if b[source] is None else f"{b[source][name]:,}" for b in builds)
            table.add_row(f"{name.upper()}, {source}, {found['device']}", *cells)
    for row in found["layers"]:
        layers.add_row(escape(row["name"]), *("" if n is None else f"{n:,}" for n in row["cycles"]))
    emit_table(table)
    emit_table(layers)
    return 0


ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "model": lambda b: b["model"],
    "machine": lambda b: f"{b['machine']}, {b['multipliers']} multipliers",
    "weights × activations": lambda b: f"{b['weights']} × {b['activations']}",
    "cycles": lambda b: f"{b['cycles']:,}" + (f" for {b['batch']}" if b["batch"] > 1 else ""),
    "utilization": lambda b: f"{100 * b['utilization']:.1f} %",
    "bytes moved": lambda b: f"{b['bytes']:,}",
    "bytes of weights": lambda b: f"{b['weight_bytes']:,}",
    "accuracy (sateen run --labels)": lambda b: "" if b["accuracy"] is None else f"{b['accuracy']:.2f} %",
    "energy of a sample, estimated": lambda b: f"{b['energy_uj'][0]:,.3g} to {b['energy_uj'][1]:,.3g} µJ",
}
