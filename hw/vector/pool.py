"""POOL: the maximum by value over a window, element by element, one tap a cycle."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.utils import ceil_log2

from sateen.hw import isa
from sateen.hw.control.dispatch import is_idle
from sateen.hw.formats import circuits
from sateen.hw.ports import activation_latency, vector_part
from sateen.hw.terms import Component, Terms
from sateen.hw.walk import Walk
from sateen.hw.window import POOL_ORDER, NestedCounter, Widths, Window, window_path, window_terms
from sateen.machine.config import AcceleratorConfig


def pool_latency(config: AcceleratorConfig) -> int:
    """Cycles from the address of a window's last tap to the write; of a GATE, from that of a word's gradient."""
    return activation_latency(config) + 1


class Pool(wiring.Component):
    """The POOL half of the vector unit. Of equal elements the first tap's stays.

    Members
    -------
    start : In(1)
        Take `instruction`, an isa.POOL, and begin. Only when idle.
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
        super().__init__(vector_part(isa.POOL, config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, i = self.config, self.instruction
        fmt, compare = config.activation, circuits(config.activation)
        idle = is_idle(m, self.start, self.done)
        m.submodules.window = window = Window(
            order=POOL_ORDER, addr_bits=len(self.read.addr), widths=Widths.of(config)
        )
        active = Signal()
        m.d.comb += [
            *window.set(i),
            window.load.eq(idle),
            window.step.eq(active),
            self.read.en.eq(active & window.inside),
            self.read.addr.eq(window.addr),
        ]
        with m.If(self.start):
            m.d.sync += active.eq(1)
        with m.Elif(window.last.oy):
            m.d.sync += active.eq(0)

        # from the address to the data
        latency = activation_latency(config)
        valid, inside, first = Signal(latency), Signal(latency), Signal(latency)
        for pipeline, now in ((valid, active), (inside, window.inside), (first, window.first.ky)):
            m.d.sync += pipeline.eq(Cat(now, pipeline))
        last = window.last
        for k in range(latency):
            delayed = Signal.like(last, name=f"last_{k + 1}")
            m.d.sync += delayed.eq(last)
            last = delayed

        lowest = int(fmt.from_fixed(fmt.min_fixed))
        best = [Signal(fmt.bits, name=f"best_{e}", reset_less=True) for e in range(config.elements)]
        with m.If(valid[-1]):
            for e, element in enumerate(best):
                word = self.read.data[e * fmt.bits : (e + 1) * fmt.bits]
                with m.If(first[-1] | (inside[-1] & compare.greater(word, element))):
                    m.d.sync += element.eq(Mux(inside[-1], word, lowest))

        writing, pixel_end, row_end, end = Signal(), Signal(), Signal(), Signal()
        m.submodules.walk = walk = Walk(addr_bits=len(self.write.addr))
        m.d.sync += [
            writing.eq(valid[-1] & last.ky),
            pixel_end.eq(last.c),
            row_end.eq(last.ox),
            end.eq(last.oy),
        ]
        m.d.comb += [
            walk.load.eq(idle),
            walk.base.eq(i.out_base),
            walk.step_x.eq(i.out_step_x),
            walk.step_y.eq(i.out_step_y),
            walk.step.eq(writing),
            walk.pixel_end.eq(pixel_end),
            walk.row_end.eq(row_end),
            self.write.en.eq(writing),
            self.write.addr.eq(walk.addr),
            self.write.data.eq(Cat(best)),
            self.done.eq(writing & end),
        ]
        if config.slices > 1:
            m.d.comb += self.write.mask.eq(-1)
        return m


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    address = ceil_log2(c.act_depth)
    window_terms(c, t, POOL_ORDER, address)
    t.add(one=1, walk=6 * address, best=c.act_word_bits)
    circuits(c.activation).greater_terms(c.elements, t)
    t.add(ff=c.act_word_bits + 5 * address)
    t.ff["one"] = 1


POOL = Component(
    "pool",
    (Pool, Window, NestedCounter, Walk),
    _terms,
    paths=lambda c, d: {"pool": window_path(c, d)},
)
