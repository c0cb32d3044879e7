"""A program in the accelerator's memory, and its runs in the interpreter and in RTL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sateen.machine.config import AcceleratorConfig
from sateen.sim.harness import Simulation, simulate
from sateen.sim.host import Region
from sateen.sim.memory_timing import NOMINAL, MemoryTiming
from sateen.sim.program import Interpreter

Given = Sequence[tuple[int, np.ndarray]]
"""Bytes from the start of the memory, and what is put there before each run: (runs, size) uint8."""
Wanted = Sequence[tuple[int, int]]
"""Bytes from the start of the memory and how many, read after each run."""


@dataclass(frozen=True, slots=True)
class Image:
    """Constants at 0, the program, then data, each further array's `data_size` behind the one before; in bytes."""

    config: AcceleratorConfig
    constants: bytes
    code: bytes
    program_offset: int
    data_offset: int
    data_size: int

    @property
    def size(self) -> int:
        """Of the memory that a run needs."""
        return self.data_offset + self.config.arrays * self.data_size

    @property
    def held(self) -> bytes:
        """The memory up to the data."""
        before = self.constants.ljust(self.program_offset, b"\0") + self.code
        return before.ljust(self.data_offset, b"\0")

    def interpret(
        self,
        inputs: Given,
        outputs: Wanted,
        *,
        runs: int = 1,
        at_once: int = 16,
        progress: Callable[[float], None] | None = None,
    ) -> list[np.ndarray]:
        """Outputs (runs, size) from the program engine, which takes `at_once` runs together."""
        parts: list[list[np.ndarray]] = [[] for _ in outputs]
        for first in range(0, runs, at_once):
            last = min(first + at_once, runs)
            data = np.zeros((last - first, self.data_size), np.uint8)
            for offset, held in inputs:
                start = offset - self.data_offset
                data[:, start : start + held.shape[1]] = held[first:last]

            def part(fraction: float, first: int = first, last: int = last) -> None:
                if progress:
                    progress((first + fraction * (last - first)) / runs)

            Interpreter(
                self.config, self.constants, self.code, self.program_offset, data, self.data_offset
            ).run(part)
            for (offset, size), written in zip(outputs, parts, strict=True):
                start = offset - self.data_offset
                written.append(data[:, start : start + size])
        return [np.concatenate(p) for p in parts]

    def simulate(
        self,
        executable: Path,
        inputs: Given,
        outputs: Wanted,
        *,
        runs: int = 1,
        memory: MemoryTiming = NOMINAL,
        seed: int | None = None,
        trace: Path | None = None,
        events: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Simulation:
        """Runs of what `verilator.build` made of the machine's Verilog; each array takes one, all at the same time."""
        arrays, size = self.config.arrays, self.data_size
        found = simulate(
            executable,
            self.held,
            inputs=self.dealt(inputs),
            outputs=self.regions(outputs),
            batch=-(-runs // arrays),
            memory=memory,
            seed=seed,
            memory_bytes=self.size,
            program=self.program_offset,
            own_data=(self.data_offset, size) if arrays > 1 else None,
            trace=trace,
            events=events,
            progress=progress,
        )
        return replace(found, outputs=tuple(self.collected(found.outputs, runs)))

    def dealt(self, inputs: Sequence[tuple[int, np.ndarray]]) -> list[tuple[int, np.ndarray]]:
        """Runs (N, size) where the array has them that takes them, one each in turn; zeros fill the last turn up."""
        arrays, found = self.config.arrays, []
        for offset, data in inputs:
            rest = np.zeros((-len(data) % arrays, *data.shape[1:]), data.dtype)
            whole = np.concatenate([data, rest])
            found += [(offset + n * self.data_size, whole[n::arrays]) for n in range(arrays)]
        return found

    def regions(self, outputs: Wanted) -> list[tuple[int, int]]:
        """Each array's regions of outputs."""
        arrays = range(self.config.arrays)
        return [(offset + n * self.data_size, wanted) for offset, wanted in outputs for n in arrays]

    def collected(self, found: Sequence[np.ndarray], runs: int) -> list[np.ndarray]:
        """What `regions` held after all turns, as so many runs of each output."""
        arrays = self.config.arrays
        parts = (found[n : n + arrays] for n in range(0, len(found), arrays))
        return [np.stack(p, axis=1).reshape(-1, *p[0].shape[1:])[:runs] for p in parts]


def packed(
    regions: Iterable[Region], codes: Mapping[str, np.ndarray], config: AcceleratorConfig, batch: int
) -> list[tuple[int, np.ndarray]]:
    """Codes (N, H, W, C) by tensor as they lie in each input's region, `batch` samples a run."""
    return [(r.offset, r.pack(codes[r.tensor], config, batch)) for r in regions]


def places(regions: Iterable[Region]) -> list[tuple[int, int]]:
    return [(r.offset, r.size) for r in regions]


def unpacked(
    regions: Iterable[Region],
    found: Sequence[np.ndarray],
    shapes: Mapping[str, tuple[int, int, int]],
    config: AcceleratorConfig,
) -> dict[str, np.ndarray]:
    """(runs, size) bytes of each output's region to (N, H, W, C) by tensor: N samples, or one of each run for what a
    run's samples have in common."""
    results = {}
    for r, data in zip(regions, found, strict=True):
        results[r.tensor] = r.unpack(data, config).reshape(-1, *shapes[r.tensor])
    return results
