"""Decoding of format codes where they enter the array: combinational, a few gates for each code.

A decoded operand is a *fixed-point integer*, in units of `2**fmt.lsb_exponent`, or for multiplier="shift" a
signed *significand* and an *exponent* of the same value, `significand << exponent`. NaN and infinity decode
as the largest finite magnitude, as `fmt.fixed` has it; activations and weights never hold them.
"""

from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Shape, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sateen.formats import Format, Minifloat

MULTIPLIERS = ("fixed", "shift")


@dataclass(frozen=True)
class Operand:
    """The shape of a decoded operand of one format: `significand << exponent`."""

    significand_bits: int
    """Two's complement width."""
    max_exponent: int
    """0 where the significand is the fixed-point value itself."""

    @classmethod
    def of(cls, fmt: Format, multiplier: str) -> "Operand":
        """The operand that `multiplier` wants: integers have no exponent to keep apart in either kind."""
        if multiplier not in MULTIPLIERS:
            raise ValueError(f"multiplier must be one of {MULTIPLIERS}, not {multiplier!r}")
        if multiplier == "shift" and isinstance(fmt, Minifloat):
            # significand: mantissa, leading bit, sign. An exponent field e scales by 2**(max(e, 1) - 1).
            return cls(fmt.mantissa_bits + 2, (_top_magnitude(fmt) >> fmt.mantissa_bits) - 1)
        return cls(fmt.fixed_bits, 0)

    @property
    def exponent_bits(self) -> int:
        return self.max_exponent.bit_length()

    def parts(self, value) -> tuple[Value, Value]:
        """Significand and exponent of an operand of this shape."""
        value = Value.cast(value)
        return value[: self.significand_bits].as_signed(), value[self.significand_bits :]

    @property
    def layout(self) -> data.StructLayout:
        return data.StructLayout(
            {"significand": signed(self.significand_bits), "exponent": unsigned(self.exponent_bits)}
        )


def operand_shape(fmt: Format, multiplier: str) -> Shape | data.StructLayout:
    """Shape of a decoded operand: signed(fixed_bits), or a struct of significand and exponent for "shift"."""
    operand = Operand.of(fmt, multiplier)
    return operand.layout if multiplier == "shift" else signed(operand.significand_bits)


def _top_magnitude(fmt: Minifloat) -> int:
    """The code, without sign, of the largest finite value; those above it are NaN or infinity."""
    codes = np.arange(1 << (fmt.bits - 1), dtype=np.uint8)
    return int(codes[np.isfinite(fmt.decode(codes))].max())


def decode_parts(fmt: Minifloat, code: Value) -> tuple[Value, Value, Value]:
    """Sign, unsigned significand (mantissa_bits + 1) and exponent: fixed = ±(significand << exponent)."""
    magnitude = code[: fmt.bits - 1]
    top = _top_magnitude(fmt)
    if top + 1 < 1 << (fmt.bits - 1):
        magnitude = Mux(magnitude > top, top, magnitude)[: fmt.bits - 1]
    field = magnitude[fmt.mantissa_bits :]
    normal = field.any()
    significand = Cat(magnitude[: fmt.mantissa_bits], normal)
    return code[fmt.bits - 1], significand, (field - normal)[: fmt.exponent_bits]  # never below 0


def decode_fixed(fmt: Format, code: Value) -> Value:
    """The value of `code` as an expression of shape signed(fmt.fixed_bits), in units of 2**lsb_exponent."""
    code = Value.cast(code)
    if not isinstance(fmt, Minifloat):
        value = code[: fmt.bits]
        return (value.as_signed() if fmt.signed else Cat(value, 0))[: fmt.fixed_bits].as_signed()
    sign, significand, exponent = decode_parts(fmt, code)
    magnitude = (significand << exponent)[
        : fmt.fixed_bits - 1
    ]  # fixed_bits: the largest magnitude and the sign
    return Mux(sign, -magnitude, magnitude)[: fmt.fixed_bits].as_signed()


def decode(fmt: Format, multiplier: str, code: Value) -> Value:
    """The operand of `code` as an expression, for a signal of `operand_shape(fmt, multiplier)`."""
    operand = Operand.of(fmt, multiplier)
    if operand.max_exponent == 0 and not (multiplier == "shift" and isinstance(fmt, Minifloat)):
        return decode_fixed(fmt, code)
    sign, significand, exponent = decode_parts(fmt, Value.cast(code))
    value = Mux(sign, -significand, significand)[: operand.significand_bits]
    return Cat(value, exponent[: operand.exponent_bits])


class Decoder(wiring.Component):
    """One code to one operand, combinational.

    Parameters
    ----------
    fmt : Format
    multiplier : str
        "fixed" or "shift": the kind of operand.

    Members
    -------
    i : In(fmt.bits)
    o : Out(operand_shape(fmt, multiplier))
    """

    latency = 0
    initiation_interval = 1

    def __init__(self, *, fmt: Format, multiplier: str = "fixed"):
        self.fmt = fmt
        self.multiplier = multiplier
        super().__init__({"i": In(fmt.bits), "o": Out(operand_shape(fmt, multiplier))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += Value.cast(self.o).eq(decode(self.fmt, self.multiplier, self.i))
        return m
