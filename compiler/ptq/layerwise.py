"""Layer by layer: what a layer sees once all before it are quantized, beside what it sees in the float network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.float_executor import run_node
from sateen.compiler.ptq.hessian import ROWS, choose_samples, columns, damped, ridge
from sateen.compiler.quantize.activations import ActivationPlan
from sateen.compiler.quantize.calibrate import Progress
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv

_LEAST_ROWS = 1 << 14
_ROWS_PER_COLUMN = 16
"""Of the im2col matrices: how many of their rows the moments are made of."""
_CANCELLED = 1e-6
"""Of a column's mean square: a variance below that has lost digits to the mean."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Of a layer's im2col matrices, X as quantized and Y as in the float network, over the same rows.

    rows : how many
    mean, float_mean : (K,), of the columns of X and Y
    square : X^T X / rows without the means, float64 (K, K)
    cross : X^T Y / rows without the means, float64 (K, K)
    """

    rows: int
    mean: np.ndarray
    float_mean: np.ndarray
    square: np.ndarray
    cross: np.ndarray

    def damped(self, damping: float) -> np.ndarray:
        """H: `square` with `damping` of its mean diagonal added to the diagonal; the identity where all is constant."""
        return damped(self.square, damping)

    def refit(self, weight: np.ndarray, damping: float) -> np.ndarray:
        """The weights (O, K) that come nearest to the float layer's output, given the quantized input.

        Of fewer rows than columns they would learn the samples by heart, and of constant inputs there is nothing to
        learn: they stay as they are.
        """
        added = ridge(self.square, damping)
        if not added or self.rows < len(self.square):
            return weight
        right = (self.cross + added * np.eye(len(self.square))) @ weight.T
        return np.linalg.solve(self.damped(damping), right).T


Rewrite = Callable[[Conv, np.ndarray, np.ndarray], Conv]
"""(float layer, quantized input, float input) to the quantized layer. Inputs are (N, H, W, C)."""


def rewrite_quantized(
    graph: Graph,
    samples: Mapping[str, np.ndarray],
    plan: ActivationPlan,
    rewrite: Rewrite,
    progress: Progress | None = None,
) -> Graph:
    """The graph with each Conv replaced by `rewrite`, in order. Tensors of the plan are rounded where they arise.

    Raises DataError for samples that `calibrate` would refuse.
    """
    arrays = choose_samples(graph, samples)
    real = {p.name: graph.rounded(p.name, p.to_hwc(arrays[p.name])) for p in graph.inputs}
    coarse = {name: plan.rounded(name, x) for name, x in real.items()}
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    nodes = []
    for i, node in enumerate(graph.nodes):
        inputs, given = [real[n] for n in node.inputs], [coarse[n] for n in node.inputs]
        new = rewrite(node, given[0], inputs[0]) if isinstance(node, Conv) else node
        nodes.append(new)
        real[node.output] = graph.rounded(node.output, run_node(node, inputs))
        coarse[node.output] = plan.rounded(node.output, run_node(new, given))
        for name in set(node.inputs):
            if last[name] == i:
                del real[name], coarse[name]
        if progress:
            progress(i + 1, len(graph.nodes))
    return replace(graph, nodes=tuple(nodes))


def output_error(weight: np.ndarray, target: np.ndarray, h: np.ndarray) -> np.ndarray:
    """(w - t) H (w - t)^T of each row, (O,)."""
    change = weight - target
    return np.einsum("ok,ok->o", change @ h, change)


def moments(conv: Conv, x: np.ndarray, y: np.ndarray, group: int = 0) -> Moments:
    """Of the inputs (N, H, W, C) as quantized, x, and as in the float network, y.

    Columns that hardly vary are counted from their first value on: else the square of their mean takes the digits
    of their variance, and what is left may not even be positive.
    """
    size = conv.weight[0].size
    zero = np.zeros(size)
    found, lost = _moments(conv, x, y, group, (zero, zero))
    if not lost:
        return found
    first = tuple(next(columns(conv, t, group, _most(size)))[0].copy() for t in (x, y))
    return _moments(conv, x, y, group, first)[0]


def _most(size: int) -> int:
    return min(ROWS, max(_LEAST_ROWS, _ROWS_PER_COLUMN * size))


def _moments(
    conv: Conv, x: np.ndarray, y: np.ndarray, group: int, origin: tuple[np.ndarray, ...]
) -> tuple[Moments, bool]:
    """With columns counted from `origin` of X and Y, and whether any has lost its variance to its mean."""
    size = conv.weight[0].size
    most = _most(size)
    mean, float_mean = np.zeros(size), np.zeros(size)
    square, cross, rows = np.zeros((size, size)), np.zeros((size, size)), 0
    for a, b in zip(columns(conv, x, group, most), columns(conv, y, group, most), strict=True):
        a, b = a - origin[0], b - origin[1]
        mean += a.sum(axis=0)
        float_mean += b.sum(axis=0)
        square += a.T @ a
        cross += a.T @ b
        rows += len(a)
    mean, float_mean = mean / rows, float_mean / rows
    power = np.diag(square) / rows
    square = square / rows - np.outer(mean, mean)
    found = Moments(
        rows,
        origin[0] + mean,
        origin[1] + float_mean,
        square,
        cross / rows - np.outer(mean, float_mean),
    )
    return found, bool((np.diag(square) < _CANCELLED * power).any())
