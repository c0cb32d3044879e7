"""The parts of a network that are learned one after another: whole network, blocks, or single layers.

A block ends where all that follows reads a single tensor: at the Add of a residual branch, at the Concat of branches,
after each layer of a chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sateen.compiler.quantize.fuse import Pass, Step, fuse
from sateen.ir.graph import Activation, Conv, Graph, Node

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
    graph: Graph, unit: str, differentiable: Callable[[Node], bool]
) -> tuple[list[Block], list[str]]:
    """The blocks in order, and the names of those that are learned layer by layer because a gradient cannot pass.

    What has no weights goes with the layer after it; layers whose function has no gradient end before it.
    """
    parts = _parts(graph, unit)
    found: list[list[Node]] = []
    refused = []
    for steps in parts:
        nodes = _ordered(graph, steps)
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
        for step in steps:
            found += _before_function(_ordered(graph, [step]), differentiable)
    return [_block(graph, nodes) for nodes in found], refused


def _parts(graph: Graph, unit: str) -> list[list[Step]]:
    steps = list(fuse(graph))
    if unit == "network":
        return [steps]
    last = {name: i for i, step in enumerate(steps) for name in step.inputs}
    parts: list[list[Step]] = [[]]
    written = {p.name for p in graph.inputs}
    for i, step in enumerate(steps):
        parts[-1].append(step)
        written.add(step.output)
        weights = any(isinstance(s, Pass) and isinstance(s.main, Conv) for s in parts[-1])
        alive = sum(last.get(t, -1) > i for t in written)
        if weights and (unit == "layer" or alive <= 1):
            parts.append([])
    if not parts[-1]:
        parts.pop()
    elif len(parts) > 1 and not any(isinstance(s, Pass) and isinstance(s.main, Conv) for s in parts[-1]):
        parts[-2] += parts.pop()
    return parts


def _before_function(nodes: list[Node], differentiable: Callable[[Node], bool]) -> list[list[Node]]:
    """The nodes of a step, parted before the function if it has no gradient."""
    if isinstance(nodes[-1], Activation) and not differentiable(nodes[-1]) and len(nodes) > 1:
        return [nodes[:-1], nodes[-1:]]
    return [nodes]


def _ordered(graph: Graph, steps: Iterable[Step]) -> list[Node]:
    names = {name for s in steps for name in (s.source if isinstance(s, Pass) else (s.name,))}
    return [n for n in graph.nodes if n.name in names]


def _block(graph: Graph, nodes: list[Node]) -> Block:
    inside = {n.output for n in nodes}
    names = {n.name for n in nodes}
    outside = {i for n in graph.nodes if n.name not in names for i in n.inputs}
    outside |= {o.tensor for o in graph.outputs}
    inputs = dict.fromkeys(i for n in nodes for i in n.inputs if i not in inside)
    return Block(tuple(nodes), tuple(inputs), tuple(n.output for n in nodes if n.output in outside))
