"""Pooling, reductions over space, and zero padding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sateen.compiler.functions import X, constant
from sateen.compiler.importer import limits
from sateen.compiler.importer.affine import affine
from sateen.compiler.importer.broadcast import stored_beside
from sateen.compiler.importer.layout import Dim, axis_dims, normal, remap, split_axes, without_batch
from sateen.compiler.importer.moves import joined, place_channels, rebuilt, replaced, roles_of
from sateen.compiler.importer.nouns import OnnxNode, Undecided, Unsupported, Value, axes_in
from sateen.compiler.importer.ops_linear import contract
from sateen.compiler.importer.ops_select import select
from sateen.compiler.importer.phases import SAME, borders, depthwise_kernel, emit_phases
from sateen.compiler.importer.pointwise import depthwise, selection, settle
from sateen.compiler.importer.walk import Handler, Walk
from sateen.compiler.importer.windows import Window, pads, pair, window_of
from sateen.ir.nodes import Activation, Conv, Expression, Pool, PoolKind
from sateen.ir.ports import Shape

Reduction = PoolKind | Literal["sum"]


def pool(walk: Walk, node: OnnxNode, x: Value, kind: PoolKind, window: Window) -> Value:
    x, axes = place_channels(walk, node, x, 1, range(2, x.rank))
    out = walk.fresh(node.proto.output[0])
    shape: Shape = (*pair(axes, window.out, 1), x.shape[1])
    walk.emit(
        Pool(
            node.name, x.tensor, out, kind, pair(axes, window.kernel, 1), pair(axes, window.stride, 1),
            pair(axes, window.dilation, 1), pads(axes, window),
        ),
        shape,
    )  # fmt: skip
    return replaced(x, out, 1, axes, shape)


def spatial_input(walk: Walk, node: OnnxNode) -> Value:
    x = walk.value(node)
    if x.rank not in (3, 4):
        raise Unsupported(f"{x.rank - 2}-D pooling", "only 1-D and 2-D are supported", limits.ONE_OR_TWO_D)
    return x


def max_pool(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    if any(walk.used(o) for o in node.proto.output[1:]):
        raise Unsupported(
            "its second output, Indices, is used", "use the pooled values alone", limits.NO_INDICES
        )
    x = spatial_input(walk, node)
    window = window_of(node, x.shape[2:], node.integers("kernel_shape", ()))
    return [pool(walk, node, x, "max", window)]


def average_pool(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = spatial_input(walk, node)
    window = window_of(node, x.shape[2:], node.integers("kernel_shape", ()))
    if window.ceiled or (window.padded and not node.integer("count_include_pad", 0)):
        return [uncounted(walk, node, x, window)]
    return [pool(walk, node, x, "average", window)]


def lp_pool(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """The root of a window's sum of powers: a table, a convolution with ones, a table."""
    x, p = spatial_input(walk, node), node.integer("p", 2)
    window = window_of(node, x.shape[2:], node.integers("kernel_shape", ()))
    if walk.is_open(x):
        walk.place(x, 1, range(2, x.rank))
        return [walk.derive(node.proto.output[0], (*x.shape[:2], *window.out), [x])]
    x, axes = place_channels(walk, node, x, 1, range(2, x.rank))
    name, output, c = node.name, node.proto.output[0], walk.hwc(x)[2]
    power = Expression("pow", (), (Expression("abs", (), (X,)), constant(p)))
    terms = Activation(f"{name}.terms", x.tensor, walk.fresh(f"{output}.terms"), "composed", expression=power)
    shape: Shape = (*pair(axes, window.out, 1), c)
    ones = np.ones((c, *pair(axes, window.kernel, 1), 1))
    summed = Conv(
        name, walk.emit(terms, walk.hwc(x)), walk.fresh(f"{output}.sum"), ones, np.zeros(c),
        pair(axes, window.stride, 1), pair(axes, window.dilation, 1), pads(axes, window), c,
    )  # fmt: skip
    inverse = Expression("pow", (), (X, constant(1 / p)))
    root = Activation(
        f"{name}.root", walk.emit(summed, shape), walk.fresh(output), "composed", expression=inverse
    )
    return [replaced(x, walk.emit(root, shape), 1, axes, shape)]


