"""The quantized network: integer codes, exact accumulation, one rounding per output (docs/architecture.md).

This graph is the definition of right: `sateen.sim.reference` runs it, the compiler lowers it, and the exported
ONNX states it in standard operators. Arrays of codes have the format's `code_dtype` and hold a code in its low bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isqrt

import numpy as np

from sateen.formats.digits import Digits
from sateen.ir.gradients import BiasGradient, ComputedConv, Gate, Gradient, PoolGate, WeightGradient
from sateen.ir.heads import Batch
from sateen.ir.operation import Constant, Operand, QuantizedOp, Range, Window
from sateen.ir.pieces import Piece, plane_of
from sateen.ir.ports import Output, Port, Shape
from sateen.ir.quant import Quant
from sateen.ir.sums import (
    Factor,
    OfCodes,
    Residual,
    Summed,
)

__all__ = [
    "Arrange",
    "BiasGradient",
    "ComputedConv",
    "Concat",
    "Constant",
    "Factor",
    "Gate",
    "Gradient",
    "Linear",
    "MatMul",
    "MaxPool",
    "Maximum",
    "Normalize",
    "Op",
    "Operand",
    "PoolGate",
    "Quant",
    "QuantizedGraph",
    "QuantizedOp",
    "Range",
    "Residual",
    "Softmax",
    "Stored",
    "Summed",
    "Tensor",
    "WeightGradient",
    "Window",
]


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    shape: Shape
    quant: Quant


@dataclass(frozen=True, slots=True, eq=False)
class Linear(Summed):
    """Convolution, Gemm, average pooling, add, rescale: everything that goes through the array.

    With fixed-point operands, per output channel c:
        acc  = sum(fixed(w) * fixed(a)) + bias_c                  (padding reads the code of real zero)
        t    = acc * multiplier_c * 2**-shift_c + (fixed(r) - zero_after_r) * residual.multiplier * 2**-residual.shift
          or   acc * (fixed(r) - zero_after_r) * multiplier_c * 2**-shift_c     if the residual is a Factor
        code = encode(clamp(round_to_format(t) + zero_after_out, low, high))       t is exact; one rounding
        out  = table[code] if there is a table, else code
    The bias holds all other zero points: that of the input, and what minifloats add before rounding, which must be
    nothing for a Factor and its product. A residual of one row, or one column, has it for all of the output's.
    t and the clamp are in fixed-point units (2**lsb_exponent) of `requantized.format`, which is the output's format
    without a table. With `raw`, the output is acc itself, an exact integer, real = acc * raw_scale_c
    + raw_offset_c.
    """

    name: str
    input: str
    output: str
    weight: Constant  # a computed one: see `MatMul`
    bias: np.ndarray  # int64 or object (O,), zero point folded in
    multiplier: np.ndarray  # int64 (O,), 1 to MULTIPLIER_MAX
    shift: np.ndarray  # int64 (O,), 0 to SHIFT_MAX
    requantized: Quant  # before the table
    low: int  # clamp, fixed-point units
    high: int
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    residual: Residual | Factor | None = None
    table: np.ndarray | None = None  # codes (2**bits,)
    raw: bool = False
    raw_scale: np.ndarray | None = None  # float64 (O,)
    raw_offset: np.ndarray | None = None  # float64 (O,), what the integer bias leaves of the file's
    macs: int | None = None
    """Multiplications that the network needs here, for one sample; None: those of the convolution. Add, rescale, copy
    and selection, which are no multiplications of the network, say 0."""
    source: tuple[str, ...] = ()  # ONNX nodes fused here
    channels: np.ndarray | None = None  # int64 (O, I / groups), as in ir.nodes.Conv: groups = O then

    @property
    def whole(self) -> bool:
        """As of ir.nodes.Conv."""
        return self.groups == 1 and self.channels is None

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.input, self.weight) + ((self.residual.input,) if self.residual else ())

    @property
    def window(self) -> Window:
        _, height, width, _ = self.weight.shape
        return Window((height, width), self.stride, self.dilation, self.pads)

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        h, w, _ = shapes[self.input]
        return (*self.window.plane(h, w), self.weight.shape[0])

    def rows(self, tensor: str, low: int, high: int, height: int) -> Range:
        """As the window reads them, and as the residual."""
        spans = [self.window.rows(low, high, height)] if tensor == self.input else []
        if self.residual and tensor == self.residual.input:
            spans.append((low, high) if height > 1 else (0, 1))
        return min(s[0] for s in spans), max(s[1] for s in spans)

    def dense_macs(self, shape: Shape) -> int:
        return shape[0] * shape[1] * int(np.prod(self.weight.shape)) if self.macs is None else self.macs

    def needed_macs(self, shape: Shape) -> int:
        total, pattern = self.dense_macs(shape), self.weight.sparsity
        if pattern.dense:
            return total
        inputs, n, m = self.weight.shape[3], pattern.n, pattern.m
        return total // inputs * (inputs // m * n + min(n, inputs % m))

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        """Partial sums, biases and accumulators of every channel."""
        low, high = reach(self.input)
        low, high = min(low, 0), max(high, 0)
        weight = self.weight.fixed.reshape(len(self.weight.codes), -1)
        positive = np.where(weight > 0, weight, 0).sum(axis=1)
        negative = np.where(weight < 0, weight, 0).sum(axis=1)
        ranges = []
        for p, n, b in zip(positive, negative, self.bias, strict=True):
            p, n, b = int(p), int(n), int(b)
            least, most = p * low + n * high, p * high + n * low
            ranges += [(least, most), (min(b, 0), max(b, 0)), (least + b, most + b)]
        return ranges


@dataclass(frozen=True, slots=True, eq=False)
class MatMul(Summed):
    """Products of two computed tensors, whose real zero is code 0; see `ir.heads.Batch` for where each lies.

    In each part of the batch a pixel of `input`, K channels, is multiplied by what `weight` has there:

        acc = sum over k of fixed(input[x, k]) * fixed(weight[c, k])     transposed: output channel c is a pixel
        acc = sum over k of fixed(input[x, k]) * fixed(weight[k, c])     else: a channel

    and what becomes of the sum is as in `Linear`; a residual is added, and has the output's rows. Codes of `weight`
    that become two digits count as `digits` has it.
    """

    name: str
    input: str
    weight: str
    output: str
    batch: Batch
    reduction: int  # K
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray
    requantized: Quant
    low: int
    high: int
    table: np.ndarray | None = None  # codes (2**bits,)
    raw: bool = False
    raw_scale: np.ndarray | None = None
    raw_offset: np.ndarray | None = None
    source: tuple[str, ...] = ()
    residual: Residual | None = None
    digits: Digits | None = None
    """Of weights that are narrower than activations."""

    @property
    def factors(self) -> tuple[str, str]:
        return self.input, self.weight

    @property
    def operands(self) -> tuple[Operand, ...]:
        return self.factors + ((self.residual.input,) if self.residual else ())

    @property
    def window(self) -> Window:
        return Window()

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        return self.batch.shape(shapes[self.input], shapes[self.weight])

    def rows(self, tensor: str, low: int, high: int, height: int) -> Range:
        mine = [self.batch.rows(k, low, high) for k, t in enumerate(self.factors) if t == tensor]
        if self.residual and tensor == self.residual.input:
            mine.append((low, high))
        return min(s[0] for s in mine), max(s[1] for s in mine)

    def dense_macs(self, shape: Shape) -> int:
        return math.prod(shape) * self.reduction

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        weights = self.digits.reach if self.digits else reach(self.weight)
        products = [a * b for a in reach(self.input) for b in weights]
        least, most = (self.reduction * v for v in (min(0, *products), max(0, *products)))
        biases = [int(b) for b in self.bias]
        low, high = min(0, *biases), max(0, *biases)
        return [(least, most), (low, high), (least + low, most + high)]


class _Copying(OfCodes):
    """An op whose results are codes of its inputs."""

    __slots__ = ()

    @property
    def keeps_codes(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class MaxPool(_Copying):
    """Compares values; padding never wins. Input and output have the same Quant."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    source: tuple[str, ...] = ()

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.input,)

    @property
    def window(self) -> Window:
        return Window(self.kernel, self.stride, self.dilation, self.pads)

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        h, w, c = shapes[self.input]
        return (*self.window.plane(h, w), c)

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        return []


