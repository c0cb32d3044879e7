"""The load unit: memory to the on-chip buffers, in bursts (see docs/isa.md, LOAD and "Memory timing")."""

import math

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from sateen.formats.rows import EXPONENT_BITS, MANTISSA_BITS
from sateen.hw import isa
from sateen.hw.memory.axi import ADDRESS_BITS, AXI4Read, Burst
from sateen.hw.memory.buffers import index_write_port
from sateen.hw.memory.gearbox import adders, below, taken, times
from sateen.hw.memory.requests import BurstRequests, log2, request_terms
from sateen.hw.ports import WritePort
from sateen.hw.terms import Component, Terms
from sateen.machine.config import AcceleratorConfig

ADDRESS_LATENCY = 2
"""Cycles from `start` to the first address on the bus."""
EXPONENTIAL_BITS = MANTISSA_BITS + EXPONENT_BITS
WRITE_LATENCY = 1
"""Cycles from a beat to the (first) write that it completes; further words of a beat follow one a cycle."""


def word_bytes(target: isa.Target, config: AcceleratorConfig) -> int:
    """Bytes that a word of `target` takes in memory."""
    return {
        isa.Target.ACTIVATION: config.act_word_bytes,
        isa.Target.WEIGHT: config.weight_word_bytes,
        isa.Target.PARAMETER: config.parameter_word_bytes,
        isa.Target.TABLE: 1,
        isa.Target.INSTRUCTION: isa.INSTRUCTION_BYTES,
        isa.Target.INDEX: config.index_word_bytes,
        isa.Target.EXPONENTIAL: EXPONENTIAL_BITS // 8,
    }[target]


def targets(config: AcceleratorConfig) -> list[isa.Target]:
    """Those that the machine has."""
    return [t for t in isa.Target if not t.only or getattr(config, t.only)]


