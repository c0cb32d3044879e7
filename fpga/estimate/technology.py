"""What synthesis makes of memories, products and multiplexers in each family, for `sateen.hw.terms`; ECP5's delays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sateen.fpga.estimate.memory_map import memory
from sateen.fpga.flow.dsp_registers import ABSORBING
from sateen.hw.terms import Delays, MemoryCells, Technology


@dataclass(frozen=True, slots=True)
class _Family:
    """A family, with how Yosys cuts a product for its DSPs. Ref: Yosys, techlibs/common/mul2dsp.v."""

    name: str
    operands: tuple[int, int]
    part: int
    """Bits of a part of an operand that is too wide."""
    headroom: int
    """Of them those that only keep it from being negative: 1 where the DSP takes signed operands alone."""
    least: int
    """Bits of a product that takes a DSP."""
    inputs: int
    """Of a multiplexer, in a LUT; what joins the LUTs is no LUT."""
    carry_input: bool
    least_chain: int

    def memory(
        self, width: int, depth: int, *, slices: int = 1, rows: int = 1, synchronous: bool = True
    ) -> MemoryCells:
        return memory(self.name, width, depth, slices=slices, rows=rows, synchronous=synchronous)

    def mux(self, ways: int) -> float:
        return 0.0 if ways < 2 else max(1.0, ways / self.inputs)

    def dsps(self, a: int, b: int, *, signed: bool = True) -> int:
        extra = self.headroom * (not signed)
        return self._cut(max(a, b) + extra, min(a, b) + extra)

    def absorbed(self, a: int, b: int, *, signed: bool = True) -> bool:
        """See `fpga.flow.dsp_registers`: a product of one DSP, with no sum behind it."""
        whole = max(a, b) <= self.operands[0]
        return self.name in ABSORBING and whole and self.dsps(a, b, signed=signed) == 1

    def odd_bits(self, a: int, b: int) -> int:
        if self.headroom:  # parts have a bit to spare, so none is left with one bit
            return 0
        size = self.operands[1]
        return b * (a == size + 1) + a * (b == size + 1)

    def _cut(self, a: int, b: int) -> int:
        if min(a, b) < 2 or a + b < self.least:
            return 0
        step = self.part - self.headroom
        if a > self.operands[0]:
            n = (a - self.operands[0] + step - 1) // step
            return n * self._cut(self.part, b) + self._cut(a - n * step, b)
        if b > self.operands[1]:
            n = (b - self.operands[1] + step - 1) // step
            return n * self._cut(a, self.part) + self._cut(a, b - n * step)
        return 1


TECHNOLOGIES: dict[str, Technology] = {
    f.name: f
    for f in (
        _Family("ecp5", (18, 18), 18, 0, 4, inputs=2, carry_input=False, least_chain=0),
        # Ref: Yosys, synth_ice40: `-D DSP_Y_MINWIDTH=11`
        _Family("ice40", (16, 16), 16, 0, 11, inputs=2, carry_input=False, least_chain=0),
        # Ref: Yosys, synth_xilinx: `xilinx_srl -minlen 3`
        _Family("xcup", (27, 18), 18, 1, 9, inputs=4, carry_input=True, least_chain=3),
    )
}


class _Ecp5Delays:
    """Those that nextpnr reports for speed grade 6 in its slowest corner; they are Project Trellis's timing database.

    What wires take is fitted (fpga/estimate/clock_fit.py).
    """

    register: ClassVar = 0.53
    memory: ClassVar = 5.73
    lut: ClassVar = 0.24
    product: ClassVar = 3.93
    _kept: ClassVar = 3.48
    """A product to the DSP's own register."""
    _carry_ends, _carry_bit = 0.85, 0.0355

    def multiply(self, a: int, b: int) -> float:
        return self._kept if TECHNOLOGIES["ecp5"].absorbed(a, b) else self.product

    def carry(self, bits: int) -> float:
        return self._carry_ends + self._carry_bit * bits

    def select(self, ways: int) -> float:
        """What joins the LUTs of a slice costs about as little as a LUT."""
        return self.lut * -(-(ways - 1).bit_length() // 2)


ECP5_DELAYS: Delays = _Ecp5Delays()
