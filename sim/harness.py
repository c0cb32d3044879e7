"""Runs a simulator that `sateen.sim.verilator.build` made: writes its job, reads its report."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sateen.errors import BuildError, DataError
from sateen.files import replacing
from sateen.machine.isa import Unit
from sateen.machine.registers import COUNTED, COUNTERS, Register
from sateen.processors import processors
from sateen.sim.memory_timing import MemoryTiming
from sateen.sim.processes import Process, run_processes


@dataclass(frozen=True, slots=True)
class Counters:
    """The registers after one run. Tuples are by unit, as `isa.Unit` numbers them; all in cycles but the beats."""

    cycles: int
    status: int
    busy: tuple[int, ...]
    wait: tuple[int, ...]
    idle: tuple[int, ...]
    stall: tuple[int, ...]
    beats_read: int
    beats_written: int

    @classmethod
    def from_report(cls, values: dict[str, Any]) -> Counters:
        """Of one sample in the harness's JSON."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

    @property
    def done(self) -> bool:
        return bool(self.status & 2)

    @property
    def error(self) -> int:
        """Error code of docs/isa.md; 0 is none."""
        return self.status >> 8 & 0xFF


def register_header() -> str:
    """registers.h of harness.cpp: the map of sateen.machine.registers."""
    registers = "".join(f"    {r.name} = {r.value:#04x},\n" for r in Register)
    counters = "".join(
        f'    {{"{name}", {{{", ".join(f"{COUNTERS[name, u]:#04x}" for u in Unit)}}}}},\n' for name in COUNTED
    )
    return (
        "#pragma once\n#include <cstdint>\n\n"
        f"enum Register : uint32_t {{\n{registers}}};\n\n"
        "struct Counted {\n    const char* name;\n    uint32_t units[" + str(len(Unit)) + "];\n};\n\n"
        f"constexpr Counted COUNTERS[] = {{\n{counters}}};\n"
    )


@dataclass(frozen=True, slots=True)
class Simulation:
    """`outputs`: one array (batch, size) of bytes for each output region; `samples`: counters of each run."""

    outputs: tuple[np.ndarray, ...]
    samples: tuple[Counters, ...]
    simulated_cycles: int
    wall_s: float

    @property
    def cycles_per_second(self) -> float:
        return self.simulated_cycles / self.wall_s if self.wall_s else 0.0


