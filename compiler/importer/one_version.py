"""Tensors of which the file has several versions: rounded in one way and in another, or not at all.

The machine keeps one version of a tensor. So what computes it is there once for each: sums are exact, and each is
rounded as its version says. An input has a port for each, to which the host gives the same array.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from sateen.compiler.importer.host_inputs import way_to_quantizers
from sateen.compiler.importer.nouns import free_name
from sateen.compiler.importer.passes import drop_dead, is_affine
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv, Node, Pool, Quantize


def separated(graph: Graph) -> Graph:
    """The graph with one version of each tensor."""
    if not any(isinstance(n, Quantize) for n in graph.nodes):
        return graph
    graph = drop_dead(graph)  # what nobody needs is no reader
    for node in graph.nodes[::-1]:  # what is repeated reads what comes before it
        graph = _repeated(graph, node)
    return _apart(graph)


def _versions(graph: Graph, tensor: str) -> list[list[Node]]:
    """The tensor's readers by how they have it rounded, in order; a network's output reads it as it is."""
    found: dict[Hashable, list[Node]] = {}
    for reader in graph.consumers(tensor):
        found.setdefault(reader.quantizer if isinstance(reader, Quantize) else None, []).append(reader)
    if tensor in {o.tensor for o in graph.outputs}:
        found.setdefault(None, [])
    return list(found.values()) if set(found) != {None} else []


def _repeated(graph: Graph, node: Node) -> Graph:
    """The graph with the node, and what belongs to the same sum, once for each version of its output."""
    if isinstance(node, Quantize):
        return graph
    for readers in _versions(graph, node.output)[1:]:
        nodes, shapes = list(graph.nodes), dict(graph.shapes)
        copy = _copied(graph, node.output, nodes, shapes)
        names = {node.output: copy}
        nodes = [n.reading(names) if n in readers else n for n in nodes]
        outputs = graph.outputs
        if not any(isinstance(r, Quantize) for r in readers):
            outputs = tuple(replace(o, tensor=names.get(o.tensor, o.tensor)) for o in outputs)
        graph = replace(graph, nodes=tuple(nodes), shapes=shapes, outputs=outputs)
    return graph


def _copied(graph: Graph, tensor: str, nodes: list[Node], shapes: dict[str, tuple[int, int, int]]) -> str:
    """A tensor with the same values, computed again; the tensor itself where it has codes, or is an input.

    Adds to `nodes` and `shapes`.
    """
    node = next((n for n in graph.nodes if n.output == tensor), None)
    if node is None or isinstance(node, Quantize):
        return tensor
    sums = (isinstance(node, Conv) and not is_affine(node)) or (
        isinstance(node, Pool) and node.kind == "average"
    )
    names = {} if sums else {i: _copied(graph, i, nodes, shapes) for i in node.inputs}
    name = free_name(tensor, shapes)
    shapes[name] = shapes[tensor]
    at = nodes.index(node) + 1
    nodes.insert(
        at, replace(node.reading(names), name=free_name(node.name, {n.name for n in nodes}), output=name)
    )
    return name


def _apart(graph: Graph) -> Graph:
    """The graph with a port for each version of an input; those that lead to the same quantizers share one."""
    results = {o.tensor for o in graph.outputs}
    for port in graph.inputs:
        versions: dict[Hashable, list[Node]] = {}
        for reader in graph.consumers(port.name):
            way = way_to_quantizers(graph, port.name, (reader,), results)
            versions.setdefault(way and ((way[0] and way[0].name) or way[1]), []).append(reader)
        if set(versions) == {None}:
            continue
        for readers in list(versions.values())[1:]:
            name = free_name(port.name, graph.shapes)
            nodes = tuple(n.reading({port.name: name}) if n in readers else n for n in graph.nodes)
            more = replace(port, name=name, shared=port.source)
            shapes = graph.shapes | {name: graph.shapes[port.name]}
            graph = replace(graph, inputs=(*graph.inputs, more), nodes=nodes, shapes=shapes)
    return graph