def uncounted(walk: Walk, node: OnnxNode, x: Value, window: Window) -> Value:
    """An average that divides by what of the window counts: a phase for each number of counted rows and columns."""
    if walk.is_open(x):
        walk.place(x, 1, range(2, x.rank))
        return walk.derive(node.proto.output[0], (*x.shape[:2], *window.out), [x])
    counted = bool(node.integer("count_include_pad", 0))
    sizes = x.shape[2:]
    x, axes = place_channels(walk, node, x, 1, range(2, x.rank))
    c = walk.hwc(x)[2]
    parts = [[SAME], [SAME]]
    for k, axis in enumerate(axes):
        # what ceil_mode adds at the end is in no file's pads, and never counts
        given = node.integers("pads", [0] * 2 * len(axes))[len(axes) + k] if window.ceiled else window.end[k]
        end = sizes[k] + (given if counted else 0)
        first = -window.begin[k] if counted else 0
        at = window.stride[k] * np.arange(window.out[k])[:, None] - window.begin[k]
        taps = at + window.dilation[k] * np.arange(window.kernel[k])
        weights = ((taps >= first) & (taps < end)).astype(np.float64)
        parts[axis] = borders(taps, weights / weights.sum(axis=1, keepdims=True), window.dilation[k])

    shape: Shape = (*pair(axes, window.out, 1), c)
    out = emit_phases(
        walk,
        node.name,
        x.tensor,
        node.proto.output[0],
        shape,
        parts[0],
        parts[1],
        depthwise_kernel(c),
        np.zeros(c),
    )
    return replaced(x, out, 1, axes, shape)


def global_pool(kind: Reduction) -> Handler:
    def handle(walk: Walk, node: OnnxNode) -> Sequence[Value]:
        x = walk.value(node)
        if x.rank < 3:
            raise Unsupported(
                f"its input of shape {x.shape} has no space", "give (batch, channels, height, width)"
            )
        return [reduce(walk, node, x, kind, tuple(range(2, x.rank)), keep=True)]

    return handle


def axes_of(walk: Walk, node: OnnxNode, rank: int) -> tuple[int, ...] | None:
    """The axes of a reduction or (un)squeeze, attribute or input 1, made positive; None if not given."""
    given: Sequence[int] = node.integers("axes", ())
    array = walk.constant(node, 1)
    if array is not None:
        given = [int(i) for i in array.ravel()]
    elif "axes" not in node.attributes:
        return None
    return tuple(sorted(axes_in(given, rank)))


def reduction(kind: Reduction) -> Handler:
    """ReduceMean, ReduceSum and ReduceMax."""

    def handle(walk: Walk, node: OnnxNode) -> Sequence[Value]:
        x = walk.value(node)
        axes = axes_of(walk, node, x.rank)
        if not axes:
            if node.integer("noop_with_empty_axes", 0):
                return [x]
            axes = tuple(range(x.rank))
        if walk.is_batch(x, *axes):
            raise Unsupported("it reduces over the batch", "reduce over the other dimensions only")
        return [reduce(walk, node, x, kind, axes, keep=bool(node.integer("keepdims", 1)))]

    return handle


