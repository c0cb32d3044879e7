"""The store unit: activation buffer to memory, in bursts (see docs/isa.md, STORE and "Memory timing")."""

import math

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from sateen.hw import isa
from sateen.hw.memory.axi import ADDRESS_BITS, AXI4Write, Burst
from sateen.hw.memory.gearbox import adders, below, taken, times
from sateen.hw.memory.requests import BurstRequests, log2, request_terms
from sateen.hw.ports import STORE_READ_LATENCY, ReadPort
from sateen.hw.terms import Component, Terms
from sateen.machine.config import AcceleratorConfig

DATA_LATENCY = 2 + STORE_READ_LATENCY
"""Cycles from `start` to the first word moving from the queue to the beats."""
DONE_LATENCY = 1
"""Cycles from the last response to `done`."""


class StoreUnit(wiring.Component):
    """Copies consecutive words from the activation buffer to memory, where they lie one after the other.

    Words are read ahead into a queue, so that a slow bus stops the reading and loses nothing; where a word
    makes at most one beat the unit reads, and sends what it read, one word a cycle. Bytes of the last beat
    that no word fills are not written. A burst's address goes ahead of its data, and `done` comes after the
    last response.

    Members
    -------
    start, instruction, done :
        Unit protocol; `instruction` is a `isa.STORE` and valid with `start`.
    base : In(64)
        Address that `destination` counts from, a multiple of 4096; stable while the unit runs.
    axi : Out(AXI4Write)
    activation : Out(ReadPort)
        The activation buffer, read latency 2.
    error : Out(1)
        Strobe: a response other than OKAY.
    stall, beat : Out(1)
        Per cycle: waiting for memory; a beat was transferred.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "instruction": In(unsigned(isa.INSTRUCTION_BITS)),
                "done": Out(1),
                "base": In(ADDRESS_BITS),
                "axi": Out(AXI4Write(config.bus_bits)),
                "activation": Out(ReadPort(log2(config.act_depth), config.act_word_bits)),
                "error": Out(1),
                "stall": Out(1),
                "beat": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, axi = self.config, self.axi
        store = data.View(isa.STORE, self.instruction[: isa.STORE.size])
        unit = math.gcd(config.act_word_bytes, config.beat_bytes)  # bytes
        word_units, beat_units = config.act_word_bytes // unit, config.beat_bytes // unit
        beats = times(store.words, word_units) + beat_units - 1 >> log2(beat_units)

        # -- addresses --------------------------------------------------------------------------------
        m.submodules.requests = requests = BurstRequests(config=config)
        response = Signal()
        m.d.comb += [
            response.eq(axi.bvalid & axi.bready),
            requests.base.eq(self.base),
            requests.start.eq(self.start),
            requests.source.eq(store.destination),
            requests.beats.eq(beats),
            requests.release.eq(response),
            axi.awvalid.eq(requests.valid),
            requests.ready.eq(axi.awready),
            axi.awaddr.eq(requests.address),
            axi.awlen.eq(requests.length),
            axi.awsize.eq(log2(config.beat_bytes)),
            axi.awburst.eq(Burst.INCR),
            axi.awcache.eq(0b0011),  # normal, non-cacheable, bufferable
            axi.bready.eq(1),
        ]

        # -- words, read ahead into a queue -----------------------------------------------------------
        # A freed place holds a new word STORE_READ_LATENCY + 2 cycles later; the other places last until then.
        depth = 4 if word_units <= 2 * beat_units else 2
        queue = Array(Signal(config.act_word_bits, name=f"queue_{i}", reset_less=True) for i in range(depth))
        pop, arrived = Signal(), Signal()
        reads_left = Signal(config.word_bits)
        reading = Signal()  # reads_left != 0, as a register
        used = Signal(range(depth + 1))  # places that hold a word or wait for one
        filled = Signal(range(depth + 1))
        write_place = Signal(range(depth))
        read_place = Signal(range(depth))
        pipeline = Signal(STORE_READ_LATENCY)
        read = self.activation.en
        m.d.comb += [
            read.eq(reading & (used != depth)),
            arrived.eq(pipeline[-1]),
        ]
        m.d.sync += [
            pipeline.eq(Value.cast(pipeline << 1) | read),
            used.eq(used + read - pop),
            filled.eq(filled + arrived - pop),
        ]
        with m.If(read):
            m.d.sync += [
                self.activation.addr.eq(self.activation.addr + 1),
                reads_left.eq(reads_left - 1),
                reading.eq(reads_left != 1),
            ]
        with m.If(arrived):
            m.d.sync += [queue[write_place].eq(self.activation.data), write_place.eq(write_place + 1)]
        with m.If(pop):
            m.d.sync += read_place.eq(read_place + 1)

        # -- words to beats ---------------------------------------------------------------------------
        # The last words, the newest highest, and which units hold one: after the last word the beat is filled up.
        units = word_units + beat_units - 1
        stream = Signal(8 * unit * units, reset_less=True)
        strobes = Signal(units, reset_less=True)
        level = signed(1 + max(word_units, beat_units).bit_length())
        over = Signal(level, init=-1)  # units of the stream beyond the next beat; negative: missing
        after = Signal(level)  # as `over`, when the beat that is there has left
        fill, empty, active, running = Signal(), Signal(), Signal(), Signal()
        beats_left = Signal(len(requests.beats))  # minus 1
        final = Signal()  # beats_left == 0, a register long set by the first beat
        position = Signal(log2(config.burst_beats))  # of the beat, counted from the burst boundary
        issued = Signal()
        opened = Signal(range(config.outstanding + 1))  # bursts whose address is out and whose data is not
        m.d.comb += [
            empty.eq(~reading & ~used.any()),
            axi.wvalid.eq((over >= 0) & opened.any()),
            axi.wlast.eq(final | (position == config.burst_beats - 1)),
            self.beat.eq(axi.wvalid & axi.wready),
            after.eq(over - Mux(self.beat, beat_units, 0)),
            fill.eq(active & (filled.any() | empty) & (after < 0)),
            pop.eq(fill & filled.any()),
        ]
        place = over[: (word_units - 1).bit_length()]
        used_units = Cat(bit.replicate(unit) for bit in below(strobes, place, 1, beat_units))
        m.d.comb += [
            axi.wdata.eq(below(stream, place, 8 * unit, config.bus_bits)),
            axi.wstrb.eq(used_units),
        ]
        m.d.sync += [
            issued.eq(requests.issued),
            opened.eq(opened + issued - (self.beat & axi.wlast)),
            over.eq(after + Mux(fill, word_units, 0)),
            final.eq(Mux(self.beat, beats_left == 1, beats_left == 0)),
        ]
        with m.If(fill):
            word = Signal(8 * config.act_word_bytes)  # zero above act_word_bits
            m.d.comb += word.eq(queue[read_place])
            m.d.sync += [
                stream.eq(Cat(stream, word)[len(word) :]),
                strobes.eq(Cat(strobes, pop.replicate(word_units))[word_units:]),
            ]
        with m.If(self.beat):
            m.d.sync += [beats_left.eq(beats_left - 1), position.eq(position + 1)]
            with m.If(final):
                m.d.sync += active.eq(0)

        # -- end --------------------------------------------------------------------------------------
        last_response = Signal()
        m.d.comb += last_response.eq(response & ~active & (requests.opened == 1))
        m.d.sync += self.done.eq(last_response)
        m.d.comb += [
            self.error.eq(response & axi.bresp.any()),
            self.stall.eq(running & ~last_response & (((over >= 0) & ~self.beat) | ~active)),
        ]
        with m.If(last_response):
            m.d.sync += running.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.activation.addr.eq(store.source),
                reads_left.eq(store.words),
                reading.eq(1),
                beats_left.eq(beats - 1),
                over.eq(-beat_units),
                position.eq(store.destination >> log2(config.beat_bytes)),
                active.eq(1),
                running.eq(1),
            ]
        return m


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    unit = math.gcd(c.act_word_bytes, c.beat_bytes)
    word, beat = c.act_word_bytes // unit, c.beat_bytes // unit
    depth = 4 if word <= 2 * beat else 2
    units = word + beat - 1
    level = 1 + max(word, beat).bit_length()
    places, address = ceil_log2(word), ceil_log2(c.act_depth)
    _, selected = taken((1 << c.bus_bits) - 1, 8 * unit * units, places, 8 * unit)
    _, strobes = taken((1 << beat) - 1, units, places, 1)
    t.add(one=1, queue=c.act_word_bits * t.technology.mux(depth), stream=selected, strobes=strobes,
          shifted=units, level=4 * level, reads=3 * c.word_bits + 2 * address, places=depth)  # fmt: skip
    beats = c.memory_bits - log2(c.beat_bytes)
    t.add(units=(adders(word) + (beat > 1)) * c.word_bits, beats=3 * beats)
    t.add(ff=depth * c.act_word_bits + 8 * unit * units + -(-units // word) + level + c.word_bits + address)
    t.add(ff=beats + 2 * ceil_log2(depth) + 2 * ceil_log2(depth + 1) + log2(c.burst_beats)
          + ceil_log2(c.outstanding + 1))  # fmt: skip
    request_terms(c, t)
    t.ff["one"] = 1


STORE = Component(
    "store",
    (StoreUnit, BurstRequests),
    _terms,
    paths=lambda c, d: {"store": d.register + 2 * d.lut + d.carry(c.word_bits)},
)
