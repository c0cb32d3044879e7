"""Whole channels removed, so that the network is a smaller one: by second-order saliency, with least-squares repair.

Channels that an Add joins, or that a depthwise layer or an activation passes on, are removed together. Each one's
saliency is the squared error that it leaves in the layers that read it once their other weights make up for it,
weighed by how far errors of a layer move the network's outputs. Ref: Kurtić et al., "ZipLM", arXiv 2302.04089,
equations 2 and 3. What each set of channels gives is then chosen by the loss for each word of work that is saved, and
weights that are left are fitted again to what the layer gave before, on the inputs that it now has. Ref: He et al.,
"Channel Pruning for Accelerating Very Deep Neural Networks", arXiv 1707.06168, equation 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sateen.compiler.float_executor import run_float, run_node
from sateen.compiler.ptq.channels import joined
from sateen.compiler.ptq.hessian import (
    DAMPING,
    choose_samples,
    chosen_rows,
    column_means,
    columns,
    damped,
    hessian,
    rewrite_layers,
    ridge,
)
from sateen.errors import ConfigError, DataError, ModelError
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Add, Conv, Maximum, Mul, Node, Pool

PROBES = 4
"""Random directions in which each layer's outputs are moved, to see how far the network's move."""
PROBED = 16
"""Samples of that."""
STEP = 0.05
"""By which they are moved, of their root mean square."""


@dataclass(frozen=True, slots=True)
class Words:
    """What one step of an array takes and gives.

    inputs, outputs : channels of one pixel
    """

    inputs: int
    outputs: int

    def steps(self, graph: Graph, conv: Conv, reads: int, writes: int) -> int:
        """Of a Conv with so many input and output channels."""
        h, w, _ = graph.shapes[conv.output]
        taps = h * w * conv.weight.shape[1] * conv.weight.shape[2]
        words = -(-reads // self.inputs) if conv.whole else 1
        return taps * words * -(-writes // self.outputs)


@dataclass(frozen=True, eq=False)
class ChannelSet:
    """Tensors whose channels are removed together; Convs that write, read and pass them on, one by one."""

    tensors: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    passing: tuple[str, ...]
    channels: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What became of a set: its first tensor, and how many channels it had and has."""

    tensor: str
    before: int
    after: int


def prune_channels(
    graph: Graph, keep: float, *, samples: Mapping[str, np.ndarray], words: Words
) -> tuple[Graph, list[Cut]]:
    """The network without the channels that matter the least, and what became of each set of them.

    Parameters
    ----------
    keep : the most that is left of the array's steps, above 0 to 1
    samples : calibration inputs (N, *shape) by name
    words : the array's: channels go where a word of work goes with them

    Inputs and outputs of the network keep their channels, and so do tensors that a product of two, a Concat, a softmax,
    a normalization or a Conv with groups reads or writes.

    Raises
    ------
    ConfigError
        `keep` is out of range, or less than what is left with one channel of each set.
    DataError
        Samples that do not fit.
    ModelError
        A file that is quantized, or weights that are not finite.
    """
    check_keep(keep)
    convs = {n.name: n for n in graph.nodes if isinstance(n, Conv)}
    if graph.quantizers or any(c.given is not None for c in convs.values()):
        raise ModelError(
            "channels: the file is quantized, and its scales are of all channels; give the float network"
        )
    if bad := next((c.name for c in convs.values() if not np.isfinite(c.weight).all()), None):
        raise ModelError(f"Conv '{bad}': weights hold NaN or infinity; repair the model")
    sets = channel_sets(graph)
    if keep == 1 or not sets:
        if keep < 1:
            raise ConfigError(
                f"channels = {keep:g}: no channel of the network can be removed; leave --channels out"
            )
        return graph, [Cut(s.tensors[0], s.channels, s.channels) for s in sets]
    if not samples:
        raise DataError("channels: removing them needs calibration samples; give some")
    orders = _orders(graph, sets, samples)
    removed = _chosen(graph, sets, orders, keep, words)
    cut = _without(graph, sets, orders, removed)
    cuts = [Cut(s.tensors[0], s.channels, s.channels - n) for s, n in zip(sets, removed, strict=True)]
    kept = {t: o.kept(n) for s, o, n in zip(sets, orders, removed, strict=True) for t in s.tensors}
    return _repaired(graph, cut, kept, samples), cuts


