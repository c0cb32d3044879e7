# amaranth: UnusedElaboratable=no
"""The link with a faultless line: each command, each refusal, and what a repeated frame does."""

import random
import re
import struct
from pathlib import Path

import pytest
from link_bench import BUILD, CLOCK, CONFIG, IMAGE, SIZE, Line

from sateen.hw.chip.frame import MAX_DATA, MAX_PAYLOAD, VERSION, Command, Fault, Frame, Identity
from sateen.hw.chip.link import Link, Pace
from sateen.machine.registers import ID, Register

pytestmark = pytest.mark.rtl


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def test_the_page_names_every_command_and_fault():
    rows = set(re.findall(r"^\| (\d) \| ([A-Z_]+) \|", PAGE.read_text(), re.M))
    assert rows == {(str(int(x)), x.name) for x in (*Command, *Fault)}


@pytest.fixture
def line():
    with Line() as line:
        yield line


PAGE = Path(__file__).parents[2] / "docs" / "link.md"


def test_bytes_of_a_frame():
    """As the page shows it."""
    frame = Frame(7, Command.READ, words(16, 0x1000))
    (shown,) = re.findall(r"`(a5 [0-9a-f ]+)`", PAGE.read_text())
    assert frame.encode() == bytes.fromhex(shown)
    assert Frame.decode(frame.encode()) == frame
    for wrong in (b"", b"\xa5", frame.encode()[:-1], frame.encode() + b"\0", b"\xa4" + frame.encode()[1:]):
        assert Frame.decode(wrong) is None


def test_identify(line):
    identity = Identity.decode(line.good(Command.IDENTIFY))
    assert identity == Identity(VERSION, True, MAX_DATA, SIZE, CLOCK, CONFIG, BUILD)


def test_a_pace_of_signals_is_that_of_numbers():
    with Line(tied=True) as line:
        identity = Identity.decode(line.good(Command.IDENTIFY))
        assert identity == Identity(VERSION, True, MAX_DATA, SIZE, CLOCK, CONFIG, BUILD)
        line.write(5, b"written")
        assert line.read(4, 9) == IMAGE[4:5] + b"written" + IMAGE[12:13]


def test_memory(line):
    memory = bytearray(IMAGE)  # at power-up
    assert line.contents() == memory
    assert line.read(0, 1) == memory[:1]
    assert line.read(SIZE - 1, 1) == memory[-1:]
    assert line.read(SIZE - MAX_DATA, MAX_DATA) == memory[-MAX_DATA:]
    rng = random.Random(1)
    for _ in range(100):
        size = rng.choice((1, 2, 3, 17, 200, MAX_DATA))
        address, data = rng.randrange(SIZE - size + 1), rng.randbytes(size)
        line.write(address, data)
        memory[address : address + size] = data
    assert line.contents() == memory


def test_registers(line):
    assert line.good(Command.GET, words(1, Register.ID)) == words(ID)
    assert line.good(Command.SET, words(0x1000, Register.BASE_LOW)) == b""
    assert line.good(Command.SET, words(77, Register.WATCHDOG)) == b""
    found = line.good(Command.GET, words(4, Register.BASE_LOW))
    assert found == words(0x1000, 0, 0, 77)
    assert len(line.good(Command.GET, words(64, 0))) == 256, "all of them, holes read as zero"
    assert line.refused(Command.SET, words(1, Register.ID)) == Fault.REFUSED
    assert line.refused(Command.SET, words(8, Register.BASE_LOW)) == Fault.REFUSED


def test_run_and_reset(line):
    assert line.good(Command.RUN, words(0x3000, 0x40)) == b""
    assert line.starts == 1 and line.resets == 0
    assert line.base == 0x3000
    assert line.program == 0x40
    assert line.good(Command.RESET) == b""
    assert line.starts == 1 and line.resets == 1
    assert line.refused(Command.RUN, words(0x3001, 0)) == Fault.REFUSED, "a base that is not aligned"
    assert line.refused(Command.RUN, words(0, 2)) == Fault.REFUSED
    assert line.starts == 1


