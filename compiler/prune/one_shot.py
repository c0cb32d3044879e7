"""N:M sparsity of a network's weights: recognise it, check it, and bring it about in one shot.

Groups are m consecutive input channels within one kernel tap, the innermost axis of a weight (O, KH, KW, I); where
m does not divide I the last group is smaller, and also holds at most n nonzeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.ptq.hessian import (
    column_means,
    column_norms,
    compensate,
    hessian,
    inverse_factor,
    rewrite_layers,
)
from sateen.errors import DataError, ModelError
from sateen.formats import PATTERNS, SparsityPattern
from sateen.formats.sparsity import DENSE
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv, Node

METHODS = ("magnitude", "wanda", "sparsegpt")


@dataclass(frozen=True, slots=True)
class LayerSparsity:
    """What became of one Conv: `reason` says why it is dense, or that its weights were sparse as given."""

    name: str
    pattern: SparsityPattern
    nonzeros: int
    weights: int
    error: float = 0.0  # ‖w' - w‖² / ‖w‖²
    reason: str = ""


def sparsify(
    graph: Graph,
    pattern: SparsityPattern,
    *,
    method: str = "magnitude",
    samples: Mapping[str, np.ndarray] | None = None,
    layers: Mapping[str, SparsityPattern] | None = None,
    keep_dense: Iterable[str] | None = None,
    correct_bias: bool = True,
) -> tuple[Graph, list[LayerSparsity]]:
    """The network with its weights pruned to `pattern`, and what became of each Conv in order.

    Parameters
    ----------
    method : what a weight counts: "magnitude" |w|; "wanda" |w| times the norm of its input over the samples;
        "sparsegpt" the rise of the output's squared error, with the weights kept adjusted to make up for it.
        Ties go to the larger magnitude, then to the lower channel.
    samples : calibration inputs (N, *shape) by name, which "wanda" and "sparsegpt" need
    layers : patterns of single Convs by name, before all else
    keep_dense : Convs that stay dense; by default those that no Conv comes before, and those none comes after
    correct_bias : with "wanda" and "sparsegpt", let biases make up for the mean error over the samples

    Convs with groups stay dense. Weights that obey the pattern already are kept as they are.

    Raises
    ------
    DataError
        An unknown method, or samples that are missing or unfit.
    ModelError
        A name that is no Conv; weights that are not finite; a pattern given by name to a Conv with groups.
    """
    if method not in METHODS:
        raise DataError(f"sparsification method '{method}' is unknown; it must be {', '.join(METHODS)}")
    plan = _plan(graph, pattern, layers or {}, keep_dense)
    report: dict[str, LayerSparsity] = {}

    def rewrite(conv: Conv, x: np.ndarray | None) -> Conv:
        wanted, reason = plan[conv.name]
        weight, bias = conv.weight, conv.bias
        if not wanted.dense:
            if check_pattern(weight, wanted) is None:
                reason = f"already {wanted}"
            else:
                means = column_means(conv, x) if x is not None and correct_bias else None
                weight = _pruned(conv, wanted, method, x, means)
                if means is not None:
                    bias = bias - (weight - conv.weight).reshape(len(weight), -1) @ means
        report[conv.name] = _entry(conv, weight, wanted, reason)
        return replace(conv, weight=weight, bias=bias, sparsity=DENSE if wanted.dense else wanted)

    work = any(not p.dense for p, _ in plan.values())
    if method == "magnitude" or not work:
        nodes = tuple(rewrite(n, None) if isinstance(n, Conv) else n for n in graph.nodes)
        result = replace(graph, nodes=nodes)
    elif not samples:
        raise DataError(
            f"sparsification method '{method}' needs calibration samples; give some, or use magnitude"
        )
    else:
        result = rewrite_layers(graph, samples, rewrite)
    return result, [report[n.name] for n in graph.nodes if isinstance(n, Conv)]


def recognise(
    graph: Graph, patterns: Iterable[SparsityPattern] = tuple(PATTERNS.values())
) -> tuple[Graph, list[LayerSparsity]]:
    """The same network, each Conv marked with the pattern that its weights obey already (`detect_pattern`)."""
    patterns = tuple(patterns)
    nodes, report = [], []
    for node in graph.nodes:
        if isinstance(node, Conv):
            found = detect_pattern(node.weight, patterns) if node.whole else None
            node = replace(node, sparsity=found or DENSE)
            report.append(
                _entry(node, node.weight, node.sparsity, f"already {found}" if found else "dense as given")
            )
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)), report


def keep_patterns(graph: Graph, pattern: SparsityPattern, layers: Mapping[str, SparsityPattern]) -> Graph:
    """The same network, Convs marked with the patterns that they are to have; ModelError where weights break one."""
    plan = _plan(graph, pattern, layers, None)
    nodes = []
    for node in graph.nodes:
        if isinstance(node, Conv):
            wanted = plan[node.name][0]
            if not wanted.dense and (broken := violation(node, wanted)):
                raise ModelError(f"{broken}; prune it with another sparsity method: {', '.join(METHODS)}")
            node = replace(node, sparsity=DENSE if wanted.dense else wanted)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def detect_pattern(
    weight: np.ndarray, patterns: Iterable[SparsityPattern] = tuple(PATTERNS.values())
) -> SparsityPattern | None:
    """The pattern that a weight (O, KH, KW, I) obeys and that allows the fewest nonzeros; None if dense.

    Of several that allow as many, the one of smallest m. A pattern that no weight with so few channels could
    break is not recognised.
    """
    depth = weight.shape[-1]
    allowed = {p: depth // p.m * p.n + min(depth % p.m, p.n) for p in patterns}
    for pattern in sorted(allowed, key=lambda p: (allowed[p], p.m)):
        if allowed[pattern] < depth and check_pattern(weight, pattern) is None:
            return pattern
    return None


def check_pattern(weight: np.ndarray, pattern: SparsityPattern) -> tuple[int, int, int, int, int] | None:
    """The first group of a weight (O, KH, KW, I) with more than n nonzeros: (o, ky, kx, group, nonzeros)."""
    counts = _counts(weight, pattern)
    broken = np.argwhere(counts > pattern.n)
    if not len(broken):
        return None
    o, ky, kx, group = (int(v) for v in broken[0])
    return o, ky, kx, group, int(counts[o, ky, kx, group])


def violation(conv: Conv, pattern: SparsityPattern) -> str | None:
    """Which groups of a Conv's weights break the pattern, in a sentence; None if none does."""
    first = check_pattern(conv.weight, pattern)
    if first is None:
        return None
    o, ky, kx, group, count = first
    counts = _counts(conv.weight, pattern)
    start = group * pattern.m
    stop = min(start + pattern.m, conv.weight.shape[-1])
    return (
        f"Conv '{conv.name}': output {o}, kernel tap ({ky}, {kx}), channels {start} to {stop - 1} hold {count} "
        f"nonzero weights, {pattern} allows {pattern.n}; {int((counts > pattern.n).sum())} of {counts.size} groups "
        "break it"
    )