def check_keep(keep: float) -> None:
    """Raises ConfigError for what is no part of the work."""
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise ConfigError(f"channels = {keep!r}; it must be a number above 0 and at most 1")


def channel_sets(graph: Graph) -> list[ChannelSet]:
    """All sets with a writer and a reader, in the order of the graph."""
    fixed = {p.name for p in graph.inputs} | {o.tensor for o in graph.outputs}
    pairs: list[tuple[str, str]] = []
    for node in graph.nodes:
        if isinstance(node, Conv):
            if _passes(node):
                pairs.append((node.input, node.output))
            elif not node.whole:
                fixed |= {node.input, node.output}
        elif isinstance(node, Add | Mul | Maximum | Activation | Pool):
            pairs += [(i, node.output) for i in node.inputs]
        else:
            fixed |= {*node.inputs, node.output}
    find = joined(graph.shapes, pairs)
    roots = {find(t) for t in fixed}
    convs = [n for n in graph.nodes if isinstance(n, Conv)]
    sets = []
    for root in dict.fromkeys(find(n.output) for n in graph.nodes):
        if root in roots:
            continue
        members = tuple(t for t in graph.shapes if find(t) == root)
        writers = tuple(c.name for c in convs if c.whole and c.output in members)
        readers = tuple(c.name for c in convs if c.whole and c.input in members)
        passing = tuple(c.name for c in convs if not c.whole and c.output in members)
        if writers and readers:
            sets.append(ChannelSet(members, writers, readers, passing, graph.shapes[root][2]))
    return sets


def _passes(conv: Conv) -> bool:
    """Whether each output channel is made of the input channel of its number."""
    depth = conv.weight.shape[-1]
    return conv.channels is None and conv.groups > 1 and depth == 1 and len(conv.weight) == conv.groups


# -- saliency ----------------------------------------------------------------------------------------------


@dataclass
class _Order:
    """Channels of a set from the least to the most important, and what the network loses with the first n."""

    channels: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=lambda: [0.0])

    def kept(self, removed: int) -> np.ndarray:
        """Numbers of the channels that are left, in order."""
        return np.array(sorted(self.channels[removed:]), np.int64)


