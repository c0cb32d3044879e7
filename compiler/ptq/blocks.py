"""The parts of a network that are learned one after another: whole network, blocks, or single layers.

A block ends where all that follows reads a single tensor: at the Add of a residual branch, at the Concat of branches,
after each layer of a chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sateen.ir.fused import FusedGraph, FusedLayer, FusedNode, sources
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Conv, Node

UNITS = ("layer", "block", "network")


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes in an order in which they can run, what they read from before, and what is read of them after."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def convs(self) -> tuple[Conv, ...]:
        """Those whose weights can be learned: a selection or a copy has none."""
        return tuple(n for n in self.nodes if isinstance(n, Conv) and n.given is None and not n.selects)

    @property
    def name(self) -> str:
        names = [n.name for n in self.convs or self.nodes]
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def split_blocks(
    network: FusedGraph, unit: str, differentiable: Callable[[Node], bool]
) -> tuple[list[Block], list[str]]:
    """The blocks in order, and the names of those that are learned layer by layer because a gradient cannot pass.

    What has no weights goes with the layer after it; layers whose function has no gradient end before it.
    """
    graph, parts = network.graph, _parts(network, unit)
    found: list[list[Node]] = []
    refused = []
    for part in parts:
        nodes = _ordered(graph, part)
        learned = False  # whether something before the node in this block is
        passes = True
        for node in nodes:
            passes &= not learned or differentiable(node)
            learned |= isinstance(node, Conv)
        if passes:
            found.append(nodes)
            continue
        if len([n for n in nodes if isinstance(n, Conv)]) > 1:
            refused.append(_block(graph, nodes).name)
        for fused in part:
            found += _before_function(_ordered(graph, [fused]), differentiable)
    return [_block(graph, nodes) for nodes in found], refused


def _parts(network: FusedGraph, unit: str) -> list[list[FusedNode]]:
    if unit == "network":
        return [list(network.nodes)]
    last = {name: i for i, node in enumerate(network.nodes) for name in node.inputs}
    parts: list[list[FusedNode]] = [[]]
    written = {p.name for p in network.graph.inputs}
    for i, node in enumerate(network.nodes):
        parts[-1].append(node)
        written.add(node.output)
        weights = any(map(_has_weights, parts[-1]))
        alive = sum(last.get(t, -1) > i for t in written)
        if weights and (unit == "layer" or alive <= 1):
            parts.append([])
    if not parts[-1]:
        parts.pop()
    elif len(parts) > 1 and not any(map(_has_weights, parts[-1])):
        parts[-2] += parts.pop()
    return parts


def _has_weights(node: FusedNode) -> bool:
    return isinstance(node, FusedLayer) and isinstance(node.main, Conv)


def _before_function(nodes: list[Node], differentiable: Callable[[Node], bool]) -> list[list[Node]]:
    """The nodes of a fused one, parted before the function if it has no gradient."""
    if isinstance(nodes[-1], Activation) and not differentiable(nodes[-1]) and len(nodes) > 1:
        return [nodes[:-1], nodes[-1:]]
    return [nodes]


def _ordered(graph: Graph, fused: Iterable[FusedNode]) -> list[Node]:
    names = {name for n in fused for name in sources(n)}
    return [n for n in graph.nodes if n.name in names]


def _block(graph: Graph, nodes: list[Node]) -> Block:
    inside = {n.output for n in nodes}
    names = {n.name for n in nodes}
    outside = {i for n in graph.nodes if n.name not in names for i in n.inputs}
    outside |= {o.tensor for o in graph.outputs}
    inputs = dict.fromkeys(i for n in nodes for i in n.inputs if i not in inside)
    return Block(tuple(nodes), tuple(inputs), tuple(n.output for n in nodes if n.output in outside))
