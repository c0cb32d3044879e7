"""Exact counts of many events in one memory, updated in turn.

Each event has a counter of a few bits that runs free. Every word of the memory is visited once a round, and what that
counter went on by since the last visit is added to it. A register of 32 bits for each event, and a multiplexer to read
them, took a sixth of `tiny` (adr/0053-counters.md).
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sateen.hw.memory.buffers import memory_of


class Counters(wiring.Component):
    """A memory of counts, one of them twice as wide.

    Parameters
    ----------
    slots : int
        Words of the memory, a power of two.
    events : tuple of int
        Slots that are counted, by event.
    wide : int
        An event's slot whose carry the next slot counts.
    width : int
        Bits of a count.

    Members
    -------
    clear : In(1)
        All counts are 0 from the next cycle on.
    events : In(len(events))
        What happens in this cycle.
    slot : In(range(slots))
        What to read, an event's.
    read : In(1)
        Kept high, with `slot`, until `valid`.
    valid : Out(1)
        `value` is the count of `slot`, at most `latency` cycles after `read`, with all that happened before `read`.
    value : Out(width)
    high : Out(width)
        Of the last read of `wide`, two cycles after its `valid`: the upper word.

    Raises
    ------
    ValueError
        Where slots are no power of two, or one more is not left; where `wide` is no event's.
    """

    def __init__(self, *, slots: int, events: tuple[int, ...], wide: int, width: int = 32):
        used = {*events, wide + 1}
        if slots & slots - 1 or not used < set(range(slots)) or len(used) <= len(events):
            raise ValueError(f"slots must be a power of two with one to spare, not {slots!r} for {events!r}")
        if wide not in events:
            raise ValueError(f"wide must be an event's slot, not {wide!r}")
        self.slots, self.counted, self.wide, self.width = slots, events, wide, width
        self._zero = min(set(range(slots)) - used)
        self.bits = slots.bit_length()  # since: an event in every cycle of a round
        self.latency = slots
        super().__init__(
            {
                "clear": In(1),
                "events": In(len(events)),
                "slot": In(range(slots)),
                "read": In(1),
                "valid": Out(1),
                "value": Out(width),
                "high": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word = data.StructLayout({"count": self.width, "seen": self.bits})
        m.submodules.counts = counts = memory_of(shape=word, depth=self.slots)
        old, new = counts.read_port(), counts.write_port()
        turn = Signal(range(self.slots))  # the slot whose word is fetched
        visited = Signal.like(turn)  # and the one that is written
        fresh = Signal(
            init=1
        )  # the first round after `clear`: the word of a slot that nothing counts is fetched
        m.d.comb += old.addr.eq(Mux(fresh, self._zero, turn))
        m.d.sync += [turn.eq(turn + 1), visited.eq(turn)]
        with m.If(turn == self.slots - 1):
            m.d.sync += fresh.eq(0)

        now, carry = self._now(m, turn), Signal()
        since, sums = Signal(self.bits), Signal(self.width + 1)
        m.d.comb += [
            since.eq(now - old.data.seen),
            sums.eq(old.data.count + Mux(visited == self.wide + 1, carry, since)),
            new.addr.eq(visited),
            new.en.eq(visited != self._zero),
            new.data.count.eq(sums),
            new.data.seen.eq(now),
            self.value.eq(sums),
        ]
        asked, kept = Signal(), Signal()
        m.d.comb += self.valid.eq(self.read & asked & (visited == self.slot))
        m.d.sync += [
            carry.eq(sums[self.width]),
            asked.eq(self.read & ~self.valid),
            kept.eq(self.valid & (self.slot == self.wide)),
        ]
        with m.If(kept):
            m.d.sync += self.high.eq(sums)
        with m.If(self.clear):
            m.d.sync += [turn.eq(0), fresh.eq(1)]
        return m

    def _now(self, m: Module, turn: Signal) -> Signal:
        """The visited slot's counter, as it was when its word was fetched."""
        running = {slot: Signal(self.bits, name=f"running_{slot}", reset_less=True) for slot in self.counted}
        for number, count in enumerate(running.values()):
            with m.If(self.clear):
                m.d.sync += count.eq(0)
            with m.Elif(self.events[number]):
                m.d.sync += count.eq(count + 1)
        now = Signal(self.bits)
        places = Cat(running.get(slot, Const(0, self.bits)) for slot in range(self.slots))
        m.d.sync += now.eq(places.word_select(turn, self.bits))
        return now
