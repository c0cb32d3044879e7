"""Operators that move no data: they change the layout in which ONNX sees a tensor. Concat and Softmax too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from sateen.compiler.importer import limits
from sateen.compiler.importer.broadcast import stored_beside
from sateen.compiler.importer.domains import QUANTIZERS
from sateen.compiler.importer.layout import Dim, axis_dims, remap, reshape
from sateen.compiler.importer.moves import joined, rebuilt, roles_of
from sateen.compiler.importer.nouns import FLOAT_TYPES, OnnxNode, Unsupported, Value, axis_in
from sateen.compiler.importer.ops_elementwise import activate
from sateen.compiler.importer.ops_linear import need
from sateen.compiler.importer.ops_pool import axes_of
from sateen.compiler.importer.ops_rows import softmax
from sateen.compiler.importer.pointwise import settle
from sateen.compiler.importer.walk import Handler, Walk
from sateen.ir.nodes import Activation, Concat
from sateen.ir.ports import Shape

LAYOUT_OPERATORS = frozenset(
    ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast")
)


def reshaped(walk: Walk, node: OnnxNode, x: Value, shape: Sequence[int]) -> Value:
    """x in another shape; channels in another order are put right if they are in the way."""
    fits = math.prod(shape) == math.prod(x.shape)
    layout = reshape(x.layout, shape) if fits else None
    if layout is None and fits and not x.host:
        for d in range(1, x.rank):
            x = settle(walk, node.name, x, d)
        layout = reshape(x.layout, shape)
    if layout is None and fits and not (x.host or walk.is_open(x)):
        x = _in_line(walk, node.name, x, shape)
        layout = reshape(x.layout, shape)
    if not fits:
        raise Unsupported(
            f"it reshapes {x.shape} to {tuple(shape)}", "give as many elements as its input has"
        )
    if layout is None:
        raise Unsupported(
            f"it reshapes {x.shape} to {tuple(shape)}, which moves data",
            "keep the batch apart, or compute it on the host",
        )
    return Value(x.tensor, layout, x.host)


def _in_line(walk: Walk, name: str, x: Value, shape: Sequence[int]) -> Value:
    """x with those dimensions along one axis, in their order, that a Reshape to `shape` cuts anew."""
    for begin, end, sizes in _cuts(x.shape, shape):
        dims = tuple(range(begin, end))
        if reshape(x.layout[begin:end], sizes) is None and not walk.is_batch(x, *dims):
            rows, columns, channels = (tuple(d for d in role if d not in dims) for role in roles_of(walk, x))
            if channels:
                x = rebuilt(walk, name, x, ((*rows, *columns), dims, channels))
            elif rows or columns:
                x = rebuilt(walk, name, x, (rows, columns, dims))
            else:
                x = rebuilt(walk, name, x, ((), (), dims))
    return x


def _cuts(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Dimensions (first, last + 1) of a shape that become together the sizes given with them, as few as can be."""
    begin = first = 0
    while begin < len(old):
        end, last, have, wanted = begin + 1, first, old[begin], 1
        while have != wanted or (end < len(old) and old[end] == 1 and last == len(new)):
            if have > wanted and last < len(new):
                wanted, last = wanted * new[last], last + 1
            else:
                have, end = have * old[end], end + 1
        yield begin, end, tuple(new[first:last])
        begin, first = end, last


def flatten(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    axis = node.integer("axis", 1)
    axis = x.rank if axis == x.rank else axis_in(axis, x.rank)
    return [reshaped(walk, node, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))]


