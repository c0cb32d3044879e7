"""TopK, ArgMax and ArgMin of a graph output, which the host chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sateen.compiler.importer import limits
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value, axis_in
from sateen.compiler.importer.walk import Handler, Walk
from sateen.ir.chosen import Chosen


def _chosen(walk: Walk, node: OnnxNode, x: Value, axis: int, chosen: Chosen) -> Value:
    if walk.is_batch(x, axis):
        raise Unsupported("it is over the batch", "choose another axis")
    if any(o in n.input for o in node.proto.output if o for n in walk.model.graph.node):
        raise Unsupported(
            "what it chooses is computed with", "end the model with it: the host computes it", limits.LAST
        )
    return replace(x, host=(*x.host, (chosen, x.layout[axis])))


def argument(largest: bool) -> Handler:
    """ArgMax and ArgMin."""

    def handle(walk: Walk, node: OnnxNode) -> Sequence[Value]:
        x = walk.value(node)
        last, keep = (bool(node.integer(k, d)) for k, d in (("select_last_index", 0), ("keepdims", 1)))
        chosen = Chosen("indices", largest=largest, last=last, keep=keep)
        return [_chosen(walk, node, x, axis_in(node.integer("axis", 0), x.rank), chosen)]

    return handle


def top_k(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x, k = walk.value(node), walk.constant(node, 1)
    axis = axis_in(node.integer("axis", -1), x.rank)
    count = int(k.ravel()[0]) if k is not None else node.integer("k", 0)
    if not 1 <= count <= x.shape[axis]:
        raise Unsupported(
            f"it takes {count} of {x.shape[axis]}", "take at least one, and no more than there are"
        )
    largest = bool(node.integer("largest", 1))
    return [
        _chosen(walk, node, x, axis, Chosen(gives, count, largest=largest)) for gives in ("values", "indices")
    ]
