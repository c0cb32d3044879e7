"""Einsum of one or two operands: a batch of matrix products, whatever the order of their dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sateen.compiler.importer import limits
from sateen.compiler.importer.affine import affine
from sateen.compiler.importer.layout import normal
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value
from sateen.compiler.importer.ops_linear import contract
from sateen.compiler.importer.ops_matmul import product
from sateen.compiler.importer.ops_shape import reshaped
from sateen.compiler.importer.walk import Walk


@dataclass(frozen=True, slots=True)
class Equation:
    """The letters of each operand's dimensions, and of the result's."""

    operands: tuple[str, ...]
    result: str
    sizes: dict[str, int]

    def kept(self, letters: str) -> str:
        """Those of `letters` that the result has, in their order."""
        return "".join(c for c in letters if c in self.result)


def equation_of(text: str, shapes: Sequence[tuple[int, ...]]) -> Equation:
    """Raises Unsupported where a letter stands for two sizes, or twice in a term."""
    left, arrow, result = "".join(text.split()).partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise Unsupported(f"'{text}' for {len(shapes)} operands", "export the model again")
    free = [chr(c) for c in range(ord("α"), ord("α") + 16)]  # for dimensions that an ellipsis stands for
    spelled = []
    for term, shape in zip(terms, shapes, strict=True):
        more = len(shape) - len(term.replace("...", ""))
        if more < 0 or (more and "..." not in term):
            raise Unsupported(f"'{text}' does not fit an operand of shape {shape}", "export the model again")
        spelled.append(term.replace("...", "".join(free[len(free) - more :])))
    whole = "".join(spelled)
    if not arrow:  # the ellipsis, then what stands there once, in alphabetical order
        once = sorted(c for c in set(whole) if whole.count(c) == 1 and c not in free)
        result = ("..." if "..." in left else "") + "".join(once)
    result = result.replace("...", "".join(c for c in free if c in whole))
    for letters in (*spelled, result):
        if len(set(letters)) != len(letters):
            raise Unsupported(
                f"'{text}' takes a diagonal", "give each dimension its own letter", limits.PRODUCTS
            )
    sizes: dict[str, int] = {}
    for letters, shape in zip(spelled, shapes, strict=True):
        for c, size in zip(letters, shape, strict=True):
            if sizes.setdefault(c, size) != size:
                raise Unsupported(f"'{text}' of shapes {[*shapes]}", "give dimensions of one letter one size")
    if not set(result) <= set(whole):
        raise Unsupported(f"'{text}' gives a dimension that no operand has", "export the model again")
    return Equation(tuple(spelled), result, sizes)


def einsum(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    operands = [walk.values[i] for i in node.inputs]
    if len(operands) > 2:
        raise Unsupported(f"{len(operands)} operands", "multiply two after another", limits.PRODUCTS)
    shapes = [v.shape if isinstance(v, Value | np.ndarray) else () for v in operands]
    equation = equation_of(node.text("equation", ""), shapes)
    if len(operands) == 1:
        return [summed(walk, node, walk.value(node), equation)]
    a, b = operands
    if isinstance(a, Value) and isinstance(b, Value):
        return [of_two(walk, node, a, b, equation)]
    i = 0 if isinstance(a, Value) else 1
    weight = walk.weights(node, 1 - i)
    assert weight is not None
    letters, others = equation.operands[i], equation.operands[1 - i]
    return [of_constant(walk, node, walk.value(node, i), weight, letters, others, equation)]


def turned(x: Value, letters: str, order: str) -> Value:
    """x, whose dimensions are `letters`, with those of `order`."""
    return Value(x.tensor, tuple(x.layout[letters.index(c)] for c in order), x.host)


def summed(walk: Walk, node: OnnxNode, x: Value, equation: Equation) -> Value:
    """Dimensions in another order, the others summed up."""
    (letters,) = equation.operands
    dims = [d for d, c in enumerate(letters) if c not in equation.result]
    if dims:
        size = math.prod(x.shape[d] for d in dims)
        x = contract(walk, node, x, dims, np.ones((size, 1)), np.zeros(1), keep=False)
    return turned(x, equation.kept(letters), equation.result)


def of_two(walk: Walk, node: OnnxNode, a: Value, b: Value, equation: Equation) -> Value:
    first, second = equation.operands
    summed_alone = [c for c in set(first) ^ set(second) if c not in equation.result]
    if summed_alone:
        raise Unsupported(
            f"'{node.text('equation', '')}' sums '{summed_alone[0]}' of one operand alone",
            "put a ReduceSum before it",
            limits.PRODUCTS,
        )
    batch = equation.kept("".join(c for c in first if c in second))
    m, n = (equation.kept("".join(c for c in x if c not in y)) for x, y in ((first, second), (second, first)))
    k = "".join(c for c in first if c in second and c not in batch)

    def matrices(x: Value, letters: str, rows: str, columns: str) -> Value:
        merged = (normal(f for d in turned(x, letters, own).layout for f in d) for own in (rows, columns))
        return Value(x.tensor, (*turned(x, letters, batch).layout, *merged), x.host)

    y = product(walk, node, matrices(a, first, m, k), matrices(b, second, k, n))
    y = reshaped(walk, node, y, [equation.sizes[c] for c in batch + m + n])
    return turned(y, batch + m + n, equation.result)


def of_constant(
    walk: Walk, node: OnnxNode, x: Value, weight: np.ndarray, letters: str, others: str, equation: Equation
) -> Value:
    """What both have and the result, too, is a block of the diagonal each."""
    if node.input(0) in walk.given or node.input(1) in walk.given:
        raise Unsupported("its constant has scales of the file", "write it as a MatMul")
    alone = [c for c in letters + others if c not in equation.result and not (c in letters and c in others)]
    if alone:
        raise Unsupported(
            f"'{node.text('equation', '')}' sums '{alone[0]}' of one operand alone",
            "sum it before it",
            limits.PRODUCTS,
        )
    k = "".join(c for c in letters if c in others and c not in equation.result)
    shared = equation.kept("".join(c for c in letters if c in others))
    n = equation.kept("".join(c for c in others if c not in letters))
    if not k and not n:
        factor = weight.transpose([others.index(c) for c in shared])
        factor = factor.reshape([equation.sizes[c] if c in others else 1 for c in letters])
        return turned(affine(walk, node, x, factor, 0.0), letters, equation.result)
    if not k:
        raise Unsupported(
            f"'{node.text('equation', '')}' is an outer product", "sum over a dimension", limits.PRODUCTS
        )
    sizes = [math.prod(equation.sizes[c] for c in group) for group in (shared, k, n)]
    blocks = weight.transpose([others.index(c) for c in shared + k + n]).reshape(sizes)
    whole = np.einsum("skn,st->sktn", blocks, np.eye(sizes[0])).reshape(sizes[0] * sizes[1], -1)
    dims = [letters.index(c) for c in shared + k]
    rest = "".join(c for c in letters if c not in shared + k)
    y = contract(walk, node, x, dims, whole, np.zeros(whole.shape[1]), keep=True)
    layout = [d for i, d in enumerate(y.layout) if i not in dims[:-1]]
    at = sum(letters.index(c) < dims[-1] for c in rest)
    made = rest[:at] + shared + n + rest[at:]
    y = reshaped(walk, node, Value(y.tensor, tuple(layout)), [equation.sizes[c] for c in made])
    return turned(y, made, equation.result)
