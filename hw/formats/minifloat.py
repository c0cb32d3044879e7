"""Circuits of minifloats: sign and magnitude. A magnitude's code orders like the value."""

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.utils import bits_for, ceil_log2

from sateen.formats import Minifloat
from sateen.hw.formats.circuits import Circuits, Lane, Operand, decoder_term
from sateen.hw.terms import Delays, Terms


class MinifloatCircuits(Circuits):
    """NaN and infinity count as the largest finite magnitude, as `fixed` has it; a machine never makes them."""

    format: Minifloat
    sign_magnitude = True
    requantize_latency = 8

    def magnitude(self, code: Value) -> Value:
        """The code without its sign, of a finite number."""
        fmt = self.format
        magnitude = code[: fmt.bits - 1]
        if fmt.max_code == fmt.sign_mask - 1:
            return magnitude
        return Mux(magnitude > fmt.max_code, fmt.max_code, magnitude)[: fmt.bits - 1]

    def _fields(self, code: Value) -> tuple[Value, Value, Value]:
        """Sign, unsigned significand (mantissa_bits + 1) and exponent: fixed = ±(significand << exponent)."""
        fmt, magnitude = self.format, self.magnitude(code)
        field = magnitude[fmt.mantissa_bits :]
        normal = field.any()
        significand = Cat(magnitude[: fmt.mantissa_bits], normal)
        return code[fmt.bits - 1], significand, (field - normal)[: fmt.exponent_bits]  # never below 0

    @property
    def significand(self) -> Operand:
        fmt = self.format
        # significand: mantissa, leading bit, sign. An exponent field e scales by 2**(max(e, 1) - 1).
        return Operand(fmt.mantissa_bits + 2, (fmt.max_code >> fmt.mantissa_bits) - 1)

    def decode_fixed(self, code: Value) -> Value:
        bits = self.format.fixed_bits
        sign, significand, exponent = self._fields(code)
        magnitude = (significand << exponent)[: bits - 1]  # fixed_bits: the largest magnitude and the sign
        return Mux(sign, -magnitude, magnitude)[:bits].as_signed()

    def decode_parts(self, code: Value) -> Value:
        operand = self.significand
        sign, significand, exponent = self._fields(code)
        value = Mux(sign, -significand, significand)[: operand.significand_bits]
        return Cat(value, exponent[: operand.exponent_bits])

    def greater(self, a: Value, b: Value) -> Value:
        a_magnitude, b_magnitude = a[:-1], b[:-1]
        same_sign = Mux(a[-1], a_magnitude < b_magnitude, a_magnitude > b_magnitude)
        return Mux(a[-1] ^ b[-1], b[-1] & (a_magnitude | b_magnitude).any(), same_sign)

    def magnitude_key(self, code: Value) -> Value:
        return self.magnitude(code)

    @property
    def bound_shape(self) -> Shape:
        return signed(self.format.bits)

    def bound(self, m: Module, value: Value, name: str) -> Value:
        """The code; a negative one's magnitude is inverted bit by bit, so that they compare as two's complement."""
        fmt = self.format
        negative = value[-1]
        magnitude = Signal(fmt.fixed_bits - 1, name=f"{name}_magnitude")
        m.d.comb += magnitude.eq(Mux(negative, -value, value))
        significand, exponent, _ = normalise(m, magnitude, fmt.mantissa_bits + 1, name)
        code = Signal(fmt.bits - 1, name=f"{name}_code")
        m.d.comb += code.eq((exponent << fmt.mantissa_bits) + significand)
        return Cat(code ^ negative.replicate(fmt.bits - 1), negative).as_signed()

    def finish(self, lane: Lane, x: Value, lost: Value, over: Value, negative: Value) -> Value:
        control, reg, fmt = lane.control, lane.register, self.format
        # 5: magnitude. If bits were lost below, -x - lost is ~x with the rest still lost.
        negate = negative & ~control.raw
        magnitude = reg(5, "magnitude", ((x ^ negate.replicate(len(x))) + (negate & ~lost))[: len(x)])
        lost, over, negative = reg(5, "lost", lost), reg(5, "over", over), reg(5, "negative", negative)
        # 6: normalise, the guard bit below
        significand, exponent, lost_now = normalise(
            lane.m, magnitude, fmt.mantissa_bits + 2, f"normalise_{lane.k}"
        )
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
        clamped = lane.clamp(y, over, negative)
        sign = clamped[-1]
        result = Cat(clamped[:-1] ^ sign.replicate(fmt.bits - 1), sign)
        return reg(8, "result", Mux(control.raw, code[: fmt.bits], result))

    # -- estimates -----------------------------------------------------------------------------------------

    def decode_terms(self, multiplier: str, count: int, t: Terms) -> None:
        t.add(**{decoder_term(self.format, multiplier): count})

    def decode_path(self, multiplier: str, d: Delays) -> float:
        """A shift, where that is done here, and a change of sign."""
        operand = self.operand(multiplier)
        shift = d.lut * (self.format.exponent_bits if operand.max_exponent == 0 else 0)
        return shift + d.carry(operand.significand_bits)

    @property
    def _stages(self) -> int:
        """Choices of a shift between a fixed-point number and the code of its magnitude."""
        return (self.format.fixed_bits - self.format.mantissa_bits - 1).bit_length()

    def bound_terms(self, t: Terms) -> None:
        t.add(bounds=2 * self.format.fixed_bits * (1 + self._stages))

    def residual_terms(self, bits: int, t: Terms) -> None:
        t.add(decode=bits * self.format.exponent_bits)

    def finish_terms(self, bits: int, zero_bits: int, t: Terms) -> None:
        code, mantissa, exponent = self.format.bits, self.format.mantissa_bits, self._stages
        t.add(floating=1, magnitude=bits, code=code, normalise=(bits + 1) * exponent)
        t.add(ff=bits + 4 + code + mantissa + 2 + exponent + 3)
        t.add(ff=max(code, exponent + mantissa + 1) + 2 + code + 8)

    def finish_path(self, d: Delays) -> float:
        return d.lut * ceil_log2(self.format.fixed_bits)


def normalise(m: Module, magnitude: Value, bits: int, name: str) -> tuple[Value, Value, Value]:
    """Shift `magnitude` right until it has at most `bits` bits.

    Returns
    -------
    significand, exponent, lost
        The shifted number; by how much it was shifted; whether a bit was lost.
    """
    exponent: list[Value] = []
    lost: list[Value] = []
    spare = max(0, len(magnitude) - bits)  # the largest shift
    for bit in reversed(range(bits_for(spare) if spare else 0)):
        shift = 1 << bit
        big = Signal(name=f"{name}_by_{shift}")
        rest = Signal(min(len(magnitude), bits - 1 + shift), name=f"{name}_below_{shift}")
        m.d.comb += [
            big.eq(magnitude[bits - 1 + shift :].any()),
            rest.eq(Mux(big, magnitude[shift:], magnitude)),
        ]
        lost.append(big & magnitude[:shift].any())
        exponent.insert(0, big)
        magnitude = rest
    return magnitude, Cat(exponent), (Cat(lost).any() if lost else Const(0))
