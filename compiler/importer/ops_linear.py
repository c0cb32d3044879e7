"""Conv, BatchNormalization, and Gemm and MatMul with a constant: all become Conv."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sateen.compiler.importer import limits
from sateen.compiler.importer.affine import affine
from sateen.compiler.importer.layout import axis_dims, dim_size, normal, remap, split_axes, without_batch
from sateen.compiler.importer.moves import joined, place_channels, rebuilt, replaced
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value
from sateen.compiler.importer.ops_matmul import product, turned
from sateen.compiler.importer.ops_quantize import given_weights
from sateen.compiler.importer.ops_select import select
from sateen.compiler.importer.pointwise import raised
from sateen.compiler.importer.walk import Walk
from sateen.compiler.importer.windows import Window, pads, pair, window_of
from sateen.ir.nodes import Conv
from sateen.ir.ports import Shape
from sateen.ir.quant import GivenWeights


def need(array: np.ndarray | None, what: str) -> np.ndarray:
    if array is None:
        raise Unsupported(f"it has no {what}", "export the model again")
    return array


def conv(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    weight = need(walk.weights(node, 1), "weights")
    bias = walk.weights(node, 2)
    n = weight.ndim - 2
    if n not in (1, 2):
        raise Unsupported(f"{n}-D convolution", "only 1-D and 2-D are supported", limits.ONE_OR_TWO_D)
    if x.rank != weight.ndim:
        raise Unsupported(
            f"its input has {x.rank} dimensions and its weights {weight.ndim}", "make them equal"
        )
    groups = node.integer("group", 1)
    channels, outputs = x.shape[1], weight.shape[0]
    if groups < 1 or channels != weight.shape[1] * groups or outputs % groups:
        raise Unsupported(
            f"{channels} channels do not fit weights of shape {weight.shape} in {groups} groups",
            "channels must be weight.shape[1] * group",
        )
    window = window_of(node, x.shape[2:], weight.shape[2:])
    if node.integers("kernel_shape", window.kernel) != window.kernel:
        raise Unsupported(
            f"kernel_shape {list(node.integers('kernel_shape', ()))} is not that of its weights {weight.shape}",
            "export the model again",
        )
    given = given_weights(walk, node, 1, 0)
    bias = np.zeros(outputs) if bias is None else bias
    if bias.shape != (outputs,):
        raise Unsupported(f"its bias has shape {bias.shape}", f"it must be ({outputs},)")
    if window.pointwise and groups == 1 and not walk.is_open(x):  # any order of the positions will do
        return [contract(walk, node, x, (1,), weight.reshape(outputs, -1).T, bias, keep=True, given=given)]
    if n == 1 and channels == outputs == 1 and given is None and _along_channels(walk, x, 2):
        return [_over_channels(walk, node, x, weight[0, 0], bias, window)]

    def placed(x: Value) -> Value:
        x, axes = place_channels(walk, node, x, 1, range(2, x.rank))
        kernel = np.moveaxis(weight, 1, -1)  # (O, spatial..., I)
        kernel = kernel.transpose(0, *(1 + int(i) for i in np.argsort(axes)), n + 1)
        kernel = kernel.reshape(outputs, *pair(axes, window.kernel, 1), -1)
        out = walk.fresh(node.proto.output[0])
        shape: Shape = (*pair(axes, window.out, 1), outputs)
        walk.emit(
            Conv(
                node.name, x.tensor, out, np.ascontiguousarray(kernel), bias, pair(axes, window.stride, 1),
                pair(axes, window.dilation, 1), pads(axes, window), groups, given=given,
            ),
            shape,
        )  # fmt: skip
        return replaced(x, out, 1, axes, shape)

    if walk.is_open(x) or not without_batch(x.layout[0]):
        return [placed(x)]
    # parts of one sample, such as windows, in the place of the batch: each has padding of its own
    parts = [
        placed(select(walk, node, x, 0, range(k, k + 1), f"{node.name}.{k}.input")) for k in range(x.shape[0])
    ]
    return [joined(walk, node.name, node.proto.output[0], parts, 0)]


def _along_channels(walk: Walk, x: Value, d: int) -> bool:
    """Whether dimension d is the channels of a single pixel."""
    if walk.is_open(x) or x.host or walk.is_batch(x, *range(1, x.rank)):
        return False
    hwc = walk.hwc(x)
    return hwc[:2] == (1, 1) and hwc[2] > 1 and x.layout[d] == axis_dims(hwc)[2]


def _over_channels(
    walk: Walk, node: OnnxNode, x: Value, kernel: np.ndarray, bias: np.ndarray, window: Window
) -> Value:
    """A kernel (K,) that slides over channels: each output channel reads its own few."""
    at = np.arange(window.out[0])[:, None] * window.stride[0] - window.begin[0]
    at = at + np.arange(len(kernel)) * window.dilation[0]
    inside = (at >= 0) & (at < walk.hwc(x)[2])
    out, size = walk.fresh(node.proto.output[0]), len(at)
    weight = np.where(inside, kernel, 0.0)[:, None, None, :]
    channels = np.where(inside, at, 0).astype(np.int64)
    made = Conv(node.name, x.tensor, out, weight, np.repeat(bias, size), groups=size, channels=channels)
    walk.emit(made, (1, 1, size))
    return Value(out, (*x.layout[:2], axis_dims((1, 1, size))[2]))


def gemm(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    if isinstance(walk.values[node.input(1)], Value):
        second = walk.value(node, 1)
        factors = turned(x, node.integer("transA", 0)), turned(second, node.integer("transB", 0))
        y, c = product(walk, node, *factors), walk.weights(node, 2)
        offset = 0.0 if c is None else node.number("beta", 1.0) * c
        return [affine(walk, node, y, node.number("alpha", 1.0), offset)]
    weight = need(walk.weights(node, 1), "weights")
    c = walk.weights(node, 2)
    if node.integer("transA", 0):
        x = Value(x.tensor, x.layout[::-1], x.host)
    weight = weight.T if node.integer("transB", 0) else weight
    if node.number("alpha", 1.0) != 1:
        weight = node.number("alpha", 1.0) * weight
    outputs = weight.shape[1]
    bias = np.zeros(outputs)
    if c is not None:
        bias = node.number("beta", 1.0) * per_output(c, x.shape[0], outputs)
    given = given_weights(walk, node, 1, 0 if node.integer("transB", 0) else 1, node.number("alpha", 1.0))
    return [contract(walk, node, x, (1,), weight, bias, keep=True, given=given)]


def per_output(c: np.ndarray, batch: int, outputs: int) -> np.ndarray:
    """Gemm's C as (outputs,)."""
    try:
        rows = np.broadcast_to(c, (batch, outputs))
    except ValueError:
        raise Unsupported(f"its C has shape {c.shape}", f"it must be ({outputs},)") from None
    if (rows != rows[0]).any():
        raise Unsupported("its C differs from sample to sample", f"make it ({outputs},)")
    return rows[0].copy()


