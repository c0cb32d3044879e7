"""Sums with tensors that are the same for every sample."""

from __future__ import annotations

import dataclasses

from sateen.compiler.importer.passes import only_consumer, with_nodes
from sateen.ir.graph import Graph
from sateen.ir.nodes import Add, Node, Stored


def constants_together(graph: Graph) -> Graph | None:
    """x + a + b, of constant tensors, is x + (a + b): one that is rounded and brought, as of the biases of scores."""
    for node in graph.nodes:
        if not isinstance(node, Add):
            continue
        second = _constant_summand(graph, node)
        inner = graph.producer(next((t for t in node.inputs if second and t != second.output), ""))
        if second is None or not isinstance(inner, Add) or only_consumer(graph, inner.output) is not node:
            continue
        first = _constant_summand(graph, inner)
        said = {*graph.quantizers, *(t for tie in graph.ties for t in tie)}
        if first is None or {first.output, second.output, inner.output} & said:
            continue
        if not all(only_consumer(graph, s.output) for s in (first, second)):
            continue
        total = dataclasses.replace(first, values=first.values + second.values)
        shapes = graph.shapes | {total.output: total.values.shape}
        other = next(t for t in inner.inputs if t != first.output)
        merged = Add(node.name, other, total.output, node.output)
        changed: dict[str, Node | None] = {
            first.name: total,
            second.name: None,
            inner.name: None,
            node.name: merged,
        }
        return with_nodes(dataclasses.replace(graph, shapes=shapes), changed)
    return None


def _constant_summand(graph: Graph, node: Add) -> Stored | None:
    """The one that is constant, of two."""
    found = [p for p in map(graph.producer, node.inputs) if isinstance(p, Stored)]
    return found[0] if len(found) == 1 else None
