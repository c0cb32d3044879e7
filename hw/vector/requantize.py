"""One channel a cycle from the accumulator to a code: scale, add the residual, round once, clamp, encode.

The definition is `sateen.formats.requantize.requantize` and DRAIN in docs/isa.md. All formats share the way
to a fixed-point number with a guard and a sticky bit; a minifloat then takes its magnitude and normalises it.

Widths, with A = acc_bits and F = fixed_bits of the activation format:

- acc + bias: A + 1 bits; times the 16 bit multiplier: A + 17, exact.
- residual: R = max(F, 10) + 1 bits, the zero point taken off (F for minifloats, whose zero points are 0);
  times 16 bits, shifted left by at most `residual_shift_limit`: R + 16 + limit, exact.
- t, their sum: one bit more than the wider one, exact.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from sateen.formats import Format, Minifloat
from sateen.hw.decode import decode_fixed
from sateen.hw.isa import parameter_layout
from sateen.machine.config import AcceleratorConfig

FINE = 3  # bits of a shift that are done after its bytes
BYTE = 1 << FINE
ZERO_BITS = 10  # of the zero points in an instruction
_OPERAND_BITS = 47  # a product with 16 bits stays in a 64 bit word of the simulator


def residual_shift_limit(config: AcceleratorConfig) -> int:
    """The largest shift - residual_shift that a program may use; the least is 0."""
    return max(0, config.acc_bits - config.activation.fixed_bits)


def requantize_latency(fmt: Format) -> int:
    """Cycles from a channel to its code."""
    return 8 if isinstance(fmt, Minifloat) else 6


def bound_shape(fmt: Format):
    """Shape of a clamp bound, see `bound`."""
    return signed(fmt.bits if isinstance(fmt, Minifloat) else fmt.fixed_bits)


def control_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What is the same for all channels of a DRAIN. With `raw`, residual and zero_point must be 0."""
    bound_of = bound_shape(config.activation)
    return data.StructLayout(
        {
            "residual": unsigned(1),
            "residual_multiplier": unsigned(16),
            "residual_shift": unsigned(7),
            "residual_zero": signed(ZERO_BITS),
            "zero_point": signed(ZERO_BITS),
            "low": bound_of,
            "high": bound_of,
            "raw": unsigned(1),
            "raw_shift": unsigned(7),
        }
    )


def _normalise(m: Module, magnitude: Value, fmt: Minifloat, fraction: int, name: str):
    """Shift `magnitude` right until it has mantissa_bits + 1 bits above its `fraction` bits, which stay.

    Returns
    -------
    significand, exponent, lost
        The shifted number; by how much it was shifted; whether a bit was lost.
    """
    keep = fmt.mantissa_bits + fraction  # a significand below 2**(keep + 1)
    exponent, lost = [], []
    spare = max(0, len(magnitude) - keep - 1)  # the largest shift
    for bit in reversed(range(bits_for(spare) if spare else 0)):
        shift = 1 << bit
        big = Signal(name=f"{name}_by_{shift}")
        rest = Signal(min(len(magnitude), keep + shift), name=f"{name}_below_{shift}")
        m.d.comb += [
            big.eq(magnitude[keep + shift :].any()),
            rest.eq(Mux(big, magnitude[shift:], magnitude)),
        ]
        lost.append(big & magnitude[:shift].any())
        exponent.insert(0, big)
        magnitude = rest
    return magnitude, Cat(exponent), (Cat(lost).any() if lost else Const(0))


def bound(m: Module, value: Value, fmt: Format, name: str) -> Value:
    """A clamp bound in fixed-point units, which must be a value of the format, as the clamp compares it.

    An integer is itself. Of a minifloat the magnitude's code orders like the value; a negative one is
    inverted bit by bit, so that codes compare as two's complement.
    """
    if not isinstance(fmt, Minifloat):
        return value[: fmt.fixed_bits].as_signed()
    negative = value[-1]
    magnitude = Signal(fmt.fixed_bits - 1, name=f"{name}_magnitude")
    m.d.comb += magnitude.eq(Mux(negative, -value, value))
    significand, exponent, _ = _normalise(m, magnitude, fmt, 0, name)
    code = Signal(fmt.bits - 1, name=f"{name}_code")
    m.d.comb += code.eq((exponent << fmt.mantissa_bits) + significand)
    return Cat(code ^ negative.replicate(fmt.bits - 1), negative).as_signed()


