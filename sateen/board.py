"""`--engine board`: a build on real hardware, or on `sateen.sim.board`'s simulation of it, over a serial port."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from sateen.errors import LinkError
from sateen.fpga.boards.link import Connection
from sateen.hw.chip.frame import Identity
from sateen.machine.isa import Unit
from sateen.machine.registers import COUNTED, COUNTERS, Register, config_word
from sateen.sim.engines import Build, RunResult, result_of_runs
from sateen.sim.harness import Counters
from sateen.sim.image import places
from sateen.sim.reference import quantize_inputs

SLACK_S = 10.0
"""A run may take so much longer than ten times what was predicted."""


def run_on_board(
    b: Build,
    inputs: dict[str, np.ndarray],
    port: str,
    *,
    baud: int = 115200,
    progress: Callable[[str, float], None] | None = None,
) -> RunResult:
    """Run a build on a batch. Raises LinkError (the board, or another build in it) and BuildError."""
    graph = b.graph()
    codes = quantize_inputs(graph, inputs)
    batch = len(next(iter(inputs.values())))
    packed, regions = b.image.dealt(b.pack(codes)), b.image.regions(places(b.outputs))
    runs = -(-batch // b.samples_of_a_run)

    def report(fraction: float) -> None:
        if progress:
            progress("board", fraction)

    with Connection.open(port, baud=baud) as board:
        identity = board.identify()
        check_identity(identity, b, port)
        loading = 0.0
        if not identity.resident:
            loading = 0.5
            board.write(0, b.image.held, lambda fraction: report(loading * fraction))
        limit = SLACK_S + 10 * b.manifest["cycles"] / identity.clock_hz
        outputs = [np.zeros((runs, wanted), np.uint8) for _, wanted in regions]
        if b.arrays > 1:
            board.set(Register.DATA, b.memory["data_offset"])
            board.set(Register.STRIDE, b.memory["data_size"])
        counters = []
        started = time.perf_counter()
        for n in range(runs):
            for offset, data in packed:
                board.write(offset, data[n].tobytes())
            board.run(0, b.memory["program_offset"])
            board.wait(limit)
            counters.append(read_counters(board))
            for (offset, wanted), found in zip(regions, outputs, strict=True):
                found[n] = np.frombuffer(board.read(offset, wanted), np.uint8)
            report(loading + (1 - loading) * (n + 1) / runs)
        wall = time.perf_counter() - started
    results = b.image.collected(outputs, -(-batch // b.batch))
    return result_of_runs(b, graph, "board", batch, results, counters, wall)


def check_identity(identity: Identity, b: Build, port: str) -> None:
    """Raises LinkError if the board cannot run the build."""
    config = config_word(b.config)
    if identity.config != config:
        raise LinkError(
            f"board on {port}: is another machine, configuration {identity.config:08x}, and build {b.folder} needs "
            f"{config:08x}; make its bitstream from this build"
        )
    if identity.build not in (b.identity, bytes(8)):
        raise LinkError(
            f"board on {port}: holds another build, {identity.build.hex()}, and {b.folder} is {b.identity.hex()}; "
            "make its bitstream from this build, or run the build that it holds"
        )
    if identity.memory_bytes < b.memory_bytes:
        raise LinkError(
            f"board on {port}: has {identity.memory_bytes} bytes of memory, and build {b.folder} needs "
            f"{b.memory_bytes}; make a bitstream with more"
        )


def read_counters(board: Connection) -> Counters:
    """The registers after a run."""
    (status,) = board.registers(Register.STATUS, 1)
    first = Register.CYCLES_LOW
    last = max(Register.BEATS_WRITTEN, *COUNTERS.values())
    words = board.registers(first, (last - first) // 4 + 1)

    def word(address: int) -> int:
        return words[(address - first) // 4]

    return Counters(
        cycles=word(Register.CYCLES_HIGH) << 32 | word(Register.CYCLES_LOW),
        status=status,
        **{name: tuple(word(COUNTERS[name, u]) for u in Unit) for name in COUNTED},
        beats_read=word(Register.BEATS_READ),
        beats_written=word(Register.BEATS_WRITTEN),
    )
