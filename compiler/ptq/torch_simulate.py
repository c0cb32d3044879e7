"""The quantized network in torch: rounding where the integers round, with a gradient through it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from sateen.compiler.ptq.torch_graph import as_tensor, channels_second, run_node
from sateen.compiler.ptq.torch_rounding import Rounded, rounded
from sateen.formats import Format
from sateen.ir.fused import FusedGraph
from sateen.ir.nodes import Conv, Node
from sateen.ir.quantized import Quant

Tensors = dict[str, torch.Tensor]
Rule = tuple[torch.Tensor, Format, float]
"""How a tensor is rounded: scale, format, zero point as a value of the format."""
Folded = Mapping[str, tuple[tuple[str, int], ...]]
"""Of each Conv the tensors whose zero points are in its bias, if they are minifloats, and with what sign."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A Conv as quantized: weight (O, I / groups, KH, KW) and bias (O,) in real numbers, the weight's scales (O,)."""

    weight: torch.Tensor
    bias: torch.Tensor
    scale: torch.Tensor
    format: Format
    folded: tuple[tuple[str, int], ...]


def run(
    nodes: Iterable[Node],
    tensors: Mapping[str, torch.Tensor],
    layers: Mapping[str, Layer],
    rules: Mapping[str, Rule],
    drop: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensors:
    """All tensors after the nodes. A share `drop` of the elements is left as it is before its rounding."""
    tensors = dict(tensors)
    for node in nodes:
        inputs = [tensors[i] for i in node.inputs]
        if isinstance(node, Conv) and node.name in layers:
            layer = layers[node.name]
            y = run_node(node, inputs, layer.weight, whole_bias(layer, rules.get(node.input), rules))
        else:
            y = run_node(node, inputs)
        if node.output in rules:
            y = mixed(y, rounded(y, *rules[node.output]), drop, generator)
        tensors[node.output] = y
    return tensors


def whole_bias(layer: Layer, source: Rule | None, rules: Mapping[str, Rule]) -> torch.Tensor:
    """The bias as the integers have it: in units of the accumulator, and so are the zero points that it holds."""
    if source is None:
        return layer.bias
    scale, fmt, _ = source
    with torch.no_grad():
        unit = scale * layer.scale * 2.0 ** (fmt.lsb_exponent + layer.format.lsb_exponent)
        folded = torch.zeros(())
        for tensor, sign in layer.folded:
            if tensor in rules and not rules[tensor][1].uniform:
                folded = folded + sign * rules[tensor][0] * rules[tensor][2]
        change = torch.round(layer.bias / unit) * unit - layer.bias
        change = change + torch.round(folded / unit) * unit - folded
    return layer.bias + change


def mixed(x: torch.Tensor, y: torch.Tensor, drop: float, generator: torch.Generator | None) -> torch.Tensor:
    """Each element of x with probability `drop`, else of y."""
    if drop == 0 or x is y:
        return y
    return torch.where(torch.empty_like(x).uniform_(generator=generator) < drop, x, y)


def constants(start: Mapping[str, Rounded], fmt: Format, folded: Folded) -> dict[str, Layer]:
    return {
        name: Layer(
            channels_second(r.weight),
            as_tensor(r.bias),
            as_tensor(r.scale),
            fmt,
            folded[name],
        )
        for name, r in start.items()
    }


def folded_zeros(network: FusedGraph) -> Folded:
    found = {}
    for layer in network.layers:
        if isinstance(layer.main, Conv) and layer.product:
            found[layer.main.name] = ()
        elif isinstance(layer.main, Conv):
            residual = ((layer.residual, -1),) if layer.residual else ()
            found[layer.main.name] = ((layer.requantized, 1), *residual)
    return found


def fixed_rules(quants: Mapping[str, Quant], tensors: Iterable[str]) -> dict[str, Rule]:
    return {t: (torch.tensor(quants[t].scale), quants[t].format, quants[t].offset) for t in tensors}
