"""`sateen explore`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from sateen.cli.compile import show_manifest
from sateen.cli.io import emit, emit_json, emit_table, progress
from sateen.errors import ConfigError
from sateen.explorer import api
from sateen.explorer.goals import METRICS
from sateen.explorer.page import sparsity_text
from sateen.explorer.search import read_study
from sateen.explorer.study import is_study

SHOWN = ("fps", "cycles", "clock", "lut", "ff", "dsp", "bram")
COUNTED = ("lut", "ff", "dsp", "bram", "clock")
DIGITS = {
    "accuracy": "{:.2f}",
    "agreement": "{:.2f}",
    "drop": "{:.2f}",
    "sqnr": "{:.1f}",
    "energy": "{:,.3g}",
}


def explore(args: argparse.Namespace) -> int:
    if is_study(args.source) or args.pick is not None:
        return _study(args)
    if args.output is None:
        raise ConfigError(f"no folder for the study is given; add -o STUDY to sateen explore {args.source}")
    with progress("explore") as report:
        found = api.explore(
            args.source,
            args.output,
            calibration=args.calibration,
            data=args.data,
            labels=args.labels,
            device=args.device,
            limits=args.limit,
            objectives=args.objectives,
            space=args.space,
            budget=args.budget,
            trials=args.trials,
            clock=args.clock,
            sampler=args.sampler,
            per_layer=args.per_layer,
            per_layer_by=args.per_layer_by,
            synthesize=args.synthesize,
            sparsity_method=args.sparsity_method,
            seed=args.seed,
            workers=args.workers,
            scheduler=args.scheduler,
            storage=args.storage,
            shapes=dict(args.shape or ()),
            progress=report,
        )
    _show(args, found)
    return 0


def _study(args: argparse.Namespace) -> int:
    if args.pick is None:
        _show(args, api.summary(*read_study(Path(args.source))))
        return 0
    if args.output is None:
        raise ConfigError(f"no build folder is given; add -o BUILD to --pick {args.pick}")
    with progress("compile") as report:
        manifest = api.pick(
            args.source, args.pick, args.output, calibration=args.calibration, progress=report
        )
    show_manifest(args, manifest)
    return 0


def _show(args: argparse.Namespace, found: dict[str, Any]) -> None:
    if args.json:
        emit_json(found)
        return
    members = found["front"]
    dear = [name for name in METRICS if METRICS[name].dear and name in members[0]]
    columns = list(dict.fromkeys([*found["objectives"], *SHOWN, *dear]))
    columns = [name for name in columns if name in members[0]]
    counts = [n for n in COUNTED if any(n in (m["counted"] or ()) for m in members)]
    table = Table(
        "",
        *columns,
        *(f"{name}, counted" for name in counts),
        "weights",
        "activations",
        "sparsity",
        "rows × cols × lanes",
        "group",
        title=_title(found),
    )
    for column in table.columns[: len(columns) + len(counts) + 1]:
        column.justify = "right"
    for m in members:
        config = m["configuration"]
        shape = f"{config['rows']} × {config['cols']} × {config['lanes']}"
        cells = [_number(name, m[name]) for name in columns]
        made = m["counted"] or {}
        cells += [_number(name, made[name]) if name in made else "" for name in counts]
        texts = [
            m["weights"],
            m["activations"],
            sparsity_text(m),
            shape,
            str(config["group"]),
        ]
        table.add_row(str(m["index"]) + ("*" if m["outside"] else ""), *cells, *map(escape, texts))
    emit_table(table)
    for m in members:
        if reason := (m["counted"] or {}).get("reason"):
            emit(f"member {m['index']} was not counted: {escape(reason)}")
    if any(m["outside"] for m in members):
        emit(
            "* outside of what the estimates were fitted to, so that their error may be larger; --json says in what"
        )
    emit(
        "cycles are exact, accuracy is the bit-exact reference's; LUT, FF, DSP, BRAM are estimated; the clock: "
        f"{members[0]['clock_source']}"
    )
    emit(
        f"{found['trials']} candidates in {found['study']}, all of them in {found['results']}; page: {found['page']}"
    )
    emit(f"sateen explore {found['study']} --pick I -o BUILD writes member I: {members[0]['command']}")


def _title(found: dict[str, Any]) -> str:
    limits = ", ".join(f"{name} {value:g}" for name, value in found["limits"].items())
    return f"front on {found['device']}" + (f", limits {limits}" if limits else "")


def _number(name: str, value: float) -> str:
    return DIGITS.get(name, "{:,.0f}" if abs(value) >= 100 or value == int(value) else "{:,.1f}").format(
        value
    )
