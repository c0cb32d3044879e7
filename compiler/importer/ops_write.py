"""ScatterND by constant indices: a box of a tensor written anew, as exporters say of an assignment to a slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sateen.compiler.importer import limits
from sateen.compiler.importer.broadcast import stored_beside
from sateen.compiler.importer.moves import joined
from sateen.compiler.importer.nouns import OnnxNode, Undecided, Unsupported, Value
from sateen.compiler.importer.ops_select import select
from sateen.compiler.importer.ops_shape import reshaped
from sateen.compiler.importer.walk import Walk


def scatter(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """The data with the updates in a box of neighbouring indices."""
    indices = walk.values[node.input(1)]
    if not isinstance(indices, np.ndarray) or indices.ndim < 1:
        raise Unsupported("its places are computed", "give constant indices", limits.A_BOX)
    if node.text("reduction", "none") != "none":
        raise Unsupported(f"reduction = {node.text('reduction', '')}", "use none", limits.A_BOX)
    given = [walk.values[node.input(i)] for i in (0, 2)]
    x = next(v for v in given if isinstance(v, Value))
    if any(isinstance(v, Value) and walk.is_open(v) for v in given):
        raise Undecided("which of its dimensions are channels is not known", "")
    shape = given[0].shape if given[0] is not None else ()
    box = _box(indices, shape)
    sizes = [len(r) for r in box]
    if any(walk.is_batch(x, d) for d, r in enumerate(box) if len(r) < shape[d]):
        raise Unsupported("it writes a part of the batch", "write all of it", limits.A_BOX)
    data, updates = given
    if isinstance(updates, Value):
        updates = reshaped(walk, node, updates, sizes)
        data = _beside(walk, node, data, updates, shape)
    else:
        assert isinstance(data, Value)
        updates = _beside(walk, node, updates, data, sizes)
    return [_written(walk, node, data, updates, box, 0)]


def _beside(
    walk: Walk, node: OnnxNode, v: Value | np.ndarray | None, other: Value, sizes: Sequence[int]
) -> Value:
    """A constant of these sizes as a tensor that lies as the other does."""
    if isinstance(v, Value):
        return v
    assert v is not None
    return stored_beside(
        walk, f"{node.name}.constant", other, v.reshape(sizes).astype(np.float64), len(sizes) - 1
    )


def _box(indices: np.ndarray, shape: Sequence[int]) -> list[range]:
    """The range of each dimension that is written. Raises Unsupported where they are no box, in order."""
    count = indices.shape[-1]
    flat = indices.reshape(-1, count).astype(np.int64)
    flat = np.where(flat < 0, flat + np.array(shape[:count]), flat)
    box = [range(int(low), int(high) + 1) for low, high in zip(flat.min(0), flat.max(0), strict=True)]
    grid = np.stack(np.meshgrid(*box, indexing="ij"), -1).reshape(-1, count)
    if grid.shape != flat.shape or (grid != flat).any():
        raise Unsupported("the places that it writes are no box", "write one slice", limits.A_BOX)
    return [*box, *(range(s) for s in shape[count:])]


def _written(walk: Walk, node: OnnxNode, x: Value, update: Value, box: list[range], dim: int) -> Value:
    """x with the update in the box, all of whose dimensions before `dim` are x's whole."""
    while dim < x.rank and len(box[dim]) == x.shape[dim]:
        dim += 1
    if dim == x.rank:
        return update
    low, high, out = box[dim].start, box[dim].stop, node.proto.output[0]
    parts = [
        select(walk, node, x, dim, range(a, b), f"{out}.{k}")
        for k, (a, b) in enumerate(((0, low), (low, high), (high, x.shape[dim])))
        if a < b
    ]
    parts[int(low > 0)] = _written(walk, node, parts[int(low > 0)], update, box, dim + 1)
    return joined(walk, node.name, out, parts, dim)