class _Joining(_Copying):
    """Codes of `parts`, each as it is."""

    __slots__ = ()
    parts: tuple[str, ...]

    @property
    def operands(self) -> tuple[Operand, ...]:
        return self.parts

    @property
    def window(self) -> Window:
        return Window()


@dataclass(frozen=True, slots=True)
class Concat(_Joining):
    """Along channels. All parts and the output have the same Quant."""

    name: str
    parts: tuple[str, ...]
    output: str
    source: tuple[str, ...] = ()

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        h, w, _ = shapes[self.parts[0]]
        return h, w, sum(shapes[p][2] for p in self.parts)

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        return [reach(part) for part in self.parts]  # which the array copies, with a weight of 1


@dataclass(frozen=True, slots=True)
class Arrange(_Joining):
    """Pixels put elsewhere, see `ir.nodes.Arrange`. All parts and the output have the same Quant."""

    name: str
    parts: tuple[str, ...]
    pieces: tuple[Piece, ...]
    output: str
    source: tuple[str, ...] = ()

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        return (*plane_of(self.pieces), shapes[self.parts[0]][2])

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        return []

    def rows(self, tensor: str, low: int, high: int, height: int) -> Range:
        inside = (p.within(low, high) for p in self.pieces if self.parts[p.part] == tensor)
        spans = [p.source.rows(p.counts) for p in inside if p is not None]
        return (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else (0, 0)


@dataclass(frozen=True, slots=True)
class Maximum(_Joining):
    """Of two tensors of one shape, by value. Both and the output have the same Quant."""

    name: str
    parts: tuple[str, str]
    output: str
    source: tuple[str, ...] = ()

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        return shapes[self.parts[0]]

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        return []


@dataclass(frozen=True, slots=True, eq=False)
class Stored(_Copying):
    """Codes that are in memory from the start."""

    name: str
    output: str
    codes: np.ndarray  # (H, W, C)
    source: tuple[str, ...] = ()

    @property
    def operands(self) -> tuple[Operand, ...]:
        return ()

    @property
    def window(self) -> Window:
        return Window()

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        h, w, c = self.codes.shape
        return h, w, c

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        return []


class _OfRows(OfCodes):
    """An op whose results depend on all elements of a row, by integer functions of `sateen.formats.rows`.

        code = encode(clamp(round_to_format((y + bias_c) * multiplier_c * 2**-shift_c) + zero_after_out))

    y is the row's function with `rows.fraction_bits`; multipliers may be negative: they are a sign, which y takes
    before the bias is added, and a magnitude. The bias holds what minifloats add before rounding.
    """

    __slots__ = ()
    input: str
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.input,)

    @property
    def window(self) -> Window:
        return Window()

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        return shapes[self.input]

    @property
    def keeps_codes(self) -> bool:
        return False

    def _sums(self, low: int, high: int) -> list[Range]:
        """Ranges of y, of biases, and of their sums."""
        least, most = min(int(b) for b in self.bias), max(int(b) for b in self.bias)
        return [(low, high), (min(least, 0), max(most, 0)), (low + least, high + most)]


