"""Several samples in one run, as pixels of a plane: where layers take each pixel by itself, weights are read once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sateen.errors import ConfigError, ModelError
from sateen.ir.operation import Window
from sateen.ir.quantized import (
    Concat,
    Linear,
    Maximum,
    MaxPool,
    Normalize,
    Op,
    QuantizedGraph,
    Softmax,
    Stored,
)
from sateen.ir.verify import verify

MOST = 4096
"""Samples of a run."""
LINE = 16
"""Most samples side by side, where each is a single pixel."""
OF_WINDOWS = {Linear, MaxPool, Concat, Maximum, Stored, Softmax, Normalize}
"""Ops that read, for an output pixel, what their window says, but for one that is of the whole plane."""


def batched(graph: QuantizedGraph, samples: int) -> QuantizedGraph:
    """The graph on planes that hold `samples` samples, one below the other; single pixels side by side first.

    Raises ModelError for an op that reads other pixels than its own, ConfigError for a number out of range.
    """
    if not 1 <= samples <= MOST:
        raise ConfigError(f"batch {samples}: a run takes 1 to {MOST} samples")
    if samples == 1:
        return graph
    for op in graph.ops:
        if reason := _mixes(op, graph):
            raise ModelError(
                f"batch {samples}: {type(op).__name__} '{op.name}' {reason}; samples share a run where every layer "
                "computes each pixel by itself, as those of an MLP do: compile without --batch"
            )

    def plane(h: int, w: int) -> tuple[int, int]:
        side = math.gcd(samples, LINE) if h == w == 1 else 1
        return h * samples // side, w * side

    tensors = {}
    for name, tensor in graph.tensors.items():
        h, w, c = tensor.shape
        tensors[name] = replace(tensor, shape=(*plane(h, w), c))

    def op_of_all(op: Op) -> Op:
        if isinstance(op, Stored):
            return replace(op, codes=np.tile(op.codes, (samples, 1, 1)).reshape(tensors[op.output].shape))
        if isinstance(op, Linear) and op.macs is not None:
            return replace(op, macs=op.macs * samples)
        return op

    ops = tuple(op_of_all(op) for op in graph.ops)
    ports = {p.name for p in graph.inputs} | {o.tensor for o in graph.outputs}
    return verify(replace(graph, ops=ops, tensors=tensors), after="batched", reshaped=ports)


def _mixes(op: Op, graph: QuantizedGraph) -> str | None:
    """Why an output pixel is not computed from the same pixel of every operand."""
    if type(op) not in OF_WINDOWS:
        return "mixes pixels"
    if isinstance(op, Normalize) and op.plane:
        return "normalizes over a whole plane"
    window = op.window
    if window.kernel != (1, 1):
        return f"reads windows of {window.kernel[0]}×{window.kernel[1]} pixels"
    if window != Window(dilation=window.dilation):
        return f"reads with strides {window.stride} and pads {window.pads}"
    planes = {graph.tensors[t].shape[:2] for t in (*op.inputs, op.output)}
    if len(planes) > 1:
        return f"has planes of several sizes, {' and '.join(f'{h}×{w}' for h, w in sorted(planes))}"
    return None