def simulate(
    executable: Path,
    image: bytes | Path,
    *,
    inputs: Sequence[tuple[int, np.ndarray]] = (),
    outputs: Sequence[tuple[int, int]] = (),
    batch: int | None = None,
    memory: MemoryTiming | None = None,
    memory_bytes: int = 0,
    base: int = 0,
    program: int = 0,
    own_data: tuple[int, int] | None = None,
    watchdog: int = 0,
    max_cycles: int = 0,
    seed: int | None = None,
    read_errors: Sequence[int] = (),
    write_errors: Sequence[int] = (),
    trace: Path | None = None,
    events: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Runs the accelerator once for each sample: in as many processes as there are cores, or in one where a seed, an
    error or a trace goes on from one sample to the next. What earlier samples left in memory must not matter.

    Parameters
    ----------
    executable : Path
        From `build`; built with `trace=True` if `trace` is given.
    image : bytes or Path
        The memory from offset 0 on.
    inputs : (offset, (batch, size) uint8) pairs
        Put into memory before each sample's run.
    outputs : (offset, size) pairs
        Read from memory after it. Offsets and sizes are bytes from the start of the memory.
    batch : int, optional
        Number of samples; by default the inputs'.
    memory : MemoryTiming, optional
        Latency and interval.
    memory_bytes : int
        Size of the memory, where it is larger than what the image and the regions need.
    base, program : int
        Address of the memory on the bus (a multiple of 4096); offset of the program in it.
    own_data : (int, int), optional
        Of a machine with several arrays: where each array's own data begin, and from one's to the next one's.
    watchdog : int
        The accelerator's own limit in cycles; 0 is none.
    max_cycles : int
        The host's limit for each sample; 0 is none.
    seed : int, optional
        Random latency and back-pressure instead of `memory`.
    read_errors, write_errors : offsets of beats that answer with an error
    trace : Path, optional
        Where to write an FST.
    events : str, optional
        Of `sateen.sim.waveform.events`: what the machine executes, to be shown in the trace.
    progress : callable, optional
        Called with (samples done, cycles of the sample under way), now and then.

    Raises
    ------
    DataError
        A region's data does not fit.
    BuildError
        The simulation could not run or did not end. An error that the accelerator reports is in `samples`.
    """
    arrays = [(offset, np.ascontiguousarray(data, dtype=np.uint8)) for offset, data in inputs]
    if batch is None:
        batch = len(arrays[0][1]) if arrays else 1
    for offset, data in arrays:
        if data.ndim != 2 or len(data) != batch:
            raise DataError(f"input at {offset}: shape {data.shape}; it must be (batch = {batch}, bytes)")
    memory = memory or MemoryTiming()
    image_size = len(image) if isinstance(image, bytes) else Path(image).stat().st_size
    ends = [o + d.shape[1] for o, d in arrays] + [o + s for o, s in outputs]
    size = -(-max(memory_bytes, image_size, *ends, 4096) // 4096) * 4096
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sateen-")))
        # The job names files in the folder that it runs in: so their paths may have any characters.
        try:
            if isinstance(image, bytes):
                (work / "image").write_bytes(image)
            else:
                (work / "image").symlink_to(Path(image).absolute())
            parts = 1 if seed is not None or trace or read_errors or write_errors else processors()
            spans = np.array_split(np.arange(batch), max(1, min(parts, batch)))
            for n, span in enumerate(spans):
                with (work / f"inputs{n}").open("wb") as file:
                    for i in span:
                        for _, data in arrays:
                            file.write(data[i].tobytes())
        except OSError as e:
            raise BuildError(
                f"temporary folder {work}: {e.strerror}; free some space or set TMPDIR"
            ) from None
        job: list[tuple[str, object]] = [
            ("memory", size), ("base", base), ("program", program), ("watchdog", watchdog),
            ("latency", memory.latency), ("interval", memory.interval), ("image", "image"),
            *(("input", f"{o} {d.shape[1]}") for o, d in arrays),
            *(("output", f"{o} {s}") for o, s in outputs),
            *(("read_error", o) for o in read_errors),
            *(("write_error", o) for o in write_errors),
        ]  # fmt: skip
        if own_data is not None:
            job.append(("own", f"{own_data[0]} {own_data[1]}"))
        if max_cycles:
            job.append(("cycles", max_cycles))
        if seed is not None:
            job.append(("seed", seed))
        waves: Path | None = None
        if trace is not None:
            waves = stack.enter_context(replacing(trace, "trace"))
            (work / "trace").symlink_to(waves.parent.absolute())  # where the tracer has its other files, too
            job.append(("trace", f"trace/{waves.name}"))
            if events is not None:
                (work / "events").write_text(events, encoding="utf-8")
                job.append(("events", "events"))
        if progress is not None:
            job.append(("progress", PROGRESS_CYCLES))
        processes = []
        for n, span in enumerate(spans):
            own = [("batch", len(span)), ("inputs", f"inputs{n}"), ("outputs", f"outputs{n}")]
            text = "".join(f"{k} {v}\n" for k, v in (*job, *own))
            (work / f"job{n}").write_text(text, encoding="ascii")
            processes.append(Process(executable, work, n, int(span[0]) if len(span) else 0))
        reports = [json.loads(text) for text in run_processes(processes, progress)]
        sizes = [size for _, size in outputs]
        parts_found = [_regions(work / f"outputs{n}", len(s), sizes) for n, s in enumerate(spans)]
        found = tuple(np.concatenate(p) for p in zip(*parts_found, strict=True))
        if waves is not None and not _is_whole(waves):
            raise BuildError(
                f"trace {trace}: was not written to its end; free some space or choose another file"
            )
    samples = tuple(Counters.from_report(s) for r in reports for s in r["samples"])
    cycles, wall = sum(r["simulated_cycles"] for r in reports), max(r["wall_s"] for r in reports)
    return Simulation(found, samples, cycles, wall)


PROGRESS_CYCLES = 200_000
FST_HEADER, FST_GEOMETRY = 0, 3
"""Types of blocks: the first, and one of those that are written at the end."""


def _is_whole(trace: Path) -> bool:
    """Whether an FST, a sequence of blocks of a type and a size, has its last ones; the tracer does not say."""
    try:
        with trace.open("rb") as file:
            size, position, kinds = file.seek(0, 2), 0, set()
            while position + 9 <= size:
                file.seek(position)
                kind, *length = file.read(9)
                kinds.add(kind)
                position += 1 + int.from_bytes(length, "big")
    except FileNotFoundError:
        return False
    return position == size and {FST_HEADER, FST_GEOMETRY} <= kinds


def _regions(path: Path, batch: int, sizes: list[int]) -> tuple[np.ndarray, ...]:
    """The outputs file, sample by sample and region by region, as one array (batch, size) for each region."""
    if not sizes:
        return ()
    data = np.fromfile(path, np.uint8).reshape(batch, sum(sizes))
    return tuple(np.split(data, np.cumsum(sizes)[:-1], axis=1))