def matmul(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    a, b = (walk.values[i] for i in node.inputs)
    if isinstance(a, Value) and isinstance(b, Value):
        return [product(walk, node, walk.value(node), walk.value(node, 1))]
    x = walk.value(node, 0 if isinstance(a, Value) else 1)
    left = not isinstance(a, Value)
    weight = need(walk.weights(node, 0 if left else 1), "weights")
    if weight.ndim > 2 and set(weight.shape[:-2]) == {1}:
        x, weight = raised(x, weight.ndim), weight.reshape(weight.shape[-2:])
    if weight.ndim > 2:
        return [product(walk, node, *((weight, x) if left else (x, weight)))]
    if weight.ndim not in (1, 2) or x.rank < 2:
        raise Unsupported(
            f"operands of shapes {x.shape} and {weight.shape}", "the constant one must have 2 dimensions"
        )
    vector = weight.ndim == 1
    dim = x.rank - 2 if left and x.rank > 2 else x.rank - 1
    if left and x.rank == 2:
        raise Unsupported("it multiplies along the batch", "put the constant on the right")
    given = None
    if not vector:
        given = given_weights(walk, node, 0 if left else 1, -2 if left else -1)
    weight = weight[:, None] if vector else weight.T if left else weight
    bias = np.zeros(weight.shape[1])
    return [contract(walk, node, x, (dim,), weight, bias, keep=not vector, given=given)]


def contract(
    walk: Walk,
    node: OnnxNode,
    x: Value,
    dims: Sequence[int],
    weight: np.ndarray,
    bias: np.ndarray,
    keep: bool,
    given: GivenWeights | None = None,
) -> Value:
    """Sum over whole dimensions `dims` of x with weight (K, O); the result has O in place of the last of
    them.

    The kernel spans the axes of (H, W, C) that the dimensions cover whole, all of C among them; other dimensions become
    the channels first.
    Without `keep` the dimensions are dropped (O must be 1).
    """
    if walk.is_batch(x, *dims):
        raise Unsupported("it sums over the batch", "keep the batch first")
    summed = normal(f for d in dims for f in x.layout[d])
    if dim_size(summed) != weight.shape[0]:
        raise Unsupported(
            f"{dim_size(summed)} features meet weights of shape {weight.shape}",
            f"use {weight.shape[0]} features",
        )
    others = [d for d in range(x.rank) if d not in dims]
    outputs = weight.shape[1]
    if walk.is_open(x):
        x, hwc = walk.decide(x, walk.beside(x, *dims), summed, strength=1)
        summed = normal(f for d in dims for f in x.layout[d])
    else:
        hwc = walk.hwc(x)
    spans = [math.prod(size for size, _, axis in split_axes(summed, hwc) if axis == k) for k in range(3)]
    whole = [spans[k] == hwc[k] for k in range(3)]
    if not whole[2] or not all(w or s == 1 for w, s in zip(whole, spans, strict=True)):
        if walk.is_open(x) or x.host:
            raise Unsupported(
                f"it sums over a part of its input ({hwc} as height, width, channels, seen as {x.shape}) "
                f"that is not all channels of whole rows or columns",
                "remove the Reshape or Transpose before it, or flatten the whole tensor",
            )
        x = rebuilt(walk, node.name, x, (tuple(others[:-1]), tuple(others[-1:]), tuple(dims)))
        hwc, summed = walk.hwc(x), normal(f for d in dims for f in x.layout[d])
        spans = [1, 1, hwc[2]]
    kh, kw = (hwc[k] if spans[k] > 1 else 1 for k in (0, 1))
    # from the order of the features to that of the tensor: the dimension's factors by falling stride
    sizes = [size for size, _ in summed]
    order = sorted(range(len(summed)), key=lambda k: -summed[k][1])
    kernel = weight.T.reshape(outputs, *sizes).transpose(0, *(1 + k for k in order))
    kernel = np.ascontiguousarray(kernel).reshape(outputs, kh, kw, hwc[2])
    out = walk.fresh(node.proto.output[0])
    shape: Shape = (1 if kh > 1 else hwc[0], 1 if kw > 1 else hwc[1], outputs)
    walk.emit(Conv(node.name, x.tensor, out, kernel, bias, given=given), shape)
    result = [remap(d, hwc, shape) if i in others else () for i, d in enumerate(x.layout)]
    result[dims[-1]] = axis_dims(shape)[2]
    if not keep:
        result = [d for i, d in enumerate(result) if i not in dims]
    return Value(out, tuple(result))


def batch_normalization(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    if node.integer("training_mode", 0) or any(walk.used(o) for o in node.proto.output[1:]):
        raise Unsupported("it is in training mode", "export the model for inference")
    scale, offset, mean, variance = (need(walk.weights(node, i), "statistics") for i in range(1, 5))
    if (variance + node.number("epsilon", 1e-5) <= 0).any():
        raise Unsupported(
            f"its variance '{node.input(4)}' is not positive", "train or export the model again"
        )
    factor = scale / np.sqrt(variance + node.number("epsilon", 1e-5))
    x = walk.value(node)
    if x.rank < 2 or factor.shape != (x.shape[1],):
        raise Unsupported(
            f"{factor.size} channels meet an input of shape {x.shape}", "make dimension 1 the channels"
        )
    rest = (1,) * (x.rank - 2)
    return [
        affine(
            walk, node, x, factor.reshape(-1, *rest), (offset - mean * factor).reshape(-1, *rest), strength=3
        )
    ]
