"""Dimensions repeated, picked by constants, cut and padded: all of them selections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sateen.compiler.importer import limits
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value, axes_in, axis_in
from sateen.compiler.importer.ops_pool import zero_pad
from sateen.compiler.importer.ops_select import select
from sateen.compiler.importer.ops_shape import reshaped
from sateen.compiler.importer.pointwise import raised
from sateen.compiler.importer.walk import Walk


def _numbers(walk: Walk, node: OnnxNode, i: int, what: str) -> list[int]:
    array = walk.constant(node, i)
    if array is None:
        raise Unsupported(f"it has no {what}", "export the model again")
    return [int(v) for v in array.ravel()]


def _larger(walk: Walk, x: Value, rank: int) -> Value:
    """x with `rank` dimensions. Raises Unsupported where that would put one in front of the batch."""
    if rank > x.rank and walk.is_batch(x, 0):
        raise Unsupported(f"it gives its input of shape {x.shape} {rank} dimensions", "keep the batch first")
    return raised(x, rank)


def expand(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """Dimensions of 1 repeated, in any number."""
    target = _numbers(walk, node, 1, "shape")
    x = _larger(walk, walk.value(node), len(target))
    for d, size in enumerate(target, start=x.rank - len(target)):
        if size in (1, x.shape[d]):
            continue
        if x.shape[d] != 1:
            raise Unsupported(f"it expands {x.shape} to {tuple(target)}", "only dimensions of 1 are repeated")
        x = select(walk, node, x, d, np.zeros(size, np.int64), node.proto.output[0])
    return [x]


def tile(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x, repeats = walk.value(node), _numbers(walk, node, 1, "repeats")
    if len(repeats) != x.rank or min(repeats) < 1:
        raise Unsupported(f"repeats {repeats} of {x.rank} dimensions", f"give {x.rank} positive numbers")
    for d, times in enumerate(repeats):
        if times > 1:
            x = select(walk, node, x, d, np.tile(np.arange(x.shape[d]), times), node.proto.output[0])
    return [x]


def compress(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """What a constant mask keeps of an axis, or of all elements."""
    x, kept = walk.value(node), np.flatnonzero(_numbers(walk, node, 1, "condition"))
    if "axis" in node.attributes:
        axis = axis_in(node.integer("axis", 0), x.rank)
    else:
        x, axis = reshaped(walk, node, x, (int(np.prod(x.shape)),)), 0
    if not len(kept) or kept[-1] >= x.shape[axis]:
        raise Unsupported(f"it keeps {kept.tolist()} of {x.shape[axis]}", "keep at least one that is there")
    return [select(walk, node, x, axis, kept, node.proto.output[0])]


def reverse_sequence(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """The first steps backwards, of all sequences equally many."""
    x, lengths = walk.value(node), set(_numbers(walk, node, 1, "lengths"))
    time = axis_in(node.integer("time_axis", 0), x.rank)
    if len(lengths) > 1:
        raise Unsupported(
            f"its sequences have {len(lengths)} lengths",
            "run those of one length together",
            limits.ONE_LENGTH,
        )
    n = lengths.pop()
    order = np.concatenate([np.arange(n)[::-1], np.arange(n, x.shape[time])])
    return [select(walk, node, x, time, order, node.proto.output[0])]


def center_crop_pad(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """Ref: ONNX operators, CenterCropPad: what does not divide evenly is cut and added at the end."""
    x, sizes = walk.value(node), _numbers(walk, node, 1, "shape")
    axes = axes_in(node.integers("axes", range(x.rank)), x.rank)
    if len(axes) != len(sizes) or min(sizes) < 1:
        raise Unsupported(f"shape {sizes} for {len(axes)} dimensions", f"give {len(axes)} positive sizes")
    begin, end = [0] * x.rank, [0] * x.rank
    for d, size in zip(axes, sizes, strict=True):
        more = size - x.shape[d]
        if more < 0:
            first = -more // 2
            x = select(walk, node, x, d, range(first, first + size), node.proto.output[0])
        elif more:
            begin[d], end[d] = more // 2, more - more // 2
    if (begin[0] or end[0]) and walk.is_batch(x, 0):
        raise Unsupported("it pads the batch", "pad the other dimensions only")
    return [zero_pad(walk, node, x, begin, end) if any(end) else x]
