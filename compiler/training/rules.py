"""The integers of an update: factors as 16 bits times a power of two."""

from __future__ import annotations

import numpy as np

from sateen.compiler.training.layers import Layer
from sateen.compiler.training.settings import Settings
from sateen.errors import DataError
from sateen.ir.gradients import FACTOR_LIMIT, LEFT, MASTER_EXPONENT, SHIFT_LIMIT, VELOCITY_EXPONENT, Update


def update_rule(
    settings: Settings, layer: Layer | None, rate: float, whole_rate: float, exponent: int, scale: int
) -> Update:
    """The integers of a step: of a layer's weights, or of biases (None), whose sums count 2**`exponent`."""
    unit = whole_rate * 2.0 ** (MASTER_EXPONENT - VELOCITY_EXPONENT)
    least = settings.weight_decay if layer else 0.0
    most = least + (settings.pruned_decay if layer and not layer.forward_pattern.dense else 0.0)
    pruned, shift = factor(unit * most)
    return Update(
        factor(settings.momentum),
        factor(rate * 2.0 ** (exponent - VELOCITY_EXPONENT), 0 if layer else LEFT),
        (int(np.rint(unit * least * 2.0**shift)), shift),
        pruned,
        scale,
    )


def factor(value: float, least: int = 0) -> tuple[int, int]:
    """k, s with k * 2**-s nearest to a value of 0 or more: k below 2**16, s from `least` to 61. Raises DataError."""
    if value == 0:
        return 0, 0
    shift = min(16 - int(np.frexp(value)[1]), SHIFT_LIMIT - 1)
    k = int(np.rint(value * 2.0**shift))
    if k == FACTOR_LIMIT:
        k, shift = k // 2, shift - 1
    if shift < least:
        raise DataError(
            f"training: a factor of {value:g} in the update, which reaches {(FACTOR_LIMIT - 1) * 2.0**-least:g}: the "
            "run diverges, or gradients have too few bits for so small a batch; begin again with a lower --rate, a "
            "larger --batch or wider --gradients"
        )
    return k, shift
