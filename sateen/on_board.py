"""A machine or a build on a board before synthesis: what it takes of the part, what limits it, how fast it is."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sateen.errors import ConfigError
from sateen.explorer.target import Target
from sateen.fpga.boards.capacity import capacity_of
from sateen.fpga.boards.catalog import BOARDS
from sateen.machine.config import AcceleratorConfig
from sateen.machine.presets import PRESETS
from sateen.manifest import BuildFiles
from sateen.sim.memory_timing import ON_CHIP
from sateen.sim.model import predict


def estimate_on_board(
    config: AcceleratorConfig, name: str, build: BuildFiles | None = None
) -> dict[str, Any]:
    """The whole chip on the board `name`, estimated; with a build also its memory, cycles and samples a second.

    Raises ConfigError for a name that is no board's.
    """
    if name not in BOARDS:
        raise ConfigError(f"unknown board '{name}'; boards are {', '.join(BOARDS)}")
    board = BOARDS[name]
    target = Target(name, "ecp5", board)
    memory = 0 if build is None else int(_memory(build))
    found = target.estimate(config, memory)
    available = dict(capacity_of(board).available)
    share = {k: found[k] / available[k] for k in available}
    limit = max(share, key=lambda k: share[k])
    clock = float(found["clock"])
    result: dict[str, Any] = {
        "board": name,
        "title": board.title,
        "part": board.part.title,
        "source": "estimated",
        "machine": config.name,
        "multipliers": config.multipliers,
        "narrow": config.narrow,
        "used": {k: found[k] for k in available},
        "available": available,
        "share": {k: round(s, 4) for k, s in share.items()},
        "limited_by": limit,
        "fits": share[limit] <= 1,
        "clock_mhz": round(clock, 1),
        "clock_source": target.clock_source,
        "memory_bytes": memory,
        "outside": found["outside"],
    }
    if build is not None:
        manifest = build.manifest
        offset = manifest["memory"]["program_offset"]
        cycles = _cycles(build.read("program.bin"), offset, config)
        result["cycles"] = cycles
        if result["fits"]:
            result["samples_per_second"] = round(1e6 * clock * manifest["batch"] / cycles, 1)
    return result


@lru_cache(maxsize=4)
def _cycles(program: bytes, offset: int, config: AcceleratorConfig) -> int:
    """In the memory of a chip, of whatever board."""
    return predict(program, offset, config, ON_CHIP).cycles


def on_every_board(config: AcceleratorConfig, build: BuildFiles) -> list[dict[str, Any]]:
    """`estimate_on_board` for each, in order of their LUTs."""
    rows = [estimate_on_board(config, name, build) for name in BOARDS]
    return sorted(rows, key=lambda row: int(row["available"]["lut"]))


def _memory(build: BuildFiles) -> int:
    return int(build.manifest["memory"]["data_offset"]) + int(build.manifest["memory"]["data_size"])


def boards() -> list[dict[str, Any]]:
    """A row for each board that a bitstream can be made for: part, what it has, the preset, and its multipliers."""
    return [
        {
            "board": board.name,
            "title": board.title,
            "part": board.part.title,
            **capacity_of(board).available,
            "clock_mhz": board.clock_hz / 1e6,
            "multipliers": PRESETS[board.name].multipliers,
        }
        for board in BOARDS.values()
    ]
