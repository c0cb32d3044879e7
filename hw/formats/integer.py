"""Circuits of integers: codes are the numbers."""

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value, signed

from sateen.hw.formats.circuits import Circuits, Lane, Operand
from sateen.hw.terms import Delays, Terms


class IntegerCircuits(Circuits):
    """Of two's complement and unsigned integers."""

    sign_magnitude = False
    requantize_latency = 6

    @property
    def significand(self) -> Operand:
        return Operand(self.format.fixed_bits, 0)  # no exponent to keep apart

    def decode_fixed(self, code: Value) -> Value:
        fmt, value = self.format, code[: self.format.bits]
        return (value.as_signed() if fmt.signed else Cat(value, 0))[: fmt.fixed_bits].as_signed()

    def decode_parts(self, code: Value) -> Value:
        return self.decode_fixed(code)

    def greater(self, a: Value, b: Value) -> Value:
        return a.as_signed() > b.as_signed() if self.format.signed else a > b

    def magnitude_key(self, code: Value) -> Value:
        if not self.format.signed:
            return code
        bits, sign = self.format.bits, code[-1]
        # |-2**(bits-1)| fits an unsigned number of `bits`. Written so, not as a choice, it is one carry chain.
        return ((code ^ sign.replicate(bits)) + sign)[:bits]

    @property
    def bound_shape(self) -> Shape:
        return signed(self.format.fixed_bits)

    def bound(self, m: Module, value: Value, name: str) -> Value:
        return value[: self.format.fixed_bits].as_signed()

    def finish(self, lane: Lane, x: Value, lost: Value, over: Value, negative: Value) -> Value:
        control, reg = lane.control, lane.register
        # 5: round to nearest, ties to even, and add the zero point, in one adder
        up = Signal(name=f"up_{lane.k}")
        with lane.m.If(lane.enable[4]):
            lane.m.d.comb += up.eq(~control.raw & x[0] & (lost | x[1]))
        y = (Cat(up, x[1:]).as_signed() + Cat(up, control.zero_point).as_signed())[1:].as_signed()
        y, over, negative = reg(5, "y", y), reg(5, "over", over), reg(5, "negative", negative)
        # 6: clamp; the bounds are in the format, so what is between them is, too
        code = lane.clamp(y, over, negative)
        return reg(6, "code", Mux(control.raw, y, code)[: self.format.bits])

    # -- estimates -----------------------------------------------------------------------------------------

    def decode_terms(self, multiplier: str, count: int, t: Terms) -> None:
        pass

    def decode_path(self, multiplier: str, d: Delays) -> float:
        return 0.0

    def bound_terms(self, t: Terms) -> None:
        pass

    def residual_terms(self, bits: int, t: Terms) -> None:
        t.add(zero=bits)

    def finish_terms(self, bits: int, zero_bits: int, t: Terms) -> None:
        t.add(integer=1, rounded=bits + 1, clamp=self.format.fixed_bits)
        t.add(ff=max(bits + 1, zero_bits + 1) + 2 + self.format.bits + 6)

    def finish_path(self, d: Delays) -> float:
        return 0.0
