"""Slice, Gather and Split: channels by their indices, rows and columns by a window of one pixel, all else by moving."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from sateen.compiler.importer import limits
from sateen.compiler.importer.layout import axis_dims, dim_size, remap, reshape
from sateen.compiler.importer.moves import rebuilt, roles_of
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value, axes_in, axis_in
from sateen.compiler.importer.pointwise import depthwise, selection, settle
from sateen.compiler.importer.walk import Walk
from sateen.ir.nodes import Conv, Pool
from sateen.ir.ports import Shape

Indices = range | np.ndarray


def select(walk: Walk, node: OnnxNode, x: Value, dim: int, indices: Indices, out: str) -> Value:
    """`indices` of dimension `dim`, in their order; tensor `out` where the dimension is a whole axis."""
    count = len(indices)
    if count == x.shape[dim] and (np.asarray(indices) == np.arange(count)).all():
        return x
    if walk.is_batch(x, dim):
        raise Unsupported("it takes a part of the batch", "run the model on that part")
    if walk.is_open(x):
        return walk.derive(out, [count if d == dim else s for d, s in enumerate(x.shape)], [x])
    x = settle(walk, node.name, x, dim)
    hwc = walk.hwc(x)
    own = axis_dims(hwc)
    axes = [axis for axis in (2, 1, 0) if own[axis] == x.layout[dim]]
    if not axes or (axes[0] != 2 and not _even(indices)):
        roles = roles_of(walk, x)
        if all(dim not in role for role in roles):  # of size 1, and taken more often
            roles = ((dim, *roles[0]), *roles[1:])
        return rebuilt(walk, node.name, x, roles, {dim: np.asarray(indices)})
    axis = axes[0]
    shape: Shape = tuple(count if k == axis else s for k, s in enumerate(hwc))  # type: ignore[assignment]
    out = walk.fresh(out)
    if axis == 2:
        walk.emit(selection(node.name, x.tensor, out, np.asarray(indices)), shape)
    else:
        walk.emit(_pixels(node.name, x.tensor, out, hwc, axis, _range(indices)), shape)
    layout = (axis_dims(shape)[axis] if d == dim else remap(v, hwc, shape) for d, v in enumerate(x.layout))
    return Value(out, tuple(layout))


def _pixels(name: str, source: str, out: str, hwc: Shape, axis: int, indices: range) -> Conv | Pool:
    """Rows (axis 0) or columns of a tensor: a window of one pixel, cropped to the first and the last of them."""
    stride = (indices.step, 1) if axis == 0 else (1, indices.step)
    after = hwc[axis] - 1 - indices[-1]
    if indices.start == 0 and after < indices.step:
        return Pool(name, source, out, "max", (1, 1), stride)
    crop = [0, 0, 0, 0]
    crop[axis], crop[axis + 2] = -indices.start, -after
    copy = depthwise(name, source, out, np.ones(hwc[2]), np.zeros(hwc[2]))
    return dataclasses.replace(copy, stride=stride, pads=(crop[0], crop[1], crop[2], crop[3]))


def _even(indices: Indices) -> bool:
    """Whether they ascend in equal steps."""
    steps = {int(s) for s in np.diff(indices)} or {1}
    return len(steps) == 1 and min(steps) >= 1


def _range(indices: Indices) -> range:
    step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
    return range(int(indices[0]), int(indices[-1]) + 1, step)


def slice_of(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    if node.opset < 10:
        starts, ends = node.integers("starts", ()), node.integers("ends", ())
        axes: Sequence[int] = node.integers("axes", range(len(starts)))
        steps: Sequence[int] = [1] * len(starts)
    else:
        given = [walk.constant(node, i) for i in range(1, 5)]
        starts, ends = (tuple(int(i) for i in a.ravel()) if a is not None else () for a in given[:2])
        axes = range(len(starts)) if given[2] is None else [int(i) for i in given[2].ravel()]
        steps = [1] * len(starts) if given[3] is None else [int(i) for i in given[3].ravel()]
    if not len(starts) == len(ends) == len(axes) == len(steps):
        counts = f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps"
        raise Unsupported(f"it has {counts}", "give equal numbers of them")
    if 0 in steps:
        raise Unsupported(f"its steps are {list(steps)}", "use a positive step")
    for start, end, axis, step in zip(starts, ends, axes_in(axes, x.rank), steps, strict=True):
        indices = range(x.shape[axis])[start:end:step]
        if len(indices) == 0:
            raise Unsupported(f"it takes {start}:{end}:{step} of {x.shape[axis]}", "take at least one")
        x = select(walk, node, x, axis, indices, node.proto.output[0])
    return [x]


def gather(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """Constant indices, whose dimensions take the place of one; none drop it."""
    x = walk.value(node)
    axis = axis_in(node.integer("axis", 0), x.rank)
    array = walk.values[node.input(1)]
    if not isinstance(array, np.ndarray):
        raise Unsupported("its indices are computed", "give constant ones", limits.CONSTANT_INDICES)
    size = x.shape[axis]
    indices = [int(i) for i in array.ravel()]
    outside = [i for i in indices if not -size <= i < size]
    if outside:
        raise Unsupported(
            f"it picks index {outside[0]} of dimension {axis}, which has {size}", f"use {-size} to {size - 1}"
        )
    if not indices:
        raise Unsupported("it picks nothing", "give constant indices")
    y = select(walk, node, x, axis, np.array([i % size for i in indices]), node.proto.output[0])
    taken = reshape((y.layout[axis],), array.shape)
    if taken is None:
        raise Unsupported(
            f"it gives dimension {axis} of {x.shape} the shape {array.shape}", "put a Reshape behind it"
        )
    return [Value(y.tensor, (*y.layout[:axis], *taken, *y.layout[axis + 1 :]), y.host)]


def split(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    axis = axis_in(node.integer("axis", 0), x.rank)
    sizes = list(node.integers("split", ()))
    array = walk.constant(node, 1)
    if array is not None:
        sizes = [int(i) for i in array.ravel()]
    n = len(node.proto.output)
    if not sizes:
        chunk = -(-x.shape[axis] // n)
        sizes = [chunk] * (n - 1) + [x.shape[axis] - chunk * (n - 1)]
    if len(sizes) != n or sum(sizes) != dim_size(x.layout[axis]) or min(sizes) < 1:
        raise Unsupported(f"it splits {x.shape[axis]} into {sizes}", "give sizes that add up to it")
    starts = [int(k) for k in np.cumsum([0, *sizes])]
    return [
        select(walk, node, x, axis, range(low, high), node.proto.output[k] or f"{node.name}.{k}")
        for k, (low, high) in enumerate(itertools.pairwise(starts))
    ]
