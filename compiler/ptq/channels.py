"""Channels that can be rescaled without changing what the network computes.

A channel's values may be divided by s > 0 wherever all that writes them can be divided (rows of weights and biases)
and all that reads them multiplied (columns of weights), if everything between is positively homogeneous: Relu,
leaky Relu, pooling, Add. Residual branches make one set of all the tensors that their Adds join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv, Node


@dataclass(frozen=True, slots=True)
class ChannelSet:
    """Tensors whose channels are rescaled together; Convs by name that write and read them."""

    tensors: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    channels: int


def joined(tensors: Iterable[str], pairs: Iterable[tuple[str, str]]) -> Callable[[str], str]:
    """From a tensor to the one that stands for all that pairs join with it."""
    parent = {t: t for t in tensors}

    def find(t: str) -> str:
        while parent[t] != t:
            parent[t] = parent[parent[t]]
            t = parent[t]
        return t

    for a, b in pairs:
        parent[find(a)] = find(b)
    return find


def channel_sets(graph: Graph) -> list[ChannelSet]:
    """All sets with a writer and a reader, in the order of the graph."""
    fixed = {p.name for p in graph.inputs} | {o.tensor for o in graph.outputs}
    pairs: list[tuple[str, str]] = []
    for node in graph.nodes:
        if isinstance(node, Conv):
            continue
        if not node.homogeneous:
            fixed |= {*node.inputs, node.output}
            continue
        pairs += [(i, node.output) for i in node.inputs]
    find = joined(graph.shapes, pairs)
    sets = []
    roots = {find(t) for t in fixed}
    for root in dict.fromkeys(find(n.output) for n in graph.nodes):
        if root in roots:
            continue
        members = tuple(t for t in graph.shapes if find(t) == root)
        convs = [n for n in graph.nodes if isinstance(n, Conv)]
        writers = tuple(c.name for c in convs if c.output in members)
        readers = tuple(c.name for c in convs if c.input in members)
        if writers and readers:
            sets.append(ChannelSet(members, writers, readers, graph.shapes[root][2]))
    return sets


def rescale(graph: Graph, found: ChannelSet, factors: np.ndarray) -> Graph:
    """The graph with the set's channels divided by `factors` (C,), all above 0."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Conv):
            weight, bias = node.weight, node.bias
            if node.name in found.writers:
                weight, bias = weight / factors[:, None, None, None], bias / factors
            if node.name in found.readers:
                weight = weight * node.read_by(factors)[:, None, None, :]
            node = replace(node, weight=weight, bias=bias)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def written_range(graph: Graph, found: ChannelSet) -> np.ndarray:
    """Largest |weight| that writes each channel, (C,)."""
    convs = [n for n in graph.nodes if isinstance(n, Conv) and n.name in found.writers]
    return np.max([np.abs(c.weight).reshape(len(c.weight), -1).max(axis=1) for c in convs], axis=0)


def read_range(graph: Graph, found: ChannelSet) -> np.ndarray:
    """Largest |weight| that reads each channel, (C,)."""
    ranges = []
    for conv in graph.nodes:
        if isinstance(conv, Conv) and conv.name in found.readers:
            largest = np.abs(conv.weight).max(axis=(1, 2))  # (O, I / groups)
            if conv.channels is None:
                ranges.append(largest.reshape(conv.groups, -1, largest.shape[1]).max(axis=1).reshape(-1))
            else:
                ranges.append(np.zeros(found.channels))
                np.maximum.at(ranges[-1], conv.channels, largest)
    return np.max(ranges, axis=0)
