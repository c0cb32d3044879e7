"""The link on a bad line: nothing wrong is ever executed or answered, and the next good frame always is."""

import random
import struct

import pytest
from link_bench import DIVISOR, IMAGE, SIZE, Line, fault_of

from sateen.hw.chip.frame import ANSWER, ERROR, MAX_PAYLOAD, SYNC, Command, Fault, Frame

pytestmark = pytest.mark.rtl


@pytest.fixture
def line():
    with Line() as line:
        yield line


def levels_of(data: bytes) -> list[int]:
    """Bits on the line."""
    return [b for byte in data for b in (0, *(byte >> i & 1 for i in range(8)), 1)]


# Each kind damages a frame: (its bytes, random numbers) to the bits on the line.


def bit_error(data, rng):
    bits = levels_of(data)
    bits[rng.randrange(len(bits))] ^= 1
    return bits


def burst_error(data, rng):
    bits = levels_of(data)
    first, length = rng.randrange(len(bits)), rng.randrange(2, 30)
    bits[first : first + length] = [rng.getrandbits(1) for _ in bits[first : first + length]]
    return bits


def bit_lost(data, rng):
    bits = levels_of(data)
    del bits[rng.randrange(len(bits))]
    return bits


def dropped_byte(data, rng):
    k = rng.randrange(len(data))
    return levels_of(data[:k] + data[k + 1 :])


def duplicated_byte(data, rng):
    k = rng.randrange(len(data))
    return levels_of(data[: k + 1] + data[k:])


def swapped_bytes(data, rng):
    k = rng.randrange(len(data) - 1)
    return levels_of(data[:k] + data[k : k + 2][::-1] + data[k + 2 :])


def truncated(data, rng):
    return levels_of(data[: rng.randrange(len(data))])


def beginning_lost(data, rng):
    return levels_of(data[rng.randrange(1, len(data)) :])


def noise_before(data, rng):
    return levels_of(rng.randbytes(rng.randrange(1, 6)) + data)


def noise_behind(data, rng):
    return levels_of(data + rng.randbytes(rng.randrange(1, 6)))


def break_within(data, rng):
    bits = levels_of(data)
    k = rng.randrange(len(bits))
    return bits[:k] + [0] * rng.randrange(9, 40) + bits[k:]


def sent_twice(data, rng):
    return levels_of(data + data)


def wrong_length(data, rng):
    """With its CRC right."""
    frame = Frame.decode(data)
    body = struct.pack("<H", rng.randrange(65536)) + data[3:-4]
    good = Frame(frame.sequence, frame.command, body[4:]).encode()
    return levels_of(bytes([SYNC]) + body + good[-4:])


KINDS = [
    bit_error, burst_error, bit_lost, dropped_byte, duplicated_byte, swapped_bytes, truncated, beginning_lost,
    noise_before, noise_behind, break_within, sent_twice, wrong_length,
]  # fmt: skip


def request(rng, sequence: int) -> tuple[Frame, int, bytes]:
    """A READ, or a WRITE at an address with data."""
    address = rng.randrange(SIZE - 40)
    size = rng.choice((1, 4, 40))
    if rng.random() < 0.4:
        return Frame(sequence, Command.READ, struct.pack("<II", size, address)), address, b""
    data = rng.choice((rng.randbytes(size), bytes(size), bytes([SYNC]) * size))
    return Frame(sequence, Command.WRITE, struct.pack("<I", address) + data), address, data


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_damaged_frames(line, kind):
    seed = KINDS.index(kind)
    print("seed", seed)
    rng = random.Random(seed)
    memory = bytearray(IMAGE)
    errors = 0
    for n in range(60):
        frame, address, data = request(rng, n % 255 + 1)
        bits = kind(frame.encode(), rng)
        line.levels(*((bit, DIVISOR) for bit in bits))
        for answer in line.frames():
            if answer.command == ERROR:
                assert fault_of(answer) in Fault
                errors += 1
                continue
            # Only what the frame said may be answered: a frame between two bytes of noise, or sent twice.
            assert (answer.sequence, answer.command) == (frame.sequence, ANSWER | frame.command)
            memory[address : address + len(data)] = data
            if frame.command == Command.READ:
                size = struct.unpack_from("<I", frame.payload)[0]
                assert answer.payload == memory[address : address + size]
        at = rng.randrange(SIZE - 16)
        assert line.read(at, 16) == memory[at : at + 16], "the next good frame, after a silence"
    assert line.contents() == memory
    assert line.starts == line.resets == 0
    assert errors or kind in (beginning_lost, noise_before, noise_behind, sent_twice)


@pytest.mark.parametrize("seed", range(3))
def test_garbage_for_a_long_time(line, seed):
    """Bytes, bytes that begin like frames, and levels of random length; the line is sometimes silent, mostly not."""
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        choice = rng.random()
        if choice < 0.4:
            line.send(rng.randbytes(rng.randrange(200)), stop=rng.random() > 0.02)
        elif choice < 0.7:
            length = rng.choice((0, 1, 8, 20, MAX_PAYLOAD, MAX_PAYLOAD + 1, 65535))
            head = struct.pack("<BHBB", SYNC, length, rng.randrange(256), rng.randrange(9))
            line.send(head + rng.randbytes(rng.randrange(40)))
        elif choice < 0.9:
            line.levels(*((i & 1, rng.randrange(1, 40)) for i in range(200)))
        else:
            line.wait(rng.randrange(2 * line.silence))
    line.quiet()
    for answer in line.frames():
        assert answer.command == ERROR
    assert line.contents() == IMAGE
    assert line.starts == line.resets == 0


def test_each_line_fault_is_named(line):
    good = Frame(7, Command.READ, struct.pack("<II", 4, 0)).encode()
    broken = bytearray(good)
    broken[8] ^= 1

    def answer(*parts) -> Frame:
        for data, stop in parts:
            line.send(data, stop)
        (frame,) = line.frames()
        return frame

    assert fault_of(answer((good[:9], 1))) == Fault.TRUNCATED
    assert fault_of(answer((good[:9], 1), (good[9:10], 0), (good[10:], 1))) == Fault.FRAMING
    assert fault_of(answer((bytes(broken), 1))) == Fault.BAD_CRC
    assert fault_of(answer((bytes([SYNC, 0x05, 0x02]), 1))) == Fault.BAD_LENGTH
    assert answer((good[:9], 1)).sequence == 7
    assert answer((good[:3], 1)).sequence == 0, "it ended before its sequence number"
    line.send(good[1:])
    assert line.frames() == [], "no frame was recognised"


def test_frames_within_a_damaged_frame_are_not_executed(line):
    """Data may hold whole frames. Whatever happens to the frame around them, they are data."""
    inner = Frame(1, Command.RUN, struct.pack("<II", 0, 0)).encode()
    outer = Frame(2, Command.WRITE, struct.pack("<I", 0) + inner * 8).encode()
    for k in range(len(outer)):
        for damaged in (outer[:k] + outer[k + 1 :], outer[:k] + bytes([outer[k] ^ 0x80]) + outer[k + 1 :]):
            line.send(damaged)
            assert all(f.command == ERROR for f in line.frames())
    line.send(outer[1:])
    assert line.frames() == []
    assert line.starts == 0
    assert line.contents() == IMAGE
    line.ask(Command.RUN, struct.pack("<II", 0, 0))
    assert line.starts == 1
