"""Residual operands: multipliers and shifts that the machine can align with those of the channels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np

from sateen.compiler.quantize.bounds import accumulator_bits
from sateen.compiler.quantize.scales import normalised
from sateen.errors import DataError
from sateen.ir.fused import FusedGraph
from sateen.ir.quantized import (
    Linear,
    MatMul,
    Op,
    Quant,
    QuantizedGraph,
    Residual,
    Summed,
)
from sateen.ir.sums import MULTIPLIER_BITS, MULTIPLIER_MAX, SHIFT_MAX

_SNAP_BITS = 13
"""Of the ratio of two scales that an Add brings together: short enough to survive the loss of some low bits."""


def snap_scales(
    network: FusedGraph,
    quants: Mapping[str, Quant],
    given: Iterable[str] = (),
) -> dict[str, Quant]:
    """Move scales by at most 2**-10, so that Adds and products of two tensors rescale by short, exact multipliers.

    Then the integers state what the real numbers state, and rounding does not differ between the two. `quants`
    has a Quant for each scale group; those of the groups `given` stay.
    """
    scale = {group: q.scale for group, q in quants.items()}
    fixed = set(given)
    shared = network.scale_groups
    for layer in network.layers:
        if layer.residual is None:
            continue
        out = shared[layer.requantized]
        sources = [shared[layer.residual]] + ([shared[layer.input]] if layer.main is None else [])
        if layer.product:
            if layer.main is None and out not in fixed and out not in sources:
                product = math.prod(scale[s] for s in sources)
                scale[out] = float(np.float32(product / _short(product / scale[out])))
            fixed.update((out, *sources))
            continue
        known = next((s for s in sources if s in fixed), None)
        if out not in fixed and known:
            scale[out] = float(np.float32(scale[known] / _short(scale[known] / scale[out])))
        fixed.add(out)
        for source in sources:
            if source not in fixed:
                scale[source] = float(np.float32(scale[out] * _short(scale[source] / scale[out])))
                fixed.add(source)
    return {group: replace(q, scale=scale[group]) for group, q in quants.items()}


def _short(ratio: float) -> float:
    """The ratio with _SNAP_BITS significant bits."""
    fraction, exponent = math.frexp(ratio)
    return math.ldexp(round(fraction * (1 << _SNAP_BITS)), exponent - _SNAP_BITS)


def align_residuals(qgraph: QuantizedGraph) -> QuantizedGraph:
    """Set every residual's multiplier and shift as the machine needs them, with as many bits as possible.

    The residual is shifted left by shift_c - residual.shift, which must be 0 to `limit`. A channel whose
    shift is too large gives up low bits of its multiplier; its sum is then small against the output's step.
    """
    bits = accumulator_bits(qgraph)
    ops: list[Op] = []
    for op in qgraph.ops:
        if isinstance(op, Linear | MatMul) and isinstance(op.residual, Residual):
            limit = max(0, bits - op.requantized.format.fixed_bits)
            op = _aligned(op, qgraph.tensors[op.residual.input].quant, limit)
        ops.append(op)
    return replace(qgraph, ops=tuple(ops))


def _aligned(op: Linear | MatMul, source: Quant, limit: int) -> Linear | MatMul:
    assert isinstance(op.residual, Residual)
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
    residual = Residual(op.residual.input, m0 >> common, s0 - common)
    aligned = replace(op, multiplier=multiplier >> common, shift=shift - common, residual=residual)
    if isinstance(aligned, MatMul) or aligned.weight.scale is None:
        return aligned
    # what rounding did to a multiplier is taken back into the scale of the weights
    changed = np.ldexp(multiplier / op.multiplier, op.shift - shift)
    return replace(aligned, weight=replace(aligned.weight, scale=aligned.weight.scale * changed))


def _round_shift(m: int, bits: int) -> int:
    """m * 2**-bits to the nearest integer, ties up."""
    return (m + (1 << bits >> 1)) >> bits if bits < 64 else 0


def _trailing_zeros(m: int) -> int:
    return (m & -m).bit_length() - 1


def fold_zero_points(qgraph: QuantizedGraph) -> QuantizedGraph:
    """Add to every bias what minifloats add before rounding: the output's zero point, less the residual's.

    To the nearest unit of the accumulator, so it must come after all multipliers are fixed.
    """
    ops: list[Op] = []
    for op in qgraph.ops:
        if isinstance(op, Summed) and not op.raw:
            bias = [int(b) + z for b, z in zip(op.bias, folded_zero_points(op, qgraph), strict=True)]
            wide = any(abs(b) >= 1 << 62 for b in bias)
            op = replace(op, bias=np.array(bias, object if wide else np.int64))
        ops.append(op)
    return replace(qgraph, ops=tuple(ops))


def folded_zero_points(op: Summed, qgraph: QuantizedGraph) -> list[int]:
    """What `fold_zero_points` adds to the bias of each output channel, in units of the accumulator."""
    if op.raw:
        return [0] * len(op.bias)
    added = Fraction(op.requantized.zero_before)  # none for a product
    if isinstance(op.residual, Residual):
        source = qgraph.tensors[op.residual.input].quant
        added -= Fraction(source.zero_before * op.residual.multiplier, 1 << op.residual.shift)
    return [round(added * (1 << int(s)) / int(m)) for m, s in zip(op.multiplier, op.shift, strict=True)]


def residual_shifts_fit(qgraph: QuantizedGraph, acc_bits: int) -> bool:
    """Whether a machine with accumulators of acc_bits can shift every residual as far as its op asks."""
    for op in qgraph.ops:
        if isinstance(op, Linear | MatMul) and isinstance(op.residual, Residual):
            limit = max(0, acc_bits - op.requantized.format.fixed_bits)
            distance = op.shift - op.residual.shift
            if int(distance.min()) < 0 or int(distance.max()) > limit:
                return False
    return True
