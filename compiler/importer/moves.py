"""Dimensions put where an operator needs them: pixels move by `Arrange`, channels by a selection.

What only looks different, costs nothing: `rebuilt` gives a tensor of its own only for dimensions that are not yet the
rows, columns or channels that they are to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sateen.compiler.importer.layout import Dim, axis_dims, normal, split_axes, without_batch
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value
from sateen.compiler.importer.pointwise import selection, settle
from sateen.compiler.importer.transpose import MOST_PIECES, exchanged
from sateen.compiler.importer.walk import Walk
from sateen.ir.nodes import Arrange, Concat
from sateen.ir.pieces import Piece, pieces_of
from sateen.ir.ports import Shape

Roles = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Dimensions of an ONNX tensor that are rows, columns and channels, most significant first."""


def roles_of(walk: Walk, x: Value) -> Roles:
    """Those of the tensor that x lies in: a dimension belongs to the axis in which its greatest part is."""
    hwc = walk.hwc(x)
    found: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for d, dim in enumerate(x.layout):
        sizes: dict[int, int] = {}
        for size, _, axis in split_axes(dim, hwc):
            sizes[axis] = sizes.get(axis, 1) * size
        sizes.pop(-1, None)
        if sizes:
            found[max(sizes, key=lambda axis: (sizes[axis], axis))].append(d)
    return tuple(found[0]), tuple(found[1]), tuple(found[2])


def rebuilt(
    walk: Walk, name: str, x: Value, roles: Roles, picks: Mapping[int, np.ndarray] | None = None
) -> Value:
    """x with the dimensions of `roles` as rows, columns and channels; of some only the indices in `picks`.

    Raises Unsupported where that is no move of whole pixels and channels.
    """
    picks = picks or {}
    places = _places(walk, x, roles, picks)
    sizes = {
        d: len(picks[d]) if d in picks else s for d, s in enumerate(x.shape) if x.layout[d] or d in picks
    }
    shape = tuple(math.prod(sizes.get(d, 1) for d in role) for role in roles)
    hwc: Shape = (shape[0], shape[1], shape[2])
    tensor = exchanged(walk, name, x.tensor, walk.hwc(x), hwc, places)
    tensor = tensor or _moved(walk, name, x.tensor, walk.hwc(x), hwc, places)
    return Value(tensor, laid_out(x, roles, sizes, hwc), x.host)


def place_channels(
    walk: Walk, node: OnnxNode, x: Value, channel: int, spatial: Sequence[int], strength: int = 3
) -> tuple[Value, tuple[int, ...]]:
    """`Walk.place`, with channels in another order put right first, and pixels that lie elsewhere moved."""
    x = settle(walk, node.name, x, channel)
    try:
        return x, walk.place(x, channel, spatial, strength)
    except Unsupported:
        others = [d for d in range(1, x.rank) if d != channel and d not in spatial]
        if walk.is_open(x) or x.host or any(x.layout[d] for d in others):
            raise
    walk.batch_first(x)
    x = rebuilt(walk, node.name, x, (tuple(spatial[:-1]), (spatial[-1],), (channel,)))
    return x, walk.place(x, channel, spatial, strength)


