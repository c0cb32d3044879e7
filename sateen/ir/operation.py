"""What the ops of the quantized graph have in common: what they read, and what each answers about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sateen.formats import Format, SparsityPattern
from sateen.formats.sparsity import DENSE
from sateen.ir.ports import Shape
from sateen.ir.quant import Quant

Range = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """An operand whose codes are known: real = scale_o * value of the code."""

    codes: np.ndarray  # (O, KH, KW, I / groups)
    format: Format
    scale: np.ndarray | None = None  # float64 (O,), what the export writes
    sparsity: SparsityPattern = DENSE  # what the codes obey along their last axis

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def fixed(self) -> np.ndarray:
        """In units of 2**lsb_exponent of the format, int64."""
        return self.format.fixed(self.codes)

    @property
    def sums(self) -> np.ndarray:
        """Of the fixed-point values of each output channel, (O,)."""
        return np.asarray(self.fixed.reshape(len(self.codes), -1).sum(axis=1))

    @property
    def nonzero(self) -> int:
        return int(np.count_nonzero(self.fixed))

    @property
    def packed_bytes(self) -> int:
        """All codes without the filling up of the machine's words."""
        return -(-self.codes.size * self.format.bits // 8)


Operand = str | Constant
"""A tensor by name, computed before, or a constant."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which pixels of an operand an output pixel reads."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, left, bottom, right; negative: left out of the plane."""

    def rows(self, low: int, high: int, height: int) -> Range:
        """Input rows that output rows [low, high) read, clipped to [0, height)."""
        top = self.pads[0]
        first = low * self.stride[0] - top
        last = (high - 1) * self.stride[0] - top + (self.kernel[0] - 1) * self.dilation[0] + 1
        return min(max(0, first), height), max(0, min(height, last))

    def plane(self, height: int, width: int) -> tuple[int, int]:
        """Output rows and columns; 0 or less where the window does not fit."""
        sizes = []
        for axis, size in enumerate((height, width)):
            room = size + self.pads[axis] + self.pads[axis + 2]
            span = (self.kernel[axis] - 1) * self.dilation[axis] + 1
            sizes.append((room - span) // self.stride[axis] + 1)
        return sizes[0], sizes[1]


class QuantizedOp(ABC):
    """What an op answers about itself; what is made of it (program, reference, ONNX) has a table of its own.

    tests/ir/test_tables.py says which tables, and fails where one lacks an op.
    """

    __slots__ = ()
    name: str
    output: str
    source: tuple[str, ...]

    @property
    @abstractmethod
    def operands(self) -> tuple[Operand, ...]:
        """All that it reads, in order."""

    @property
    @abstractmethod
    def window(self) -> Window:
        """Over its first operand."""

    @abstractmethod
    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """Of the output, given those of the tensors that it reads."""

    @property
    @abstractmethod
    def keeps_codes(self) -> bool:
        """Whether its results are codes of its inputs, so that all have one Quant."""

    @property
    @abstractmethod
    def raw(self) -> bool:
        """Whether its results are no codes but exact sums, which only the network's outputs may be."""

    @property
    @abstractmethod
    def table(self) -> np.ndarray | None:
        """Codes (2**bits,) that its results are looked up in."""

    @abstractmethod
    def dense_macs(self, shape: Shape) -> int:
        """Multiplications that the network needs for one sample, zeros included; `shape` is the output's."""

    @abstractmethod
    def sums(self, reach: Callable[[str], Range]) -> list[Range]:
        """Ranges that hold every number that the array's accumulators take for it, all channels together.

        `reach` gives the fixed-point values that a tensor's format can hold.
        """

    @property
    def inputs(self) -> tuple[str, ...]:
        """The operands that are computed."""
        return tuple(o for o in self.operands if isinstance(o, str))

    @property
    def constants(self) -> tuple[Constant, ...]:
        return tuple(o for o in self.operands if isinstance(o, Constant))

    def rows(self, tensor: str, low: int, high: int, height: int) -> Range:
        """Rows of operand `tensor`, which has `height`, that output rows [low, high) read."""
        return self.window.rows(low, high, height)

    def needed_macs(self, shape: Shape) -> int:
        """As `dense_macs`, without the zeros that the patterns of its constants promise."""
        return self.dense_macs(shape)

    def real(self, values: np.ndarray, quant: Quant) -> np.ndarray:
        """What its results (..., C) stand for; `quant` is the output's."""
        return quant.dequantize(values)
