"""Two computed tensors in one layout, as ONNX broadcasts them.

An operand keeps a single row or column where the other has many: the machine reads it again and again. Channels that
are one for all are selected as often as they are needed, and pixels that are one for some, moved.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import numpy as np

from sateen.compiler.importer.layout import axis_dims
from sateen.compiler.importer.moves import Roles, laid_out, rebuilt, roles_of
from sateen.compiler.importer.nouns import OnnxNode, Undecided, Unsupported, Value
from sateen.compiler.importer.pointwise import raised
from sateen.compiler.importer.walk import Walk
from sateen.ir.nodes import Node, Stored

Shape = tuple[int, ...]


def together(
    walk: Walk, node: OnnxNode, a: Value, b: Value, *, spread: bool = False
) -> tuple[Value, Value] | None:
    """a and b with equal positions at equal places of their IR tensors, one of them the whole result's.

    The other may have a single row or column for all, unless it is to be `spread`. None while the layout of one is
    open. Raises Unsupported for shapes that do not broadcast, and for what cannot be moved.
    """
    a, b = raised(a, b.rank), raised(b, a.rank)
    shape = _shape(a, b)
    if walk.is_open(a) or walk.is_open(b):
        _decide(walk, a, b)
        return None
    if a.shape == b.shape:
        if a.layout != b.layout or walk.hwc(a) != walk.hwc(b):
            roles = roles_of(walk, a)
            a, b = (rebuilt(walk, f"{node.name}.operand{k}", v, roles) for k, v in enumerate((a, b)))
        return a, b
    roles = _roles(walk, a, b, shape)
    single = [[k for k in (0, 1) if _lacks(v, roles[k], shape)] for v in (a, b)]
    kept = [[], []] if spread else [[] if all(single) else single[0], single[1]]  # a is whole if neither is
    a, b = (
        rebuilt(walk, f"{node.name}.operand{k}", v, roles, _picks(v, roles, shape, kept[k]))
        for k, v in enumerate((a, b))
    )
    return a, b


def paired(
    walk: Walk, node: OnnxNode, make: Callable[..., Node], a: Value, b: Value, *, spread: bool = False
) -> Value:
    """What `make` makes of a name, the two tensors and an output."""
    placed = together(walk, node, a, b, spread=spread)
    if placed is None:
        return open_result(walk, node.proto.output[0], a, b)
    whole = max(placed, key=lambda v: math.prod(walk.hwc(v)))
    out = walk.fresh(node.proto.output[0])
    walk.emit(make(node.name, *(v.tensor for v in placed), out), walk.hwc(whole))
    return Value(out, whole.layout)


def stored(walk: Walk, name: str, x: Value, array: np.ndarray) -> Value:
    """A constant of x's rank as a tensor that lies as x does, with one row or column where all are alike."""
    roles = [list(role) for role in roles_of(walk, x)]
    for d, size in enumerate(array.shape):
        if size > 1 and all(d not in role for role in roles):  # where x has one index
            roles[0 if roles[1] else 1].append(d)
    whole = [
        d for k, role in enumerate(roles) for d in role if k == 2 or any(array.shape[e] > 1 for e in role)
    ]
    sizes = {d: max(x.shape[d], array.shape[d]) for d in whole}
    full = np.broadcast_to(array, [sizes.get(d, 1) for d in range(array.ndim)])
    order = [d for role in roles for d in role]
    shape = tuple(math.prod(sizes.get(d, 1) for d in role) for role in roles)
    hwc = shape[0], shape[1], shape[2]
    values = full.transpose(*order, *(d for d in range(array.ndim) if d not in order)).reshape(hwc)
    out = walk.fresh(f"{x.tensor}.constant")
    walk.emit(Stored(name, out, np.array(values, np.float64)), hwc)
    rows, columns, channels = (tuple(role) for role in roles)
    return Value(out, laid_out(Value(out, ((),) * array.ndim), (rows, columns, channels), sizes, hwc))


