"""GPTQ on any grid: weights are rounded column by column, and the columns after each make up for its error.

Inputs are those that the layer sees once all before it are quantized. The target is what the float layer makes of
the float network's input: the weights are first fitted to it by least squares, so that a layer also makes up for
what the layers before it have lost. After the columns, sweeps of coordinate descent lower the same error further.

Ref: Frantar et al., GPTQ, arXiv 2210.17323; Li et al., GPTAQ, arXiv 2504.02692 (float network's outputs as the
target); Behdin et al., QuantEase, arXiv 2309.01885 (coordinate descent).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.ptq.hessian import BLOCK, DAMPING, Project, compensate, inverse_factor
from sateen.compiler.ptq.layer_passes import LayerPass, Rows
from sateen.compiler.ptq.layerwise import Moments, output_error
from sateen.errors import ConfigError
from sateen.formats import Format

LEAST_DAMPING = 1e-6
"""Above what rounding in float64 leaves of the moments of thousands of columns that depend on one another."""


@dataclass(frozen=True, slots=True)
class Gptq(LayerPass):
    """damping : of the mean diagonal of H, added to its diagonal
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
    name = "gptq"

    def __post_init__(self) -> None:
        if not LEAST_DAMPING <= self.damping <= 1:
            raise ConfigError(f"gptq: damping = {self.damping}; it must be from {LEAST_DAMPING:g} to 1")
        if self.block < 1 or self.sweeps < 0:
            raise ConfigError(f"gptq: block = {self.block}, sweeps = {self.sweeps}; at least 1 and 0")

    def round_rows(self, rows: Rows) -> Rows:
        found = round_layer(rows.weight, rows.seen, rows.format, rows.scale, self, rows.keep)
        return replace(rows, rounded=found, damping=self.damping)


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