class LoadUnit(wiring.Component):
    """Copies consecutive words from memory, where they lie one after the other, to a buffer.

    A word is gathered from beats, or several come from one, or it begins in one and ends in the next. `done`
    comes with the last write, so that a read in the next cycle sees it. RREADY is low only while a beat has
    more words to give. A read error is reported and the instruction still takes all its beats.

    Members
    -------
    start, instruction, done :
        Unit protocol; `instruction` is a `isa.LOAD` and valid with `start`.
    base : In(64)
        Address that `source` counts from, a multiple of 4096; stable while the unit runs.
    axi : Out(AXI4Read)
    activation, weight, parameter, table, index, exponential : Out(WritePort)
        The buffers. A parameter word is `vector_lanes` × `parameter_bits`, without the gaps it has in memory.
        `table` exists if `config.table`, `index`, with a slice for each plane, if `config.indexed`,
        `exponential` if `config.softmax`.
    instruction_valid, instruction_data : Out(1), Out(bus_bits)
        A beat of an INSTRUCTION load; always accepted.
    error : Out(1)
        Strobe: a beat came with RRESP other than OKAY.
    stall, beat : Out(1)
        Per cycle: waiting for memory; a beat was transferred.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        members = {
            "start": In(1),
            "instruction": In(unsigned(isa.INSTRUCTION_BITS)),
            "done": Out(1),
            "base": In(ADDRESS_BITS),
            "axi": Out(AXI4Read(config.bus_bits)),
            "activation": Out(WritePort(log2(config.act_depth), config.act_word_bits)),
            "weight": Out(WritePort(log2(config.weight_depth), config.weight_word_bits)),
            "parameter": Out(
                WritePort(log2(config.parameter_depth), config.vector_lanes * config.parameter_bits)
            ),
            "instruction_valid": Out(1),
            "instruction_data": Out(config.bus_bits),
            "error": Out(1),
            "stall": Out(1),
            "beat": Out(1),
        }
        if config.table:
            members["table"] = Out(WritePort(config.activation.bits, 8))
        if config.indexed:
            members["index"] = Out(index_write_port(config))
        if config.softmax:
            members["exponential"] = Out(WritePort(config.activation.bits, EXPONENTIAL_BITS))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, axi = self.config, self.axi
        load = data.View(isa.LOAD, self.instruction[: isa.LOAD.size])
        size = {t: word_bytes(t, config) for t in targets(config)}
        instruction_beats = size[isa.Target.INSTRUCTION] // config.beat_bytes
        size[isa.Target.INSTRUCTION] = config.beat_bytes  # passed on beat by beat
        unit = {t: math.gcd(n, config.beat_bytes) for t, n in size.items()}  # bytes
        grain = min(unit.values())  # bytes: what the level of the stream counts

        target = Signal(isa.LOAD["target"].shape)  # with the names of all machines
        address = Signal(24)
        writes_left = Signal(24 + log2(instruction_beats))  # minus 1; in the cycle after `start`, the words
        begun = Signal()  # it is the cycle after `start`

        # -- addresses --------------------------------------------------------------------------------
        m.submodules.requests = requests = BurstRequests(config=config)
        beat, last_beat = Signal(), Signal()
        m.d.comb += [
            beat.eq(axi.rvalid & axi.rready),
            last_beat.eq(beat & axi.rlast),
            requests.base.eq(self.base),
            requests.start.eq(self.start),
            requests.source.eq(load.source),
            requests.release.eq(last_beat),
            axi.arvalid.eq(requests.valid),
            requests.ready.eq(axi.arready),
            axi.araddr.eq(requests.address),
            axi.arlen.eq(requests.length),
            axi.arsize.eq(log2(config.beat_bytes)),
            axi.arburst.eq(Burst.INCR),
            axi.arcache.eq(0b0011),  # normal, non-cacheable, bufferable
        ]

        # -- beats to words ---------------------------------------------------------------------------
        # The last beats, the newest highest. A word has `over` more bytes above it than it needs.
        stream = Signal(8 * max(size[t] + config.beat_bytes - unit[t] for t in size), reset_less=True)
        level = signed(1 + (max(*size.values(), config.beat_bytes) // grain).bit_length())
        over = Signal(
            level, init=-1
        )  # bytes of the stream beyond the next word, in grains; negative: missing
        after = Signal(level)  # as `over`, when the word that is there is written
        word_size = Signal(level)  # in grains
        writing, final, running = Signal(), Signal(), Signal()
        m.d.comb += [
            writing.eq(over >= 0),
            after.eq(over - Mux(writing, word_size, 0)),
            axi.rready.eq(after < 0),
            self.done.eq(writing & final),
            self.beat.eq(beat),
            self.stall.eq(running & axi.rready & ~axi.rvalid & ~self.done),
            self.error.eq(beat & axi.rresp.any()),
        ]
        m.d.sync += [
            over.eq(after + Mux(beat, config.beat_bytes // grain, 0)),
            final.eq(
                Mux(writing, writes_left == 1, writes_left == 0)
            ),  # a register, long set by the first write
        ]
        with m.If(beat):
            m.d.sync += stream.eq(Cat(stream, axi.rdata)[config.bus_bits :])
        step = self._planes(m, load, target, writing)
        with m.If(writing):
            m.d.sync += [address.eq(address + step), writes_left.eq(writes_left - 1)]
        m.d.sync += begun.eq(self.start)
        with m.If(begun):
            writes = Mux(target == isa.Target.INSTRUCTION, times(writes_left, instruction_beats), writes_left)
            m.d.sync += writes_left.eq(writes - 1)
        with m.If(self.done):
            m.d.sync += [running.eq(0), over.eq(-1)]  # the rest of the last beat is dropped
        with m.Switch(load.target):
            for t in size:
                with m.Case(t):
                    words = (
                        times(load.words, instruction_beats) if t is isa.Target.INSTRUCTION else load.words
                    )
                    units = times(words, size[t] // unit[t])
                    per_beat = config.beat_bytes // unit[t]
                    m.d.comb += requests.beats.eq((units + per_beat - 1) >> log2(per_beat))
                    with m.If(self.start):
                        m.d.sync += [
                            word_size.eq(size[t] // grain),
                            over.eq(-size[t] // grain),
                        ]
        with m.If(self.start):
            m.d.sync += [
                writes_left.eq(load.words),
                target.eq(load.target),
                address.eq(load.destination),
                running.eq(1),
            ]

        # -- to the target ----------------------------------------------------------------------------
        def next_word(n: int) -> Value:
            """The word of n bytes that is being written."""
            least = math.gcd(n, config.beat_bytes)
            return below(
                stream, over[log2(least // grain) : log2(config.beat_bytes // grain)], 8 * least, 8 * n
            )

        words_of = {
            n: next_word(n) for n in set(size.values())
        }  # one selection for all targets of the same size
        for t, port in (
            (isa.Target.ACTIVATION, self.activation),
            (isa.Target.WEIGHT, self.weight),
            (isa.Target.PARAMETER, self.parameter),
            *([(isa.Target.TABLE, self.table)] if config.table else []),
            *([(isa.Target.INDEX, self.index)] if config.indexed else []),
            *([(isa.Target.EXPONENTIAL, self.exponential)] if config.softmax else []),
        ):
            word = words_of[size[t]]
            if t is isa.Target.PARAMETER:
                word = self._without_gaps(word)
            elif t is isa.Target.INDEX:  # the mask picks the plane
                word = Cat([word[: config.index_word_bits]] * config.index_planes)
            m.d.comb += [
                port.en.eq(writing & (target == t)),
                port.addr.eq(address),
                port.data.eq(word),
            ]
        m.d.comb += [
            self.instruction_valid.eq(writing & (target == isa.Target.INSTRUCTION)),
            self.instruction_data.eq(stream[-config.bus_bits :]),
        ]
        return m

    def _planes(self, m: Module, load: data.View, target: Signal, writing: Signal) -> Value:
        """Write the words of an INDEX load to one plane after the other; return "the next has a new address"."""
        planes = self.config.index_planes
        if planes < 2:
            return Const(1)
        plane, last = Signal(planes, reset_less=True), Signal(planes, reset_less=True)  # one-hot
        at_last = (plane & last).any()
        with m.If(self.start):
            m.d.sync += [plane.eq(1), last.eq(Cat(load.last_plane == b for b in range(planes)))]
        with m.Elif(writing):
            m.d.sync += plane.eq(Mux(at_last, 1, plane << 1))
        m.d.comb += self.index.mask.eq(plane)
        return (target != isa.Target.INDEX) | at_last

    def _without_gaps(self, word: Value) -> Value:
        """A parameter word of memory, in `parameter_bytes` for each channel, as on chip."""
        channel = 8 * self.config.parameter_bytes
        return Cat(
            word[i * channel : i * channel + self.config.parameter_bits]
            for i in range(self.config.vector_lanes)
        )


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    size = {target: word_bytes(target, c) for target in targets(c)}
    size[isa.Target.INSTRUCTION] = c.beat_bytes
    unit = {target: math.gcd(n, c.beat_bytes) for target, n in size.items()}
    grain = min(unit.values())
    stream = 8 * max(size[k] + c.beat_bytes - unit[k] for k in size)
    level = 1 + (max(*size.values(), c.beat_bytes) // grain).bit_length()
    # the bits of a word, as a mask that begins with the newest: words may have bits that go nowhere
    wanted: dict[int, int] = {}
    for target, n in size.items():
        wanted[n] = wanted.get(n, 0) | _reversed(_bits_used(target, c), 8 * n)
    live = selected = 0
    for n, bits in wanted.items():
        least = math.gcd(n, c.beat_bytes)
        found, muxes = taken(bits, stream, ceil_log2(c.beat_bytes // least), 8 * least)
        live |= found
        selected += muxes
    tapped = live
    for distance in range(stream // c.bus_bits + 1):  # a bit comes through those that are newer
        live |= live >> c.bus_bits * distance
    live &= (1 << stream) - 1
    if least_chain := t.technology.least_chain:
        rows = (_rows(live >> b, tapped >> b, c.bus_bits) for b in range(c.bus_bits))
        chains = [n for found in rows for n in found if n >= least_chain]
        t.add(chains=len(chains), ff=-sum(chains))
    lengths = [size[k] // grain for k in size]
    beats = {(size[k] // unit[k], c.beat_bytes // unit[k]) for k in size}
    t.add(one=1, selected=selected, level=4 * level, targets=len(size), beats=(len(beats) - 1) * c.word_bits)
    t.add(units=sum(adders(n) + (m > 1) for n, m in beats) * c.word_bits)
    t.add(sizes=len(set(size.values())) * level)
    address = max(
        ceil_log2(c.act_depth),
        ceil_log2(c.weight_depth),
        ceil_log2(c.parameter_depth),
        c.activation.bits * c.table,
    )
    writes = 24 + ceil_log2(isa.INSTRUCTION_BYTES // c.beat_bytes)
    t.add(address=2 * address, writes=3 * writes)
    t.add(ff=live.bit_count() + level + _columns(lengths) + address + writes)
    request_terms(c, t)
    if c.index_planes > 1:
        t.add(planes=c.index_planes, ff=2 * c.index_planes)
    t.ff["one"] = 1


def _rows(live: int, tapped: int, step: int) -> list[int]:
    """Lengths of the rows of flip-flops, every `step`-th bit, that are read at their ends alone."""
    found, length = [], 0
    while live & 1:
        length += 1
        live >>= step
        if tapped & 1 or not live & 1:
            found.append(length)
            length = 0
        tapped >>= step
    return found


def _columns(values: list[int]) -> int:
    """Flip-flops of a register that takes one of some constants: bits that are always equal share one."""
    bits = max(values).bit_length()
    return len({tuple(v >> b & 1 for v in values) for b in range(bits)} - {(0,) * len(values)})


def _bits_used(target: isa.Target, c: AcceleratorConfig) -> int:
    """Bits of a word of a target in memory that the machine keeps, as a mask."""
    if target is isa.Target.PARAMETER:
        channel = (1 << c.parameter_bits) - 1
        return sum(channel << 8 * c.parameter_bytes * i for i in range(c.vector_lanes))
    width = {
        isa.Target.ACTIVATION: c.act_word_bits,
        isa.Target.WEIGHT: c.weight_word_bits,
        isa.Target.TABLE: c.activation.bits,
        isa.Target.INSTRUCTION: c.bus_bits,
        isa.Target.INDEX: c.index_word_bits,
        isa.Target.EXPONENTIAL: EXPONENTIAL_BITS,
    }[target]
    return (1 << width) - 1


def _reversed(mask: int, bits: int) -> int:
    return int(f"{mask:0{bits}b}"[::-1], 2)


LOAD = Component(
    "load",
    (LoadUnit, BurstRequests),
    _terms,
    paths=lambda c, d: {"load": d.register + 2 * d.lut + d.carry(c.word_bits)},
)
