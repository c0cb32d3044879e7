"""The systolic array: rows × cols processing elements.

Weight-stationary: activations are broadcast along a row and enter row r r cycles late; partial sums move down the
columns, a row a cycle, so all columns of an activation word leave together. A tile's weights enter in the same
wave, one row a cycle, each row just ahead of its first activation: the old weights are in use up to the cycle in
which the new ones are taken. So loading hides behind the wave itself, without a second set of registers in the
elements, and passes may follow one another every `rows` cycles (see docs/adr/0010-weight-wave.md).

Output-stationary, where the configuration has it: each row has a pixel of its own, all rows meet the same weights
in the same cycle, an element adds to its own sum, and complete sums move down the columns
(docs/adr/0013-two-dataflows.md).

Depthwise, where the configuration has it: all rows see the same word, each column its own element of it, and as sums
move down a row a cycle, a column is a FIR filter over consecutive words, a tap in each row. Weights, words and sums
come and go exactly as weight-stationary (docs/adr/0034-depthwise-filters.md).

Outer products, where the configuration has them: all rows see the same word, undelayed, and meet the same weights in
the same cycle; an element keeps its sum over pixels, which leaves as output-stationary ones do.

Codes are decoded once, at the edge.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from sateen.hw.formats import circuits, either
from sateen.hw.matrix.pe import ELEMENT, FIRST_ELEMENT, FIRST_LUT_ELEMENT, LUT_ELEMENT, PE, pe_latency
from sateen.hw.shared import place
from sateen.hw.terms import Component, Delays, Terms
from sateen.machine.config import AcceleratorConfig


class SystolicArray(wiring.Component):
    """The array of a configuration.

    Members
    -------
    i_valid : In(1)
        `i_activation` is a word: its partial sums come `latency` cycles later.
    i_activation : In(act_word_bits)
        One group of codes for each row.
    i_load : In(1)
        `i_weight` is row 0 of a tile, and those of the next rows-1 cycles are the others, in order. The
        tile meets the activation words from the next cycle on. At most every `rows` cycles.
    i_weight : In(weight_word_bits)
        See docs/isa.md for the layout.
    i_index : In(index_row_bits)
        The planes of its indices. Only if `config.indexed`.
    i_index_bits, i_index_shift : In(range(index_planes + 1))
        With `i_weight`: lane l takes element (i_pass*lanes + l) << i_index_shift, or with `config.split_groups`
        element i_pass << i_index_shift of its part of the group, with the low i_index_bits bits
        from `i_index`. Only if `config.indexed`.
    i_pass : In(range(dense_passes))
        With `i_weight`. Only if there is more than one pass.
    o_psum : Out
        `cols` sums of acc_bits, kept until the next.

    Only if `config.own_sums`:

    i_stationary : In(1)
        Elements keep their sums; constant while words, steps or sums are under way. If 1, `i_load` is 0, and `i_valid`
        marks a pixel's word, those of row 0, 1, … in consecutive cycles.
    i_capture : In(1)
        With the last row's word: steps from this cycle on are on these words, beginning with group 0. Only if
        `config.output_stationary`, as `i_next`.
    i_step : In(1)
        `i_weight` meets the current group of every row.
    i_next : In(1)
        Belongs to `i_step`: the next step is on the next group.
    i_first, i_last : In(1)
        Belong to `i_step`: it begins new sums; it completes them. Those of the last row come on `o_psum`
        `step_latency` cycles later, those of the row above in the next cycle, and so on: the next `i_first`
        must be `rows` cycles later at least.

    Only if `config.outer_products`:

    i_outer : In(1)
        With `i_stationary`: the step's word is the `i_activation` that comes a cycle after `i_step`, for all rows.

    Only if `config.short_groups`:

    i_short : In(range(log2(group) + 1))
        With `i_outer`: row r's group begins with elements r*n to r*n + n - 1 of the word, n = group >> i_short. 0
        otherwise.

    Only if `config.own_gradients`:

    i_gradient : In(1)
        Words are gradients; constant while words are under way. With `i_outer`, weights are.

    Only if `config.depthwise`:

    i_filter : In(1)
        The columns are filters; constant while words or sums are under way. Column c has element c of the slice, and
        the sums of a word are Σ_r weight[row r] * element of the word r cycles later, valid or not.
    i_slice : In(range(slices))
        Likewise; only if there is more than one.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        members = {
            "i_valid": In(1),
            "i_activation": In(config.act_word_bits),
            "i_load": In(1),
            "i_weight": In(config.weight_word_bits),
            "o_psum": Out(data.ArrayLayout(signed(config.acc_bits), config.cols)),
        }
        if config.dense_passes > 1:
            members["i_pass"] = In(range(config.dense_passes))
        if config.indexed:
            bits = In(range(config.index_planes + 1))
            members |= {"i_index": In(config.index_row_bits), "i_index_bits": bits, "i_index_shift": bits}
        if config.own_sums:
            names = ("i_stationary", "i_capture", "i_step", "i_next", "i_first", "i_last")
            of_words = () if config.output_stationary else ("i_capture", "i_next")
            members |= {name: In(1) for name in names if name not in of_words}
        if config.outer_products:
            members["i_outer"] = In(1)
        if config.short_groups:
            members["i_short"] = In(range(exact_log2(config.group) + 1))
        if config.own_gradients:
            members["i_gradient"] = In(1)
        if config.depthwise:
            members |= {"i_filter": In(1), "i_slice": In(config.slice_bits)}
        super().__init__(members)

    @property
    def latency(self) -> int:
        """Cycles from `i_activation` to `o_psum`: decoding, a row a cycle, and the PE's stages before its sum."""
        return array_latency(self.config)

    @property
    def step_latency(self) -> int:
        """Cycles from a step's weights to the last row's sums: the edge's register, the element's, and its stages."""
        return 1 + 1 + pe_latency(self.config.lanes)

    @property
    def initiation_interval(self) -> int:
        return 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, cols, lanes = self.config.rows, self.config.cols, self.config.lanes
        valid, load = self._waves(m)
        switch: dict[str, Value] = {}
        if self.config.own_sums:
            switch, stepping = self._switch(m)
            # all rows step at once
            enter = [Mux(self.i_stationary, stepping, valid[r]) for r in range(rows)]
            take = [Mux(self.i_stationary, stepping, load[r + 1]) for r in range(rows)]
            accumulate = [self.i_stationary | valid[r + pe_latency(lanes)] for r in range(rows)]
        else:
            enter = [valid[r] for r in range(rows)]
            take = [load[r + 1] for r in range(rows)]
            accumulate = [valid[r + pe_latency(lanes)] for r in range(rows)]
        weights = self._weights(m, load)
        groups = self._groups(m, valid)
        undelayed: Value = Const(0)
        if self.config.depthwise:
            undelayed = self.i_filter
            enter = [self.i_filter | e for e in enter]
        if self.config.outer_products:
            undelayed = undelayed | self.i_outer if self.config.depthwise else self.i_outer
        if self.config.depthwise or self.config.outer_products:
            width = self.config.group * self.config.activation.bits
            held = (
                self.config.outer_products and self.config.output_stationary
            )  # row 0 has a pixel of its own, too
            part = (
                self._part
                if self.config.short_groups
                else lambda row: self.i_activation.word_select(row, width)
            )
            groups = [
                Mux(undelayed, part(row), codes) if row or held else codes for row, codes in enumerate(groups)
            ]
        operands = [self._operands(m, row, groups[row], enter[row]) for row in range(rows)]
        columns = self._columns(operands) if self.config.depthwise else []
        psums = [Const(0, signed(self.config.acc_bits))] * cols
        for row in range(rows):
            activations = Cat(operands[row])
            for col in range(cols):
                inputs = {
                    "activations": activations,
                    "weights": weights[col],
                    "load": take[row],
                    "accumulate": accumulate[row],
                    "psum_in": psums[col],
                    **switch,
                }
                if self.config.depthwise:
                    inputs |= {"filter": self.i_filter, "column": columns[col]}
                psums[col] = place(m, platform, f"pe_{row}_{col}", PE, self._element(col), inputs)["psum"]
        m.d.comb += Value.cast(self.o_psum).eq(Cat(psums))
        return m

    def _part(self, row: int) -> Value:
        """A row's part of the word, by `i_short`; elements that a shorter one does not have are its group's."""
        c, bits = self.config, self.config.activation.bits
        elements = []
        for k in range(c.group):
            element = self.i_activation.word_select(row * c.group + k, bits)
            for short in range(1, exact_log2(c.group) + 1):
                n = c.group >> short
                if k < n:
                    element = Mux(
                        self.i_short == short, self.i_activation.word_select(row * n + k, bits), element
                    )
            elements.append(element)
        return Cat(elements)

    def _element(self, col: int) -> dict[str, Any]:
        """Parameters of a column's processing elements."""
        c = self.config
        apart = {"gradient": c.gradient} if c.own_gradients else {}
        return apart | {
            "lanes": c.lanes,
            "group": c.group,
            "split": c.split_groups,
            "activation": c.activation,
            "weight": c.weight,
            "multiplier": c.multiplier,
            "acc_bits": c.acc_bits,
            "luts": c.in_luts(col),
            "own_sums": c.own_sums,
            "depthwise": c.depthwise,
        }

    def _columns(self, operands: list[list[Value]]) -> list[Value]:
        """Each column's element of the word, if the columns are filters."""
        word = [element for row in operands for element in row]
        slices = [word[at : at + self.config.cols] for at in range(0, len(word), self.config.cols)]
        for bit in self.i_slice:  # a tree: there is a power of two of them
            slices = [
                [Mux(bit, b, a) for a, b in zip(low, high, strict=True)]
                for low, high in zip(slices[::2], slices[1::2], strict=True)
            ]
        return slices[0]

    def _waves(self, m: Module) -> tuple[Value, Value]:
        """`i_valid` and `i_load` by age: bit k is k cycles old."""
        waves = []
        for name, source, length in (
            ("valid", self.i_valid, self.config.rows + pe_latency(self.config.lanes) - 1),
            ("load", self.i_load, self.config.rows),
        ):
            wave = Signal(length, name=name)
            m.d.sync += wave.eq(Cat(source, wave))
            waves.append(Cat(source, wave))
        return waves[0], waves[1]

    def _switch(self, m: Module) -> tuple[dict[str, Value], Signal]:
        """What tells an element where its sum goes on, and a step in the cycle after `i_step`."""
        rows = self.config.rows
        ages = 1 + pe_latency(self.config.lanes)  # to the accumulation
        step = Signal(2)  # by age, from 1 on
        first = Signal(ages)
        last = Signal(ages)
        m.d.sync += [
            step.eq(Cat(self.i_step, step)),
            first.eq(Cat(self.i_first & self.i_step, first)),
            last.eq(Cat(self.i_last & self.i_step, last)),
        ]
        moving = Signal(range(max(rows, 2)))  # steps that complete sums still have to go down
        with m.If(last[-1]):
            m.d.sync += moving.eq(rows - 1)
        with m.Elif(moving.any()):
            m.d.sync += moving.eq(moving - 1)
        own = Signal()
        m.d.sync += own.eq(self.i_stationary & ~Mux(last[-1], rows > 1, moving > 1))
        switch = {
            "discard": self.i_stationary & ~step[1],
            "own": own,
            "fresh": first[-1],
        }
        return switch, step[0]

    def _weights(self, m: Module, load: Value) -> list[Value]:
        """The decoded weight row, one value per column, in the cycle after `i_weight`."""
        c = self.config
        coming = load[: c.rows].any()
        if c.own_sums:
            coming = coming | self.i_step
        counted = [self._counted(m, lane) for lane in range(c.lanes)]
        decoding = either(c.multiplier, c.weight, *c.results[1:])
        second = self.i_outer if c.own_gradients else None
        columns = []
        for col in range(c.cols):
            lanes = []
            for lane in range(c.lanes):
                # decoded behind the register: before it lies the weights' memory, slow on its own
                code = Signal(c.weight.bits, name=f"weight_{col}_{lane}", reset_less=True)
                index = Signal(c.index_bits, name=f"index_{col}_{lane}", reset_less=True)
                with m.If(coming):
                    m.d.sync += [
                        code.eq(self.i_weight.word_select(col * c.lanes + lane, c.weight.bits)),
                        index.eq(self._index(col, lane, counted[lane])),
                    ]
                operand = Signal(decoding.shape, name=f"operand_{col}_{lane}")
                m.d.comb += Value.cast(operand).eq(decoding.decode(code, second))
                lanes += [operand, index]
            columns.append(Cat(lanes))
        return columns

    def _counted(self, m: Module, lane: int) -> Value:
        """Which element of the group the lane multiplies, but for the bits that are stored."""
        c = self.config
        if not c.index_bits:
            return Const(0, 0)
        # lanes is a power of two
        number = Cat(Const(lane % c.sharing_lanes, c.index_bits - len(self.i_pass)), self.i_pass)
        if not c.indexed:
            return number
        counted = Signal(c.index_bits, name=f"counted_{lane}")
        m.d.comb += counted.eq(number << self.i_index_shift)  # modulo the group
        return counted

    def _index(self, col: int, lane: int, counted: Value) -> Value:
        """The same, of a column."""
        c = self.config
        stored = [self.i_index[(b * c.cols + col) * c.lanes + lane] for b in range(c.index_planes)]
        low = [Mux(self.i_index_bits > b, bit, counted[b]) for b, bit in enumerate(stored)]
        return Cat(low, counted[c.index_planes :])

    def _groups(self, m: Module, valid: Value) -> list[Value]:
        """Each row's group of codes: r cycles late in row r, or of the row's own pixel."""
        c = self.config
        width = c.group * c.activation.bits
        if not c.output_stationary:
            groups = []
            for row in range(c.rows):
                codes = self.i_activation.word_select(row, width)
                for age in range(row):
                    late = Signal(width, name=f"codes_{row}_{age}", reset_less=True)
                    with m.If(valid[age]):
                        m.d.sync += late.eq(codes)
                    codes = late
                groups.append(codes)
            return groups

        # Words for all rows but the last wait until its comes, the first one deepest.
        staged = []
        word = self.i_activation
        for k in range(c.rows - 1):
            stage = Signal(c.act_word_bits, name=f"staged_{k}", reset_less=True)
            with m.If(self.i_valid):
                m.d.sync += stage.eq(word)
            staged.append(stage)
            word = stage
        words = [*reversed(staged), self.i_activation]
        advance = Signal()  # the step of the cycle before was the last on its group
        m.d.sync += advance.eq(self.i_step & self.i_next)
        return [self._row(m, row, words[row], advance) for row in range(c.rows)]

    def _row(self, m: Module, row: int, word: Value, advance: Signal) -> Value:
        """One shift register of groups for both: it holds the row's pixel, or delays the row by its number."""
        c = self.config
        width = c.group * c.activation.bits
        mine = self.i_activation.word_select(row, width)
        held = [Signal(width, name=f"held_{row}_{k}", reset_less=True) for k in range(c.rows)]
        with m.If(self.i_stationary & self.i_capture):
            m.d.sync += Cat(held).eq(word)
        with m.Elif(self.i_stationary & advance):
            m.d.sync += Cat(held[:-1]).eq(Cat(held[1:]))
        if row == 0:
            return Mux(self.i_stationary, held[0], mine)
        with m.Elif(~self.i_stationary):
            m.d.sync += Cat(held[:row]).eq(Cat(*held[1:row], mine))
        return held[0]

    def _operands(self, m: Module, row: int, codes: Value, enter: Value) -> list[Value]:
        """The row's group, decoded."""
        c = self.config
        operands: list[Value] = []
        decoding = either(c.multiplier, *c.results)
        second = self.i_gradient if c.own_gradients else None
        for k in range(c.group):
            operand = Signal(decoding.shape, name=f"activation_{row}_{k}", reset_less=True)
            with m.If(enter):
                m.d.sync += Value.cast(operand).eq(
                    decoding.decode(codes.word_select(k, c.activation.bits), second)
                )
            operands.append(Value.cast(operand))
        return operands


