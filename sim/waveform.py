"""What a waveform shows beside the RTL's signals: the program as it runs, and files that lay it out in a viewer.

The times are those of the cycle model, which the RTL keeps to the cycle; `harness.cpp` aligns each run by the first
address that memory is given.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sateen.files import check_writable, write_file
from sateen.hw.memory.load import ADDRESS_LATENCY
from sateen.machine.isa import UNITS, Opcode, Unit
from sateen.sim.memory_timing import MemoryTiming

if TYPE_CHECKING:
    from sateen.sim.engines import Build

PROGRAM = "program"
"""The layer of what fetches the program."""
SIGNALS = ("layer", *(f"{unit}_{what}" for unit in UNITS for what in ("opcode", "layer")))
SCOPE, TOP = "program", "TOP"
"""Where a trace has these signals, and the ports."""
COMMENT, BINARY, ENUMERATED = "@200", "@28", "@100000022"
"""Of GTKWave: how the lines that follow are shown."""


def events(b: Build, memory: MemoryTiming) -> str:
    """The file that program_trace.h reads, for a build in a memory of this timing."""
    schedule = b.schedule
    timeline = b.predict(memory)
    layers = [
        e["layer"] for e in schedule["timeline"][1:]
    ]  # the first is the fetch that no instruction asks for
    names = [PROGRAM, *(_name(layer["name"]) for layer in schedule["layers"])]
    opcodes = [o.name for o in Opcode]
    lines = [f"first {timeline.boot[0] + ADDRESS_LATENCY}"]
    lines += [f"unit {name}" for name in UNITS]
    lines += [f"opcode {name}" for name in opcodes]
    lines += [f"layer {name}" for name in names]

    def event(unit: Unit, start: int, end: int, opcode: Opcode, layer: int) -> str:
        return f"event {unit.value} {start} {end} {opcodes.index(opcode.name) + 1} {max(layer, -1) + 2}"

    lines.append(event(Unit.LOAD, *timeline.boot, Opcode.LOAD, -1))
    done: dict[int, int] = {}
    for e, layer in zip(timeline.events, layers, strict=True):
        lines.append(event(e.instruction.unit, e.start, e.done, e.instruction.opcode, layer))
        done[layer] = max(done.get(layer, 0), e.done + 1)
    begin = 0
    for layer in range(len(schedule["layers"])):
        if layer in done and done[layer] > begin:
            lines.append(f"span {begin} {layer + 2}")
            begin = done[layer]
    return "\n".join(lines) + "\n"


def _name(text: str) -> str:
    """A line of its own, of a length that a viewer shows."""
    return re.sub(r"\s+", "_", text)[:200] or "-"


def views(trace: Path) -> dict[Path, str]:
    """By path, layouts of a trace for GTKWave (`gtkwave F.gtkw`) and Surfer (`surfer -c F.sucl F.fst`)."""
    shown = [f"{SCOPE}.{name}" for name in SIGNALS]
    bus = [
        f"{TOP}.m_axi_{channel}{signal}"
        for channel in ("ar", "r", "aw", "w")
        for signal in ("valid", "ready")
    ]
    gtkwave = [f'[dumpfile] "{trace.absolute()}"', "[timestart] 0", COMMENT, "-program", ENUMERATED]
    gtkwave += [*(f"{name}[15:0]" for name in shown), COMMENT, "-memory", BINARY, *bus]
    surfer = ["divider_add program", *(f"variable_add {name}" for name in shown)]
    surfer += ["divider_add memory", *(f"variable_add {name}" for name in bus), "zoom_fit"]
    return {
        trace.with_suffix(".gtkw"): "\n".join(gtkwave) + "\n",
        trace.with_suffix(".sucl"): "\n".join(surfer) + "\n",
    }


def write_views(trace: Path) -> list[Path]:
    """Beside the trace; their paths. Raises DataError."""
    found = views(trace)
    for path, text in found.items():
        check_writable(path, "view")
        write_file(path, text, "view")
    return list(found)
