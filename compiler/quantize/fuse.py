"""Fusion: the float graph's nodes into those of `FusedGraph`, once for each graph.

Only a tensor with a single reader, which is no graph output, may disappear between two nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sateen.errors import ModelError
from sateen.ir.fused import FusedGraph, FusedLayer, FusedNode
from sateen.ir.graph import Graph
from sateen.ir.nodes import (
    Activation,
    Add,
    Arrange,
    Concat,
    Conv,
    MatMul,
    Maximum,
    Mul,
    Node,
    Normalize,
    Pool,
    Softmax,
    Stored,
)


def fuse(graph: Graph) -> FusedGraph:
    """The graph as layers, max Pools and Concats. Raises ModelError for a graph that is not one."""
    graph.verify()
    nodes = _fused(graph)
    made = FusedGraph(graph, nodes, _scale_groups(graph, nodes), _raw_outputs(graph, nodes))
    made.verify()
    return made


def _fused(graph: Graph) -> tuple[FusedNode, ...]:
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for tensor in set(node.inputs):
            readers.setdefault(tensor, []).append(node)
    results = {o.tensor for o in graph.outputs}

    def sole_reader(tensor: str) -> Node | None:
        found = readers.get(tensor, [])
        return found[0] if len(found) == 1 and tensor not in results else None

    nodes: list[FusedNode] = []
    waiting: dict[str, FusedLayer] = {}  # output -> a layer that its Add or Mul may take over
    for node in graph.nodes:
        match node:
            case Conv() | Pool(kind="average"):
                new = FusedLayer(node.name, node, node.input, node.output, source=(node.name,))
                # what the file rounds before the Add is a tensor of its own
                if isinstance(sole_reader(node.output), Add | Mul) and node.output not in graph.quantizers:
                    waiting[node.output] = new
            case MatMul():
                new = FusedLayer(node.name, node, node.input_a, node.output, source=(node.name,))
                user = sole_reader(node.output)
                if isinstance(user, Add) and node.output not in graph.quantizers:
                    other = user.input_b if user.input_a == node.output else user.input_a
                    # whose rows are the product's, however many samples these are of
                    if graph.shapes[other][0] == graph.shapes[node.output][0]:
                        waiting[node.output] = new
            case Add(input_a=a, input_b=b) | Mul(input_a=a, input_b=b):
                # the side that was written later is fused: the other is there already when it runs
                later = a if _position(nodes, a) > _position(nodes, b) else b
                sides = dict.fromkeys((later, a, b))
                whole = [t for t in sides if graph.shapes[t] == graph.shapes[node.output]]
                main = next((t for t in whole if t in waiting), a if a in whole else b)
                other, product = b if main == a else a, isinstance(node, Mul)
                if main in waiting and a != b:
                    taken = waiting.pop(main)
                    nodes.remove(taken)
                    source = (*taken.source, node.name)
                else:
                    taken, source = FusedLayer(node.name, None, main, main), (node.name,)
                new = replace(taken, output=node.output, residual=other, product=product, source=source)
            case Activation():
                taken_by = next(
                    (n for n in nodes if isinstance(n, FusedLayer) and n.output == node.input), None
                )
                if taken_by and taken_by.activation is None and sole_reader(node.input) is node:
                    nodes.remove(taken_by)
                    waiting.pop(node.input, None)
                    new = replace(
                        taken_by,
                        output=node.output,
                        activation=node,
                        before=node.input,
                        source=(*taken_by.source, node.name),
                    )
                else:
                    new = FusedLayer(
                        node.name,
                        None,
                        node.input,
                        node.output,
                        activation=node,
                        before=node.input,
                        source=(node.name,),
                    )
            case Pool() | Concat() | Arrange() | Maximum() | Stored() | Softmax() | Normalize():
                nodes.append(node)
                continue
            case _:
                raise ModelError(f"'{node.name}' is a quantizer, which import should have taken out")
        nodes.append(new)
    return tuple(nodes)


def _position(nodes: list[FusedNode], tensor: str) -> int:
    return next((i for i, n in enumerate(nodes) if n.output == tensor), -1)


def _scale_groups(graph: Graph, nodes: Iterable[FusedNode]) -> dict[str, str]:
    """Max Pools, Maximums and Concats pass codes on, so that what they read and write has one scale; so have ties."""
    nodes = tuple(nodes)
    parent = {t: t for t in (*(p.name for p in graph.inputs), *(n.output for n in nodes))}

    def find(t: str) -> str:
        while parent[t] != t:
            parent[t] = parent[parent[t]]
            t = parent[t]
        return t

    for node in nodes:
        if isinstance(node, Pool | Concat | Arrange | Maximum):
            for i in node.inputs:
                parent[find(i)] = find(node.output)
    for tie in graph.ties:
        known = [t for t in tie if t in parent]
        for t in known[1:]:
            parent[find(t)] = find(known[0])
    groups = {t: find(t) for t in parent}
    # a table's input is a tensor with codes when the table stands alone; else its own error counts for nothing
    before = [n.before for n in nodes if isinstance(n, FusedLayer) and n.table and n.before]
    inside = {b: b for b in before if b not in groups}
    for tie in graph.ties:
        own = [t for t in tie if t in inside]
        inside |= dict.fromkeys(own, own[0] if own else "")
    return groups | inside


def _raw_outputs(graph: Graph, nodes: Iterable[FusedNode]) -> frozenset[str]:
    """Nothing else reads them, nothing follows the sum, and the file does not round them."""
    nodes = tuple(nodes)
    read = {i for n in nodes for i in n.inputs}
    results = {o.tensor for o in graph.outputs} - read - set(graph.quantizers)
    return frozenset(
        n.output
        for n in nodes
        if isinstance(n, FusedLayer)
        and n.main is not None
        and n.residual is None
        and n.activation is None
        and n.output in results
    )
