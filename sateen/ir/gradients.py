"""Ops of a training step: convolutions whose weights are computed, and the gradients of what a network is made of.

All zero points are 0. Each op is stated for one sample; a sum over pixels is, of a batch, the sum over its samples.
`sateen.sim.gradients` has their functions, and docs/training.md the numbers.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sateen.formats import SparsityPattern
from sateen.formats.sparsity import DENSE
from sateen.ir.operation import Operand, QuantizedOp, Range, Window
from sateen.ir.ports import Shape
from sateen.ir.quant import Quant
from sateen.ir.sums import OfCodes, Residual, Summed


def _product(a: Range, b: Range) -> Range:
    """The least and the greatest product."""
    products = [x * y for x in a for y in b]
    return min(products), max(products)


@dataclass(frozen=True, slots=True, eq=False)
class ComputedConv(Summed):
    """A convolution whose weights are codes in a tensor, or the gradient of its input.

    `weight` is (taps, I, O): as an activation tensor, tap ky * KW + kx. Of every tap
    the `pattern.n` of each `pattern.m` along the reduction that have the greatest magnitudes count, ties to the lower
    index, and the others are zero: along I forward, along O if `transposed`.

        acc[o] = sum over taps, i of fixed(W[tap, i, o]) * fixed(x[pixel * stride + tap * dilation - pads, i])
        acc[i] = sum over taps, o of fixed(W[tap, i, o]) * fixed(x[(pixel - tap * dilation + pads) / stride, o])

    the second if `transposed`, of whole pixels alone; `plane` is then the rows and columns of the output. What becomes
    of the sum is as in `Linear`, with a residual that is added.
    """

    name: str
    input: str
    weight: str
    output: str
    kernel: tuple[int, int]
    bias: np.ndarray  # int64 or object (O,), or (I,) if transposed
    multiplier: np.ndarray
    shift: np.ndarray
    requantized: Quant
    low: int
    high: int
    pattern: SparsityPattern = DENSE
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    transposed: bool = False
    plane: tuple[int, int] = (0, 0)
    residual: Residual | None = None
    reduction: int = 0  # I, or O if transposed
    table: np.ndarray | None = None
    raw: bool = False
    raw_scale: np.ndarray | None = None
    raw_offset: np.ndarray | None = None
    source: tuple[str, ...] = ()

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.input, self.weight) + ((self.residual.input,) if self.residual else ())

    @property
    def window(self) -> Window:
        """Of the convolution, transposed or not."""
        return Window(self.kernel, self.stride, self.dilation, self.pads)

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        h, w, _ = shapes[self.input]
        _, inputs, outputs = shapes[self.weight]
        return (*self.plane, inputs) if self.transposed else (*self.window.plane(h, w), outputs)

    def rows(self, tensor: str, low: int, high: int, height: int) -> Range:
        spans = []
        if tensor == self.input:
            spans.append(
                self._transposed_rows(low, high, height)
                if self.transposed
                else self.window.rows(low, high, height)
            )
        if tensor == self.weight:
            spans.append((0, height))
        if self.residual and tensor == self.residual.input:
            spans.append((low, high))
        return min(s[0] for s in spans), max(s[1] for s in spans)

    def _transposed_rows(self, low: int, high: int, height: int) -> Range:
        span = (self.kernel[0] - 1) * self.dilation[0]
        first = -((span - low - self.pads[0]) // self.stride[0])
        last = (high - 1 + self.pads[0]) // self.stride[0] + 1
        return min(max(0, first), height), max(0, min(height, last))

    def dense_macs(self, shape: Shape) -> int:
        """Of the transposed one what no stride leaves out, border pixels included."""
        taps = math.prod(self.kernel) * self.reduction
        return math.prod(shape) * taps // (math.prod(self.stride) if self.transposed else 1)

    def needed_macs(self, shape: Shape) -> int:
        total, n, m = self.dense_macs(shape), self.pattern.n, self.pattern.m
        k = self.reduction
        return total if self.pattern.dense or not k else total // k * (k // m * n + min(n, k % m))

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        k, n, m = self.reduction, self.pattern.n, self.pattern.m
        terms = math.prod(self.kernel) * (k // m * n + min(n, k % m))
        least, most = (terms * v for v in _product(reach(self.input), reach(self.weight)))
        biases = [int(b) for b in self.bias]
        low, high = min(0, *biases), max(0, *biases)
        return [(least, most), (low, high), (least + low, most + high)]


class _OfPixels(QuantizedOp):
    """Exact sums over all pixels of a plane."""

    __slots__ = ()
    name: str
    gradient: str
    pixels: int

    @property
    def keeps_codes(self) -> bool:
        return False

    @property
    def raw(self) -> bool:
        return True

    @property
    def table(self) -> None:
        return None

    def rows(self, tensor: str, low: int, high: int, height: int) -> Range:
        return 0, height

    def real(self, values: np.ndarray, quant: Quant) -> np.ndarray:
        """`quant` has the scale of a sum's unit."""
        return values.astype(np.float64) * quant.scale


