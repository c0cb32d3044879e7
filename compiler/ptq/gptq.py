"""GPTQ on any grid: weights are rounded column by column, and the columns after each make up for its error.

Inputs are those that the layer sees once all before it are quantized. The target is what the float layer makes of
the float network's input: the weights are first fitted to it by least squares, so that a layer also makes up for
what the layers before it have lost. After the columns, sweeps of coordinate descent lower the same error further.

Ref: Frantar et al., GPTQ, arXiv 2210.17323; Li et al., GPTAQ, arXiv 2504.02692 (float network's outputs as the
target); Behdin et al., QuantEase, arXiv 2309.01885 (coordinate descent).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.ptq.adaround import AdaRound, learn_rounding
from sateen.compiler.ptq.hessian import BLOCK, DAMPING, Project, compensate, inverse_factor
from sateen.compiler.ptq.layerwise import Moments, moments, output_error, rewrite_quantized
from sateen.compiler.quantize.activations import ActivationPlan
from sateen.compiler.quantize.calibrate import Progress
from sateen.compiler.quantize.scales import weight_scales
from sateen.compiler.quantize.weights import check_weights
from sateen.errors import ConfigError
from sateen.formats import Format
from sateen.ir.graph import Conv, Graph

LEAST_DAMPING = 1e-6
"""Above what rounding in float64 leaves of the moments of thousands of columns that depend on one another."""


@dataclass(frozen=True, slots=True)
class Gptq:
    """Options of `gptq`.

    damping : of the mean diagonal of H, added to its diagonal
    block : columns per update of the rest
    order : columns of the largest diagonal of H first
    refit : fit the weights to the float network's output before they are rounded
    sweeps : of coordinate descent at the end
    """

    damping: float = DAMPING
    block: int = BLOCK
    order: bool = True
    refit: bool = True
    sweeps: int = 8

    def __post_init__(self) -> None:
        if not LEAST_DAMPING <= self.damping <= 1:
            raise ConfigError(f"gptq: damping = {self.damping}; it must be from {LEAST_DAMPING:g} to 1")
        if self.block < 1 or self.sweeps < 0:
            raise ConfigError(f"gptq: block = {self.block}, sweeps = {self.sweeps}; at least 1 and 0")


def gptq(
    graph: Graph,
    samples: Mapping[str, np.ndarray],
    plan: ActivationPlan,
    weight_format: Format,
    options: Gptq = Gptq(),
    *,
    learned: AdaRound | None = None,
    power_of_two: bool = False,
    progress: Progress | None = None,
) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph with all weights on the format's grid, and each Conv's scales (O,). Biases take the mean error.

    With `learned`, AdaRound tries to better each layer before the next one is seen. Zeros of a layer with an N:M
    pattern stay zero.

    Raises
    ------
    DataError
        Samples that `calibrate` would refuse.
    ModelError, FormatError
        Weights that are not finite, or of a sign that the format lacks.
    """
    scales: dict[str, np.ndarray] = {}

    def rewrite(conv: Conv, x: np.ndarray, real: np.ndarray) -> Conv:
        scale = weight_scales(check_weights(conv, weight_format), weight_format, power_of_two=power_of_two)
        scales[conv.name] = scale
        if conv.selects:  # each output is an input: there is nothing to round
            return conv
        weight, bias = np.empty_like(conv.weight), conv.bias.copy()
        wide = len(weight) // conv.groups
        for g in range(conv.groups):
            rows = slice(g * wide, (g + 1) * wide)
            seen = moments(conv, x, real, g)
            flat = conv.weight[rows].reshape(wide, -1)
            keep = flat != 0 if not conv.sparsity.dense else None
            new = round_layer(flat, seen, weight_format, scale[rows], options, keep)
            if learned:
                new = learn_rounding(
                    new, flat, seen, weight_format, scale[rows], learned, options.damping, keep
                )
            weight[rows] = new.reshape(weight[rows].shape)
            bias[rows] += flat @ seen.float_mean - new @ seen.mean
        return replace(conv, weight=weight, bias=bias)

    return rewrite_quantized(graph, samples, plan, rewrite, progress), scales


def round_layer(
    weight: np.ndarray,
    seen: Moments,
    fmt: Format,
    scale: np.ndarray,
    options: Gptq,
    keep: np.ndarray | None = None,
) -> np.ndarray:
    """Weights (O, K) rounded to `scale` (O,) times the format's values; where `keep` is false, zero."""
    h = seen.square
    damped = seen.damped(options.damping)
    target = seen.refit(weight, options.damping) if options.refit else weight

    def project(values: np.ndarray, at: np.ndarray | int) -> np.ndarray:
        new = fmt.decode(fmt.encode(values / scale)) * scale
        return new if keep is None else np.where(keep[:, at], new, 0.0)

    order = np.argsort(-np.diag(h), kind="stable") if options.order else np.arange(len(h))
    permuted = compensate(
        target[:, order],
        inverse_factor(h[np.ix_(order, order)], options.damping),
        lambda values, j: project(values, order[j]),
        block=options.block,
    )
    new = np.empty_like(permuted)
    new[:, order] = permuted
    nearest = np.stack([project(column, j) for j, column in enumerate(target.T)], axis=1)
    worse = output_error(new, target, damped) > output_error(nearest, target, damped)
    new[worse] = nearest[worse]
    return descend(new, target, damped, project, options.sweeps)


def descend(
    weight: np.ndarray, target: np.ndarray, h: np.ndarray, project: Project, sweeps: int
) -> np.ndarray:
    """Each column in turn moved to the grid point that is best with all others as they are; never worse."""
    weight = weight.copy()
    gradient = (weight - target) @ h
    diagonal = np.diag(h)
    for _ in range(sweeps):
        moved = False
        for j in range(weight.shape[1]):
            new = project(weight[:, j] - gradient[:, j] / diagonal[j], j)
            step = new - weight[:, j]
            if step.any():
                gradient += step[:, None] * h[j]
                weight[:, j] = new
                moved = True
        if not moved:
            break
    return weight