@dataclass(frozen=True, slots=True, eq=False)
class Softmax(_OfRows):
    """Over the channels of each pixel; bias, multiplier and shift are one for all channels."""

    name: str
    input: str
    output: str
    exponentials: np.ndarray  # uint32 (2**bits,), `rows.Exponentials.words`
    bias: np.ndarray  # int64 or object (1,)
    multiplier: np.ndarray  # int64 (1,), 1 to FACTOR_MAX
    shift: np.ndarray  # int64 (1,), 0 to SHIFT_MAX
    fraction: int  # bits of y behind the point
    source: tuple[str, ...] = ()

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        return self._sums(0, 2 << self.fraction)


@dataclass(frozen=True, slots=True, eq=False)
class Normalize(_OfRows):
    """Over the channels of each pixel, in groups, or of the whole plane: see `ir.nodes.Normalize`."""

    name: str
    input: str
    output: str
    count: int  # n of `rows.normalize_rows`
    elements: int  # of a row
    epsilon: int
    bias: np.ndarray  # int64 or object (C,)
    multiplier: np.ndarray  # int64 (C,), magnitudes 1 to FACTOR_MAX
    shift: np.ndarray  # int64 (C,), 0 to SHIFT_MAX
    fraction: int  # bits of y behind the point
    plane: bool = False
    groups: int = 1
    centred: bool = True
    source: tuple[str, ...] = ()

    def rows(self, tensor: str, low: int, high: int, height: int) -> Range:
        return (0, height) if self.plane else (low, high)

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        """|y| is at most the root of the row's elements, and a little more as reciprocals are cut off."""
        most = (isqrt(self.elements) + 2) << self.fraction
        return self._sums(-most, most)


Op = (
    Linear
    | MatMul
    | MaxPool
    | Concat
    | Arrange
    | Maximum
    | Stored
    | Softmax
    | Normalize
    | ComputedConv
    | WeightGradient
    | BiasGradient
    | Gate
    | PoolGate
)
"""Every op there is."""


@dataclass(frozen=True, slots=True)
class QuantizedGraph:
    """Ops in topological order. A tensor of exact sums has no codes and is read by no op.

    An input's tensor may have a multiple of the port's channels: it is then split into terms (`terms`).
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Output, ...]
    ops: tuple[Op, ...]
    tensors: dict[str, Tensor]
    metadata: dict[str, object] = field(default_factory=dict)

    def terms(self, port: Port) -> int:
        """Codes that each value of an input is given as, to be more precise than its format."""
        return self.tensors[port.name].shape[2] // port.hwc[2]

    def producer(self, tensor: str) -> Op | None:
        return next((op for op in self.ops if op.output == tensor), None)

    def real(self, tensor: str, values: np.ndarray) -> np.ndarray:
        """What the integers (..., C) of a tensor stand for."""
        op, quant = self.producer(tensor), self.tensors[tensor].quant
        return quant.dequantize(values) if op is None else op.real(values, quant)

    def reach(self, tensor: str) -> Range:
        """Fixed-point values that the tensor's format can hold."""
        return self.tensors[tensor].quant.reach

    def consumers(self, tensor: str) -> tuple[Op, ...]:
        return tuple(op for op in self.ops if tensor in op.inputs)
