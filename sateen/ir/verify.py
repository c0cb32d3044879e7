"""What a quantized graph keeps, rule by rule: what tests, engines and the compiler take for granted.

The rules are checked after every pass and on loading, so that a pass that breaks one, or a damaged file, ends in one
line. Those that come first make the others safe to ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np

from sateen.errors import ModelError
from sateen.formats import Format
from sateen.formats.digits import two_digits
from sateen.formats.rows import MANTISSA_BITS, MOST_ELEMENTS, Exponentials, epsilon_bits, fraction_bits
from sateen.ir.gradients import Gating
from sateen.ir.pieces import covered
from sateen.ir.quant import Quant
from sateen.ir.quantized import (
    Arrange,
    ComputedConv,
    Concat,
    Constant,
    Factor,
    Gradient,
    Linear,
    MatMul,
    Maximum,
    Normalize,
    QuantizedGraph,
    QuantizedOp,
    Softmax,
    Stored,
    Summed,
    Tensor,
    WeightGradient,
)
from sateen.ir.sums import FACTOR_MAX, MULTIPLIER_MAX, SHIFT_MAX


def verify(
    graph: QuantizedGraph, *, after: str, folded: Collection[str] = (), reshaped: Collection[str] = ()
) -> QuantizedGraph:
    """The graph itself; ModelError with the first rule that it breaks, and the op or tensor that breaks it.

    Parameters
    ----------
    after : the pass that made the graph, for the error
    folded : inputs whose kernel taps the host brings as channels: they have not the port's shape, and the weights
        that read them obey a pattern along the channels of each tap
    reshaped : inputs and outputs that hold several samples, and have not the port's shape either
    """
    found = broken(graph, folded, reshaped)
    if found is not None:
        raise ModelError(
            f"the quantized graph is wrong after {after}: {found[1]}; this is an error of the compiler"
        )
    return graph


def broken(
    graph: QuantizedGraph, folded: Collection[str] = (), reshaped: Collection[str] = ()
) -> tuple[Rule, str] | None:
    """The first rule that the graph breaks, and how; None if it keeps all."""
    for rule in RULES:
        for subject, where in _subjects(graph, rule, folded, reshaped):
            if (found := rule.found(graph, subject)) is not None:
                return rule, f"{where}{rule.says}; found {found}"
    return None


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    kind: type
    """What it is about: the graph, a tensor, an op, a kind of op, or a constant."""
    says: str
    found: Callable[[QuantizedGraph, Any], str | None]
    """What is there instead; None where the rule is kept."""


def _subjects(
    graph: QuantizedGraph, rule: Rule, folded: Collection[str], reshaped: Collection[str]
) -> Iterable[tuple[Any, str]]:
    """All that a rule is about, and how a message begins."""
    if rule.kind is QuantizedGraph:
        return [(graph, "")]
    if rule.kind is Tensor:
        return [(t, f"tensor '{name}': ") for name, t in graph.tensors.items()]
    if rule.kind is _Port:
        ports = [*((p, p.name) for p in graph.inputs if p.name not in folded)]
        ports += [(o.port, o.tensor) for o in graph.outputs]
        kept_shape = ((p, tensor) for p, tensor in ports if tensor not in reshaped)
        return [(_Port(p.hwc, tensor), f"port '{p.name}': ") for p, tensor in kept_shape]
    ops = [(op, f"{type(op).__name__} '{op.name}': ") for op in graph.ops]
    if rule.kind is Constant:
        kept = [
            (op, where) for op, where in ops if rule.name != "pattern" or not set(op.inputs) & set(folded)
        ]
        return [(c, where) for op, where in kept for c in op.constants]
    return [(op, where) for op, where in ops if isinstance(op, rule.kind)]


@dataclass(frozen=True, slots=True)
class _Port:
    shape: tuple[int, int, int]
    tensor: str


# -- the graph ---------------------------------------------------------------------------------------------


def _strangers(graph: QuantizedGraph, _: object) -> str | None:
    return next((type(op).__name__ for op in graph.ops if not isinstance(op, QuantizedOp)), None)


def _order(graph: QuantizedGraph, _: object) -> str | None:
    written = {p.name for p in graph.inputs}
    for op in graph.ops:
        for name in op.inputs:
            if name not in written:
                return f"'{name}', which '{op.name}' reads and nothing before it writes"
        if op.output in written:
            return f"'{op.output}', which '{op.name}' writes again"
        written.add(op.output)
    missing = (o for o in graph.outputs if o.tensor not in written)
    return next((f"'{o.tensor}', the output '{o.port.name}', which nothing writes" for o in missing), None)


def _listed(graph: QuantizedGraph, _: object) -> str | None:
    names = {p.name for p in graph.inputs} | {t for op in graph.ops for t in (*op.inputs, op.output)}
    return next((f"'{name}', which is not" for name in sorted(names - set(graph.tensors))), None)


def _raw_read(graph: QuantizedGraph, _: object) -> str | None:
    raw = {op.output for op in graph.ops if op.raw}
    reads = ((op, t) for op in graph.ops for t in op.inputs if t in raw)
    return next((f"'{t}', which '{op.name}' reads" for op, t in reads), None)


def _one_format(graph: QuantizedGraph, _: object) -> str | None:
    formats = {t.quant.format for t in graph.tensors.values()}
    if any(isinstance(op, get_args(Gradient)) for op in graph.ops) and len({f.bits for f in formats}) == 1:
        formats = set() if len(formats) == 2 else formats  # of activations and of gradients
    activations = sorted(f.name for f in formats)
    weights = sorted({c.format.name for op in graph.ops for c in op.constants})
    several = (names for names in (activations, weights) if len(names) > 1)
    return next((", ".join(names) for names in several), None)


def _kept_format(graph: QuantizedGraph, op: Linear | ComputedConv) -> str | None:
    names = (op.input, op.output, *([op.residual.input] if op.residual else []))
    found = sorted({graph.tensors[t].quant.format.name for t in names})
    return ", ".join(found) if len(found) > 1 and not op.raw else None


def _ports(graph: QuantizedGraph, port: _Port) -> str | None:
    shape, (h, w, c) = graph.tensors[port.tensor].shape, port.shape
    terms = any(p.name == port.tensor for p in graph.inputs) and shape[2] % c == 0
    return None if shape[:2] == (h, w) and (shape[2] == c or terms) else f"{port.shape} for {shape}"


# -- tensors -----------------------------------------------------------------------------------------------


def _shape_of_tensor(graph: QuantizedGraph, tensor: Tensor) -> str | None:
    good = len(tensor.shape) == 3 and all(type(n) is int and n >= 1 for n in tensor.shape)
    return None if good else repr(tensor.shape)


def _quant_of_tensor(graph: QuantizedGraph, tensor: Tensor) -> str | None:
    return _quant(tensor.quant)


def _quant(quant: Quant) -> str | None:
    fmt = quant.format
    if not (math.isfinite(quant.scale) and quant.scale > 0):
        return f"a scale of {quant.scale}"
    if not fmt.min_fixed <= quant.zero_point <= fmt.max_fixed:
        return f"a zero point of {quant.zero_point} in {fmt.name}"
    return None


# -- ops ---------------------------------------------------------------------------------------------------


def _window(graph: QuantizedGraph, op: QuantizedOp) -> str | None:
    w = op.window
    good = min(*w.kernel, *w.stride, *w.dilation) >= 1
    return None if good else f"kernel {w.kernel}, stride {w.stride}, dilation {w.dilation}"


def _shape(graph: QuantizedGraph, op: QuantizedOp) -> str | None:
    made = op.shape({t: graph.tensors[t].shape for t in op.inputs})
    stated = graph.tensors[op.output].shape
    return None if made == stated else f"{made}, and '{op.output}' of {stated}"


def _kept_codes(graph: QuantizedGraph, op: QuantizedOp) -> str | None:
    quant = graph.tensors[op.output].quant
    other = (t for t in op.inputs if graph.tensors[t].quant != quant)
    return next((f"'{t}' with another" for t in other), None) if op.keeps_codes else None


def _planes(graph: QuantizedGraph, op: Concat) -> str | None:
    planes = {graph.tensors[t].shape[:2] for t in op.parts}
    return None if len(planes) == 1 else ", ".join(map(str, sorted(planes)))


def _operands(graph: QuantizedGraph, op: Maximum) -> str | None:
    shapes = {graph.tensors[t].shape for t in op.parts}
    return None if len(op.parts) == 2 and len(shapes) == 1 else ", ".join(map(str, sorted(shapes)))


def _pieces(graph: QuantizedGraph, op: Arrange) -> str | None:
    shapes, plane = [graph.tensors[t].shape for t in op.parts], graph.tensors[op.output].shape[:2]
    if len({s[2] for s in shapes}) != 1:
        return f"parts of {', '.join(str(s[2]) for s in shapes)} channels"
    if not all(0 <= p.part < len(shapes) and min(p.counts) >= 1 for p in op.pieces):
        return "a piece of no part, or of no pixels"
    moved = sum(math.prod(p.counts) for p in op.pieces)  # before anything is made as large as that
    if moved != math.prod(plane):
        return f"{moved} pixels for {plane[0]} x {plane[1]}"
    for p in op.pieces:
        height, width, _ = shapes[p.part]
        (top, bottom), (left, right) = p.source.rows(p.counts), p.source.columns(p.counts)
        if min(top, left) < 0 or bottom > height or right > width:
            return f"pixels outside of '{op.parts[p.part]}', which is {height} x {width}"
    return None if covered(op.pieces, plane) else f"others than each of the {plane[0]} x {plane[1]}"


def _weight_shape(graph: QuantizedGraph, op: Linear) -> str | None:
    if op.weight.codes.ndim != 4 or 0 in op.weight.shape:
        return f"a weight of {op.weight.shape}"
    outputs, _, _, inputs = op.weight.shape
    channels = graph.tensors[op.input].shape[2]
    if op.channels is None:
        good = op.groups >= 1 and outputs % op.groups == 0 and inputs * op.groups == channels
    else:
        good = op.groups == outputs and op.channels.shape == (outputs, inputs)
        good = good and int(op.channels.min()) >= 0 and int(op.channels.max()) < channels
    return None if good else f"a weight of {op.weight.shape} in {op.groups} groups for {channels} channels"


def _product(graph: QuantizedGraph, op: MatMul) -> str | None:
    shapes = [graph.tensors[t].shape for t in op.factors]
    try:
        op.batch.shape(shapes[0], shapes[1])
    except ValueError as e:
        return str(e)
    found = op.batch.split(0, shapes[0])[3]
    return None if found == op.reduction else f"{found} for {op.reduction}"


def _symmetric(graph: QuantizedGraph, op: MatMul) -> str | None:
    zeros = ((t, graph.tensors[t].quant.zero_point) for t in op.factors)
    return next((f"{zero} in '{t}'" for t, zero in zeros if zero), None)


def _digits(graph: QuantizedGraph, op: MatMul) -> str | None:
    if op.digits is None:
        return None
    fmt = graph.tensors[op.weight].quant.format
    good = op.digits == two_digits(fmt, op.digits.digit)
    return None if good else f"digits {op.digits.digit.name} of {op.digits.whole.name} for {fmt.name}"


def _per_channel(graph: QuantizedGraph, op: Summed) -> str | None:
    wanted = (graph.tensors[op.output].shape[2],)
    names = ("bias", "multiplier", "shift", "raw_scale", "raw_offset")
    fields = {name: getattr(op, name) for name in names}
    if isinstance(op, Linear):
        wanted = (op.weight.shape[0],)
        fields["weight's scale"] = op.weight.scale
    wrong = (f"{name} of {a.shape}" for name, a in fields.items() if a is not None and a.shape != wanted)
    return next(wrong, None)


def _multipliers(graph: QuantizedGraph, op: Summed) -> str | None:
    return None if op.raw else _outside(op.multiplier, 1, MULTIPLIER_MAX)


def _shifts(graph: QuantizedGraph, op: Summed) -> str | None:
    return None if op.raw else _outside(op.shift, 0, SHIFT_MAX)


def _outside(values: np.ndarray, low: int, high: int) -> str | None:
    wrong = np.flatnonzero((values < low) | (values > high))
    return f"{values[wrong[0]]} for channel {wrong[0]}" if len(wrong) else None


def _requantized(graph: QuantizedGraph, op: Summed) -> str | None:
    fmt = graph.tensors[op.output].quant.format
    if op.requantized.format != fmt:
        return f"{op.requantized.format.name} for {fmt.name}"
    return _quant(op.requantized)


def _clamp(graph: QuantizedGraph, op: Summed) -> str | None:
    fmt = op.requantized.format
    good = fmt.min_fixed <= op.low <= op.high <= fmt.max_fixed
    return None if good else f"{op.low} to {op.high} in {fmt.name}"


def _table(graph: QuantizedGraph, op: Summed) -> str | None:
    if op.table is None:
        return None
    if op.table.shape != (1 << op.requantized.format.bits,):
        return f"a shape of {op.table.shape} for {op.requantized.format.name}"
    return _codes(op.table, graph.tensors[op.output].quant.format)


def _residual(graph: QuantizedGraph, op: Summed) -> str | None:
    if op.residual is None:
        return None
    r, shape = op.residual, graph.tensors[op.output].shape
    own = graph.tensors[r.input]
    if own.shape[2] != shape[2] or any(n not in (1, m) for n, m in zip(own.shape, shape, strict=True)):
        return f"'{r.input}' of {own.shape} for {shape}"
    if isinstance(r, Factor):
        before = own.quant.zero_before or op.requantized.zero_before
        return f"zero points that {own.quant.format.name} adds before it rounds" if before or op.raw else None
    least = int(op.shift.min())
    good = not op.raw and 1 <= r.multiplier <= MULTIPLIER_MAX and 0 <= r.shift <= least
    return None if good else f"multiplier {r.multiplier}, shift {r.shift} where the least shift is {least}"


def _added(graph: QuantizedGraph, op: MatMul) -> str | None:
    if op.residual is None:
        return None
    rows, wanted = (graph.tensors[t].shape[0] for t in (op.residual.input, op.output))
    return f"{rows} rows of '{op.residual.input}' for {wanted}" if rows != wanted else _residual(graph, op)


def _raw(graph: QuantizedGraph, op: Summed) -> str | None:
    if not op.raw:
        return None
    if op.table is not None or op.raw_scale is None:
        return "a table" if op.table is not None else "no scale"
    finite = all(np.isfinite(a).all() for a in (op.raw_scale, op.raw_offset) if a is not None)
    return None if finite else "a scale or offset that is not finite"


def _rows(graph: QuantizedGraph, op: Softmax | Normalize) -> str | None:
    channels = graph.tensors[op.input].shape[2]
    wanted = (channels if isinstance(op, Normalize) else 1,)
    fields = {"bias": op.bias, "multiplier": op.multiplier, "shift": op.shift}
    wrong = (f"{name} of {a.shape}" for name, a in fields.items() if a.shape != wanted)
    if (found := next(wrong, None)) is not None:
        return found
    fmt = graph.tensors[op.output].quant.format
    if op.fraction != fraction_bits(fmt):
        return f"{op.fraction} bits behind the point in {fmt.name}"
    return _outside(np.abs(op.multiplier), 1, FACTOR_MAX) or _outside(op.shift, 0, SHIFT_MAX)


def _trained_weight(graph: QuantizedGraph, op: ComputedConv) -> str | None:
    taps, inputs, outputs = graph.tensors[op.weight].shape
    read, reduction = graph.tensors[op.input].shape[2], outputs if op.transposed else inputs
    good = taps == math.prod(op.kernel) and read == reduction == op.reduction
    return None if good else f"a weight of {(taps, inputs, outputs)} for {op.reduction} of {read} channels"


def _transposed_plane(graph: QuantizedGraph, op: ComputedConv) -> str | None:
    if not op.transposed:
        return None
    made = op.window.plane(*op.plane)
    return (
        None if made == graph.tensors[op.input].shape[:2] else f"{op.plane}, of which the window makes {made}"
    )


def _trained_residual(graph: QuantizedGraph, op: ComputedConv) -> str | None:
    if op.residual is None:
        return None
    r, shape = op.residual, graph.tensors[op.output].shape
    if graph.tensors[r.input].shape != shape:
        return f"'{r.input}' of {graph.tensors[r.input].shape} for {shape}"
    least = int(op.shift.min())
    good = not op.raw and 1 <= r.multiplier <= MULTIPLIER_MAX and 0 <= r.shift <= least
    return None if good else f"multiplier {r.multiplier}, shift {r.shift} where the least shift is {least}"


def _gradient_plane(graph: QuantizedGraph, op: WeightGradient) -> str | None:
    h, w, _ = graph.tensors[op.input].shape
    own = graph.tensors[op.gradient].shape[:2]
    good = op.window.plane(h, w) == own and op.pixels == math.prod(own)
    return None if good else f"{op.pixels} pixels of {own}, where the window makes {op.window.plane(h, w)}"


def _gated(graph: QuantizedGraph, op: Gating) -> str | None:
    shapes = {graph.tensors[t].shape for t in (op.input, op.compared)}
    return None if len(shapes) == 1 else ", ".join(map(str, sorted(shapes)))


def _no_zero_points(graph: QuantizedGraph, op: QuantizedOp) -> str | None:
    if not isinstance(op, get_args(Gradient)):
        return None
    wrong = (t for t in (*op.inputs, op.output) if graph.tensors[t].quant.zero_point)
    return next((f"'{t}' with {graph.tensors[t].quant.zero_point}" for t in wrong), None)


def _statistics(graph: QuantizedGraph, op: Normalize) -> str | None:
    h, w, c = graph.tensors[op.input].shape
    if op.groups < 1 or c % op.groups:
        return f"{op.groups} groups of {c} channels"
    elements = c // op.groups * (h * w if op.plane else 1)
    if op.elements != elements or op.count not in (1, elements) or elements > MOST_ELEMENTS:
        return f"rows of {op.elements} elements, of which {op.count} count, where there are {elements}"
    if op.groups > 1 and not op.plane:
        return "groups in each pixel"
    bits = epsilon_bits(graph.tensors[op.input].quant.format)
    return None if 0 <= op.epsilon < 1 << bits else f"an epsilon of {op.epsilon}"


def _exponentials(graph: QuantizedGraph, op: Softmax) -> str | None:
    fmt = graph.tensors[op.input].quant.format
    if op.exponentials.shape != (1 << fmt.bits,) or op.exponentials.dtype != np.uint32:
        return f"{op.exponentials.dtype} {op.exponentials.shape} for {fmt.name}"
    if graph.tensors[op.input].shape[2] > MOST_ELEMENTS:
        return f"rows of {graph.tensors[op.input].shape[2]} elements"
    table = Exponentials.of_words(op.exponentials)
    return (
        None if int(table.mantissa.min()) >= 1 << MANTISSA_BITS - 1 else "a mantissa without its leading one"
    )


# -- constants ---------------------------------------------------------------------------------------------


def _constant(graph: QuantizedGraph, c: Constant) -> str | None:
    return _codes(c.codes, c.format)


def _stored(graph: QuantizedGraph, op: Stored) -> str | None:
    return _codes(op.codes, graph.tensors[op.output].quant.format)


def _codes(codes: np.ndarray, fmt: Format) -> str | None:
    if codes.dtype != fmt.code_dtype:
        return f"{codes.dtype} codes"
    allowed = _allowed(fmt)
    if fmt.bits == 8 * codes.itemsize and allowed.all():
        return None
    if int(codes.max(initial=0)) >= 1 << fmt.bits:
        return f"a code of {codes.max()} in {fmt.name}"
    wrong = None if allowed.all() else codes[~np.take(allowed, codes)]
    return (
        None if wrong is None or not len(wrong) else f"a code of {wrong[0]} in {fmt.name}, which is no number"
    )


@lru_cache(maxsize=64)
def _allowed(fmt: Format) -> np.ndarray:
    """Which codes are numbers, (2**bits,)."""
    return np.isfinite(fmt.decode(np.arange(1 << fmt.bits)))


def _pattern(graph: QuantizedGraph, c: Constant) -> str | None:
    if c.sparsity.dense:
        return None
    n, m = c.sparsity.n, c.sparsity.m
    nonzero = c.format.fixed(np.arange(1 << c.format.bits)) != 0
    kept = np.take(nonzero, c.codes).reshape(-1, c.shape[-1]).view(np.uint8)
    counts = np.add.reduceat(kept, np.arange(0, c.shape[-1], m), axis=1, dtype=np.uint16)
    most = int(counts.max(initial=0))
    return None if most <= n else f"{most} of {m} for {c.sparsity}"


RULES: tuple[Rule, ...] = (
    Rule("ops", QuantizedGraph, "ops are those of ir.quantized", _strangers),
    Rule("order", QuantizedGraph, "a tensor is written once, before it is read", _order),
    Rule("listed", QuantizedGraph, "every tensor has an entry in `tensors`", _listed),
    Rule("tensor", Tensor, "a tensor is (H, W, C), each at least 1", _shape_of_tensor),
    Rule("quant", Tensor, "a scale is positive, and a zero point a number of the format", _quant_of_tensor),
    Rule(
        "formats", QuantizedGraph, "all tensors have one format, in a training step gradients perhaps another of as "
        "many bits, and all weights have one", _one_format,
    ),
    Rule("kept format", Linear, "what is read, added and given has one format", _kept_format),
    Rule("trained format", ComputedConv, "what is read, added and given has one format", _kept_format),
    Rule("ports", _Port, "a port has its tensor's shape, an input perhaps several terms of it", _ports),
    Rule("raw results", QuantizedGraph, "exact sums are read by no op", _raw_read),
    Rule("weight", Linear, "the weight is (O, KH, KW, I / groups)", _weight_shape),
    Rule("product", MatMul, "operands are heads of one size, and have the elements that are summed over", _product),
    Rule("symmetric", MatMul, "both operands have zero point 0", _symmetric),
    Rule("digits", MatMul, "digits are those of the second operand's format", _digits),
    Rule("per channel", Summed, "a number for each output channel", _per_channel),
    Rule("pieces", Arrange, "every pixel is written once, from pixels of its parts", _pieces),
    Rule("window", QuantizedOp, "kernel, stride and dilation are at least 1", _window),
    Rule("planes", Concat, "parts have equal rows and columns", _planes),
    Rule("operands", Maximum, "both tensors have one shape", _operands),
    Rule("shape", QuantizedOp, "an output has the shape that its op makes", _shape),
    Rule("kept codes", QuantizedOp, "an op that keeps codes reads and writes one Quant", _kept_codes),
    Rule("codes", Constant, "codes are numbers of their format", _constant),
    Rule("stored", Stored, "stored codes are numbers of the tensor's format", _stored),
    Rule("pattern", Constant, "weights obey their N:M pattern along the last axis", _pattern),
    Rule("multiplier", Summed, f"multipliers are 1 to {MULTIPLIER_MAX}", _multipliers),
    Rule("shift", Summed, f"shifts are 0 to {SHIFT_MAX}", _shifts),
    Rule("requantized", Summed, "a sum is rounded to the output's format", _requantized),
    Rule("clamp", Summed, "the clamp goes up, within the format", _clamp),
    Rule("table", Summed, "a table has a code of the output's format for each code before it", _table),
    Rule(
        "residual", Linear, "a residual has the output's shape, or one row or column for all; one that is added a "
        f"multiplier of 1 to {MULTIPLIER_MAX}, and a shift of at most the least of the channels'", _residual,
    ),
    Rule("added", MatMul, "what is added has the output's rows, factors as Linear's", _added),
    Rule("rows", Softmax, "a row's results have one factor, within the multiplier's bits", _rows),
    Rule("exponentials", Softmax, "an exponential for each code, of rows that can be counted", _exponentials),
    Rule("channels", Normalize, "a row's results have a factor for each channel, within the multiplier's bits", _rows),
    Rule("statistics", Normalize, "rows are a pixel's channels, or groups of the plane's", _statistics),
    Rule("trained weight", ComputedConv, "a weight is (taps, inputs, outputs)", _trained_weight),
    Rule("transposed plane", ComputedConv, "the window over the output makes the input", _transposed_plane),
    Rule("trained residual", ComputedConv, "a residual has the output's shape, factors as Linear's", _trained_residual),
    Rule("gradient", WeightGradient, "the window over the input makes the gradient's pixels", _gradient_plane),
    Rule("gate", Gating, "a gradient has the shape of what it is compared with", _gated),
    Rule("no zero points", QuantizedOp, "of a training step's tensors zero points are 0", _no_zero_points),
    Rule("raw", Summed, "exact sums have scales, and no table", _raw),
)  # fmt: skip
