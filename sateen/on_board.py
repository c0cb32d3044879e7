"""A machine or a build on a board before synthesis: what it takes of the part, what limits it, how fast it is."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sateen.errors import ConfigError, LimitError
from sateen.explorer.target import Target
from sateen.fpga.boards.capacity import LOGIC_SLACK, TITLES, VENDOR_PARTS, capacity_of
from sateen.fpga.boards.catalog import BOARDS, Board
from sateen.fpga.estimate import resource_model
from sateen.fpga.flow.vivado import VENDOR_BOARDS, VendorBoard
from sateen.machine.config import FIELDS_OF, AcceleratorConfig
from sateen.machine.presets import PRESETS
from sateen.manifest import BuildFiles
from sateen.sim.memory_timing import NOMINAL, ON_CHIP, MemoryTiming
from sateen.sim.model import predict


def estimate_on_board(
    config: AcceleratorConfig, name: str, build: BuildFiles | None = None
) -> dict[str, Any]:
    """A machine on the board `name`, estimated; with a build also its memory, cycles and frames a second.

    Of boards that bitstreams are made for it is the whole chip.

    Raises ConfigError for a name that is no board's.
    """
    memory = 0 if build is None else build.memory_bytes
    if name in BOARDS:
        result, timing = _on_open_board(config, BOARDS[name], memory), ON_CHIP
    elif name in VENDOR_PARTS:
        result, timing = _on_vendor_board(config, VENDOR_BOARDS[name]), NOMINAL
    else:
        raise ConfigError(f"unknown board '{name}'; boards are {', '.join((*BOARDS, *VENDOR_PARTS))}")
    used, available = result["used"], result["available"]
    share = {k: used[k] / there for k, there in available.items()}
    limit = max(share, key=lambda k: share[k])
    result |= {
        "board": name,
        "source": "estimated",
        "machine": config.name,
        "multipliers": config.arrays * config.multipliers,
        "narrow": config.narrow,
        "share": {k: round(s, 4) for k, s in share.items()},
        "limited_by": limit,
        "fits": share[limit] <= 1,
    }
    if build is not None:
        manifest = build.manifest
        offset = manifest["memory"]["program_offset"]
        cycles = _cycles(build.read("program.bin"), offset, config, timing)
        result["cycles"] = cycles
        if result["fits"]:
            rate = 1e6 * result["clock_mhz"] * build.samples_of_a_run / cycles
            result["samples_per_second"] = round(rate, 1)
    return result


def _on_open_board(config: AcceleratorConfig, board: Board, memory: int) -> dict[str, Any]:
    """The whole chip, its memory and serial link with it."""
    target, capacity = Target(board.name, "ecp5", board), capacity_of(board)
    found = target.estimate(config, memory)
    return {
        "title": board.title,
        "part": board.part.title,
        "used": {k: found[k] for k in capacity.available},
        "available": dict(capacity.available),
        "clock_mhz": round(float(found["clock"]), 1),
        "clock_source": target.clock_source,
        "memory_bytes": memory,
        "memory_available": capacity.memory_bytes,
        "outside": found["outside"],
    }


def _on_vendor_board(config: AcceleratorConfig, board: VendorBoard) -> dict[str, Any]:
    """The machine alone: memory is the board's, and what connects them is Vivado's."""
    found = resource_model.estimate(config, "xcup")
    available = dict(VENDOR_PARTS[board.name])
    return {
        "title": board.title,
        "part": board.part,
        "used": {k: found["devices"]["xcup"]["total"][k] for k in available},
        "available": available,
        "clock_mhz": board.clock_mhz,
        "clock_source": "the board's, not estimated",
        "memory_bytes": 0,
        "memory_available": 0,
        "outside": list(found["outside"]),
    }


def check_fits(config: AcceleratorConfig, name: str, build: BuildFiles) -> dict[str, Any]:
    """The estimate of a build on a board. Raises LimitError where it cannot fit, whatever the estimate's error."""
    found = estimate_on_board(config, name, build)
    if (too_much := _too_much(found)) is None:
        return found
    # how narrow the board's preset would be is not known here, so its LUTs are not asked for
    formats = {field: getattr(config, field) for field in FIELDS_OF["formats"]}
    own = estimate_on_board(PRESETS[name].replace(**formats), name, build)
    own["used"] |= {"lut": 0, "ff": 0}
    remedies = []
    if found["used"]["dsp"] > found["available"]["dsp"]:
        remedies.append('set multipliers_in = "mixed" or "lut" in the configuration')
    if PRESETS[name].multipliers < config.multipliers and _too_much(own) is None:
        remedies.append(f"compile with --board {name}, whose preset is made for it")
    for other in sorted(BOARDS, key=lambda b: capacity_of(BOARDS[b]).available["lut"]):
        if other != name and _too_much(estimate_on_board(config, other, build)) is None:
            remedies.append(f"take a larger board: it fits {other}")
            break
    remedy = (
        ", or ".join(remedies) or "give a smaller configuration with --config, or a network of fewer weights"
    )
    raise LimitError(
        f"board '{name}': by the estimate, before synthesis, '{config.name}' with this network cannot fit "
        f"{found['part']}: {too_much}; {remedy}"
    )


def _too_much(found: dict[str, Any]) -> str | None:
    """What a chip has too much of, by more than an estimate may be wrong."""
    slack = capacity_of(BOARDS[found["board"]]).slack
    limit = {"lut": LOGIC_SLACK, "ff": LOGIC_SLACK, "dsp": slack, "bram": slack}
    there, memory = found["available"], found["memory_available"]
    if memory and found["memory_bytes"] > memory:
        return f"{found['memory_bytes']:,} bytes of memory of {memory:,} for program, weights and tensors"
    excess = {k: n for k, n in found["used"].items() if n > (1 + limit[k]) * there[k]}
    if not excess:
        return None
    blocks = -(-found["memory_bytes"] // 2048)
    return ", ".join(
        f"{n:,} {TITLES[k]} of {there[k]:,} ({n - there[k]:,} too many"
        + (f"; {blocks} are memory for program, weights and tensors)" if k == "bram" and not memory else ")")
        for k, n in excess.items()
    )


@lru_cache(maxsize=4)
def _cycles(program: bytes, offset: int, config: AcceleratorConfig, timing: MemoryTiming) -> int:
    """In the memory of a chip, of whatever board, or in another."""
    return predict(program, offset, config, timing).cycles


def on_every_board(config: AcceleratorConfig, build: BuildFiles) -> list[dict[str, Any]]:
    """`estimate_on_board` for each, in order of their LUTs."""
    rows = [estimate_on_board(config, name, build) for name in BOARDS]
    return sorted(rows, key=lambda row: int(row["available"]["lut"]))


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
