"""The float network as the machine runs it: each node is one pass through the array, one pooling or one Concat.

    Conv | MatMul | average Pool | (nothing)   ->   Add | Mul   ->   Activation

is one `FusedLayer`; a missing first part is an identity that carries the codes through the array. What `Graph` leaves
open is settled here: where a tensor is rounded, which tensors must share a scale, and what is not rounded at all.
`sateen.compiler.quantize.fuse` makes it; all of quantization works on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from sateen.errors import ModelError
from sateen.ir.graph import Graph
from sateen.ir.nodes import (
    Activation,
    Arrange,
    Concat,
    Conv,
    MatMul,
    Maximum,
    Node,
    Normalize,
    Pool,
    Softmax,
    Stored,
)

T = TypeVar(
    "T", bound=Conv | MatMul | Pool | Concat | Arrange | Maximum | Stored | Activation | Softmax | Normalize
)


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """One pass through the array. `main` None is an identity; `before` is what the activation reads."""

    name: str
    main: Conv | MatMul | Pool | None
    input: str
    output: str
    residual: str | None = None
    product: bool = False
    """The sum is multiplied by the residual, which else is added."""
    activation: Activation | None = None
    before: str | None = None
    source: tuple[str, ...] = ()
    """The nodes of the graph that it is made of."""

    @property
    def inputs(self) -> tuple[str, ...]:
        second = (self.main.input_b,) if isinstance(self.main, MatMul) else ()
        return (self.input, *second) + ((self.residual,) if self.residual else ())

    @property
    def table(self) -> bool:
        """Whether the activation needs one: a clip is a clamp."""
        return self.activation is not None and self.activation.function != "clip"

    @property
    def requantized(self) -> str:
        """The tensor that the sum is rounded to: the output, or what the table reads."""
        return self.before if self.table and self.before else self.output


FusedNode = FusedLayer | Pool | Concat | Arrange | Maximum | Stored | Softmax | Normalize
"""A Pool here is a max Pool."""


def sources(node: FusedNode) -> tuple[str, ...]:
    """Names of the graph's nodes in it."""
    return node.source if isinstance(node, FusedLayer) else (node.name,)


@dataclass(frozen=True, slots=True, eq=False)
class FusedGraph:
    """`nodes` in an order in which they can run.

    graph : what was fused, which has the ports and the shapes
    scale_groups : of every tensor that is rounded the representative of those that must share its scale
    raw : outputs whose exact accumulators the host reads, so that they are not rounded
    """

    graph: Graph
    nodes: tuple[FusedNode, ...]
    scale_groups: Mapping[str, str]
    raw: frozenset[str]

    @property
    def layers(self) -> tuple[FusedLayer, ...]:
        return tuple(n for n in self.nodes if isinstance(n, FusedLayer))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Inputs of the network and outputs of nodes: what is in memory."""
        return (*(p.name for p in self.graph.inputs), *(n.output for n in self.nodes))

    @property
    def term_inputs(self) -> tuple[str, ...]:
        """Inputs that may be given as several codes a value: nothing but layers that can repeat their weights reads
        them."""
        others = {o.tensor for o in self.graph.outputs}.union(*self.graph.ties)
        found = []
        for port in self.graph.inputs:
            readers = self.graph.consumers(port.name)
            if readers and port.name not in others and all(map(_reads_terms, readers)):
                found.append(port.name)
        return tuple(found)

    def with_graph(self, graph: Graph) -> FusedGraph:
        """The same of a graph whose layers have other weights. Raises ModelError where it has other nodes."""
        if self.graph is graph:
            return self
        named = {n.name: n for n in graph.nodes}

        def found(old: T) -> T:
            new = named.get(old.name)
            return new if isinstance(new, type(old)) else old  # which `verify` refuses

        def changed(node: FusedNode) -> FusedNode:
            if not isinstance(node, FusedLayer):
                return found(node)
            main, activation = node.main and found(node.main), node.activation and found(node.activation)
            return replace(node, main=main, activation=activation)

        made = replace(self, graph=graph, nodes=tuple(map(changed, self.nodes)))
        made.verify()
        return made

    def verify(self) -> None:
        """Raise ModelError unless it is made of all of the graph's nodes, in order, and rounds what it says."""
        self.graph.verify()
        named = {n.name: n for n in self.graph.nodes}
        if Counter(s for n in self.nodes for s in sources(n)) != Counter(n.name for n in self.graph.nodes):
            raise ModelError(f"{self.graph.name}: fused nodes are not made of each node of the graph once")
        known = {p.name for p in self.graph.inputs}
        results = {o.tensor for o in self.graph.outputs}
        for node in self.nodes:
            what = f"fused node '{node.name}'"
            held = (node.main, node.activation) if isinstance(node, FusedLayer) else (node,)
            if any(part is not None and named.get(part.name) is not part for part in held):
                raise ModelError(f"{what}: has a node that is not the graph's")
            parts = [named[s] for s in sources(node)]
            written = {p.output for p in parts}
            if {i for p in parts for i in p.inputs} - written != set(
                node.inputs
            ) or node.output not in written:
                raise ModelError(f"{what}: reads or writes other tensors than its nodes")
            if hidden := (written - {node.output}) & results.union(*(n.inputs for n in self.nodes)):
                raise ModelError(f"{what}: others read '{min(hidden)}', which is inside of it")
            if late := set(node.inputs) - known:
                raise ModelError(f"{what}: input '{min(late)}' is not written before it")
            known.add(node.output)
        rounded = {*self.tensors, *(n.requantized for n in self.layers)}
        if not rounded <= set(self.scale_groups):
            raise ModelError(f"'{min(rounded - set(self.scale_groups))}' is rounded, and in no scale group")
        if lost := {g for g in self.scale_groups.values() if self.scale_groups.get(g) != g}:
            raise ModelError(f"scale group '{min(lost)}' is not one of its own tensors")
        if not self.raw <= results:
            raise ModelError(f"raw output '{min(self.raw - results)}' is no output of the graph")


def _reads_terms(node: Node) -> bool:
    """Whether the node's weights can be repeated for each code of a value."""
    return isinstance(node, Conv) and (node.whole or node.channels is not None) and node.sparsity.dense
