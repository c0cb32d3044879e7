"""Softmax inside the network, and normalization by statistics of the sample: over channels, or groups of a plane's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sateen.compiler.functions import X, constant
from sateen.compiler.importer import limits
from sateen.compiler.importer.affine import affine
from sateen.compiler.importer.layout import axis_dims, normal, split_axes, without_batch
from sateen.compiler.importer.moves import place_channels, rebuilt, roles_of
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value, axes_in, axis_in
from sateen.compiler.importer.walk import Walk
from sateen.ir.nodes import Activation, Conv, Expression, Mul, Normalize, Softmax


def softmax(walk: Walk, node: OnnxNode, x: Value, axis: int) -> Value:
    """Over dimension `axis`, which becomes the channels."""
    x = _channels(walk, node, x, axis)
    if walk.is_open(x):
        return x
    out = walk.fresh(node.proto.output[0])
    walk.emit(Softmax(node.name, x.tensor, out), walk.hwc(x))
    return Value(out, x.layout)


def _channels(walk: Walk, node: OnnxNode, x: Value, axis: int) -> Value:
    """x with dimension `axis` as its channels, and at most two others as rows and columns."""
    if walk.is_batch(x, axis):
        raise Unsupported("it is over the batch", "choose another axis")
    if x.host:
        raise Unsupported("it reads what the host computes", "end the model before it")
    if not walk.is_open(x) and x.layout[axis] == axis_dims(walk.hwc(x))[2]:
        return x  # wherever the other dimensions lie
    if (
        not walk.is_open(x) and without_batch(x.layout[0]) and axis
    ):  # windows, say, are a dimension like others
        rows, columns, rest = (tuple(d for d in role if d != axis) for role in roles_of(walk, x))
        return rebuilt(walk, node.name, x, (rows, (*columns, *rest), (axis,)))
    others = [d for d in range(1, x.rank) if d != axis]
    if len(others) > 2:
        others = [d for d in others if x.layout[d]]
    if len(others) > 2:
        raise Unsupported(
            f"its input of shape {x.shape} has {len(others)} dimensions besides the one that it is over",
            "merge some with a Reshape",
            limits.TWO_OTHERS,
        )
    if others:
        return place_channels(walk, node, x, axis, others)[0]
    alone = Value(x.tensor, (*x.layout, ()), x.host)  # a dimension of size 1 for the columns
    placed = place_channels(walk, node, alone, axis, [x.rank])[0]
    return Value(placed.tensor, placed.layout[:-1], placed.host)


def normalized(
    walk: Walk,
    node: OnnxNode,
    x: Value,
    dims: Sequence[int],
    *,
    epsilon: float,
    scale: np.ndarray | None = None,
    offset: np.ndarray | None = None,
    centred: bool = True,
    averaged: bool = True,
) -> Value:
    """Over dimensions `dims` of x, then scale and offset that ONNX broadcasts."""
    if walk.is_batch(x, *dims):
        raise Unsupported("its statistics are over the batch", "normalize each sample")
    if x.host:
        raise Unsupported("it reads what the host computes", "end the model before it")
    if epsilon < 0:
        raise Unsupported(f"epsilon = {epsilon:g} is negative", "train or export the model again")
    large = [d for d in dims if x.shape[d] > 1]
    if walk.is_open(x) and len(large) > 1:
        channel = 1 if 1 not in dims or len(large) == x.rank - 1 else large[0]
        x = place_channels(walk, node, x, channel, [d for d in range(1, x.rank) if d != channel])[0]
    elif walk.is_open(x):
        x = _channels(walk, node, x, large[0] if large else dims[-1])
    if walk.is_open(x):
        return x
    try:
        plane, groups = _rows(walk, x, dims)
    except Unsupported:
        if len(large) > 1:
            raise
        x = _channels(walk, node, x, large[0] if large else dims[-1])
        plane, groups = _rows(walk, x, dims)
    return _emit(walk, node, x, plane, groups, epsilon, scale, offset, centred, averaged)


def _emit(
    walk: Walk, node: OnnxNode, x: Value, plane: bool, groups: int, epsilon: float, scale: np.ndarray | None,
    offset: np.ndarray | None, centred: bool = True, averaged: bool = True,
) -> Value:  # fmt: skip
    out = walk.fresh(node.proto.output[0])
    channels = walk.hwc(x)[2]
    one, zero = np.ones(channels), np.zeros(channels)
    made = Normalize(node.name, x.tensor, out, one, zero, epsilon, plane, groups, centred, averaged)
    walk.emit(made, walk.hwc(x))
    result = Value(out, x.layout)
    if scale is None and offset is None:
        return result
    return affine(walk, node, result, 1.0 if scale is None else scale, 0.0 if offset is None else offset)


def _rows(walk: Walk, x: Value, dims: Sequence[int]) -> tuple[bool, int]:
    """(whether a row is of the whole plane, groups of channels).

    Raises Unsupported where dimensions `dims` of x are neither a pixel's channels nor groups of the plane's.
    """
    height, width, channels = walk.hwc(x)
    inside = [f for d in dims for f in split_axes(x.layout[d], (height, width, channels))]
    pixels = int(np.prod([size for size, _, axis in inside if axis in (0, 1)]))
    mine = normal(sorted(((size, stride) for size, stride, axis in inside if axis == 2), key=lambda f: -f[1]))
    size = int(np.prod([s for s, _ in mine]))
    if len(mine) <= 1 and all(stride == 1 for _, stride in mine):
        if pixels == 1 and size == channels:
            return False, 1
        if pixels == height * width:
            return True, channels // size
    raise Unsupported(
        f"it is over dimensions {list(dims)} of an input of shape {x.shape}, some pixels of {height} x {width} and "
        f"{size} of {channels} channels",
        "normalize over the channels of each pixel, or over whole planes",
        limits.ROWS,
    )


def _statistics_unused(walk: Walk, node: OnnxNode) -> None:
    if any(walk.used(o) for o in node.proto.output[1:]):
        raise Unsupported("its statistics are used", "only its first output is supported")


def layer_normalization(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """LayerNormalization and RMSNormalization, over all dimensions from `axis` on, or over `axes`: see `norms`."""
    _statistics_unused(walk, node)
    x = walk.value(node)
    axis = axis_in(node.integer("axis", -1), x.rank)
    centred = bool(node.integer("centred", node.op_type == "LayerNormalization"))
    scale, offset = walk.weights(node, 1), walk.weights(node, 2)
    epsilon = node.number("epsilon", 1e-5)
    dims = axes_in(node.integers("axes", range(axis, x.rank)), x.rank)
    averaged = bool(node.integer("averaged", 1))
    return [
        normalized(
            walk,
            node,
            x,
            dims,
            epsilon=epsilon,
            scale=scale,
            offset=offset,
            centred=centred,
            averaged=averaged,
        )
    ]


def group_normalization(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """GroupNormalization and InstanceNormalization: channels are dimension 1."""
    x = walk.value(node)
    if x.rank < 2:
        raise Unsupported(f"an input of shape {x.shape}", "make dimension 1 the channels")
    channels = x.shape[1]
    groups = node.integer("num_groups", channels)
    if groups < 1 or channels % groups:
        raise Unsupported(f"num_groups = {groups} of {channels} channels", "divide them evenly")
    scale, offset = walk.weights(node, 1), walk.weights(node, 2)
    assert scale is not None and offset is not None
    shape = (-1, *(1,) * (x.rank - 2))
    scale, offset = scale.reshape(shape), offset.reshape(shape)
    epsilon = node.number("epsilon", 1e-5)
    spatial = range(2, x.rank)
    if groups == channels:
        return [normalized(walk, node, x, spatial, epsilon=epsilon, scale=scale, offset=offset)]
    x = place_channels(walk, node, x, 1, spatial)[0]
    if walk.is_open(x):
        return [x]
    return [_emit(walk, node, x, True, groups, epsilon, scale, offset)]


def mean_variance_normalization(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """Over `axes`, by default all but dimension 1: the batch, too, which must then be fixed to 1."""
    x = walk.value(node)
    dims = axes_in(node.integers("axes", (0, 2, 3)), x.rank)
    return [normalized(walk, node, x, dims, epsilon=_DEVIATION**2)]


_DEVIATION = 1e-9
"""What MeanVarianceNormalization adds to a standard deviation."""


def local_response(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """LRN: x / (bias + alpha / size * the sum of squares over `size` neighbouring channels)**beta."""
    x = walk.value(node)
    if x.rank < 2:
        raise Unsupported(f"an input of shape {x.shape}", "make dimension 1 the channels")
    size, alpha, beta = node.integer("size", 0), node.number("alpha", 1e-4), node.number("beta", 0.75)
    bias = node.number("bias", 1.0)
    if size < 1 or alpha < 0 or bias <= 0:
        raise Unsupported(
            f"size = {size}, alpha = {alpha:g}, bias = {bias:g}",
            "size and bias must be above 0, alpha not below",
        )
    x = _channels(walk, node, x, 1)
    if walk.is_open(x):
        return [x]
    shape, out = walk.hwc(x), node.proto.output[0]
    square, total, factor = (walk.fresh(f"{out}.{part}") for part in ("square", "sum", "factor"))
    walk.emit(
        Activation(node.name, x.tensor, square, "composed", expression=Expression("mul", (), (X, X))), shape
    )
    distance = np.subtract.outer(np.arange(shape[2]), np.arange(shape[2]))  # (O, I)
    near = (distance <= (size - 1) // 2) & (-distance <= size // 2)
    weight = (near * (alpha / size))[:, None, None, :]
    walk.emit(Conv(node.name, square, total, weight, np.full(shape[2], bias)), shape)
    power = Expression("pow", (), (Expression("max", (), (X, constant(bias))), constant(-beta)))
    walk.emit(Activation(node.name, total, factor, "composed", expression=power), shape)
    result = walk.fresh(out)
    walk.emit(Mul(node.name, x.tensor, factor, result), shape)
    return [Value(result, x.layout)]


def lp_normalization(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    if node.integer("p", 2) != 2:
        raise Unsupported(
            f"p = {node.integer('p', 2)}", "only the Euclidean norm is supported", limits.EUCLIDEAN
        )
    x = walk.value(node)
    dims = (axis_in(node.integer("axis", -1), x.rank),)
    return [normalized(walk, node, x, dims, epsilon=0.0, centred=False, averaged=False)]