def keep_largest(score: np.ndarray, weight: np.ndarray, pattern: SparsityPattern) -> np.ndarray:
    """Which n of each group along the last axis to keep: bool, of the arrays' shape (..., I).

    Greatest score first, then greatest |weight|, then the lowest index.
    """
    (*outer, depth), m = weight.shape, pattern.m
    tail = [(0, 0)] * len(outer) + [(0, -depth % m)]
    keys = [
        np.pad(-np.abs(weight), tail, constant_values=np.inf),
        np.pad(-score.astype(np.float64), tail, constant_values=np.inf),  # padding comes last
    ]
    order = np.lexsort(np.stack([k.reshape(*outer, -1, m) for k in keys]), axis=-1)
    kept = np.zeros(order.shape, bool)
    np.put_along_axis(kept, order[..., : pattern.n], True, axis=-1)
    return kept.reshape(*outer, -1)[..., :depth]


# -- one layer ---------------------------------------------------------------------------------------------


def _pruned(
    conv: Conv, pattern: SparsityPattern, method: str, x: np.ndarray | None, means: np.ndarray | None
) -> np.ndarray:
    """The new weights; `means` of the input's columns if the bias takes the mean error."""
    weight = conv.weight
    if not np.isfinite(weight).all():
        raise ModelError(f"Conv '{conv.name}': weights hold NaN or infinity; repair the model")
    if method == "magnitude":
        return np.where(keep_largest(np.abs(weight), weight, pattern), weight, 0.0)
    assert x is not None
    if method == "wanda":
        # Ref: Sun et al., arXiv 2306.11695, equation 1
        score = np.abs(weight) * column_norms(conv, x).reshape(1, *weight.shape[1:])
        return np.where(keep_largest(score, weight, pattern), weight, 0.0)

    def choose(values: np.ndarray, pivots: np.ndarray) -> np.ndarray:
        return keep_largest((values / pivots) ** 2, values, pattern)

    depth, taps = weight.shape[3], weight.shape[1] * weight.shape[2]
    groups = [
        (tap * depth + start, tap * depth + min(start + pattern.m, depth))
        for tap in range(taps)
        for start in range(0, depth, pattern.m)
    ]
    flat = weight.reshape(len(weight), -1)
    factor = inverse_factor(hessian(conv, x, center=means))
    return compensate(flat, factor, groups=groups, choose=choose).reshape(weight.shape)


