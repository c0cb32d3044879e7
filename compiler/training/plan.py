"""What a network's training step consists of: its layers, forward and backward, in order.

`forward` and `backward` walk over the layers and leave the arithmetic to `Passes`: NumPy's (`step.py`), or that which
makes a quantized graph of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.training.settings import Settings
from sateen.errors import ModelError
from sateen.formats import SparsityPattern
from sateen.formats.sparsity import DENSE
from sateen.ir.fused import FusedGraph, FusedLayer
from sateen.ir.graph import Add, Conv, Graph, Mul, Pool, Shape
from sateen.ir.operation import Window


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution, an average pool or a plain sum, and what follows it; or a max pool.

    `low` and `high` are the ends of its clamp, as real numbers.
    """

    name: str
    kind: str
    """ "conv", "average", "sum" or "max"."""
    input: str
    output: str
    window: Window
    residual: str | None = None
    low: float = -np.inf
    high: float = np.inf
    gated: bool = False
    forward_pattern: SparsityPattern = DENSE
    backward_pattern: SparsityPattern = DENSE
    shared: bool = False
    """The backward pass takes the weights that the forward pass selected."""
    shape: Shape = (0, 0, 0)
    """Of a convolution's weights: taps, inputs, outputs."""
    plane: tuple[int, int] = (0, 0)
    """Rows and columns that it reads."""

    @property
    def overlapping(self) -> bool:
        """Whether an element that a pool reads is in more than one window."""
        return any(
            (k - 1) * d >= s
            for k, s, d in zip(self.window.kernel, self.window.stride, self.window.dilation, strict=True)
        )


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
        return tuple(layer for layer in self.layers if layer.kind == "conv")

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
    layers = tuple(_layer(fused, node) for node in fused.nodes)
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
    return Plan(graph, patterned, dict(fused.scale_groups))


def _layer(fused: FusedGraph, node: object) -> Layer:
    shapes = fused.graph.shapes
    if isinstance(node, Pool):
        window = Window(node.kernel, node.stride, node.dilation, node.pads)
        return Layer(node.name, "max", node.input, node.output, window, plane=shapes[node.input][:2])
    if not isinstance(node, FusedLayer):
        raise _without(type(node).__name__, getattr(node, "name", "?"))
    if node.product:
        raise _without("Mul", _named(fused, node, Mul), "products of two tensors; use a sum")
    main, activation = node.main, node.activation
    if activation is not None and activation.function != "clip":
        raise _without(activation.function, activation.name, "use Relu or Clip")
    kind, window, shape = "sum", Window(), (0, 0, 0)
    if isinstance(main, Conv):
        if not main.whole:
            raise _without("grouped Conv", main.name, "use a Conv of one group")
        o, kh, kw, i = main.weight.shape
        kind, window, shape = "conv", Window((kh, kw), main.stride, main.dilation, main.pads), (kh * kw, i, o)
    elif isinstance(main, Pool):
        kind, window = "average", Window(main.kernel, main.stride, main.dilation, main.pads)
    elif main is not None:
        raise _without(type(main).__name__, main.name)
    if node.residual and shapes[node.residual] != shapes[node.output]:
        raise _without("broadcast Add", _named(fused, node, Add), "give both operands one shape")
    low, high = (-np.inf, np.inf) if activation is None else (activation.low, activation.high)
    if low not in (-np.inf, 0.0) and low > 0:
        raise _without("Clip", activation.name if activation else node.name, "use a lower end of at most 0")
    return Layer(
        node.name, kind, node.input, node.output, window, node.residual, low, high, activation is not None,
        shape=shape, plane=shapes[node.input][:2],
    )  # fmt: skip


def _named(fused: FusedGraph, layer: FusedLayer, kind: type) -> str:
    """The node of that kind in a layer."""
    return next(n.name for n in fused.graph.nodes if isinstance(n, kind) and n.name in layer.source)


def _without(
    kind: str, name: str, remedy: str = "leave it out of the network, or train elsewhere"
) -> ModelError:
    return ModelError(f"{kind} '{name}': has no gradient here; {remedy}")


def _with_patterns(layer: Layer, settings: Settings, end: bool) -> Layer:
    from dataclasses import replace

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

    def gate(self, layer: Layer, gradient: T, result: T) -> T: ...

    def weigh(self, layer: Layer, x: T, gradient: T) -> None: ...

    def back(self, layer: Layer, name: str, gradient: T, x: T, result: T, rest: T | None) -> T: ...

    def add(self, name: str, a: T, b: T) -> T: ...


def forward(plan: Plan, passes: Passes[T], x: T) -> dict[str, T]:
    """Every tensor by name."""
    found = {plan.input: x}
    for layer in plan.layers:
        residual = found[layer.residual] if layer.residual else None
        found[layer.output] = passes.layer(layer, found[layer.input], residual)
    return found


def backward(plan: Plan, passes: Passes[T], found: dict[str, T], gradient: T) -> dict[str, T]:
    """From the logits' gradient those of the weights; returns the gradients of tensors by name.

    Readers are met from the last to the first. The first one's gradient is rounded as it is made, each other adds what
    there is before its own rounding; the gradient of a summand is that of the sum, and is rounded no more.
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


def _needed(plan: Plan) -> set[str | None]:
    """Tensors behind some weights, whose gradients matter."""
    found: set[str | None] = set()
    for layer in plan.layers:
        if layer.kind == "conv" or layer.input in found or layer.residual in found:
            found.add(layer.output)
    return found
