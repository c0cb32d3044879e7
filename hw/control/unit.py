"""Control: what the dispatcher, the sequencers and the tokens make a program run, and how a run ends.

The cycle in which each thing happens is fixed by docs/isa.md, "Tokens and time"; the cycle model computes the
same recurrences.
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, ResetInserter, Signal, Value, unsigned
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from sateen.hw.control.dispatch import Dispatcher, Sequencer, UnitControl, instruction_beats, instruction_bits
from sateen.hw.terms import Component, Terms
from sateen.machine.config import AcceleratorConfig
from sateen.machine.instruction_use import TOKEN_MASKS, instruction_mask
from sateen.machine.isa import BUS, CHUNK, Unit


class Error(enum.IntEnum, shape=unsigned(8)):  # type: ignore[call-arg]
    """Why a run ended; what STATUS shows."""

    NONE = 0
    ILLEGAL_INSTRUCTION = 1
    READ_ERROR = 2
    WRITE_ERROR = 3
    BANK_CONFLICT = 4
    TOKEN_OVERFLOW = 5
    TIMEOUT = 6


Errors = tuple[tuple[int, Value], ...]


class Tokens(wiring.Component):
    """A counter for each ordered pair of units.

    Parameters
    ----------
    bits : int
        Of a counter; one more token than it holds ends the run with TOKEN_OVERFLOW.
    pairs : int
        Those that have a counter, as in `give`; the others never have a token.

    Members
    -------
    give : In(n*n) for n units, bit n*g + t
        Unit g gives one to unit t.
    take : In(n*n), bit n*t + g
        Unit t takes one that unit g gave.
    available : Out(n*n), bit n*t + g
        Unit t has one from unit g.
    overflow : Out(1)
        In the cycle before, a counter was full and given one more.
    """

    def __init__(self, *, bits: int, pairs: int):
        self.bits = bits
        self.pairs = pairs
        n = len(Unit) ** 2
        super().__init__({"give": In(n), "take": In(n), "available": Out(n), "overflow": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        n = len(Unit)
        overflows = []
        for taker in Unit:
            for giver in Unit:
                if not self.pairs >> (n * giver + taker) & 1:
                    continue
                count = Signal(self.bits, name=f"{giver.label}_to_{taker.label}")
                give, take = self.give[n * giver + taker], self.take[n * taker + giver]
                available = self.available[n * taker + giver]  # count != 0, as a register
                with m.If(give & ~take):
                    m.d.sync += [count.eq(count + 1), available.eq(1)]
                with m.Elif(take & ~give):
                    m.d.sync += [count.eq(count - 1), available.eq(count != 1)]
                overflows.append(give & ~take & count.all())
        m.d.sync += self.overflow.eq(Cat(overflows).any())
        return m


class Control(wiring.Component):
    """The run: from `start`, through instructions and their tokens, to END or an error.

    After an error no instruction starts; the run ends when the units on the bus, and so all bursts, have completed. If
    memory does not answer even then, a second watchdog period (`expired`) ends the run, and `ready` stays low until it
    does answer.

    Members
    -------
    start, soft_reset : In(1)
        One-cycle strobes. `start` is ignored unless `ready`.
    program : In(32)
        Address of the first chunk, in bytes from the base.
    timeout, expired : In(1)
        The watchdog's first and second period are over.
    read_error, write_error, bank_conflict : In(1)
    i_valid, i_data
        See `Dispatcher`.
    load, matrix, vector, store : Out(UnitControl())
        For each unit.
    clear : Out(1)
        Resets the units: a run starts in the next cycle, or was abandoned.
    finish : Out(1)
        One-cycle strobe in the cycle of `done`.
    ready, busy, done : Out(1)
    error : Out(Error)
        The first error, until the next run.
    executing, pending : Out(units)
        By unit: executing (the cycle of `start` included); with an instruction that does not start.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "soft_reset": In(1),
                "program": In(32),
                "timeout": In(1),
                "expired": In(1),
                "read_error": In(1),
                "write_error": In(1),
                "bank_conflict": In(1),
                "i_valid": In(1),
                "i_data": In(config.bus_bits),
                **{u.label: Out(UnitControl()) for u in Unit},
                "clear": Out(1),
                "finish": Out(1),
                "ready": Out(1),
                "busy": Out(1),
                "done": Out(1),
                "error": Out(Error),
                "executing": Out(len(Unit)),
                "pending": Out(len(Unit)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        n = len(Unit)
        dispatcher, tokens = (
            Dispatcher(config=self.config),
            Tokens(bits=self.config.token_bits, pairs=self.config.token_pairs),
        )
        sequencers = [Sequencer(config=self.config, unit=u) for u in Unit]
        m.submodules.dispatcher = ResetInserter(self.clear)(dispatcher)
        m.submodules.tokens = ResetInserter(self.clear)(tokens)
        run = Signal()  # the state is RUN; a register of its own, as every start depends on it
        m.d.comb += [
            dispatcher.i_valid.eq(self.i_valid),
            dispatcher.i_data.eq(self.i_data),
            dispatcher.run.eq(run),
            dispatcher.full.eq(Cat(s.full for s in sequencers)),
            tokens.give.eq(Cat(s.give for s in sequencers)),
            tokens.take.eq(Cat(s.take for s in sequencers)),
        ]
        for u, s in zip(Unit, sequencers, strict=True):
            name = u.label
            m.submodules[f"{name}_sequencer"] = ResetInserter(self.clear)(s)
            wiring.connect(m, s.unit, wiring.flipped(getattr(self, name)))
            m.d.comb += [
                s.lane.eq(dispatcher.lane),
                s.data.eq(dispatcher.data),
                s.write.eq(dispatcher.write[u]),
                s.push.eq(dispatcher.push[u]),
                s.run.eq(run),
                s.available.eq(tokens.available.word_select(u, n)),
                self.executing[u].eq(s.executing | s.unit.start),
                self.pending[u].eq(s.pending & ~s.executing & ~s.unit.start),
            ]

        boot = Signal()
        load = sequencers[Unit.LOAD]
        m.d.comb += [load.boot.eq(boot), load.program.eq(self.program)]
        with m.If(load.unit.start):
            m.d.sync += boot.eq(0)

        idle = Signal()  # no instruction anywhere but at the dispatcher's head
        bus_idle = Signal()
        m.d.comb += [
            idle.eq(~Cat((s.pending, s.executing) for s in sequencers).any()),
            bus_idle.eq(~reduce(or_, (sequencers[u].executing for u in BUS))),
        ]
        self._run(m, run, boot, dispatcher.end & idle, bus_idle, self._errors(dispatcher, sequencers, tokens))
        return m

    def _errors(self, dispatcher: Dispatcher, sequencers: list[Sequencer], tokens: Tokens) -> Errors:
        """(code, condition), most telling first: a wrong instruction may follow from an error of the bus."""
        illegal = dispatcher.illegal | Cat(s.illegal for s in sequencers).any()
        return (
            (Error.READ_ERROR, self.read_error),
            (Error.WRITE_ERROR, self.write_error),
            (Error.BANK_CONFLICT, self.bank_conflict),
            (Error.TOKEN_OVERFLOW, tokens.overflow),
            (Error.ILLEGAL_INSTRUCTION, illegal),
            (Error.TIMEOUT, self.timeout),
        )

    def _run(
        self, m: Module, run: Signal, boot: Signal, ended: Value, bus_idle: Signal, errors: Errors
    ) -> None:
        def finish(next_state: str) -> None:
            m.d.comb += self.finish.eq(1)
            m.d.sync += [self.done.eq(1), run.eq(0)]
            m.next = next_state

        def clear() -> None:
            m.d.comb += self.clear.eq(1)
            m.d.sync += [self.done.eq(0), self.error.eq(Error.NONE), boot.eq(0)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.ready.eq(1)
                with m.If(self.soft_reset):
                    clear()
                with m.Elif(self.start):
                    clear()
                    m.d.sync += [boot.eq(1), run.eq(1)]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.busy.eq(1)
                with m.If(self.soft_reset):
                    m.d.sync += run.eq(0)
                    m.next = "ABANDON"
                with m.Elif(Cat(condition for _, condition in errors).any()):
                    for code, condition in reversed(errors):
                        with m.If(condition):
                            m.d.sync += self.error.eq(code)
                    m.d.sync += run.eq(0)
                    m.next = "HALT"
                with m.Elif(ended):
                    finish("IDLE")
            with m.State("HALT"):  # after an error
                m.d.comb += self.busy.eq(1)
                with m.If(self.soft_reset):
                    m.next = "ABANDON"
                with m.Elif(bus_idle):
                    finish("IDLE")
                with m.Elif(self.expired):
                    finish("STUCK")
            with m.State("STUCK"):  # ended, but memory owes a response
                with m.If(self.soft_reset):
                    clear()
                    m.next = "IDLE"
                with m.Elif(bus_idle):
                    m.next = "IDLE"
            with m.State("ABANDON"):  # after a soft reset
                m.d.comb += self.busy.eq(1)
                with m.If(bus_idle | self.soft_reset):
                    clear()
                    m.next = "IDLE"


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    beats = instruction_beats(c)
    depth = 2 * CHUNK * beats
    t.store(t.technology.memory(c.bus_bits, depth), c.bus_bits)
    t.store(t.technology.memory(len(Unit) + 1, 2 * CHUNK), len(Unit) + 1)
    pairs = c.token_pairs.bit_count()
    t.add(one=1, tokens=3 * pairs * c.token_bits, pairs=pairs, pointers=2 * ceil_log2(2 * depth), lanes=beats)
    # a token that no unit takes needs no bit in the queues
    t.add(ff=pairs * (c.token_bits + 3) + 2 * ceil_log2(2 * depth) + (beats if beats > 1 else 0))
    t.ff["one"] = 1
    for unit in Unit:
        kept = min(beats, -(-instruction_bits(unit, c) // c.bus_bits))
        beat = min(c.bus_bits, instruction_bits(unit, c))
        used = instruction_mask(unit, c) | TOKEN_MASKS
        found = t.technology.memory(kept * beat, c.queue_depth, slices=kept, synchronous=False)
        if found.kind == "lut":  # a cell is left out if nothing uses its bits
            cells = sum(
                bool(used >> n * beat + low & (1 << min(found.unit, beat - low)) - 1)
                for n in range(kept)
                for low in range(0, beat, found.unit)
            )
            t.add(memory=found.ways * cells * (found.units // found.cells), instruction=used.bit_count())
        else:
            t.add(instruction=used.bit_count(), ff=c.queue_depth * used.bit_count())
            t.read_registers(used.bit_count(), c.queue_depth)
        t.add(enables=kept, queue_pointers=2 * ceil_log2(c.queue_depth), levels=ceil_log2(c.queue_depth + 1))
        t.add(ff=2 * ceil_log2(c.queue_depth) + ceil_log2(c.queue_depth + 1))
        if unit is Unit.LOAD:
            t.add(words=c.word_bits)
    t.ff["one"] = 1


CONTROL = Component(
    "control",
    (Control, Dispatcher, Tokens, Sequencer),
    _terms,
    paths=lambda c, d: {"control": d.memory + 2 * d.lut},
)
