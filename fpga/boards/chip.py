"""What a bitstream holds: the system on the chip behind a board's three pins, with its clock and its reset."""

import math

from amaranth.hdl import Cat, ClockDomain, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sateen.fpga.boards.catalog import Board
from sateen.fpga.boards.clocking import dividers, pll
from sateen.hw.chip.verilog import convert

TOP = "chip"
RESET_S = 20e-6
"""How long the reset lasts after the clock is there: block RAM of an iCE40 cannot be read in the first 10 µs or so."""


class Chip(wiring.Component):
    """A component with one clock domain and the ports `rx` and `tx`, on a board.

    Parameters
    ----------
    inside : wiring.Component
        Such as `sateen.hw.chip.soc.Soc`.
    board : Board
    clock_hz : int
        Of `inside`, made by the part's PLL from the board's clock.

    Members
    -------
    clk, rx, tx : In(1), In(1), Out(1)
        The pins.

    Raises
    ------
    ConfigError
        The PLL cannot make the clock.
    """

    def __init__(self, *, inside: wiring.Component, board: Board, clock_hz: int):
        self.inside = inside
        self.board = board
        self.clock_hz = clock_hz
        self.dividers = dividers(board.part.architecture, board.resolve().clk_hz, clock_hz)
        super().__init__({"clk": In(1), "rx": In(1, init=1), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = sync = ClockDomain()
        # Counts from the end of configuration; a PLL that loses its lock resets the chip.
        m.domains.early = early = ClockDomain(reset_less=True)
        count = Signal(range(math.ceil(RESET_S * self.clock_hz) + 1))
        full = (1 << len(count)) - 1
        if self.dividers is None:
            clk, stable = self.clk, 1
        else:
            clk, locked = pll(m, self.board.part.architecture, self.dividers, self.clk, self.board.family)
            seen = Signal(2)  # synchronised
            m.d.early += seen.eq(Cat(locked, seen))
            stable = seen[-1]
        with m.If(~stable if self.dividers else 0):
            m.d.early += count.eq(0)
        with m.Elif(count != full):
            m.d.early += count.eq(count + 1)
        reset = Signal(init=1)
        m.d.early += reset.eq(count != full)
        m.d.comb += [early.clk.eq(clk), sync.clk.eq(clk), sync.rst.eq(reset)]
        m.submodules.inside = self.inside
        m.d.comb += [self.inside.rx.eq(self.rx), self.tx.eq(self.inside.tx)]
        return m

    def verilog(self) -> str:
        """Its top module is called `chip`."""
        return convert(self, TOP)
