"""Scale and offset of constants that ONNX broadcasts: a depthwise 1×1 convolution, which passes fold away."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from sateen.compiler.importer.broadcast import paired, stored
from sateen.compiler.importer.layout import split_axes
from sateen.compiler.importer.moves import rebuilt, roles_of
from sateen.compiler.importer.nouns import OnnxNode, Undecided, Unsupported, Value
from sateen.compiler.importer.pointwise import aligned, depthwise, loosely_aligned
from sateen.compiler.importer.walk import Walk
from sateen.ir.nodes import Add, Expression, Mul


def per_channel(walk: Walk, x: Value, constant: np.ndarray) -> np.ndarray:
    """The aligned constant as one number for each channel of the IR tensor, (C,).

    Raises Unsupported if it differs from pixel to pixel.
    """
    hwc = walk.hwc(x)
    sizes, axes, strides, shape = [], [], [], []
    for d, dim in enumerate(x.layout):
        pieces = split_axes(dim, hwc)
        for size, stride, axis in pieces:
            sizes.append(size)
            axes.append(axis)
            strides.append(stride)
        shape.extend([size for size, _, _ in pieces] if constant.shape[d] > 1 else [1] * len(pieces))
    c = constant.reshape(shape)
    for d, axis in enumerate(axes):
        if axis != 2:
            first = c.take([0], axis=d)
            if (c != first).any():
                raise Unsupported(
                    f"its constant of shape {constant.shape} differs from pixel to pixel",
                    "only one number, or one for each channel, is supported",
                )
            c = first
    channels = [d for d, axis in enumerate(axes) if axis == 2]
    c = np.broadcast_to(c, [sizes[d] if d in channels else 1 for d in range(len(sizes))])
    at = np.zeros(1, np.int64)
    for d in channels:
        at = (at[:, None] + strides[d] * np.arange(sizes[d])).ravel()
    out = np.empty(hwc[2])
    out[at] = c.ravel()
    return out


def affine(
    walk: Walk,
    node: OnnxNode,
    x: Value,
    scale: np.ndarray | float,
    offset: np.ndarray | float,
    strength: int = 2,
) -> Value:
    """scale * x + offset with constants that ONNX broadcasts."""
    x, (scale, offset) = loosely_aligned(x, np.asarray(scale, np.float64), np.asarray(offset, np.float64))
    uniform = bool((scale == scale.flat[0]).all() and (offset == offset.flat[0]).all())
    varying = [d for d in range(x.rank) if scale.shape[d] > 1 or offset.shape[d] > 1]
    if walk.is_open(x):
        walk.unsure |= not uniform
        if not uniform and len(varying) == 1:
            with contextlib.suppress(Undecided):
                walk.decide(x, walk.beside(x, *varying), x.layout[varying[0]], strength)
        return x
    apart = _apart(walk, x, scale, offset)
    if any(apart) and not x.host:
        if apart[0]:
            x = paired(walk, node, Mul, x, stored(walk, node.name, x, scale))
        elif (scale != 1).any():
            x = affine(walk, node, x, scale, 0.0)
        if apart[1]:
            return paired(walk, node, Add, x, stored(walk, node.name, x, offset))
        return affine(walk, node, x, 1.0, offset) if offset.any() else x
    x, (scale, offset) = aligned(x, scale, offset)
    varying = [d for d in varying if d]
    if not _of_channels(walk, x, varying) and not x.host:
        roles = roles_of(walk, x)
        rows, columns = (tuple(d for d in role if d not in varying) for role in roles[:2])
        rest = tuple(d for d in roles[2] if d not in varying)
        x = rebuilt(walk, node.name, x, (rows, (*columns, *rest), tuple(varying)))
    out = walk.fresh(node.proto.output[0])
    scale, offset = per_channel(walk, x, scale), per_channel(walk, x, offset)
    walk.emit(depthwise(node.name, x.tensor, out, scale, offset), walk.hwc(x))
    if uniform:
        base, inner = walk.unary_of(x)
        parameters = (("scale", float(scale[0])), ("offset", float(offset[0])))
        walk.unary[out] = base, Expression("affine", parameters, (inner,))
    return Value(out, x.layout)


def _of_channels(walk: Walk, x: Value, dims: Sequence[int]) -> bool:
    """Whether nothing of these dimensions lies along rows or columns."""
    return all(axis in (-1, 2) for d in dims for _, _, axis in split_axes(x.layout[d], walk.hwc(x)))


def _apart(walk: Walk, x: Value, scale: np.ndarray, offset: np.ndarray) -> tuple[bool, bool]:
    """Whether scale and offset must be tensors of their own, as no order of channels has one number for each: offsets
    of pixels, scales of pixels and channels, what is larger than x.

    Of scales of pixels alone, pixels become channels.
    """
    axes = [{axis for _, _, axis in split_axes(dim, walk.hwc(x))} for dim in x.layout]
    enlarges, along = [], []
    for constant in (scale, offset):
        enlarges.append(any(m > n for m, n in zip(constant.shape, x.shape, strict=True)))
        along.append({a for d, own in enumerate(axes) if constant.shape[d] > 1 for a in own})
    if -1 in along[0] | along[1]:
        return False, False  # which is refused
    of_pixels = [bool(a & {0, 1}) for a in along]
    return enlarges[0] or (of_pixels[0] and 2 in along[0] | along[1]), enlarges[1] or of_pixels[1]
