"""Residual operands: multipliers and shifts that the machine can align with those of the channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sateen.compiler.bounds import accumulator_bits
from sateen.compiler.scales import MULTIPLIER_BITS, MULTIPLIER_MAX, SHIFT_MAX, normalised

from sateen.errors import DataError
from sateen.ir.quantized import Linear, Op, Quant, QuantizedGraph, Residual


def align_residuals(qgraph: QuantizedGraph) -> QuantizedGraph:
    """Set every residual's multiplier and shift as the machine needs them, with as many bits as possible.

    The residual is shifted left by shift_c - residual.shift, which must be 0 to `limit`. A channel whose
    shift is too large gives up low bits of its multiplier; its sum is then small against the output's step.
    """
    bits = accumulator_bits(qgraph)
    ops: list[Op] = []
    for op in qgraph.ops:
        if isinstance(op, Linear) and op.residual:
            limit = max(0, bits - op.requantized.format.fixed_bits)
            op = _aligned(op, qgraph.tensors[op.residual.input].quant, limit)
        ops.append(op)
    return replace(qgraph, ops=tuple(ops))


def _aligned(op: Linear, source: Quant, limit: int) -> Linear:
    assert op.residual is not None
    lsb = source.format.lsb_exponent - op.requantized.format.lsb_exponent
    wanted = source.scale / op.requantized.scale * 2.0**lsb
    try:
        m0, s0 = normalised(wanted)
    except OverflowError:
        raise DataError(
            f"'{op.name}': a step of '{op.residual.input}' is {wanted:.3g} steps of '{op.output}', more than "
            f"{MULTIPLIER_MAX}; use calibration samples that excite both"
        ) from None
    # as many bits as possible in every multiplier
    gained = np.array([MULTIPLIER_BITS - int(m).bit_length() for m in op.multiplier])
    gained = np.minimum(gained, SHIFT_MAX - op.shift)
    multiplier, shift = op.multiplier << gained, op.shift + gained
    lost = max(0, s0 - int(shift.min()))
    m0, s0 = max(1, _round_shift(m0, lost)), s0 - lost
    excess = np.maximum(shift - s0 - limit, 0)
    multiplier = np.array(
        [max(1, _round_shift(int(m), int(e))) for m, e in zip(multiplier, excess, strict=True)], np.int64
    )
    shift = shift - excess
    # a power of two needs one bit only
    multipliers, shifts = [m0, *map(int, multiplier)], [s0, *map(int, shift)]
    common = min(min(_trailing_zeros(m), s) for m, s in zip(multipliers, shifts, strict=True))
    # what rounding did to a multiplier is taken back into the scale of the weights
    changed = np.ldexp(multiplier / op.multiplier, op.shift - shift)
    return replace(
        op,
        multiplier=multiplier >> common,
        shift=shift - common,
        residual=Residual(op.residual.input, m0 >> common, s0 - common),
        weight_scale=None if op.weight_scale is None else op.weight_scale * changed,
    )


def _round_shift(m: int, bits: int) -> int:
    """m * 2**-bits to the nearest integer, ties up."""
    return (m + (1 << bits >> 1)) >> bits if bits < 64 else 0


def _trailing_zeros(m: int) -> int:
    return (m & -m).bit_length() - 1


def residual_shifts_fit(qgraph: QuantizedGraph, acc_bits: int) -> bool:
    """Whether a machine with accumulators of acc_bits can shift every residual as far as its op asks."""
    for op in qgraph.ops:
        if isinstance(op, Linear) and op.residual:
            limit = max(0, acc_bits - op.requantized.format.fixed_bits)
            distance = op.shift - op.residual.shift
            if int(distance.min()) < 0 or int(distance.max()) > limit:
                return False
    return True
