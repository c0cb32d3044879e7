"""`sateen bitstream`: a build as a chip for a board, its bitstream, and what was measured on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sateen.errors import BuildError, ConfigError
from sateen.files import check_writable, write_file
from sateen.fpga.boards.capacity import capacity_of, placed_counts
from sateen.fpga.boards.catalog import BOARDS, Board, board
from sateen.fpga.boards.chip import Chip
from sateen.fpga.boards.clocking import dividers
from sateen.fpga.boards.ties import HIGHEST_HZ, Ties, tied
from sateen.fpga.flow.bitstream import Bitstream, make
from sateen.fpga.flow.run_time import expected_time
from sateen.on_board import check_fits
from sateen.sim.board import soc_of
from sateen.sim.engines import Build
from sateen.sim.memory_timing import ON_CHIP

FOLDER = "bitstream"
"""In the build folder: for each board NAME.json and the bitstream itself."""
SUFFIX = {"ecp5": ".bit", "ice40": ".bin", "gowin": ".fs"}
"""As openFPGALoader knows the formats."""


def make_bitstream(
    build: Path,
    name: str | None = None,
    *,
    clock_mhz: float | None = None,
    baud: int,
    seed: int = 1,
    attempts: int = 1,
    output: Path | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Make a build's bitstream for a board, BUILD/bitstream/BOARD.* if no path is given; what was measured.

    Raises ConfigError (board, clock, baud), LimitError (does not fit, if only by the estimate; misses its clock) and
    BuildError.
    """
    b = Build(build)
    target = board(_board_of(b, name))
    clock_hz = None if clock_mhz is None else round(clock_mhz * 1e6)
    folder = b.folder / FOLDER
    path = output or folder / f"{target.name}{SUFFIX[target.part.architecture]}"
    if output is not None:
        check_writable(path, "bitstream")
    _check_clock(target, clock_hz, baud)
    estimated = check_fits(b.config, target.name, b)
    resident = not target.single_port
    # any other clock and rate is made of the chip at the board's once it is placed
    ties = Ties(target.part.architecture, target.clock_hz, baud)
    soc = soc_of(b, pace=ties.pace, resident=resident, single_port=target.single_port)
    verilog = Chip(inside=soc, board=target, clock_hz=target.clock_hz, ties=ties).verilog()
    logs = folder / target.name
    made = make(
        verilog,
        target,
        path,
        clock_hz=clock_hz,
        baud=baud,
        seed=seed,
        attempts=attempts,
        multipliers=b.config.multipliers,
        expected=expected_time(target.part.architecture, estimated["used"]["lut"], attempts),
        logs=logs,
        progress=progress,
    )
    found = _measured(b, target, made, path) | {
        "estimated": {k: estimated[k] for k in ("used", "clock_mhz", "clock_source")},
        "clock_asked_mhz": clock_mhz,
        "baud": baud,
        "logs": str(logs),
        "resident": resident,
        "memory_bytes": soc.memory.size,
    }
    found["samples_per_second"] = made.clock_hz / found["cycles"] * b.samples_of_a_run
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    write_file(folder / f"{target.name}.json", text, "bitstream record")
    return found


def _check_clock(target: Board, clock_hz: int | None, baud: int) -> None:
    """That clock and rate can be made. Raises ConfigError."""
    architecture = target.part.architecture
    if clock_hz is not None:
        dividers(architecture, target.resolve().clk_hz, clock_hz)
        if clock_hz > (highest := HIGHEST_HZ[architecture]):
            raise ConfigError(
                f"clock of {clock_hz / 1e6:g} MHz: chips of {architecture} have {highest / 1e6:g} at most; "
                "choose another with --clock"
            )
    try:
        tied(target.clock_hz if clock_hz is None else clock_hz, baud)
        tied(target.clock_hz, baud)
    except ValueError as e:
        raise ConfigError(f"board '{target.name}': {e}") from None


def _board_of(b: Build, name: str | None) -> str:
    chosen = name or b.manifest.get("board")
    if not chosen:
        raise ConfigError(
            f"build {b.folder} was not compiled for a board; give --board NAME, one of {', '.join(BOARDS)}"
        )
    return str(chosen)


def _measured(b: Build, target: Board, made: Bitstream, path: Path) -> dict[str, Any]:
    routed = made.placement.routed
    used = placed_counts(routed.used, target.part.architecture)
    available = {k: n for k, n in capacity_of(target).available.items() if k in used}
    cycles = b.predict(ON_CHIP).cycles
    return {
        "board": target.name,
        "title": target.title,
        "part": target.part.title,
        "architecture": target.part.architecture,
        "speed": target.part.speed,
        "config": b.config.name,
        "multipliers": b.config.multipliers,
        "build": b.identity.hex(),
        "bitstream": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size_bytes": path.stat().st_size,
        "flash": target.flash.format(file=path),
        "note": target.note,
        "used": used,
        "available": available,
        "share": {k: round(n / available[k], 4) for k, n in used.items()},
        "primitives": {k: [n, routed.available[k]] for k, n in routed.used.items() if n},
        "clocks_mhz": routed.clocks,
        "fmax_mhz": routed.fmax,
        "longest_path": dict(zip(("from", "to", "logic_ns", "wires_ns"), routed.longest, strict=True)),
        "cycles": cycles,
        "clock_mhz": made.clock_hz / 1e6,
        "seed": made.placement.seed,
        "reached_mhz": made.reached,
        "seconds": made.seconds,
        "reused": list(made.reused),
        "tools": list(made.tools),
    }


def bitstreams(b: Build) -> list[dict[str, Any]]:
    """What was measured of the build's bitstreams; of those that are of this build. Raises BuildError."""
    found = []
    for path in sorted((b.folder / FOLDER).glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["build"] == b.identity.hex():
                found.append(record)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise BuildError(f"{path}: cannot be read ({e}); run sateen bitstream again") from None
    return found
