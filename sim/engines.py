"""The four engines on a build folder: reference, program, model, rtl. Equal bit for bit, always."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from sateen.errors import BuildError, DataError
from sateen.hw.control.unit import Error
from sateen.ir.quantized import QuantizedGraph
from sateen.ir.serialize import from_bytes
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import UNITS
from sateen.machine.registers import COUNTED
from sateen.manifest import BuildFiles
from sateen.sim.harness import Counters
from sateen.sim.host import Region
from sateen.sim.image import Image, packed, places, unpacked
from sateen.sim.memory_timing import MemoryTiming
from sateen.sim.model import Timeline, predict
from sateen.sim.reference import finish_outputs, quantize_inputs, run_reference

Progress = Callable[[str, float], None]

BATCH = 16
"""Samples that the program engine runs at once."""
LISTED_VALUES = 65536
"""Outputs up to so many numbers are listed by `to_dict`; larger ones only described."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What an engine made of a batch; what it does not count is None.

    `outputs` are float32 arrays by name, batch first. `cycles`, `macs` (multiplications that the network needs, zeros
    left out by sparsity not counted), `dense_macs` and `moved_bytes` (between memory and machine, by kind, and their
    "total") are for the whole batch, `cycles_per_sample` for a sample, `counters` for the last run, which is one
    unless the build takes several samples a run; engine "model" predicts "cycles", "busy", "wait" and "idle".

    Examples
    --------
    >>> result = sateen.run("build", {"input": images}, engine="model")
    >>> result.cycles_per_sample, result.utilization
    """

    outputs: dict[str, np.ndarray] | None
    engine: str
    batch: int
    cycles: int | None
    cycles_per_sample: int | None
    macs: int
    dense_macs: int
    moved_bytes: dict[str, int]
    utilization: float | None
    """Of the multipliers, 0 to 1."""
    wall_s: float
    """Seconds of the engine's own run, without building it."""
    cycles_per_second: float | None = None
    counters: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] | None = None
    """Of labels, if they were given: "samples", "correct", and of the float network "float_correct", "only_float" and
    "only_build", samples that one of the two has right."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field; of an output "shape", "dtype", "sha256", and "values" unless they are many."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.outputs is not None:
            found["outputs"] = {name: _described(y) for name, y in self.outputs.items()}
        return found


def _described(y: np.ndarray) -> dict[str, Any]:
    return {
        "shape": list(y.shape),
        "dtype": str(y.dtype),
        "sha256": hashlib.sha256(np.ascontiguousarray(y).tobytes()).hexdigest(),
        "values": y.tolist() if y.size <= LISTED_VALUES else None,
    }


class Build(BuildFiles):
    """A build folder, opened, every file checked against its manifest's hashes."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.read_all()
        try:
            self.config = AcceleratorConfig.from_dict(self.manifest["config"], f"{folder}/manifest.json")
            self.memory = self.manifest["memory"]
            self.batch: int = self.manifest["batch"]
            self.inputs = [Region.from_dict(d) for d in self.memory["inputs"]]
            self.outputs = [Region.from_dict(d) for d in self.memory["outputs"]]
        except (ValueError, KeyError, TypeError) as e:
            raise BuildError(
                f"{folder}/manifest.json: damaged ({type(e).__name__}: {e}); compile again"
            ) from None

    @property
    def identity(self) -> bytes:
        """8 bytes that name what a board holds: program, constants, layout of the memory and machine."""
        names = ("config", "memory")
        held = {n: self.manifest[n] for n in names} | {
            n: self.manifest["files"][n] for n in ("program.bin", "weights.bin")
        }
        text = json.dumps(held, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()[:8]

    def pack(self, codes: dict[str, np.ndarray]) -> list[tuple[int, np.ndarray]]:
        """(N, H, W, C) codes of each input to what lies in its region, and where that is."""
        return packed(self.inputs, codes, self.config, self.batch)

    def unpack(
        self, regions: Sequence[np.ndarray], graph: QuantizedGraph, samples: int
    ) -> dict[str, np.ndarray]:
        """(runs, size) bytes of each output's region to the (N, H, W, C) results of so many samples."""
        shapes = {t: tensor.shape for t, tensor in graph.tensors.items()}
        found = unpacked(self.outputs, regions, shapes, self.config)
        return {t: values[:samples] for t, values in found.items()}

    def predict(self, memory: MemoryTiming) -> Timeline:
        """When each instruction runs, by the exact model."""
        return predict(self.read("program.bin"), self.memory["program_offset"], self.config, memory)

    def graph(self) -> QuantizedGraph:
        try:
            return from_bytes(self.read("quantized.bin"))
        except BuildError as e:
            raise BuildError(f"{self.folder / 'quantized.bin'}: {e}") from None

    @property
    def image(self) -> Image:
        m = self.memory
        return Image(
            self.config, self.read("weights.bin"), self.read("program.bin"), m["program_offset"], m["data_offset"],
            m["data_size"],
        )  # fmt: skip


def run_build(
    b: Build,
    inputs: dict[str, np.ndarray],
    engine: str,
    *,
    latency: int = 32,
    interval: int = 1,
    trace: Path | None = None,
    verilog: str | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run a build on a batch. Raises BuildError (tools, a run that the accelerator ended) and DataError.

    With `verilog`, engine "rtl" runs that in the place of the build's, such as its netlist.
    """
    graph = b.graph()
    memory = MemoryTiming(latency=latency, interval=interval)

    def report(fraction: float) -> None:
        if progress:
            progress(engine, fraction)

    if engine == "reference":
        started = time.perf_counter()
        outputs = run_reference(graph, inputs)
        return result_of(b, engine, outputs, _batch(inputs), None, time.perf_counter() - started)
    codes = quantize_inputs(graph, inputs)
    batch = _batch(inputs)
    if engine == "model":
        started = time.perf_counter()
        timeline = b.predict(memory)
        cycles, wall = timeline.cycles * -(-batch // b.samples_of_a_run), time.perf_counter() - started
        counters = {"cycles": timeline.cycles, **timeline.counters()}
        return result_of(b, engine, None, batch, cycles, wall, counters)
    if engine == "program":
        started = time.perf_counter()
        regions = b.image.interpret(
            b.pack(codes), places(b.outputs), runs=-(-batch // b.batch), at_once=max(1, BATCH // b.batch),
            progress=report,
        )  # fmt: skip
        tensors = b.unpack(regions, graph, batch)
        wall = time.perf_counter() - started
        return result_of(b, engine, finish_outputs(graph, tensors), batch, None, wall)
    if engine == "rtl":
        return _run_rtl(b, graph, codes, batch, memory, trace, verilog, report)
    raise DataError(f"unknown engine '{engine}'; choose reference, program, model or rtl")


def _batch(inputs: dict[str, np.ndarray]) -> int:
    return len(next(iter(inputs.values())))


def result_of(
    b: Build,
    engine: str,
    outputs: dict[str, np.ndarray] | None,
    batch: int,
    cycles: int | None,
    wall: float,
    counters: dict[str, Any] | None = None,
    speed: float | None = None,
) -> RunResult:
    """`cycles` and `wall` (seconds) are of the whole batch."""
    macs = b.manifest["macs"] // b.batch * batch
    return RunResult(
        outputs=outputs,
        engine=engine,
        batch=batch,
        cycles=cycles,
        macs=macs,
        dense_macs=b.manifest["dense_macs"] // b.batch * batch,
        moved_bytes=_moved(b, batch),
        utilization=macs / (cycles * b.config.multipliers * b.arrays) if cycles else None,
        wall_s=wall,
        cycles_per_sample=cycles // batch if cycles else None,
        counters=counters or {},
        cycles_per_second=speed,
    )


def _moved(b: Build, batch: int) -> dict[str, int]:
    """Bytes by kind for a batch: what is not an array's own, all arrays have in common."""
    totals, runs = b.manifest["totals"], -(-batch // b.samples_of_a_run)
    own = totals.get("own_bytes", {})
    return {kind: runs * (n + (b.arrays - 1) * own.get(kind, 0)) for kind, n in totals["bytes"].items()}


def _run_rtl(
    b: Build,
    graph: QuantizedGraph,
    codes: dict[str, np.ndarray],
    batch: int,
    memory: MemoryTiming,
    trace: Path | None,
    verilog: str | None,
    report: Callable[[float], None],
) -> RunResult:
    from sateen.sim import verilator, waveform

    executable = verilator.build(verilog or b.read("accelerator.v").decode(), trace=trace is not None)
    events = None if trace is None else waveform.events(b, memory)
    expected, runs = max(1, b.manifest["cycles"]), -(-batch // b.batch)
    turns = -(-runs // b.arrays)
    found = b.image.simulate(
        executable,
        b.pack(codes),
        places(b.outputs),
        runs=runs,
        memory=memory,
        trace=trace,
        events=events,
        progress=lambda done, cycle: report(min(1.0, (done + cycle / expected) / turns)),
    )
    if trace is not None:
        waveform.write_views(trace)
    return result_of_runs(
        b, graph, "rtl", batch, found.outputs, found.samples, found.wall_s, found.cycles_per_second
    )


def result_of_runs(
    b: Build,
    graph: QuantizedGraph,
    engine: str,
    batch: int,
    regions: Sequence[np.ndarray],
    runs: Sequence[Counters],
    wall: float,
    speed: float | None = None,
) -> RunResult:
    """Of runs on the accelerator: what was read from the output regions, (runs, size) bytes each, and the counters.

    Raises BuildError for a run that did not end well.
    """
    for n, run in enumerate(runs):
        if run.error or not run.done:
            name = Error(run.error).name if run.error in set(Error) else str(run.error)
            raise BuildError(
                f"sample {n * b.samples_of_a_run}: the accelerator ended with status {name} after {run.cycles} cycles"
            )
    tensors = b.unpack(regions, graph, batch)
    last = runs[-1]
    counters = {
        "cycles": last.cycles,
        **{name: dict(zip(UNITS, getattr(last, name), strict=True)) for name in COUNTED},
        "beats_read": last.beats_read,
        "beats_written": last.beats_written,
    }
    cycles = sum(r.cycles for r in runs)
    outputs = finish_outputs(graph, tensors)
    return result_of(b, engine, outputs, batch, cycles, wall, counters, speed)
