"""Second-order weight changes: the Hessian of a layer's squared output error, and the column loop that uses it.

For one output, the error of changed weights is (w' - w) H (w' - w)^T with H = X^T X, X the im2col matrix of the
layer's input. Columns are changed one after another, pruned or rounded, and each change is made up for by the
columns that follow. Pruning and quantization differ only in what a column may become.

Ref: Frantar and Alistarh, SparseGPT, arXiv 2301.00774, algorithm 1; Frantar et al., GPTQ, arXiv 2210.17323.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from sateen.compiler.float_executor import COLUMN_BYTES, run_node, windows
from sateen.errors import DataError
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv
from sateen.sim.reference import check_inputs

ROWS = 1 << 16
"""Rows of a layer's im2col matrix that are looked at; of more, a seeded choice."""
DAMPING = 0.01
"""Of the mean diagonal, added to the Hessian's diagonal (arXiv 2210.17323, section 3.3)."""
BLOCK = 128
"""Columns that are changed before the rest is brought up to date, in one matrix product."""

_ELEMENTS = 1 << 25  # of the largest tensor over all samples
_LEAST_SAMPLES = 8
_LARGEST = 1e100  # sums of squares must stay finite
_CONSTANT = 1e-200  # of a mean square: less is nothing, its own square is not a number any more
_ROUNDING = 2.0**-52  # times K², of the mean diagonal: less damping than that drowns in rounding

Rewrite = Callable[[Conv, np.ndarray], Conv]
Project = Callable[[np.ndarray, int], np.ndarray]
Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]


def rewrite_layers(graph: Graph, samples: Mapping[str, np.ndarray], rewrite: Rewrite) -> Graph:
    """The graph with each Conv replaced by `rewrite(conv, input)`, in order; input is (N, H, W, C) float64.

    A layer sees what the layers before it give after their own change. Large networks see fewer samples.

    Raises DataError for samples that `calibrate` would refuse, and for values that become NaN or infinite.
    """
    arrays = choose_samples(graph, samples)
    tensors = {p.name: graph.rounded(p.name, p.to_hwc(arrays[p.name])) for p in graph.inputs}
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    nodes = []
    for i, node in enumerate(graph.nodes):
        inputs = [tensors[name] for name in node.inputs]
        if isinstance(node, Conv):
            if not np.abs(inputs[0]).max() < _LARGEST:
                raise DataError(
                    f"calibration: '{node.input}', the input of Conv '{node.name}', becomes NaN, infinite or "
                    f"larger than {_LARGEST:g}; check the samples' scale and the model"
                )
            node = rewrite(node, inputs[0])
        nodes.append(node)
        tensors[node.output] = graph.rounded(node.output, run_node(node, inputs))
        for name in set(node.inputs):
            if last[name] == i:
                del tensors[name]
    return replace(graph, nodes=tuple(nodes))


