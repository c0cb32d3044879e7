"""The quantized network: integer codes, exact accumulation, one rounding per output (docs/architecture.md).

This graph is the definition of right: `sateen.sim.reference` runs it, the compiler lowers it, and the exported
ONNX states it in standard operators. All arrays of codes are uint8 and hold a code in their low bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sateen.formats import Format, SparsityPattern
from sateen.formats.sparsity import DENSE
from sateen.ir.graph import Output, Port, Shape
from sateen.ir.quant import Quant

__all__ = ["Concat", "Linear", "MaxPool", "Op", "Quant", "QuantizedGraph", "Residual", "Tensor"]


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    shape: Shape
    quant: Quant


@dataclass(frozen=True, slots=True)
class Residual:
    """A second operand, added before the rounding: fixed-point units of its format, times multiplier * 2**-shift."""

    input: str
    multiplier: int  # 1 to 65535
    shift: int  # s0 <= min(shift) of the channels


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """Convolution, Gemm, average pooling, add, rescale: everything that goes through the array.

    With fixed-point operands, per output channel c:
        acc  = sum(fixed(w) * fixed(a)) + bias_c                  (padding reads the code of real zero)
        t    = acc * multiplier_c * 2**-shift_c + (fixed(r) - zero_after_r) * residual.multiplier * 2**-residual.shift
        code = encode(clamp(round_to_format(t) + zero_after_out, low, high))       t is exact; one rounding
        out  = table[code] if there is a table, else code
    The bias holds all other zero points: that of the input, and what minifloats add before rounding.
    t and the clamp are in fixed-point units (2**lsb_exponent) of `requantized.format`, which is the output's format
    without a table. With `raw`, the output is acc itself, an exact integer, real = acc * raw_scale_c
    + raw_offset_c.
    """

    name: str
    input: str
    output: str
    weight: np.ndarray  # codes (O, KH, KW, I / groups)
    weight_format: Format
    bias: np.ndarray  # int64 or object (O,), zero point folded in
    multiplier: np.ndarray  # int64 (O,), 1 to 65535
    shift: np.ndarray  # int64 (O,), 0 to 127
    requantized: Quant  # before the table
    low: int  # clamp, fixed-point units
    high: int
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    residual: Residual | None = None
    table: np.ndarray | None = None  # codes (2**bits,)
    raw: bool = False
    raw_scale: np.ndarray | None = None  # float64 (O,)
    raw_offset: np.ndarray | None = None  # float64 (O,), what the integer bias leaves of the file's
    macs: int | None = None
    """Multiplications that the network needs here, for one sample; None: those of the convolution. Add, rescale, copy
    and selection, which are no multiplications of the network, say 0."""
    source: tuple[str, ...] = ()  # ONNX nodes fused here
    weight_scale: np.ndarray | None = None  # float64 (O,), what the export writes
    sparsity: SparsityPattern = DENSE  # what the weight obeys along its last axis
    channels: np.ndarray | None = None  # int64 (O, I / groups), as in ir.graph.Conv: groups = O then

    @property
    def whole(self) -> bool:
        """As of ir.graph.Conv."""
        return self.groups == 1 and self.channels is None

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,) + ((self.residual.input,) if self.residual else ())


@dataclass(frozen=True, slots=True)
class MaxPool:
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
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Concat:
    """Along channels. All parts and the output have the same Quant."""

    name: str
    parts: tuple[str, ...]
    output: str
    source: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.parts


Op = Linear | MaxPool | Concat


@dataclass(frozen=True, slots=True)
class QuantizedGraph:
    """Ops in topological order. A tensor written by a raw Linear has no codes and is read by no op.

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

    def consumers(self, tensor: str) -> tuple[Op, ...]:
        return tuple(op for op in self.ops if tensor in op.inputs)
