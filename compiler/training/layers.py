"""The layers that a training step consists of, of the nodes of the fused graph; what has no gradient is refused."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from sateen.compiler.functions import has_gradient
from sateen.errors import ModelError
from sateen.formats import SparsityPattern
from sateen.formats.sparsity import DENSE
from sateen.ir.fused import FusedGraph, FusedLayer
from sateen.ir.nodes import Add, Arrange, Concat, Conv, MatMul, Mul, Node, Normalize, Pool, Softmax, Stored
from sateen.ir.operation import Window
from sateen.ir.ports import Shape

MASTER_MOST = 128.0
"""Below which a master weight is, int32 in units of 2**-24."""
TRAINABLE = ("conv", "normalize", "stored")
PASSED = ("conv", "average", "sum", "max")
"""Kinds that programs have, too."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What is rounded once, or moves codes.

    `low` and `high` are the ends of its clamp, as real numbers.
    """

    name: str
    kind: str
    """ "conv", "average", "sum" or "max"; or a row of `kinds.KINDS`."""
    input: str
    """ "" if it reads nothing."""
    output: str
    window: Window
    residual: str | None = None
    """What is added before the rounding."""
    low: float = -np.inf
    high: float = np.inf
    gated: bool = False
    forward_pattern: SparsityPattern = DENSE
    backward_pattern: SparsityPattern = DENSE
    shared: bool = False
    """The backward pass takes the weights that the forward pass selected."""
    shape: Shape = (0, 0, 0)
    """Of a convolution's weights: taps, inputs, outputs; of a normalization's: 1, 1, channels; of what is stored."""
    plane: tuple[int, int] = (0, 0)
    """Rows and columns that it reads."""
    others: tuple[str, ...] = ()
    """What it reads beside `input`: a product's second factor, further parts."""
    node: Node | None = field(default=None, compare=False, repr=False)
    """The graph's, of a row of `kinds.KINDS`."""

    @property
    def operands(self) -> tuple[str, ...]:
        return ((self.input,) if self.input else ()) + self.others

    @property
    def trainable(self) -> bool:
        return self.kind in TRAINABLE

    @property
    def overlapping(self) -> bool:
        """Whether an element that a pool reads is in more than one window."""
        return any(
            (k - 1) * d >= s
            for k, s, d in zip(self.window.kernel, self.window.stride, self.window.dilation, strict=True)
        )


def layers_of(fused: FusedGraph, node: object) -> tuple[Layer, ...]:
    """One, or more where a fused layer has a product or a table, which read what was rounded before. Raises ModelError
    for what has no gradient, naming it."""
    shapes = fused.graph.shapes
    if isinstance(node, Pool):
        window = Window(node.kernel, node.stride, node.dilation, node.pads)
        return (Layer(node.name, "max", node.input, node.output, window, plane=shapes[node.input][:2]),)
    if isinstance(node, Softmax):
        return (_plain(node, "softmax", node.input),)
    if isinstance(node, Normalize):
        channels = shapes[node.output][2]
        return (replace(_plain(node, "normalize", node.input), shape=(1, 1, channels)),)
    if isinstance(node, Arrange | Concat):
        parts = tuple(dict.fromkeys(node.parts))
        kind = "arrange" if isinstance(node, Arrange) else "concat"
        return (_plain(node, kind, *parts),)
    if isinstance(node, Stored):
        return (_stored(fused, node),)
    if not isinstance(node, FusedLayer):
        raise without(type(node).__name__, getattr(node, "name", "?"))
    return _of_fused(fused, node)


