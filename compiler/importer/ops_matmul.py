"""MatMul and Gemm of two tensors: a batch of products, each factor where it lies."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from sateen.compiler.importer.layout import Dim, normal, row_major, split_axes, without_batch
from sateen.compiler.importer.moves import Roles, laid_out, rebuilt
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value
from sateen.compiler.importer.pointwise import raised
from sateen.compiler.importer.walk import Walk
from sateen.ir.heads import OUTPUT, WEIGHT, Batch
from sateen.ir.nodes import Conv, MatMul, Stored

Dims = tuple[int, ...]


def product(walk: Walk, node: OnnxNode, a: Value | np.ndarray, b: Value | np.ndarray) -> Value:
    """a (…, M, K) times b (…, K, N), one of which may be constant.

    Raises Unsupported where ONNX would repeat a computed factor for a batch.
    """
    if isinstance(a, Value) and isinstance(b, np.ndarray):
        grouped = _grouped(walk, node, raised(a, b.ndim), b)
        if grouped is not None:
            return grouped
    a, b = (_held(walk, node, f, other) for f, other in ((a, b), (b, a)))
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


def _held(walk: Walk, node: OnnxNode, factor: Value | np.ndarray, other: Value | np.ndarray) -> Value:
    """A constant factor as a tensor of rows of columns of channels, as often as the batch of the other."""
    if isinstance(factor, Value):
        return factor
    assert isinstance(other, Value)
    lead = (1,) * (other.rank - factor.ndim) + factor.shape[:-2]
    shape = [max(m, n) if m == 1 else m for m, n in zip(lead, other.shape[:-2], strict=True)]
    if walk.is_batch(other, 0):
        shape[0] = 1
    array = np.broadcast_to(factor, (*shape, *factor.shape[-2:]))
    hwc = math.prod(shape), *factor.shape[-2:]
    out = walk.fresh(f"{node.proto.output[0]}.constant")
    walk.emit(Stored(f"{node.name}.constant", out, array.reshape(hwc).astype(np.float64)), hwc)
    return Value(out, row_major(array.shape))


def _grouped(walk: Walk, node: OnnxNode, x: Value, weight: np.ndarray) -> Value | None:
    """x (…, M, K) times constants (…, K, N): a convolution with a group for each matrix.

    None where not all but M lies in channels, or the layout is open.
    """
    weight = weight.reshape((1,) * (x.rank - weight.ndim) + weight.shape)
    lead = tuple(d for d in range(x.rank - 2) if without_batch(x.layout[d]))
    m, k = x.rank - 2, x.rank - 1
    if walk.is_open(x) or x.host or not lead or x.shape[k] != weight.shape[m]:
        return None
    if any(weight.shape[d] not in (1, x.shape[d] if d in lead else 1) for d in range(m)):
        return None
    if not all(_in_channels(walk, x, (d,)) for d in (*lead, k)) or _in_channels(walk, x, (m,)):
        return None
    x = rebuilt(walk, node.name, x, ((), (m,), (*lead, k)))
    heads, (features, outputs) = math.prod(x.shape[d] for d in lead), weight.shape[-2:]
    full = np.broadcast_to(weight, (*(x.shape[d] if d in lead else 1 for d in range(m)), features, outputs))
    kernel = full.reshape(heads, features, outputs).transpose(0, 2, 1).reshape(-1, 1, 1, features)
    out = walk.fresh(node.proto.output[0])
    hwc = (*walk.hwc(x)[:2], heads * outputs)
    walk.emit(Conv(node.name, x.tensor, out, kernel, np.zeros(len(kernel)), groups=heads), hwc)
    sizes = {**{d: x.shape[d] for d in (*lead, m)}, k: outputs}
    return Value(out, laid_out(x, ((), (m,), (*lead, k)), sizes, hwc))


def _in_channels(walk: Walk, x: Value, dims: Dims) -> bool:
    """Whether something of these dimensions lies along channels."""
    return any(axis == 2 for d in dims for _, _, axis in split_axes(x.layout[d], walk.hwc(x)))


def turned(x: Value, whether: int) -> Value:
    """A matrix, transposed where `whether`."""
    return dataclasses.replace(x, layout=x.layout[::-1]) if whether else x
