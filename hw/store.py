"""The store engine: activation buffer to memory, in bursts (see docs/isa.md, STORE and "Memory timing")."""

from amaranth.hdl import Array, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sateen.config import AcceleratorConfig
from sateen.hw import isa
from sateen.hw.axi import ADDRESS_BITS, AXI4Write, Burst
from sateen.hw.ports import ReadPort
from sateen.hw.requests import BurstRequests, log2

READ_LATENCY = 2
"""Of the activation buffer, in cycles."""
DATA_LATENCY = 2 + READ_LATENCY
"""Cycles from `start` to the first word moving from the queue into a beat."""
DONE_LATENCY = 1
"""Cycles from the last response to `done`."""


class StoreEngine(wiring.Component):
    """Copies consecutive words from the activation buffer to memory. Words are packed into beats, or split.

    Words are read ahead into a queue, so that a slow bus stops the reading and loses nothing; where a word
    makes at most one beat the engine reads, and sends what it read, one word a cycle. Above `act_word_bits`
    a word in memory is zero. Bytes of the last beat that no word fills are not written. A burst's address
    goes ahead of its data, and `done` comes after the last response.

    Members
    -------
    start, instruction, done :
        Engine protocol; `instruction` is a `isa.STORE` and valid with `start`.
    base : In(64)
        Address that `destination` counts from, a multiple of 4096; stable while the engine runs.
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

    def elaborate(self, platform) -> Module:
        m = Module()
        config, axi = self.config, self.axi
        store = data.View(isa.STORE, self.instruction[: isa.STORE.size])
        split = max(0, log2(config.act_word_bytes) - log2(config.beat_bytes))  # log2 of beats of a word
        pack = max(0, log2(config.beat_bytes) - log2(config.act_word_bytes))  # log2 of words of a beat

        # -- addresses --------------------------------------------------------------------------------
        m.submodules.requests = requests = BurstRequests(config=config)
        response = Signal()
        m.d.comb += [
            response.eq(axi.bvalid & axi.bready),
            requests.base.eq(self.base),
            requests.start.eq(self.start),
            requests.source.eq(store.destination),
            requests.beats.eq(((store.words << split) + ((1 << pack) - 1)) >> pack),
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
        # A freed place holds a new word READ_LATENCY + 2 cycles later; the other places last until then.
        depth = 4 if split <= 1 else 2
        queue = Array(Signal(config.act_word_bits, name=f"queue_{i}", reset_less=True) for i in range(depth))
        pop, arrived = Signal(), Signal()
        reads_left = Signal(24)
        used = Signal(range(depth + 1))  # places that hold a word or wait for one
        filled = Signal(range(depth + 1))
        write_place = Signal(range(depth))
        read_place = Signal(range(depth))
        pipeline = Signal(READ_LATENCY)
        read = self.activation.en
        m.d.comb += [
            read.eq(reads_left.any() & (used != depth)),
            arrived.eq(pipeline[-1]),
        ]
        m.d.sync += [
            pipeline.eq(Value.cast(pipeline << 1) | read),
            used.eq(used + read - pop),
            filled.eq(filled + arrived - pop),
        ]
        with m.If(read):
            m.d.sync += [self.activation.addr.eq(self.activation.addr + 1), reads_left.eq(reads_left - 1)]
        with m.If(arrived):
            m.d.sync += [queue[write_place].eq(self.activation.data), write_place.eq(write_place + 1)]
        with m.If(pop):
            m.d.sync += read_place.eq(read_place + 1)

        # -- words to beats ---------------------------------------------------------------------------
        # `fill` moves a word, or one beat of it, into WDATA.
        fill, complete = Signal(), Signal()
        words_left = Signal(24)  # minus 1, not yet in a beat
        beat_index = Signal(split)  # of the word
        word_index = Signal(pack)  # of the beat
        position = Signal(log2(config.burst_beats))  # of the beat, counted from the burst boundary
        opened = Signal(range(config.outstanding + 1))  # bursts whose address is out and whose data is not
        final, filling, running = Signal(), Signal(), Signal()
        burst_end = Signal()
        m.d.comb += [
            fill.eq(filled.any() & opened.any() & (~axi.wvalid | axi.wready)),
            pop.eq(fill & (beat_index == (1 << split) - 1)),
            final.eq((words_left == 0) & (beat_index == (1 << split) - 1)),
            complete.eq(final | (word_index == (1 << pack) - 1)),
            burst_end.eq(final | (position == config.burst_beats - 1)),
            self.beat.eq(axi.wvalid & axi.wready),
        ]
        m.d.sync += opened.eq(opened + requests.issued - (fill & complete & burst_end))
        with m.If(axi.wready):
            m.d.sync += axi.wvalid.eq(0)
        word = Signal(8 * config.act_word_bytes)  # zero above act_word_bits
        m.d.comb += word.eq(queue[read_place])
        with m.If(fill):
            m.d.sync += [
                axi.wvalid.eq(complete),
                axi.wlast.eq(burst_end),
                beat_index.eq(beat_index + 1),
                word_index.eq(Mux(final, 0, word_index + 1)),
            ]
            with m.If(complete):
                m.d.sync += position.eq(position + 1)
            with m.If(pop):
                m.d.sync += words_left.eq(words_left - 1)
            with m.If(pop & (words_left == 0)):
                m.d.sync += filling.eq(0)
            if pack:
                bits, strobes = 8 * config.act_word_bytes, config.act_word_bytes
                for i in range(1 << pack):
                    with m.If(word_index == i):
                        m.d.sync += axi.wdata[i * bits : (i + 1) * bits].eq(word)
                    m.d.sync += axi.wstrb[i * strobes : (i + 1) * strobes].eq(
                        Mux(word_index >= i, (1 << strobes) - 1, 0)
                    )
            else:
                m.d.sync += [
                    axi.wdata.eq(word.word_select(beat_index, config.bus_bits)),
                    axi.wstrb.eq((1 << config.beat_bytes) - 1),
                ]

        # -- end --------------------------------------------------------------------------------------
        last_response = Signal()
        m.d.comb += last_response.eq(response & ~filling & ~axi.wvalid & (requests.opened == 1))
        m.d.sync += self.done.eq(last_response)
        m.d.comb += [
            self.error.eq(response & axi.bresp.any()),
            self.stall.eq(
                running
                & ~last_response
                & (
                    (axi.wvalid & ~axi.wready)
                    | (filling & filled.any() & ~opened.any())
                    | (~filling & ~axi.wvalid)
                )
            ),
        ]
        with m.If(last_response):
            m.d.sync += running.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.activation.addr.eq(store.source),
                reads_left.eq(store.words),
                words_left.eq(store.words - 1),
                position.eq(store.destination >> log2(config.beat_bytes)),
                filling.eq(1),
                running.eq(1),
            ]
        return m
