"""The imported network: floating-point operations on channel-last tensors without a batch dimension.

Every tensor is (H, W, C): a vector is (1, 1, C), a sequence (1, L, C). Ports keep the ONNX view of the graph's
inputs and outputs. The compiler's passes map one Graph to another; `verify` holds between them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import numpy as np

from sateen.errors import ModelError
from sateen.formats.sparsity import DENSE, SparsityPattern
from sateen.ir.chosen import Chosen
from sateen.ir.functions import FUNCTIONS, OUTPUT_FUNCTIONS
from sateen.ir.heads import Batch
from sateen.ir.pieces import Piece
from sateen.ir.quant import GivenWeights, Quant, Quantizer, rounded_to

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class InputOp:
    """An operation that the host does on a graph input's values (..., C), before they become codes, in the type
    `precision` as the model file does.

    kind "affine" is x * a + b, "clip" is x between a and b, "bipolar" is a where x >= 0 and b elsewhere; a and b are
    one number for all channels, or one for each. The others are the rows of `FUNCTIONS` with `host`.
    """

    kind: str
    a: tuple[float, ...] = ()
    b: tuple[float, ...] = ()
    precision: str = "float32"

    def apply(self, x: np.ndarray) -> np.ndarray:
        """float64 of the same shape. Raises ModelError for an unknown kind."""
        a, b, x = np.array(self.a), np.array(self.b), rounded_to(self.precision, x)
        match self.kind:
            case "affine":  # factors of 1 and offsets of 0 change nothing: each rounds where it is one
                return rounded_to(self.precision, rounded_to(self.precision, x * a) + b)
            case "clip":
                return rounded_to(self.precision, np.minimum(np.maximum(x, a), b))
            case "bipolar":
                return rounded_to(self.precision, np.where(x >= 0, a, b))
        function = FUNCTIONS.get(self.kind)
        if function is None or not function.host:
            on_host = sorted(name for name, f in FUNCTIONS.items() if f.host)
            known = ", ".join(("affine", "clip", "bipolar", *on_host))
            raise ModelError(f"input operation '{self.kind}' is not known; known are {known}")
        with np.errstate(all="ignore"):
            return rounded_to(self.precision, np.nan_to_num(function(x), nan=0.0))


@dataclass(frozen=True, slots=True)
class Port:
    """How an ONNX tensor (batch dimension left out) maps to the (H, W, C) tensor of the same name.

    `hwc = x.reshape(view).transpose(axes)`; `view` has three dimensions, `axes` is a permutation of them. On an input
    the host then does `host`, in order.

    Where the model file has codes, arrays of the integer type `kind`, `codes` says what real numbers they stand for;
    without it the integers are the values.
    """

    name: str
    shape: tuple[int, ...]
    view: tuple[int, int, int]
    axes: tuple[int, int, int] = (0, 1, 2)
    host: tuple[InputOp, ...] = ()
    codes: Quant | None = None
    kind: str = "float32"
    shared: str = ""
    """The file's input that it shows, where that has another name: of several ports of one, the first has its name."""
    table: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Rows (V, …) that the file's integers choose, before the view: the host looks them up."""

    @property
    def source(self) -> str:
        """The name of the file's input."""
        return self.shared or self.name

    @property
    def hwc(self) -> Shape:
        h, w, c = (self.view[a] for a in self.axes)
        return h, w, c

    def to_hwc(self, x: np.ndarray) -> np.ndarray:
        """(N, *shape) to (N, H, W, C), values for codes, with what the host does."""
        if self.codes is not None:
            x = self.codes.real(np.asarray(x, np.float64) * 2.0**self.codes.format.lsb_exponent)
        if self.table is not None:
            x = np.asarray(self.table[np.asarray(x, np.int64)], np.float64)
        x = x.reshape(len(x), *self.view).transpose(0, *(a + 1 for a in self.axes))
        for op in self.host:
            x = op.apply(x)
        return x

    def from_hwc(self, x: np.ndarray) -> np.ndarray:
        """(N, H, W, C) to (N, *shape)."""
        inverse = np.argsort(self.axes)
        return x.transpose(0, *(a + 1 for a in inverse)).reshape(len(x), *self.shape)

    def stated(self, y: np.ndarray) -> np.ndarray:
        """Real numbers (N, *shape) as the file's output has them: float32, codes, or integers."""
        if self.codes is not None:
            fmt = self.codes.format
            return fmt.fixed(self.codes.quantize(y)).astype(self.kind)
        return (np.rint(y) if np.issubdtype(self.kind, np.integer) else y).astype(self.kind)


