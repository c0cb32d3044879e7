"""What ROW does to an element, `vector_lanes` a cycle: into the sums of its row, or from them to a sum for DRAIN's
requantizer. The definition is `sateen.formats.rows`.

Cycles are counted from a word's address, where a register follows the memories from the next: its data are there in
cycle 2, each stage ends in a register.

    2  code          of the word's run
    3  x, or m and e the fixed-point value less its zero point, or the exponential's mantissa and exponent
    4  product       x * x or n * x; below: the row's greatest exponent less e
    5  sums of lanes; d = n * x - total; the exponential in the sum
    6  sums of a row; d or m times the reciprocal
    7  by bytes
    8  by bits
    9  sign of the channel's factor
"""

from collections.abc import Iterable

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sateen.formats import rows
from sateen.hw.formats import circuits
from sateen.hw.isa import parameter_layout
from sateen.hw.memory.buffers import memory_of
from sateen.hw.memory.load import EXPONENTIAL_BITS
from sateen.hw.ports import WritePort, activation_latency
from sateen.hw.terms import Terms
from sateen.hw.vector.reciprocal import square_bits, total_bits
from sateen.machine.config import AcceleratorConfig

GREATEST_LATENCY = 2
"""Cycles from a pass's last address to the next pass's first, which needs the greatest exponent."""
FINE = 3
SHIFT_BITS = 7


def statistics_latency(config: AcceleratorConfig) -> int:
    """Cycles from an address to sums that hold its elements."""
    return 6 + activation_latency(config)


def lanes_latency(config: AcceleratorConfig) -> int:
    """From an address to the requantizer."""
    return 8 + activation_latency(config)


def product_bits(config: AcceleratorConfig) -> int:
    """Of an element times the reciprocal, shifted up by `head_room`."""
    fmt = config.activation
    element = rows.element_bits(fmt) + rows.COUNT_BITS + 1 if config.normalize else rows.MANTISSA_BITS + 1
    return element + rows.reciprocal_bits(fmt) + 3 + rows.head_room(fmt)


def tag_layout(lanes: int) -> data.StructLayout:
    """What is known of a step with its address."""
    return data.StructLayout(
        {"statistics": 1, "first": 1, "greatest": 1, "result": 1, "inside": unsigned(lanes)}
    )


