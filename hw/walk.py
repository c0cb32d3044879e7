"""The address of a tensor's words, pixel by pixel, for a unit that already counts the pixels elsewhere."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Walk(wiring.Component):
    """`base + y*step_y + x*step_x + c`, by additions; what ends with a word is told from outside.

    Members
    -------
    load : In(1)
        Latch `base`, `step_x` and `step_y`; `addr` is `base` from the next cycle on.
    step : In(1)
        Go to the next word in the next cycle.
    pixel_end, row_end : In(1)
        With `step`: the word is its pixel's, or its row's, last. A row's end is a pixel's end.
    addr : Out(addr_bits)
        Wraps at its width.
    """

    latency = 1
    initiation_interval = 1

    def __init__(self, *, addr_bits: int):
        super().__init__(
            {
                "load": In(1),
                "base": In(addr_bits),
                "step_x": In(addr_bits),
                "step_y": In(addr_bits),
                "step": In(1),
                "pixel_end": In(1),
                "row_end": In(1),
                "addr": Out(addr_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row, pixel, addr, step_x, step_y = (
            Signal(len(self.addr), name=name, reset_less=True)
            for name in ("row", "pixel", "word", "latched_step_x", "latched_step_y")
        )
        # one adder: where the next word's address starts from, and how far it is from there
        start = Mux(self.row_end, row, Mux(self.pixel_end, pixel, addr))
        distance = Mux(self.row_end, step_y, Mux(self.pixel_end, step_x, 1))
        target = Signal.like(addr)
        m.d.comb += [target.eq(Mux(self.load, self.base, start + distance)), self.addr.eq(addr)]
        with m.If(self.load):
            m.d.sync += [step_x.eq(self.step_x), step_y.eq(self.step_y)]
        with m.If(self.load | self.step):
            m.d.sync += addr.eq(target)
        with m.If(self.load | (self.step & self.pixel_end)):
            m.d.sync += pixel.eq(target)
        with m.If(self.load | (self.step & self.row_end)):
            m.d.sync += row.eq(target)
        return m
