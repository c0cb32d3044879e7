"""GATE: a gradient where the result that it belongs to lets it through, element by element, else zero."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.utils import ceil_log2

from sateen.hw import isa
from sateen.hw.control.dispatch import is_idle
from sateen.hw.formats import circuits
from sateen.hw.isa import getter
from sateen.hw.ports import activation_latency, vector_part
from sateen.hw.terms import Component, Terms
from sateen.hw.vector.pool import pool_latency
from sateen.hw.walk import Walk
from sateen.hw.window import POOL_ORDER, NestedCounter, Widths, Window, window_path, window_terms
from sateen.machine.config import AcceleratorConfig


def gate_cycles(fields: object, config: AcceleratorConfig) -> int:
    """D of a GATE instruction: cycles from start to done; each word that it reads takes one.

    Parameters
    ----------
    fields : mapping or object
        The fields of isa.GATE as integers.
    """
    get = getter(fields)
    return get("out_h") * get("out_w") * get("channel_words") * (2 + get("equal")) + pool_latency(config)


class Gate(wiring.Component):
    """The GATE part of the vector unit.

    Members
    -------
    start : In(1)
        Take `instruction`, an isa.GATE, and begin. Only when idle.
    done : Out(1)
        Strobe with the last write.
    read : Out(ReadPort(log2(act_depth), act_word_bits))
        Activation words, latency `activation_latency(config)`. Padding is not read.
    write : Out(WritePort(log2(act_depth), act_word_bits, slices))
        Whole words.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        self.latency = pool_latency(config)
        super().__init__(vector_part(isa.GATE, config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, i = self.config, self.instruction
        idle = is_idle(m, self.start, self.done)
        m.submodules.window = window = Window(
            order=POOL_ORDER, addr_bits=len(self.read.addr), widths=Widths.of(config)
        )
        m.submodules.gradient = gradient = self._walk(
            idle, i.second_base, i.second_step_x, i.second_step_y, m
        )
        m.submodules.walk = walk = self._walk(idle, i.out_base, i.out_step_x, i.out_step_y, m)

        # what is read: the reference, the pooled result if `equal`, the gradient
        active, equal, phase = Signal(), Signal(), Signal(2)
        distance = Signal(len(self.read.addr), reset_less=True)
        last_phase = phase == Mux(equal, 2, 1)
        step = active & last_phase
        with m.If(idle):
            m.d.sync += [equal.eq(i.equal), distance.eq(i.distance)]
        with m.If(active):
            m.d.sync += phase.eq(Mux(last_phase, 0, phase + 1))
        m.d.comb += [
            *window.set(i, ky=Const(1), kx=Const(1)),
            window.load.eq(idle),
            window.step.eq(step),
            gradient.step.eq(step),
            gradient.pixel_end.eq(window.last.c),
            gradient.row_end.eq(window.last.ox),
            self.read.en.eq(active & (phase.any() | window.inside)),
            self.read.addr.eq(Mux(phase.any(), gradient.addr + Mux(phase[1], distance, 0), window.addr)),
        ]
        with m.If(self.start):
            m.d.sync += active.eq(1)
        with m.Elif(step & window.last.oy):
            m.d.sync += active.eq(0)

        # the same when the words are there
        flags: Value = Cat(
            active, phase, last_phase, window.inside, window.last.c, window.last.ox, window.last.oy
        )
        for k in range(activation_latency(config)):
            late = Signal(len(flags), name=f"flags_{k + 1}")
            m.d.sync += late.eq(flags)
            flags = late
        valid, now, final, inside = flags[0], flags[1:3], flags[3], flags[4]
        words = self._elements(m, idle, valid, now, final, inside, equal)

        writing, pixel_end, row_end, end = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            writing.eq(valid & final),
            Cat(pixel_end, row_end, end).eq(flags[5:]),
        ]
        m.d.comb += [
            walk.step.eq(writing),
            walk.pixel_end.eq(pixel_end),
            walk.row_end.eq(row_end),
            self.write.en.eq(writing),
            self.write.addr.eq(walk.addr),
            self.write.data.eq(words),
            self.done.eq(writing & end),
        ]
        if config.slices > 1:
            m.d.comb += self.write.mask.eq(-1)
        return m

    def _walk(self, idle: Value, base: Value, step_x: Value, step_y: Value, m: Module) -> Walk:
        walk = Walk(addr_bits=len(self.read.addr))
        m.d.comb += [
            walk.load.eq(idle),
            walk.base.eq(base),
            walk.step_x.eq(step_x),
            walk.step_y.eq(step_y),
        ]
        return walk

    def _elements(
        self, m: Module, idle: Value, valid: Value, phase: Value, final: Value, inside: Value, equal: Value
    ) -> Value:
        """The word that is written, in the cycle after its gradient."""
        i, fmt = self.instruction, self.config.activation
        compare = circuits(fmt)
        low, high = Signal(fmt.bits, reset_less=True), Signal(fmt.bits, reset_less=True)
        above, below = Signal(), Signal()
        with m.If(idle):
            m.d.sync += [low.eq(i.low), high.eq(i.high), above.eq(i.above), below.eq(i.below)]
        elements = []
        for e in range(self.config.elements):
            # a reference that is to be compared once more, then the result
            held = Signal(fmt.bits, name=f"held_{e}", reset_less=True)
            open_ = Signal(name=f"open_{e}", reset_less=True)
            word = self.read.data[e * fmt.bits : (e + 1) * fmt.bits]
            between = (~above | compare.greater(word, low)) & (~below | compare.greater(high, word))
            with m.If(valid):
                m.d.sync += held.eq(Mux(final & ~open_, fmt.zero_code, word))
                with m.If(phase == 0):
                    m.d.sync += open_.eq(inside & (equal | between))
                with m.Elif(~final):
                    m.d.sync += open_.eq(open_ & self._same(held, word))
            elements.append(held)
        return Cat(elements)

    def _same(self, a: Value, b: Value) -> Value:
        """The values are equal: the codes, or both are a zero."""
        fmt = self.config.activation
        zeros = [int(c) for c in fmt.codes if fmt.fixed(int(c)) == 0]
        if len(zeros) == 1:
            return a == b
        return (a == b) | (Cat(a == z for z in zeros).any() & Cat(b == z for z in zeros).any())


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    address = ceil_log2(c.act_depth)
    window_terms(c, t, POOL_ORDER, address)
    t.add(one=1, walk=12 * address, read=2 * address, held=2 * c.act_word_bits, open=2 * c.elements)
    for _ in range(3):
        circuits(c.activation).greater_terms(c.elements, t)
    t.add(ff=c.act_word_bits + c.elements + 11 * address + 2 * c.activation.bits)
    t.ff["one"] = 1


GATE = Component(
    "gate",
    (Gate, Window, NestedCounter, Walk),
    _terms,
    instances=lambda c: int(c.gates),
    paths=lambda c, d: {"pool": window_path(c, d)} if c.gates else {},
)
