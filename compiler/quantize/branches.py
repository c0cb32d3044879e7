"""Branches of a Concat whose ranges are far apart: scaled by powers of two into one range, which the layers that read
them take back into their weights.

The parts of a Concat share one scale, so the codes of a part that is 100 times smaller than another are few. A channel
may be multiplied by any number wherever what writes it can be and what reads it can divide: convolutions in their
weights, tables in their function, the host's input; Relu, pools, Adds and Concats let it through. Powers of two change
no bit of a float, so the network's function stays exactly what it was (docs/adr/0028-branches.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.functions import X, as_expression, substitute
from sateen.compiler.quantize.calibrate import Statistics, TensorStatistics
from sateen.compiler.quantize.scales import Observed, activation_quant, weight_scales
from sateen.formats import Format
from sateen.ir.graph import Graph
from sateen.ir.nodes import (
    Activation,
    Add,
    Arrange,
    Concat,
    Conv,
    Expression,
    MatMul,
    Maximum,
    Mul,
    Node,
    Normalize,
    Softmax,
    Stored,
)
from sateen.ir.ports import InputOp

FAR_APART = 8
"""Times that the largest branch reaches further than one that is worth scaling, or a warning."""
_MOST = 32
"""The largest power of two: of a branch that is smaller still nothing is known but rounding errors."""
_GAIN = 0.9
"""Of the noise that is expected without scaling: what must be left of it, or the branches stay as they are."""
_VALUES, _ROWS = 2048, 64
"""Of a branch and of a reading layer, that the noise is expected from."""


@dataclass(frozen=True, slots=True)
class Branches:
    """Which channels can only be scaled together.

    of : (C,) of every tensor, the branch of each channel
    fixed : branches that cannot be scaled, as the network's outputs or the model file's codes show them
    """

    of: dict[str, np.ndarray]
    fixed: frozenset[int]


def split_branches(graph: Graph) -> Branches:
    """A branch begins where a convolution, a table or an input writes it, and ends where one reads it."""
    parent: list[int] = []
    of: dict[str, np.ndarray] = {}
    fixed: set[int] = set()

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(pairs: Iterable[tuple[int, int]]) -> None:
        for a, b in set(pairs):
            parent[find(a)] = find(b)

    def new(tensor: str) -> np.ndarray:
        parent.append(len(parent))
        return np.full(graph.shapes[tensor][2], len(parent) - 1)

    for port in graph.inputs:
        of[port.name] = new(port.name)
    for node in graph.nodes:
        given = [of[i] for i in node.inputs]
        match node:
            case Conv() if _copies(node):
                taken = node.weight.reshape(len(node.weight), -1).argmax(axis=1) % node.weight.shape[3]
                of[node.output] = node.read_by(given[0])[np.arange(len(taken)), taken]
            case Conv():
                of[node.output] = new(node.output)
                if node.given is not None:  # the file's weights lie on a grid
                    fixed |= {*map(int, given[0]), *map(int, of[node.output])}
            case MatMul():
                of[node.output] = new(node.output)
                fixed |= set(map(int, np.concatenate([*given, of[node.output]])))
            case Activation(function="clip" | "leaky_relu"):
                if not _homogeneous(node):
                    join((int(b), int(given[0][0])) for b in given[0])
                of[node.output] = given[0]
            case Activation():
                if node.function != "bipolar":  # which only looks at the sign
                    join((int(b), int(given[0][0])) for b in given[0])
                of[node.output] = new(node.output)
            case Add() | Maximum():
                join((int(a), int(b)) for a, b in zip(*given, strict=True))
                of[node.output] = given[0]
            case Stored():
                of[node.output] = new(node.output)
                fixed |= {int(b) for b in of[node.output]}
            case Mul():
                of[node.output] = new(node.output)
                fixed |= {int(b) for t in (*given, of[node.output]) for b in t}
            case Arrange():
                for other in given[1:]:
                    join((int(a), int(b)) for a, b in zip(given[0], other, strict=True))
                of[node.output] = given[0]
            case Concat():
                of[node.output] = np.concatenate(given)
            case Softmax() | Normalize():
                of[node.output] = new(node.output)
                fixed |= {*map(int, given[0]), *map(int, of[node.output])}
            case _:
                of[node.output] = given[0]
    for tensor in {o.tensor for o in graph.outputs} | set(graph.quantizers):
        fixed |= set(map(int, of.get(tensor, ())))
    roots = np.array([find(i) for i in range(len(parent))], np.int64)
    return Branches({t: roots[b] for t, b in of.items()}, frozenset(find(i) for i in fixed))


def _copies(conv: Conv) -> bool:
    """Whether its outputs are input elements or zeros, as those of a selection."""
    return conv.selects and conv.given is None and not conv.bias.any()


def _homogeneous(node: Activation) -> bool:
    """Whether f(s * x) = s * f(x) for every s > 0."""
    return node.function == "leaky_relu" or {node.low, node.high} <= {0.0, -np.inf, np.inf}


def free(graph: Graph, branches: Branches, part: str, other: str) -> bool:
    """Whether the tensor `part` can be scaled beside `other`, into layers that read it: then it is where that helps."""
    small, large = (set(map(int, branches.of[t])) for t in (part, other))
    readers = (branches.of[n.input] for n in graph.nodes if isinstance(n, Conv) and not _copies(n))
    read = {int(b) for of in readers for b in of}
    return not small & large and not (small | large) & branches.fixed and small <= read


# -- scaling -----------------------------------------------------------------------------------------------


def scaled(graph: Graph, branches: Branches, factors: dict[int, float]) -> Graph:
    """The same function of the same inputs, each branch multiplied by its factor, a power of two; 1 by default."""

    def of(tensor: str) -> np.ndarray:
        return np.array([factors.get(int(b), 1.0) for b in branches.of[tensor]])

    ports = []
    for port in graph.inputs:
        if (factor := float(of(port.name)[0])) != 1:
            port = replace(port, host=(*port.host, InputOp("affine", (factor,), (0.0,), "float64")))
        ports.append(port)
    nodes = tuple(_scaled(n, of((*n.inputs, n.output)[0]), of(n.output)) for n in graph.nodes)
    return replace(graph, inputs=tuple(ports), nodes=nodes)


def _scaled(node: Node, before: np.ndarray, after: np.ndarray) -> Node:
    """The node with its input's channels multiplied by `before` (C,), and its output's by `after`."""
    match node:
        case Conv() if not _copies(node):
            weight = node.weight * after[:, None, None, None] / node.read_by(before)[:, None, None, :]
            return replace(node, weight=weight, bias=node.bias * after)
        case Activation(function="clip"):
            return node if _homogeneous(node) else replace(
                node, low=node.low * after[0], high=node.high * after[0]
            )  # fmt: skip
        case Activation(function="leaky_relu" | "bipolar"):
            return node
        case Activation() if before[0] != 1 or after[0] != 1:
            inner = substitute(as_expression(node), _times(1 / before[0]))
            function = substitute(_times(after[0]), inner)
            return Activation(node.name, node.input, node.output, "composed", expression=function)
    return node


def _times(factor: float) -> Expression:
    return Expression("affine", (("scale", float(factor)), ("offset", 0.0)), (X,))


# -- choice ------------------------------------------------------------------------------------------------


def scale_branches(
    graph: Graph,
    statistics: Statistics,
    weight_format: Format,
    activation_format: Format,
    *,
    scale_method: str = "mse",
    power_of_two: bool = False,
) -> tuple[Graph, dict[str, float]]:
    """The graph with branches scaled where that makes the layers that read them more precise, and by how much each
    tensor of a Concat was; the graph itself where no branches are far apart.

    `statistics` are of this graph; those of the result differ.
    """
    branches = split_branches(graph)
    factors: dict[int, float] = {}
    for group in _beside(graph, branches):
        seen = {b: s for b in group if (s := _seen(graph, branches, statistics, b)) is not None}
        factors |= _choose(
            graph, branches, seen, weight_format, activation_format, scale_method, power_of_two
        )
    if not factors:
        return graph, {}
    parts = dict.fromkeys(p for n in graph.nodes if isinstance(n, Concat) for p in n.parts)
    found = {
        p: factors[int(b[0])] for p in parts if len(set(b := branches.of[p])) == 1 and int(b[0]) in factors
    }
    return scaled(graph, branches, factors), found


def _beside(graph: Graph, branches: Branches) -> list[list[int]]:
    """Branches that share a scale through Concats, in the order of the graph."""
    groups: list[set[int]] = []
    for node in graph.nodes:
        if isinstance(node, Concat):
            new = set(map(int, branches.of[node.output]))
            for group in [g for g in groups if g & new]:
                groups.remove(group)
                new |= group
            groups.append(new)
    return [sorted(g) for g in groups if len(g) > 1]


def _seen(graph: Graph, branches: Branches, statistics: Statistics, branch: int) -> TensorStatistics | None:
    """What calibration saw of the branch where a Concat reads it, else where it was written last; None of zeros."""
    own = [t for t, b in branches.of.items() if (b == branch).all()]
    read = {p for n in graph.nodes if isinstance(n, Concat) for p in n.parts}
    tensor = next((t for t in reversed(own) if t in read), own[-1] if own else "")
    found = statistics.tensors.get(tensor)
    return found if found is not None and _peak(found) > 0 else None


def _peak(seen: TensorStatistics) -> float:
    return max(abs(seen.minimum), abs(seen.maximum))


def _choose(
    graph: Graph,
    branches: Branches,
    seen: dict[int, TensorStatistics],
    weight_format: Format,
    activation_format: Format,
    scale_method: str,
    power_of_two: bool,
) -> dict[int, float]:
    """Factors of branches that share a scale; none if they are near to one another or nothing would be gained."""
    peaks = {b: _peak(s) for b, s in seen.items()}
    fixed = [p for b, p in peaks.items() if b in branches.fixed]
    target = max(fixed or peaks.values(), default=0.0)
    far = {b: math.floor(math.log2(target / p)) for b, p in peaks.items() if b not in branches.fixed}
    far = {b: max(-_MOST, min(_MOST, n)) for b, n in far.items() if abs(n) >= math.log2(FAR_APART)}
    readers = [
        _Reader.of_conv(node, branches.of[node.input])
        for node in graph.nodes
        if isinstance(node, Conv) and not _copies(node) and np.isin(branches.of[node.input], list(seen)).any()
    ]
    if not far or not readers:
        return {}
    values = {b: _some(s.values, _VALUES) for b, s in seen.items()}
    power = {b: float(np.mean(x**2)) for b, x in values.items()}

    def noise(factors: dict[int, float]) -> float:
        """Of what the readers compute, over its power."""
        factor = {b: factors.get(b, 1.0) for b in seen}
        low = min(s.minimum * factor[b] for b, s in seen.items())
        high = max(s.maximum * factor[b] for b, s in seen.items())
        shared = Observed("", low, high, np.concatenate([x * factor[b] for b, x in values.items()]))
        quant = activation_quant(shared, activation_format, method=scale_method, power_of_two=power_of_two)
        errors = {
            b: float(np.mean((quant.dequantize(quant.quantize(x * factor[b])) / factor[b] - x) ** 2))
            for b, x in values.items()
        }
        return sum(r.noise(factor, errors, power, weight_format, power_of_two) for r in readers)

    first = noise({})
    best = {b: 2.0**n for b, n in far.items()}
    if (least := noise(best)) >= first:
        best, least = {}, first
    for branch, n in sorted(far.items(), key=lambda entry: -abs(entry[1])):
        others = best
        for k in range(0, n, 1 if n > 0 else -1):
            factors = others | {branch: 2.0**k}
            if (found := noise(factors)) < least:
                least, best = found, factors
    best = {b: f for b, f in best.items() if f != 1}
    return best if least < _GAIN * first else {}


def _some(values: np.ndarray, most: int) -> np.ndarray:
    return values[np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))]


@dataclass(frozen=True, slots=True, eq=False)
class _Reader:
    """Some rows of a layer's weights (O, K), and the branch that each weight reads."""

    weight: np.ndarray
    of: np.ndarray

    @staticmethod
    def of_conv(conv: Conv, branches: np.ndarray) -> _Reader:
        rows = _some(np.arange(len(conv.weight)), _ROWS)
        weight = conv.weight[rows]
        of = np.broadcast_to(conv.read_by(branches)[rows][:, None, None, :], weight.shape)
        return _Reader(weight.reshape(len(rows), -1), of.reshape(len(rows), -1))

    def noise(
        self,
        factor: dict[int, float],
        errors: dict[int, float],
        power: dict[int, float],
        fmt: Format,
        power_of_two: bool,
    ) -> float:
        """Squared error over power, the mean of the rows: from rounding the branches, `errors` of `power`, and from
        rounding the weights, which are divided by the factors."""
        names, at = np.unique(self.of, return_inverse=True)
        at = at.reshape(self.of.shape)
        f, e, p = (np.array([d.get(int(b), none) for b in names])[at] for d, none in
                   ((factor, 1.0), (errors, 0.0), (power, 0.0)))  # fmt: skip
        divided = self.weight / f
        scale = weight_scales(divided, fmt, method="minmax", power_of_two=power_of_two)[:, None]
        change = fmt.decode(fmt.encode(divided / scale)) * scale * f - self.weight
        all_ = (self.weight**2 * p).sum(axis=1)
        lost = (self.weight**2 * e + change**2 * p).sum(axis=1)
        used = all_ > 0
        return float(np.mean(lost[used] / all_[used])) if used.any() else 0.0