@dataclass
class _Reader:
    """A Conv that reads a set, while channels go: weights (O, K), the inverse Hessian (K, K), `columns` still there.

    weight : what its squared errors count
    """

    values: np.ndarray
    inverse: np.ndarray
    depth: int
    weight: float

    def columns(self, channels: Sequence[int]) -> np.ndarray:
        """Positions of these channels in the reduction, (channels, taps)."""
        taps = np.arange(self.values.shape[1] // self.depth)
        return np.asarray(channels)[:, None] + self.depth * taps

    def losses(self, channels: Sequence[int]) -> np.ndarray:
        """The least error that each channel leaves by itself, of those that are still there, (channels,)."""
        at = self.columns(channels)
        blocks = self.inverse[at[:, :, None], at[:, None, :]]
        weights = self.values[:, at].transpose(1, 2, 0)  # (channels, taps, O)
        return self.weight * np.einsum("cto,cto->c", weights, np.linalg.solve(blocks, weights))

    def remove(self, channel: int) -> None:
        """Take a channel out, and let the other weights make up for it."""
        at = self.columns([channel])[0]
        solved = np.linalg.solve(self.inverse[np.ix_(at, at)], self.inverse[at])
        self.values -= self.values[:, at] @ solved
        self.inverse -= self.inverse[:, at] @ solved


def _orders(graph: Graph, sets: Iterable[ChannelSet], samples: Mapping[str, np.ndarray]) -> list[_Order]:
    sets = list(sets)
    wanted = {name for s in sets for name in s.readers}
    hessians: dict[str, np.ndarray] = {}

    def look(conv: Conv, x: np.ndarray) -> Conv:
        if conv.name in wanted:
            total = hessian(conv, x, center=column_means(conv, x))
            hessians[conv.name] = total / len(chosen_rows(_pixels(graph, conv) * len(x)))
        return conv

    rewrite_layers(graph, samples, look)
    counts = _influence(graph, wanted, samples)
    convs = {n.name: n for n in graph.nodes if isinstance(n, Conv)}
    return [
        _order(
            [
                _Reader(
                    convs[name].weight.reshape(len(convs[name].weight), -1).copy(),
                    np.linalg.inv(damped(hessians.pop(name), DAMPING)),
                    s.channels,
                    counts[name] * _pixels(graph, convs[name]),
                )
                for name in s.readers
            ],
            s.channels,
        )
        for s in sets
    ]


def _order(readers: list[_Reader], channels: int) -> _Order:
    order, left = _Order(), list(range(channels))
    while left:
        losses = sum(r.losses(left) for r in readers)
        assert isinstance(losses, np.ndarray)
        least = int(losses.argmin())
        channel = left.pop(least)
        for r in readers:
            r.remove(channel)
        order.channels.append(channel)
        order.losses.append(order.losses[-1] + max(float(losses[least]), 0.0))
    return order


def _pixels(graph: Graph, conv: Conv) -> int:
    h, w, _ = graph.shapes[conv.output]
    return h * w


def _influence(graph: Graph, names: Iterable[str], samples: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of Convs by name, by how much the outputs' squares move for each square by which an element of the Conv's moves.

    That is the mean diagonal of the Gauss-Newton Hessian of the outputs' squared error, by Hutchinson's estimate.
    """
    few = {k: a[:PROBED] for k, a in choose_samples(graph, samples).items()}
    tensors = run_float(graph, few)
    rng = np.random.default_rng(0)
    wanted = set(names)
    found: dict[str, float] = {}
    for i, node in enumerate(graph.nodes):
        if node.name not in wanted:
            continue
        y = tensors[node.output]
        step = STEP * float(np.sqrt(np.mean(y**2))) or 1.0
        squares = 0.0
        for _ in range(PROBES):
            moved = {node.output: y + step * rng.choice((-1.0, 1.0), y.shape)}
            for later in graph.nodes[i + 1 :]:
                if any(t in moved for t in later.inputs):
                    moved[later.output] = run_node(later, [moved.get(t, tensors[t]) for t in later.inputs])
            squares += sum(
                float(np.sum((moved[o.tensor] - tensors[o.tensor]) ** 2))
                for o in graph.outputs
                if o.tensor in moved
            )
        found[node.name] = squares / PROBES / (step**2 * y.size)
    return found


# -- choice ------------------------------------------------------------------------------------------------


def _chosen(
    graph: Graph, sets: list[ChannelSet], orders: list[_Order], keep: float, words: Words
) -> list[int]:
    """How many channels each set gives: again and again those that lose the least for each step of work saved."""
    convs = [n for n in graph.nodes if isinstance(n, Conv)]
    of = {t: i for i, s in enumerate(sets) for t in s.tensors}

    def work(removed: Sequence[int], only: set[int] | None = None) -> int:
        total = 0
        for conv in convs:
            ends = [of.get(conv.input), of.get(conv.output)]
            if only is not None and not only & set(ends):
                continue
            reads, writes = (
                graph.shapes[t][2] - (removed[i] if i is not None else 0)
                for t, i in zip((conv.input, conv.output), ends, strict=True)
            )
            total += words.steps(graph, conv, reads, writes)
        return total

    removed = [0] * len(sets)
    whole = now = work(removed)
    border = math.gcd(words.inputs, words.outputs)
    while now > keep * whole:
        options = []
        for i, (s, order) in enumerate(zip(sets, orders, strict=True)):
            before = work(removed, {i})
            for n in range(removed[i] + 1, s.channels):
                if (s.channels - n) % border:
                    continue  # with a channel more the same words are read and written
                saved = before - work([*removed[:i], n, *removed[i + 1 :]], {i})
                if saved > 0:
                    lost = order.losses[n] - order.losses[removed[i]]
                    options.append((lost / saved, i, n, saved))
        if not options:
            raise ConfigError(
                f"channels = {keep:g}: the least that can be left of the work is {now / whole:.3g}, with {border} "
                "channels in each layer; give more, or a machine with narrower words"
            )
        _, i, n, saved = min(options)
        removed[i] = n
        now -= saved
    return removed


# -- the smaller network -----------------------------------------------------------------------------------


def _without(graph: Graph, sets: list[ChannelSet], orders: list[_Order], removed: list[int]) -> Graph:
    nodes: dict[str, Node] = {n.name: n for n in graph.nodes}
    shapes = dict(graph.shapes)
    for s, order, n in zip(sets, orders, removed, strict=True):
        if not n:
            continue
        kept = order.kept(n)
        for t in s.tensors:
            h, w, _ = shapes[t]
            shapes[t] = (h, w, len(kept))
        for name in (*s.writers, *s.passing):
            conv = nodes[name]
            assert isinstance(conv, Conv)
            groups = len(kept) if name in s.passing else 1
            nodes[name] = replace(conv, weight=conv.weight[kept], bias=conv.bias[kept], groups=groups)
        for name in s.readers:
            conv = nodes[name]
            assert isinstance(conv, Conv)
            nodes[name] = replace(conv, weight=np.ascontiguousarray(conv.weight[..., kept]))
    return replace(graph, nodes=tuple(nodes[n.name] for n in graph.nodes), shapes=shapes)


def _repaired(
    before: Graph, after: Graph, kept: Mapping[str, np.ndarray], samples: Mapping[str, np.ndarray]
) -> Graph:
    """`after`, each Conv whose input has changed fitted to what it gave in `before`."""
    arrays = choose_samples(before, samples)
    old = {p.name: p.to_hwc(arrays[p.name]) for p in before.inputs}
    new = dict(old)
    last = {t: i for i, node in enumerate(before.nodes) for t in node.inputs}
    nodes: list[Node] = []
    for i, (was, node) in enumerate(zip(before.nodes, after.nodes, strict=True)):
        y = run_node(was, [old[t] for t in was.inputs])
        if isinstance(node, Conv) and node.whole:
            x = new[node.input]
            if x.shape != old[node.input].shape or not np.array_equal(x, old[node.input]):
                target = y[..., kept[node.output]] if node.output in kept else y
                node = _fitted(node, x, target)
        nodes.append(node)
        old[was.output], new[node.output] = y, run_node(node, [new[t] for t in node.inputs])
        for t in set(node.inputs):
            if last[t] == i:
                del old[t], new[t]
    return replace(after, nodes=tuple(nodes))


def _fitted(conv: Conv, x: np.ndarray, target: np.ndarray) -> Conv:
    """The Conv with the weights and the bias that come nearest to `target` (N, OH, OW, O), from x (N, H, W, I).

    The ridge holds the weights to what they are.
    """
    y = target.reshape(-1, target.shape[-1])
    y = y[chosen_rows(len(y))]
    means, mean = column_means(conv, x), y.mean(axis=0)
    size = conv.weight[0].size
    gram, cross, at = np.zeros((size, size)), np.zeros((size, y.shape[1])), 0
    for part in columns(conv, x):
        centered = part - means
        gram += centered.T @ centered
        cross += centered.T @ (y[at : at + len(part)] - mean)
        at += len(part)
    if not ridge(gram, DAMPING):
        return conv  # constant inputs
    flat = conv.weight.reshape(len(conv.weight), -1)
    change = np.linalg.solve(damped(gram, DAMPING), cross - gram @ flat.T)
    weight = flat + change.T
    return replace(conv, weight=weight.reshape(conv.weight.shape), bias=mean - weight @ means)
