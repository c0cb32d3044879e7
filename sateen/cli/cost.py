"""`sateen cost`, `sateen report` and `sateen bitstream`."""

from __future__ import annotations

import argparse
from typing import Any

from rich.markup import escape
from rich.table import Table

from sateen import api, hardware
from sateen.cli.io import emit, emit_json, emit_table, progress, result_path
from sateen.errors import BuildError, ConfigError
from sateen.fpga.boards.capacity import TITLES
from sateen.fpga.boards.catalog import BOARDS
from sateen.fpga.flow.vivado import VENDOR_BOARDS


def cost(args: argparse.Namespace) -> int:
    if args.estimate:
        for option in ("dsp_sums", "wide_muxes"):
            if getattr(args, option):
                name = f"--{option.replace('_', '-')}"
                raise ConfigError(f"{name} is counted, not estimated; leave --estimate or {name} out")
        return _estimate(args)
    if args.preset is not None:
        raise ConfigError(f"preset '{args.preset}' has nothing to count; add --estimate, or give a build")
    if args.build is None:
        raise BuildError("no build is given; sateen cost BUILD counts one, --estimate takes --preset, too")
    with progress("cost") as report:
        found = hardware.cost(
            args.build, args.device, dsp_sums=args.dsp_sums, wide_muxes=args.wide_muxes, progress=report
        )
    if args.json:
        emit_json({"build": args.build, **found})
        return 0
    for device in found["devices"].values():
        emit_table(_table(device))
    return 0


def _estimate(args: argparse.Namespace) -> int:
    found = hardware.estimate(args.build, args.device, preset=args.preset)
    if args.json:
        emit_json(found)
        return 0
    if "board" in found:
        _on_board(found)
        return 0
    for device in found["devices"].values():
        emit_table(_table(device, ("lut", "ff", "dsp", "bram")))
        emit(_accuracy(device["error"]))
        if clock := device.get("clock"):
            emit(_clock(clock))
    if energy := found.get("energy"):
        uj = energy["uj"]
        emit(
            f"energy of a sample: {uj['total_low']:,.3g} to {uj['total_high']:,.3g} µJ, {energy['source']}: "
            f"multiplications {uj['multiply']:,.3g}, additions {uj['add']:,.3g}, on-chip memory {uj['on_chip']:,.3g}, "
            f"memory {uj['memory_low']:,.3g} to {uj['memory_high']:,.3g}"
        )
    if found["outside"]:
        emit(
            f"'{found['name']}' lies outside of what the model was fitted to, so the error may be larger: "
            f"{'; '.join(found['outside'])}"
        )
    return 0