def _counts(weight: np.ndarray, pattern: SparsityPattern) -> np.ndarray:
    """Nonzeros of each group, (O, KH, KW, ceil(I / m))."""
    depth, m = weight.shape[-1], pattern.m
    nonzero = np.pad(weight != 0, [(0, 0)] * 3 + [(0, -depth % m)])
    return nonzero.reshape(*weight.shape[:3], -1, m).sum(axis=-1)


def _entry(conv: Conv, weight: np.ndarray, pattern: SparsityPattern, reason: str) -> LayerSparsity:
    power = float(np.sum(conv.weight**2))
    error = float(np.sum((weight - conv.weight) ** 2)) / power if power else 0.0
    return LayerSparsity(conv.name, pattern, int(np.count_nonzero(weight)), weight.size, error, reason)


# -- which layers ------------------------------------------------------------------------------------------


def _plan(
    graph: Graph,
    pattern: SparsityPattern,
    layers: Mapping[str, SparsityPattern],
    keep_dense: Iterable[str] | None,
) -> dict[str, tuple[SparsityPattern, str]]:
    """For each Conv by name its pattern, and why it is dense."""
    convs = [n for n in graph.nodes if isinstance(n, Conv)]
    names = [c.name for c in convs]
    kept = ends_of(graph) if keep_dense is None else dict.fromkeys(keep_dense, "kept dense")
    for name in (*layers, *kept):
        if name not in names:
            raise ModelError(
                f"sparsity: '{name}' is no convolution or Gemm of the model; it has {', '.join(names)}"
            )
    plan = {}
    for conv in convs:
        if conv.name in layers:
            chosen = layers[conv.name]
            if not conv.whole and not chosen.dense:
                parts = f"{conv.groups} groups" if conv.channels is None else "a selection of channels"
                raise ModelError(
                    f"Conv '{conv.name}': {parts}; only a Conv with groups = 1 can be {chosen}: leave it dense"
                )
            plan[conv.name] = (chosen, "kept dense" if chosen.dense else "")
        elif pattern.dense:
            plan[conv.name] = (DENSE, "dense")
        elif not conv.whole:
            depthwise = conv.weight.shape[-1] == 1
            plan[conv.name] = (DENSE, "depthwise" if depthwise else f"{conv.groups} groups")
        elif conv.name in kept:
            plan[conv.name] = (DENSE, kept[conv.name])
        else:
            plan[conv.name] = (pattern, "")
    return plan


def ends_of(graph: Graph) -> dict[str, str]:
    """Convs that no Conv comes before ("first layer"), and those that none comes after ("last layer").

    Convs with groups do not count: a scaling of the input is one.
    """

    def counts(node: Node) -> bool:
        return isinstance(node, Conv) and node.whole

    behind: dict[str, bool] = {p.name: False for p in graph.inputs}  # tensor -> a Conv lies before it
    ends: dict[str, str] = {}
    for node in graph.nodes:
        behind[node.output] = counts(node) or any(behind[i] for i in node.inputs)
        if counts(node) and not any(behind[i] for i in node.inputs):
            ends[node.name] = "first layer"
    ahead: dict[str, bool] = {}  # tensor -> a Conv reads it, or what is made of it
    for node in reversed(graph.nodes):
        after = ahead.get(node.output, False)
        if counts(node) and not after:
            ends.setdefault(node.name, "last layer")
        for i in node.inputs:
            ahead[i] = ahead.get(i, False) or after or counts(node)
    return ends