def choose_samples(graph: Graph, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The samples (n, *shape), float64, of which all tensors fit in memory: of large networks fewer, evenly chosen.

    Raises DataError for samples that `calibrate` would refuse.
    """
    try:
        arrays = check_inputs(graph.inputs, dict(samples))
    except DataError as e:
        raise DataError(f"calibration: {e}") from None
    total = len(next(iter(arrays.values())))
    largest = max(h * w * c for h, w, c in graph.shapes.values())
    count = min(total, max(_LEAST_SAMPLES, _ELEMENTS // largest))
    chosen = np.linspace(0, total - 1, count).astype(np.int64)
    return {p.name: np.asarray(arrays[p.name], np.float64)[chosen] for p in graph.inputs}


def columns(conv: Conv, x: np.ndarray, group: int = 0, most: int = ROWS) -> Iterator[np.ndarray]:
    """Portions (rows, KH * KW * I / groups) of the im2col matrix of (N, H, W, C), at most `most` rows in all."""
    _, kh, kw, depth = conv.weight.shape
    if conv.channels is not None:
        x, group = x[..., conv.channels[group]], 0
    view = windows(x, (kh, kw), conv.stride, conv.dilation, conv.pads, 0.0)
    view = view[:, :, :, group * depth : (group + 1) * depth]
    rows = chosen_rows(int(np.prod(view.shape[:3])), most)
    step = max(1, COLUMN_BYTES // (8 * kh * kw * depth))
    for start in range(0, len(rows), step):
        at = np.unravel_index(rows[start : start + step], view.shape[:3])
        part = view[at].transpose(0, 2, 3, 1)  # input channels innermost, as the reduction is stored
        yield np.ascontiguousarray(part).reshape(len(part), -1)


def chosen_rows(total: int, most: int = ROWS) -> np.ndarray:
    """Which of so many rows of an im2col matrix are looked at, in order."""
    if total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, most, replace=False))


def column_norms(conv: Conv, x: np.ndarray) -> np.ndarray:
    """‖X_j‖₂ of every column of the im2col matrix, (KH * KW * I,)."""
    return np.sqrt(sum(np.einsum("rk,rk->k", part, part) for part in columns(conv, x)))


def column_means(conv: Conv, x: np.ndarray, group: int = 0) -> np.ndarray:
    """Mean of every column of the im2col matrix, (KH * KW * I / groups,)."""
    sums = [(part.sum(axis=0), len(part)) for part in columns(conv, x, group)]
    return sum(s for s, _ in sums) / sum(n for _, n in sums)


def hessian(conv: Conv, x: np.ndarray, group: int = 0, *, center: np.ndarray | None = None) -> np.ndarray:
    """X^T X of the layer's input (N, H, W, C), float64 (K, K).

    center : what is taken off X's columns, (K,); with their means H is that of the error which is left when the
        bias makes up for the mean error
    """
    size = conv.weight[0].size
    total = np.zeros((size, size))
    for part in columns(conv, x, group):
        centered = part if center is None else part - center
        total += centered.T @ centered
    return total


def ridge(matrix: np.ndarray, damping: float) -> float:
    """`damping` of the mean diagonal of H (K, K), or what float64 needs of it; 0 where the inputs are constant."""
    mean = float(np.mean(np.diag(matrix)))
    return mean * max(damping, _ROUNDING * len(matrix) ** 2) if mean > _CONSTANT else 0.0


def damped(matrix: np.ndarray, damping: float) -> np.ndarray:
    """H (K, K) with its `ridge` on the diagonal: positive definite, whatever the rank of H.

    Where all inputs are constant no weight counts more than another: the identity.
    """
    added, identity = ridge(matrix, damping), np.eye(len(matrix))
    return matrix + added * identity if added else identity


def inverse_factor(matrix: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """Upper triangular U with U^T U = damped(H)^-1, float64 (K, K).

    U_jj² is the inverse Hessian's diagonal once the columns before j are fixed; row j, over U_jj, is how a
    change of column j is spread over those after it.
    """
    # H = R R^T with R upper triangular: the Cholesky factor of H with its order reversed. U is its inverse.
    factor = np.linalg.cholesky(damped(matrix, damping)[::-1, ::-1])[::-1, ::-1]
    return _inverse_upper(np.ascontiguousarray(factor))  # BLAS takes no negative strides


def _inverse_upper(r: np.ndarray, size: int = 256) -> np.ndarray:
    """Inverse of an upper triangular matrix by halves: a sixth of the work of a general inverse."""
    if len(r) <= size:
        return np.triu(np.linalg.inv(r))
    half = len(r) // 2
    top, bottom = _inverse_upper(r[:half, :half], size), _inverse_upper(r[half:, half:], size)
    return np.block([[top, -top @ r[:half, half:] @ bottom], [np.zeros((len(r) - half, half)), bottom]])


def compensate(
    weight: np.ndarray,
    factor: np.ndarray,
    project: Project | None = None,
    *,
    groups: Sequence[tuple[int, int]] | None = None,
    choose: Choose | None = None,
    block: int = BLOCK,
) -> np.ndarray:
    """Weights (O, K) changed column by column, each change made up for by the columns after it.

    Parameters
    ----------
    factor : from `inverse_factor`, (K, K)
    project : what values (O,) of column j become, e.g. the nearest codes; None keeps them
    groups : (start, stop) of consecutive groups that cover all columns, for `choose`
    choose : with the values (O, k) of a group as they are when it is reached, and U's diagonal there (k,), which
        of them are kept, bool (O, k); the others become zero
    block : columns per update of the rest; a group is never divided
    """
    weight = np.array(weight, np.float64)
    groups = groups if groups is not None else [(j, j + 1) for j in range(weight.shape[1])]
    for members in _blocks(groups, block):
        first, stop = members[0][0], members[-1][1]
        errors = np.empty((len(weight), stop - first))
        for start, end in members:
            kept = choose(weight[:, start:end], np.diag(factor)[start:end]) if choose else None
            for j in range(start, end):
                old = weight[:, j].copy()
                new = project(old, j) if project else old
                if kept is not None:
                    new = np.where(kept[:, j - start], new, 0.0)
                error = (old - new) / factor[j, j]
                weight[:, j:stop] -= np.outer(error, factor[j, j:stop])
                weight[:, j] = new  # exactly, zeros above all
                errors[:, j - first] = error
        weight[:, stop:] -= errors @ factor[first:stop, stop:]
    return weight


def _blocks(groups: Sequence[tuple[int, int]], block: int) -> Iterator[list[tuple[int, int]]]:
    """Consecutive groups of at least `block` columns together."""
    members: list[tuple[int, int]] = []
    for group in groups:
        members.append(group)
        if group[1] - members[0][0] >= block:
            yield members
            members = []
    if members:
        yield members
