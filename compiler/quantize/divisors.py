"""Divisions by a computed tensor: the reciprocal is a table, so that the divisor must stay away from zero."""

from __future__ import annotations

import numpy as np

from sateen.compiler.functions import as_expression, evaluate_expression
from sateen.compiler.quantize.calibrate import Statistics
from sateen.errors import DataError
from sateen.ir.fused import FusedGraph
from sateen.ir.nodes import Activation

NEAREST = 2.0**-12
"""Of the largest divisor: a smaller one is zero but for a constant that keeps a division from it."""


def check_divisors(network: FusedGraph, statistics: Statistics) -> None:
    """Raise DataError for a Div whose divisor is near zero, or on both sides of it, on the calibration samples."""
    for layer in network.layers:
        activation = layer.activation
        if activation is None or activation.function == "clip":
            continue
        for low, high in _ranges(activation, statistics):
            if low <= 0 <= high or min(abs(low), abs(high)) < NEAREST * max(abs(low), abs(high)):
                raise DataError(
                    f"'{activation.name}': the divisor of a Div is {low:.3g} to {high:.3g} on the calibration samples; "
                    f"it must keep one sign and {NEAREST:.2g} of its largest value: clip it, or add a number to it"
                )


def _ranges(activation: Activation, statistics: Statistics) -> list[tuple[float, float]]:
    """Of each divisor in the activation."""
    parts = as_expression(activation).postorder()
    seen = statistics.tensors.get(activation.input)
    divisors = [part.arguments[0] for part in parts if part.function == "divisor"]
    if not divisors or seen is None:
        return []
    x = np.append(seen.values, [seen.minimum, seen.maximum]).astype(np.float64)
    with np.errstate(all="ignore"):
        found = [np.nan_to_num(evaluate_expression(d, x)) for d in divisors]
    return [(float(y.min()), float(y.max())) for y in found]
