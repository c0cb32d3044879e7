"""`sateen check` and `sateen compile`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from sateen import api
from sateen.cli.io import emit, emit_json, emit_table, progress
from sateen.cli.samples import images
from sateen.compiler.check import fixed_model, supported_until
from sateen.compiler.dense_machine import shape_text
from sateen.files import check_writable, write_file
from sateen.fpga.boards.devices import FAMILIES
from sateen.manifest import BuildFiles
from sateen.samples import RANDOM

SHOWN = 5
"""Of the layers whose outputs are furthest from float."""
_MARKS = {True: "[green]yes[/]", False: "[red]no[/]", None: "[yellow]not checked[/]"}


def check(args: argparse.Namespace) -> int:
    options: dict[str, Any] = {
        "shapes": dict(args.shape or ()),
        "values": dict(args.value or ()),
        "until": args.until or (),
    }
    findings = api.check(args.model, **options)
    bad = [f for f in findings if f.supported is False]
    open_ = sum(f.supported is None for f in findings)
    if args.json:
        emit_json(
            {
                "model": args.model,
                "supported": not bad,
                "nodes": len(findings),
                "unsupported": len(bad),
                "not_checked": open_,
                "calibrated": [t for f in findings for t in f.calibrated],
                "findings": [f.to_dict() for f in findings],
            }
        )
    else:
        table = Table("node", "operator", "supported", "reason", "what to do")
        for f in findings:
            table.add_row(
                *(escape(str(c or "")) for c in (f.node, f.op_type)),
                _MARKS[f.supported],
                escape(f.reason or ""),
                escape(f.remedy or ""),
            )
        emit_table(table)
    if bad:
        f = bad[0]
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        more += f"; {open_} that depend on what is not supported could not be checked" if open_ else ""
        print(
            f"sateen: error: {args.model}: {len(bad)} of {len(findings)} nodes are not supported: "
            f"{f.op_type} '{f.node}': {f.reason}{more}",
            file=sys.stderr,
        )
        if until := supported_until(args.model, findings, **options):
            words = ["check", args.model, *(w for o, v in _given(args) for w in (o, v))]
            command = shlex.join(["sateen", *words, *(w for t in until for w in ("--until", t))])
            print(
                f"what comes before is supported; the rest can be left to the host: {command}",
                file=sys.stderr,
            )
        return 2
    if args.fix:
        check_writable(args.fix, "model")
        write_file(args.fix, fixed_model(args.model, **options).SerializeToString(), "model")
    if not args.json:
        calibrated = [f"'{t}'" for f in findings for t in f.calibrated]
        shown = ", ".join(calibrated[:4]) + (
            f" and {len(calibrated) - 4} more" if len(calibrated) > 4 else ""
        )
        needs = f"; compile needs --calibration, as the file does not round {shown}" if calibrated else ""
        emit(f"{args.model}: all {len(findings)} nodes are supported{needs}")
    return 0


def _given(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Options that a command for the same model needs again."""
    for name, sizes in args.shape or ():
        yield "--shape", f"{name}={','.join(map(str, sizes))}"
    for name, value in args.value or ():
        yield "--value", f"{name}={value:g}"


def compile(args: argparse.Namespace) -> int:
    with progress("compile") as report:
        manifest = api.compile(
            args.model,
            args.output,
            calibration=args.calibration and images(args, args.calibration),
            config=args.config,
            preset=args.preset,
            weights=args.weights,
            activations=args.activations,
            sparsity=args.sparsity,
            sparsity_method=args.sparsity_method,
            sparsity_map=args.sparsity_map,
            channels=args.channels,
            ptq=args.ptq,
            scales=args.scales,
            power_of_two=args.power_of_two,
            dataflow=args.dataflow,
            batch=args.batch,
            board=args.board,
            shapes=dict(args.shape or ()),
            values=dict(args.value or ()),
            until=args.until or (),
            progress=report,
        )
    show_manifest(args, manifest)
    return 0


def show_manifest(args: argparse.Namespace, manifest: dict[str, Any]) -> None:
    """What was compiled into `args.output`."""
    if args.json:
        emit_json({"build": args.output, **manifest})
    else:
        _summary(args.output, manifest)


