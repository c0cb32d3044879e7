"""The graph that is lowered: its tensors hold one sample or several, one below the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sateen.ir.operation import Range, Window
from sateen.ir.quantized import (
    Arrange,
    BiasGradient,
    ComputedConv,
    MatMul,
    Normalize,
    Op,
    QuantizedGraph,
    WeightGradient,
)


def of_one_pixel(op: Op) -> bool:
    """Whether an output pixel reads a single one of each operand: by its window, and not by statistics of the plane."""
    return op.window == Window(dilation=op.window.dilation) and not (isinstance(op, Normalize) and op.plane)


def shared(op: Op) -> tuple[str, ...]:
    """Tensors of an op that all samples have in common."""
    if isinstance(op, WeightGradient | BiasGradient):
        return (op.output,)
    return (op.weight,) if isinstance(op, ComputedConv) else ()


def from_memory(op: Op) -> tuple[str, ...]:
    """Tensors that an op reads from memory alone."""
    return (op.gradient,) if isinstance(op, WeightGradient | BiasGradient) else ()


def in_buffer(op: Op) -> tuple[str, ...]:
    """Tensors that are in the activation buffer while an op runs."""
    if isinstance(op, WeightGradient | BiasGradient):
        return tuple(t for t in op.inputs if t not in from_memory(op))
    return (*op.inputs, op.output)


@dataclass(frozen=True, slots=True)
class SampledGraph(QuantizedGraph):
    """Ops are of all samples, or of one: those of one read and write its rows of what others have of all."""

    samples: dict[str, int] = field(default_factory=dict)
    """Of tensors that hold more than one."""
    parts: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Of tensors that are rows of another: which, and the first row."""
    cut: int = 0
    """Ops before this one, of a single sample's, are there once for each sample."""

    def whole(self, tensor: str) -> str:
        """What it is rows of; else itself."""
        return self.parts[tensor][0] if tensor in self.parts else tensor

    def producer(self, tensor: str) -> Op | None:
        return next((op for op in self.ops if tensor in (op.output, self.whole(op.output))), None)

    def samples_of(self, op: Op) -> int:
        """How many it computes, or sums."""
        return max(self.samples.get(t, 1) for t in (op.output, *from_memory(op)))

    def apart(self, op: Op) -> int:
        """Samples that an op computes one by one, as it reads other pixels of each than its own; else 1."""
        n = self.samples.get(op.output, 1)
        if n == 1 or isinstance(op, Arrange | MatMul):  # which say where each row is
            return 1
        heights = {self.tensors[t].shape[0] for t in (*op.inputs, op.output) if t not in shared(op)}
        return 1 if len(heights) == 1 and of_one_pixel(op) else n

    def rows(self, op: Op, tensor: str, low: int, high: int) -> Range:
        """Rows of operand `tensor` that output rows [low, high) read, of whichever samples these are."""
        n, height = self.apart(op), self.tensors[tensor].shape[0]
        if n == 1 or tensor in shared(op):
            return op.rows(tensor, low, high, height)
        own, out = height // n, self.tensors[op.output].shape[0] // n
        spans = [
            (s * own + a, s * own + b)
            for s, y0, y1 in self.spans(op, low, high)
            for a, b in [op.rows(tensor, y0 - s * out, y1 - s * out, own)]
        ]
        return spans[0][0], spans[-1][1]

    def spans(self, op: Op, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        """Output rows [low, high) as (sample, y0, y1), cut where a sample ends if they are computed one by one."""
        out = self.tensors[op.output].shape[0] // self.apart(op)
        for s in range(low // out, (high - 1) // out + 1):
            yield s, max(low, s * out), min(high, (s + 1) * out)

    def place_of(self, op: Op, tensor: str, y: int) -> tuple[int, int, int]:
        """Of the sample of output row `y`: its first row of `tensor`, how many it has there, its first output row."""
        n = self.apart(op)
        own, out = (self.tensors[t].shape[0] // n for t in (tensor, op.output))
        s = y // out
        return s * own, own, s * out
