"""The operations of an imported network, in floating point, on channel-last tensors without a batch dimension."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import numpy as np

from sateen.formats.sparsity import DENSE, SparsityPattern
from sateen.ir.functions import FUNCTIONS
from sateen.ir.heads import Batch
from sateen.ir.pieces import Piece
from sateen.ir.quant import GivenWeights, Quantizer


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