def _of_fused(fused: FusedGraph, node: FusedLayer) -> tuple[Layer, ...]:
    activation, found = node.activation, []
    source, output, residual = node.input, node.output, node.residual
    if node.product:
        mul = next(n for n in fused.graph.nodes if isinstance(n, Mul) and n.name in node.source)
        if node.main is not None:
            found.append(_main(fused, node, node.main.output, None))
            source = node.main.output
        assert residual is not None
        end = node.requantized if node.table else output
        found.append(replace(_plain(mul, "mul", source, residual), output=end))
    else:
        if node.residual and fused.graph.shapes[node.residual] != fused.graph.shapes[node.output]:
            raise without("broadcast Add", _named(fused, node, Add), "give both operands one shape")
        # a table that stands alone has no sum before it
        if node.main is not None or residual or not node.table:
            found.append(_main(fused, node, node.requantized if node.table else output, residual))
    if activation is None:
        return tuple(found)
    if node.table:
        if not has_gradient(activation):
            raise without(activation.function, activation.name, "use Relu, Clip, Gelu, Sigmoid or Tanh")
        return (*found, replace(_plain(activation, "function", node.requantized), output=output))
    low, high = activation.low, activation.high
    if low not in (-np.inf, 0.0) and low > 0:
        raise without("Clip", activation.name, "use a lower end of at most 0")
    return (*found[:-1], replace(found[-1], low=low, high=high, gated=True))


def _main(fused: FusedGraph, node: FusedLayer, output: str, residual: str | None) -> Layer:
    """The sum of a fused layer, without what follows."""
    main, shapes = node.main, fused.graph.shapes
    plane = shapes[node.input][:2]
    if isinstance(main, MatMul):
        if len(np.unique(main.scale)) > 1 or main.bias.any() or not main.scale.flat[0] > 0:
            raise without(
                "MatMul", main.name, "scale a product by one positive number, and add to a factor instead"
            )
        return replace(
            _plain(main, "product", main.input_a, main.input_b),
            name=node.name,
            output=output,
            residual=residual,
        )
    kind, window, shape = "sum", Window(), (0, 0, 0)
    if isinstance(main, Conv):
        if not main.whole:
            if residual or not main.selects or main.bias.any():
                raise without("grouped Conv", main.name, "use a Conv of one group")
            window = Window(main.weight.shape[1:3], main.stride, main.dilation, main.pads)
            return Layer(node.name, "select", node.input, output, window, plane=plane, node=main)
        o, kh, kw, i = main.weight.shape
        kind, window, shape = "conv", Window((kh, kw), main.stride, main.dilation, main.pads), (kh * kw, i, o)
    elif isinstance(main, Pool):
        kind, window = "average", Window(main.kernel, main.stride, main.dilation, main.pads)
    return Layer(node.name, kind, node.input, output, window, residual, shape=shape, plane=plane)


def _stored(fused: FusedGraph, node: Stored) -> Layer:
    """What is added or put among pixels is learnt, unless it is zeros; a factor of a product stays."""
    most = float(np.abs(node.values).max(initial=0))
    if not most < MASTER_MOST:
        raise ModelError(
            f"Stored '{node.name}': values of magnitude {most:g}, training takes less than {MASTER_MOST:g}; leave "
            "masks out of the network"
        )
    factor = any(isinstance(n, MatMul) for n in fused.graph.consumers(node.output))
    if factor or most == 0:
        return _plain(node, "constant")
    h, w, c = fused.graph.shapes[node.output]
    return replace(_plain(node, "stored"), shape=(h, w, c))


def _plain(node: Node, kind: str, *operands: str) -> Layer:
    first, *others = operands or ("",)
    return Layer(node.name, kind, first, node.output, Window(), others=tuple(others), node=node)


def _named(fused: FusedGraph, layer: FusedLayer, kind: type) -> str:
    """The node of that kind in a layer."""
    return next(n.name for n in fused.graph.nodes if isinstance(n, kind) and n.name in layer.source)


def without(
    kind: str, name: str, remedy: str = "leave it out of the network, or train elsewhere"
) -> ModelError:
    """For a node that training cannot have."""
    return ModelError(f"{kind} '{name}': has no gradient here; {remedy}")


def without_program(layer: Layer) -> ModelError:
    """For a layer that the reference alone can train."""
    return ModelError(
        f"{layer.kind} '{layer.name}': has no program in training, a machine trains convolutions, dense layers, pools "
        "and sums; use --engine reference"
    )
