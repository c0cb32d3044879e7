"""Files that are quantized already: which formats they need, and how their quantizers fit the machine's.

A quantizer of integers is a range of multiples of its scale, zero among them. It fits any integer format with at
least as many codes: the zero point moves the range to where the codes are, a clip saturates where the file does.
A minifloat fits only its own grid.
"""

from __future__ import annotations

import dataclasses
import logging
from fractions import Fraction

import numpy as np

from sateen.compiler.functions import as_expression, substitute
from sateen.compiler.importer.quantizers import rename
from sateen.compiler.quantize.fuse import Pass, Step, fuse
from sateen.errors import DataError, FormatError, ModelError
from sateen.formats import Format, Integer
from sateen.formats.base import MAX_BITS
from sateen.ir.graph import Activation, Add, Conv, Expression, Graph, Node, Pool
from sateen.ir.quant import Quant, Quantizer
from sateen.ir.quantized import Linear, Op

_logger = logging.getLogger("sateen")

COARSE = 0.01
"""Steps of an output, that a bias may lose silently."""
FINE = 0.001
"""What wider weights, once there have to be any, bring that down to."""

# -- formats -----------------------------------------------------------------------------------------


def weight_format(graph: Graph) -> Format | None:
    """The narrowest of the formats of the file's weights that holds all of them; None if it has none.

    Raises FormatError if none does.
    """
    found = {n.given.format: n.name for n in graph.nodes if isinstance(n, Conv) and n.given is not None}
    if not found:
        return None
    bits = max(f.bits + (not f.signed) for f in found)
    together = len(found) > 1 and bits <= MAX_BITS and all(f.uniform for f in found)
    candidates = [*found, *([Integer(bits)] if together else [])]
    for fmt in sorted(candidates, key=lambda f: f.bits):
        if all(_values(f) <= _values(fmt) for f in found):
            return fmt
    raise FormatError(
        f"no one format holds the weights of all layers, and the machine has one: {_formats(found)}; "
        "quantize them alike"
    )


def _values(fmt: Format) -> set[float]:
    fixed = np.unique(fmt.fixed(fmt.codes))
    inside = fixed[(fixed >= fmt.min_fixed) & (fixed <= fmt.max_fixed)]
    return set((inside * 2.0**fmt.lsb_exponent).tolist())


def activation_format(graph: Graph) -> Format | None:
    """A format that all quantizers of tensors fit; None if there are none.

    Raises FormatError if there is no such format.
    """
    found = {q.quant.format: t for t, q in graph.quantizers.items()}
    if not found:
        return None
    if all(f.uniform for f in found):
        codes = max(q.high - q.low for q in graph.quantizers.values())
        only = next(iter(found))
        if len(found) == 1 and codes.bit_length() == only.bits:
            return only
        unsigned = all(q.low >= q.quant.zero_point for q in graph.quantizers.values())
        return Integer(codes.bit_length(), signed=not unsigned)
    if len(found) == 1:
        return next(iter(found))
    for fmt in found:
        if all(_fitted(q, fmt) for q in graph.quantizers.values()):
            return fmt
    raise FormatError(
        f"no one format holds all tensors, and the machine has one: {_formats(found)}; quantize them alike"
    )


def _formats(found: dict[Format, str]) -> str:
    return ", ".join(f"{f.name} (as '{where}')" for f, where in found.items())


def _fitted(quantizer: Quantizer, fmt: Format) -> Quantizer | None:
    """The same quantizer in codes of `fmt`, or None."""
    quant = quantizer.quant
    low, high = quantizer.low - quant.zero_point, quantizer.high - quant.zero_point
    if quant.format == fmt:
        return quantizer
    if fmt.grid != quant.format.grid:
        return None
    if fmt.uniform:
        if high - low > fmt.max_fixed - fmt.min_fixed:
            return None
        zero = 0 if fmt.min_fixed <= low and high <= fmt.max_fixed else fmt.min_fixed - low
        moved = dataclasses.replace(quant, format=fmt, zero_point=zero)
        return Quantizer(moved, low + zero, high + zero)
    if fmt.min_fixed <= quantizer.low and quantizer.high <= fmt.max_fixed:
        return Quantizer(dataclasses.replace(quant, format=fmt), quantizer.low, quantizer.high)
    return None