def first_of_each(ports: tuple[Port, ...]) -> list[Port]:
    """One port of each of the file's inputs, in order."""
    return list({p.source: p for p in ports[::-1]}.values())[::-1]


class FloatOp(ABC):
    """What a node of the float graph answers about itself."""

    __slots__ = ()
    name: str
    output: str

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Tensors that it reads, in order."""

    @property
    @abstractmethod
    def homogeneous(self) -> bool:
        """Whether dividing a channel of all inputs by s > 0 divides that channel of the output by s, for any s."""

    @property
    def non_negative(self) -> bool:
        """Known: no input gives less than 0."""
        return False

    def reading(self, names: Mapping[str, str]) -> Self:
        """The same of other tensors: of `names` those that it reads, replaced."""
        changes: dict[str, Any] = {}
        for f in fields(self):  # type: ignore[arg-type]
            if f.name in ("input", "input_a", "input_b"):
                value = getattr(self, f.name)
                changes[f.name] = names.get(value, value)
            elif f.name == "parts":
                changes[f.name] = tuple(names.get(p, p) for p in getattr(self, f.name))
        return replace(self, **changes) if any(i in names for i in self.inputs) else self  # type: ignore[type-var]


@dataclass(frozen=True, slots=True, eq=False)
class Conv(FloatOp):
    """Cross-correlation, also Gemm and MatMul (a kernel over the whole plane, or 1×1)."""

    name: str
    input: str
    output: str
    weight: np.ndarray  # float64 (O, KH, KW, I / groups)
    bias: np.ndarray  # float64 (O,)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, left, bottom, right; negative: left out of the plane."""
    groups: int = 1
    sparsity: SparsityPattern = DENSE  # what the weight obeys along its last axis
    given: GivenWeights | None = None  # the scales that the file's weights have, to be kept
    channels: np.ndarray | None = None
    """int64 (O, I / groups), with groups = O: the input channel that each weight is for, in any order and number. A
    selection of channels has one for each output, and so never a matrix of zeros."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def homogeneous(self) -> bool:
        return False  # its channels are others

    def read_by(self, values: np.ndarray) -> np.ndarray:
        """A number for each input channel (I,) as (O, I / groups): that of the channel which each weight is for."""
        if self.channels is not None:
            return values[self.channels]
        return np.repeat(values.reshape(self.groups, -1), len(self.weight) // self.groups, axis=0)

    @property
    def whole(self) -> bool:
        """Whether each output reads every input channel, in order: neither groups nor a selection, even of one."""
        return self.groups == 1 and self.channels is None

    @property
    def selects(self) -> bool:
        """Whether each output is an input element or zero, plus the bias, so that nothing is multiplied."""
        rows = self.weight.reshape(len(self.weight), -1)
        return bool(((rows == 0) | (rows == 1)).all() and (np.count_nonzero(rows, axis=1) <= 1).all())


class _OfTwo(FloatOp):
    """An op of two computed tensors."""

    __slots__ = ()
    input_a: str
    input_b: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input_a, self.input_b)


@dataclass(frozen=True, slots=True, eq=False)
class MatMul(_OfTwo):
    """Products of two computed tensors, `batch` of them, times `scale` plus `bias`, of each output channel."""

    name: str
    input_a: str
    input_b: str
    output: str
    batch: Batch
    scale: np.ndarray  # float64 (O,)
    bias: np.ndarray  # float64 (O,)

    @property
    def homogeneous(self) -> bool:
        return False  # its channels are others


@dataclass(frozen=True, slots=True)
class Add(_OfTwo):
    """Of equal channels; an operand with one row, or one column, has it for all rows or columns of the other."""

    name: str
    input_a: str
    input_b: str
    output: str

    @property
    def homogeneous(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Mul(_OfTwo):
    """Element by element; rows and columns as those of an Add."""

    name: str
    input_a: str
    input_b: str
    output: str

    @property
    def homogeneous(self) -> bool:
        return False  # of the second degree


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """A function of one tensor: "x" is that tensor, "constant" has the parameter `value`.

    A graph, not a tree: x * sigmoid(x) holds x once. What follows the arguments goes by `postorder`, which meets each
    part once; text and equality would not, so an expression shows its function alone and equals only itself.
    """

    function: str
    parameters: tuple[tuple[str, float], ...] = ()
    arguments: tuple[Expression, ...] = field(default=(), repr=False)

    def postorder(self) -> list[Expression]:
        """The distinct parts, arguments before what uses them, the expression itself last."""
        done: dict[int, Expression] = {}
        waiting = [self]
        while waiting:
            part = waiting[-1]
            missing = [a for a in part.arguments if id(a) not in done]
            waiting.extend(missing)
            if not missing:
                done.setdefault(id(part), waiting.pop())
        return list(done.values())


@dataclass(frozen=True, slots=True)
class Activation(FloatOp):
    """A unary function by name (see `sateen.ir.functions`); `low` and `high` bound "clip" (Relu is [0, inf]).

    "composed" is the function that `expression` spells out, such as x * sigmoid(x).
    """

    name: str
    input: str
    output: str
    function: str
    parameters: tuple[tuple[str, float], ...] = ()
    low: float = -np.inf
    high: float = np.inf
    expression: Expression | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def homogeneous(self) -> bool:
        if self.function == "clip":
            return self.low in (0.0, -np.inf) and self.high in (0.0, np.inf)
        return self.expression is None and FUNCTIONS[self.function].homogeneous

    @property
    def non_negative(self) -> bool:
        if self.function == "clip":
            return self.low >= 0
        return self.expression is None and FUNCTIONS[self.function].non_negative and not self.parameters


PoolKind = Literal["max", "average"]


@dataclass(frozen=True, slots=True)
class Pool(FloatOp):
    """kind "max" (padding never wins) or "average" (padding counts as zero)."""

    name: str
    input: str
    output: str
    kind: PoolKind
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def homogeneous(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Concat(FloatOp):
    """Along channels."""

    name: str
    parts: tuple[str, ...]
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.parts

    @property
    def homogeneous(self) -> bool:
        return False  # likewise


@dataclass(frozen=True, slots=True)
class Arrange(FloatOp):
    """Pixels put elsewhere: every pixel of the output is one of some part, with all its channels."""

    name: str
    parts: tuple[str, ...]
    pieces: tuple[Piece, ...]
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.parts

    @property
    def homogeneous(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Maximum(FloatOp):
    """Of two tensors of one shape, element by element."""

    name: str
    parts: tuple[str, str]
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.parts

    @property
    def homogeneous(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, eq=False)
class Stored(FloatOp):
    """A tensor that is the same for every sample."""

    name: str
    output: str
    values: np.ndarray  # float64 (H, W, C)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ()

    @property
    def homogeneous(self) -> bool:
        return False  # it stays as it is


@dataclass(frozen=True, slots=True)
class Softmax(FloatOp):
    """Over the channels of each pixel."""

    name: str
    input: str
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def homogeneous(self) -> bool:
        return False

    @property
    def non_negative(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, eq=False)
class Normalize(FloatOp):
    """(x - mean) / sqrt(variance + epsilon) * scale + offset over the channels of each pixel, in groups.

    Of the whole plane if `plane`. Not `centred`, the mean counts as 0; not `averaged`, squares are summed up instead.
    """

    name: str
    input: str
    output: str
    scale: np.ndarray  # float64 (C,)
    offset: np.ndarray  # float64 (C,)
    epsilon: float
    plane: bool = False
    groups: int = 1
    centred: bool = True
    averaged: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def homogeneous(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Quantize(FloatOp):
    """A rounding, only during import: it ends as an entry of `Graph.quantizers`."""

    name: str
    input: str
    output: str
    quantizer: Quantizer

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def homogeneous(self) -> bool:
        return False


Node = (
    Conv
    | MatMul
    | Add
    | Mul
    | Activation
    | Pool
    | Concat
    | Arrange
    | Maximum
    | Stored
    | Softmax
    | Normalize
    | Quantize
)


@dataclass(frozen=True, slots=True)
class HostOp:
    """An operation on a graph output that the host does in float64, in the ONNX view with the batch first.

    kind is one of `OUTPUT_FUNCTIONS`, along `axis`, which is negative: it counts from the last dimension; or "round", a
    quantizer of the file after one of them.
    """

    kind: str
    axis: int = -1
    quantizer: Quantizer | None = None

    def apply(self, x: np.ndarray) -> np.ndarray:
        """(N, *shape) to the same shape, float64. Raises ModelError for an unknown kind."""
        if self.quantizer is not None:
            return self.quantizer.round(x)
        if self.kind not in OUTPUT_FUNCTIONS:
            known = ", ".join(OUTPUT_FUNCTIONS)
            raise ModelError(f"host operation '{self.kind}' is not known; known are {known}")
        return OUTPUT_FUNCTIONS[self.kind].values(np.asarray(x, np.float64), self.axis)


@dataclass(frozen=True, slots=True)
class Output:
    """A graph output: tensor `tensor`, presented as `port`, then `host` operations in order."""

    port: Port
    tensor: str
    host: tuple[HostOp | Chosen, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the ONNX output for one sample, host operations done."""
        shape = self.port.shape
        for op in self.host:
            shape = op.shape(shape) if isinstance(op, Chosen) else shape
        return shape

    def present(self, x: np.ndarray) -> np.ndarray:
        """The tensor's values (N, H, W, C) as the ONNX output (N, *shape), host operations done."""
        y = self.port.from_hwc(x)
        for op in self.host:
            y = op.apply(y)
        return y


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in topological order; `shapes` has every tensor's (H, W, C).

    `quantizers` has those tensors that the model file rounds, and how.
    """

    name: str
    inputs: tuple[Port, ...]  # the tensor has the port's name
    outputs: tuple[Output, ...]
    nodes: tuple[Node, ...]
    shapes: dict[str, Shape]
    quantizers: dict[str, Quantizer] = field(default_factory=dict)
    unused: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    """Inputs that the file declares and no output depends on: shapes without the batch, None where open."""
    remarks: tuple[str, ...] = ()
    """What differs from the file, to be said where it is quantized."""
    ties: tuple[tuple[str, ...], ...] = ()
    """Tensors that play one part, such as a state after each step, and so share a scale; those that are still there."""
    _readers: dict[str, tuple[Node, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _writers: dict[str, Node] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Filled when first asked for: the nodes do not change."""

    def verify(self) -> None:
        """Raise ModelError unless every tensor is written once, before it is read, and has a shape."""
        known = {p.name for p in self.inputs}
        for node in self.nodes:
            for i in node.inputs:
                if i not in known:
                    raise ModelError(
                        f"{type(node).__name__} '{node.name}': input '{i}' is not written before it"
                    )
            if node.output in known:
                raise ModelError(
                    f"{type(node).__name__} '{node.name}': output '{node.output}' is written twice"
                )
            if node.output not in self.shapes:
                raise ModelError(f"{type(node).__name__} '{node.name}': output '{node.output}' has no shape")
            known.add(node.output)
        for output in self.outputs:
            if output.tensor not in known:
                raise ModelError(f"graph output '{output.port.name}': '{output.tensor}' is not written")

    def rounded(self, tensor: str, x: np.ndarray) -> np.ndarray:
        """The tensor's values as the model file has them: rounded where it says so."""
        quantizer = self.quantizers.get(tensor)
        return x if quantizer is None else quantizer.round(x)

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """In order, each once."""
        if not self._readers:
            found: dict[str, list[Node]] = {}
            for node in self.nodes:
                for i in dict.fromkeys(node.inputs):
                    found.setdefault(i, []).append(node)
            self._readers.update((t, tuple(nodes)) for t, nodes in found.items())
        return self._readers.get(tensor, ())

    def producer(self, tensor: str) -> Node | None:
        """The node that writes it; None for an input."""
        if not self._writers:
            self._writers.update((n.output, n) for n in self.nodes)
        return self._writers.get(tensor)
