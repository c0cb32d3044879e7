"""The host's side of docs/link.md: a board on a serial port, with its faults found and mended.

with Connection.open("/dev/ttyUSB0", baud=115200) as board:
    identity = board.identify()
    board.write(0, image)
    board.run(base=0, program=offset)
    board.wait(10.0)
    result = board.read(address, size)

An exchange is a frame and its answer. Where the answer is missing or damaged the frame is sent again with the same
sequence number, which the board does not execute twice where that would matter.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from sateen.errors import LinkError, missing
from sateen.hw.chip.frame import (
    ANSWER,
    CRC_BYTES,
    ERROR,
    FAULTS,
    HEADER_BYTES,
    IDENTITY,
    MAX_DATA,
    MAX_PAYLOAD,
    MAX_WORDS,
    SILENCE_S,
    SYNC,
    VERSION,
    Command,
    Fault,
    Frame,
    Identity,
)
from sateen.machine.registers import Register

Progress = Callable[[float], None]
"""Called with the fraction that is done."""

READ_S = 0.02
"""How long one read of the port waits."""
SETTLE_S = 2 * SILENCE_S
"""Of silence before a frame is repeated: the board then waits for one, whatever came before."""
POLL_S = (0.001, 0.05)
"""Between two looks at the status: at first, and at most."""
BUSY, DONE, READY = 1, 2, 4
"""In STATUS."""


class Connection:
    """A board at the other end of an open serial port: one exchange at a time.

    Parameters
    ----------
    port : serial.Serial
        Or anything that reads, writes and drops its input as that does.
    timeout : float
        Seconds to wait for an answer, beyond the time that its bytes take.
    retries : int
        How often a frame is repeated.
    name : str
        For messages.

    Attributes
    ----------
    repeated : int
        Frames that had to be sent again.
    """

    def __init__(
        self, port: Any, *, baud: int = 115200, timeout: float = 1.0, retries: int = 5, name: str = ""
    ) -> None:
        self.port = port
        self.baud = baud
        self.timeout = timeout
        self.retries = retries
        self.name = name or str(getattr(port, "port", "board"))
        self.repeated = 0
        self._sequence = random.randrange(1, 256)  # 0 is in the answer to a frame that had none
        self._max_data = MAX_DATA

    @classmethod
    def open(cls, port: str, *, baud: int = 115200, timeout: float = 1.0, retries: int = 5) -> Connection:
        """Open a device such as /dev/ttyUSB0 or COM3. Raises LinkError."""
        try:
            import serial
        except ImportError:
            raise missing("pyserial", "link") from None
        try:
            opened = serial.Serial(port, baud, timeout=READ_S, write_timeout=10.0, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as e:
            reason = getattr(e, "strerror", None) or str(e)
            raise LinkError(
                f"port {port}: cannot be opened at {baud} baud ({reason}); name the board's serial device with --port, "
                "and see that you may use it and no other program does"
            ) from None
        return cls(opened, baud=baud, timeout=timeout, retries=retries, name=port)

    def close(self) -> None:
        self.port.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- commands -------------------------------------------------------------------------------------------

    def identify(self) -> Identity:
        """Who is there. Raises LinkError if nobody is, or if it speaks another version."""
        payload = self.exchange(Command.IDENTIFY)
        if payload[:1] != bytes([VERSION]) or len(payload) != IDENTITY.size:
            raise LinkError(
                f"board on {self.name}: speaks version {payload[0] if payload else '?'} of the link, this Sateen "
                f"{VERSION}; make its bitstream again"
            )
        identity = Identity.decode(payload)
        self._max_data = min(MAX_DATA, identity.max_data)
        return identity

    def write(self, address: int, data: bytes, progress: Progress | None = None) -> None:
        for start in range(0, len(data), self._max_data):
            part = bytes(data[start : start + self._max_data])
            self.exchange(Command.WRITE, struct.pack("<I", address + start) + part)
            if progress:
                progress((start + len(part)) / len(data))

    def read(self, address: int, size: int, progress: Progress | None = None) -> bytes:
        data = bytearray()
        while len(data) < size:
            count = min(self._max_data, size - len(data))
            data += self.exchange(Command.READ, struct.pack("<II", count, address + len(data)), count)
            if progress:
                progress(len(data) / size)
        return bytes(data)

    def registers(self, first: int, count: int) -> tuple[int, ...]:
        """`count` words from byte address `first` on; those that are no register are 0."""
        if count > MAX_WORDS:
            raise ValueError(f"count must be at most {MAX_WORDS}, not {count}")
        payload = self.exchange(Command.GET, struct.pack("<II", count, first), 4 * count)
        return struct.unpack(f"<{count}I", payload)

    def set(self, register: int, value: int) -> None:
        self.exchange(Command.SET, struct.pack("<II", value, register))

    def run(self, base: int, program: int) -> None:
        """Start the program at `base + program`. Executed once, even where the line drops the answer."""
        self.exchange(Command.RUN, struct.pack("<II", base, program))

    def reset(self) -> None:
        """Soft reset of the accelerator; the memory keeps its contents."""
        self.exchange(Command.RESET)

    def status(self) -> int:
        return self.registers(Register.STATUS, 1)[0]

    def wait(self, limit_s: float) -> int:
        """STATUS when the run is over. Raises LinkError after `limit_s` seconds."""
        end, pause = time.monotonic() + limit_s, POLL_S[0]
        while True:
            status = self.status()
            if status & DONE and status & READY:
                return status
            if not status & (BUSY | DONE):
                raise LinkError(
                    f"board on {self.name}: the run was lost (the board was reset or lost power); run again"
                )
            if time.monotonic() > end:
                raise LinkError(f"board on {self.name}: the run is not over after {limit_s:.0f} s; reset it")
            time.sleep(pause)
            pause = min(2 * pause, POLL_S[1])

    # -- exchanges ------------------------------------------------------------------------------------------

    def exchange(self, command: Command, payload: bytes = b"", size: int | None = None) -> bytes:
        """The payload of the answer, of `size` bytes if that is given. Raises LinkError."""
        self._sequence = self._sequence % 255 + 1
        frame = Frame(self._sequence, command, payload)
        problem = "no answer"
        for attempt in range(1 + self.retries):
            if attempt:
                self.repeated += 1
                self._settle()
            answer = self._send(frame)
            if answer is None:
                problem = "no answer, or a damaged one"
            elif answer.sequence == frame.sequence and answer.command == command | ANSWER:
                if size is None or len(answer.payload) == size:
                    return answer.payload
                problem = f"an answer of {len(answer.payload)} bytes instead of {size}"
            elif answer.command == ERROR and len(answer.payload) == 1:
                problem = self._fault(answer, frame)
            else:
                problem = "the answer to another frame"
        raise LinkError(
            f"board on {self.name}: {command.name} failed {1 + self.retries} times, at last with {problem}; check "
            f"the cable, the port and that the board runs at {self.baud} baud"
        )

    def _fault(self, answer: Frame, frame: Frame) -> str:
        """What an error frame says. Raises LinkError where the frame has arrived, so that it is refused again."""
        code = answer.payload[0]
        text = FAULTS[Fault(code)] if code in set(Fault) else "a fault that this Sateen does not know"
        arrived = answer.sequence == frame.sequence and code not in (
            Fault.TRUNCATED,
            Fault.FRAMING,
            Fault.BAD_CRC,
        )
        if arrived:
            name = Command(frame.command).name
            raise LinkError(f"board on {self.name}: refuses {name}: {text} (fault {code})")
        return f"an error frame: {text} (fault {code})"

    def _send(self, frame: Frame) -> Frame | None:
        """One frame, and what comes back if it is a frame."""
        import serial

        try:
            data = frame.encode()
            self.port.reset_input_buffer()
            self.port.write(data)
            self.port.flush()  # which does not wait for what the adapter holds
            head = self._take(HEADER_BYTES, len(data))
            if len(head) < HEADER_BYTES or head[0] != SYNC:
                return None
            (length,) = struct.unpack_from("<H", head, 1)
            if length > MAX_PAYLOAD:
                return None
            return Frame.decode(head + self._take(length + CRC_BYTES))
        except (serial.SerialException, OSError) as e:
            raise LinkError(
                f"board on {self.name}: the port failed ({e}); plug the board in and run again"
            ) from None

    def _take(self, size: int, sending: int = 0) -> bytes:
        """So many bytes, or what came before the line was silent for the timeout; `sending` bytes may still go out."""
        data = bytearray()
        end = time.monotonic() + self.timeout + 10 * (sending + size) / self.baud
        while len(data) < size and time.monotonic() < end:
            if part := self.port.read(size - len(data)):
                data += part
                end = time.monotonic() + self.timeout
        return bytes(data)

    def _settle(self) -> None:
        """Take what is still coming, until nothing has come for `SETTLE_S`."""
        end = time.monotonic() + SETTLE_S
        limit = time.monotonic() + 10 * self.timeout  # a line that never falls silent
        while time.monotonic() < min(end, limit):
            if self.port.read(MAX_PAYLOAD):
                end = time.monotonic() + SETTLE_S
