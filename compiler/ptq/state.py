"""The state that PTQ passes take and give: the float network, and what is known of its quantized form so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sateen.compiler.quantize.activations import ActivationPlan
from sateen.compiler.quantize.calibrate import Statistics
from sateen.compiler.quantize.options import Options
from sateen.compiler.quantize.scales import grid
from sateen.errors import ModelError
from sateen.formats import Format
from sateen.ir.fused import FusedGraph
from sateen.ir.nodes import Conv
from sateen.ir.quantized import QuantizedGraph

_ON_GRID = 1e-9
"""Of its value, how far a rounded weight may lie from the grid: what dividing by its scale loses."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A Conv as passes have rounded it: weight (O, KH, KW, I / groups), values of the format times scale (O,), and bias
    (O,)."""

    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """network : the float one, fused, which weights are fitted to
    statistics : of its tensors on the samples; None where the file says how all of them are rounded
    plan : scales and zero points of activations
    fitted : by Conv, weights that passes have rounded; the others are rounded to nearest at the end
    quantized : the result
    said : what passes have to say, by its key in the manifest
    """

    network: FusedGraph
    statistics: Statistics | None = None
    plan: ActivationPlan | None = None
    fitted: Mapping[str, Fitted] | None = None
    quantized: QuantizedGraph | None = None
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rounded(self) -> FusedGraph:
        """The network with the fitted weights."""
        nodes = []
        for node in self.network.graph.nodes:
            if isinstance(node, Conv) and self.fitted and (new := self.fitted.get(node.name)):
                node = replace(node, weight=new.weight, bias=new.bias)
            nodes.append(node)
        return self.network.with_graph(replace(self.network.graph, nodes=tuple(nodes)))

    def verify(self, options: Options) -> None:
        """Raise ModelError where the parts do not fit together."""
        self.network.verify()
        graph = self.network.graph
        tensors = {*(p.name for p in graph.inputs), *(n.output for n in graph.nodes)}
        if self.statistics is not None and (lost := tensors - set(self.statistics.tensors)):
            raise ModelError(f"'{min(lost)}' has no statistics")
        if self.plan is not None and (lost := set(self.network.scale_groups) - set(self.plan.quants)):
            raise ModelError(f"'{min(lost)}' has no scale")
        for tensor, quant in self.plan.quants.items() if self.plan else ():
            if quant.format != options.activation_format:
                raise ModelError(f"'{tensor}' is {quant.format.name}, not {options.activation_format.name}")
        convs = {n.name: n for n in graph.nodes if isinstance(n, Conv)}
        for name, fitted in (self.fitted or {}).items():
            if name not in convs:
                raise ModelError(f"'{name}' has fitted weights, but is no Conv of the network")
            _verify_fitted(convs[name], fitted, options.weight_format)


def _verify_fitted(conv: Conv, fitted: Fitted, fmt: Format) -> None:
    shapes = fitted.weight.shape, fitted.bias.shape, fitted.scale.shape
    if shapes != (conv.weight.shape, conv.bias.shape, conv.bias.shape):
        raise ModelError(f"Conv '{conv.name}': its fitted weights have another shape")
    if not all(np.isfinite(x).all() for x in (fitted.weight, fitted.bias, fitted.scale)):
        raise ModelError(f"Conv '{conv.name}': its fitted weights hold NaN or infinity")
    if not (fitted.scale > 0).all():
        raise ModelError(f"Conv '{conv.name}': scale {fitted.scale.min():g}; it must be positive")
    if conv.selects:  # which nothing rounds
        return
    values, x = grid(fmt), fitted.weight / fitted.scale[:, None, None, None]
    at = np.clip(np.searchsorted(values, x), 1, len(values) - 1)
    away = np.minimum(np.abs(x - values[at - 1]), np.abs(x - values[at]))
    if (away > _ON_GRID * np.maximum(np.abs(x), 2.0**fmt.lsb_exponent)).any():
        raise ModelError(f"Conv '{conv.name}': a fitted weight is no value of {fmt.name} times its scale")