def joined(walk: Walk, name: str, out: str, parts: Sequence[Value], axis: int) -> Value:
    """The parts one behind the other along dimension `axis`, in the roles of the first."""
    roles = roles_of(walk, parts[0])
    if all(axis not in role for role in roles):  # of size 1 in the first: it is rows, outside all others
        roles = ((axis, *roles[0]), *roles[1:])
    role = next(k for k, r in enumerate(roles) if axis in r)
    total = sum(p.shape[axis] for p in parts)
    sizes = {d: total if d == axis else s for d, s in enumerate(parts[0].shape) if s > 1 or d == axis}
    shape = tuple(math.prod(sizes.get(d, 1) for d in r) for r in roles)
    hwc: Shape = (shape[0], shape[1], shape[2])
    begin, pieces, sources = 0, [], []
    for k, p in enumerate(parts):
        own = rebuilt(walk, f"{name}.part{k}", p, roles)
        there = np.arange(begin, begin + p.shape[axis])
        begin += p.shape[axis]
        at = [_index(r, {**sizes, axis: total}, {axis: there}) for r in roles]
        sources.append(own.tensor)
        if role < 2:
            rows = np.stack([at[0], np.arange(len(at[0])), np.zeros_like(at[0])])
            columns = np.stack([at[1], np.zeros_like(at[1]), np.arange(len(at[1]))])
            pieces += pieces_of(k, rows, columns)
    if role < 2:
        tensor = arrange(walk, name, sources, pieces, out, hwc)
    else:
        tensor = walk.fresh(out)
        walk.emit(Concat(name, tuple(sources), tensor), hwc)
        order = _order(roles[2], axis, [p.shape[axis] for p in parts], sizes)
        if (order != np.arange(len(order))).any():
            ordered = walk.fresh(f"{tensor}.ordered")
            walk.emit(selection(f"{name}.order", tensor, ordered, order), hwc)
            tensor = ordered
    return Value(tensor, laid_out(parts[0], roles, sizes, hwc))


def picked(walk: Walk, name: str, x: Value, out: str, rows: np.ndarray, columns: np.ndarray) -> str:
    """The tensor with row `rows[y]` as row y, and column `columns[x]` as column x."""
    h, w = len(rows), len(columns)
    zero_h, zero_w = np.zeros(h, np.int64), np.zeros(w, np.int64)
    pieces = pieces_of(0, np.stack([np.arange(h), rows, zero_h]), np.stack([np.arange(w), zero_w, columns]))
    return arrange(walk, name, [x.tensor], pieces, out, (h, w, walk.hwc(x)[2]))


def arrange(
    walk: Walk, name: str, parts: Sequence[str], pieces: Sequence[Piece], out: str, shape: Shape
) -> str:
    """The tensor that the pieces make. Raises Unsupported if there are too many."""
    if len(pieces) > MOST_PIECES:
        raise Unsupported(
            f"it moves pixels in {len(pieces)} pieces, of which {MOST_PIECES} are taken at most",
            "move whole rows or columns",
        )
    return walk.emit(Arrange(name, tuple(parts), tuple(pieces), walk.fresh(out)), shape)


def replaced(x: Value, tensor: str, channel: int, axes: Sequence[int], hwc: Shape) -> Value:
    """(batch, spatial…) with dimension `channel` among them, in `tensor`; `axes` names the axis of each spatial one."""
    own = axis_dims(hwc)
    dims = [own[a] for a in axes]
    dims.insert(channel - 1, own[2])
    return Value(tensor, (x.layout[0], *dims))


def _index(role: Sequence[int], sizes: Mapping[int, int], only: Mapping[int, np.ndarray]) -> np.ndarray:
    """Positions along an axis that holds these dimensions, of all indices, or of those in `only`."""
    at = np.zeros(1, np.int64)
    for d in role:
        size = sizes.get(d, 1)
        at = (at[:, None] * size + only.get(d, np.arange(size))).ravel()
    return at


def _order(role: Sequence[int], axis: int, parts: Sequence[int], sizes: Mapping[int, int]) -> np.ndarray:
    """Which channel of the parts side by side each channel of the result is."""
    order = np.empty(math.prod(sizes.get(d, 1) for d in role), np.int64)
    begin = done = 0
    for n in parts:
        at = _index(role, sizes, {axis: np.arange(begin, begin + n)})
        order[at] = done + np.arange(len(at))
        begin, done = begin + n, done + len(at)
    return order


