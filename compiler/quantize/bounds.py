"""How wide the accumulators of a quantized network must be: computed, never guessed."""

from __future__ import annotations

from sateen.ir.quantized import BiasGradient, QuantizedGraph, WeightGradient

MINIMUM_BITS = 8
"""The narrowest accumulator that a configuration may have."""


def accumulator_bits(qgraph: QuantizedGraph, samples: int = 1) -> int:
    """Bits of a two's complement number that holds every accumulator, with and without bias, and every bias.

    Sums over pixels are sums over those of all `samples` of a run.

    The bound takes each weight times the input's largest or smallest value, whichever is worse, so it also
    holds for partial sums in any order, and some input reaches it.
    """
    bits = MINIMUM_BITS
    for op in qgraph.ops:
        for low, high in op.sums(qgraph.reach):
            n = samples if isinstance(op, WeightGradient | BiasGradient) else 1
            bits = max(bits, signed_bits(n * low, n * high))
    return bits


def signed_bits(low: int, high: int) -> int:
    """Bits of the narrowest two's complement number that holds low to high."""
    return max((v if v >= 0 else ~v).bit_length() for v in (low, high)) + 1
