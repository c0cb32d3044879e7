"""Layers of tokens and gates in the reference's training step: products of tensors, softmax, normalization, functions,
and what moves codes. A row each: what it gives forward, and the gradient of an operand.

Either is a list of terms whose exact sum is rounded once, or values, which are codes already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sateen.compiler.functions import evaluate, slope
from sateen.compiler.training.layers import Layer
from sateen.compiler.training.rounding import Term
from sateen.compiler.training.rules import factor
from sateen.compiler.training.scales import fitting
from sateen.compiler.training.values import Gradients, Values
from sateen.errors import DataError
from sateen.formats import Format
from sateen.formats.rows import (
    EPSILON_FRACTION,
    as_rows,
    epsilon_bits,
    exponentials,
    fraction_bits,
    from_rows,
    normalize_rows,
    softmax_rows,
)
from sateen.ir.gradients import MASTER_EXPONENT
from sateen.ir.heads import Batch
from sateen.ir.nodes import Activation, Arrange, Concat, Conv, MatMul, Normalize, Stored
from sateen.ir.pieces import moved
from sateen.sim import gradients
from sateen.sim.exact_sums import ExactSum, largest, products
from sateen.sim.row_gradients import normalize_gradient, softmax_gradient, times

if TYPE_CHECKING:
    from sateen.compiler.training.step import Numpy

Found = list[Term] | Values
N = TypeVar("N")
_STEEPEST = 2.0**16
"""Of a function's slope, for which a scale is chosen."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`forward` takes the pass, the layer and its operands; `back` these, the operand's number, what the layer gave and
    its gradient."""

    forward: Callable[[Numpy, Layer, tuple[Values, ...]], Found]
    back: Callable[[Numpy, Layer, tuple[Values, ...], int, Values, Values], Found]


# -- products of two tensors -------------------------------------------------------------------------------


def _product(passes: Numpy, layer: Layer, operands: tuple[Values, ...]) -> Found:
    node = _node(layer, MatMul)
    return [_multiplied(node, node.batch, operands[0], operands[1])]


def _product_back(
    passes: Numpy, layer: Layer, operands: tuple[Values, ...], at: int, result: Values, gradient: Values
) -> Found:
    """Of A: dC B^T. Of B: A^T dC, or dC^T A where C = A B^T."""
    node = _node(layer, MatMul)
    batch, (a, b) = node.batch, operands
    first, second, product = batch.in_channels
    if at == 0:
        turned = Batch(batch.heads, (product, second, first), not batch.transposed)
        return [_multiplied(node, turned, gradient, b)]
    left, right = (gradient, a) if batch.transposed else (a, gradient)
    where = (product, first, second) if batch.transposed else (first, product, second)
    return [_multiplied(node, Batch(batch.heads, where), left, right, columns=True)]


def _multiplied(node: MatMul, batch: Batch, a: Values, b: Values, columns: bool = False) -> Term:
    """The products of two tensors, or of the first one's transpose and the second, times the node's scale."""

    def apply(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return batch.multiply(x, y, lambda u, v: (u.swapaxes(1, 2) if columns else u) @ v)

    _, _, pixels, channels = batch.split(0, a.data.shape[1:])
    terms = pixels if columns else channels

    def bound(x: np.ndarray, y: np.ndarray) -> int:
        return largest(x) * largest(y) * terms

    sums = products(lambda x, kind: x.astype(kind), apply, bound, a.data, b.data)
    k, shift = factor(float(node.scale.flat[0]))
    while k % 2 == 0:
        k, shift = k // 2, shift - 1
    exponent = a.exponent + b.exponent - shift
    return (sums, exponent) if k == 1 else (times(sums.integers(), np.array([k])), exponent)


def _mul(passes: Numpy, layer: Layer, operands: tuple[Values, ...]) -> Found:
    a, b = operands
    return [(times(a.data, b.data), a.exponent + b.exponent)]


def _mul_back(
    passes: Numpy, layer: Layer, operands: tuple[Values, ...], at: int, result: Values, gradient: Values
) -> Found:
    own, other = operands[at], operands[1 - at]
    spread = [axis for axis in (1, 2) if own.data.shape[axis] != gradient.data.shape[axis]]
    terms = int(np.prod([gradient.data.shape[axis] for axis in spread]))
    found = times(gradient.data, other.data, terms)
    return [(found.sum(axis=tuple(spread), keepdims=True), gradient.exponent + other.exponent)]


# -- functions of rows and of elements ---------------------------------------------------------------------


def _softmax(passes: Numpy, layer: Layer, operands: tuple[Values, ...]) -> Found:
    (x,), fmt = operands, passes.settings.formats[1]
    table = exponentials(fmt.fixed(fmt.codes) * 2.0**x.exponent)
    return [(softmax_rows(_codes(x, fmt), table, fmt), -fraction_bits(fmt))]


def _softmax_back(
    passes: Numpy, layer: Layer, operands: tuple[Values, ...], at: int, result: Values, gradient: Values
) -> Found:
    own, total = softmax_gradient(gradient.data, result.data)
    exponent = gradient.exponent + result.exponent
    return [(own, exponent), (total, exponent + result.exponent)]


def _normalize(passes: Numpy, layer: Layer, operands: tuple[Values, ...]) -> Found:
    (x,), fmt, node = operands, passes.settings.formats[1], _node(layer, Normalize)
    rows = as_rows(x.data.astype(np.int64), node.groups, node.plane)
    y = from_rows(
        normalize_rows(rows, fmt, **_statistics(passes, layer, x)), x.data.shape, node.groups, node.plane
    )
    passes.normalized[layer.name] = y
    exponent = passes.exponent_of_weights(layer) - fraction_bits(fmt)
    return [(times(y, passes.weights[layer.name]), exponent), passes.bias(layer, exponent)]


def _normalize_back(
    passes: Numpy, layer: Layer, operands: tuple[Values, ...], at: int, result: Values, gradient: Values
) -> Found:
    (x,), fmt, node = operands, passes.settings.formats[1], _node(layer, Normalize)
    g = times(gradient.data, passes.weights[layer.name])
    whole = g if g.dtype == object else g.astype(np.int64)
    rows = [as_rows(t, node.groups, node.plane) for t in (whole, x.data.astype(np.int64))]
    found = normalize_gradient(rows[0], rows[1], fmt, **_statistics(passes, layer, x))
    exponent = gradient.exponent + passes.exponent_of_weights(layer) - x.exponent - fraction_bits(fmt)
    return [(from_rows(found, x.data.shape, node.groups, node.plane), exponent)]


def _statistics(passes: Numpy, layer: Layer, x: Values) -> dict[str, Any]:
    """What `normalize_rows` takes beside its row."""
    node, fmt = _node(layer, Normalize), passes.settings.formats[1]
    _, h, w, c = x.data.shape
    count = c // node.groups * (h * w if node.plane else 1) if node.averaged else 1
    epsilon = round(node.epsilon * count**2 * 2.0 ** (EPSILON_FRACTION - 2 * x.exponent))
    if epsilon >> epsilon_bits(fmt):
        raise DataError(
            f"normalization '{layer.name}': epsilon = {node.epsilon:g} is too large for '{layer.input}', of which a "
            f"step is {2.0**x.exponent:.3g}; begin again with a lower --rate or other weights"
        )
    return {"count": count, "epsilon": epsilon, "centred": node.centred}


def _function(passes: Numpy, layer: Layer, operands: tuple[Values, ...]) -> Found:
    (x,), fmt, node = operands, passes.settings.formats[1], _node(layer, Activation)
    codes, name = _codes(x, fmt), passes.plan.groups[layer.output]
    values = evaluate(node, fmt.fixed(fmt.codes) * 2.0**x.exponent)
    scale = passes.scale_of(name, float(np.abs(np.take(values, codes)).max()), fmt)
    table = fmt.fixed(fmt.encode(values * 2.0**-scale)).astype(np.float32)
    return passes.note(name, np.take(table, codes), scale, fmt)


def _function_back(
    passes: Numpy, layer: Layer, operands: tuple[Values, ...], at: int, result: Values, gradient: Values
) -> Found:
    """The gradient times a code of the slope, whose scale is the least for the slopes of all codes."""
    (x,), fmt, node = operands, passes.settings.formats[1], _node(layer, Activation)
    slopes = slope(node, fmt.fixed(fmt.codes) * 2.0**x.exponent)
    most = float(np.abs(slopes).max())
    if not most < _STEEPEST:
        raise DataError(
            f"{node.function} '{layer.name}': its slope reaches {most:g}, training takes less than {_STEEPEST:g}; use "
            "a function without a pole"
        )
    scale = fitting(most, fmt)
    table = fmt.fixed(fmt.encode(slopes * 2.0**-scale)).astype(np.float32)
    exponent = gradient.exponent + scale + fmt.lsb_exponent
    return [(times(gradient.data, np.take(table, _codes(x, fmt))), exponent)]


# -- what moves codes --------------------------------------------------------------------------------------


def _stored(passes: Numpy, layer: Layer, operands: tuple[Values, ...]) -> Found:
    if layer.kind == "stored":
        values = passes.biases[layer.name]
    else:
        values = np.rint(_node(layer, Stored).values * 2.0**-MASTER_EXPONENT).astype(np.int64)
    return [(np.broadcast_to(values, (passes.samples, *values.shape)), MASTER_EXPONENT)]


def _nothing(
    passes: Numpy, layer: Layer, operands: tuple[Values, ...], at: int, result: Values, gradient: Values
) -> Found:
    raise AssertionError("it has no operand")


def _concat(passes: Numpy, layer: Layer, operands: tuple[Values, ...]) -> Found:
    parts, exponent = _aligned(operands)
    named = dict(zip(layer.operands, parts, strict=True))
    joined = np.concatenate([named[p] for p in _node(layer, Concat).parts], axis=3)
    return _codes_or_terms(joined, exponent, operands)


def _concat_back(
    passes: Numpy, layer: Layer, operands: tuple[Values, ...], at: int, result: Values, gradient: Values
) -> Found:
    found, begin, count = np.zeros(operands[at].data.shape), 0, 0
    for part in _node(layer, Concat).parts:
        channels = operands[layer.operands.index(part)].data.shape[3]
        if part == layer.operands[at]:
            found += gradient.data[..., begin : begin + channels]
            count += 1
        begin += channels
    return _summed(found, gradient.exponent, count > 1)


def _arrange(passes: Numpy, layer: Layer, operands: tuple[Values, ...]) -> Found:
    node = _node(layer, Arrange)
    parts, exponent = _aligned(operands)
    named = dict(zip(layer.operands, parts, strict=True))
    return _codes_or_terms(moved([named[p] for p in node.parts], node.pieces), exponent, operands)


def _arrange_back(
    passes: Numpy, layer: Layer, operands: tuple[Values, ...], at: int, result: Values, gradient: Values
) -> Found:
    node = _node(layer, Arrange)
    found = np.zeros(operands[at].data.shape)
    readers = np.zeros(found.shape[1:3], np.int64)
    for piece in node.pieces:
        if node.parts[piece.part] == layer.operands[at]:
            source, target = piece.source.pixels(piece.counts), piece.target.pixels(piece.counts)
            np.add.at(readers, source, 1)
            places: Any = (slice(None), *source)
            np.add.at(found, places, gradient.data[:, target[0], target[1]])
    return _summed(found, gradient.exponent, int(readers.max(initial=0)) > 1)


def _select(passes: Numpy, layer: Layer, operands: tuple[Values, ...]) -> Found:
    (x,) = operands
    at, inside = _selection(layer)
    return [(np.where(inside, x.data[at], np.float32(0)), x.exponent)]


def _select_back(
    passes: Numpy, layer: Layer, operands: tuple[Values, ...], at: int, result: Values, gradient: Values
) -> Found:
    found = np.zeros(operands[0].data.shape)
    where, inside = _selection(layer)
    np.add.at(found, where, np.where(inside, gradient.data, np.float32(0)))
    return [(found, gradient.exponent)]


def _selection(layer: Layer) -> tuple[Any, np.ndarray]:
    """Of each element of the result its samples, row, column and channel in the operand, and whether it has any."""
    node, w = _node(layer, Conv), layer.window
    outputs, _, width, per = node.weight.shape
    reads = node.channels
    if reads is None:
        reads = (np.arange(outputs) // (outputs // node.groups) * per)[:, None] + np.arange(per)
    flat = node.weight.reshape(outputs, -1)
    tap, place = np.divmod(flat.argmax(axis=1), per)
    channel = reads[np.arange(outputs), place]
    rows, columns = w.plane(*layer.plane)
    y = np.arange(rows)[:, None, None] * w.stride[0] + tap // width * w.dilation[0] - w.pads[0]
    x = np.arange(columns)[:, None] * w.stride[1] + tap % width * w.dilation[1] - w.pads[1]
    inside = (y >= 0) & (y < layer.plane[0]) & (x >= 0) & (x < layer.plane[1]) & flat.any(axis=1)
    ends = np.clip(y, 0, layer.plane[0] - 1), np.clip(x, 0, layer.plane[1] - 1)
    return (slice(None), *ends, channel), inside


# -- pieces ------------------------------------------------------------------------------------------------


def learn(passes: Numpy, layer: Layer, x: Values | None, gradient: Values) -> Gradients:
    """Of a normalization's scale and offset, or of what is stored."""
    none = ExactSum(((np.zeros((0, 0, 0)), 0),))
    if layer.kind == "stored":
        total = gradient.data.astype(np.float64).astype(np.int64).sum(axis=0)
        return Gradients(none, 0, total, gradient.exponent)
    y = passes.normalized[layer.name]
    own = times(gradient.data, y, y.size // y.shape[3]).sum(axis=(0, 1, 2))
    exponent = gradient.exponent - fraction_bits(passes.settings.formats[1])
    sums = ExactSum(((own.reshape(layer.shape), 0),))
    return Gradients(sums, exponent, gradients.bias_gradient(gradient.data), gradient.exponent)


def _node(layer: Layer, kind: type[N]) -> N:
    assert isinstance(layer.node, kind)
    return layer.node


def _codes(x: Values, fmt: Format) -> np.ndarray:
    return fmt.from_fixed(x.data.astype(np.int64))


def _aligned(operands: tuple[Values, ...]) -> tuple[list[np.ndarray], int]:
    """All in units of the finest."""
    least = min(v.exponent for v in operands)
    return [v.data if v.exponent == least else v.data * 2.0 ** (v.exponent - least) for v in operands], least


def _codes_or_terms(data: np.ndarray, exponent: int, operands: tuple[Values, ...]) -> Found:
    """Codes, where all operands have one scale."""
    if all(v.exponent == exponent for v in operands):
        return Values(data, exponent)
    return [(data, exponent)]


def _summed(data: np.ndarray, exponent: int, several: bool) -> Found:
    """Codes that moved, unless some of them were added."""
    return [(data, exponent)] if several else Values(data.astype(np.float32), exponent)


KINDS: dict[str, Kind] = {
    "product": Kind(_product, _product_back),
    "mul": Kind(_mul, _mul_back),
    "softmax": Kind(_softmax, _softmax_back),
    "normalize": Kind(_normalize, _normalize_back),
    "function": Kind(_function, _function_back),
    "stored": Kind(_stored, _nothing),
    "constant": Kind(_stored, _nothing),
    "concat": Kind(_concat, _concat_back),
    "arrange": Kind(_arrange, _arrange_back),
    "select": Kind(_select, _select_back),
}
