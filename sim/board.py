"""A board in simulation: the whole system on the chip under Verilator, its serial line on a pseudo-terminal.

with SimulatedBoard(build) as board:
    ...  # board.port is a device that `sateen run --engine board --port` opens like any other
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sateen.errors import BuildError, ConfigError
from sateen.hw.chip.link import Pace
from sateen.hw.chip.soc import Soc
from sateen.hw.chip.verilog import emit_soc_verilog
from sateen.sim import verilator
from sateen.sim.engines import Build

HARNESS = Path(__file__).with_name("board.cpp")
CLOCK_HZ = 1_000_000
BAUD = 125_000
"""8 cycles per bit, so that a simulation spends its time on the accelerator, not on the line."""


def soc_of(
    build: Build,
    *,
    pace: Pace,
    resident: bool = True,
    memory_bytes: int | None = None,
    single_port: bool = False,
) -> Soc:
    """The system on the chip of a build.

    Parameters
    ----------
    pace : Pace
        Of the clock and the line.
    resident : bool
        The memory holds program and constants from power-up on, and the chip refuses other builds. If false, it
        is for every build of the same configuration that fits, and the host loads it.
    memory_bytes : int, optional
        By default what the build needs.
    single_port : bool
        The memory is RAM with one port, which has no contents at power-up.

    Raises
    ------
    ConfigError
        The memory is too small.
    """
    if memory_bytes is not None and memory_bytes < build.memory_bytes:
        raise ConfigError(
            f"memory of {memory_bytes} bytes: the build {build.folder} needs {build.memory_bytes}"
        )
    return Soc(
        config=build.config,
        memory_bytes=memory_bytes or build.memory_bytes,
        pace=pace,
        image=build.image.held if resident else b"",
        build=build.identity if resident else bytes(8),
        single_port=single_port,
    )


class SimulatedBoard:
    """Context manager: a chip that runs in a process of its own until the block is left.

    Parameters
    ----------
    build : Path
        The build folder.
    clock_hz, baud : int
        Frequency of the clock; bits per second on the line.
    resident, memory_bytes, single_port
        See `soc_of`. The simulated clock runs as fast as it can; the line has clock_hz / baud cycles per bit.
    cache : Path, optional
        Of the built simulators.

    Attributes
    ----------
    port : str
        The device.
    baud : int
        What to open it with, though the pseudo-terminal does not care.
    """

    def __init__(
        self,
        build: Path,
        *,
        clock_hz: int = CLOCK_HZ,
        baud: int = BAUD,
        resident: bool = True,
        memory_bytes: int | None = None,
        single_port: bool = False,
        cache: Path | None = None,
    ) -> None:
        try:
            pace = Pace.at(clock_hz, baud)
        except ValueError as e:
            raise ConfigError(f"system on the chip: {e}") from None
        soc = soc_of(
            Build(build),
            pace=pace,
            resident=resident,
            memory_bytes=memory_bytes,
            single_port=single_port,
        )
        self.divisor = pace.divisor
        self.baud = baud
        self.executable = verilator.build(emit_soc_verilog(soc), cache=cache, harness=HARNESS)
        self.port = ""
        self._files: Sequence[int] = ()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SimulatedBoard:
        try:
            import pty
            import tty
        except ImportError:
            raise BuildError("a simulated board needs pseudo-terminals, which this system has not") from None
        # The terminal's own side stays open here, so that it outlives the programs that open and close it.
        ours, terminal = pty.openpty()
        self._files = (ours, terminal)
        tty.setraw(terminal)
        self.port = os.ttyname(terminal)
        try:
            self._process = subprocess.Popen(
                [str(self.executable), str(ours), str(self.divisor)],
                stdin=subprocess.DEVNULL,
                pass_fds=(ours,),
            )
        except OSError as e:
            self._close()
            raise BuildError(
                f"RTL simulator {self.executable}: cannot be run ({e.strerror}); delete it to rebuild it"
            ) from None
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):
                os.close(file)
        self._files = ()
