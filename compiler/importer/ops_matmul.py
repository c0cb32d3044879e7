"""MatMul and Gemm of two computed tensors: a batch of products, each factor where it lies."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from sateen.compiler.importer.layout import Dim, normal, split_axes, without_batch
from sateen.compiler.importer.moves import Roles, rebuilt
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value
from sateen.compiler.importer.pointwise import raised
from sateen.compiler.importer.walk import Walk
from sateen.ir.graph import MatMul
from sateen.ir.heads import OUTPUT, WEIGHT, Batch

Dims = tuple[int, ...]


def product(walk: Walk, node: OnnxNode, a: Value, b: Value) -> Value:
    """a (…, M, K) times b (…, K, N). Raises Unsupported where ONNX would repeat a factor for a batch."""
    a, b = raised(a, b.rank), raised(b, a.rank)
    rank = a.rank
    if rank < 2 or a.shape[-1] != b.shape[-2]:
        raise Unsupported(f"it multiplies {a.shape} by {b.shape}", "give (…, M, K) and (…, K, N)")
    shape = [*a.shape[:-1], b.shape[-1]]
    if any(walk.is_batch(v, rank - 2, rank - 1) for v in (a, b)):
        raise Unsupported("it multiplies along the batch", "keep the batch first, before both matrices")
    for v in (a, b):
        if walk.is_open(v):
            walk.decide(v, walk.beside(v, rank - 1), v.layout[-1], strength=1)
    if walk.is_open(a) or walk.is_open(b):
        return walk.derive(node.proto.output[0], shape, [a, b])
    lead = tuple(d for d in range(rank - 2) if without_batch(a.layout[d]) or without_batch(b.layout[d]))
    rows: Dims = (rank - 2,)
    if lead and all(b.shape[d] == 1 for d in lead):  # one matrix for all
        rows, lead = (*lead, rank - 2), ()
    if any(a.shape[d] != b.shape[d] for d in lead):
        raise Unsupported(f"it multiplies {a.shape} by {b.shape}", "give both factors the same batch")
    first, second, m, n, k_a, k_b = a, b, rows, (rank - 1,), (rank - 1,), (rank - 2,)
    if _in_channels(walk, a, m) and not _in_channels(walk, a, k_a) and _in_channels(walk, b, k_b):
        # the product of the transposed, in the other order
        first, second, m, n, k_a, k_b = second, first, n, m, k_b, k_a
    channel = (_in_channels(walk, first, (d,)) or _in_channels(walk, second, (d,)) for d in lead)
    outer = lead[: next((i for i, found in enumerate(channel) if found), len(lead))]
    heads = lead[len(outer) :]
    transposed = _in_channels(walk, second, k_b) or not _in_channels(walk, second, n)
    there = [  # where a factor is moved, its heads become rows
        any(_in_channels(walk, v, (d,)) for d in heads) and (v.shape[c] == 1 or _in_channels(walk, v, (c,)))
        for v, (c,) in ((first, k_a), (second, k_b if transposed else n))
    ]
    batch = Batch(
        math.prod(a.shape[d] for d in heads),
        (there[0], there[1], there[WEIGHT] and not transposed),
        transposed,
    )

    def roles(which: int, pixels: Dims, channels: Dims) -> Roles:
        if batch.in_channels[which]:
            return outer, pixels, (*heads, *channels)
        return (*outer, *heads), pixels, channels

    x = rebuilt(walk, f"{node.name}.first", first, roles(0, m, k_a))
    y = rebuilt(walk, f"{node.name}.second", second, roles(1, *((n, k_b) if transposed else (k_b, n))))
    hwc = batch.shape(walk.hwc(x), walk.hwc(y))
    out = walk.fresh(node.proto.output[0])
    walk.emit(MatMul(node.name, x.tensor, y.tensor, out, batch, np.ones(hwc[2]), np.zeros(hwc[2])), hwc)
    made = roles(OUTPUT, m, n)
    found: dict[int, Dim] = {}
    for role, stride in zip(made, (hwc[1] * hwc[2], hwc[2], 1), strict=True):
        for d in reversed(role):
            found[d] = normal([(shape[d], stride)])
            stride *= shape[d]
    samples = [tuple(f for f in dim if f not in without_batch(dim)) for dim in a.layout]
    return Value(out, tuple(normal((*samples[d], *found.get(d, ()))) for d in range(rank)))


def _in_channels(walk: Walk, x: Value, dims: Dims) -> bool:
    """Whether something of these dimensions lies along channels."""
    return any(axis == 2 for d in dims for _, _, axis in split_axes(x.layout[d], walk.hwc(x)))


def turned(x: Value, whether: int) -> Value:
    """A matrix, transposed where `whether`."""
    return dataclasses.replace(x, layout=x.layout[::-1]) if whether else x
