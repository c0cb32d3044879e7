"""The buffers and the bus as parts of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from sateen.machine.settings import at_least, at_most, between, one_of, power_of_two, powers, rule, setting

MOST_WORDS = 1 << 23
"""Of a buffer: what a LOAD's destination reaches."""
BURST_BYTES = 4096
"""Of an AXI burst, at most."""


def address_bits(words: int) -> int:
    return (words - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Buffers:
    """The buffers on chip. Depths count words, per bank where there are banks."""

    act_banks: int = setting(4, "banks of the activation buffer", power_of_two(), between(2, 16))
    act_bank_depth: int = setting(
        1024,
        "words of a bank of the activation buffer, of rows*group activations",
        power_of_two(),
        at_least(2),
        values=lambda: powers(2, MOST_WORDS // 2),
    )
    weight_depth: int = setting(
        1024,
        "words of the weight buffer, of cols*lanes weights",
        power_of_two(),
        values=lambda: powers(2, MOST_WORDS),
    )
    acc_depth: int = setting(
        256, "pixels in each of the two accumulator banks", power_of_two(), between(16, 1 << 14)
    )
    parameter_depth: int = setting(
        64, "words of the parameter buffer, of vector_lanes channels", power_of_two(), at_most(1 << 15),
        values=lambda: powers(2, 1 << 15),
    )  # fmt: skip
    memory_registers: bool = setting(
        False,
        "a register behind each memory of buffers and accumulators, for a faster clock: instructions of the matrix "
        "and of the vector unit take at least a cycle more",
        optional=True,
    )

    @property
    def memory_latency(self) -> int:
        """Cycles from an address to what a memory of the buffers or accumulators has there."""
        return 1 + self.memory_registers

    @property
    def act_depth(self) -> int:
        """Words in all banks; bank b holds words b*act_bank_depth and on."""
        return self.act_banks * self.act_bank_depth

    @property
    def act_address_bits(self) -> int:
        return address_bits(self.act_depth)

    @property
    def weight_address_bits(self) -> int:
        return address_bits(self.weight_depth)

    @property
    def parameter_address_bits(self) -> int:
        return address_bits(self.parameter_depth)

    @property
    def acc_address_bits(self) -> int:
        """Through both banks."""
        return address_bits(2 * self.acc_depth)


@rule("act_bank_depth")
def words_addressed(act_bank_depth: int, act_banks: int) -> str | None:
    """2**23 words in all banks at most"""
    return None if act_banks * act_bank_depth <= MOST_WORDS else "2**23 words in all banks at most"


@rule("weight_depth")
def two_weight_tiles(weight_depth: int, rows: int, group: int, lanes: int) -> str | None:
    """from 2*rows*group/lanes (two weight tiles) to 2**23"""
    least = 2 * rows * (group // lanes)
    if least <= weight_depth <= MOST_WORDS:
        return None
    return f"from {least} (two weight tiles of rows*group/lanes words) to 2**23"


@dataclass(frozen=True, slots=True)
class Bus:
    """The AXI bus to memory, over which data come, and the instructions that wait for their units."""

    bus_bits: int = setting(64, "bits of a beat", one_of(32, 64, 128, 256, 512))
    queue_depth: int = setting(
        4, "instructions that wait in front of each unit", power_of_two(), at_most(256)
    )
    burst_beats: int = setting(32, "beats of a burst, at most", power_of_two(256))
    outstanding: int = setting(
        4, "read bursts, and likewise write bursts, that may be under way at once", at_most(16)
    )

    @property
    def beat_bytes(self) -> int:
        return self.bus_bits // 8


@rule("burst_beats")
def short_bursts(burst_beats: int, bus_bits: int) -> str | None:
    """of 4096 bytes at most: 32768/bus_bits"""
    if burst_beats * bus_bits // 8 <= BURST_BYTES:
        return None
    return f"at most {BURST_BYTES * 8 // bus_bits}, {BURST_BYTES} bytes with bus_bits = {bus_bits}"


BUFFER_RULES = (words_addressed, two_weight_tiles)
BUS_RULES = (short_bursts,)
