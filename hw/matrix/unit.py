"""The matrix unit executes MATRIX, FIR and OUTER: activation words and weights through the array into the accumulators.

Weight-stationary: each pass reads its tile's weights and its words in one wave (see hw/matrix/array.py), so passes
follow one another without a gap, or every `pass_interval` cycles where a pass has fewer words than that.
Output-stationary: see hw/matrix/steps.py. FIR reads as weight-stationary does, but a pass's words are a plane that its
windows share, and only some words begin a window (hw/matrix/windows.py). OUTER: see hw/matrix/products.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from sateen.hw import isa
from sateen.hw.control.dispatch import is_idle
from sateen.hw.matrix.accumulator import ACCUMULATOR, Accumulator, accumulator_latency, announced
from sateen.hw.matrix.array import EDGE, SystolicArray, array_latency
from sateen.hw.matrix.products import Products, products_terms
from sateen.hw.matrix.steps import STEP_BITS, Results, Run, Steps
from sateen.hw.matrix.windows import Windows, windows_terms
from sateen.hw.memory.buffers import behind
from sateen.hw.ports import ReadPort, activation_latency
from sateen.hw.terms import Component, Terms
from sateen.hw.window import (
    MATRIX_ORDER,
    TILED_ORDER,
    NestedCounter,
    Widths,
    Window,
    window_path,
    window_terms,
)
from sateen.machine.config import AcceleratorConfig


def pass_interval(words: int, config: AcceleratorConfig) -> int:
    """Cycles from one pass of `words` activation words to the next: a pass loads `rows` rows of weights, and
    comes back to the same accumulator at the earliest after its `min_interval`."""
    return max(words, config.rows, accumulator_latency(config))


def matrix_cycles(fields: object, config: AcceleratorConfig) -> int:
    """D of a MATRIX instruction: cycles from start to done.

    Parameters
    ----------
    fields : mapping or object
        The fields of isa.MATRIX as integers.
    """
    get = _getter(fields)
    taps, words = int(get("kernel_h")) * int(get("kernel_w")), int(get("channel_words"))
    if get("output_stationary"):
        rows, steps, last_steps = config.rows, config.rows * int(get("passes")), int(get("last_steps"))
        runs = int(get("out_h")) * -(-int(get("out_w")) // rows)
        # a turn is followed by one that reads one word if it slides, or `rows`
        turns = int(get("kernel_w")) if get("slide") else 1
        taps //= turns
        word = (turns - 1) * last_steps + max(rows, last_steps)
        total = taps * ((words - 1) * turns * steps + word) - max(rows, last_steps)
        return runs * (total + last_steps + rows - 1) + 1 + _drain(config)
    pixels = int(get("out_h")) * int(get("out_w"))
    return _passes_cycles(taps * words * int(get("passes")), pixels, config)


def fir_cycles(fields: object, config: AcceleratorConfig) -> int:
    """D of a FIR instruction, likewise: each of its passes reads `lines` times `line` words."""
    get = _getter(fields)
    passes = int(get("kernel_h")) * int(get("kernel_w")) * int(get("channel_words")) * int(get("passes"))
    return _passes_cycles(passes, int(get("lines")) * int(get("line")), config)


def outer_cycles(fields: object, config: AcceleratorConfig) -> int:
    """D of an OUTER instruction, likewise: a pass reads all its words, then its sums leave, a row's in a cycle."""
    get = _getter(fields)
    passes = int(get("kernel_h")) * int(get("channel_words"))
    words = int(get("kernel_w")) * int(get("out_h")) * int(get("out_w"))
    return (passes - 1) * (words + config.rows - 1) + words + _drain(config)


CYCLES = {isa.Opcode.MATRIX: matrix_cycles, isa.Opcode.FIR: fir_cycles, isa.Opcode.OUTER: outer_cycles}
"""Of the unit's instructions."""


def _getter(fields: object) -> Callable[[str], Any]:
    return fields.__getitem__ if isinstance(fields, Mapping) else lambda name: getattr(fields, name)


def _passes_cycles(passes: int, words: int, config: AcceleratorConfig) -> int:
    return (passes - 1) * pass_interval(words, config) + words + _drain(config)


