"""Powers of two that tensors are scaled by: found once, then delayed by a step (ADR 38)."""

from __future__ import annotations

import math

from sateen.errors import DataError
from sateen.formats import Format

LIMIT = 60
"""Of a scale's exponent, either way."""


def fitting(magnitude: float, fmt: Format) -> int:
    """The least s for which 2**s times the format reaches `magnitude`; 0 where there is nothing to reach."""
    if magnitude == 0:
        return 0
    fraction, exponent = math.frexp(magnitude / fmt.max)  # = fraction * 2**exponent
    return exponent - 1 if fraction == 0.5 else exponent


def next_scale(scale: int, magnitude: int, fmt: Format, tensor: str) -> int:
    """After a step in which the greatest fixed-point magnitude was that. Raises DataError beyond the limit."""
    most = fmt.max_fixed
    if magnitude >= most:
        scale += 1
    elif magnitude:
        scale -= (most // magnitude).bit_length() - 1  # floor(log2(most / magnitude))
    if abs(scale) > LIMIT:
        raise DataError(
            f"training: the scale of '{tensor}' became 2**{scale}, beyond 2**{LIMIT}: the run diverges; resume is "
            "possible from the last state, or begin again with a lower --rate"
        )
    return scale