# -- tensors -----------------------------------------------------------------------------------------


def conform(graph: Graph, fmt: Format) -> Graph:
    """The graph with all quantizers those of `fmt`, saturating where it does; clips saturate where the file does.

    Raises FormatError for a quantizer that does not fit.
    """
    found: dict[str, Quantizer] = {}
    clips: dict[str, Activation] = {}
    for tensor, quantizer in graph.quantizers.items():
        fitted = _fitted(quantizer, fmt)
        if fitted is None:
            raise FormatError(
                f"tensor '{tensor}' is quantized as {quantizer.quant.format.name} ({quantizer}), which {fmt.name} "
                f"activations cannot state exactly; use --activations {quantizer.quant.format.name}, or one with at "
                "least as many codes"
            )
        found[tensor] = Quantizer.whole(fitted.quant)
        if fitted != found[tensor]:
            low, high = fitted.limits
            clips[tensor] = Activation(f"{tensor}.limits", tensor, tensor, "clip", low=low, high=high)
    nodes: list[Node] = []
    shapes = dict(graph.shapes)
    names: dict[str, str] = {}
    for port in graph.inputs:  # the host rounds to the whole format
        if port.name in clips:
            limited = _free(f"{port.name}.limited", shapes)
            nodes.append(dataclasses.replace(clips[port.name], output=limited))
            shapes[limited], found[limited] = shapes[port.name], found[port.name]
            names[port.name] = limited
    for node in graph.nodes:
        node, clip = rename(node, names), clips.get(node.output)
        pools = isinstance(node, Pool) and node.kind == "max"  # which saturate no value
        if clip is None or pools or not isinstance(node, Conv | Add | Pool | Activation):
            nodes.append(node)
        elif isinstance(node, Activation):
            nodes.append(_limited(node, clip))
        else:
            wide = _free(f"{node.output}.unlimited", shapes)
            shapes[wide] = shapes[node.output]
            nodes += [dataclasses.replace(node, output=wide), dataclasses.replace(clip, input=wide)]
    outputs = tuple(dataclasses.replace(o, tensor=names.get(o.tensor, o.tensor)) for o in graph.outputs)
    changed = dataclasses.replace(graph, nodes=tuple(nodes), outputs=outputs, shapes=shapes, quantizers=found)
    changed.verify()
    return changed


def _free(name: str, taken: dict[str, tuple[int, int, int]]) -> str:
    while name in taken:
        name += "_"
    return name


def _limited(node: Activation, clip: Activation) -> Activation:
    """The clip after an activation."""
    if node.function == "bipolar":
        return node  # its two values are inside
    if node.function == "clip":
        low, high = (min(max(b, clip.low), clip.high) for b in (node.low, node.high))
        return dataclasses.replace(node, low=low, high=high)
    bounds = (("low", clip.low), ("high", clip.high))
    outer = Expression("clip", bounds, (Expression("x"),))
    expression = substitute(outer, as_expression(node))
    return Activation(node.name, node.input, node.output, "composed", expression=expression)


# -- weights -----------------------------------------------------------------------------------------