def _announce(config: AcceleratorConfig) -> int:
    """Cycles from the read of an activation word until its sums are announced."""
    return activation_latency(config) + array_latency(config) - announced(config)


def _drain(config: AcceleratorConfig) -> int:
    """Cycles from the read of the last word to its sums being written: `done` comes with the write.

    As many as from the read of the last step's weights, where the rows leave the array one after another.
    """
    return _announce(config) + accumulator_latency(config) - 1


@dataclass(frozen=True)
class _Sequence:
    """What happens in this cycle."""

    read: Signal
    """An activation word is read."""
    pass_start: Signal
    """It is a pass's first, whose weights stay in the array; not if elements keep their sums."""
    end: Value
    """It is the last, or, if output-stationary, the last weights are read."""
    stationary: Value
    """The instruction is output-stationary."""
    keeping: Value
    """It is, or an OUTER: elements keep their sums."""
    steps: Steps | None
    """Only if the machine has both dataflows."""
    windows: Windows | None
    """Only if the machine has FIR."""
    products: Products | None
    """Only if the machine has OUTER."""


class MatrixUnit(wiring.Component):
    """The unit with its array and its accumulators.

    Members
    -------
    start, instruction, done
        The unit protocol: `instruction` is an isa.MATRIX, FIR or OUTER in its low bits. `done` comes as many cycles as
        `CYCLES` says after `start`; from the next cycle on the accumulators can be read.
    act_read : Out(ReadPort)
        Activation words, latency `activation_latency(config)`. Padding is not read.
    weight_read : Out(ReadPort)
        Weight rows, latency `config.memory_latency`.
    index_read : Out(ReadPort)
        The planes of their indices, likewise, read if the instruction uses any. Only if `config.indexed`.
    acc_read : In(ReadPort)
        The accumulators, for the vector unit; latency `config.memory_latency`. The top bit of the address is the
        bank.
    acc_conflict : Out(1)
        See Accumulator.conflict.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        act_bits, weight_bits = config.act_address_bits, config.weight_address_bits
        members = {
            "start": In(1),
            "instruction": In(isa.INSTRUCTION_BITS),
            "done": Out(1),
            "act_read": Out(ReadPort(act_bits, config.act_word_bits)),
            "weight_read": Out(ReadPort(weight_bits, config.weight_word_bits)),
            "acc_read": In(ReadPort(config.acc_address_bits, config.cols * config.acc_bits)),
            "acc_conflict": Out(1),
        }
        if config.indexed:
            members["index_read"] = Out(ReadPort(weight_bits, config.index_row_bits))
        super().__init__(members)

    @property
    def latency(self) -> int:
        """Cycles from `start` to `done` of the smallest instruction, one pass of one word."""
        return 1 + _drain(self.config)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = isa.layout_of(isa.Opcode.MATRIX, self.config)
        fields = data.View(layout, self.instruction[: layout.size])  # FIR and OUTER begin with the same
        self._idle = is_idle(m, self.start, self.done)
        m.submodules.window = window = Window(
            order=TILED_ORDER if self.config.output_stationary else MATRIX_ORDER,
            addr_bits=len(self.act_read.addr),
            tile_width=self.config.rows,
            widths=Widths.of(self.config),
        )
        m.submodules.array = array = SystolicArray(config=self.config)
        m.submodules.accumulator = accumulator = Accumulator(config=self.config)
        sequence = self._sequence(m, fields, window)
        self._compute(m, fields, window, sequence, array)
        self._collect(m, fields, window, sequence, array, accumulator)
        return m

    def _sequence(self, m: Module, fields: data.View, window: Window) -> _Sequence:
        """Step through the window and read the buffers."""
        rows = self.config.rows
        interval = pass_interval(1, self.config)
        running = Signal()
        read = Signal()
        pass_start = Signal()
        wait = Signal(range(interval))  # cycles until the next pass, or turn, may begin
        stationary: Value = Const(0)
        steps = None
        turn_start: Value = window.first.oy
        counts: dict[str, Value] = {}
        on_chip: Value = window.inside
        if self.config.output_stationary:
            wait = Signal(STEP_BITS)
            stationary = Signal()
            os = fields.output_stationary
            if self.config.depthwise or self.config.outer_products:
                os = os & (fields.opcode == isa.Opcode.MATRIX)
            with m.If(self.start):
                m.d.sync += stationary.eq(os)
            turns = Mux(fields.slide, fields.kernel_w, 1)
            counts = {
                "kx": Mux(os & fields.slide, 1, fields.kernel_w),
                "tile_y": Mux(os, fields.out_h, 1),
                "tile_x": Mux(os, (fields.out_w + rows - 1) >> exact_log2(rows), 1),
                "p": Mux(os, 1, fields.passes),
                "oy": Mux(os, 1, fields.out_h),
                "ox": Mux(os, rows - 1 + turns, fields.out_w),
            }
        windows = self._windows(m, fields, window, read, counts) if self.config.depthwise else None
        products = self._products(m, fields, window, read) if self.config.outer_products else None
        keeping = stationary | products.outer_kept if products else stationary
        end = read & window.last[next(iter(window.levels))]
        m.d.comb += [
            *window.set(fields, **counts),
            window.load.eq(self._idle),
            pass_start.eq(read & window.first.oy & ~keeping),
            window.step.eq(read),
            self.act_read.addr.eq(window.addr),
        ]
        # a row in each of the first `rows` cycles of the pass
        weights = pass_start | (~keeping & (wait > interval - rows))

        weight_addr = self.weight_read.addr
        with m.If(self.start):
            m.d.sync += running.eq(1)
        with m.Elif(end):
            m.d.sync += running.eq(0)
        with m.If(self._idle):
            m.d.sync += weight_addr.eq(fields.weight_base)
        with m.Elif(self.weight_read.en):
            m.d.sync += weight_addr.eq(weight_addr + 1)  # wraps at the buffer's size
        with m.If(pass_start):
            m.d.sync += wait.eq(interval - 1)
        with m.Elif(wait.any()):
            m.d.sync += wait.eq(wait - 1)
        if products:
            turn_start = Mux(products.outer_kept, window.first.kx, turn_start)
            weights = weights | (read & products.outer_kept)
            with m.If(read & products.outer_kept):
                m.d.sync += weight_addr.eq(products.next_addr)
                with m.If(window.last.kx):
                    m.d.sync += wait.eq(rows - 1)  # in which the sums leave

        if self.config.output_stationary:
            steps, used, again = self._turns(m, fields, window, read & stationary, weight_addr, wait)
            turn_start = turn_start | again
            on_chip = window.inside & (used | ~stationary)
            weights = weights | steps.step
            end = Mux(stationary, steps.end, end)
        m.d.comb += [
            read.eq(running & ~(turn_start & wait.any())),
            self.act_read.en.eq(read & on_chip),
            self.weight_read.en.eq(weights),
        ]
        return _Sequence(read, pass_start, end, stationary, keeping, steps, windows, products)

    def _windows(
        self, m: Module, fields: data.View, window: Window, read: Value, counts: dict[str, Value]
    ) -> Windows:
        """FIR: which words begin a window; a pass has words of its own number in `counts`."""
        fir = data.View(isa.FIR, self.instruction[: isa.FIR.size])
        m.submodules.windows = windows = Windows(config=self.config)
        coming = fields.opcode == isa.Opcode.FIR
        for level, words in (("oy", fir.lines), ("ox", fir.line)):
            counts[level] = Mux(
                coming, words, counts.get(level, fields["out_h" if level == "oy" else "out_w"])
            )
        m.d.comb += [
            windows.load.eq(self._idle),
            windows.filter.eq(coming),
            windows.slice.eq(fir.slice),
            windows.out_w.eq(fields.out_w),
            windows.out_h.eq(fields.out_h),
            windows.step.eq(read),
            windows.line_end.eq(window.last.ox),
            windows.pass_end.eq(window.last.oy),
        ]
        return windows

    def _products(self, m: Module, fields: data.View, window: Window, read: Value) -> Products:
        """OUTER: where its weights are, and its element."""
        outer = self._outer_fields()
        m.submodules.products = products = Products(config=self.config)
        m.d.comb += [
            products.load.eq(self._idle),
            products.outer.eq(fields.opcode == isa.Opcode.OUTER),
            products.base.eq(outer.weight_base),
            products.step.eq(outer.weight_step),
            products.read.eq(read),
            products.addr.eq(self.weight_read.addr),
            products.pass_end.eq(window.last.kx),
            products.element_end.eq(window.last.c),
        ]
        return products

    def _outer_fields(self) -> data.View:
        layout = isa.layout_of(isa.Opcode.OUTER, self.config)
        return data.View(layout, self.instruction[: layout.size])

    def _turns(
        self, m: Module, fields: data.View, window: Window, read: Value, weight_addr: Signal, wait: Signal
    ) -> tuple[Steps, Value, Value]:
        """The steps of each turn's words; "the word is one that a pixel needs"; "it makes a turn by itself"."""
        rows = self.config.rows
        m.submodules.steps = steps = Steps(config=self.config)
        m.submodules.run = run = Run(rows=rows)
        ready = Signal(init=rows == 1)  # the words of the rows but the last are there
        again = Signal()
        row = Signal(range(max(2, rows)))
        word = Signal(STEP_BITS)
        # Of the words that the run's pixels need. It comes a cycle late, of fields that may be none of an instruction
        # (an empty queue shows anything): the first word is needed whatever it is.
        last_needed = Signal(STEP_BITS)
        more = Signal(STEP_BITS, reset_less=True)  # than pixels, less one
        weight_base = Signal.like(weight_addr, reset_less=True)
        with m.If(self._idle):
            m.d.sync += [
                weight_base.eq(fields.weight_base),
                more.eq(Mux(fields.slide, fields.kernel_w - 2, -1)),
            ]
        m.d.sync += last_needed.eq(run.pixels + more)
        m.d.comb += [
            steps.start.eq(self.start),
            steps.passes.eq(fields.passes),
            steps.last_steps.eq(fields.last_steps),
            steps.turn.eq(read & ready),
            steps.last_word.eq(window.final.c),
            steps.last_turn.eq(window.last.ky),
            steps.last_tile.eq(window.last.tile_y),
            steps.slide.eq(~window.last.oy),
            run.load.eq(self._idle),
            run.width.eq(fields.out_w),
            run.step.eq(steps.turn & steps.last_turn),
        ]
        with m.If(read):
            m.d.sync += [word.eq(word + 1), again.eq(ready & ~window.last.oy)]
            if rows > 1:
                m.d.sync += [row.eq(row + 1), ready.eq(ready | (row == rows - 2))]
            with m.If(window.last.oy):
                m.d.sync += [word.eq(0), row.eq(0), ready.eq(rows == 1)]
        with m.If(steps.turn):
            m.d.sync += wait.eq(steps.rest)
        with m.If(steps.rewind):
            m.d.sync += weight_addr.eq(weight_base)
        return steps, word <= last_needed, again

    def _compute(
        self, m: Module, fields: data.View, window: Window, sequence: _Sequence, array: SystolicArray
    ) -> None:
        """Hand what the buffers answer to the array, padding where the tap was outside."""
        activations, weights = activation_latency(self.config), self.config.memory_latency
        valid = _delay(m, sequence.read, activations, "valid")
        absent = ~window.inside
        if self.config.depthwise:
            absent = absent | ~sequence.read  # what follows a pass's words is padding, too
        outside = _delay(m, absent, activations, "outside")
        padding = Signal(self.config.activation.bits, reset_less=True)
        with m.If(self._idle):
            m.d.sync += padding.eq(fields.padding)
        m.d.comb += [
            array.i_valid.eq(valid),
            array.i_activation.eq(Mux(outside, Cat([padding] * self.config.elements), self.act_read.data)),
            array.i_load.eq(_delay(m, sequence.pass_start, weights, "load")),
            array.i_weight.eq(self.weight_read.data),
        ]
        if self.config.own_sums:
            m.d.comb += array.i_stationary.eq(sequence.keeping)
        flags: dict[str, Value] = {}
        if steps := sequence.steps:
            m.d.comb += array.i_capture.eq(_delay(m, steps.turn, activations, "capture"))
            flags = {name: getattr(steps, name) for name in ("step", "next", "first", "last")}
        if self.config.own_gradients:
            gradient = Signal(reset_less=True)
            with m.If(self._idle):
                m.d.sync += gradient.eq(fields.gradient & (fields.opcode == isa.Opcode.MATRIX))
            m.d.comb += array.i_gradient.eq(gradient)
        if self.config.short_groups:
            short = Signal.like(array.i_short, reset_less=True)
            outer = self._outer_fields()
            with m.If(self._idle):
                m.d.sync += short.eq(Mux(outer.opcode == isa.Opcode.OUTER, outer.short, 0))
            m.d.comb += array.i_short.eq(short)
        if products := sequence.products:
            m.d.comb += array.i_outer.eq(products.outer_kept)
            mine = {"step": sequence.read, "first": window.first.kx, "last": window.last.kx}
            flags |= {
                name: Mux(products.outer_kept, value, flags[name] if steps else 0)
                for name, value in mine.items()
            }
        for name, value in flags.items():
            m.d.comb += getattr(array, f"i_{name}").eq(_delay(m, value, weights, name))
        if windows := sequence.windows:
            m.d.comb += [array.i_filter.eq(windows.filters), array.i_slice.eq(windows.slice_kept)]
        if self.config.dense_passes > 1:
            self._indices(m, fields, window, sequence, array)

    def _indices(
        self, m: Module, fields: data.View, window: Window, sequence: _Sequence, array: SystolicArray
    ) -> None:
        """Tell the array which elements the weights belong to: count the passes of a word, or read the indices."""
        current = Signal.like(array.i_pass)  # of the word that is read
        loading = Signal.like(
            array.i_pass
        )  # of the weights that come: words may be over before their rows are
        with m.If(self._idle):
            m.d.sync += current.eq(0)
        with m.Elif(sequence.read & window.last.oy):
            m.d.sync += current.eq(Mux(window.last.p, 0, current + 1))
        with m.If(sequence.pass_start):
            m.d.sync += loading.eq(current)
        if sequence.steps:
            with m.If(sequence.stationary):
                m.d.sync += loading.eq(sequence.steps.pass_index)
        if sequence.products:
            with m.If(sequence.products.outer_kept):
                m.d.sync += loading.eq(sequence.products.element)
        if self.config.memory_registers:
            loading = behind(m, loading, True, "loading_2")
        m.d.comb += array.i_pass.eq(loading)  # with the weights
        if self.config.indexed:
            bits, shift = Signal.like(array.i_index_bits), Signal.like(array.i_index_shift)
            with m.If(self._idle):
                m.d.sync += [bits.eq(fields.index_bits), shift.eq(fields.index_shift)]
            m.d.comb += [
                self.index_read.en.eq(self.weight_read.en & bits.any()),
                self.index_read.addr.eq(self.weight_read.addr),
                array.i_index.eq(self.index_read.data),
                array.i_index_bits.eq(bits),
                array.i_index_shift.eq(shift),
            ]

    def _collect(
        self,
        m: Module,
        fields: data.View,
        window: Window,
        sequence: _Sequence,
        array: SystolicArray,
        accumulator: Accumulator,
    ) -> None:
        """Address the accumulators; the flags of a word travel as long as the word does."""
        passing, pass_last = sequence.read & ~sequence.keeping, window.last.oy
        if windows := sequence.windows:
            passing, pass_last = passing & windows.begins, windows.last
        valid = _delay(m, passing, _announce(self.config), "announced")
        pass_end = _delay(m, passing & pass_last, _announce(self.config), "pass_end")
        base = Signal(accumulator.addr_bits, reset_less=True)
        addr = Signal(accumulator.addr_bits, reset_less=True)
        add = Signal(reset_less=True)
        with m.If(self._idle):
            m.d.sync += [base.eq(fields.acc_base), addr.eq(fields.acc_base), add.eq(fields.accumulate)]
        with m.Elif(valid):
            m.d.sync += [addr.eq(Mux(pass_end, base, addr + 1)), add.eq(add | pass_end)]
        if self.config.computed_digits:
            shifted = Signal(reset_less=True)  # until the first tile is added
            matrix = fields.opcode == isa.Opcode.MATRIX
            with m.If(self._idle):
                m.d.sync += shifted.eq(fields.shifted & matrix)
            with m.Elif(valid & pass_end):
                m.d.sync += shifted.eq(0)
            m.d.comb += accumulator.i_shifted.eq(shifted)
        m.d.comb += [
            accumulator.i_valid.eq(valid),
            accumulator.i_addr.eq(addr),
            accumulator.i_add.eq(add),
            Value.cast(accumulator.i_psum).eq(Value.cast(array.o_psum)),
            accumulator.read.en.eq(self.acc_read.en),
            accumulator.read.addr.eq(self.acc_read.addr),
            self.acc_read.data.eq(accumulator.read.data),
            self.acc_conflict.eq(accumulator.conflict),
            self.done.eq(_delay(m, sequence.end, _drain(self.config), "end")),
        ]
        if self.config.own_sums:
            complete, width = self._complete(fields, window, sequence)
            m.submodules.results = results = Results(rows=self.config.rows, addr_bits=accumulator.addr_bits)
            lead = self.config.memory_latency + array.step_latency - 1 - announced(self.config)
            m.d.comb += [
                results.load.eq(self._idle),
                results.base.eq(fields.acc_base),
                results.width.eq(width),
                results.come.eq(_delay(m, complete, lead, "complete")),
            ]
            with m.If(sequence.keeping):
                m.d.comb += [accumulator.i_valid.eq(results.valid), accumulator.i_addr.eq(results.addr)]

    def _complete(self, fields: data.View, window: Window, sequence: _Sequence) -> tuple[Value, Value]:
        """With the last weights of sums that elements keep; and how many rows have one, in all of a line."""
        complete: Value = sequence.steps.last if sequence.steps else Const(0)
        width: Value = fields.out_w
        if sequence.products:
            outer = sequence.products.outer_kept
            complete = Mux(outer, sequence.read & window.last.kx, complete)
            width = Mux(fields.opcode == isa.Opcode.OUTER, self.config.rows, width)
        return complete, width


