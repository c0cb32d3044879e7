"""The output-stationary order of the matrix unit: which weights meet which words, and where the sums go.

The window (hw/window.py, TILED_ORDER) reads the words of `rows` neighbouring pixels for one channel word and tap
(docs/isa.md calls that a turn); the weights of the turn follow, a step each, while the next turn's words are read.
Where the pixels are as far apart as the taps of a kernel row, the next tap's words are the same but for one.
"""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from sateen.machine.config import AcceleratorConfig

STEP_BITS = 12
"""Width of a count of steps in a turn: rows * passes < 2**12."""


class Run(wiring.Component):
    """Cuts a row of pixels into runs of `rows`, the last of which may be shorter, row after row.

    Members
    -------
    load, width : In
        Start with a row of `width` pixels.
    step : In(1)
        Go to the next run.
    pixels : Out
        Pixels in this run, 1 to `rows`; after `load` with a width of 0, 0.
    """

    def __init__(self, *, rows: int):
        self.rows = rows
        super().__init__({"load": In(1), "width": In(12), "step": In(1), "pixels": Out(range(rows + 1))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = Signal(12, reset_less=True)
        left = Signal(12)
        last = Signal()
        m.d.comb += [last.eq(left <= self.rows), self.pixels.eq(Mux(last, left, self.rows))]
        with m.If(self.load):
            m.d.sync += [width.eq(self.width), left.eq(self.width)]
        with m.Elif(self.step):
            m.d.sync += left.eq(Mux(last, width, left - self.rows))
        return m


class Steps(wiring.Component):
    """Counts the steps of a turn.

    Members
    -------
    start : In(1)
        Latch `passes` and `last_steps`.
    passes : In(6)
        Steps on one group.
    last_steps : In(STEP_BITS)
        Steps of the turns on a pixel's last channel word; the others have rows*passes.
    turn : In(1)
        All words of a turn are read with this cycle.
    last_word, last_turn, last_tile, slide : In(1)
        Belong to `turn`: it is on the last channel word; it completes its pixels' sums; those are the last; the
        next turn has one word to read.
    rest : Out
        Belongs to `turn`: cycles after this one before the next turn's words may be read.
    step : Out(1)
        Read a weight word. A turn's steps begin in the cycle after `turn`.
    pass_index : Out(6)
        Belongs to `step`, as all below.
    rewind : Out(1)
        With `turn`: the weights begin anew.
    next, first, last, end : Out(1)
        The next step is on the next group; sums begin; sums are complete; all are.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        flags = ("step", "rewind", "next", "first", "last", "end")
        super().__init__(
            {
                "start": In(1),
                "passes": In(6),
                "last_steps": In(STEP_BITS),
                "turn": In(1),
                "last_word": In(1),
                "last_turn": In(1),
                "last_tile": In(1),
                "slide": In(1),
                "rest": Out(STEP_BITS),
                "pass_index": Out(6),
                **{name: Out(1) for name in flags},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = self.config.rows
        last_pass = Signal(6, reset_less=True)
        steps, last_steps = Signal(STEP_BITS, reset_less=True), Signal(STEP_BITS, reset_less=True)
        coming = Signal(STEP_BITS)
        with m.If(self.start):
            m.d.sync += [
                last_pass.eq(self.passes - 1),
                steps.eq(self.passes << exact_log2(rows)),
                last_steps.eq(self.last_steps),
            ]
        # A turn takes as long as its steps, or the reading of the next one's words if that is longer; the last of a
        # tile as long as its steps, the rows-1 moves that clear the array of sums, and one more read.
        m.d.comb += [
            coming.eq(Mux(self.last_word, last_steps, steps)),
            self.rest.eq(Mux(self.last_turn | self.slide, coming - 1, Mux(coming > rows, coming - rows, 0))),
        ]

        left = Signal(STEP_BITS)  # steps of the turn, this one included
        more = Signal()  # left != 0
        final = Signal()  # left == 1
        fresh, completes, ends = Signal(init=1), Signal(), Signal()
        m.d.comb += [
            self.step.eq(more),
            self.rewind.eq(self.turn & fresh),
            self.last.eq(more & final & completes),
            self.end.eq(self.last & ends),
            self.next.eq(self.pass_index == last_pass),
        ]
        with m.If(self.start):
            m.d.sync += [fresh.eq(1), more.eq(0), left.eq(0)]
        with m.Elif(self.turn):
            m.d.sync += [
                left.eq(coming),
                more.eq(1),
                final.eq(coming == 1),
                self.pass_index.eq(0),
                self.first.eq(fresh),
                fresh.eq(self.last_turn),
                completes.eq(self.last_turn),
                ends.eq(self.last_tile),
            ]
        with m.Elif(more):
            m.d.sync += [
                left.eq(left - 1),
                more.eq(~final),
                final.eq(left == 2),
                self.pass_index.eq(Mux(self.next, 0, self.pass_index + 1)),
                self.first.eq(0),
            ]
        return m


class Results(wiring.Component):
    """Gives the sums that leave the array their addresses, from the last row's up.

    Members
    -------
    load, base, width : In
        Start with the address of the first pixel of a row of `width`.
    come : In(1)
        The last row's sums are to be announced in the next cycle, and a row's in each after that.
    valid : Out(1)
        Sums are announced for address `addr`; not those of rows without a pixel.
    addr : Out
    """

    def __init__(self, *, rows: int, addr_bits: int):
        self.rows = rows
        super().__init__(
            {
                "load": In(1),
                "base": In(addr_bits),
                "width": In(12),
                "come": In(1),
                "valid": Out(1),
                "addr": Out(addr_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.run = run = Run(rows=self.rows)
        base = Signal.like(self.addr, reset_less=True)
        row = Signal(unsigned(exact_log2(self.rows)), init=self.rows - 1)
        moving = Signal()
        here = Signal()
        m.d.comb += [
            here.eq(self.come | moving),
            run.load.eq(self.load),
            run.width.eq(self.width),
            run.step.eq(here & (row == 0)),
        ]
        m.d.sync += [self.valid.eq(here & (row < run.pixels)), self.addr.eq(base + row)]
        with m.If(self.load):
            m.d.sync += base.eq(self.base)
        with m.Elif(run.step):
            m.d.sync += base.eq(base + run.pixels)
        with m.If(here):
            m.d.sync += [row.eq(row - 1), moving.eq(row != 0)]  # wraps: rows is a power of two
        return m
