"""Frames of the host link, in software: layout, commands, faults, and CRC. The page is docs/link.md.

The hardware that speaks them is hw/chip/link.py, the host's side fpga/boards/link.py; both take every number from here.
"""

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

VERSION = 1
"""Of the protocol."""
SYNC = 0xA5
HEADER_BYTES = 5
"""SYNC, length (2), sequence, command."""
CRC_BYTES = 4
MAX_DATA = 512
"""Bytes that one WRITE carries, and one READ asks for."""
MAX_PAYLOAD = 4 + MAX_DATA
SILENCE_S = 1 / 64
"""Of the line, in seconds: after it the board waits for a new frame, whatever came before."""
MAX_WORDS = 64
"""Registers that one GET asks for."""


class Command(IntEnum):
    IDENTIFY = 1
    READ = 2
    WRITE = 3
    GET = 4
    SET = 5
    RUN = 6
    RESET = 7


ANSWER = 0x80
"""Added to the command in an answer."""
ERROR = 0xFF
"""Command byte of an error frame, whose payload is one byte, a `Fault`."""


class Fault(IntEnum):
    TRUNCATED = 1
    FRAMING = 2
    BAD_CRC = 3
    BAD_LENGTH = 4
    UNKNOWN_COMMAND = 5
    OUT_OF_RANGE = 6
    REFUSED = 7


FAULTS = {
    Fault.TRUNCATED: "the frame was cut short",
    Fault.FRAMING: "a byte had no stop bit",
    Fault.BAD_CRC: "the CRC of the frame was wrong",
    Fault.BAD_LENGTH: "the command does not have this length",
    Fault.UNKNOWN_COMMAND: "the command is not known",
    Fault.OUT_OF_RANGE: "the address lies outside the memory or the registers",
    Fault.REFUSED: "the accelerator refused the access to its register",
}
TRANSMISSION = frozenset({Fault.TRUNCATED, Fault.FRAMING, Fault.BAD_CRC})
"""Faults of the line; the others are the host's."""


@dataclass(frozen=True, slots=True)
class Frame:
    sequence: int
    command: int
    payload: bytes = b""

    def encode(self) -> bytes:
        body = struct.pack("<HBB", len(self.payload), self.sequence, self.command) + self.payload
        return bytes((SYNC,)) + body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def decode(cls, data: bytes) -> "Frame | None":
        """The frame that `data` is, all of it; None if it is none."""
        if len(data) < HEADER_BYTES + CRC_BYTES or data[0] != SYNC:
            return None
        length, sequence, command = struct.unpack_from("<HBB", data, 1)
        (crc,) = struct.unpack_from("<I", data, len(data) - CRC_BYTES)
        body = data[1:-CRC_BYTES]
        if len(data) != HEADER_BYTES + length + CRC_BYTES or crc != zlib.crc32(body):
            return None
        return cls(sequence, command, body[HEADER_BYTES - 1 :])


IDENTITY = struct.Struct("<BBHIII8s")
CLOCK_BYTE = 8
"""Of an identity, where its clock begins: four bytes."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The payload of the answer to IDENTIFY."""

    version: int
    resident: bool
    """The memory holds a build's program and constants from power-up on."""
    max_data: int
    memory_bytes: int
    clock_hz: int
    config: int
    """The CONFIG register: see `sateen.hw.control.registers.config_word`."""
    build: bytes
    """8 bytes that name the build for which the chip was made; zeros if for none."""

    def encode(self) -> bytes:
        return IDENTITY.pack(
            self.version,
            self.resident,
            self.max_data,
            self.memory_bytes,
            self.clock_hz,
            self.config,
            self.build,
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Identity":
        version, flags, max_data, memory_bytes, clock_hz, config, build = IDENTITY.unpack(payload)
        return cls(version, bool(flags & 1), max_data, memory_bytes, clock_hz, config, build)
