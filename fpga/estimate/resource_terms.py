"""Terms of the resource model, and what adders, multiplexers, multipliers and decoders add to them.

A term is a number of bits that take a LUT, or a flip-flop, or a fraction or a small multiple of one: an adder's, a
multiplexer's, a register's. Memories and DSPs are counted by rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sateen.formats import Format
from sateen.fpga.estimate.memory_map import Memory
from sateen.fpga.flow.dsp_registers import ABSORBING
from sateen.hw.formats import circuits


@dataclass(frozen=True, slots=True)
class _Multiplier:
    """How Yosys cuts a product for a family's DSPs. Ref: Yosys, techlibs/common/mul2dsp.v."""

    operands: tuple[int, int]
    part: int
    """Bits of a part of an operand that is too wide."""
    headroom: int
    """Of them those that only keep it from being negative: 1 where the DSP takes signed operands alone."""
    least: int
    """Bits of a product that takes a DSP."""


_MULTIPLIER = {
    "ecp5": _Multiplier((18, 18), 18, 0, 4),
    "xcup": _Multiplier((27, 18), 18, 1, 9),
}


@dataclass(slots=True)
class Terms:
    """Bits by kind, for LUTs and for flip-flops, and what is known exactly."""

    lut: dict[str, float] = field(default_factory=dict)
    ff: dict[str, float] = field(default_factory=dict)
    dsp: int = 0
    bram: int = 0
    """Half blocks."""

    def add(self, *, ff: float = 0, **lut: float) -> None:
        for name, n in lut.items():
            self.lut[name] = self.lut.get(name, 0.0) + n
        if ff:
            self.ff["registers"] = self.ff.get("registers", 0.0) + ff

    def store(self, family: str, found: Memory, bits: int) -> None:
        """A memory whose word has `bits`."""
        if found.kind == "block":
            self.bram += found.units
            self.add(ff=log2(found.ways))
        elif found.kind == "lut":
            self.add(memory=found.units, ff=bits)
        else:
            self.add(ff=found.units + bits)
        if found.ways > 1:
            self.add(
                **{f"{found.kind}_ways": bits * mux(family, found.ways), f"{found.kind}_decoder": found.ways}
            )


def log2(n: int) -> int:
    """Rounded up."""
    return (n - 1).bit_length() if n > 1 else 0


def mux(family: str, ways: int) -> float:
    """LUTs of a bit that is one of so many: two inputs in a LUT of ECP5, four in one of UltraScale+; what joins them
    is no LUT."""
    if ways < 2:
        return 0.0
    return ways / 2 if family == "ecp5" else max(1.0, ways / 4)


def dsps(family: str, a: int, b: int, *, signed: bool = True) -> int:
    """DSPs of a product."""
    m = _MULTIPLIER[family]
    extra = m.headroom * (not signed)
    return _cut(m, max(a, b) + extra, min(a, b) + extra)


def absorbed(family: str, a: int, b: int, *, signed: bool = True) -> bool:
    """Whether a product's register is the DSP's own (`fpga.flow.dsp_registers`): of one DSP, with no sum behind it."""
    whole = max(a, b) <= _MULTIPLIER[family].operands[0]
    return family in ABSORBING and whole and dsps(family, a, b, signed=signed) == 1


def _cut(m: _Multiplier, a: int, b: int) -> int:
    if min(a, b) < 2 or a + b < m.least:
        return 0
    step = m.part - m.headroom
    if a > m.operands[0]:
        n = (a - m.operands[0] + step - 1) // step
        return n * _cut(m, m.part, b) + _cut(m, a - n * step, b)
    if b > m.operands[1]:
        n = (b - m.operands[1] + step - 1) // step
        return n * _cut(m, a, m.part) + _cut(m, a, b - n * step)
    return 1


# -- arithmetic --------------------------------------------------------------------------------------------


def multiplication(terms: Terms, family: str, a: int, b: int, count: int = 1, *, signed: bool = True) -> None:
    """Products of equal shapes."""
    n = dsps(family, a, b, signed=signed)
    terms.dsp += n * count
    if n and (odd := _odd_bits(family, a, b)):
        terms.add(odd=count * odd, odd_sums=count * (a + b - 17))
    if n == 0:
        terms.add(partial_products=count * a * b, products=count)
    elif n > 1:
        terms.add(partial_sums=count * (n - 1) * (a + b - 17))


def _odd_bits(family: str, a: int, b: int) -> int:
    """Bits that one bit of the other operand, too many for the DSP, is multiplied with beside it."""
    if family != "ecp5":  # UltraScale+'s parts have a bit of headroom, so none is left with one bit
        return 0
    size = _MULTIPLIER[family].operands[1]
    return b * (a == size + 1) + a * (b == size + 1)


def decoder(terms: Terms, fmt: Format, multiplier: str, count: int) -> None:
    """Of codes of a format, so many: a term of its own, whose coefficient is what one takes by itself."""
    if circuits(fmt).sign_magnitude:
        terms.add(**{decoder_term(fmt, multiplier): count})


def decoder_term(fmt: Format, multiplier: str) -> str:
    return f"decode {fmt.name} {multiplier}"


def shifter(width: int, most: int, shifted: int) -> int:
    """Two-way multiplexers of a shift to the left by 0 to `most`, of `width` bits to `shifted`."""
    return sum(min(width + (2 << level) - 1, shifted) for level in range(most.bit_length()))


def comparator(fmt: Format) -> dict[str, float]:
    """Of two codes."""
    return {f"{fmt.family}_greater": fmt.bits}


def operand_bits(fmt: Format, multiplier: str) -> int:
    """Of a decoded operand; the sign of an unsigned integer is always 0 and takes no flip-flop."""
    operand = circuits(fmt).operand(multiplier)
    return operand.significand_bits + operand.exponent_bits - (not fmt.signed)
