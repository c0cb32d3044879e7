"""Which words of a FIR's pass begin a window: those of the first `out_h` lines, in each the first `out_w`."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sateen.hw.terms import Terms
from sateen.machine.config import AcceleratorConfig


class Windows(wiring.Component):
    """Counts the words of a pass, and keeps what the array is to be.

    Members
    -------
    load : In(1)
        Latch `filter`, `slice`, `out_w` and `out_h`, and begin a pass.
    filter, slice, out_w, out_h : In
        The instruction is a FIR, and its fields; of another one every word begins a window of its own.
    step : In(1)
        The word is read.
    line_end, pass_end : In(1)
        Belong to `step`: it is the last of its line, of the pass.
    begins, last : Out(1)
        The word begins a window; it is the last one that does.
    filters, slice_kept : Out
        What was latched.
    """

    latency = 0
    initiation_interval = 1

    def __init__(self, *, config: AcceleratorConfig):
        self.bits = config.output_bits
        super().__init__(
            {
                "load": In(1),
                "filter": In(1),
                "slice": In(config.slice_bits),
                "out_w": In(self.bits),
                "out_h": In(self.bits),
                "step": In(1),
                "line_end": In(1),
                "pass_end": In(1),
                "begins": Out(1),
                "last": Out(1),
                "filters": Out(1),
                "slice_kept": Out(config.slice_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width, height = Signal(self.bits, reset_less=True), Signal(self.bits, reset_less=True)
        column, row = (
            Signal(self.bits),
            Signal(self.bits),
        )  # windows of the line, lines of windows, not yet begun
        m.d.comb += [
            self.begins.eq(~self.filters | (column.any() & row.any())),
            self.last.eq(Mux(self.filters, (column == 1) & (row == 1), self.pass_end)),
        ]
        with m.If(self.load):
            m.d.sync += [
                self.filters.eq(self.filter),
                self.slice_kept.eq(self.slice),
                width.eq(self.out_w),
                height.eq(self.out_h),
                column.eq(self.out_w),
                row.eq(self.out_h),
            ]
        with m.Elif(self.step):
            m.d.sync += column.eq(Mux(self.line_end, width, Mux(column.any(), column - 1, 0)))
            with m.If(self.line_end):
                m.d.sync += row.eq(Mux(self.pass_end, height, Mux(row.any(), row - 1, 0)))
        return m


def windows_terms(c: AcceleratorConfig, t: Terms) -> None:
    t.add(counts=5 * 2 * c.output_bits, ff=4 * c.output_bits + c.slice_bits + 1)