def test_repeated_frames_run_once(line):
    for _ in range(3):
        line.good(Command.RUN, words(0, 0), sequence=9)
    assert line.starts == 1
    line.good(Command.RUN, words(0, 0), sequence=10)
    assert line.starts == 2
    line.read(0, 4)
    line.good(Command.RUN, words(0, 0), sequence=10)
    assert line.starts == 3, "another frame was executed in between: not a repetition"
    frame = line.ask(Command.RUN, words(1, 0), sequence=11)
    assert frame.payload == bytes([Fault.REFUSED])
    line.good(Command.RUN, words(0, 0), sequence=11)
    assert line.starts == 4, "a refused frame was not executed"


def test_refusals(line):
    cases = [
        (Command.READ, words(1, SIZE), Fault.OUT_OF_RANGE),
        (Command.READ, words(2, SIZE - 1), Fault.OUT_OF_RANGE),
        (Command.READ, words(MAX_DATA, SIZE - MAX_DATA + 1), Fault.OUT_OF_RANGE),
        (Command.READ, words(1, 0x8000_0000), Fault.OUT_OF_RANGE),
        (Command.READ, words(4, 0xFFFF_FFFE), Fault.OUT_OF_RANGE),
        (Command.READ, words(0, 0), Fault.OUT_OF_RANGE),
        (Command.READ, words(MAX_DATA + 1, 0), Fault.OUT_OF_RANGE),
        (Command.READ, words(0x10001, 0), Fault.OUT_OF_RANGE),
        (Command.WRITE, words(SIZE) + b"x", Fault.OUT_OF_RANGE),
        (Command.WRITE, words(SIZE - 2) + b"xyz", Fault.OUT_OF_RANGE),
        (Command.WRITE, words(0xFFFF_FFFF) + b"xy", Fault.OUT_OF_RANGE),
        (Command.GET, words(1, 2), Fault.OUT_OF_RANGE),
        (Command.GET, words(1, 0x100), Fault.OUT_OF_RANGE),
        (Command.GET, words(2, 0xFC), Fault.OUT_OF_RANGE),
        (Command.GET, words(0, 0), Fault.OUT_OF_RANGE),
        (Command.GET, words(65, 0), Fault.OUT_OF_RANGE),
        (Command.SET, words(1, 0x101), Fault.OUT_OF_RANGE),
        (Command.SET, words(1, 0x8000_000C), Fault.OUT_OF_RANGE),
        (0, b"", Fault.UNKNOWN_COMMAND),
        (8, words(0, 0), Fault.UNKNOWN_COMMAND),
        (0x86, words(0, 0), Fault.UNKNOWN_COMMAND),
        (0xFF, b"\x01", Fault.UNKNOWN_COMMAND),
    ]
    for command, payload, fault in cases:
        assert line.refused(command, payload) == fault, (command, payload.hex())
    assert line.contents() == IMAGE
    assert line.starts == 0


def test_wrong_lengths(line):
    for command in Command:
        for size in (0, 1, 3, 4, 5, 7, 8, 9, 12):
            fits = {Command.IDENTIFY: size == 0, Command.RESET: size == 0, Command.WRITE: size > 4}
            if fits.get(command, size == 8):
                continue
            assert line.refused(command, bytes(size)) == Fault.BAD_LENGTH, (command, size)
    assert line.refused(Command.READ, bytes(MAX_PAYLOAD)) == Fault.BAD_LENGTH
    assert line.contents() == IMAGE


def test_frames_back_to_back_and_too_early(line):
    """The next frame may follow the answer at once; one that comes during the answer is not taken."""
    for sequence in (1, 2):
        line.send(Frame(sequence, Command.READ, words(8, 0)).encode())
        while len(line.received) < 5 + 8 + 4:
            line.wait(1)
        assert Frame.decode(bytes(line.received)) == Frame(sequence, 0x80 | Command.READ, IMAGE[:8])
        line.received.clear()
    both = Frame(3, Command.READ, words(8, 0)).encode() + Frame(4, Command.RUN, words(0, 0)).encode()
    line.send(both)
    assert [f.sequence for f in line.frames()] == [3]
    assert line.starts == 0
    assert line.read(3, 3) == IMAGE[3:6]


def test_parameters():
    pace = Pace.at(1_000_000, 125_000)
    good = {"pace": pace, "memory_bytes": 4096, "config": 0, "resident": False}
    assert pace.silence == 15_625, "1/64 s"
    assert Pace.at(4000, 1000).silence == 120, "30 bits"
    with pytest.raises(ValueError, match="build must be 8 bytes, not b'abc'"):
        Link(**good, build=b"abc")