@dataclass(frozen=True, slots=True)
class WeightGradient(_OfPixels):
    """Of a convolution: (taps, I, O), as its weights lie.

    dW[tap, i, o] = sum over pixels of fixed(x[pixel * stride + tap * dilation - pads, i]) * fixed(gradient[pixel, o])
    """

    name: str
    input: str  # what the convolution read
    gradient: str  # of what it gave
    output: str
    kernel: tuple[int, int]
    pixels: int  # of `gradient`
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    source: tuple[str, ...] = ()

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.input, self.gradient)

    @property
    def window(self) -> Window:
        return Window(self.kernel, self.stride, self.dilation, self.pads)

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        return math.prod(self.kernel), shapes[self.input][2], shapes[self.gradient][2]

    def dense_macs(self, shape: Shape) -> int:
        return math.prod(shape) * self.pixels

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        least, most = _product(reach(self.input), reach(self.gradient))
        return [(self.pixels * least, self.pixels * most)]


@dataclass(frozen=True, slots=True)
class BiasGradient(_OfPixels):
    """db[o] = sum over pixels of fixed(gradient[pixel, o]), (1, 1, O)."""

    name: str
    gradient: str
    output: str
    pixels: int
    source: tuple[str, ...] = ()

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.gradient,)

    @property
    def window(self) -> Window:
        return Window()

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        return 1, 1, shapes[self.gradient][2]

    def dense_macs(self, shape: Shape) -> int:
        return 0

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        low, high = reach(self.gradient)
        return [(self.pixels * low, self.pixels * high)]


class Gating(OfCodes):
    """Codes of a gradient, or zeros."""

    __slots__ = ()
    input: str

    @property
    @abstractmethod
    def compared(self) -> str:
        """The tensor that has the gradient's shape."""

    @property
    def keeps_codes(self) -> bool:
        return False  # not those of what decides

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        return shapes[self.input]

    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        return []


@dataclass(frozen=True, slots=True)
class Gate(Gating):
    """The gradient's code where low < fixed(reference) < high, else zero: of Relu and Clip."""

    name: str
    input: str
    reference: str  # the forward result
    output: str
    low: int  # fixed-point units, both excluded; high may be beyond the format
    high: int
    source: tuple[str, ...] = ()

    @property
    def compared(self) -> str:
        return self.reference

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.input, self.reference)

    @property
    def window(self) -> Window:
        return Window()


@dataclass(frozen=True, slots=True)
class PoolGate(Gating):
    """Of a max pool, for one `tap` of its window: the gradient's code where that element is the maximum, else zero.

    out[pixel] = gradient[pixel] if x[pixel * stride + tap * dilation - pads] == pooled[pixel], by value; all elements
    that tie take the gradient, padding takes none.
    """

    name: str
    input: str  # the gradient of what the pool gave
    reference: str  # what it read
    pooled: str  # what it gave
    output: str
    tap: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    source: tuple[str, ...] = ()

    @property
    def compared(self) -> str:
        return self.pooled

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.input, self.reference, self.pooled)

    @property
    def window(self) -> Window:
        """Of the tap, over `reference`."""
        top, left = (p - t * d for p, t, d in zip(self.pads[:2], self.tap, self.dilation, strict=True))
        return Window((1, 1), self.stride, (1, 1), (top, left, 0, 0))

    def rows(self, tensor: str, low: int, high: int, height: int) -> Range:
        own = [(low, high)] if tensor in (self.input, self.pooled) else []
        own += [self.window.rows(low, high, height)] if tensor == self.reference else []
        return min(s[0] for s in own), max(s[1] for s in own)


Gradient = ComputedConv | WeightGradient | BiasGradient | Gate | PoolGate
"""Every op of this module."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a step does with the weights of a layer: integers for numbers times powers of two.

    Master weights w are int32 in units of 2**-24, velocities v int32 in units of 2**-30. With dW the exact sums over
    the batch, and a factor (k, s) standing for k * 2**-s:

        v' = saturate(RNE(momentum * v + rate * dW + decay * w))       the sum is exact; one rounding
        w' = saturate(w - RNE(v' * 2**-6))
        code = encode(w' * 2**-24 / scale)

    `pruned` is the factor in the place of decay's, with its shift, of weights that the forward selection of the old
    codes, encode(w), leaves out.
    """

    momentum: tuple[int, int]
    rate: tuple[int, int]  # to units of the velocity, from those of dW
    decay: tuple[int, int]  # to units of the velocity, from those of the master weights
    pruned: int
    scale: int  # the power of two that a value of the format is multiplied by


MASTER_EXPONENT = -24
VELOCITY_EXPONENT = -30
"""log2 of the units of master weights and velocities."""
FACTOR_LIMIT = 1 << 16
"""Factors of an `Update` are below that."""
SHIFT_LIMIT = 62
"""Their shifts are 0 to below that."""
LEFT = -16
"""Of the shift of `rate` on the host, which updates biases: to the left."""
