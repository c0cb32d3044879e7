"""The reciprocal that a row needs, digit by digit: of the sum of a softmax, of the root of a variance.

The definition is `sateen.formats.rows.reciprocal`. First, for a variance, count * squares - total**2 is added up bit by
bit; then the number is shifted up by an even number of bits, until one of its two highest is 1; then a digit a cycle is
found.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sateen.formats import rows
from sateen.hw.terms import Terms
from sateen.machine.config import AcceleratorConfig


def total_bits(config: AcceleratorConfig) -> int:
    """Of the sum of a row's elements, without its sign."""
    return rows.element_bits(config.activation) - 1 + rows.COUNT_BITS


def square_bits(config: AcceleratorConfig) -> int:
    """Of the sum of their squares; or of exponentials."""
    squares = 2 * rows.element_bits(config.activation) - 1 + rows.COUNT_BITS
    return max(squares if config.normalize else 0, rows.sum_bits() if config.softmax else 0)


def operand_bits(config: AcceleratorConfig) -> int:
    """Of what a reciprocal is taken of; even."""
    variance = rows.variance_bits(config.activation) if config.normalize else 0
    return max(variance, rows.sum_bits() if config.softmax else 0, rows.significand_bits(config.activation))


def _levels(config: AcceleratorConfig) -> int:
    """Cycles of shifting up: each halves the distance, in steps of two bits."""
    return (operand_bits(config) // 2 - 1).bit_length()


def reciprocal_cycles(config: AcceleratorConfig, normalize: bool) -> int:
    """From `start` to `done`."""
    variance = total_bits(config) + 1 if normalize else 0
    return 1 + variance + _levels(config) + 1 + rows.reciprocal_bits(config.activation) + 2


class Reciprocal(wiring.Component):
    """One at a time.

    Members
    -------
    start : In(1)
        Take the operands; a result that is there is lost.
    root : In(1)
        1: of the root of count * squares - total**2 + epsilon, 0: of `squares`. Stable until `done`.
    squares : In(square_bits)
    total : In(signed(total_bits + 1))
    count : In(16)
    epsilon : In(epsilon_bits)
        The last three only if `config.normalize`.
    done : Out(1)
        The result is there, until the next `start`.
    inverse : Out(reciprocal_bits + 2)
    half : Out
        Half of the bits that the operand was shifted up by.
    """

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        fmt = config.activation
        self.width, self.levels = operand_bits(config), _levels(config)
        self.digits = rows.reciprocal_bits(fmt) + 2
        members = {
            "start": In(1),
            "root": In(1),
            "squares": In(square_bits(config)),
            "done": Out(1),
            "inverse": Out(self.digits),
            "half": Out(self.levels),
        }
        if config.normalize:
            members |= {
                "total": In(signed(total_bits(config) + 1)),
                "count": In(rows.COUNT_BITS),
                "epsilon": In(rows.epsilon_bits(fmt)),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, width, root = self.config, self.width, self.root
        number = Signal(width, reset_less=True)
        steps = total_bits(config)
        left = Signal(range(max(self.digits, self.levels, steps + 1)))
        shift_up, begin, digit = Signal(), Signal(), Signal()
        added = self._variance(m, number) if config.normalize else number
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [self.done.eq(0), self.half.eq(0), left.eq(self.levels - 1)]
                m.d.sync += number.eq(self.squares)
                m.next = "SHIFT"
                if config.normalize:
                    with m.If(root):
                        m.d.sync += [number.eq(self.epsilon), left.eq(steps)]
                        m.next = "VARIANCE"
            if config.normalize:
                with m.State("VARIANCE"):
                    m.d.sync += [number.eq(added), left.eq(left - 1)]
                    with m.If(left == 0):
                        m.d.sync += left.eq(self.levels - 1)
                        m.next = "SHIFT"
            with m.State("SHIFT"):
                m.d.comb += shift_up.eq(1)
                m.d.sync += left.eq(left - 1)
                with m.If(left == 0):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += begin.eq(1)
                m.d.sync += left.eq(self.digits - 1)
                m.next = "DIGITS"
            with m.State("DIGITS"):
                m.d.comb += digit.eq(1)
                m.d.sync += left.eq(left - 1)
                with m.If(left == 0):
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"
        with m.If(shift_up), m.Switch(left):
            for level in range(self.levels):
                distance = 2 << level
                with m.Case(level):
                    short = Signal(name=f"short_{distance}")
                    m.d.comb += short.eq(~number[-distance:].any())
                    m.d.sync += self.half[level].eq(short)
                    with m.If(short):
                        m.d.sync += number.eq(number << distance)
        self._digits(m, number, begin, digit)
        return m

    def _variance(self, m: Module, number: Signal) -> Value:
        """`number` with the next bit's products of count * squares - total**2 added."""
        point = rows.EPSILON_FRACTION
        bits = total_bits(self.config)
        squares = Signal(self.width - point, reset_less=True)
        total, count = Signal(self.width - point, reset_less=True), Signal(rows.COUNT_BITS, reset_less=True)
        rest = Signal(bits + 1, reset_less=True)  # the bits of |total| that are still to come
        magnitude = Mux(self.total[-1], -self.total, self.total)[: bits + 1]
        with m.If(self.start):
            m.d.sync += [
                squares.eq(self.squares),
                count.eq(self.count),
                total.eq(magnitude),
                rest.eq(magnitude),
            ]
        with m.Else():
            m.d.sync += [
                squares.eq(squares << 1),
                total.eq(total << 1),
                count.eq(count >> 1),
                rest.eq(rest >> 1),
            ]
        added = Mux(count[0], squares, 0) - Mux(rest[0], total, 0)
        # modulo 2**width: only the last sum is known to fit
        high = (number[point:] + added)[: self.width - point]
        return Cat(number[:point], high)

    def _digits(self, m: Module, number: Signal, begin: Value, digit: Value) -> None:
        """One digit more of r, r * r * v <= 1 or r * v <= 1, by what is left of 1, over the digit's weight.

        Ref: Ercegovac and Lang, Digital Arithmetic, 2004, chapters 5 and 6: restoring, radix 2.
        """
        fmt = self.config.activation
        kept, places = rows.significand_bits(fmt), rows.reciprocal_bits(fmt)
        point = kept + places
        v = number[-kept:]
        rest = Signal(signed(point + 6), reset_less=True)  # below 16
        part = Signal(point + 3, reset_less=True)  # r * v, of a root
        step = Signal(point + 2, reset_less=True)  # the digit's weight times v, of a root; else v
        trial = Signal(signed(point + 6))
        m.d.comb += trial.eq(rest - ((part << 1) + step).as_signed())
        fits = ~trial[-1]
        with m.If(begin):
            m.d.sync += [
                rest.eq(1 << point - 1),  # 1 over the first weight, 2
                part.eq(0),
                step.eq(Mux(self.root, v << places + 1, v << places)),
            ]
        with m.Elif(digit):
            m.d.sync += [
                rest.eq(Mux(fits, trial, rest) << 1),
                self.inverse.eq(Cat(fits, self.inverse)),
            ]
            with m.If(self.root):
                m.d.sync += step.eq(step >> 1)
                with m.If(fits):
                    m.d.sync += part.eq(part + step)


def reciprocal_terms(c: AcceleratorConfig, t: Terms) -> None:
    """Adders, multiplexers and registers of the unit."""
    width, point = operand_bits(c), rows.significand_bits(c.activation) + rows.reciprocal_bits(c.activation)
    levels, total = _levels(c), total_bits(c)
    t.add(number=width * t.technology.mux(levels + 2), digits=4 * point, ff=width + 3 * point + 11)
    t.add(ff=rows.reciprocal_bits(c.activation) + 2 + levels + 8)
    if c.normalize:
        t.add(variance=2 * width, operands=2 * width + 2 * total, ff=2 * width + total + rows.COUNT_BITS)