def given_codes(conv: Conv, fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """Codes (O, KH, KW, I/groups) and positive scales (O,) of weights that the file has quantized.

    Raises FormatError if `fmt` lacks one of the values, ModelError if a weight is no multiple of its scale any more.
    """
    assert conv.given is not None
    scale = np.abs(conv.given.scale)
    used = np.any(conv.weight != 0, axis=(1, 2, 3))
    scale = np.where(scale > 0, scale, scale[used].max(initial=0.0) or 1.0)
    exact = conv.weight / scale[:, None, None, None] * 2.0**-fmt.lsb_exponent
    fixed = np.rint(exact)
    if (np.abs(exact - fixed) > 1e-6 * np.maximum(1.0, np.abs(fixed))).any():
        file_lsb = conv.given.format.lsb_exponent
        if file_lsb >= fmt.lsb_exponent:
            raise ModelError(
                f"Conv '{conv.name}': its weights are no longer multiples of the scales that the file gives; "
                "use --sparsity dense, or prune before quantizing"
            )
    codes = fmt.from_fixed(fixed.astype(np.int64))
    lost = (fmt.fixed(codes) != fixed) | (np.abs(exact - fixed) > 1e-6 * np.maximum(1.0, np.abs(fixed)))
    if lost.any():
        at = tuple(int(i) for i in np.argwhere(lost)[0])
        value = exact[at] * 2.0**fmt.lsb_exponent
        raise FormatError(
            f"Conv '{conv.name}': a weight is {value:g} times its scale ({conv.given.format.name} in the file), which "
            f"{fmt.name} does not have; use --weights {conv.given.format.name}, or a wider format"
        )
    return fmt.positive_zero(codes), scale


def refined(
    conv: Conv, codes: np.ndarray, scale: np.ndarray, step: float, fmt: Format
) -> tuple[np.ndarray, np.ndarray]:
    """Codes times a power of two, scales divided by it, where a bias is no whole number of steps of the sum.

    A bias becomes a whole number, so finer steps keep more of one that the file has not quantized. `step` times a
    scale is one step of the sum. The greatest power of two that the format has room for.
    """
    codes, scale = codes.copy(), scale.copy()
    for o in np.flatnonzero(bias_rest(conv.bias, step * scale)):
        fixed = fmt.fixed(codes[o])
        for power in range(fmt.fixed_bits, 0, -1):
            finer = fmt.from_fixed(fixed << power)
            if (fmt.fixed(finer) == fixed << power).all():
                codes[o], scale[o] = finer, scale[o] / (1 << power)
                break
    return codes, scale


def bias_rest(bias: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """What rounding a bias to whole units loses, in units; 0 if that is float32's noise."""
    exact = bias / unit
    rest = np.abs(exact - np.rint(exact))
    return np.where(rest > np.maximum(1e-3, 2e-7 * np.abs(exact)), rest, 0.0)


def room_for_biases(graph: Graph, fmt: Format) -> Format:
    """The format of weights: the file's, or the first wider one that gives biases fine enough steps of the sum."""
    if not fmt.uniform:
        return fmt
    first, where = _worst_bias(graph, fmt)
    lost, wide = first, fmt
    for wider in fmt.wider() if first > COARSE else ():
        if lost <= FINE:
            break
        wide = wider
        lost, _ = _worst_bias(graph, wide)
    if wide is not fmt:
        _logger.warning(
            "weights are %s: at the file's %s the bias of Conv '%s' would shift its output by up to %.2g of its "
            "steps; --weights %s makes the machine smaller",
            wide.name, fmt.name, where, first, fmt.name,
        )  # fmt: skip
    return wide


def _worst_bias(graph: Graph, fmt: Format) -> tuple[float, str]:
    """The most that a bias of a Conv whose weights are in `fmt` loses, in steps of its output; and that Conv's name."""
    worst, where = 0.0, ""
    for step in fuse(graph):
        conv = step.main if isinstance(step, Pass) else None
        if not isinstance(conv, Conv) or conv.given is None or sign_of(step, graph):
            continue
        assert isinstance(step, Pass)
        source, target = (graph.quantizers.get(t) for t in (step.input, step.requantized))
        if source is None or target is None:  # to be calibrated, or read by the host
            continue
        codes, scale = given_codes(conv, fmt)
        lsb = source.quant.format.lsb_exponent + fmt.lsb_exponent
        _, scale = refined(conv, codes, scale, source.quant.scale * 2.0**lsb, fmt)
        if (lost := _lost(conv, scale, source.quant, target.quant, fmt)) > worst:
            worst, where = lost, conv.name
    return worst, where


def _lost(conv: Conv, scale: np.ndarray, source: Quant, target: Quant, fmt: Format) -> float:
    """The most that a bias loses by becoming whole steps of the sum, in steps of the output."""
    unit = scale * source.scale * 2.0 ** (source.format.lsb_exponent + fmt.lsb_exponent)
    lost = bias_rest(conv.bias, unit) * unit
    return float(lost.max(initial=0.0)) / (target.scale * 2.0**target.format.lsb_exponent)


def warn_of_biases(
    graph: Graph, steps: tuple[Step, ...], ops: tuple[Op, ...], quants: dict[str, Quant]
) -> None:
    """Say which layer's bias, of those with the file's weights, loses most by becoming whole steps of the sum."""
    worst, where = COARSE, ""
    for step, op in zip(steps, ops, strict=True):
        conv = step.main if isinstance(step, Pass) else None
        known = isinstance(op, Linear) and not op.raw and op.weight_scale is not None
        if not (isinstance(conv, Conv) and conv.given and known) or sign_of(step, graph):
            continue
        assert isinstance(op, Linear) and op.weight_scale is not None
        lost = _lost(conv, op.weight_scale, quants[step.inputs[0]], op.requantized, op.weight_format)
        if lost > worst:
            worst, where = lost, conv.name
    if where:
        _logger.warning(
            "biases become whole steps of the sum, which shifts the output of Conv '%s' by up to %.2g of its steps: "
            "codes may differ from the file's next to a tie; --weights with more bits has finer steps",
            where,
            worst,
        )


# -- signs -------------------------------------------------------------------------------------------------


def sign_of(step: Step, graph: Graph) -> bool:
    """Whether only the sign of the step's sum counts, which the accumulator has exactly.

    Raises DataError if the sign is that of something rounded before, of which the file does not say how.
    """
    if not isinstance(step, Pass) or step.activation is None or step.activation.function != "bipolar":
        return False
    if step.before in graph.quantizers:
        return False
    if step.main is None or step.residual:
        raise DataError(
            f"BipolarQuant '{step.activation.name}' takes the sign of '{step.before}', an Add or a tensor without a "
            "quantizer, which the machine would round first; put a Quant before it"
        )
    return True


def signs(linear: Linear, step: Pass, source: Quant) -> Linear:
    """The pass, raw until now: accumulators saturate at -1 and 1 instead of being rescaled, biases are rounded down.

    The sum is an integer n of steps u, so n * u + b >= 0 exactly if n + floor(b / u) >= 0.
    """
    assert linear.raw_scale is not None
    fmt = linear.requantized.format
    bias = step.main.bias if isinstance(step.main, Conv) else np.zeros(len(linear.weight))
    sums = linear.weight_format.fixed(linear.weight).reshape(len(linear.weight), -1).sum(axis=1)
    exact = [
        (Fraction(float(b)) / Fraction(float(u))).__floor__() - source.zero_point * int(s)
        for b, u, s in zip(bias, linear.raw_scale, sums, strict=True)
    ]
    wide = any(abs(b) >= 1 << 62 for b in exact)
    lsb = fmt.lsb_exponent - source.format.lsb_exponent - linear.weight_format.lsb_exponent
    zero = 0 if fmt.min_fixed < 0 else 1
    return dataclasses.replace(
        linear,
        bias=np.array(exact, object if wide else np.int64),
        multiplier=np.ones(len(bias), np.int64),
        shift=np.zeros(len(bias), np.int64),
        requantized=Quant(fmt, 1.0, zero),
        raw=False,
        raw_scale=None,
        raw_offset=None,
        weight_scale=np.full(len(bias), 2.0**lsb / source.scale),
    )
