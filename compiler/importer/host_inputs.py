"""`on_host`: what the file does to a graph input before it rounds it is computed as it says, on the host.

The machine has codes only. An input that the file scales, shifts, clips or takes the sign of first would get codes of
its own, and be rounded twice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from sateen.compiler.importer.nouns import FLOAT_TYPES
from sateen.compiler.importer.passes import is_affine
from sateen.ir.functions import FUNCTIONS
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Conv, Node, Pool, Quantize
from sateen.ir.ports import InputOp, Port
from sateen.ir.quant import Quantizer


def on_host(graph: Graph, model: onnx.ModelProto) -> Graph:
    """The graph of the model, without what the host does."""
    types = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    results = {o.tensor for o in graph.outputs}
    for port in graph.inputs:
        kind = types[port.source]  # others are cast
        precision = onnx.helper.tensor_dtype_to_np_dtype(kind).name if kind in FLOAT_TYPES else "float32"
        while (node := _first(graph, port, results)) is not None:
            op = _input_op(node, precision)
            assert op is not None
            if not _needless(graph, node):
                port = replace(port, host=(*port.host, op))
            names = {node.output: node.inputs[0]}
            graph = replace(
                graph,
                inputs=tuple(port if p.name == port.name else p for p in graph.inputs),
                nodes=tuple(n.reading(names) for n in graph.nodes if n is not node),
            )
    return graph


def _first(graph: Graph, port: Port, results: set[str]) -> Node | None:
    """The operation that comes first, if the way from the input through it leads to quantizers and nowhere else."""
    way = way_to_quantizers(graph, port.name, graph.consumers(port.name), results)
    return way[0] if way else None


def way_to_quantizers(
    graph: Graph, tensor: str, users: tuple[Node, ...], results: set[str]
) -> tuple[Node | None, frozenset[Quantizer]] | None:
    """The first operation for the host on the way from the tensor through `users`, and the quantizers that it leads
    to; None if it leads anywhere else."""
    found: Node | None = None
    moves: list[Node] = []
    while tensor not in results:
        if users and all(isinstance(u, Quantize) for u in users):
            return found, frozenset(u.quantizer for u in users if isinstance(u, Quantize))
        if len(users) != 1:
            return None
        node = users[0]
        op = _input_op(node, "float32")
        if op is not None:
            if found is None and not all(_commute(m, op) for m in moves):
                return None
            found = found or node
        elif _moves(node):
            moves.append(node)
        else:
            return None
        tensor = node.output
        users = graph.consumers(tensor)
    return None


def _input_op(node: Node, precision: str) -> InputOp | None:
    if isinstance(node, Conv) and is_affine(replace(node, given=None)):
        return InputOp("affine", _numbers(node.weight.reshape(-1)), _numbers(node.bias), precision)
    if isinstance(node, Activation) and node.function == "clip":
        return InputOp("clip", (node.low,), (node.high,), precision)
    if isinstance(node, Activation) and node.function == "bipolar":
        scale = dict(node.parameters)["scale"]
        return InputOp("bipolar", (scale,), (-scale,), precision)
    if isinstance(node, Activation) and node.expression is None and FUNCTIONS[node.function].host:
        return InputOp(node.function, precision=precision)
    return None


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    same = bool((values == values[0]).all())
    return (float(values[0]),) if same else tuple(map(float, values))


def _moves(node: Node) -> bool:
    """Whether every element of the result is one of the input, the largest of several, or zero."""
    return (isinstance(node, Conv) and node.selects and not node.bias.any()) or _is_max(node)


def _is_max(node: Node) -> bool:
    return isinstance(node, Pool) and node.kind == "max"


def _commute(move: Node, op: InputOp) -> bool:
    """Whether the operation may as well come before the move."""
    if _is_max(move):
        return min(op.a) > 0 if op.kind == "affine" else FUNCTIONS[op.kind].increasing
    assert isinstance(move, Conv)
    if len(op.a) > 1 or len(op.b) > 1:
        return False
    zeros = any(move.pads) or not np.any(move.weight.reshape(len(move.weight), -1), axis=1).all()
    return not zeros or bool(op.apply(np.zeros(1))[0] == 0)


def _needless(graph: Graph, node: Node) -> bool:
    """A clip to no less than what the quantizers after it saturate to, as Keras' Relu of an input."""
    clip = isinstance(node, Activation) and node.function == "clip"
    users = graph.consumers(node.output)
    return clip and all(isinstance(u, Quantize) and _within(u.quantizer, node) for u in users)


def _within(quantizer: Quantizer, clip: Node) -> bool:
    assert isinstance(clip, Activation)
    low, high = quantizer.limits
    return clip.low <= low and high <= clip.high