def _delay(m: Module, source: Value, cycles: int, name: str) -> Value:
    """One bit, `cycles` (at least 1) later."""
    late = Signal(cycles, name=name)
    m.d.sync += late.eq(Cat(source, late))
    return late[-1]


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    window_terms(c, t, TILED_ORDER if c.output_stationary else MATRIX_ORDER, ceil_log2(c.act_depth))
    acc, weight = c.acc_address_bits, ceil_log2(c.weight_depth)
    t.add(one=1, padding=c.act_word_bits, addresses=2 * weight + 2 * acc)
    t.add(ff=weight + 2 * acc + c.activation.bits + 3 * (c.rows + (c.lanes > 1)))
    t.ff["one"] = 1
    if c.dense_passes > 1:
        t.add(passes=1, ff=2 * ceil_log2(c.dense_passes))
    if c.indexed:
        t.add(ff=2 * c.index_planes.bit_length())
    if c.output_stationary:
        t.add(rows=ceil_log2(c.rows), results=3 * acc + weight, tiled=1)
        t.add(ff=weight + acc + 2 * ceil_log2(c.rows) + (c.lanes > 1))
        t.ff["tiled"] = 1
    if c.depthwise:
        windows_terms(c, t)
    if c.outer_products:
        products_terms(c, t)
        if not c.output_stationary:
            t.add(results=3 * acc, ff=acc + 2 * ceil_log2(c.rows))
    if not c.output_stationary:
        wait = ceil_log2(pass_interval(1, c))
        t.add(waits=wait, ff=wait)


MATRIX = Component(
    "matrix",
    (MatrixUnit, Window, NestedCounter, Steps, Run, Results, Windows, Products),
    _terms,
    children=(ACCUMULATOR, EDGE),
    paths=lambda c, d: {"matrix": window_path(c, d)},
)