class Requantizer(wiring.Component):
    """Pipelines for `lanes` channels a cycle; see the module's docstring.

    Members
    -------
    i_valid : In(1)
    i_acc : In(signed(acc_bits)).array(lanes)
    i_parameter : In(parameter_layout(acc_bits)).array(lanes)
    i_residual : In(activation.bits).array(lanes)
        The residual's code.
    control : In(control_layout(config))
        Stable from the first input to the last output.
    o_valid : Out(1)
        `i_valid`, `latency` cycles later.
    o_code : Out(activation.bits).array(lanes)
    """

    initiation_interval = 1

    def __init__(self, *, config: AcceleratorConfig, lanes: int = 1):
        self.config = config
        self.lanes = lanes
        self.latency = requantize_latency(config.activation)
        super().__init__(
            {
                "i_valid": In(1),
                "i_acc": In(signed(config.acc_bits)).array(lanes),
                "i_parameter": In(parameter_layout(config.acc_bits)).array(lanes),
                "i_residual": In(config.activation.bits).array(lanes),
                "control": In(control_layout(config)),
                "o_valid": Out(1),
                "o_code": Out(config.activation.bits).array(lanes),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        valid = Signal(self.latency)  # bit k: stage k + 1 holds channels
        m.d.sync += valid.eq(Cat(self.i_valid, valid))
        m.d.comb += self.o_valid.eq(valid[-1])
        enable = [self.i_valid, *valid]
        for k in range(self.lanes):
            lane = _Lane(m, k, self.config, self.control, enable)
            code = lane.run(self.i_acc[k], self.i_parameter[k], self.i_residual[k])
            m.d.comb += self.o_code[k].eq(code)
        return m


class _Lane:
    """Builds the pipeline of one channel into a module.

    Registers are written in place, without combinational signals before them where it can be: a simulator
    then skips all work of a stage that holds no channel.
    """

    def __init__(self, m: Module, k: int, config: AcceleratorConfig, control, enable: list[Value]):
        self.m, self.k, self.config, self.control, self.enable = m, k, config, control, enable
        self.format = config.activation

    def run(self, acc: Value, parameter, residual: Value) -> Value:
        t, shift = self._scale(acc, parameter, residual)
        x = self._shift(t, shift)
        if isinstance(self.format, Minifloat):
            return self._finish_minifloat(*x)
        return self._finish_integer(*x)

    def _new(self, stage: int, name: str, shape) -> Signal:
        """A register that pipeline stage `stage` (from 1) ends in."""
        return Signal(shape, name=f"{name}_{stage}_{self.k}", reset_less=True)

    def _register(self, stage: int, name: str, value: Value) -> Signal:
        register = self._new(stage, name, value.shape())
        with self.m.If(self.enable[stage - 1]):
            self.m.d.sync += register.eq(value)
        return register

    def _scale(self, acc: Value, parameter, residual: Value):
        """Stages 1 to 3: t and the shift that it still needs."""
        control, reg = self.control, self._register
        limit = residual_shift_limit(self.config)
        # 1: add the bias; take the residual, already shifted by the low bits of what it needs.
        # raw is a shift alone: multiplier 1, and what follows does not round.
        v = reg(1, "v", acc + parameter.bias)
        multiplier = reg(1, "multiplier", Mux(control.raw, Const(1, 16), parameter.multiplier))
        shift = reg(1, "shift", Mux(control.raw, control.raw_shift, parameter.shift))
        fixed = decode_fixed(self.format, residual)
        if not isinstance(self.format, Minifloat):
            fixed = fixed - control.residual_zero
        width = len(fixed)
        distance = (parameter.shift - control.residual_shift)[: bits_for(limit)]
        if limit:
            fixed = (fixed << distance[:FINE])[: width + min(limit, BYTE - 1)].as_signed()
        residual = reg(1, "residual", Mux(control.residual, fixed, 0))
        distance = reg(1, "distance", distance)
        # 2: multiply
        p = reg(2, "p", _product(v, multiplier))
        residual = reg(2, "residual", residual * control.residual_multiplier)
        distance = reg(2, "distance", distance)
        shift = reg(2, "shift", shift)
        # 3: add. The residual, shifted, has `width` + 16 + limit bits at most.
        addend = residual
        for i in range(1, limit // BYTE + 1):
            addend = Mux(distance[FINE:] == i, residual << (BYTE * i), addend)
        addend = addend[: width + 16 + limit].as_signed()
        return reg(3, "t", p + addend), reg(3, "shift", shift)

    def _shift(self, t: Value, shift: Value):
        """Stages 4 and 5: floor(t * 2**-shift).

        Returns, still to be registered by stage 5, the number with its guard bit lowest, whether bits below
        were lost, whether it has more bits than are returned, and its sign.
        """
        m, fmt = self.m, self.format
        # Integers: what does not fit is out of the format's range with any zero point of 10 bits.
        # Minifloats: what does not fit is above the largest.
        bits = fmt.fixed_bits if isinstance(fmt, Minifloat) else max(fmt.fixed_bits, ZERO_BITS) + 1
        u = Cat(Const(0, 1), t)  # with the guard bit of a shift by 0
        sign = t[-1]
        window_bits = bits + 1 + BYTE - 1
        steps = min(-(-len(u) // BYTE), 1 << len(shift) - FINE)  # from this byte on only the sign is left
        extended = Cat(u, sign.replicate(steps * BYTE + window_bits))
        # 4: by bytes. Is a 1 lost below; does a bit above differ from the sign?
        below, above = [Const(0, 1)], [Const(0, 1)] * (steps + 1)
        for i in range(steps):
            below.append(below[-1] | extended[i * BYTE : (i + 1) * BYTE].any())
        for i in reversed(range(steps)):
            top = i * BYTE + window_bits - 1
            if top < len(u) - 1:
                above[i] = above[i + 1] | (extended[top : top + BYTE] ^ sign.replicate(BYTE)).any()
        window = self._new(4, "window", signed(window_bits))
        lost, over = self._new(4, "lost", 1), self._new(4, "over", 1)
        with m.If(self.enable[3]), m.Switch(shift[FINE:]):
            for i in range(steps):
                with m.Case(i):
                    m.d.sync += [
                        window.eq(extended[i * BYTE : i * BYTE + window_bits]),
                        lost.eq(below[i]),
                        over.eq(above[i]),
                    ]
            with m.Default():
                m.d.sync += [window.eq(sign.replicate(window_bits)), lost.eq(below[-1]), over.eq(0)]
        negative = self._register(4, "negative", sign)
        fine = self._register(4, "fine", shift[:FINE])
        # 5: by bits
        x = Signal(signed(window_bits), name=f"x_{self.k}")
        mask = (Const((1 << BYTE - 1) - 1, 2 * (BYTE - 1)) << fine)[BYTE - 1 : 2 * (BYTE - 1)]
        with m.If(self.enable[4]):
            m.d.comb += x.eq(window >> fine)
        lost = lost | (window[: BYTE - 1] & mask).any()
        signs = x[bits:]
        over = over | (signs.any() & ~signs.all())
        return x[: bits + 1].as_signed(), lost, over, negative

    def _finish_integer(self, x: Value, lost: Value, over: Value, negative: Value) -> Value:
        control, reg = self.control, self._register
        # 5: round to nearest, ties to even, and add the zero point, in one adder
        up = Signal(name=f"up_{self.k}")
        with self.m.If(self.enable[4]):
            self.m.d.comb += up.eq(~control.raw & x[0] & (lost | x[1]))
        y = (Cat(up, x[1:]).as_signed() + Cat(up, control.zero_point).as_signed())[1:].as_signed()
        y, over, negative = reg(5, "y", y), reg(5, "over", over), reg(5, "negative", negative)
        # 6: clamp; the bounds are in the format, so what is between them is, too
        code = self._clamp(y, over, negative)
        return reg(6, "code", Mux(control.raw, y, code)[: self.format.bits])

    def _clamp(self, y: Value, over: Value, negative: Value) -> Value:
        low, high = self.control.low, self.control.high
        below = Mux(over, negative, y < low)
        above = Mux(over, ~negative, y > high)
        return Mux(below, low, Mux(above, high, y))[: len(low)]

    def _finish_minifloat(self, x: Value, lost: Value, over: Value, negative: Value) -> Value:
        m, control, reg, fmt = self.m, self.control, self._register, self.format
        # 5: magnitude. If bits were lost below, -x - lost is ~x with the rest still lost.
        negate = negative & ~control.raw
        magnitude = reg(5, "magnitude", ((x ^ negate.replicate(len(x))) + (negate & ~lost))[: len(x)])
        lost, over, negative = reg(5, "lost", lost), reg(5, "over", over), reg(5, "negative", negative)
        # 6: normalise
        significand, exponent, lost_now = _normalise(m, magnitude, fmt, 1, f"normalise_{self.k}")
        raw = reg(6, "raw", magnitude[1 : fmt.bits + 1])
        significand = reg(6, "significand", significand)
        exponent = reg(6, "exponent", exponent)
        lost = reg(6, "lost", lost | lost_now)
        over, negative = reg(6, "over", over), reg(6, "negative", negative)
        # 7: the code of the magnitude; rounding carries into the exponent by itself.
        # Ties go to the even code, which without a mantissa is not the even significand.
        base = exponent << fmt.mantissa_bits
        up = significand[0] & (lost | (significand[1] ^ base[0]))
        code = reg(7, "code", Mux(control.raw, raw, (Cat(up, base) + Cat(up, significand[1:]))[1:]))
        over, negative = reg(7, "over", over), reg(7, "negative", negative)
        # 8: clamp in the order of `bound`; a zero is +0
        below_zero = negative & code.any()
        y = Cat(code ^ below_zero.replicate(len(code)), below_zero).as_signed()
        clamped = self._clamp(y, over, negative)
        sign = clamped[-1]
        result = Cat(clamped[:-1] ^ sign.replicate(fmt.bits - 1), sign)
        return reg(8, "result", Mux(control.raw, code[: fmt.bits], result))


def _product(v: Value, multiplier: Value) -> Value:
    """signed × unsigned, exact, from operands short enough for machine words of the simulator."""
    parts = -(-len(v) // _OPERAND_BITS)
    size = -(-len(v) // parts)
    total = v[(parts - 1) * size :].as_signed() * multiplier << (parts - 1) * size
    for i in range(parts - 1):
        total = total + (v[i * size : (i + 1) * size] * multiplier << i * size)
    return total[: len(v) + len(multiplier)].as_signed()
