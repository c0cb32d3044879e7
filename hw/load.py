"""The load engine: memory to the on-chip buffers, in bursts (see docs/isa.md, LOAD and "Memory timing")."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sateen.config import AcceleratorConfig
from sateen.hw import isa
from sateen.hw.axi import ADDRESS_BITS, AXI4Read, Burst
from sateen.hw.ports import WritePort
from sateen.hw.requests import BurstRequests, log2

ADDRESS_LATENCY = 2
"""Cycles from `start` to the first address on the bus."""
WRITE_LATENCY = 1
"""Cycles from a beat to the (first) write that it completes; further words of a beat follow one a cycle."""


def word_bytes(target: isa.Target, config: AcceleratorConfig) -> int:
    """Bytes that a word of `target` takes in memory. An instruction is passed on beat by beat."""
    return {
        isa.Target.ACTIVATION: config.act_word_bytes,
        isa.Target.WEIGHT: config.weight_word_bytes,
        isa.Target.PARAMETER: config.parameter_word_bytes,
        isa.Target.TABLE: 1,
        isa.Target.INSTRUCTION: isa.INSTRUCTION_BYTES,
    }[target]


class LoadEngine(wiring.Component):
    """Copies consecutive words from memory to a buffer, gathered from beats, or several from each beat.

    `done` comes with the last write, so that a read in the next cycle sees it. RREADY is low only while a
    beat is being split. A read error is reported and the instruction still takes all its beats.

    Members
    -------
    start, instruction, done :
        Engine protocol; `instruction` is a `isa.LOAD` and valid with `start`.
    base : In(64)
        Address that `source` counts from, a multiple of 4096; stable while the engine runs.
    axi : Out(AXI4Read)
    activation, weight, parameter, table : Out(WritePort)
        The buffers. A parameter word is `vector_lanes` × `parameter_bits`, without the gaps it has in memory.
        `table` exists if `config.table`.
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
        super().__init__(members)

    def elaborate(self, platform) -> Module:
        m = Module()
        config, axi = self.config, self.axi
        targets = [t for t in isa.Target if t is not isa.Target.TABLE or config.table]
        load = data.View(isa.LOAD, self.instruction[: isa.LOAD.size])

        # log2 of beats that make a word, and of words that a beat makes; instructions pass beat by beat
        gather = {t: max(0, log2(word_bytes(t, config)) - log2(config.beat_bytes)) for t in targets}
        split = {t: max(0, log2(config.beat_bytes) - log2(word_bytes(t, config))) for t in targets}
        instruction_shift = gather.pop(isa.Target.INSTRUCTION)
        gather[isa.Target.INSTRUCTION] = 0
        max_gather, max_split = max(gather.values()), max(split.values())

        target = Signal(isa.Target)
        address = Signal(24)
        writes_left = Signal(24 + instruction_shift)  # minus 1
        gather_last = Signal(max_gather)  # beats of a word, minus 1
        split_last = Signal(max_split)  # words of a beat, minus 1

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
        with m.Switch(load.target):
            for t in targets:
                with m.Case(t):
                    words = load.words << instruction_shift if t is isa.Target.INSTRUCTION else load.words
                    partial = (1 << split[t]) - 1  # round up: the rest of the last beat is dropped
                    m.d.comb += requests.beats.eq(((words << gather[t]) + partial) >> split[t])
                    with m.If(self.start):
                        m.d.sync += [
                            writes_left.eq(words - 1),
                            gather_last.eq((1 << gather[t]) - 1),
                            split_last.eq((1 << split[t]) - 1),
                        ]

        # -- beats to words ---------------------------------------------------------------------------
        beats = Signal(data.ArrayLayout(config.bus_bits, 1 << max_gather), reset_less=True)
        gather_index = Signal(max_gather)
        split_index = Signal(max_split)
        writing = Signal()  # `beats` holds a word (or the words of a beat) still to be written
        beat_split, final, running = Signal(), Signal(), Signal()
        m.d.comb += [
            beat_split.eq(split_index == split_last),
            final.eq(writes_left == 0),
            axi.rready.eq(~writing | beat_split),
            self.done.eq(writing & final),
            self.beat.eq(beat),
            self.stall.eq(running & axi.rready & ~axi.rvalid & ~self.done),
            self.error.eq(beat & axi.rresp.any()),
        ]
        with m.If(writing):
            m.d.sync += [address.eq(address + 1), writes_left.eq(writes_left - 1)]
            with m.If(beat_split | final):
                m.d.sync += [writing.eq(0), split_index.eq(0)]
            with m.Else():
                m.d.sync += split_index.eq(split_index + 1)
        with m.If(beat):
            m.d.sync += gather_index.eq(Mux(gather_index == gather_last, 0, gather_index + 1))
            with m.If(gather_index == gather_last):
                m.d.sync += writing.eq(1)
            for i in range(1 << max_gather):
                with m.If(gather_index == i):
                    m.d.sync += beats[i].eq(axi.rdata)
        with m.If(self.done):
            m.d.sync += running.eq(0)
        with m.If(self.start):
            m.d.sync += [target.eq(load.target), address.eq(load.destination), running.eq(1)]

        # -- to the target ----------------------------------------------------------------------------
        def word(t: isa.Target) -> Value:
            """The memory word of `t` that is being written."""
            bits = 8 * word_bytes(t, config)
            if not split[t]:
                return Value.cast(beats)[:bits]
            return Value.cast(beats)[: config.bus_bits].word_select(split_index[: split[t]], bits)

        for t, port in (
            (isa.Target.ACTIVATION, self.activation),
            (isa.Target.WEIGHT, self.weight),
            (isa.Target.PARAMETER, self.parameter),
            *([(isa.Target.TABLE, self.table)] if config.table else []),
        ):
            m.d.comb += [
                port.en.eq(writing & (target == t)),
                port.addr.eq(address),
                port.data.eq(self._without_gaps(word(t)) if t is isa.Target.PARAMETER else word(t)),
            ]
        m.d.comb += [
            self.instruction_valid.eq(writing & (target == isa.Target.INSTRUCTION)),
            self.instruction_data.eq(beats[0]),
        ]
        return m

    def _without_gaps(self, word: Value) -> Value:
        """A parameter word of memory, in `parameter_bytes` for each channel, as on chip."""
        channel = 8 * self.config.parameter_bytes
        return Cat(
            word[i * channel : i * channel + self.config.parameter_bits]
            for i in range(self.config.vector_lanes)
        )
