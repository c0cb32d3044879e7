"""What a bitstream holds: the system on the chip behind a board's three pins, with its clock and its reset."""

import json
import math

from amaranth.hdl import Cat, ClockDomain, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sateen.errors import LimitError
from sateen.fpga.boards.catalog import Board
from sateen.fpga.boards.clocking import Dividers, dividers, highest_below, pll, redivide
from sateen.fpga.boards.ties import HIGHEST_HZ, Ties, retie, tied
from sateen.hw.chip.verilog import convert

TOP = "chip"
RESET_S = 20e-6
"""The reset lasts at least so long after the clock is there: an iCE40's block RAM cannot be read for 10 µs or so."""


class Chip(wiring.Component):
    """A component with one clock domain and the ports `rx` and `tx`, on a board.

    Parameters
    ----------
    inside : wiring.Component
        Such as `sateen.hw.chip.soc.Soc`.
    board : Board
    clock_hz : int
        Of `inside`, made by the part's PLL from the board's clock.
    ties : Ties
        What `inside` has its pace from: the clock can be chosen again after placement.

    Members
    -------
    clk, rx, tx : In(1), In(1), Out(1)
        The pins.

    Raises
    ------
    ConfigError
        The PLL cannot make the clock.
    """

    def __init__(self, *, inside: wiring.Component, board: Board, clock_hz: int, ties: Ties):
        self.inside = inside
        self.board = board
        self.clock_hz = clock_hz
        self.ties = ties
        self.dividers = dividers(board.part.architecture, board.resolve().clk_hz, clock_hz)
        super().__init__({"clk": In(1), "rx": In(1, init=1), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = sync = ClockDomain()
        # Counts from the end of configuration; a PLL that loses its lock resets the chip.
        m.domains.early = early = ClockDomain(reset_less=True)
        count = Signal(range(math.ceil(RESET_S * HIGHEST_HZ[self.board.part.architecture]) + 1))
        full = (1 << len(count)) - 1
        clk, locked = pll(m, self.board.part.architecture, self.dividers, self.clk, self.board.family)
        seen = Signal(2)  # synchronised
        m.d.early += seen.eq(Cat(locked, seen))
        with m.If(~seen[-1]):
            m.d.early += count.eq(0)
        with m.Elif(count != full):
            m.d.early += count.eq(count + 1)
        reset = Signal(init=1)
        m.d.early += reset.eq(count != full)
        m.d.comb += [early.clk.eq(clk), sync.clk.eq(clk), sync.rst.eq(reset)]
        self.ties.add_to(m)
        m.submodules.inside = self.inside
        m.d.comb += [self.inside.rx.eq(self.rx), self.tx.eq(self.inside.tx)]
        return m

    def verilog(self) -> str:
        """Its top module is called `chip`."""
        return convert(self, TOP)


def highest_clock(board: Board, fmax_mhz: float, baud: int) -> Dividers:
    """The highest clock of no more than `fmax_mhz` that the PLL makes and the serial line can be timed by.

    Raises LimitError where there is none.
    """
    architecture, clk_hz = board.part.architecture, board.resolve().clk_hz
    limit = min(1e6 * fmax_mhz, HIGHEST_HZ[architecture])
    while (d := highest_below(architecture, clk_hz, limit)) is not None:
        try:
            tied(int(d.hz), baud)
            return d
        except ValueError:
            limit = d.hz - 1e4
    raise LimitError(
        f"board '{board.name}': no clock of {fmax_mhz:.1f} MHz or less can be made from {clk_hz / 1e6:g} MHz by the "
        f"PLL of {architecture} and time a line of {baud} baud; take a smaller configuration"
    )


def set_clock(placed: bytes, board: Board, d: Dividers, baud: int) -> bytes:
    """A placed chip with ties, as nextpnr's JSON, with another clock: nothing moves."""
    design = json.loads(placed)
    (module,) = (m for m in design["modules"].values() if "top" in m.get("attributes", {}))
    redivide(module["cells"], board.part.architecture, d)
    retie(module["cells"], tied(int(d.hz), baud))
    return json.dumps(design).encode()
