"""Files that are quantized already: which formats they need, and how their quantizers fit the machine's.

A quantizer of integers is a range of multiples of its scale, zero among them. It fits any integer format with at
least as many codes: the zero point moves the range to where the codes are, a clip saturates where the file does.
A minifloat fits only its own grid.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sateen.compiler.functions import as_expression, substitute
from sateen.errors import FormatError
from sateen.formats import Format, Integer
from sateen.formats.base import MAX_BITS
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Add, Conv, Expression, Mul, Node, Pool
from sateen.ir.quant import Quantizer

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
        node, clip = node.reading(names), clips.get(node.output)
        pools = isinstance(node, Pool) and node.kind == "max"  # which saturate no value
        if clip is None or pools or not isinstance(node, Conv | Add | Mul | Pool | Activation):
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
