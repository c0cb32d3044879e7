"""`sateen run`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from sateen import api
from sateen.arrays import check_names, save_npz
from sateen.cli.io import emit, emit_json, emit_table, progress, result_path
from sateen.cli.samples import images
from sateen.errors import DataError
from sateen.files import check_writable
from sateen.options import FLOAT
from sateen.reporting.labels import difference
from sateen.samples import RANDOM, RANDOM_MEANS_NOTHING
from sateen.sim.engines import Build
from sateen.sim.memory_timing import ON_CHIP

if TYPE_CHECKING:
    from sateen.sim.engines import RunResult


def run(args: argparse.Namespace) -> int:
    if args.engine == "model" and (args.outputs or args.compare or args.labels):
        option = "--outputs" if args.outputs else "--compare" if args.compare else "--labels"
        raise DataError(
            f"engine 'model' counts cycles and has no outputs; leave {option} out, or use another engine"
        )
    if args.engine == FLOAT and args.compare:
        raise DataError(
            "engine 'float' is what rounding is judged by, and equal to no other; leave --compare out"
        )
    outputs = args.outputs and result_path(args.outputs)
    if outputs:
        check_writable(outputs, "outputs")
    b = Build(args.build)
    if outputs:
        check_names((o["name"] for o in b.manifest["outputs"]), "outputs")
    inputs = images(args, args.inputs)
    with progress(args.engine) as report:
        result = api.run(
            b,
            inputs,
            args.engine,
            latency=args.latency,
            interval=args.interval,
            trace=args.trace,
            port=args.port,
            baud=args.baud,
            labels=args.labels,
            host=args.host,
            progress=report,
        )
    different: dict[str, int] | None = None
    if args.compare:
        with progress("reference") as report:
            reference = api.run(b, inputs, "reference", host=args.host, progress=report)
        different = differences(reference.outputs or {}, result.outputs or {})
    if outputs and result.outputs is not None:
        save_npz(outputs, result.outputs)
    if args.json:
        found = summary(args, result, different)
        if not args.values:
            for output in (found["outputs"] or {}).values():
                output.pop("values", None)
        emit_json(found)
    else:
        _table(args, result, different)
        if b.manifest.get("ptq", {}).get("calibration") == RANDOM:
            emit(RANDOM_MEANS_NOTHING)
        if result.accuracy:
            emit(_accuracy(result.accuracy))
    return 1 if different and any(different.values()) else 0


def _accuracy(found: dict[str, Any]) -> str:
    right, n = found["correct"], found["samples"]
    text = f"accuracy {100 * right / n:.1f} %: {right} of {n} samples"
    if found["engine"] == FLOAT:
        return text
    points, error = difference(found)
    return (
        f"{text}; float {100 * found['float_correct'] / n:.1f} %, difference {points:+.2f} ± {error:.2f} points: "
        f"{found['only_float']} right in float alone, {found['only_build']} in this build alone"
    )


def differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, int]:
    """Per output, how many elements differ by bits; all of them where shape or type differ."""
    counts = {}
    for name in {**a, **b}:
        x, y = a.get(name), b.get(name)
        if x is None or y is None or x.shape != y.shape or x.dtype != y.dtype:
            counts[name] = max(v.size for v in (x, y) if v is not None)
            continue
        bits = [np.ascontiguousarray(v).view(np.uint8).reshape(*v.shape, -1) for v in (x, y)]
        counts[name] = int((bits[0] != bits[1]).any(axis=-1).sum())
    return counts


def summary(args: argparse.Namespace, result: RunResult, different: dict[str, int] | None) -> dict[str, Any]:
    """What `run --json` prints."""
    on_board = args.engine == api.BOARD
    values = result.to_dict()
    found: dict[str, Any] = {
        "build": args.build,
        **{name: value for name, value in values.items() if name not in ("counters", "outputs")},
        "latency": ON_CHIP.latency if on_board else args.latency,
        "interval": ON_CHIP.interval if on_board else args.interval,
        "counters": values["counters"],
        "outputs": values["outputs"],
        "outputs_file": args.outputs,
    }
    if different is not None:
        found["equal"] = not any(different.values())
        found["differences"] = different
    return found


def _table(args: argparse.Namespace, result: RunResult, different: dict[str, int] | None) -> None:
    table = Table(show_header=False)

    def row(name: str, text: str | None) -> None:
        if text is not None:
            table.add_row(name, escape(text))

    per = result.cycles_per_sample
    row("engine", result.engine)
    row("batch", f"{result.batch}")
    row("cycles", None if result.cycles is None else f"{result.cycles:,}")
    row("cycles per sample", None if per is None else f"{per:,.0f}")
    row("multiplications", None if result.macs is None else f"{result.macs:,}")
    row("bytes moved", f"{result.moved_bytes['total']:,}")
    row("utilization", None if result.utilization is None else f"{100 * result.utilization:.1f} %")
    row("time", f"{result.wall_s:.2f} s")
    row("speed", None if not result.cycles_per_second else f"{result.cycles_per_second:,.0f} cycles/s")
    for name, y in (result.outputs or {}).items():
        row(f"output {name}", f"{y.dtype} {tuple(y.shape)}")
    row("written to", args.outputs)
    row("trace", args.trace)
    emit_table(table)
    for name, count in (different or {}).items():
        emit(
            f"output '{name}': "
            + (f"{count} elements differ from the reference" if count else "equal to the reference")
        )
