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
from sateen.hw.decode import decode_fixed
from sateen.hw.isa import parameter_layout

from sateen.config import AcceleratorConfig
from sateen.formats import Format, Minifloat

_FINE = 3  # bits of a shift that are done after its bytes
_BYTE = 1 << _FINE
_ZERO_BITS = 10  # of the zero points in an instruction
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
            "residual_zero": signed(_ZERO_BITS),
            "zero_point": signed(_ZERO_BITS),
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
    """A pipeline for one channel a cycle; see the module's docstring.

    Members
    -------
    i_valid : In(1)
    i_acc : In(signed(acc_bits))
    i_parameter : In(parameter_layout(acc_bits))
    i_residual : In(activation.bits)
        The residual's code.
    control : In(control_layout(config))
        Stable from the first input to the last output.
    o_valid : Out(1)
        `i_valid`, `latency` cycles later.
    o_code : Out(activation.bits)
    """

    initiation_interval = 1

    def __init__(self, *, config: AcceleratorConfig):
        self.config = config
        self.format = config.activation
        self.latency = requantize_latency(self.format)
        super().__init__(
            {
                "i_valid": In(1),
                "i_acc": In(signed(config.acc_bits)),
                "i_parameter": In(parameter_layout(config.acc_bits)),
                "i_residual": In(self.format.bits),
                "control": In(control_layout(config)),
                "o_valid": Out(1),
                "o_code": Out(self.format.bits),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        valid = Signal(self.latency)  # bit k: stage k + 1 holds a channel
        m.d.sync += valid.eq(Cat(self.i_valid, valid))
        m.d.comb += self.o_valid.eq(valid[-1])
        self._stage_enable = Cat(self.i_valid, valid)
        t, shift = self._scale(m)
        x = self._shift(m, t, shift)
        if isinstance(self.format, Minifloat):
            self._finish_minifloat(m, *x)
        else:
            self._finish_integer(m, *x)
        return m

    def _register(self, m: Module, stage: int, name: str, value: Value, shape=None) -> Signal:
        """A register that pipeline stage `stage` (from 1) ends in."""
        register = Signal(value.shape() if shape is None else shape, name=f"{name}_{stage}", reset_less=True)
        with m.If(self._stage_enable[stage - 1]):
            m.d.sync += register.eq(value)
        return register

    def _scale(self, m: Module):
        """Stages 1 to 3: t and the shift that it still needs."""
        config, control, parameter = self.config, self.control, self.i_parameter
        reg = self._register
        limit = residual_shift_limit(config)
        # 1: add the bias; take the residual, already shifted by the low bits of what it needs.
        # raw is a shift alone: multiplier 1, and what follows does not round.
        v = reg(m, 1, "v", self.i_acc + parameter.bias)
        multiplier = reg(m, 1, "multiplier", Mux(control.raw, 1, parameter.multiplier), 16)
        shift = reg(m, 1, "shift", Mux(control.raw, control.raw_shift, parameter.shift))
        fixed = decode_fixed(self.format, self.i_residual)
        if not isinstance(self.format, Minifloat):
            fixed = fixed - control.residual_zero
        distance = (parameter.shift - control.residual_shift)[: bits_for(limit)]
        fine = min(limit, _BYTE - 1)
        residual = Signal(signed(len(fixed) + fine))
        m.d.comb += residual.eq(Mux(control.residual, fixed << (distance[:_FINE] if limit else 0), 0))
        residual = reg(m, 1, "residual", residual)
        distance = reg(m, 1, "distance", distance)
        # 2: multiply.
        p = reg(m, 2, "p", _product(v, multiplier))
        residual = reg(m, 2, "residual", residual * control.residual_multiplier)
        distance = reg(m, 2, "distance", distance)
        shift = reg(m, 2, "shift", shift)
        # 3: add. The residual is at most len(fixed) + 16 + limit bits.
        width = max(len(p), len(fixed) + 16 + limit)
        addend = Signal(signed(width))
        m.d.comb += addend.eq(residual)
        for i in range(1, limit // _BYTE + 1):
            with m.If(distance[_FINE:] == i):
                m.d.comb += addend.eq(residual << (_BYTE * i))
        return reg(m, 3, "t", p + addend), reg(m, 3, "shift", shift)

    def _shift(self, m: Module, t: Value, shift: Value):
        """Stages 4 and 5: floor(t * 2**-shift).

        Returns, still to be registered by stage 5, the number with its guard bit lowest, whether bits below
        were lost, whether it has more bits than are returned, and its sign.
        """
        fmt, reg = self.format, self._register
        # Integers: what does not fit is out of the format's range with any zero point of 10 bits.
        # Minifloats: what does not fit is above the largest.
        bits = fmt.fixed_bits if isinstance(fmt, Minifloat) else max(fmt.fixed_bits, _ZERO_BITS) + 1
        u = Cat(Const(0, 1), t)  # with the guard bit of a shift by 0
        negative = t[-1]
        window_bits = bits + 1 + _BYTE - 1
        steps = -(-len(u) // _BYTE)  # from this byte on only the sign is left
        extended = Cat(u, negative.replicate(steps * _BYTE + window_bits - len(u)))
        # 4: by bytes
        below, above = [Const(0)], [Const(0)] * (steps + 1)  # lost below; not the sign above
        for i in range(steps):
            b = Signal(name=f"below_{i}")
            m.d.comb += b.eq(below[-1] | extended[i * _BYTE : (i + 1) * _BYTE].any())
            below.append(b)
        for i in reversed(range(steps)):
            top = i * _BYTE + window_bits - 1
            if top < len(u) - 1:
                above[i] = Signal(name=f"above_{i}")
                signs = extended[top : top + _BYTE] ^ negative.replicate(_BYTE)
                m.d.comb += above[i].eq(above[i + 1] | signs.any())
        window, lost, over = Signal(signed(window_bits)), Signal(), Signal()
        with m.Switch(shift[_FINE:]):
            for i in range(min(steps, 1 << len(shift) - _FINE)):
                with m.Case(i):
                    m.d.comb += [
                        window.eq(extended[i * _BYTE : i * _BYTE + window_bits]),
                        lost.eq(below[i]),
                        over.eq(above[i]),
                    ]
            with m.Default():
                m.d.comb += [window.eq(negative.replicate(window_bits)), lost.eq(below[-1])]
        window = reg(m, 4, "window", window)
        lost, over, negative = (
            reg(m, 4, "lost", lost),
            reg(m, 4, "over", over),
            reg(m, 4, "negative", negative),
        )
        fine = reg(m, 4, "fine", shift[:_FINE])
        # 5: by bits
        x = Signal(signed(window_bits))
        m.d.comb += x.eq(window >> fine)
        lost = lost | Cat(window[i] & (fine > i) for i in range(_BYTE - 1)).any()
        signs = x[bits:]
        over = over | (signs.any() & ~signs.all())
        return x[: bits + 1].as_signed(), lost, over, negative

    def _finish_integer(self, m: Module, x: Value, lost: Value, over: Value, negative: Value) -> None:
        control, reg = self.control, self._register
        # 5: round to nearest, ties to even, and add the zero point, in one adder
        up = ~control.raw & x[0] & (lost | x[1])
        y = reg(
            m, 5, "y", (Cat(up, x[1:]).as_signed() + Cat(up, control.zero_point).as_signed())[1:].as_signed()
        )
        over, negative = reg(m, 5, "over", over), reg(m, 5, "negative", negative)
        # 6: clamp; the bounds are in the format, so what is between them is, too
        code = self._clamp(m, y, over, negative)
        m.d.comb += self.o_code.eq(reg(m, 6, "code", Mux(control.raw, y, code)[: self.format.bits]))

    def _clamp(self, m: Module, y: Value, over: Value, negative: Value) -> Value:
        low, high = self.control.low, self.control.high
        below = Mux(over, negative, y < low)
        above = Mux(over, ~negative, y > high)
        clamped = Signal(low.shape())
        m.d.comb += clamped.eq(Mux(below, low, Mux(above, high, y)))
        return clamped

    def _finish_minifloat(self, m: Module, x: Value, lost: Value, over: Value, negative: Value) -> None:
        control, reg, fmt = self.control, self._register, self.format
        m_bits = fmt.mantissa_bits
        # 5: magnitude. If bits were lost below, -x - lost is ~x with the rest still lost.
        negate = negative & ~control.raw
        magnitude = reg(m, 5, "magnitude", ((x ^ negate.replicate(len(x))) + (negate & ~lost))[: len(x)])
        lost, over, negative = (
            reg(m, 5, "lost", lost),
            reg(m, 5, "over", over),
            reg(m, 5, "negative", negative),
        )
        # 6: normalise
        significand, exponent, lost_now = _normalise(m, magnitude, fmt, 1, "normalise")
        significand = reg(m, 6, "significand", significand)
        exponent = reg(m, 6, "exponent", exponent)
        lost = reg(m, 6, "lost", lost | lost_now)
        raw = reg(m, 6, "raw", magnitude[1 : fmt.bits + 1])
        over, negative = reg(m, 6, "over", over), reg(m, 6, "negative", negative)
        # 7: the code of the magnitude; rounding carries into the exponent by itself.
        # Ties go to the even code, which without a mantissa is not the even significand.
        base = exponent << m_bits
        up = significand[0] & (lost | (significand[1] ^ base[0]))
        code = (Cat(up, base) + Cat(up, significand[1:]))[1:]
        code = reg(m, 7, "code", Mux(control.raw, raw, code))
        over, negative = reg(m, 7, "over", over), reg(m, 7, "negative", negative)
        # 8: clamp in the order of `bound`; a zero is +0
        negative_number = negative & code.any()
        y = Cat(code ^ negative_number.replicate(len(code)), negative_number).as_signed()
        clamped = self._clamp(m, y, over, negative)
        sign = clamped[-1]
        result = Cat(clamped[:-1] ^ sign.replicate(fmt.bits - 1), sign)
        m.d.comb += self.o_code.eq(reg(m, 8, "result", Mux(control.raw, code[: fmt.bits], result)))


def _product(v: Value, multiplier: Value) -> Value:
    """signed × unsigned, exact, from operands short enough for machine words of the simulator."""
    parts = -(-len(v) // _OPERAND_BITS)
    size = -(-len(v) // parts)
    total = v[(parts - 1) * size :].as_signed() * multiplier << (parts - 1) * size
    for i in range(parts - 1):
        total = total + (v[i * size : (i + 1) * size] * multiplier << i * size)
    return total[: len(v) + len(multiplier)].as_signed()
