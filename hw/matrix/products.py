"""OUTER: which weight word meets a word, which element of each group is multiplied, and how long all of it takes.

A pass goes over all pixels of the window, all images of them, one a cycle: every row multiplies one element of its
group by the pixel's weights, and each element of the array adds to its own sum. Then the sums go down the columns.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sateen.hw.terms import Terms
from sateen.machine.config import AcceleratorConfig


class Products(wiring.Component):
    """Walks the weights of a pass, and counts the elements.

    Members
    -------
    load : In(1)
        Latch `outer`, `base` and `step`, and begin.
    outer, base, step : In
        The instruction is an OUTER, and its fields `weight_base` and `weight_step`.
    read : In(1)
        A word and its weights are read.
    addr : In(weight_address_bits)
        Address of these weights.
    pass_end, element_end : In(1)
        Belong to `read`: the word is its pass's last; and the pass is the last of its element.
    outer_kept : Out(1)
        What was latched.
    next_addr : Out(weight_address_bits)
        Of the weights after these; wraps at the buffer's size.
    element : Out(range(dense_passes))
        Of each row's group.
    """

    latency = 0
    initiation_interval = 1

    def __init__(self, *, config: AcceleratorConfig):
        self.address_bits = config.weight_address_bits
        super().__init__(
            {
                "load": In(1),
                "outer": In(1),
                "base": In(self.address_bits),
                "step": In(self.address_bits),
                "read": In(1),
                "addr": In(self.address_bits),
                "pass_end": In(1),
                "element_end": In(1),
                "outer_kept": Out(1),
                "next_addr": Out(self.address_bits),
                "element": Out(range(config.dense_passes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        base, step = (Signal(self.address_bits, name=f"kept_{n}", reset_less=True) for n in ("base", "step"))
        m.d.comb += self.next_addr.eq(Mux(self.pass_end, base, self.addr + step))
        with m.If(self.load):
            m.d.sync += [
                self.outer_kept.eq(self.outer),
                base.eq(self.base),
                step.eq(self.step),
                self.element.eq(0),
            ]
        with m.Elif(self.read & self.element_end):
            m.d.sync += self.element.eq(self.element + 1)
        return m


def products_terms(c: AcceleratorConfig, t: Terms) -> None:
    address, element = c.weight_address_bits, (c.dense_passes - 1).bit_length()
    t.add(walked=3 * address, counts=element, ff=2 * address + element + 1)
