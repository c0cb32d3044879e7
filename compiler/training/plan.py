"""What a network's training step consists of: its layers, forward and backward, in order.

`forward` and `backward` walk over the layers and leave the arithmetic to `Passes`: NumPy's (`step.py`), or that which
makes a quantized graph of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np

from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.training.layers import PASSED, Layer, layers_of
from sateen.compiler.training.settings import Settings
from sateen.errors import ModelError
from sateen.formats.sparsity import DENSE
from sateen.ir.graph import Graph


@dataclass(frozen=True, slots=True)
class Plan:
    """`layers` in an order in which they can run; the last gives the logits."""

    graph: Graph
    layers: tuple[Layer, ...]
    groups: dict[str, str]
    """Of each tensor the one whose scale it has."""

    @property
    def input(self) -> str:
        return self.graph.inputs[0].name

    @property
    def logits(self) -> str:
        return self.layers[-1].output

    @property
    def classes(self) -> int:
        return self.graph.shapes[self.logits][2]

    @property
    def trainable(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.trainable)

    @property
    def only_reference(self) -> Layer | None:
        """The first layer that has no program; None if all have."""
        return next((layer for layer in self.layers if layer.kind not in PASSED), None)

    def macs(self, layer: Layer) -> int:
        """Multiplications of a convolution for one sample, zeros included."""
        h, w, _ = self.graph.shapes[layer.output]
        return h * w * int(np.prod(layer.shape)) if layer.kind == "conv" else 0


def make_plan(graph: Graph, settings: Settings) -> Plan:
    """Of a float graph. Raises ModelError for what has no gradient, naming it."""
    if graph.quantizers:
        raise ModelError(
            f"{graph.name}: the file is quantized already; training quantizes by itself, give the float network"
        )
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ModelError(
            f"{graph.name}: {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; training takes one of each"
        )
    fused = fuse(graph)
    layers = tuple(layer for node in fused.nodes for layer in layers_of(fused, node))
    last = layers[-1] if layers else None
    convs = [layer for layer in layers if layer.kind == "conv"]
    if not convs or last is None:
        raise ModelError(f"{graph.name}: no layer has weights to train; give a network with a Conv or Gemm")
    tensor = graph.outputs[0].tensor
    if tensor not in fused.raw or last.output != tensor or graph.shapes[tensor][:2] != (1, 1):
        raise ModelError(
            f"{graph.name}: output '{graph.outputs[0].port.name}' of {graph.outputs[0].shape} are no logits of a "
            "Conv or Gemm; end the network with one whose plane is one pixel, without an activation"
        )
    ends = {convs[0].name, convs[-1].name}
    patterned = tuple(_with_patterns(layer, settings, layer.name in ends) for layer in layers)
    own = {layer.output: layer.output for layer in layers}
    return Plan(graph, patterned, own | dict(fused.scale_groups))


def _with_patterns(layer: Layer, settings: Settings, end: bool) -> Layer:
    pattern = settings.pattern
    if layer.kind != "conv" or end or pattern.dense:
        return layer
    _, inputs, outputs = layer.shape
    shared = settings.method == "sr-ste"
    return replace(
        layer,
        forward_pattern=pattern if inputs > pattern.n else DENSE,
        backward_pattern=pattern if outputs > pattern.n and not shared else DENSE,
        shared=shared,
    )


# -- the passes --------------------------------------------------------------------------------------------

T = TypeVar("T")


class Passes(Protocol, Generic[T]):
    """The arithmetic of a step, over values T. `name` is the tensor whose scale the result has, `rest` what is added
    before its rounding."""

    def layer(self, layer: Layer, x: T, residual: T | None) -> T: ...

    def other(self, layer: Layer, operands: tuple[T, ...], residual: T | None) -> T:
        """Of a layer that is in `kinds.KINDS`."""
        ...

    def gate(self, layer: Layer, gradient: T, result: T) -> T: ...

    def weigh(self, layer: Layer, x: T, gradient: T) -> None: ...

    def back(self, layer: Layer, name: str, gradient: T, x: T, result: T, rest: T | None) -> T: ...

    def other_back(
        self,
        layer: Layer,
        name: str,
        gradient: T,
        operands: tuple[T, ...],
        result: T,
        rest: T | None,
        at: int,
    ) -> T:
        """The gradient of operand number `at` of a layer that is in `kinds.KINDS`."""
        ...

    def learn(self, layer: Layer, x: T | None, gradient: T) -> None:
        """The gradients of a normalization's scale and offset, or of what is stored."""
        ...

    def add(self, name: str, a: T, b: T) -> T: ...


def forward(plan: Plan, passes: Passes[T], x: T) -> dict[str, T]:
    """Every tensor by name."""
    found = {plan.input: x}
    for layer in plan.layers:
        residual = found[layer.residual] if layer.residual else None
        if layer.kind in PASSED:
            found[layer.output] = passes.layer(layer, found[layer.input], residual)
        else:
            operands = tuple(found[t] for t in layer.operands)
            found[layer.output] = passes.other(layer, operands, residual)
    return found


def backward(plan: Plan, passes: Passes[T], found: dict[str, T], gradient: T) -> dict[str, T]:
    """From the logits' gradient those of the weights; returns the gradients of tensors by name.

    Readers are met from the last to the first. The first one's gradient is rounded as it is made, each other adds what
    there is before its own rounding; the gradient of a summand is that of the sum, and is rounded no more. Of a layer
    with several operands the first one comes first.
    """
    waiting = {plan.logits: gradient}
    count: dict[str, int] = {}
    needed = _needed(plan)

    def name(tensor: str) -> str:
        count[tensor] = count.get(tensor, -1) + 1
        return f"d {tensor} {count[tensor]}"

    def give(tensor: str, value: T) -> None:
        before = waiting.get(tensor)
        waiting[tensor] = value if before is None else passes.add(name(tensor), value, before)

    for layer in reversed(plan.layers):
        if layer.output not in waiting:
            continue
        y = found[layer.output]
        dz = passes.gate(layer, waiting[layer.output], y) if layer.gated else waiting[layer.output]
        if layer.residual and layer.residual in needed:
            give(layer.residual, dz)
        if layer.kind not in PASSED:
            _other_back(layer, passes, found, dz, waiting, needed, name)
            continue
        if layer.kind == "conv":
            passes.weigh(layer, found[layer.input], dz)
        if layer.input not in needed:
            continue
        if layer.kind == "sum":
            give(layer.input, dz)
        else:
            rest = waiting.get(layer.input)
            waiting[layer.input] = passes.back(layer, name(layer.input), dz, found[layer.input], y, rest)
    return waiting


def _other_back(
    layer: Layer, passes: Passes[T], found: dict[str, T], dz: T, waiting: dict[str, T], needed: set[str | None],
    name: Callable[[str], str],
) -> None:  # fmt: skip
    if layer.trainable:
        passes.learn(layer, found[layer.input] if layer.input else None, dz)
    operands = tuple(found[t] for t in layer.operands)
    for at, tensor in enumerate(layer.operands):
        if tensor in needed:
            y, rest = found[layer.output], waiting.get(tensor)
            waiting[tensor] = passes.other_back(layer, name(tensor), dz, operands, y, rest, at)


def _needed(plan: Plan) -> set[str | None]:
    """Tensors behind some weights, whose gradients matter."""
    found: set[str | None] = set()
    for layer in plan.layers:
        if layer.trainable or layer.residual in found or found.intersection(layer.operands):
            found.add(layer.output)
    return found
