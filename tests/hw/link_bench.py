# amaranth: UnusedElaboratable=no
"""The link with the real registers and memory under Verilator, on a serial line whose every bit the test drives."""

import random
import struct
import subprocess
from functools import cache
from pathlib import Path

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sateen.hw.chip.frame import ANSWER, CRC_BYTES, ERROR, HEADER_BYTES, SYNC, Command, Fault, Frame
from sateen.hw.chip.link import Link, Pace
from sateen.hw.chip.soc_memory import SocMemory
from sateen.hw.chip.verilog import convert
from sateen.hw.control.registers import Registers
from sateen.machine.presets import preset
from sateen.sim import verilator

CLOCK, BAUD = 4000, 1000
DIVISOR = CLOCK // BAUD  # as in link_bench.cpp
SIZE = 4096
CONFIG = 0x1234_5678
IMAGE = random.Random(0).randbytes(SIZE)
BUILD = b"\x01\x23\x45\x67\x89\xab\xcd\xef"
LONGEST = 3000
"""Cycles from the end of a frame to its answer, at most: a WRITE of 512 bytes takes 1536, the silence 120."""


class Chip(wiring.Component):
    """`starts` and `resets` count the runs and the resets; the accelerator behind the registers is always ready."""

    rx: In(1, init=1)
    tx: Out(1)
    starts: Out(16)
    resets: Out(16)
    run_base: Out(64)
    run_program: Out(32)

    def __init__(self, tied=False):
        super().__init__()
        pace = Pace.at(CLOCK, BAUD)
        self.silence = pace.silence
        if tied:  # never driven, and so what they are initialised to
            pace = Pace(*(Signal(32, init=n) for n in (pace.clock_hz, pace.divisor, pace.silence)))
        self.link = Link(pace=pace, memory_bytes=SIZE, config=CONFIG, build=BUILD, resident=True)

    def elaborate(self, platform):
        m = Module()
        m.submodules.link = link = self.link
        m.submodules.memory = memory = SocMemory(data_bits=32, size=SIZE, outstanding=1, image=IMAGE)
        m.submodules.registers = registers = Registers(config=preset("tiny"))
        wiring.connect(m, link.memory, memory.host)
        wiring.connect(m, link.control, registers.bus)
        m.d.comb += [
            link.rx.eq(self.rx),
            self.tx.eq(link.tx),
            registers.ready.eq(1),
            self.run_base.eq(registers.base),
            self.run_program.eq(registers.program),
        ]
        m.d.sync += [
            self.starts.eq(self.starts + registers.start),
            self.resets.eq(self.resets + registers.soft_reset),
        ]
        return m


@cache
def executable(tied: bool) -> Path:
    return verilator.build(convert(Chip(tied), "chip"), harness=Path(__file__).with_suffix(".cpp"))


class Line:
    """The host's end of the line. Times are in cycles; a bit has `DIVISOR`."""

    silence = Chip().silence

    def __init__(self, tied=False):
        self.executable = executable(tied)
        self.received = bytearray()
        self.sequence = 0x40
        self.starts = self.resets = self.base = self.program = 0

    def __enter__(self):
        self.process = subprocess.Popen([self.executable], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.quiet()
        return self

    def __exit__(self, kind, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait() == 0 or kind, "a byte from the chip had no stop bit"

    def levels(self, *segments: tuple[int, int]) -> None:
        """(level, cycles) after one another."""
        request = struct.pack("<I", len(segments)) + b"".join(
            struct.pack("<I", level << 31 | cycles) for level, cycles in segments
        )
        self.process.stdin.write(request)
        self.process.stdin.flush()
        head = self.process.stdout.read(20)
        assert len(head) == 20, "a byte from the chip had no stop bit"
        self.starts, self.resets, self.base, self.program, size = struct.unpack("<5I", head)
        self.received += self.process.stdout.read(size)

    def wait(self, cycles: int) -> None:
        self.levels((1, cycles))

    def quiet(self) -> None:
        """Long enough that the chip has begun its answer, if it has one, or waits for a frame."""
        self.wait(self.silence + LONGEST)

    def send(self, data: bytes, stop: int = 1) -> None:
        bits = [b for byte in data for b in (0, *(byte >> i & 1 for i in range(8)), stop)]
        self.levels(*((bit, DIVISOR) for bit in bits))

    def frames(self) -> list[Frame]:
        """All that the chip has to say. Its own line has no faults: every byte belongs to a good frame."""
        size = -1
        while len(self.received) != size:
            size = len(self.received)
            self.wait(self.silence + LONGEST)
        data, found = bytes(self.received), []
        self.received.clear()
        while data:
            assert data[0] == SYNC, data.hex()
            size = HEADER_BYTES + struct.unpack_from("<H", data, 1)[0] + CRC_BYTES
            frame = Frame.decode(data[:size])
            assert frame is not None, data.hex()
            found.append(frame)
            data = data[size:]
        return found

    def ask(self, command: int, payload: bytes = b"", sequence: int | None = None) -> Frame:
        """The one answer to a good frame."""
        if sequence is None:
            self.sequence = sequence = (self.sequence + 1) % 256
        self.send(Frame(sequence, command, payload).encode())
        (frame,) = self.frames()
        assert frame.sequence == sequence
        return frame

    def good(self, command: Command, payload: bytes = b"", sequence: int | None = None) -> bytes:
        frame = self.ask(command, payload, sequence)
        assert frame.command == ANSWER | command, frame
        return frame.payload

    def refused(self, command: int, payload: bytes = b"") -> Fault:
        return fault_of(self.ask(command, payload))

    def read(self, address: int, count: int) -> bytes:
        return self.good(Command.READ, struct.pack("<II", count, address))

    def write(self, address: int, data: bytes) -> None:
        assert self.good(Command.WRITE, struct.pack("<I", address) + data) == b""

    def contents(self) -> bytes:
        return b"".join(self.read(a, 512) for a in range(0, SIZE, 512))


def fault_of(frame: Frame) -> Fault:
    assert frame.command == ERROR and len(frame.payload) == 1, frame
    return Fault(frame.payload[0])
