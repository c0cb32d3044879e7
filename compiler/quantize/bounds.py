"""How wide the accumulators of a quantized network must be: computed, never guessed."""

from __future__ import annotations

from sateen.ir.quantized import QuantizedGraph

MINIMUM_BITS = 8
"""The narrowest accumulator that a configuration may have."""


def accumulator_bits(qgraph: QuantizedGraph) -> int:
    """Bits of a two's complement number that holds every accumulator, with and without bias, and every bias.

    The bound takes each weight times the input's largest or smallest value, whichever is worse, so it also
    holds for partial sums in any order, and some input reaches it.
    """
    bits = MINIMUM_BITS
    for op in qgraph.ops:
        for low, high in op.sums(qgraph.reach):
            bits = max(bits, signed_bits(low, high))
    return bits


def signed_bits(low: int, high: int) -> int:
    """Bits of the narrowest two's complement number that holds low to high."""
    return max((v if v >= 0 else ~v).bit_length() for v in (low, high)) + 1
