"""Where a machine has to fit: a device family, or a board with its part, its clock and its memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sateen.errors import ConfigError
from sateen.fpga.boards.capacity import Capacity, capacity_of
from sateen.fpga.boards.catalog import BOARDS, Board
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.estimate import clock_model, resource_model
from sateen.machine.config import AcceleratorConfig
from sateen.machine.presets import preset
from sateen.sim.memory_timing import NOMINAL, ON_CHIP, MemoryTiming


@dataclass(frozen=True, slots=True)
class Target:
    """What `--device` names.

    Attributes
    ----------
    family : str
        Whose resource estimates are taken.
    board : Board or None
    clock_mhz : float or None
        The clock of every machine, where it is given and not estimated.
    """

    name: str
    family: str
    board: Board | None = None
    clock_mhz: float | None = None

    @property
    def capacity(self) -> Capacity | None:
        """What the board's part has."""
        return None if self.board is None else capacity_of(self.board)

    @property
    def memory(self) -> MemoryTiming:
        """The board's, or the nominal one."""
        return NOMINAL if self.board is None else ON_CHIP

    @property
    def machine(self) -> AcceleratorConfig:
        """What has all fields that the space leaves alone: the board's preset, or a narrow machine of its kind."""
        return preset("ulx3s-85f" if self.board is None else self.board.name)

    @property
    def clock_source(self) -> str:
        if self.clock_mhz is not None:
            return "given"
        return "estimated" if self._estimates_clock else "the board's, not estimated"

    @property
    def _estimates_clock(self) -> bool:
        if self.board is None:
            return self.family == clock_model.FAMILY
        return self.board.part.architecture == clock_model.FAMILY

    def estimate(self, config: AcceleratorConfig, memory_bytes: int) -> dict[str, Any]:
        """Estimated "lut", "ff", "dsp", "bram" and "clock" of a machine, on a board of the whole chip.

        `memory_bytes` are those of the chip's memory. "outside" says what lies beyond the data of the estimates.
        """
        found = resource_model.estimate(config, self.family)
        counts = found["devices"][self.family]["total"]
        outside = list(found["outside"])
        if (capacity := self.capacity) is not None:
            machine = resource_model.counts(config, capacity.technology)
            counts = capacity.chip(machine, memory_bytes, config.bus_bits)
        clock = self.clock_mhz
        if clock is None and self._estimates_clock:
            estimated = clock_model.estimate_clock(config)
            grade = clock_model.GRADE if self.board is None else self.board.part.speed
            clock = estimated["mhz"].get(grade, estimated["mhz"][clock_model.GRADE])
            outside += [text for text in estimated["outside"] if text not in outside]
        elif clock is None and self.board is not None:
            clock = self.board.clock_hz / 1e6
        return {**counts, "clock": clock, "outside": outside}

    def limits(self, given: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        """The limits that are given, and those of the board's part that are not."""
        if (capacity := self.capacity) is None:
            return given
        names = dict(given)
        of_part: Mapping[str, float] = capacity.available
        return (*given, *((k, float(v)) for k, v in of_part.items() if k not in names))


def find_target(name: str, clock_mhz: float | None, objectives: tuple[str, ...]) -> Target:
    """The target of that name. Raises ConfigError."""
    if name in BOARDS:
        return Target(name, "ecp5", BOARDS[name], clock_mhz)
    if name not in FAMILIES:
        raise ConfigError(f"unknown device '{name}'; devices are {', '.join((*FAMILIES, *BOARDS))}")
    if name != clock_model.FAMILY and clock_mhz is None and {"fps", "clock"} & set(objectives):
        raise ConfigError(
            f"device '{name}' has no estimate of the clock; give --clock MHZ, or cycles instead of fps in "
            "the objectives"
        )
    return Target(name, name, None, clock_mhz)
