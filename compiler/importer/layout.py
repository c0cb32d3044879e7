"""How an ONNX tensor lies in the (H, W, C) tensor of the IR, symbolically.

Reshape, Transpose and Squeeze move no data on the way to the machine: they change which element of the IR
tensor an ONNX index means. A dimension is a tuple of factors (size, stride), most significant first; the
stride counts elements of the flat (H, W, C) tensor, and is 0 for the batch. Factors of size 1 are left out
and neighbours are merged, so two equal layouts mean the same element everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

Factor = tuple[int, int]
Dim = tuple[Factor, ...]
Layout = tuple[Dim, ...]

BATCH_STRIDE = 0


class Unsupported(Exception):
    """A node that cannot be imported: why, what the user can do, and the entry of `limits` that it exceeds."""

    def __init__(self, reason: str, remedy: str, limit: str = "") -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy
        self.limit = limit


class Astray(Unsupported):
    """A dimension that runs from one axis into the next, in the middle of either."""


def normal(factors: Iterable[Factor]) -> Dim:
    """Without factors of size 1, neighbours merged."""
    out: list[Factor] = []
    for size, stride in factors:
        if size == 1:
            continue
        if out and out[-1][1] == size * stride:
            out[-1] = (out[-1][0] * size, stride)
        else:
            out.append((size, stride))
    return tuple(out)


def without_batch(dim: Dim) -> Dim:
    return tuple(f for f in dim if f[1] != BATCH_STRIDE)


def dim_size(dim: Dim) -> int:
    return math.prod(size for size, _ in dim)


def shape_of(layout: Layout) -> tuple[int, ...]:
    return tuple(dim_size(d) for d in layout)


def batch_dim(batch: int) -> Dim:
    return normal([(batch, BATCH_STRIDE)])


def row_major(shape: Sequence[int]) -> Layout:
    """The layout of a tensor whose own order is the flat order."""
    return tuple(normal([(s, math.prod(shape[i + 1 :]))]) for i, s in enumerate(shape))


def reshape(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """The layout after ONNX Reshape to `shape` (as many elements); None if it cuts through a factor."""
    rest = list(normal(f for d in layout for f in d))[::-1]
    out: list[Dim] = []
    for target in shape:
        dim: list[Factor] = []
        while target > 1:
            size, stride = rest.pop()
            if target % size == 0:
                dim.append((size, stride))
                target //= size
            elif size % target == 0:
                inner = size // target
                dim.append((target, stride * inner))
                rest.append((inner, stride))
                target = 1
            else:
                return None
        out.append(normal(dim))
    return tuple(out)


def axis_dims(hwc: Sequence[int]) -> Layout:
    """The dimensions of the IR tensor's own axes H, W, C."""
    return row_major(hwc)


def split_axes(dim: Dim, hwc: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Cut the factors where the axes of (H, W, C) meet: (size, stride, axis), axis -1 for the batch.

    Raises Astray if a factor straddles an axis without a whole cut (a reshape that mixes pixels and channels).
    """
    _, w, c = hwc
    starts = ((1, 2), (c, 1), (w * c, 0))  # the stride where each axis begins
    out: list[tuple[int, int, int]] = []
    for size, stride in dim:
        if stride == BATCH_STRIDE:
            out.append((size, stride, -1))
            continue
        pieces = []
        for k, (begin, axis) in enumerate(starts):
            end = starts[k + 1][0] if k + 1 < len(starts) else None
            if size == 1 or (end is not None and stride >= end):
                continue
            inside = size if end is None else min(size, -(-end // stride))
            whole = end is None or (inside * stride == end if inside < size else inside * stride <= end)
            if size % inside or stride % begin or not whole:
                raise Astray(
                    f"its elements run across rows, columns and channels of {tuple(hwc)}",
                    "remove the Reshape or Transpose before it",
                )
            pieces.append((inside, stride, axis))
            size, stride = size // inside, stride * inside
        out.extend(reversed(pieces))
    return tuple(out)


def indices(dim: Dim) -> np.ndarray:
    """The offset in the flat (H, W, C) tensor of each index of the dimension, int64 (size,)."""
    out = np.zeros(1, np.int64)
    for size, stride in dim:
        out = (out[:, None] + stride * np.arange(size)).ravel()
    return out


def rebased(dim: Dim, old: Sequence[Dim], hwc: Sequence[int]) -> Dim | None:
    """The same elements where the axes H, W and C, which were the dimensions `old`, are now those of a tensor `hwc`.

    None if a factor lies in more than one of them.
    """
    out: list[Factor] = []
    for size, stride in dim:
        if stride == BATCH_STRIDE:
            out.append((size, stride))
            continue
        inside = [
            (size, stride // t * own[0][1])
            for axis, own in zip(old, axis_dims(hwc), strict=True)
            for s, t in axis
            if t <= stride and size * stride <= s * t
        ]
        if len(inside) != 1:
            return None
        out.append(inside[0])
    return normal(out)


def remap(dim: Dim, old: Sequence[int], new: Sequence[int]) -> Dim:
    """The same positions along each axis in a tensor of another (H, W, C): other strides, the same sizes."""
    old_strides, new_strides = ((w * c, c, 1) for _, w, c in (old, new))
    return normal(
        (size, stride if axis < 0 else stride // old_strides[axis] * new_strides[axis])
        for size, stride, axis in split_axes(dim, old)
    )