def array_latency(config: AcceleratorConfig) -> int:
    """Cycles from an activation word to its partial sums."""
    return 1 + config.rows - 1 + pe_latency(config.lanes)


def _terms(c: AcceleratorConfig, t: Terms) -> None:
    rows, width = c.rows, c.group * c.activation.bits
    activations = either(c.multiplier, *c.results)
    activations.terms(c.elements, t)
    either(c.multiplier, c.weight, *c.results[1:]).terms(c.cols * c.lanes, t)
    t.add(
        one=1,
        rows=rows,
        indices=c.cols * c.lanes * c.index_planes,
        counted=c.lanes * c.index_bits * c.indexed,
    )
    t.add(ff=c.elements * activations.bits
          + c.cols * c.lanes * c.weight.bits + 2 * rows + (c.lanes > 1))  # fmt: skip
    if c.indexed:
        t.add(ff=c.index_planes * c.cols * c.lanes + (c.index_bits - c.index_planes) * c.lanes)
    else:  # the same for all
        t.add(ff=ceil_log2(c.dense_passes) + (c.index_bits > 0 and c.lanes > 1))
    t.ff["one"] = 1
    if c.output_stationary:
        t.add(held=rows * rows * width, entering=rows * width, switch=1, switched_rows=rows, first=width)
        word = (rows - 1) * c.act_word_bits + rows * rows * width
        t.add(ff=word + ceil_log2(max(rows, 2)) + 2 * (c.lanes > 1))
        t.ff["tiled"] = 1
    else:
        t.add(ff=rows * (rows - 1) // 2 * width)
    if c.own_sums and not c.output_stationary:
        t.add(switch=1, switched_rows=rows, ff=ceil_log2(max(rows, 2)))
        t.ff["tiled"] = 1
    if c.depthwise or c.outer_products:
        t.add(undelayed=(rows - 1) * width)
    if c.short_groups:
        t.add(short=(rows - 1) * (c.group - 1) * c.activation.bits)
    if c.depthwise:
        t.add(slices=(c.slices - 1) * c.cols * activations.bits)


def _path(c: AcceleratorConfig, d: Delays) -> dict[str, float]:
    return {"edge": max(d.memory, d.register + circuits(c.activation).decode_path(c.multiplier, d))}


EDGE = Component(
    "edge",
    (SystolicArray,),
    _terms,
    children=(FIRST_ELEMENT, ELEMENT, FIRST_LUT_ELEMENT, LUT_ELEMENT),
    paths=_path,
)
"""The array without its processing elements."""
