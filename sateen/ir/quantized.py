"""The quantized network: integer codes, exact accumulation, one rounding per output (DESIGN: numeric contract).

This graph is the definition of right: `sateen.sim.reference` runs it, the compiler lowers it, and the exported
ONNX states it in standard operators. All arrays of codes are uint8 and hold a code in their low bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sateen.formats import Format, Integer, SparsityPattern
from sateen.formats.sparsity import DENSE
from sateen.ir.graph import Output, Port, Shape


@dataclass(frozen=True, slots=True)
class Quant:
    """real = scale * (fixed(code) - zero_point) * 2**lsb_exponent.

    The zero point is a fixed-point number of the format. Integers round first and add it then, as QuantizeLinear
    does. The grid of a minifloat is finer in places, so there it is added before the rounding: see
    docs/adr/0014-minifloat-zero-points.md.
    """

    format: Format
    scale: float
    zero_point: int = 0

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        return self.scale * (self.format.decode(codes) - self.offset)

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Round to nearest, ties to even, and saturate; see above for the zero point. -0 becomes +0."""
        scaled = np.asarray(x, np.float64) / self.scale
        if self.zero_after:
            scaled = np.rint(scaled)
        if self.zero_point:
            scaled = scaled + self.offset
        codes = self.format.encode(scaled)
        return np.where(self.format.fixed(codes) == 0, self.format.zero_code, codes).astype(np.uint8)

    def quantize_terms(self, x: np.ndarray, terms: int) -> np.ndarray:
        """Codes (..., terms * C) of x (..., C): each term is the code of what the terms before it leave over.

        What real value they stand for is the sum of the terms', channel t*C + c being term t of channel c.
        """
        codes, rest = [], np.asarray(x, np.float64)
        for _ in range(terms):
            codes.append(self.quantize(rest))
            rest = rest - self.dequantize(codes[-1])
        return np.concatenate(codes, axis=-1)

    @property
    def offset(self) -> float:
        """The zero point as a value of the format."""
        return self.zero_point * 2.0**self.format.lsb_exponent

    @property
    def zero_after(self) -> int:
        """What is added to a rounded number: the zero point of an integer, else 0."""
        return self.zero_point if isinstance(self.format, Integer) else 0

    @property
    def zero_before(self) -> int:
        """What is added before rounding, in fixed-point units: the zero point of a minifloat, else 0."""
        return self.zero_point - self.zero_after

    @property
    def zero_code(self) -> int:
        """The code of real zero: what padding pads with."""
        return int(self.format.encode(np.array([self.offset]))[0])


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
    without a table. With `raw`, the output is acc itself, an exact integer, real = acc * raw_scale_c.
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
    macs: int | None = None
    """Multiplications that the network needs here, for one sample; None: those of the convolution. Add, rescale, copy
    and selection, which are no multiplications of the network, say 0."""
    source: tuple[str, ...] = ()  # ONNX nodes fused here
    weight_scale: np.ndarray | None = None  # float64 (O,), what the export writes
    sparsity: SparsityPattern = DENSE  # what the weight obeys along its last axis

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