def _on_board(found: dict[str, Any]) -> None:
    """A machine on a board's part, as `bitstream` shows it, but estimated."""
    title = f"{found['machine']} on {found['title']}, {found['part']}, estimated"
    table = Table("resource", "used", "there is", "", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for k, there in found["available"].items():
        table.add_row(_TITLES[k], f"{found['used'][k]:,}", f"{there:,}", f"{100 * found['share'][k]:.0f} %")
    emit_table(table)
    most = found["limited_by"]
    verdict = "fits" if found["fits"] else "does not fit"
    open_board = found["board"] in BOARDS
    memory = "; the memory of a program is not in it" if open_board and not found["memory_bytes"] else ""
    emit(f"{verdict}: {_TITLES[most]} is used most, {100 * found['share'][most]:.0f} %{memory}")
    if memory and found["narrow"]:
        emit("at most: counters and sums of a narrow machine take less once a program is compiled for it")
    rate = f"; {found['samples_per_second']:,.0f} samples a second" if "samples_per_second" in found else ""
    emit(f"clock {found['clock_mhz']:g} MHz ({found['clock_source']}){rate}")
    if found["outside"]:
        emit(
            f"beyond what the models were fitted to, so they may be further off: {'; '.join(found['outside'])}"
        )


def _accuracy(error: dict[str, Any]) -> str:
    """What is known about an estimate."""
    if not error["lut"]["count"]:
        return "estimated; no machine was held out of the fit to tell the error"
    each = (
        f"{title} {100 * error[key]['median']:.1f} % (worst {100 * error[key]['worst']:.1f} %)"
        for key, title in _TITLES.items()
        if key in error
    )
    return f"estimated; median error on {error['lut']['count']} machines that the fit has not seen: {', '.join(each)}"


def _clock(clock: dict[str, Any]) -> str:
    """The clock of each speed grade, and what is known about it."""
    each = []
    for grade, mhz in clock["mhz"].items():
        error = clock["error"][grade]
        median, worst = (f"{100 * error[k]:.0f} %" for k in ("median", "worst"))
        each.append(f"{mhz:.0f} MHz on speed grade {grade} (median error {median}, worst {worst})")
    count = clock["error"][grade]["count"]
    text = (
        f"clock, estimated: {', '.join(each)}, errors on {count} machines, each left out of the fit; "
        f"the longest path ends in: {clock['ends_in']}"
    )
    if clock["outside"]:
        text += f"; outside of the machines that were placed: {'; '.join(clock['outside'])}"
    return text


_TITLES = TITLES | {"carry": "carry"}


def _table(device: dict[str, Any], columns: tuple[str, ...] = tuple(_TITLES)) -> Table:
    titles = _TITLES | {"bram": f"block RAM ({device['bram_unit']})"}
    title = device["title"] + (", estimated" if device["source"] == "estimated" else "")
    table = Table("part", *(titles[c] for c in columns), title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for part in device["parts"]:
        table.add_row(escape(part["name"]), *(f"{part[c]:,}" for c in columns))
    table.add_section()
    table.add_row("total", *(f"{device['total'][c]:,}" for c in columns), style="bold")
    return table


def report(args: argparse.Namespace) -> int:
    path = api.report(args.build, args.output and result_path(args.output), args.sweep)
    if args.json:
        emit_json({"build": args.build, "report": str(path)})
    else:
        emit(str(path))
    return 0


def bitstream(args: argparse.Namespace) -> int:
    if args.board in VENDOR_BOARDS:
        return _vivado(args)
    with progress("bitstream", each_stage=True) as report:
        found = hardware.bitstream(
            args.build,
            args.board,
            clock=args.clock,
            baud=args.baud,
            seed=args.seed,
            attempts=args.attempts,
            output=args.output,
            progress=report,
        )
    if args.json:
        emit_json({"build": args.build, **{k: v for k, v in found.items() if k != "build"}})
        return 0
    table = Table("resource", "estimated", "used", "there is", "", title=f"{found['title']}, {found['part']}")
    for column in table.columns[1:]:
        column.justify = "right"
    for k, there in found["available"].items():
        before = f"{found['estimated']['used'][k]:,}"
        table.add_row(
            _TITLES[k], before, f"{found['used'][k]:,g}", f"{there:,}", f"{100 * found['share'][k]:.0f} %"
        )
    emit_table(table)
    emit(
        f"clock {found['clock_mhz']:g} MHz, the slowest path allows {found['fmax_mhz']:.1f} with seed {found['seed']}; "
        f"{found['cycles']:,} cycles a sample, {found['samples_per_second']:,.0f} samples a second, the serial line "
        "not counted"
    )
    if found["reused"]:
        emit(f"kept from an earlier try: {' and '.join(found['reused'])}")
    emit(f"{found['bitstream']}: {found['size_bytes']:,} bytes; {found['flash']}")
    if found["note"]:
        emit(f"{found['board']} {found['note']}")
    return 0


def _vivado(args: argparse.Namespace) -> int:
    paths = hardware.vivado(args.build, args.board, clock=args.clock, output=args.output)
    project = next(p for p in paths if p.name == "project.tcl")
    if args.json:
        emit_json({"build": args.build, "board": args.board, "project": str(project), "bitstream": None})
        return 0
    emit(
        f"{VENDOR_BOARDS[args.board].title}: its bitstream takes Vivado, for which here is a project (not tried in it):"
    )
    emit(f"vivado -mode batch -source {project}")
    return 0
