"""Slice and Split: a part of the rows, columns or channels, by a convolution of zeros and ones or a pool of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sateen.compiler.importer import limits
from sateen.compiler.importer.layout import axis_dims, dim_size, remap
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value, axes_in, axis_in
from sateen.compiler.importer.pointwise import settle
from sateen.compiler.importer.walk import Walk
from sateen.ir.graph import Conv, Pool, Shape


def select(
    walk: Walk, node: OnnxNode, x: Value, dim: int, start: int, step: int, count: int, out: str
) -> Value:
    """`count` indices of dimension `dim` from `start` on; tensor `out`. The dimension must be a whole axis."""
    if count == x.shape[dim]:
        return x
    if walk.is_batch(x, dim):
        raise Unsupported("it takes a part of the batch", "run the model on that part")
    if walk.is_open(x):
        return walk.derive(out, [count if d == dim else s for d, s in enumerate(x.shape)], [x])
    x = settle(walk, node.name, x, dim)
    hwc = walk.hwc(x)
    own = axis_dims(hwc)
    axes = [axis for axis in (2, 1, 0) if own[axis] == x.layout[dim]]
    if not axes:
        raise Unsupported(
            f"it takes a part of dimension {dim} of {x.shape}, which is not a row, column or channel of {hwc}",
            "remove the Reshape before it",
        )
    axis, size = axes[0], hwc[axes[0]]
    shape: Shape = tuple(count if k == axis else s for k, s in enumerate(hwc))  # type: ignore[assignment]
    out = walk.fresh(out)
    if axis == 2:
        weight = np.eye(size)[start : start + step * (count - 1) + 1 : step].reshape(count, 1, 1, size)
        walk.emit(Conv(node.name, x.tensor, out, weight, np.zeros(count)), shape)
    else:
        # The window that makes exactly `count` results.
        reach = 1 if start == 0 and (size - 1) // step + 1 == count else size - step * (count - 1)
        kernel, stride = [1, 1], [1, 1]
        kernel[axis], stride[axis] = reach, step
        if reach == 1:
            walk.emit(Pool(node.name, x.tensor, out, "max", (1, 1), (stride[0], stride[1])), shape)
        else:
            weight = np.zeros((hwc[2], *kernel, 1))
            weight[:, start if axis == 0 else 0, start if axis == 1 else 0] = 1
            walk.emit(
                Conv(
                    node.name, x.tensor, out, weight, np.zeros(hwc[2]), (stride[0], stride[1]), groups=hwc[2]
                ),
                shape,
            )
    layout = (axis_dims(shape)[axis] if d == dim else remap(v, hwc, shape) for d, v in enumerate(x.layout))
    return Value(out, tuple(layout))


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
        if len(indices) == 0 or step < 0:
            raise Unsupported(
                f"it takes {start}:{end}:{step} of {x.shape[axis]}", "use a positive step and a part"
            )
        out = node.proto.output[0]
        x = select(walk, node, x, axis, indices.start, indices.step, len(indices), out)
    return [x]


def gather(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """Constant indices, evenly spaced and rising, are a slice; one index without a dimension drops it."""
    x = walk.value(node)
    axis = axis_in(node.integer("axis", 0), x.rank)
    array = walk.constant(node, 1)
    size = x.shape[axis]
    indices = [int(i) for i in array.ravel()] if array is not None else []
    outside = [i for i in indices if not -size <= i < size]
    if outside:
        raise Unsupported(
            f"it picks index {outside[0]} of dimension {axis}, which has {size}", f"use {-size} to {size - 1}"
        )
    indices = [i % size for i in indices]
    steps = set(np.diff(indices).tolist())
    if array is None or array.ndim > 1 or not indices or len(steps) > 1 or min(steps, default=1) < 1:
        raise Unsupported(
            f"it picks {indices[:8]} of dimension {axis}", "pick evenly spaced indices, in order", limits.EVEN
        )
    y = select(walk, node, x, axis, indices[0], min(steps, default=1), len(indices), node.proto.output[0])
    layout = y.layout if array.ndim else y.layout[:axis] + y.layout[axis + 1 :]
    return [Value(y.tensor, layout)]


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
    starts = np.cumsum([0, *sizes])
    return [
        select(walk, node, x, axis, int(starts[k]), 1, size, node.proto.output[k] or f"{node.name}.{k}")
        for k, size in enumerate(sizes)
    ]
