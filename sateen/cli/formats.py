"""`sateen formats`."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
from rich.table import Table

from sateen.cli.io import emit, emit_json, emit_table
from sateen.formats import Format, all_formats


def formats(args: argparse.Namespace) -> int:
    from sateen.fpga.library.mac_cost import measured

    costs = measured()
    rows = [{**describe(f), "mac_cost": costs.get(f.name)} for f in all_formats()]
    if args.json:
        emit_json({"formats": rows})
        return 0
    devices = sorted({d for r in rows for d in (r["mac_cost"] or {})})
    columns = ["format", "kind", "bits", "minimum", "maximum", "smallest > 0", "precision", "fixed bits"]
    table = Table(*columns, *(f"{d} LUT/FF/DSP" for d in devices))
    for column in table.columns[2:]:
        column.justify = "right"
    for r in rows:
        numbers = [f"{r[k]:.6g}" for k in ("min", "max", "smallest")]
        cost = [_cost(r["mac_cost"], d) for d in devices]
        table.add_row(
            r["name"], r["kind"], str(r["bits"]), *numbers, str(r["precision"]), str(r["fixed_bits"]), *cost
        )
    emit_table(table)
    emit("precision: significand bits; fixed bits: two's complement bits that hold every value exactly.")
    if devices:
        emit(
            "LUT/FF/DSP: one MAC of this format by itself, K = 4096, counted by Yosys (benchmarks/mac_cost.py)."
        )
    return 0


def describe(f: Format) -> dict[str, Any]:
    """Range and precision, found from all codes."""
    values = f.decode(f.codes)
    finite = values[np.isfinite(values)]
    fixed = np.abs(f.fixed(f.codes)[np.isfinite(values)]).tolist()
    # Bits between the highest and the lowest one of a value, over all values.
    precision = max(((v.bit_length() - _trailing_zeros(v)) for v in fixed if v), default=0)
    return {
        "name": f.name,
        "kind": f.family,
        "bits": f.bits,
        "min": float(f.min),
        "max": float(f.max),
        "smallest": float(finite[finite > 0].min()) if (finite > 0).any() else math.nan,
        "precision": precision,
        "lsb_exponent": f.lsb_exponent,
        "fixed_bits": f.fixed_bits,
        "infinity": bool(np.isinf(values).any()),
        "nan": bool(np.isnan(values).any()),
    }


def _trailing_zeros(value: int) -> int:
    return (value & -value).bit_length() - 1


def _cost(costs: dict[str, dict[str, int]] | None, device: str) -> str:
    c = (costs or {}).get(device)
    return "" if c is None else f"{c['lut']}/{c['ff']}/{c['dsp']}"
