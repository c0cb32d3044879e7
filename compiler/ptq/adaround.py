"""AdaRound on any grid: whether each weight goes to the grid value below or above it is learned.

The layer's squared output error is a quadratic form in the weights, so its gradient comes from the second moments
of the input and needs neither samples nor automatic differentiation. On a minifloat's grid the step between the two
values is that of the weight's binade.

Ref: Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, arXiv 2004.10568.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.ptq.layer_passes import LayerPass, Rows
from sateen.compiler.ptq.layerwise import Moments, output_error
from sateen.compiler.quantize.scales import grid
from sateen.errors import ConfigError
from sateen.formats import Format

STRETCH, SHIFT = 1.2, -0.1  # of the sigmoid, so that it reaches 0 and 1
BETAS = 20.0, 2.0  # of the regulariser, the first and the last
_WARM_UP = 0.2  # of the iterations, without the regulariser


@dataclass(frozen=True, slots=True)
class AdaRound(LayerPass):
    """iterations : of Adam, each on the whole Hessian; rate : its step; weight : of the regulariser, against an
    output error of 1 for rounding to nearest"""

    iterations: int = 600
    rate: float = 0.02
    weight: float = 0.01
    name = "adaround"
    starts_from = "gptq"

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.rate > 0 or not self.weight > 0:
            raise ConfigError(
                f"adaround: iterations = {self.iterations}, rate = {self.rate}, weight = {self.weight}; "
                "all must be positive"
            )

    def round_rows(self, rows: Rows) -> Rows:
        """Tries to better what the pass before has found."""
        assert rows.rounded is not None
        found = learn_rounding(
            rows.rounded, rows.weight, rows.seen, rows.format, rows.scale, self, rows.damping, rows.keep
        )
        return replace(rows, rounded=found)


def learn_rounding(
    start: np.ndarray,
    weight: np.ndarray,
    seen: Moments,
    fmt: Format,
    scale: np.ndarray,
    options: AdaRound,
    damping: float,
    keep: np.ndarray | None = None,
) -> np.ndarray:
    """Weights (O, K) on the grid, each row of no greater output error than in `start`; where `keep` is false, zero."""
    target, h = seen.refit(weight, damping), seen.damped(damping)
    low, high = neighbours(target, fmt, scale)
    step = high - low
    reference = output_error(start, target, h)[:, None]
    reference = np.where(
        reference > 0, np.maximum(reference, 1e-30), 1.0
    )  # of a row that is right nothing is learned
    # where the weight lies between its neighbours, as the logit that gives it
    part = np.divide(target - low, step, out=np.zeros_like(step), where=step > 0)
    v = inverse(np.clip(part, 0.05, 0.95))
    first, second = np.zeros_like(v), np.zeros_like(v)
    warm = int(_WARM_UP * options.iterations)
    for i in range(options.iterations):
        s = 1 / (1 + np.exp(-v))
        h_v = np.clip(s * STRETCH + SHIFT, 0, 1)
        slope = np.where((h_v > 0) & (h_v < 1), s * (1 - s) * STRETCH, 0.0)
        gradient = 2 * ((low + step * h_v - target) @ h) * step / reference
        if i >= warm:
            part_done = (i - warm) / max(1, options.iterations - warm)
            beta = BETAS[1] + (BETAS[0] - BETAS[1]) * 0.5 * (1 + np.cos(np.pi * part_done))
            away = 2 * h_v - 1
            gradient = gradient - options.weight * 2 * beta * np.abs(away) ** (beta - 1) * np.sign(away)
        gradient = gradient * slope
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9 ** (i + 1))
        v = v - options.rate * corrected / (np.sqrt(second / (1 - 0.999 ** (i + 1))) + 1e-12)
    learned = np.where(inverse(0.5) < v, high, low)
    if keep is not None:
        learned = np.where(keep, learned, 0.0)
    better = output_error(learned, target, h) < output_error(start, target, h)
    return np.where(better[:, None], learned, start)


def neighbours(weight: np.ndarray, fmt: Format, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The grid values at or below and above each weight (O, K); beyond the range both are the last value."""
    values = grid(fmt)
    x = weight / scale[:, None]
    at = np.searchsorted(values, x, side="right")
    low, high = values[np.clip(at - 1, 0, None)], values[np.clip(at, None, len(values) - 1)]
    return low * scale[:, None], high * scale[:, None]


def inverse(part: np.ndarray | float) -> np.ndarray:
    """v with sigmoid(v) * stretch + shift = part."""
    s = (np.asarray(part) - SHIFT) / STRETCH
    return np.log(s / (1 - s))
