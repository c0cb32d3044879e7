"""`settle`: the file's quantizers become `Graph.quantizers`, the rounding of each tensor.

A tensor that several steps round one after another becomes several tensors, with a table between them that
takes the codes of one to those of the next. Every rewrite here gives the same numbers as the file does.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sateen.compiler.functions import X, as_expression
from sateen.compiler.importer.nouns import Refused
from sateen.compiler.importer.passes import as_function, drop_dead, is_affine
from sateen.compiler.importer.pointwise import depthwise
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Add, Arrange, Concat, Conv, Maximum, Node, Pool, Quantize
from sateen.ir.quant import Quantizer

Changes = dict[str, tuple[Node, ...]]
"""What takes the place of a node, by its name."""


def settle(graph: Graph) -> Graph:
    """The graph without `Quantize` nodes.

    Raises Refused where a tensor is read both rounded and as it is.
    """
    if not any(isinstance(n, Quantize) for n in graph.nodes):
        return graph
    for rewrite in (
        _signs_before_pools,
        _narrowed,
        _attached,
        _spread,
        _joined,
        _clips,
        _factors,
    ):
        graph = rewrite(graph)
    return drop_dead(graph)


def recentered(graph: Graph) -> Graph:
    """Zero points of minifloats, which ONNX has not: Q(x + c) - c, or Q(y) - c where y holds the c already."""
    for node in graph.nodes:
        if isinstance(node, Quantize) and (centred := _recentred(graph, node)):
            graph = centred
    return graph


def _recentred(graph: Graph, quantize: Quantize) -> Graph | None:
    quant = quantize.quantizer.quant
    readers = graph.consumers(quantize.output)
    offset = -_offset(readers[0]) if len(readers) == 1 else 0.0
    zero = round(offset / quant.scale * 2.0**-quant.format.lsb_exponent) if np.isfinite(offset) else 0
    shifted = replace(quant, zero_point=zero)
    codes = quant.format.from_fixed(np.array([zero]))
    on_grid = not quant.zero_point and zero != 0 and quant.format.fixed(codes)[0] == zero
    if not on_grid or not np.isclose(shifted.scale * shifted.offset, offset, rtol=1e-6):
        return None
    if any(o.tensor in (quantize.input, quantize.output) for o in graph.outputs):
        return None
    after, before = readers[0], graph.producer(quantize.input)
    rounded = replace(quantize, output=after.output, quantizer=replace(quantize.quantizer, quant=shifted))
    if before and np.isclose(_offset(before), offset, rtol=1e-6):
        old: Changes = {quantize.name: (replace(rounded, input=before.inputs[0]),), after.name: ()}
        return _changed(graph, old)
    lowered = _lowered(graph, quantize.input, offset)
    if lowered is not None:
        return _changed(graph, lowered | {quantize.name: (rounded,), after.name: ()})
    name = f"{quantize.input}.{quantize.name}.centered"
    channels = graph.shapes[quantize.input][2]
    shift = depthwise(name, quantize.input, name, np.ones(channels), np.full(channels, -offset))
    graph = replace(graph, shapes=graph.shapes | {name: graph.shapes[quantize.input]})
    return _changed(graph, {quantize.name: (shift, replace(rounded, input=name)), after.name: ()})


def _lowered(graph: Graph, tensor: str, offset: float) -> Changes | None:
    """What makes the tensor less by the offset, within what writes it; None if that is impossible."""
    node = graph.producer(tensor)
    if node is None or len(graph.consumers(tensor)) != 1:
        return None
    if isinstance(node, Conv):
        return {node.name: (replace(node, bias=node.bias - offset),)}
    if isinstance(node, Add):
        found = (_lowered(graph, i, offset) for i in node.inputs if isinstance(graph.producer(i), Conv))
        return next((changes for changes in found if changes), None)
    if isinstance(node, Activation) and node.function == "clip":
        inner = _lowered(graph, node.input, offset)
        clip = replace(node, low=node.low - offset, high=node.high - offset)
        return inner and inner | {node.name: (clip,)}
    return None


def _changed(graph: Graph, changes: Changes) -> Graph:
    return replace(graph, nodes=tuple(new for n in graph.nodes for new in changes.get(n.name, (n,))))


def _offset(node: Node) -> float:
    """What the node adds to every element; NaN if it does anything else."""
    adds = isinstance(node, Conv) and is_affine(node) and bool((node.weight == 1).all())
    if adds and isinstance(node, Conv) and (node.bias == node.bias[0]).all():
        return float(node.bias[0])
    return float("nan")


def retabled(node: Activation) -> Activation:
    """The activation as a table, though it be a clip."""
    return Activation(node.name, node.input, node.output, "composed", expression=as_expression(node))


def translation(name: str, source: str, output: str) -> Activation:
    """A table from the codes of one quantizer to those of another."""
    return Activation(name, source, output, "composed", expression=X)


def _signs_before_pools(graph: Graph) -> Graph:
    """The sign of a maximum is the maximum of signs, and only a sum's sign is exact."""
    nodes = list(graph.nodes)
    results = {o.tensor for o in graph.outputs}
    for pool in [n for n in nodes if isinstance(n, Pool) and n.kind == "max"]:
        users = [n for n in nodes if pool.output in n.inputs]
        sign = users[0] if len(users) == 1 else None
        alone = sum(pool.input in n.inputs for n in nodes) == 1 and pool.input not in results
        if not (isinstance(sign, Activation) and sign.function == "bipolar" and alone):
            continue
        after = [n for n in nodes if sign.output in n.inputs]
        if len(after) != 1 or not isinstance(after[0], Quantize) or pool.output in results:
            continue
        quantize = after[0]
        signs, rounded = sign.output, pool.output
        first = replace(sign, input=pool.input)
        second = replace(quantize, input=signs, output=rounded)
        last = replace(pool, input=rounded, output=quantize.output)
        at = nodes.index(pool)
        nodes[at : at + 1] = [first, second, last]
        nodes = [n for n in nodes if n is not sign and n is not quantize]
        shapes = graph.shapes | {signs: graph.shapes[pool.input], rounded: graph.shapes[pool.input]}
        graph = replace(graph, shapes=shapes)
    return replace(graph, nodes=tuple(nodes))


