"""Decoding where a code may be of one of two formats of as many bits: a bit says of which."""

from amaranth.hdl import Cat, Mux, Shape, Value, signed
from amaranth.lib import data

from sateen.hw.formats.circuits import Circuits, Operand
from sateen.hw.terms import Terms


class Either:
    """Operands wide enough for each of the formats, which are one or two; fixed-point values keep their own unit.

    Parameters
    ----------
    multiplier : str
        As `Circuits.operand` has it.
    choices : circuits of the formats
    """

    def __init__(self, multiplier: str, *choices: Circuits):
        self.multiplier, self.choices = multiplier, choices
        operands = [c.operand(multiplier) for c in choices]
        self.operand = Operand(
            max(o.significand_bits for o in operands), max(o.max_exponent for o in operands)
        )

    @property
    def shape(self) -> Shape | data.StructLayout:
        """As `Circuits.operand_shape`."""
        return self.operand.layout if self.multiplier == "shift" else signed(self.operand.significand_bits)

    def decode(self, code: Value, second: Value | None = None) -> Value:
        """The operand of `code`, of the first format or of the second."""
        if second is None or len(self.choices) == 1:
            return self.choices[0].decode(self.multiplier, code)
        parts = []
        for c in self.choices:
            significand, exponent = c.operand(self.multiplier).parts(c.decode(self.multiplier, code))
            parts.append((significand, exponent))
        (a, a_exponent), (b, b_exponent) = parts
        significand = Mux(second, b, a).as_signed()[: self.operand.significand_bits]
        if not self.operand.max_exponent:
            return significand
        return Cat(significand, Mux(second, b_exponent, a_exponent)[: self.operand.exponent_bits])

    @property
    def bits(self) -> int:
        """Flip-flops of an operand, as `Circuits.operand_bits`."""
        if len(self.choices) == 1:
            return self.choices[0].operand_bits(self.multiplier)
        return self.operand.significand_bits + self.operand.exponent_bits

    def terms(self, count: int, t: Terms) -> None:
        """Of so many decoders."""
        for c in self.choices:
            c.decode_terms(self.multiplier, count, t)
        if len(self.choices) > 1:
            t.add(either=count * self.bits)
