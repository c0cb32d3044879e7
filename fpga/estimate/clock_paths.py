"""The machine's longest paths by component: the logic that each goes through on ECP5, from the configuration.

Delays are those that nextpnr reports for speed grade 6 in its slowest corner; they are Project Trellis's timing
database. What wires take is fitted (fpga/estimate/clock_fit.py).
"""

from __future__ import annotations

from sateen.formats import Format
from sateen.fpga.estimate.memory_map import memory
from sateen.fpga.estimate.resource_terms import absorbed, dsps, log2
from sateen.hw.formats import Operand, circuits
from sateen.hw.matrix.accumulator import BANKS
from sateen.machine.config import AcceleratorConfig

REGISTER = 0.53
"""ns from the clock to the output of a flip-flop."""
MEMORY = 5.73
"""… of a block RAM."""
LUT = 0.24
MULTIPLY = 3.93
"""A product, from its operands to the register beside the DSP, …"""
MULTIPLY_KEPT = 3.48
"""… and to the DSP's own."""
_CARRY_ENDS, _CARRY_BIT = 0.85, 0.0355


def _carry(bits: int) -> float:
    """An adder or a comparison."""
    return _CARRY_ENDS + _CARRY_BIT * bits


def _select(ways: int) -> float:
    """One of so many; what joins the LUTs of a slice costs about as little as a LUT."""
    return LUT * -(-log2(ways) // 2)


def _decode(fmt: Format, operand: Operand) -> float:
    """A code to an operand: a shift, where that is done here, and a change of sign."""
    if not circuits(fmt).sign_magnitude:
        return 0.0
    return LUT * (circuits(fmt).exponent_bits if operand.max_exponent == 0 else 0) + _carry(
        operand.significand_bits
    )


def logic(c: AcceleratorConfig) -> dict[str, float]:
    """ns of logic on the path that ends in each of clock_data.GROUPS."""
    a, w = circuits(c.activation).operand(c.multiplier), circuits(c.weight).operand(c.multiplier)
    shifts = (a.max_exponent + w.max_exponent).bit_length()
    address = log2(c.act_depth)
    counter = max(c.position_bits, address)
    multiply = MULTIPLY_KEPT if absorbed("ecp5", a.significand_bits, w.significand_bits) else MULTIPLY
    requantized = _carry(c.acc_bits + 17) + MULTIPLY
    return {
        "bank address": REGISTER + 3 * LUT,
        "activations": MEMORY + _select(c.act_banks),
        "buffers": REGISTER + 2 * LUT,
        "product": REGISTER + _select(c.group // c.lanes) + multiply,
        "element": REGISTER
        + max(LUT * shifts + _carry(c.acc_bits) * (1 + (c.lanes > 1)), _decode(c.weight, w)),
        "edge": max(MEMORY, REGISTER + _decode(c.activation, a)),
        "accumulator": REGISTER + LUT + _carry(c.acc_bits),
        "matrix": REGISTER + 2 * LUT + _carry(counter),
        "requantizer": REGISTER
        + requantized
        + LUT * (not c.activation.uniform) * log2(c.activation.fixed_bits),
        "drain": MEMORY + _select(c.cols // c.vector_lanes),
        "pool": REGISTER + 2 * LUT + _carry(counter),
        "control": MEMORY + 2 * LUT,
        "registers": REGISTER + 2 * LUT + _carry(32),
        "load": REGISTER + 2 * LUT + _carry(c.word_bits),
        "store": REGISTER + 2 * LUT + _carry(c.word_bits),
    }


def blocks(c: AcceleratorConfig) -> int:
    """Block RAMs and DSPs: they lie in few columns of the chip, so wires between them are long."""
    widths = (
        (c.act_banks, c.act_word_bits, c.act_bank_depth),
        (1, c.weight_word_bits, c.weight_depth),
        (1, c.vector_lanes * c.parameter_bits, c.parameter_depth),
        (BANKS, c.cols * c.acc_bits, c.acc_depth),
    )
    found = [(n, memory("ecp5", width, depth)) for n, width, depth in widths]
    a, w = (circuits(f).operand(c.multiplier).significand_bits for f in (c.activation, c.weight))
    multiplications = c.multipliers * dsps("ecp5", a, w)
    requantized = c.vector_lanes * dsps("ecp5", c.acc_bits + 1, 17)
    return multiplications + requantized + sum(n * m.cells for n, m in found if m.kind == "block")