def laid_out(x: Value, roles: Roles, sizes: Mapping[int, int], hwc: Shape) -> tuple[Dim, ...]:
    """The layout of a tensor (H, W, C) whose axes are the dimensions of `roles`, with the batch where x has it."""
    found: dict[int, Dim] = {}
    for role, stride in zip(roles, (hwc[1] * hwc[2], hwc[2], 1), strict=True):
        for d in reversed(role):
            found[d] = normal([(sizes.get(d, 1), stride)])
            stride *= sizes.get(d, 1)
    batch = tuple(tuple(f for f in dim if f not in without_batch(dim)) for dim in x.layout)
    return tuple(normal((*batch[d], *found.get(d, ()))) for d in range(x.rank))


Place = np.ndarray
"""(3, n): source row, column and channel that each index of an axis adds."""


def _places(walk: Walk, x: Value, roles: Roles, picks: Mapping[int, np.ndarray]) -> list[Place]:
    _, w, c = walk.hwc(x)
    for dim in x.layout:
        split_axes(dim, walk.hwc(x))  # no carry from one axis into the next
    places = []
    for role in roles:
        at = np.zeros((3, 1), np.int64)
        for d in role:
            own = np.zeros((3, 1), np.int64)
            for factor in without_batch(x.layout[d]):
                for size, stride, axis in split_axes((factor,), walk.hwc(x)):
                    step = stride // (w * c, c, 1)[axis]
                    more = np.zeros((3, size), np.int64)
                    more[axis] = step * np.arange(size)
                    own = (own[:, :, None] + more[:, None, :]).reshape(3, -1)
            own = own[:, picks[d]] if d in picks else own
            at = (at[:, :, None] + own[:, None, :]).reshape(3, -1)
        places.append(at)
    return places


def _moved(walk: Walk, name: str, tensor: str, old: Shape, new: Shape, places: list[Place]) -> str:
    """A tensor of shape `new`, whose element (y, x, k) is the source's at the sum of the three places."""
    rows, columns, channels = places
    h, w, c = new
    offsets, group = np.unique(channels[:2], axis=1, return_inverse=True)
    group = group.ravel()
    bases = {
        (int(a), int(b)): (rows[2] == a, columns[2] == b)
        for a in np.unique(rows[2])
        for b in np.unique(columns[2])
    }
    chosen: dict[tuple[int, ...], str] = {}

    def channels_at(wanted: np.ndarray) -> str:
        key = tuple(wanted.tolist())
        if key == tuple(range(old[2])):
            return tensor
        if key not in chosen:
            chosen[key] = walk.fresh(f"{tensor}.channels")
            walk.emit(
                selection(f"{name}.channels", tensor, chosen[key], wanted), (old[0], old[1], len(wanted))
            )
        return chosen[key]

    done = []
    for k in range(offsets.shape[1]):
        own = channels[2][group == k]
        dy, dx = (int(v) for v in offsets[:, k])
        sources: list[str] = []
        pieces: list[Piece] = []
        for (a, b), (at_rows, at_columns) in bases.items():
            source = channels_at(own + a + b)
            part = sources.index(source) if source in sources else len(sources)
            sources += [source] if part == len(sources) else []
            ys, xs = np.flatnonzero(at_rows), np.flatnonzero(at_columns)
            pieces += pieces_of(
                part,
                np.stack([ys, rows[0][ys] + dy, rows[1][ys] + dx]),
                np.stack([xs, columns[0][xs], columns[1][xs]]),
            )
        still = all(p.source == p.target for p in pieces)
        if len(sources) == 1 and (h, w) == old[:2] and still:
            done.append(sources[0])
            continue
        done.append(arrange(walk, f"{name}.move", sources, pieces, f"{tensor}.moved", (h, w, len(own))))
    if len(done) == 1:
        return done[0]
    out = walk.fresh(f"{tensor}.gathered")
    walk.emit(Concat(f"{name}.gather", tuple(done), out), new)
    order = np.empty(c, np.int64)
    order[np.argsort(group, kind="stable")] = np.arange(c)
    if (order == np.arange(c)).all():
        return out
    ordered = walk.fresh(f"{tensor}.ordered")
    walk.emit(selection(f"{name}.order", out, ordered, order), new)
    return ordered
