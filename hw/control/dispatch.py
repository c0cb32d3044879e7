"""The instruction buffer with its dispatcher, and the queue of a unit with its sequencer."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from sateen.hw import isa
from sateen.hw.control.legality import counted, is_illegal
from sateen.hw.memory.buffers import memory_of
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode, Unit, instructions_of


def instruction_bits(unit: Unit, config: AcceleratorConfig) -> int:
    """Bits of an instruction that reach `unit`: its longest layout."""
    return max(layout.bits_of(config) for layout in instructions_of(unit, config))


def instruction_beats(config: AcceleratorConfig) -> int:
    """Bus beats, and dispatcher cycles, of an instruction."""
    return isa.INSTRUCTION_BITS // config.bus_bits


class UnitControl(wiring.Signature):
    """What drives a unit. `instruction` is valid in the cycle of `start`; `done` comes later."""

    def __init__(self) -> None:
        super().__init__({"start": Out(1), "instruction": Out(isa.INSTRUCTION_BITS), "done": In(1)})


def is_idle(m: Module, start: Value, done: Value) -> Signal:
    """No instruction executes in a unit; in the cycle of `start` none does yet.

    A register: what latches an instruction's fields with it, again and again until the cycle of `start`, does not wait
    for `start`, which is decided late in its cycle.
    """
    idle = Signal(init=1)
    with m.If(start):
        m.d.sync += idle.eq(0)
    with m.Elif(done):
        m.d.sync += idle.eq(1)
    return idle


class Dispatcher(wiring.Component):
    """Keeps two chunks of instructions and hands them to the queues, a beat per cycle, in order.

    A beat that arrives in cycle t is handed over in cycle t + 2 at the earliest. The first beat of an
    instruction waits until its unit's queue has room.

    Members
    -------
    i_valid, i_data : In
        A beat of instructions, in program order; always accepted.
    run : In(1)
        Nothing is handed over without it.
    full : In(units)
        Unit u's queue has no room.
    lane : Out(beats)
        One-hot number of the beat within its instruction.
    data : Out(bus_bits)
        The beat.
    write, push : Out(units)
        Unit u's queue takes the beat; and it is the instruction's last.
    end : Out(1)
        END is at the head.
    illegal : Out(1)
        In the cycle before, an unknown opcode was at the head, or beats arrived that had no room.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        self.beats = instruction_beats(config)
        self.bus_bits = config.bus_bits
        self.depth = 2 * isa.CHUNK * self.beats
        super().__init__(
            {
                "i_valid": In(1),
                "i_data": In(self.bus_bits),
                "run": In(1),
                "full": In(len(Unit)),
                "lane": Out(self.beats),
                "data": Out(self.bus_bits),
                "write": Out(len(Unit)),
                "push": Out(len(Unit)),
                "end": Out(1),
                "illegal": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # `fetched` reaches `written` only when empty, so no beat is read in the cycle in which it is written.
        m.submodules.buffer = buffer = memory_of(shape=self.bus_bits, depth=self.depth)
        write, read = buffer.write_port(), buffer.read_port()

        # One bit more than the address: equal pointers mean empty.
        written = Signal(range(2 * self.depth))
        fetched = Signal.like(written)
        overrun = Signal()
        m.d.comb += [
            write.addr.eq(written[:-1]),
            write.data.eq(self.i_data),
            write.en.eq(self.i_valid),
            read.addr.eq(fetched[:-1]),
            overrun.eq(self.i_valid & (written[:-1] == fetched[:-1]) & (written[-1] != fetched[-1])),
        ]
        with m.If(self.i_valid):
            m.d.sync += written.eq(written + 1)

        # The memory's output register is the head; it holds its beat while read.en is low.
        valid, consume = Signal(), Signal()
        m.d.comb += read.en.eq((written != fetched) & (~valid | consume))
        with m.If(read.en):
            m.d.sync += [fetched.eq(fetched + 1), valid.eq(1)]
        with m.Elif(consume):
            m.d.sync += valid.eq(0)

        if self.beats == 1:
            first = Const(1)
            m.d.comb += self.lane.eq(1)
        else:
            lane = Signal(self.beats, init=1)
            first = lane[0]
            m.d.comb += self.lane.eq(lane)
            with m.If(consume):
                m.d.sync += lane.eq(lane.rotate_left(1))

        unit, end = self._kinds(m, written, fetched, read.en)
        m.d.comb += [
            self.data.eq(read.data),
            consume.eq(valid & self.run & unit.any() & ~(first & (unit & self.full).any())),
            self.write.eq(Mux(consume, unit, 0)),
            self.push.eq(Mux(self.lane[-1], self.write, 0)),
            self.end.eq(valid & end),
        ]
        m.d.sync += self.illegal.eq((valid & ~(unit.any() | end)) | overrun)
        return m

    def _kinds(self, m: Module, written: Signal, fetched: Signal, read_en: Signal) -> tuple[Value, Value]:
        """Unit (one-hot) and "it is END" of the instruction that the head belongs to; all 0 if unknown.

        Decoded when its first beat arrives, as block RAM answers too late in a cycle, and kept beside it.
        """
        lane_bits = exact_log2(self.beats)
        header = data.View(isa.HEADER, self.i_data[: isa.HEADER.size])
        m.submodules.kinds = kinds = memory_of(shape=len(Unit) + 1, depth=2 * isa.CHUNK)
        write, read = kinds.write_port(), kinds.read_port()
        with m.Switch(header.opcode):
            for unit in Unit:
                for layout in instructions_of(unit, self.config):
                    with m.Case(layout.opcode):
                        m.d.comb += write.data.eq(1 << unit)
            with m.Case(Opcode.END):
                m.d.comb += write.data.eq(1 << len(Unit))
        m.d.comb += [
            write.en.eq(self.i_valid & (written[:lane_bits] == 0)),
            write.addr.eq(written[lane_bits:-1]),
            read.en.eq(read_en),
            read.addr.eq(fetched[lane_bits:-1]),
        ]
        return read.data[: len(Unit)], read.data[len(Unit)]


class Sequencer(wiring.Component):
    """A unit's queue, and the rule by which its head starts: the unit is idle and every token is there.

    A queue entry keeps the bits that the unit needs. It is written beat by beat; its first beat needs room.

    Members
    -------
    lane, data, write, push, full
        See `Dispatcher`.
    run : In(1)
        Nothing starts without it.
    boot : In(1)
        LOAD only: the fetch of the first chunk is due; it starts before anything in the queue.
    program : In(32)
        LOAD only: where that chunk is.
    available, take, give : In(units), Out(units), Out(units)
        Bit u: a token from unit u is there; it is taken; one is given to unit u.
    unit : Out(UnitControl())
    pending : Out(1)
        An instruction is at the head.
    executing : Out(1)
        From the cycle after `start` to that of `done`.
    illegal : Out(1)
        In the cycle before, the head would have started, but `legality.is_illegal`.
    """

    def __init__(self, *, config: AcceleratorConfig, unit: Unit):
        self.kind = unit
        self.beats = instruction_beats(config)
        self.bus_bits = config.bus_bits
        self.depth = config.queue_depth
        self.width = instruction_bits(unit, config)
        self.config = config
        super().__init__(
            {
                "lane": In(self.beats),
                "data": In(self.bus_bits),
                "write": In(1),
                "push": In(1),
                "full": Out(1),
                "run": In(1),
                **({"boot": In(1), "program": In(32)} if unit is Unit.LOAD else {}),
                "available": In(len(Unit)),
                "take": Out(len(Unit)),
                "give": Out(len(Unit)),
                "unit": Out(UnitControl()),
                "pending": Out(1),
                "executing": Out(1),
                "illegal": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Beats that hold no needed bit are dropped; an entry is whole beats, so that each can be written.
        kept = min(self.beats, -(-self.width // self.bus_bits))
        beat = min(self.bus_bits, self.width)
        m.submodules.entries = entries = memory.Memory(shape=kept * beat, depth=self.depth, init=[])
        write = entries.write_port(granularity=beat)
        read = entries.read_port(domain="comb")

        level = Signal(range(self.depth + 1))
        waiting = Signal()  # level != 0; this and `full` are registers, for speed
        pop = Signal()
        m.d.comb += [
            write.data.eq(Cat(self.data[:beat] for _ in range(kept))),
            write.en.eq(Mux(self.write, self.lane[:kept], 0)),
        ]
        m.d.sync += level.eq(level + self.push - pop)
        with m.If(self.push & ~pop):
            m.d.sync += [waiting.eq(1), self.full.eq(level == self.depth - 1)]
        with m.Elif(pop & ~self.push):
            m.d.sync += [waiting.eq(level != 1), self.full.eq(0)]
        if self.depth > 1:
            tail, head = Signal(range(self.depth)), Signal(range(self.depth))
            m.d.comb += [write.addr.eq(tail), read.addr.eq(head)]
            m.d.sync += [tail.eq(tail + self.push), head.eq(head + pop)]

        # What decides on the start of the head, from registers: its beats are in the queue a cycle before it can
        # start, but for an instruction of one beat that enters an empty queue; and an instruction takes a cycle.
        entry = read.data if self.beats > 1 else Mux(waiting, read.data, self.data[: kept * beat])
        header = data.View(isa.HEADER, entry[: isa.HEADER.size])
        wait, signal_next, illegal = Signal(len(Unit)), Signal(len(Unit)), Signal()
        m.d.sync += [
            wait.eq(header.wait),
            signal_next.eq(header.signal),
            illegal.eq(is_illegal(self.kind, entry, self.config)),
        ]

        signal = Signal(len(Unit))
        start = self.unit.start
        startable = Signal()
        m.d.comb += [
            self.pending.eq(waiting),
            startable.eq(waiting & ((wait & ~self.available) == 0)),
            start.eq(self.run & ~self.executing & startable & ~illegal),
            pop.eq(start),
            self.unit.instruction.eq(counted(self.kind, read.data[: self.width], self.config)),
            self.take.eq(Mux(pop, wait, 0)),
            self.give.eq(Mux(self.executing & self.unit.done, signal, 0)),
        ]
        m.d.sync += self.illegal.eq(self.run & ~self.executing & startable & illegal)
        with m.If(start):
            m.d.sync += [self.executing.eq(1), signal.eq(signal_next)]
        with m.Elif(self.unit.done):
            m.d.sync += self.executing.eq(0)

        if self.kind is Unit.LOAD:
            fetch = data.View(isa.LOAD, self.unit.instruction[: isa.LOAD.size])
            m.d.comb += start.eq(self.run & ~self.executing & (self.boot | (startable & ~illegal)))
            with m.If(self.boot):
                m.d.comb += [
                    self.pending.eq(1),
                    pop.eq(0),
                    self.unit.instruction.eq(0),
                    fetch.opcode.eq(Opcode.LOAD),
                    fetch.target.eq(isa.Target.INSTRUCTION),
                    fetch.source.eq(self.program),
                    fetch.words.eq(isa.CHUNK),
                ]
                m.d.sync += self.illegal.eq(0)
                with m.If(start):
                    m.d.sync += signal.eq(0)
        return m
