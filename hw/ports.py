"""Buffer ports, as plain signatures seen from the requester: it drives the address, the buffer answers.

There is no ready: a port is always served, because every requester has its own (see docs/isa.md). Data of a
read port arrives `latency` cycles after `en`, a constant of the buffer, and is valid in that cycle only.
"""

from amaranth.hdl import ShapeLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

from sateen.machine.config import AcceleratorConfig

STORE_READ_LATENCY = 2
"""Cycles from an address of the activation buffer to its word at the port of STORE and MOVE, which have a register of
their own behind it: the memory, and a register before or behind the bank multiplexer."""


def activation_latency(config: AcceleratorConfig) -> int:
    """The same at the other ports: the memory, then a registered bank multiplexer."""
    return config.memory_latency + 1


class ReadPort(wiring.Signature):
    """A read port of a buffer.

    Members
    -------
    en : Out(1)
        Read `addr` in this cycle.
    addr : Out(addr_bits)
        Word address.
    data : In(data_bits)
        The word, `latency` cycles after `en`.
    """

    def __init__(self, addr_bits: int, data_bits: int):
        self.addr_bits = addr_bits
        self.data_bits = data_bits
        super().__init__({"en": Out(1), "addr": Out(addr_bits), "data": In(data_bits)})

    def __repr__(self) -> str:
        return f"ReadPort({self.addr_bits}, {self.data_bits})"


class WritePort(wiring.Signature):
    """A write port of a buffer.

    Members
    -------
    en : Out(1)
        Write in this cycle; a read in the next sees the new word, one in the same is not defined.
    addr : Out(addr_bits)
        Word address.
    data : Out(data_bits)
        The word.
    mask : Out(slices)
        Bit s: write slice s, bits `[s*data_bits/slices, (s+1)*data_bits/slices)`. Only if slices > 1.
    """

    def __init__(self, addr_bits: int, data_bits: int, slices: int = 1):
        if slices < 1 or data_bits % slices:
            raise ValueError(f"slices must divide data_bits = {data_bits}, not {slices!r}")
        self.addr_bits = addr_bits
        self.data_bits = data_bits
        self.slices = slices
        members = {"en": Out(1), "addr": Out(addr_bits), "data": Out(data_bits)}
        if slices > 1:
            members["mask"] = Out(slices)
        super().__init__(members)

    def __repr__(self) -> str:
        return f"WritePort({self.addr_bits}, {self.data_bits}, slices={self.slices})"


def vector_part(instruction: ShapeLike, config: AcceleratorConfig) -> dict[str, Member]:
    """What each part of the vector unit has: the unit protocol, and its ports at the activation buffer."""
    address, bits = config.act_address_bits, config.act_word_bits
    return {
        "start": In(1),
        "instruction": In(instruction),
        "done": Out(1),
        "read": Out(ReadPort(address, bits)),
        "write": Out(WritePort(address, bits, config.slices)),
    }