def _narrowed(graph: Graph) -> Graph:
    """Two quantizers in a row that differ in their limits only are one: QuantizeLinear and Clip."""
    found: dict[str, Quantize] = {}
    results = {o.tensor for o in graph.outputs}
    nodes: list[Node] = []
    for node in graph.nodes:
        before = found.get(node.input) if isinstance(node, Quantize) else None
        if isinstance(node, Quantize) and before is not None:
            a, b = before.quantizer, node.quantizer
            alone = len(graph.consumers(before.output)) == 1 and before.output not in results
            if alone and a.quant == b.quant and a.low <= b.low <= b.high <= a.high:
                nodes.remove(before)
                node = replace(node, input=before.input)
        if isinstance(node, Quantize):
            found[node.output] = node
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _attached(graph: Graph) -> Graph:
    """Each quantizer to the tensor that it rounds, of which there is one version (`one_version`)."""
    found: dict[str, Quantizer] = {}
    names: dict[str, str] = {}
    nodes: list[Node] = []
    ports = {p.name for p in graph.inputs}
    results = {o.tensor for o in graph.outputs}
    for node in graph.nodes:
        if not isinstance(node, Quantize):
            nodes.append(node.reading(names))
            continue
        source = names.get(node.input, node.input)
        found.setdefault(source, node.quantizer)
        if found[source] == node.quantizer and not (source in ports and node.output in results):
            names[node.output] = source
        else:
            nodes.append(translation(node.name, source, node.output))
            found[node.output] = node.quantizer
    outputs = tuple(replace(o, tensor=names.get(o.tensor, o.tensor)) for o in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs, quantizers=found)


