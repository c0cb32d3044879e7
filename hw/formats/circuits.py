"""What a family of number formats has to give the machine: circuits of one format, built where they are asked for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Shape, ShapeLike, Signal, Value, ValueLike, signed, unsigned
from amaranth.lib import data

from sateen.formats import Format
from sateen.hw.terms import Delays, Terms

MULTIPLIERS = ("fixed", "shift")


@dataclass(frozen=True)
class Operand:
    """The shape of a decoded operand of one format: `significand << exponent`."""

    significand_bits: int
    """Two's complement width."""
    max_exponent: int
    """0 where the significand is the fixed-point value itself."""

    @property
    def exponent_bits(self) -> int:
        return self.max_exponent.bit_length()

    def parts(self, value: ValueLike) -> tuple[Value, Value]:
        """Significand and exponent of an operand of this shape."""
        value = Value.cast(value)
        return value[: self.significand_bits].as_signed(), value[self.significand_bits :]

    @property
    def layout(self) -> data.StructLayout:
        return data.StructLayout(
            {"significand": signed(self.significand_bits), "exponent": unsigned(self.exponent_bits)}
        )


class Lane:
    """The pipeline of one channel through the requantizer, being built into a module.

    Registers are written in place, without combinational signals before them where it can be: a simulator
    then skips all work of a stage that holds no channel.
    """

    def __init__(self, m: Module, k: int, control: data.View, enable: list[Value]):
        self.m, self.k, self.control, self.enable = m, k, control, enable

    def new(self, stage: int, name: str, shape: ShapeLike) -> Signal:
        """A register that pipeline stage `stage` (from 1) ends in."""
        return Signal(shape, name=f"{name}_{stage}_{self.k}", reset_less=True)

    def register(self, stage: int, name: str, value: Value) -> Signal:
        register = self.new(stage, name, value.shape())
        with self.m.If(self.enable[stage - 1]):
            self.m.d.sync += register.eq(value)
        return register

    def clamp(self, y: Value, over: Value, negative: Value) -> Value:
        """`y` between the bounds, in their order; `over`: it is beyond one of them, whatever `y` says."""
        low, high = self.control.low, self.control.high
        below = Mux(over, negative, y < low)
        above = Mux(over, ~negative, y > high)
        return Mux(below, low, Mux(above, high, y))[: len(low)]


class Circuits(ABC):
    """Of one format. Codes are values of `format.bits` bits; all but `finish` are combinational."""

    def __init__(self, fmt: Format):
        self.format = fmt

    # -- decoding ------------------------------------------------------------------------------------------

    sign_magnitude: bool
    """Codes have their sign apart: decoding negates."""

    @property
    @abstractmethod
    def significand(self) -> Operand:
        """The shape of what `decode_parts` gives."""

    @abstractmethod
    def decode_fixed(self, code: Value) -> Value:
        """The value of `code`, of shape signed(format.fixed_bits), in units of 2**lsb_exponent."""

    @abstractmethod
    def decode_parts(self, code: Value) -> Value:
        """Significand and, above it, exponent of `code`, as `significand` lays them out."""

    def operand(self, multiplier: str) -> Operand:
        """What `multiplier` wants: "fixed" the fixed-point value, "shift" a significand and an exponent."""
        if multiplier not in MULTIPLIERS:
            raise ValueError(f"multiplier must be one of {MULTIPLIERS}, not {multiplier!r}")
        return self.significand if multiplier == "shift" else Operand(self.format.fixed_bits, 0)

    def operand_shape(self, multiplier: str) -> Shape | data.StructLayout:
        """signed(fixed_bits), or a struct of significand and exponent for "shift"."""
        operand = self.operand(multiplier)
        return operand.layout if multiplier == "shift" else signed(operand.significand_bits)

    def decode(self, multiplier: str, code: Value) -> Value:
        """The operand of `code`, for a signal of `operand_shape(multiplier)`."""
        code = Value.cast(code)
        return self.decode_parts(code) if multiplier == "shift" else self.decode_fixed(code)

    # -- comparing -----------------------------------------------------------------------------------------

    @abstractmethod
    def greater(self, a: Value, b: Value) -> Value:
        """The value of code `a` is greater than that of code `b`; -0 is not less than +0. Not for NaN."""

    @abstractmethod
    def magnitude_key(self, code: Value) -> Value:
        """An unsigned number that orders codes as |format.fixed(code)| does, and is 0 for zero, -0 included."""

    # -- rounding: the last stages of the requantizer ------------------------------------------------------

    requantize_latency: int
    """Cycles from a channel to its code: four that all formats share, then those of `finish`."""

    @property
    @abstractmethod
    def bound_shape(self) -> Shape:
        """Of a clamp bound, see `bound`."""

    @abstractmethod
    def bound(self, m: Module, value: Value, name: str) -> Value:
        """A clamp bound as `Lane.clamp` compares it, from fixed-point units; it must be a value of the format."""

    @abstractmethod
    def finish(self, lane: Lane, x: Value, lost: Value, over: Value, negative: Value) -> Value:
        """Stages 5 and on: the code of x / 2, rounded once, ties to the even code, and clamped.

        `x` has its guard bit lowest. `lost`: bits below it were; `over`: there are more above. With `control.raw`
        the code is the lowest bits of x / 2, and nothing is rounded. Where steps are uniform `control.zero_point` is
        added to what is rounded.
        """

    # -- estimates, see hw/terms.py ------------------------------------------------------------------------

    def operand_bits(self, multiplier: str) -> int:
        """Flip-flops of a decoded operand; the sign of an unsigned one is always 0 and takes none."""
        operand = self.operand(multiplier)
        return operand.significand_bits + operand.exponent_bits - (not self.format.signed)

    @abstractmethod
    def decode_terms(self, multiplier: str, count: int, t: Terms) -> None:
        """Of so many decoders."""

    @abstractmethod
    def decode_path(self, multiplier: str, d: Delays) -> float:
        """ns from a code to an operand."""

    def greater_terms(self, count: int, t: Terms) -> None:
        """Of so many comparisons."""
        t.add(**{f"{self.format.family}_greater": count * self.format.bits})

    @abstractmethod
    def bound_terms(self, t: Terms) -> None:
        """Of the two bounds."""

    @abstractmethod
    def residual_terms(self, bits: int, t: Terms) -> None:
        """Of decoding a residual to `bits` bits, less its zero point."""

    @abstractmethod
    def finish_terms(self, bits: int, zero_bits: int, t: Terms) -> None:
        """Of `finish`, for an `x` of `bits` bits and its guard bit, and zero points of `zero_bits`."""

    @abstractmethod
    def finish_path(self, d: Delays) -> float:
        """ns that `finish` adds to the longest path of the stages before."""


def decoder_term(fmt: Format, multiplier: str) -> str:
    """The term of a decoder that is more than wires: its coefficient is what one takes by itself."""
    return f"decode {fmt.name} {multiplier}"
