"""Scale, offset and order of channels: 1×1 convolutions, which passes fold away where they can."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from sateen.compiler.importer.layout import axis_dims, indices, split_axes
from sateen.compiler.importer.nouns import OnnxNode, Undecided, Unsupported, Value
from sateen.compiler.importer.walk import Walk
from sateen.ir.graph import Conv, Expression


def depthwise(name: str, source: str, output: str, scale: np.ndarray, offset: np.ndarray) -> Conv:
    """scale * x + offset, each (C,)."""
    return Conv(name, source, output, scale.reshape(-1, 1, 1, 1), offset, groups=len(scale))


def selection(
    name: str, source: str, output: str, channels: np.ndarray, kept: np.ndarray | None = None
) -> Conv:
    """Channel `channels[k]` of the source as channel k, and zero where not `kept`; both (O,)."""
    weight = np.ones(len(channels)) if kept is None else kept.astype(np.float64)
    return Conv(
        name, source, output, weight.reshape(-1, 1, 1, 1), np.zeros(len(weight)), groups=len(weight),
        channels=channels.astype(np.int64)[:, None],
    )  # fmt: skip


def raised(x: Value, rank: int) -> Value:
    """x with at least `rank` dimensions, as ONNX broadcasts it: new ones of size 1 come first."""
    return Value(x.tensor, ((),) * (rank - x.rank) + x.layout, x.host)


def aligned(x: Value, *constants: np.ndarray) -> tuple[Value, list[np.ndarray]]:
    """x and the constants in equal numbers of dimensions, by ONNX's broadcasting, which raises either.

    Raises Unsupported if a constant would enlarge x.
    """
    x = raised(x, max(c.ndim for c in constants))
    return x, [_aligned(x, c) for c in constants]


def _aligned(x: Value, constant: np.ndarray) -> np.ndarray:
    constant = constant.reshape((1,) * (x.rank - constant.ndim) + constant.shape)
    if all(c in (1, s) for c, s in zip(constant.shape, x.shape, strict=True)):
        return constant
    raise Unsupported(
        f"a constant of shape {constant.shape} would broadcast an input of shape {x.shape}",
        "give one number, or one for each channel",
    )


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
    x, (scale, offset) = aligned(x, np.asarray(scale, np.float64), np.asarray(offset, np.float64))
    uniform = bool((scale == scale.flat[0]).all() and (offset == offset.flat[0]).all())
    if walk.is_open(x):
        varying = [d for d in range(x.rank) if scale.shape[d] > 1 or offset.shape[d] > 1]
        walk.unsure |= not uniform
        if not uniform and len(varying) == 1:
            with contextlib.suppress(Undecided):
                walk.decide(x, walk.beside(x, *varying), x.layout[varying[0]], strength)
        return x
    out = walk.fresh(node.proto.output[0])
    scale, offset = per_channel(walk, x, scale), per_channel(walk, x, offset)
    walk.emit(depthwise(node.name, x.tensor, out, scale, offset), walk.hwc(x))
    if uniform:
        base, inner = walk.unary_of(x)
        parameters = (("scale", float(scale[0])), ("offset", float(offset[0])))
        walk.unary[out] = base, Expression("affine", parameters, (inner,))
    return Value(out, x.layout)


def settle(walk: Walk, name: str, x: Value, channel: int) -> Value:
    """x with dimension `channel` in the order of the IR's channels: a permutation becomes a 1×1 Conv."""
    if walk.is_open(x):
        return x
    hwc = walk.hwc(x)
    own, dim = axis_dims(hwc)[2], x.layout[channel]
    pieces = split_axes(dim, hwc)
    if dim == own or any(axis != 2 for _, _, axis in pieces) or x.shape[channel] != hwc[2]:
        return x
    out = walk.fresh(f"{x.tensor}.ordered")
    walk.emit(selection(f"{name}.order", x.tensor, out, indices(dim)), hwc)
    return Value(out, tuple(own if d == channel else other for d, other in enumerate(x.layout)))


def place_channels(
    walk: Walk, node: OnnxNode, x: Value, channel: int, spatial: Sequence[int], strength: int = 3
) -> tuple[Value, tuple[int, ...]]:
    """`Walk.place`, with channels in another order put right first."""
    x = settle(walk, node.name, x, channel)
    return x, walk.place(x, channel, spatial, strength)