def _spread(graph: Graph) -> Graph:
    """Quantizers through operations that move or choose elements, forward, and backward where nobody else reads."""
    found = dict(graph.quantizers)
    results = {o.tensor for o in graph.outputs}

    def private(tensor: str) -> bool:
        return len(graph.consumers(tensor)) == 1 and tensor not in results

    while True:
        before = len(found)
        for node in graph.nodes:
            out = node.output
            if _keeps_values(node, found) and out not in found:
                given = {found.get(i) for i in node.inputs}
                if len(given) == 1 and None not in given:
                    found[out] = found[node.inputs[0]]
            elif _moves(node) and out in found:
                for i in node.inputs:
                    if i not in found and private(i):
                        found[i] = found[out]
        if len(found) == before:
            return replace(graph, quantizers=found)


def _moves(node: Node) -> bool:
    """Whether every element of the result is one of the inputs', or zero."""
    if isinstance(node, Conv):
        return node.selects and not node.bias.any()
    return isinstance(node, Concat | Arrange | Maximum) or (isinstance(node, Pool) and node.kind == "max")


def _keeps_values(node: Node, found: dict[str, Quantizer]) -> bool:
    """Whether the result has values of the input's grid only."""
    if isinstance(node, Activation) and node.function == "clip" and node.input in found:
        quantizer = found[node.input]
        low, high = quantizer.limits
        quant = quantizer.quant
        bounds = [b for b in (node.low, node.high) if low <= b <= high]
        return bool((quant.dequantize(quant.quantize(np.array(bounds))) == bounds).all())
    return _moves(node)


def _joined(graph: Graph) -> Graph:
    """Maxima, selection and Concat keep codes: tables translate where the output's are others."""
    found = dict(graph.quantizers)
    shapes = dict(graph.shapes)
    nodes: list[Node] = []

    def tensor(name: str, like: str, quantizer: Quantizer) -> str:
        while name in shapes:
            name += "_"
        shapes[name], found[name] = graph.shapes[like], quantizer
        return name

    for node in graph.nodes:
        out = found.get(node.output)
        if isinstance(node, Pool | Conv) and _moves(node) and out and found.get(node.input, out) != out:
            pooled = tensor(f"{node.output}.pooled", node.output, found[node.input])
            nodes.append(replace(node, output=pooled))
            nodes.append(translation(f"{node.name}.rescale", pooled, node.output))
        elif isinstance(node, Concat | Arrange | Maximum):
            given = {p: found[p] for p in node.parts if p in found}
            if out is None and len(set(given.values())) > 1:
                listed = ", ".join(f"'{p}': {q}" for p, q in given.items())
                raise Refused(
                    node.name,
                    type(node).__name__,
                    f"it joins tensors of different quantizers ({listed}) and none follows",
                    "put a quantizer after it, or the same one before it",
                )
            parts = []
            for k, p in enumerate(node.parts):
                if out and p in found and found[p] != out:
                    part = tensor(f"{p}.rescaled", p, out)
                    nodes.append(translation(f"{node.name}.rescale{k}", p, part))
                    p = part
                parts.append(p)
            nodes.append(node.reading(dict(zip(node.parts, parts, strict=True))))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), shapes=shapes, quantizers=found)


def _clips(graph: Graph) -> Graph:
    """A clip between two roundings: the same ones are one, after it; different ones make it a table."""
    found = dict(graph.quantizers)
    nodes: list[Node] = []
    kept = {o.tensor for o in graph.outputs} | {p.name for p in graph.inputs}
    for node in graph.nodes:
        if isinstance(node, Activation) and node.function == "clip":
            before, after = found.get(node.input), found.get(node.output)
            if before and before != after:
                node = retabled(node)
            elif before and after and node.input not in kept and len(graph.consumers(node.input)) == 1:
                producer = graph.producer(node.input)
                if producer is not None and not _moves(producer):
                    del found[node.input]
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), quantizers=found)


def _factors(graph: Graph) -> Graph:
    """One factor and one offset for all between two roundings are a table, which rounds as the file does."""
    nodes: list[Node] = []
    for node in graph.nodes:
        function = as_function(node) if isinstance(node, Conv) else None
        if function and node.inputs[0] in graph.quantizers and node.output in graph.quantizers:
            node = Activation(node.name, node.inputs[0], node.output, "composed", expression=function)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))
