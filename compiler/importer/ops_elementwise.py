"""Activations and arithmetic, element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sateen.compiler.functions import as_expression, constant, substitute
from sateen.compiler.importer import limits
from sateen.compiler.importer.affine import affine
from sateen.compiler.importer.broadcast import paired
from sateen.compiler.importer.masks import added, chosen_by
from sateen.compiler.importer.nouns import OnnxNode, Undecided, Unsupported, Value
from sateen.compiler.importer.ops_quantize import clip_codes
from sateen.compiler.importer.pointwise import aligned, raised
from sateen.compiler.importer.walk import Handler, Walk
from sateen.ir.nodes import Activation, Add, Expression, Maximum, Mul, Node

Parameters = tuple[tuple[str, float], ...]


def activate(walk: Walk, node: OnnxNode, x: Value, activation: Callable[[str], Activation]) -> Value:
    """Emit what `activation(output name)` makes, and remember which function of which tensor it is."""
    if walk.is_open(x):
        return x
    out = walk.fresh(node.proto.output[0])
    made = activation(out)
    walk.emit(made, walk.hwc(x))
    base, inner = walk.unary_of(x)
    walk.unary[out] = base, substitute(as_expression(made), inner)
    return Value(out, x.layout)


def table(walk: Walk, node: OnnxNode, x: Value, function: str, parameters: Parameters = ()) -> Value:
    return activate(walk, node, x, lambda out: Activation(node.name, x.tensor, out, function, parameters))


def clip_to(walk: Walk, node: OnnxNode, x: Value, low: float, high: float) -> Value:
    return activate(
        walk, node, x, lambda out: Activation(node.name, x.tensor, out, "clip", low=low, high=high)
    )


def unary(function: str, defaults: Mapping[str, float]) -> Handler:
    """A handler for an operator whose float attributes are the function's parameters, `defaults` ONNX's."""

    def handle(walk: Walk, node: OnnxNode) -> Sequence[Value]:
        parameters = tuple((name, node.number(name, default)) for name, default in defaults.items())
        return [table(walk, node, walk.value(node), function, parameters)]

    return handle


def relu(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    return [clip_to(walk, node, walk.value(node), 0.0, np.inf)]


def scalar(walk: Walk, node: OnnxNode, i: int, default: float) -> float:
    array = walk.constant(node, i)
    if array is None:
        return default
    if array.size != 1 or np.isnan(float(array.ravel()[0])):
        raise Unsupported(f"input {i} '{node.input(i)}' is not one number", "make it a scalar")
    return float(array.ravel()[0])


def clip(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    if node.opset < 11:
        low, high = node.number("min", -np.inf), node.number("max", np.inf)
    else:
        low, high = scalar(walk, node, 1, -np.inf), scalar(walk, node, 2, np.inf)
    largest = float(np.finfo(np.float32).max)  # exporters write "no limit" this way
    low, high = -np.inf if low <= -largest else low, np.inf if high >= largest else high
    if node.input(0) in walk.codes:
        return [clip_codes(walk, node, walk.value(node), min(low, high), high)]
    return [clip_to(walk, node, walk.value(node), min(low, high), high)]


def gelu(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    tanh = float(node.text("approximate", "none") == "tanh")
    return [table(walk, node, walk.value(node), "gelu", (("tanh", tanh),))]


def prelu(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """One slope is a table; one for each channel is max(x, 0) + slope * min(x, 0)."""
    x = walk.value(node)
    slope = walk.weights(node, 1)
    if slope is None or slope.size == 0:
        raise Unsupported("it has no slope", "export the model again")
    x, _ = aligned(x, slope)
    if (slope != slope.flat[0]).any():
        below = affine(walk, node, clip_to(walk, node, x, -np.inf, 0.0), slope, 0.0)
        return [add_two(walk, node, clip_to(walk, node, x, 0.0, np.inf), below)]
    return [table(walk, node, x, "leaky_relu", (("alpha", float(slope.flat[0])),))]


def add(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """Add and Sum: all computed operands are added one after another, then the constants."""
    values = [walk.values[i] for i in node.inputs]
    computed = [v for v in values if isinstance(v, Value)]
    constants = [added(walk, node, i) for i, v in enumerate(values) if not isinstance(v, Value)]
    total = computed[0]
    for value in computed[1:]:
        total = add_two(walk, node, total, value)
    for array in constants:
        total = affine(walk, node, total, 1.0, array if array is not None else 0.0)
    return [total]


def add_two(walk: Walk, node: OnnxNode, a: Value, b: Value) -> Value:
    return combined(walk, node, "add", Add, a, b)


def combined(
    walk: Walk,
    node: OnnxNode,
    function: str,
    make: Callable[..., Node],
    a: Value,
    b: Value,
    *,
    spread: bool = False,
) -> Value:
    """One table where both are functions of one tensor, else what `make` makes of names and tensors."""
    a, b = raised(a, b.rank), raised(b, a.rank)
    same_function = compose(walk, node, function, a, b)
    if same_function is not None:
        return same_function
    return paired(walk, node, make, a, b, spread=spread)


def compose(walk: Walk, node: OnnxNode, function: str, a: Value, b: Value) -> Value | None:
    """One table for function(a, b) when both are functions of the same tensor, such as x * sigmoid(x)."""
    if a.layout != b.layout or walk.is_open(a) != walk.is_open(b):
        return None
    if walk.is_open(a):
        return a if a.tensor == b.tensor else None
    (base_a, f), (base_b, g) = walk.unary_of(a), walk.unary_of(b)
    if base_a != base_b:
        return None
    return emit_composed(walk, node, Expression(function, (), (f, g)), base_a, a)


def emit_composed(walk: Walk, node: OnnxNode, expression: Expression, base: str, like: Value) -> Value:
    """The expression of tensor `base`, with the layout of `like`."""
    out = walk.fresh(node.proto.output[0])
    walk.emit(Activation(node.name, base, out, "composed", expression=expression), walk.shapes[base])
    walk.unary[out] = base, expression
    return Value(out, like.layout)


def composed(walk: Walk, node: OnnxNode, x: Value, function: str, number: float, first: bool) -> Value:
    """function(number, x) if `first`, else function(x, number)."""
    arguments = (constant(number), Expression("x")) if first else (Expression("x"), constant(number))
    expression = Expression(function, (), arguments)
    return activate(
        walk, node, x, lambda out: Activation(node.name, x.tensor, out, "composed", expression=expression)
    )


def extremum(function: str) -> Handler:
    """Max and Min of any number of operands: the computed ones one after another, then the constants."""

    def handle(walk: Walk, node: OnnxNode) -> Sequence[Value]:
        values = [walk.values[i] for i in node.inputs]
        total, *others = (v for v in values if isinstance(v, Value))
        for other in others:
            total = two_computed(walk, node, function, total, other)
        for c in (walk.weights(node, i) for i, v in enumerate(values) if not isinstance(v, Value)):
            if c is not None:
                total = with_constant(walk, node, function, total, c, False)
        return [total]

    return handle


def binary(function: str) -> Handler:
    """Sub, Mul, Div, Pow and comparisons."""

    def handle(walk: Walk, node: OnnxNode) -> Sequence[Value]:
        if len(node.inputs) != 2:
            raise Unsupported(f"{len(node.inputs)} operands", "use two")
        a, b = (walk.values[i] for i in node.inputs)
        if isinstance(a, Value) and isinstance(b, Value):
            return [two_computed(walk, node, function, a, b)]
        first = not isinstance(a, Value)
        x = walk.value(node, 1 if first else 0)
        c = walk.weights(node, 0 if first else 1)
        if c is None or c.size == 0:
            raise Unsupported("an operand is empty", "export the model again")
        return [with_constant(walk, node, function, x, c, first)]

    return handle


def modulo(walk: Walk, node: OnnxNode) -> Sequence[Value | np.ndarray]:
    """Mod by one number, with the sign of the divisor, or with `fmod` that of the dividend."""
    return binary("fmod" if node.integer("fmod", 0) else "mod")(walk, node)


def with_constant(walk: Walk, node: OnnxNode, function: str, x: Value, c: np.ndarray, first: bool) -> Value:
    if function == "mul":
        return affine(walk, node, x, c, 0.0)
    if function == "sub":
        return affine(walk, node, x, -1.0, c) if first else affine(walk, node, x, 1.0, -c)
    if function in ("div", "mod", "fmod") and not first:
        if (c == 0).any():
            at = [int(i) for i in np.argwhere(c == 0)[0]]
            raise Unsupported(f"its divisor is 0 at index {at}", "export the model again")
        if function == "div":
            return affine(walk, node, x, 1.0 / c, 0.0)
    if function in ("max", "min"):
        return bounded(walk, node, x, c, function == "max")
    x, _ = aligned(x, c)
    if (c != c.flat[0]).any():
        raise Unsupported(
            f"its constant of shape {c.shape} is not one number",
            "only a scalar is supported here",
            limits.NUMBER,
        )
    return composed(walk, node, x, function, float(c.flat[0]), first)


def bounded(walk: Walk, node: OnnxNode, x: Value, c: np.ndarray, below: bool) -> Value:
    """x of at least c, or of at most c: where c is several numbers, 0 bounds what x exceeds them by."""
    x, (c,) = aligned(x, c)
    if (c == c.flat[0]).all():
        number = float(c.flat[0])
        return clip_to(walk, node, x, *((number, np.inf) if below else (-np.inf, number)))
    over = affine(walk, node, x, 1.0, -c)
    return affine(
        walk, node, clip_to(walk, node, over, *((0.0, np.inf) if below else (-np.inf, 0.0))), 1.0, c
    )


def where(walk: Walk, node: OnnxNode) -> Sequence[Value | np.ndarray]:
    """A choice by a function of the tensor between functions of it, or numbers; or by a constant."""
    values = [walk.values[i] for i in node.inputs]
    if isinstance(values[0], np.ndarray) and values[0].size:
        return [chosen_by(walk, node, values[0].astype(bool))]
    rank = max(v.rank if isinstance(v, Value) else np.ndim(v) for v in values if v is not None)
    values = [raised(v, rank) if isinstance(v, Value) else v for v in values]
    x = next(v for v in values if isinstance(v, Value))
    if walk.is_open(x):
        walk.unsure = True
        return [x]
    base = walk.unary_of(x)[0]
    arguments = []
    for i, value in enumerate(values):
        if isinstance(value, Value):
            if value.layout != x.layout or walk.is_open(value) or walk.unary_of(value)[0] != base:
                raise Unsupported(
                    "it chooses between different tensors",
                    "end the model before it and compute it on the host",
                    limits.ONE_TENSOR,
                )
            arguments.append(walk.unary_of(value)[1])
        else:
            arguments.append(constant(scalar(walk, node, i, 0.0)))
    return [emit_composed(walk, node, Expression("where", (), tuple(arguments)), base, x)]


def maximum(name: str, a: str, b: str, output: str) -> Node:
    return Maximum(name, (a, b), output)


def two_computed(walk: Walk, node: OnnxNode, function: str, a: Value, b: Value) -> Value:
    a, b = raised(a, b.rank), raised(b, a.rank)
    found = compose(walk, node, function, a, b)
    if found is not None:
        return found
    match function:
        case "sub":
            return add_two(walk, node, a, affine(walk, node, b, -1.0, 0.0))
        case "mul":
            return combined(walk, node, "mul", Mul, a, b)
        case "div":
            return combined(walk, node, "mul", Mul, a, table(walk, node, b, "divisor"))
        case "max":
            return combined(walk, node, "max", maximum, a, b, spread=True)
        case "min":  # -max(-a, -b)
            a, b = (affine(walk, node, v, -1.0, 0.0) for v in (a, b))
            return affine(walk, node, combined(walk, node, "max", maximum, a, b, spread=True), -1.0, 0.0)
    if walk.is_open(a) or walk.is_open(b):
        raise Undecided("whether both are functions of one tensor is not known", "")
    raise Unsupported(
        f"it combines two computed tensors of shapes {a.shape} and {b.shape}",
        "it takes two only if both are functions of the same one",
        limits.CONSTANT_OR_SAME,
    )
