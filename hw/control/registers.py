"""The control registers on AXI4-Lite, with the counters and the watchdog. The map is in docs/isa.md."""

from collections.abc import Callable
from functools import reduce
from operator import or_

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sateen.hw.control.counters import Counters
from sateen.hw.control.unit import Error
from sateen.hw.memory.axi import AXI4Lite, Response
from sateen.hw.terms import Component, Terms
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import BUS, Unit
from sateen.machine.registers import (
    ADDRESS_BITS,
    BASE_ALIGN,
    COUNTED,
    COUNTERS,
    ID,
    VERSION,
    Register,
    config_word,
)

COUNTING = (Register.CYCLES_LOW, *COUNTERS.values(), Register.BEATS_READ, Register.BEATS_WRITTEN)
"""Addresses of what is counted, CYCLES' upper word apart."""
SLOTS = 1 << (max(COUNTING) - min(COUNTING) >> 2).bit_length()
"""Words of the counters' memory: addresses of words, modulo these, tell all counters apart."""


class Registers(wiring.Component):
    """AXI4-Lite registers: one read and one write at a time, a write answered one cycle after it is complete, a
    read two; that of a counter when its turn comes, at most SLOTS cycles later.

    Address and data of a write come in any order. A refused access changes nothing and is answered SLVERR.

    Members
    -------
    bus : In(AXI4Lite(addr_bits=ADDRESS_BITS))
    interrupt : Out(1)
        Level: enabled and pending.
    base, program : Out(64), Out(32)
        What the host set; constant while busy.
    data, stride : Out(32)
        Likewise, of a machine with several arrays.
    start, soft_reset, timeout, expired : Out(1)
        See `Control`. `start` comes only while `ready`.
    ready, busy, done, error, finish : In
        See `Control`.
    executing, pending, stall : In(units)
        By unit, what to count in this cycle.
    beats : In(2)
        A beat is read, written.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        several = {"data": Out(32), "stride": Out(32)} if config.arrays > 1 else {}
        super().__init__(
            {
                "bus": In(AXI4Lite(addr_bits=ADDRESS_BITS)),
                "interrupt": Out(1),
                "base": Out(64),
                "program": Out(32),
                "start": Out(1),
                "soft_reset": Out(1),
                "timeout": Out(1),
                "expired": Out(1),
                "ready": In(1),
                "busy": In(1),
                "done": In(1),
                "error": In(Error),
                "finish": In(1),
                "executing": In(len(Unit)),
                "pending": In(len(Unit)),
                "stall": In(len(Unit)),
                "beats": In(2),
            }
            | several
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        interrupt_enable, interrupt_pending = Signal(), Signal()
        # Bits that no address has cannot be set.
        width = self.config.bus_address_bits
        base_low, base_high = Signal(min(32, width)), Signal(max(0, width - 32))
        program = Signal(self.config.memory_bits)
        watchdog = Signal(32 if self.config.counters else 0)
        m.d.comb += [
            self.interrupt.eq(interrupt_enable & interrupt_pending),
            self.base.eq(Cat(base_low, base_high)),
            self.program.eq(program),
        ]
        if self.config.counters:
            self._watch(m, watchdog)
        layout = self._layout(m) if self.config.arrays > 1 else {}
        status = Cat(self.busy, self.done, self.ready, C(0, 5), self.error)
        self._read(
            m,
            {
                Register.ID: C(ID, 32),
                Register.VERSION: C(VERSION, 32),
                Register.CONFIG: C(config_word(self.config), 32),
                Register.STATUS: status,
                Register.INTERRUPT: Cat(interrupt_enable, interrupt_pending),
                Register.BASE_LOW: base_low,
                Register.BASE_HIGH: base_high,
                Register.PROGRAM: self.program,
                Register.WATCHDOG: watchdog,
                **layout,
            },
        )

        # Registers, as they reset all units. No write can come in between: the next takes two cycles.
        m.d.sync += [self.start.eq(0), self.soft_reset.eq(0)]

        def ctrl(bits: Value) -> None:
            m.d.sync += [self.start.eq(bits[0]), self.soft_reset.eq(bits[1])]

        def interrupt(bits: Value, strobe: Value) -> None:
            with m.If(strobe[0]):
                m.d.sync += interrupt_enable.eq(bits[0])
            with m.If(bits[1]):
                m.d.sync += interrupt_pending.eq(0)

        def store(target: Signal) -> Callable[[Value, Value], None]:
            def act(bits: Value, strobe: Value) -> None:
                for n in range(-(-len(target) // 8)):
                    byte = slice(8 * n, 8 * n + 8)
                    with m.If(strobe[n]):
                        m.d.sync += target[byte].eq(bits[byte])

            return act

        def aligned(bits: Value, size: int) -> Value:
            return self.ready & ~bits[: (size - 1).bit_length()].any()

        self._write(
            m,
            {  # register: (allowed, what it does), both given the bits written, zero where no byte is strobed
                Register.CTRL: (lambda b: ~b[0] | (self.ready & ~b[1]), lambda b, strobe: ctrl(b)),
                Register.INTERRUPT: (lambda b: C(1), interrupt),
                Register.BASE_LOW: (lambda b: aligned(b, BASE_ALIGN), store(base_low)),
                Register.BASE_HIGH: (lambda b: self.ready, store(base_high)),
                Register.PROGRAM: (lambda b: aligned(b, self.config.beat_bytes), store(program)),
                Register.WATCHDOG: (lambda b: self.ready, store(watchdog)),
                **{r: (lambda b: aligned(b, BASE_ALIGN), store(kept)) for r, kept in layout.items()},
            },
        )
        # Last, so that an interrupt in the cycle in which the previous one is cleared is not lost.
        with m.If(self.finish):
            m.d.sync += interrupt_pending.eq(1)
        return m

    def _layout(self, m: Module) -> dict[int, Signal]:
        """Where the arrays' own data lie."""
        data, stride = (Signal(self.config.memory_bits, name=name) for name in ("own_data", "stride"))
        m.d.comb += [self.data.eq(data), self.stride.eq(stride)]
        return {Register.DATA: data, Register.STRIDE: stride}

    def _events(self) -> dict[int, Value]:
        """What is counted while busy, by address."""
        events: dict[int, Value] = {Register.CYCLES_LOW: C(1)}
        for unit in Unit:
            executing, pending = self.executing[unit], self.pending[unit]
            happens = {
                "busy": executing,
                "wait": pending & ~executing,
                "idle": ~pending & ~executing,
                "stall": self.stall[unit],
            }
            events |= {COUNTERS[name, unit]: happens[name] for name in COUNTED}
        return events | {Register.BEATS_READ: self.beats[0], Register.BEATS_WRITTEN: self.beats[1]}

    def _count(self, m: Module) -> Counters:
        """All counters start at 0 and count while busy; what happens in a cycle is counted in the next."""
        events = self._events()
        slots = tuple((address >> 2) % SLOTS for address in events)
        wide = (Register.CYCLES_LOW >> 2) % SLOTS
        m.submodules.counters = counters = Counters(slots=SLOTS, events=slots, wide=wide)
        m.d.comb += counters.clear.eq(self.start)
        m.d.sync += counters.events.eq(Cat(self.busy & event for event in events.values()))
        return counters

    def _watch(self, m: Module, watchdog: Signal) -> None:
        """A run that started in s has `timeout` in s + 1 + WATCHDOG, `expired` WATCHDOG cycles later."""
        left = Signal(32)  # cycles of the period, this one included; 0: it does not run
        less = Signal(33)
        late = Signal()  # the first period is over
        end = Signal()
        m.d.comb += [less.eq(left - 1), end.eq(self.busy & (left == 1))]
        m.d.sync += [self.timeout.eq(end & ~late), self.expired.eq(end & late)]
        with m.If(self.start):
            m.d.sync += [left.eq(watchdog), late.eq(0)]
        with m.Elif(end):
            m.d.sync += [left.eq(Mux(late, 0, watchdog)), late.eq(1)]
        with m.Elif(self.busy & ~less[32]):
            m.d.sync += left.eq(less)

    def _read(self, m: Module, values: dict[int, Value]) -> None:
        """Registers are answered at once, counters when their turn comes."""
        bus = self.bus
        address, asked, answer = Signal(ADDRESS_BITS - 2), Signal(), Signal()
        m.d.comb += bus.arready.eq(~asked & ~bus.rvalid)
        with m.If(bus.rvalid & bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        m.d.sync += asked.eq(bus.arvalid & bus.arready | asked & ~answer)
        with m.If(bus.arready):
            m.d.sync += address.eq(bus.araddr[2:])
        if self.config.counters:
            counters = self._count(m)
            values |= dict.fromkeys(COUNTING, counters.value)
            values[Register.CYCLES_HIGH] = counters.high
            waits = reduce(or_, (address == a >> 2 for a in COUNTING))
            m.d.comb += [
                counters.read.eq(asked & waits),
                counters.slot.eq(address),
                answer.eq(asked & (counters.valid | ~waits)),
            ]
        else:
            counting, cycles = Signal(), Signal(32)
            m.d.sync += [counting.eq(self.busy), cycles.eq(cycles + counting)]
            with m.If(self.start):
                m.d.sync += cycles.eq(0)
            values |= dict.fromkeys((*COUNTING, Register.CYCLES_HIGH), C(0, 32))
            values[Register.CYCLES_LOW] = cycles
            m.d.comb += answer.eq(asked)
        with m.If(answer):
            m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(0), bus.rresp.eq(Response.SLVERR)]
            with m.Switch(address):
                for place, value in values.items():
                    with m.Case(place >> 2):
                        m.d.sync += [bus.rdata.eq(value), bus.rresp.eq(Response.OKAY)]

    def _write(self, m: Module, actions: dict) -> None:
        bus = self.bus
        address, word, strobe = Signal(ADDRESS_BITS - 2), Signal(32), Signal(4)
        has_address, has_word = Signal(), Signal()
        m.d.comb += [bus.awready.eq(~has_address), bus.wready.eq(~has_word)]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [has_address.eq(1), address.eq(bus.awaddr[2:])]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [has_word.eq(1), word.eq(bus.wdata), strobe.eq(bus.wstrb)]

        with m.If(bus.bvalid & bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        bits = word & Cat(bit.replicate(8) for bit in strobe)
        with m.If(has_address & has_word & (~bus.bvalid | bus.bready)):
            m.d.sync += [has_address.eq(0), has_word.eq(0), bus.bvalid.eq(1), bus.bresp.eq(Response.SLVERR)]
            with m.Switch(address):
                for register, (allowed, act) in actions.items():
                    with m.Case(register >> 2), m.If(allowed(bits)):
                        m.d.sync += bus.bresp.eq(Response.OKAY)
                        act(bits, strobe)


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    t.add(one=1, counters=c.counters, address=c.bus_address_bits, program=c.memory_bits)
    written = 32 if c.counters else max(min(32, c.bus_address_bits), c.memory_bits)
    t.add(ff=c.bus_address_bits + c.memory_bits + written + -(-written // 8))
    if c.arrays > 1:
        t.add(layout=2 * c.memory_bits, ff=2 * c.memory_bits)
    if c.counters:
        seen, turn = SLOTS.bit_length(), (SLOTS - 1).bit_length()
        events = len(COUNTING) - (len(Unit) - len(BUS))  # other units never stall
        t.add(
            ff=(1 + seen) * events + 32 + 2 * (seen + turn) + 4
        )  # a word of the memory is read into registers
        t.add(ff=32 + 2 * 32 + 3)  # CYCLES' upper word, the watchdog
    else:
        t.add(ff=32 + 1)
    t.ff["one"] = 1


REGISTERS = Component(
    "registers",
    (Registers, Counters),
    _terms,
    paths=lambda c, d: {"registers": d.register + 2 * d.lut + d.carry(32)},
)
