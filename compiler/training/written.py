"""Nodes of tokens and gates of a trained network in ONNX, tensors (N, C, H, W): for `save.write_onnx`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sateen.compiler.functions import as_expression
from sateen.errors import ModelError
from sateen.ir.functions import FUNCTIONS
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Arrange, Conv, Expression, MatMul, Normalize, Stored

if TYPE_CHECKING:
    from sateen.compiler.training.save import Writer

_COMBINED = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min"}


def matmul(w: Writer, graph: Graph, node: MatMul, x: list[str]) -> str:
    """With the batch of products as dimensions of its own: (N, groups, heads, pixels, channels)."""
    batch = node.batch
    factors = []
    for k, tensor in enumerate(node.inputs):
        groups, heads, pixels, channels = batch.split(k, graph.shapes[tensor])
        if batch.in_channels[k]:  # (N, heads * C, groups, W)
            shape, perm = (heads, channels, groups, pixels), [0, 3, 1, 4, 2]
        else:  # (N, C, groups * heads, W)
            shape, perm = (channels, groups, heads, pixels), [0, 2, 3, 4, 1]
        if k == 1 and batch.transposed:
            perm[3], perm[4] = perm[4], perm[3]
        name = f"{node.name}.{'ab'[k]}"
        factors.append(w.node("Transpose", [w.reshape(x[k], shape, name)], f"{name}.turned", perm=perm))
    y = w.node("MatMul", factors, node.name)
    h, width, c = graph.shapes[node.output]
    perm = [0, 2, 4, 1, 3] if batch.in_channels[2] else [0, 4, 1, 2, 3]
    y = w.node("Transpose", [y], f"{node.name}.turned", perm=perm)
    y = w.reshape(y, (c, h, width), f"{node.name}.joined")
    return w.affine(y, node.scale, node.bias, node.name)


def normalize(w: Writer, graph: Graph, node: Normalize, x: str, scale: np.ndarray, offset: np.ndarray) -> str:
    """Mean, variance and what follows as operators of their own."""
    h, width, c = graph.shapes[node.output]
    name, rows = node.name, node.plane or node.groups > 1
    if node.plane:
        x = w.reshape(x, (node.groups, c // node.groups * h * width), f"{name}.rows")
    elif rows:
        x = w.reshape(x, (node.groups, c // node.groups, h, width), f"{name}.rows")
    axis = 2 if rows else 1
    if node.centred:
        mean = w.node("ReduceMean", [x], f"{name}.mean", axes=[axis], keepdims=1)
        x = w.node("Sub", [x, mean], f"{name}.centred")
    square = w.node("Mul", [x, x], f"{name}.square")
    if node.averaged:
        variance = w.node("ReduceMean", [square], f"{name}.variance", axes=[axis], keepdims=1)
    else:
        axes = w.constant(f"{name}.axes", np.array([axis], np.int64))
        variance = w.node("ReduceSum", [square, axes], f"{name}.variance", keepdims=1)
    epsilon = w.constant(f"{name}.epsilon", np.float32(node.epsilon))
    divisor = w.node("Sqrt", [w.node("Add", [variance, epsilon], f"{name}.positive")], f"{name}.divisor")
    x = w.node("Div", [x, divisor], name)
    if rows:
        x = w.reshape(x, (c, h, width), f"{name}.plane")
    return w.affine(x, scale, offset, name)


def stored(w: Writer, node: Stored, values: np.ndarray, source: str) -> str:
    """The constant, as often as there are samples."""
    name = node.name
    real = w.constant(f"{name}.values", values.transpose(2, 0, 1)[None].astype(np.float32))
    first = w.constant(f"{name}.first", np.array([0], np.int64))
    batch = w.node("Gather", [w.node("Shape", [source], f"{name}.shape"), first], f"{name}.batch", axis=0)
    ones = w.constant(f"{name}.once", np.array([1, 1, 1], np.int64))
    return w.node("Expand", [real, w.node("Concat", [batch, ones], f"{name}.times", axis=0)], name)


def arrange(w: Writer, graph: Graph, node: Arrange, x: list[str]) -> str:
    """The pixels of all parts side by side, of which each output pixel takes one."""
    h, width, c = graph.shapes[node.output]
    planes = [graph.shapes[p][:2] for p in node.parts]
    begin = np.cumsum([0, *(a * b for a, b in planes)])
    index = np.zeros((h, width), np.int64)
    for piece in node.pieces:
        row, column = piece.source.pixels(piece.counts)
        index[piece.target.pixels(piece.counts)] = begin[piece.part] + row * planes[piece.part][1] + column
    rows = [
        w.reshape(part, (c, a * b), f"{node.name}.pixels{k}")
        for k, (part, (a, b)) in enumerate(zip(x, planes, strict=True))
    ]
    pixels = rows[0] if len(rows) == 1 else w.node("Concat", rows, f"{node.name}.pixels", axis=2)
    places = w.constant(f"{node.name}.index", index.ravel())
    taken = w.node("Gather", [pixels, places], f"{node.name}.taken", axis=2)
    return w.reshape(taken, (c, h, width), node.name)


def selected(w: Writer, node: Conv, x: str) -> str:
    """The channels that a selection reads."""
    assert node.channels is not None
    channels = w.constant(f"{node.name}.channels", node.channels.ravel())
    return w.node("Gather", [x, channels], f"{node.name}.selected", axis=1)


def function(w: Writer, node: Activation, x: str) -> str:
    """An expression part by part."""
    made: dict[int, str] = {}
    for k, part in enumerate(as_expression(node).postorder()):
        name = f"{node.name}.{k}"
        made[id(part)] = (
            x if part.function == "x" else _part(w, part, [made[id(a)] for a in part.arguments], name)
        )
    return made[id(as_expression(node))] if node.expression is not None else made[next(reversed(made))]


def _part(w: Writer, part: Expression, x: list[str], name: str) -> str:
    parameters = dict(part.parameters)

    def number(what: str, value: float) -> str:
        return w.constant(f"{name}.{what}", np.float32(value))

    if part.function == "constant":
        return number("value", parameters["value"])
    if part.function in _COMBINED:
        return w.node(_COMBINED[part.function], x, name)
    given = {**FUNCTIONS[part.function].defaults, **parameters}
    match part.function:
        case "affine":
            y = w.node("Mul", [x[0], number("scale", given["scale"])], f"{name}.scaled")
            return w.node("Add", [y, number("offset", given["offset"])], name)
        case "clip":
            ends = [number(end, given[end]) if math.isfinite(given[end]) else "" for end in ("low", "high")]
            return w.node("Clip", [x[0], *ends], name)
        case "gelu" if not given["tanh"]:
            erf = w.node(
                "Erf", [w.node("Div", [x[0], number("root", math.sqrt(2))], f"{name}.scaled")], f"{name}.erf"
            )
            y = w.node(
                "Mul", [x[0], w.node("Add", [erf, number("one", 1)], f"{name}.sum")], f"{name}.product"
            )
            return w.node("Mul", [y, number("half", 0.5)], name)
        case "gelu":
            cube = w.node("Mul", [w.node("Mul", [x[0], x[0]], f"{name}.square"), x[0]], f"{name}.cube")
            cube = w.node("Mul", [cube, number("factor", 0.044715)], f"{name}.third")
            y = w.node("Add", [x[0], cube], f"{name}.inside")
            y = w.node("Mul", [y, number("root", math.sqrt(2 / math.pi))], f"{name}.scaled")
            y = w.node("Add", [w.node("Tanh", [y], f"{name}.tanh"), number("one", 1)], f"{name}.sum")
            return w.node("Mul", [w.node("Mul", [x[0], y], f"{name}.product"), number("half", 0.5)], name)
        case "swish":
            y = w.node("Mul", [x[0], number("alpha", given["alpha"])], f"{name}.scaled")
            return w.node("Mul", [x[0], w.node("Sigmoid", [y], f"{name}.sigmoid")], name)
        case "mish":
            y = w.node("Tanh", [w.node("Softplus", [x[0]], f"{name}.softplus")], f"{name}.tanh")
            return w.node("Mul", [x[0], y], name)
        case "divisor":
            return w.node("Reciprocal", x, name)
    operator = FUNCTIONS[part.function].operator
    if not operator:
        raise ModelError(f"{part.function} '{name}': is not part of a trained network")
    return w.node(operator, x, name, **given)