def reshape_to(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    array = walk.constant(node, 1)
    target = [int(i) for i in (array if array is not None else np.zeros(0)).ravel()]
    if not node.integer("allowzero", 0):
        target = [x.shape[i] if t == 0 and i < x.rank else t for i, t in enumerate(target)]
    if target.count(-1) > 1 or any(t < -1 or t == 0 for t in target):
        raise Unsupported(f"shape {target}", "give positive sizes and at most one -1")
    known = math.prod(t for t in target if t != -1)
    target = [math.prod(x.shape) // known if t == -1 else t for t in target]
    return [reshaped(walk, node, x, target)]


def transpose(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    perm = node.integers("perm", tuple(range(x.rank))[::-1])
    if sorted(perm) != list(range(x.rank)):
        raise Unsupported(f"perm = {list(perm)} on {x.rank} dimensions", "give each dimension once")
    return [Value(x.tensor, tuple(x.layout[p] for p in perm), x.host)]


def squeeze(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    axes = axes_of(walk, node, x.rank)
    if axes is None:
        axes = tuple(d for d, s in enumerate(x.shape) if s == 1 and (d > 0 or not walk.any_batch))
    if any(x.shape[d] != 1 for d in axes):
        raise Unsupported(
            f"axes {list(axes)} of shape {x.shape} are not all 1", "squeeze dimensions of size 1"
        )
    return [reshaped(walk, node, x, [s for d, s in enumerate(x.shape) if d not in axes])]


def unsqueeze(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    x = walk.value(node)
    array = walk.constant(node, 1)
    count = array.size if array is not None else len(node.integers("axes", ()))
    axes = axes_of(walk, node, x.rank + count) or ()
    sizes = iter(x.shape)
    return [reshaped(walk, node, x, [1 if d in axes else next(sizes) for d in range(x.rank + len(axes))])]


def identity(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    return [walk.value(node)]


def dropout(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    training = walk.constant(node, 2) if node.opset >= 12 else None
    if training is not None and training.any():
        raise Unsupported("it is in training mode", "export the model for inference")
    if any(walk.used(o) for o in node.proto.output[1:]):
        raise Unsupported("its second output, the mask, is used", "export the model for inference")
    return [walk.value(node)]


def cast(walk: Walk, node: OnnxNode) -> Sequence[Value | np.ndarray]:
    if isinstance(
        array := walk.values[node.input(0)], np.ndarray
    ):  # like a computed tensor, which is of real numbers
        return [array.astype(np.float32)]
    to = node.integer("to", onnx.TensorProto.FLOAT)
    if node.op_type == "CastLike" and isinstance(like := walk.values[node.input(1)], np.ndarray):
        to = onnx.helper.np_dtype_to_tensor_dtype(like.dtype)
    if to not in FLOAT_TYPES:
        name = onnx.TensorProto.DataType.Name(to) if to in onnx.TensorProto.DataType.values() else str(to)
        raise Unsupported(
            f"it casts a computed tensor to {name.lower()}",
            "cast to floating point; an input that is always the same, such as a mask, is given with --value",
            limits.TO_FLOAT,
        )
    return [walk.value(node)]


def shape(walk: Walk, node: OnnxNode) -> Sequence[np.ndarray]:
    sizes = walk.value(node).shape
    return [np.array(sizes[slice(node.integer("start", 0), node.integer("end", len(sizes)))], np.int64)]


def concat(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    operands = [walk.values[i] for i in node.inputs]
    parts = [v for v in operands if isinstance(v, Value)]
    rank = parts[0].rank
    axis = axis_in(node.integer("axis", 1), rank)
    shapes = [tuple(np.shape(v)) if isinstance(v, np.ndarray) else v.shape for v in operands if v is not None]
    if any(len(s) != rank for s in shapes) or len({s[:axis] + s[axis + 1 :] for s in shapes}) > 1:
        raise Unsupported(f"it joins shapes {shapes} along axis {axis}", "make the other dimensions equal")
    if len(operands) == 1:
        return [parts[0]]
    if any(walk.is_batch(p, axis) for p in parts):
        raise Unsupported("it joins along the batch", "choose another axis, or run the model on each part")
    firm = next((p for p in parts if not walk.is_open(p)), None)
    for p in parts:
        if walk.is_open(p):
            walk.decide(p, beside(walk, p, axis, firm), p.layout[axis], strength=2)
    if any(walk.is_open(p) for p in parts):
        total = sum(s[axis] for s in shapes)
        sizes = [total if d == axis else s for d, s in enumerate(parts[0].shape)]
        return [walk.derive(node.proto.output[0], sizes, parts)]
    parts = [
        v
        if isinstance(v, Value)
        else stored_beside(
            walk, f"{node.name}.part{k}", parts[0], need(walk.weights(node, k), "values"), axis
        )
        for k, v in enumerate(operands)
    ]
    return [
        side_by_side(walk, node, parts, axis) or joined(walk, node.name, node.proto.output[0], parts, axis)
    ]


def side_by_side(walk: Walk, node: OnnxNode, parts: Sequence[Value], axis: int) -> Value | None:
    """The parts' channels, where `axis` is all their channels and all else lies alike; None where it is not."""
    parts = [settle(walk, node.name, p, axis) for p in parts]
    first = walk.hwc(parts[0])
    out_shape: Shape = (first[0], first[1], sum(p.shape[axis] for p in parts))
    layouts = []
    for p in parts:
        hwc = walk.hwc(p)
        own = axis_dims(hwc)[2]
        if p.layout[axis] != own or hwc[:2] != first[:2]:
            return None
        layouts.append(tuple(() if d == axis else remap(x, hwc, out_shape) for d, x in enumerate(p.layout)))
    if any(other != layouts[0] for other in layouts):
        return None
    out = walk.fresh(node.proto.output[0])
    walk.emit(Concat(node.name, tuple(p.tensor for p in parts), out), out_shape)
    layout = tuple(axis_dims(out_shape)[2] if d == axis else x for d, x in enumerate(layouts[0]))
    return Value(out, layout)


def beside(walk: Walk, x: Value, channel: int, firm: Value | None) -> list[Dim]:
    """Rows and columns of an open tensor: those of `firm`, another one that it meets, where that has any."""
    if firm is not None:
        h, w, c = axis_dims(walk.hwc(firm))
        if firm.layout[channel] == c and all(d in firm.layout for d in (h, w) if d):
            return [x.layout[firm.layout.index(d)] if d else () for d in (h, w)]
    return walk.beside(x, channel)


def on_host(kind: str) -> Handler:
    """Softmax and LogSoftmax of a graph output; elsewhere they are the vector unit's, and a table of its results."""

    def handle(walk: Walk, node: OnnxNode) -> Sequence[Value]:
        x = walk.value(node)
        axis = axis_in(node.integer("axis", -1 if node.opset >= 13 else 1), x.rank)
        if node.opset < 13:  # there it is over all dimensions from `axis` on
            large = [d for d in range(axis, x.rank) if x.shape[d] > 1]
            if len(large) > 1:
                raise Unsupported(f"it is over dimensions {large} together", "put a Flatten before it")
            axis = large[0] if large else x.rank - 1
        if walk.is_batch(x, axis):
            raise Unsupported("it is over the batch", "choose another axis")
        if not only_outputs(walk, node.proto.output[0]):
            if kind in ("softmax", "log_softmax"):
                y = softmax(walk, node, x, axis)
                return [y if kind == "softmax" else _logarithm(walk, node, y)]
            raise Unsupported(
                "it is not the last node",
                "only at the end of the model is it supported: the host computes it",
                limits.LAST,
            )
        return [Value(x.tensor, x.layout, (*x.host, (kind, x.layout[axis])))]

    return handle


def _logarithm(walk: Walk, node: OnnxNode, x: Value) -> Value:
    return activate(walk, node, x, lambda out: Activation(f"{node.name}.log", x.tensor, out, "log"))


def only_outputs(walk: Walk, name: str) -> bool:
    """Whether nothing but layout operators and quantizers stands between a tensor and graph outputs."""
    following = [n for n in walk.model.graph.node if name in n.input]
    return all(
        n.op_type in (*LAYOUT_OPERATORS, *QUANTIZERS) and only_outputs(walk, n.output[0]) for n in following
    )