def _summary(build: str, manifest: dict[str, Any]) -> None:
    config = manifest["config"]
    multipliers, arrays = config["rows"] * config["cols"] * config["lanes"], config["arrays"]
    each = f", {arrays} times" if arrays > 1 else ""
    rows = [
        ("build", build),
        (
            "array",
            f"{config['name']}: {multipliers} multipliers, {config['rows']} rows, {config['cols']} columns, "
            f"{config['lanes']} lanes{each}",
        ),
        (
            "formats",
            f"weights {config['weight_format']}, activations {config['activation_format']}, "
            f"accumulator {config['acc_bits']} bits",
        ),
    ]
    totals = manifest["totals"]
    macs, cycles, weights = totals["macs"], totals["cycles"], totals["weights"]
    per = "sample" if manifest["batch"] == 1 else f"run of {manifest['batch']} samples"
    rows += [
        ("multiplications", f"{macs:,} per {per}{_of(totals['dense_macs'], macs)}"),
        ("cycles", f"{cycles:,} per {per}{' on each array' * (arrays > 1)} (predicted by the cycle model)"),
        *_against_dense(manifest),
        ("utilization", f"{100 * totals['utilization']:.1f} %"),
    ]
    moved, stored = totals["bytes"]["total"], weights["values_bytes"] + weights["index_bytes"]
    dense = totals["dense"]
    rows += [
        ("bytes moved", f"{moved:,} per {per}{_of(dense and dense['bytes']['total'], moved)}"),
        ("weights", f"{stored:,} bytes{_of(weights.get('dense_bytes'), stored)}"),
    ]
    p = manifest["ptq"]
    kept = "the model's own scales" if "given" in p else "scales and bias correction"
    passes = ", ".join(q["name"] for q in p["passes"]) or kept
    rows.append(
        ("quantization", f"{p['recipe']}: {passes}; {p['samples']} samples, {p['seconds']['all']:.1f} s")
    )
    if cut := p.get("channels"):
        texts = [f"{s['before']} → {s['after']}" for s in cut["sets"] if s["after"] < s["before"]]
        rows.append(
            ("channels", f"{', '.join(texts) or 'none removed'}, for {cut['left']:g} of the array's work")
        )
    if p.get("calibration") == RANDOM:
        rows.append(("calibration", "random: cycles and cost hold, outputs and accuracy mean nothing"))
    for found in manifest.get("errors", {}).get("outputs", ()):
        of = f"against float on {manifest['errors']['samples']} calibration samples"
        rows.append((f"output {found['name']}", f"{error_text(found)}, {of}"))
        rows.extend(_agreement(found, manifest["errors"]["samples"]))
    for name in ("program.bin", "weights.bin", "accelerator.v"):
        path = Path(build, name)
        if path.is_file():
            rows.append((name, f"{path.stat().st_size:,} bytes"))
    table = Table(show_header=False)
    for row in rows:
        table.add_row(*map(escape, row))
    emit_table(table)
    worst = sorted(
        (e for e in BuildFiles(build).errors.get("layers", ()) if e["snr_db"] is not None),
        key=lambda e: float(e["snr_db"]),
    )
    if worst:
        table = Table(
            "layer", "signal to noise", "largest error", "clipped", title="layers that lose the most"
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for e in worst[:SHOWN]:
            clipped = "" if e["clipped"] is None else f"{100 * e['clipped']:.2g} %"
            table.add_row(
                escape(e["name"]), f"{e['snr_db']:.1f} dB", f"{100 * e['largest_error']:.2g} %", clipped
            )
        emit_table(table)
        emit(f"all layers: sateen layers {build}")


def _against_dense(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What patterns gain: against dense weights here, and against a machine that is built without patterns."""
    cycles, dense = manifest["totals"]["cycles"], manifest["totals"]["dense"]
    if dense and dense["cycles"] != cycles:
        yield "… dense weights here", f"{dense['cycles']:,} cycles, {dense['cycles'] / cycles:.2f}× as many"
    if found := manifest.get("dense_machine"):
        families = found.get("faster_per_lut", {})
        per_lut = ", ".join(f"{v:.2f}× on {FAMILIES[k].title}" for k, v in families.items())
        yield (
            "… dense machine",
            f"{found['cycles']:,} cycles, {found['faster']:.2f}× as many, without patterns ({shape_text(found)})"
            + (f"; samples per LUT here {per_lut} (estimated)" if per_lut else ""),
        )


def _agreement(found: dict[str, Any], samples: int) -> Iterator[tuple[str, str]]:
    """What pruning in one shot has lost by itself, and where the largest value is."""
    if found["agree"] is not None:
        yield "… largest value", f"where float has it in {found['agree']} of {samples} samples"
    if found["pruned_db"] is not None:
        of = found["pruned_agree"]
        text = "" if of is None else f"; largest value where the file has it in {of} of {samples} samples"
        yield "… pruning alone", f"{found['pruned_db']:.1f} dB{text}"


def error_text(found: dict[str, Any]) -> str:
    """Signal to noise, and the largest error."""
    if found["snr_db"] is None:
        return "exact"
    return (
        f"{found['snr_db']:.1f} dB, largest error {100 * found['largest_error']:.2g} % of the largest value"
    )


def _of(dense: int | None, value: int) -> str:
    """What it would be with every weight stored and multiplied, where that is another number."""
    return "" if dense in (None, value) else f" (dense: {dense:,})"
