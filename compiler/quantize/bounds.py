"""How wide the accumulators of a quantized network must be: computed, never guessed."""

from __future__ import annotations

import numpy as np

from sateen.ir.quantized import Concat, Linear, Op, QuantizedGraph

Range = tuple[int, int]

MINIMUM_BITS = 8
"""The narrowest accumulator that a configuration may have."""


def accumulator_bits(qgraph: QuantizedGraph) -> int:
    """Bits of a two's complement number that holds every accumulator, with and without bias, and every bias.

    The bound takes each weight times the input's largest or smallest value, whichever is worse, so it also
    holds for partial sums in any order, and some input reaches it.
    """
    bits = MINIMUM_BITS
    for op in qgraph.ops:
        for low, high in accumulator_ranges(qgraph, op):
            bits = max(bits, signed_bits(low, high))
    return bits


def signed_bits(low: int, high: int) -> int:
    """Bits of the narrowest two's complement number that holds low to high."""
    return max((v if v >= 0 else ~v).bit_length() for v in (low, high)) + 1


def accumulator_ranges(qgraph: QuantizedGraph, op: Op) -> list[Range]:
    """The ranges of partial sums, biases and accumulators of every output channel, all together."""
    if isinstance(op, Concat):
        # the machine copies the parts through the array, with a weight of fixed-point value 1
        return [format_range(qgraph, part) for part in op.parts]
    if not isinstance(op, Linear):
        return []
    low, high = format_range(qgraph, op.input)
    low, high = min(low, 0), max(high, 0)
    weight = op.weight_format.fixed(op.weight).reshape(len(op.weight), -1)
    positive = np.where(weight > 0, weight, 0).sum(axis=1)
    negative = np.where(weight < 0, weight, 0).sum(axis=1)
    ranges = []
    for p, n, b in zip(positive, negative, op.bias, strict=True):
        p, n, b = int(p), int(n), int(b)
        least, most = p * low + n * high, p * high + n * low
        ranges += [(least, most), (min(b, 0), max(b, 0)), (least + b, most + b)]
    return ranges


def format_range(qgraph: QuantizedGraph, tensor: str) -> Range:
    """Fixed-point values that the tensor's format can hold."""
    fixed = qgraph.tensors[tensor].quant.format.fixed(
        np.arange(1 << qgraph.tensors[tensor].quant.format.bits)
    )
    return int(fixed.min()), int(fixed.max())