def reduce(walk: Walk, node: OnnxNode, x: Value, kind: Reduction, dims: tuple[int, ...], keep: bool) -> Value:
    """Reduce over dimensions: rows and columns by a Pool, channels by a Conv, after a move where neither takes them."""
    if walk.is_open(x):
        left = [d for d in range(x.rank) if d not in dims and without_batch(x.layout[d])]
        channel = left[0] if len(left) == 1 else min(1, x.rank - 1)
        x, hwc = walk.decide(x, walk.beside(x, channel), x.layout[channel], 2)
    else:
        hwc = walk.hwc(x)
    count = int(np.prod([x.shape[d] for d in dims]))
    runs = [_run(x, dims, hwc, axis) for axis in range(3)]
    whole = runs[2] == [(hwc[2], 1)]
    if kind == "max" and runs[2]:
        if walk.is_open(x) or x.host:
            raise Undecided("which of its dimensions are channels is not known", "")
        others = tuple(d for d in range(x.rank) if d not in dims)
        moved = rebuilt(walk, node.name, x, (dims, (), others)) if whole else _outermost(walk, node, x, dims)
        return reduce(walk, node, moved, kind, dims, keep)
    windows = [_window_over(run, size) for run, size in zip(runs[:2], hwc[:2], strict=True)]
    if None in windows:
        return reduce(walk, node, _outermost(walk, node, x, dims), kind, dims, keep)
    entire = all(not run or run == [(size, 1)] for run, size in zip(runs, hwc, strict=True))
    if entire and (whole or (kind == "sum" and hwc[2] == 1)):
        factor = 1.0 / count if kind == "average" else 1.0
        result = contract(walk, node, x, dims, np.full((count, 1), factor), np.zeros(1), keep=True)
        return Value(result.tensor, tuple(r for d, r in enumerate(result.layout) if keep or d not in dims))
    out, shape = x.tensor, hwc
    if any(runs[:2]):
        h, w = (w for w in windows if w is not None)
        shape = ((hwc[0] - h.span) // h.stride + 1, (hwc[1] - w.span) // w.stride + 1, hwc[2])
        out = walk.fresh(node.proto.output[0])
        pooled = Pool(
            node.name, x.tensor, out, "max" if kind == "max" else "average", (h.kernel, w.kernel),
            (h.stride, w.stride), (h.dilation, w.dilation),
        )  # fmt: skip
        walk.emit(pooled, shape)
    if runs[2] or kind == "sum":
        taken = np.stack([_digits(shape[2], runs[2], at) for at in range(math.prod(n for n, _ in runs[2]))])
        c, n = taken.shape[::-1]
        factor = 1.0 / n if kind == "average" else count / n
        source, out, shape = out, walk.fresh(node.proto.output[0]), (shape[0], shape[1], c)
        weight = np.full((c, 1, 1, n), factor)
        walk.emit(Conv(node.name, source, out, weight, np.zeros(c), groups=c, channels=taken.T), shape)
    layout = [() if d in dims else _left(x.layout[d], hwc, shape, runs) for d in range(x.rank)]
    return Value(out, tuple(r for d, r in enumerate(layout) if keep or d not in dims))


Runs = list[tuple[int, int]]
"""Of one axis, the digits of its index that are summed over: (size, step), the finest first."""


def _run(x: Value, dims: Sequence[int], hwc: Shape, axis: int) -> Runs:
    unit = (hwc[1] * hwc[2], hwc[2], 1)[axis]
    found = [p for d in dims for p in split_axes(x.layout[d], hwc) if p[2] == axis]
    digits = sorted(((size, stride // unit) for size, stride, _ in found), key=lambda f: -f[1])
    return list(normal(digits))[::-1]


@dataclass(frozen=True, slots=True)
class _Reach:
    kernel: int = 1
    stride: int = 1
    dilation: int = 1

    @property
    def span(self) -> int:
        return (self.kernel - 1) * self.dilation + 1


def _window_over(run: Runs, size: int) -> _Reach | None:
    """The window that takes these digits of an axis together: neighbours, or what lies equally far apart."""
    if not run:
        return _Reach()
    (n, step), *more = run
    if more or (step > 1 and n * step < size):
        return None
    if step > 1:
        return _Reach(n, 1, step)
    return _Reach(n, n if n < size else 1)  # one window makes no step, and instructions' strides end at 63


def _digits(size: int, run: Runs, at: int) -> np.ndarray:
    """Indices of an axis whose digits `run` are those of `at`."""
    index = np.arange(size)
    for n, step in run:
        index = index[index // step % n == at % n]
        at //= n
    return index


def _left(dim: Dim, hwc: Shape, shape: Shape, runs: Sequence[Runs]) -> Dim:
    """Where a dimension lies once the digits are gone."""
    factors = []
    for size, stride, axis in split_axes(dim, hwc):
        if axis >= 0:
            step = stride // (hwc[1] * hwc[2], hwc[2], 1)[axis]
            step //= math.prod(n for n, s in runs[axis] if s < step)
            stride = step * (shape[1] * shape[2], shape[2], 1)[axis]
        factors.append((size, stride))
    return normal(factors)


def _outermost(walk: Walk, node: OnnxNode, x: Value, dims: Sequence[int]) -> Value:
    """x with these dimensions as rows, outside all others."""
    if x.host:
        raise Unsupported("it reduces what the host computes", "end the model before it")
    rows, columns, channels = (tuple(d for d in role if d not in dims) for role in roles_of(walk, x))
    return rebuilt(walk, node.name, x, ((*dims, *rows), columns, channels))


def pad(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    mode = node.text("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise Unsupported(f"mode = {mode}", "use constant, edge, reflect or wrap")
    if node.opset < 11:
        amounts, value = node.integers("pads", ()), node.number("value", 0.0)
    else:
        array, fill = walk.constant(node, 1), walk.constant(node, 2)
        amounts = tuple(int(i) for i in (array if array is not None else np.zeros(0)).ravel())
        value = float(fill.ravel()[0]) if fill is not None and fill.size else 0.0
    begin, end = [0] * x.rank, [0] * x.rank
    axes: Sequence[int] = range(x.rank)
    if node.opset >= 18 and (given := walk.constant(node, 3)) is not None:
        axes = axes_in(given.ravel(), x.rank)
    if len(amounts) != 2 * len(axes):
        raise Unsupported(f"{len(amounts)} pads for {len(axes)} dimensions", f"give {2 * len(axes)}")
    for k, d in enumerate(axes):
        begin[d], end[d] = amounts[k], amounts[len(axes) + k]
    if not any(begin) and not any(end):
        return [x]
    if min(*begin, *end) < 0:
        raise Unsupported(f"pads {list(amounts)} cut away a part of the input", "use pads of at least 0")
    if (begin[0] or end[0]) and walk.is_batch(x, 0):
        raise Unsupported("it pads the batch", "pad the other dimensions only")
    if mode != "constant":
        for d in range(x.rank):
            if begin[d] or end[d]:
                indices = _repeated(mode, x.shape[d], begin[d], end[d])
                x = select(walk, node, x, d, indices, node.proto.output[0])
        return [x]
    if not np.isfinite(value):
        raise Unsupported(f"it pads with {value:g}", "pad with a finite number")
    if value:  # as zeros of what it is shifted by
        x = zero_pad(walk, node, affine(walk, node, x, 1.0, -value), begin, end)
        return [affine(walk, node, x, 1.0, value)]
    return [zero_pad(walk, node, x, begin, end)]


def _repeated(mode: str, size: int, begin: int, end: int) -> np.ndarray:
    at = np.arange(-begin, size + end)
    if mode == "edge":
        return np.clip(at, 0, size - 1)
    if mode == "wrap":
        return at % size
    if max(begin, end) >= size:
        raise Unsupported(f"it reflects {max(begin, end)} of {size}", f"reflect at most {size - 1}")
    at = np.abs(at)
    return np.where(at >= size, 2 * (size - 1) - at, at)


def _between_zeros(walk: Walk, node: OnnxNode, x: Value, dim: int, begin: int, end: int) -> Value:
    """Zeros before and after a dimension that is no whole axis."""
    parts = [x]
    for amount, place in ((begin, 0), (end, 2)):
        if amount:
            zeros = np.zeros([1, *x.shape[1:]] if walk.is_batch(x, 0) else x.shape).take([0] * amount, dim)
            parts.insert(place, stored_beside(walk, f"{node.name}.zeros", x, zeros, dim))
    return joined(walk, node.name, node.proto.output[0], parts, dim)


def zero_pad(walk: Walk, node: OnnxNode, x: Value, begin: Sequence[int], end: Sequence[int]) -> Value:
    """A 1×1 Conv with padding, which a pass merges into the next window if it can."""
    if walk.is_batch(x, 0):
        walk.batch_first(x)
    padded = [d for d in range(x.rank) if begin[d] or end[d]]
    if walk.is_open(x):
        shape = [s + begin[d] + end[d] for d, s in enumerate(x.shape)]
        return walk.derive(node.proto.output[0], shape, [x])
    hwc = walk.hwc(x)
    amounts = [(0, 0)] * 3
    new = list(hwc)
    targets: dict[int, int] = {}
    for d in padded:
        own = axis_dims(hwc)
        if d == 1 or x.layout[d] == own[2]:
            x = settle(walk, node.name, x, d)
        # A dimension of size 1 may be any axis of size 1 that no other dimension is.
        free_axes = [k for k in range(3) if own[k] == x.layout[d] and k not in targets.values()]
        if not free_axes:
            x = _between_zeros(walk, node, x, d, begin[d], end[d])
            rest = [[0 if k == d else n for k, n in enumerate(amount)] for amount in (begin, end)]
            return zero_pad(walk, node, x, *rest) if any(map(any, rest)) else x
        axis = targets[d] = free_axes[0] if x.layout[d] or d != 1 or hwc[2] > 1 else free_axes[-1]
        amounts[axis] = (begin[d], end[d])
        new[axis] += begin[d] + end[d]
    out_shape: Shape = (new[0], new[1], new[2])
    margins = (amounts[0][0], amounts[1][0], amounts[0][1], amounts[1][1])
    out = walk.fresh(node.proto.output[0])
    c = hwc[2]
    if amounts[2] == (0, 0):
        padding = depthwise(node.name, x.tensor, out, np.ones(c), np.zeros(c))
    else:
        source = np.arange(new[2]) - amounts[2][0]
        kept = (source >= 0) & (source < c)
        padding = selection(node.name, x.tensor, out, np.where(kept, source, 0), kept)
    walk.emit(dataclasses.replace(padding, pads=margins), out_shape)
    own = axis_dims(out_shape)
    layout = [
        own[targets[d]] if d in targets else remap(dim, hwc, out_shape) for d, dim in enumerate(x.layout)
    ]
    return Value(out, tuple(layout))