def stored_beside(walk: Walk, name: str, x: Value, array: np.ndarray, axis: int) -> Value:
    """A constant that lies as x does, beside it along `axis`, where sizes may differ."""
    if x.layout[0] and walk.is_batch(x, 0):
        if (array != array[:1]).any():
            raise Unsupported("its constant differs from sample to sample", "make it the same for all")
        array = array[:1]
    roles = [list(role) for role in roles_of(walk, x)]
    for d, size in enumerate(array.shape):
        if (d == axis or size > 1) and all(d not in role for role in roles):  # where x has one index
            roles[0].insert(0, d)
    order = [d for role in roles for d in role]
    shape = tuple(math.prod(array.shape[d] for d in role) for role in roles)
    hwc = shape[0], shape[1], shape[2]
    values = array.transpose(*order, *(d for d in range(array.ndim) if d not in order)).reshape(hwc)
    out = walk.fresh(f"{x.tensor}.beside")
    walk.emit(Stored(name, out, np.array(values, np.float64)), hwc)
    rows, columns, channels = (tuple(role) for role in roles)
    sizes = {d: array.shape[d] for d in order}
    return Value(out, laid_out(x, (rows, columns, channels), sizes, hwc))


def open_result(walk: Walk, name: str, a: Value, b: Value) -> Value:
    """What stands for the result while the layout of a or b is open."""
    walk.unsure = True
    a, b = raised(a, b.rank), raised(b, a.rank)
    shape = _shape(a, b)
    found = [v for v in (a, b) if v.shape == shape]
    loose = [v for v in (a, b) if walk.is_open(v)]
    return next((v for v in found if walk.is_open(v)), None) or walk.derive(name, shape, loose)


def _shape(a: Value, b: Value) -> Shape:
    if any(m != n and 1 not in (m, n) for m, n in zip(a.shape, b.shape, strict=True)):
        raise Unsupported(
            f"it combines computed tensors of shapes {a.shape} and {b.shape}", "give shapes that broadcast"
        )
    return tuple(max(m, n) for m, n in zip(a.shape, b.shape, strict=True))


def _decide(walk: Walk, a: Value, b: Value) -> None:
    """What the layout of one says about that of the other."""
    if walk.is_open(a) and walk.is_open(b):
        if a.shape == b.shape:
            walk.links.append((a.tensor, b.tensor))
        return
    loose, firm = (a, b) if walk.is_open(a) else (b, a)
    own = axis_dims(walk.hwc(firm))
    if all(d in own for d in firm.layout[1:] if d):
        h, w, c = (loose.layout[firm.layout.index(d)] if d else () for d in own)
        if loose.shape == firm.shape:
            walk.decide(loose, (h, w), c, strength=2)
        else:
            with contextlib.suppress(Undecided):
                walk.decide(loose, (h, w), c, strength=2)


def _roles(walk: Walk, a: Value, b: Value, shape: Shape) -> Roles:
    """Those of the operand that has the shape, or is nearest to it; of what it lacks those of the other."""
    whole, other = sorted((a, b), key=lambda v: -int(np.prod(v.shape)))
    found = [list(role) for role in roles_of(walk, whole)]
    for k, role in enumerate(roles_of(walk, other)):
        found[k] = [d for d in role if all(d not in r for r in found)] + found[k]
    return tuple(found[0]), tuple(found[1]), tuple(found[2])


def _lacks(v: Value, role: Sequence[int], shape: Shape) -> bool:
    """Whether it has one index where the result has several, in every dimension of the role."""
    dims = [d for d in role if shape[d] > 1]
    return bool(dims) and all(v.shape[d] == 1 for d in dims)


def _picks(v: Value, roles: Roles, shape: Shape, kept: Sequence[int]) -> dict[int, np.ndarray]:
    """Index 0 as often as the result has it, in all dimensions but those of the roles `kept`."""
    return {
        d: np.zeros(shape[d], np.int64)
        for k, role in enumerate(roles)
        for d in role
        if k not in kept and v.shape[d] == 1 and shape[d] > 1
    }
