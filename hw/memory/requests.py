"""Burst addresses for one transfer: what the load and the store unit put on AR and AW."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from sateen.hw.memory.axi import ADDRESS_BITS
from sateen.hw.terms import Terms
from sateen.machine.config import AcceleratorConfig

SOURCE_BITS = 32


def log2(n: int) -> int:
    """Of a power of two."""
    if n < 1 or n & (n - 1):
        raise ValueError(f"n must be a power of two, not {n!r}")
    return n.bit_length() - 1


class BurstRequests(wiring.Component):
    """Cuts a transfer into bursts, issued one a cycle, at most `outstanding` of them open at once.

    A burst ends at a multiple of `burst_beats` beats, so no burst crosses a multiple of 4096 bytes: both are
    powers of two, and a burst is at most 4096 bytes. With `start` in cycle t, the first address is valid in
    t+2; with `release` in cycle t, that of a burst that waited for it in t+1.

    Members
    -------
    start, base, source, beats : In
        With `start`: first byte, counted from `base`, and number of beats (at least 1).
    release : In(1)
        A burst is closed in this cycle: its last beat, or its response, was transferred.
    valid, ready, address, length :
        The address channel; `length` is beats - 1.
    issued : Out(1)
        Strobe, in the cycle before `valid`: a burst was opened.
    opened : Out
        Bursts open.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        self.beat_bits = config.memory_bits - log2(config.beat_bytes)
        super().__init__(
            {
                "start": In(1),
                "base": In(ADDRESS_BITS),
                "source": In(SOURCE_BITS),
                "beats": In(self.beat_bits),
                "release": In(1),
                "valid": Out(1),
                "ready": In(1),
                "address": Out(ADDRESS_BITS),
                "length": Out(8),
                "issued": Out(1),
                "opened": Out(range(config.outstanding + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        burst_bits = log2(config.burst_beats)
        shift = log2(config.beat_bytes)
        offset = Signal(self.beat_bits)  # of the next burst, in beats
        left = Signal(self.beat_bits)  # beats not issued
        more = Signal()  # there are some, as a register
        room = Signal(burst_bits + 1)  # beats up to the boundary
        last = Signal()  # left <= room
        issue = Signal()
        address = Signal(config.bus_address_bits)
        m.d.comb += [
            self.address.eq(address),
            room.eq(config.burst_beats - offset[:burst_bits]),
            last.eq(~left[burst_bits + 1 :].any() & (left[: burst_bits + 1] <= room)),
            issue.eq(
                more & (~self.valid | self.ready) & ((self.opened != config.outstanding) | self.release)
            ),
            self.issued.eq(issue),
        ]
        m.d.sync += self.opened.eq(self.opened + issue - self.release)
        with m.If(self.ready):
            m.d.sync += self.valid.eq(0)
        with m.If(issue):
            m.d.sync += [
                self.valid.eq(1),
                address.eq(self.base + (offset << shift)),
                # room - 1 = ~offset
                self.length.eq(Mux(last, (left - 1)[:burst_bits], ~offset[:burst_bits])),
                # After the last burst neither counts; before it the next one begins at a boundary.
                offset.eq(Cat(Const(0, burst_bits), offset[burst_bits:] + 1)),
                left.eq(left - room),
                more.eq(~last),
            ]
        with m.If(self.start):
            m.d.sync += [offset.eq(self.source >> shift), left.eq(self.beats), more.eq(1)]
        return m


def request_terms(c: AcceleratorConfig, t: Terms) -> None:
    beats = c.memory_bits - log2(c.beat_bytes)
    base = c.bus_address_bits - log2(c.beat_bytes * c.burst_beats)
    opened = ceil_log2(c.outstanding + 1)
    t.add(burst=4 * log2(c.burst_beats), request=3 * beats, base=base, opened=opened)
    t.add(ff=2 * beats + c.bus_address_bits - log2(c.beat_bytes) + log2(c.burst_beats) + opened)