def row_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What results need of their row, stable from its first address until 6 cycles after the last."""
    fmt = config.activation
    members: dict[str, object] = {"inverse": rows.reciprocal_bits(fmt) + 2, "shift": SHIFT_BITS}
    if config.normalize:
        members["total"] = signed(total_bits(config) + 1)
    if config.softmax:
        members["exponent"] = rows.EXPONENT_BITS
    return data.StructLayout(members)


class Lanes(wiring.Component):
    """The lanes.

    Members
    -------
    tag : In(tag_layout(lanes))
        With the address.
    i_code : In(activation.bits).array(lanes)
        In cycle 2.
    normalize, count, zero
        Of the instruction, stable. The last two, and `total`, only if `config.normalize`.
    row : In(row_layout(config))
    squares, total, exponent : Out
        Sums of the row, and its greatest exponent.
    code : Out(activation.bits).array(lanes)
        `i_code` in cycle 3.
    parameter : In(parameter_layout(acc_bits)).array(lanes)
        In cycle 9, with the factor's sign in its multiplier's highest bit.
    o_valid, o_acc, o_parameter
        For the requantizer, in cycle 10.
    exponential : In(WritePort(activation.bits, 32))
        Fills the table of exponentials. Only if `config.softmax`.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config, fmt = config, config.activation
        lanes = config.vector_lanes
        members = {
            "tag": In(tag_layout(lanes)),
            "i_code": In(fmt.bits).array(lanes),
            "normalize": In(1),
            "row": In(row_layout(config)),
            "squares": Out(square_bits(config)),
            "code": Out(fmt.bits).array(lanes),
            "parameter": In(parameter_layout(config.acc_bits)).array(lanes),
            "o_valid": Out(1),
            "o_acc": Out(signed(config.acc_bits)).array(lanes),
            "o_parameter": Out(parameter_layout(config.acc_bits)).array(lanes),
        }
        if config.normalize:
            members |= {
                "count": In(rows.COUNT_BITS),
                "zero": In(signed(fmt.fixed_bits)),
                "total": Out(signed(total_bits(config) + 1)),
            }
        if config.softmax:
            members |= {
                "exponent": Out(rows.EXPONENT_BITS),
                "exponential": In(WritePort(fmt.bits, EXPONENTIAL_BITS)),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, lanes = self.config, self.config.vector_lanes
        tags = [self.tag]
        if config.memory_registers:
            tags = [Signal(self.tag.shape(), name="tag_0")]
            m.d.sync += tags[0].eq(self.tag)
        for k in range(1, 11):
            tags.append(Signal(self.tag.shape(), name=f"tag_{k}"))
            m.d.sync += tags[k].eq(tags[k - 1])
        m.d.comb += self.o_valid.eq(tags[10].result)
        squares: list[Value] = []
        totals: list[Value] = []
        exponents: list[Value] = []
        terms: list[Value] = []
        for k in range(lanes):

            def reg(name: str, value: Value, k: int = k) -> Signal:
                register = Signal(value.shape(), name=f"{name}_{k}", reset_less=True)
                m.d.sync += register.eq(value)
                return register

            m.d.sync += self.code[k].eq(self.i_code[k])
            inside4, inside5 = tags[4].inside[k], tags[5].inside[k]
            element: Value | None = None
            below: Value | None = None
            if config.softmax:
                mantissa, exponent = self._exponential(m, k)
                greatest = Mux(tags[4].result, self.row.exponent, self.exponent)
                exponents.append(reg("exponent", Mux(inside4, exponent, 0)))
                below = reg("below", (greatest - exponent)[: rows.EXPONENT_BITS])
                mantissa = reg("mantissa", mantissa)
                term = (mantissa << rows.GUARD_BITS) >> below[: rows.TERM_BITS.bit_length()]
                far = below[rows.TERM_BITS.bit_length() :].any()
                terms.append(reg("term", Mux(inside5 & ~far, term, 0)))
                element = reg("mantissa_6", Cat(mantissa, 0).as_signed())
                below = reg("below_6", below)
            if config.normalize:
                fixed = circuits(config.activation).decode_fixed(self.code[k])
                x = reg("x", fixed - self.zero)
                factor = Mux(tags[4].result, Cat(self.count, 0).as_signed(), x)
                product = reg("product", x * factor)
                x = reg("x_5", x)
                squares.append(Mux(inside5, product, 0))
                totals.append(Mux(inside5, x, 0))
                difference = reg("difference", product - self.row.total)
                element = difference if element is None else Mux(self.normalize, difference, element)
            assert element is not None
            product = (element * Cat(self.row.inverse, 0).as_signed()) << rows.head_room(config.activation)
            product = reg("scaled", product[: product_bits(config)].as_signed())
            shift = self.row.shift
            if below is not None:  # beyond all bits it is as far as there is
                sum_ = shift + Mux(self.normalize, 0, below)
                shift = Mux(sum_[SHIFT_BITS:].any(), (1 << SHIFT_BITS) - 1, sum_)[:SHIFT_BITS]
            shift = reg("shift", shift)
            fine = reg("fine", shift[:FINE])
            coarse = reg("coarse", product >> (shift[FINE:] << FINE))
            acc = reg("acc", (coarse >> fine)[: config.acc_bits].as_signed())
            parameter = self.parameter[k]
            m.d.sync += [
                self.o_acc[k].eq(Mux(parameter.multiplier[-1], -acc, acc)),
                self.o_parameter[k].eq(parameter),
                self.o_parameter[k].multiplier[-1].eq(0),
            ]
        self._sums(m, tags, squares, totals, exponents, terms)
        return m

    def _exponential(self, m: Module, k: int) -> tuple[Value, Value]:
        """Mantissa and exponent in cycle 4; each lane has a copy of the table."""
        bits = self.config.activation.bits
        m.submodules[f"exponentials_{k}"] = table = memory_of(shape=EXPONENTIAL_BITS, depth=1 << bits)
        write, read = table.write_port(), table.read_port()
        m.d.comb += [
            write.en.eq(self.exponential.en),
            write.addr.eq(self.exponential.addr),
            write.data.eq(self.exponential.data),
            read.en.eq(1),
            read.addr.eq(self.code[k]),
        ]
        return read.data[: rows.MANTISSA_BITS], read.data[rows.MANTISSA_BITS :]

    def _sums(
        self, m: Module, tags: list, squares: list[Value], totals: list[Value], exponents: list[Value],
        terms: list[Value],
    ) -> None:  # fmt: skip
        """Over lanes, then over a row's steps; the first begins anew."""
        config = self.config

        def together(name: str, values: list[Value]) -> Signal:
            total = _sum(values)
            register = Signal(total.shape(), name=name, reset_less=True)
            m.d.sync += register.eq(total)
            return register

        begin6, begin7 = tags[6].first, tags[7].first
        if config.normalize:
            square, total = together("square", squares), together("total", totals)
            with m.If(tags[6].statistics & self.normalize):
                m.d.sync += [
                    self.squares.eq(Mux(begin6, 0, self.squares) + square),
                    self.total.eq(Mux(begin6, 0, self.total) + total),
                ]
        if config.softmax:
            greatest = _greatest(m, exponents)
            before = Mux(tags[5].first, 0, self.exponent)
            with m.If(tags[5].statistics & tags[5].greatest):
                m.d.sync += self.exponent.eq(Mux(greatest > before, greatest, before))
            term = together("term", terms)
            with m.If(tags[7].statistics & ~self.normalize & ~tags[7].greatest):
                m.d.sync += self.squares.eq(Mux(begin7, 0, self.squares) + term)


def _sum(values: Iterable[Value]) -> Value:
    """Pairwise."""
    values = list(values)
    while len(values) > 1:
        pairs = [a + b for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(values) & ~1 :]
    return values[0]


def _greatest(m: Module, values: list[Value]) -> Value:
    """Pairwise. Each has a signal: its operands stand in it twice, and text would grow with 2**lanes."""
    level = 0
    while len(values) > 1:
        greater: list[Value] = []
        for k, (a, b) in enumerate(zip(values[::2], values[1::2], strict=False)):
            signal = Signal(a.shape(), name=f"greatest_{level}_{k}")
            m.d.comb += signal.eq(Mux(a > b, a, b))
            greater.append(signal)
        values, level = greater + values[len(values) & ~1 :], level + 1
    return values[0]


def lanes_terms(c: AcceleratorConfig, t: Terms) -> None:
    """Of a lane."""
    fmt, mux = c.activation, t.technology.mux
    element, wide = rows.element_bits(fmt), product_bits(c)
    inverse = rows.reciprocal_bits(fmt) + 2
    # what is multiplied by the reciprocal is as wide as the product of which it is a difference
    factor = element + max(element, rows.COUNT_BITS + 1) + 1 if c.normalize else rows.MANTISSA_BITS + 1
    t.multiply(factor, inverse + 1)
    t.add(coarse=wide * mux(1 << SHIFT_BITS - FINE), fine=(c.acc_bits + 8) * 3, sign=c.acc_bits)
    t.add(ff=2 * wide + 3 * c.acc_bits + 30 + fmt.bits + SHIFT_BITS + FINE)
    if c.normalize:
        t.multiply(element, max(element, rows.COUNT_BITS + 1))
        t.add(factor=max(element, rows.COUNT_BITS + 1), difference=factor, sums=2 * element + factor)
        t.add(ff=2 * element + 2 * factor)
    if c.softmax:
        found = t.technology.memory(EXPONENTIAL_BITS, 1 << fmt.bits)
        t.store(found, EXPONENTIAL_BITS)
        t.add(below=rows.EXPONENT_BITS, term=rows.TERM_BITS * 5, greatest=2 * rows.EXPONENT_BITS)
        t.add(ff=3 * rows.EXPONENT_BITS + 2 * rows.MANTISSA_BITS + rows.TERM_BITS)
