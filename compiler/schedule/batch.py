"""Several samples in one run: one below the other in a plane, so that weights are read once for all."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import fields, replace

import numpy as np

from sateen.compiler.schedule.place import tensor_words
from sateen.compiler.schedule.samples import SampledGraph, from_memory, of_one_pixel, shared
from sateen.errors import ConfigError
from sateen.ir.pieces import Lattice, Piece
from sateen.ir.quantized import (
    Arrange,
    BiasGradient,
    ComputedConv,
    Concat,
    Linear,
    Maximum,
    MaxPool,
    Normalize,
    Op,
    QuantizedGraph,
    Softmax,
    Stored,
    Tensor,
    WeightGradient,
)
from sateen.ir.verify import verify
from sateen.machine.config import AcceleratorConfig

MOST = 4096
"""Samples of a run."""
LINE = 16
"""Most samples side by side, where each is a single pixel."""
COPIES = 4096
"""Most ops before a cut, in all samples: more make a program of millions of instructions."""
OF_WINDOWS = {Linear, ComputedConv, MaxPool, Concat, Maximum, Stored, Softmax, Normalize}
"""Ops that read, for an output pixel, what their window says, but for one that is of the whole plane."""


def batched(graph: QuantizedGraph, samples: int, cut: int = 0, folded: Collection[str] = ()) -> SampledGraph:
    """The graph for `samples` samples: ops before number `cut` once for each, those behind it on planes of all.

    Where every op takes each pixel by itself, and none is cut off, single pixels lie side by side. ConfigError for a
    number of samples out of range.
    """
    if not 1 <= samples <= MOST:
        raise ConfigError(f"batch {samples}: a run takes 1 to {MOST} samples")
    own = {f.name: getattr(graph, f.name) for f in fields(QuantizedGraph)}
    if samples == 1:
        return SampledGraph(**own)
    if cut or mixed(graph):
        return _below(graph, own, samples, cut)

    def plane(h: int, w: int) -> tuple[int, int]:
        side = math.gcd(samples, LINE) if h == w == 1 else 1
        return h * samples // side, w * side

    one = _in_common(graph)
    tensors = {}
    for name, tensor in graph.tensors.items():
        h, w, c = tensor.shape
        tensors[name] = tensor if name in one else replace(tensor, shape=(*plane(h, w), c))

    def of_all(op: Op) -> Op:
        shape = tensors[op.output].shape
        if isinstance(op, Stored):
            return replace(op, codes=np.tile(op.codes, (samples, 1, 1)).reshape(shape))
        return replace(op, plane=shape[:2]) if isinstance(op, ComputedConv) and op.transposed else op

    ops = tuple(of_all(op) for op in graph.ops)
    ports = {p.name for p in graph.inputs} | {o.tensor for o in graph.outputs}
    made = SampledGraph(
        **own | {"ops": ops, "tensors": tensors}, samples=dict.fromkeys(set(tensors) - one, samples)
    )
    verify(made, after="batched", folded=folded, reshaped=ports)
    return made


def _in_common(graph: QuantizedGraph) -> set[str]:
    """Tensors of which there is one for all samples."""
    return {t for op in graph.ops for t in shared(op)}


def mixed(graph: QuantizedGraph) -> bool:
    """Whether an op computes a pixel from others than the same of every operand."""
    return any(_mixes(op, graph) for op in graph.ops)


def _mixes(op: Op, graph: QuantizedGraph) -> bool:
    planes = {graph.tensors[t].shape[:2] for t in (*op.inputs, op.output) if t not in shared(op)}
    return type(op) not in OF_WINDOWS or len(planes) > 1 or not of_one_pixel(op)


def cuts(graph: QuantizedGraph, samples: int, config: AcceleratorConfig) -> list[int]:
    """Where `batched` cuts at first: nowhere, behind the last op whose planes of all exceed the buffer, at the end."""
    ops = graph.ops
    if any(from_memory(op) for op in ops):  # what is summed over all samples is not cut
        return [0]
    words = (sum(tensor_words(graph, t, config) for t in {*op.inputs, op.output}) * samples for op in ops)
    last = max((i + 1 for i, n in enumerate(words) if n > config.act_depth), default=0)
    return [at for at in sorted({0, last, len(ops)}) if at * samples <= COPIES]


def displaced(graph: QuantizedGraph, samples: int, config: AcceleratorConfig) -> list[int]:
    """Of every cut, about the cycles on the bus of what planes of all samples drive from the buffer."""
    sizes = {t: tensor_words(graph, t, config) for t in graph.tensors}
    ops = graph.ops
    own = [sum(sizes[t] for t in {*op.inputs, op.output}) for op in ops]
    beats = max(1.0, config.act_word_bytes / config.beat_bytes)
    found = []
    for at in range(len(ops) + 1):
        read = {t for op in ops[at:] for t in op.inputs}
        room = config.act_depth - samples * sum(sizes[op.output] for op in ops[:at] if op.output in read)
        out = sum(
            sizes[op.output] for op, n in zip(ops[:at], own, strict=False) if room < n <= config.act_depth
        )
        found.append(round(2 * samples * out * beats))
    return found


def best_cut(layers: dict[int, list[int]], displaced: list[int]) -> int:
    """Where the ops before take fewest cycles in the program of single samples, and those behind in another.

    Parameters
    ----------
    layers : for the cut of each program, cycles of every op; the last one cuts at the end
    displaced : cycles that each cut costs beside
    """
    *others, end = sorted(layers)
    costs = {
        at: sum(layers[end][:at]) + sum(layers[cut][at:]) + displaced[at]
        for cut in reversed(others)
        for at in range(cut, end + 1)
    }
    return min(costs, key=lambda at: costs[at])


def _below(graph: QuantizedGraph, own: dict[str, object], samples: int, cut: int) -> SampledGraph:
    """All samples one below the other, behind the cut, and tensors of one before it."""
    early, late = graph.ops[:cut], graph.ops[cut:]
    ports = {p.name for p in graph.inputs} | {o.tensor for o in graph.outputs}
    of_all = ports | {t for op in late for t in (*op.inputs, op.output)}
    one = _in_common(graph)
    tensors: dict[str, Tensor] = {}
    parts: dict[str, tuple[str, int]] = {}
    for name, tensor in graph.tensors.items():
        h, w, c = tensor.shape
        if name in one:
            tensors[name] = tensor
        elif name in of_all:
            tensors[name] = replace(tensor, shape=(h * samples, w, c))
    ops: list[Op] = []
    for s in range(samples):
        names = {t: f"{t}@{s}" for op in early for t in (*op.inputs, op.output) if t not in one}
        for t, copy in names.items():
            tensors[copy] = replace(graph.tensors[t], name=copy)
            if t in of_all:
                parts[copy] = t, s * graph.tensors[t].shape[0]
        ops += [renamed(op, names) for op in early]
    ops += [_of_all(op, graph, samples) for op in late]
    return SampledGraph(
        **own | {"ops": tuple(ops), "tensors": tensors},  # type: ignore[arg-type]
        samples=dict.fromkeys(of_all - one, samples), parts=parts, cut=cut,
    )  # fmt: skip


_NAMING = ("input", "output", "weight", "gradient", "reference", "pooled")
"""Fields of ops that name a tensor, or may."""


def renamed(op: Op, names: dict[str, str]) -> Op:
    """The op with other operands and another output."""
    changes: dict[str, object] = {}
    for f in fields(op):
        value = getattr(op, f.name)
        if f.name in _NAMING and isinstance(value, str):
            changes[f.name] = names.get(value, value)
        elif f.name == "parts":
            changes[f.name] = tuple(names[t] for t in value)
        elif f.name == "residual" and value is not None:
            changes[f.name] = replace(value, input=names[value.input])
    return replace(op, **changes)  # type: ignore[arg-type]


def _of_all(op: Op, graph: QuantizedGraph, samples: int) -> Op:
    if isinstance(op, Stored):
        return replace(op, codes=np.tile(op.codes, (samples, 1, 1)))
    if isinstance(op, ComputedConv) and op.transposed:
        return replace(op, plane=(op.plane[0] * samples, op.plane[1]))
    if isinstance(op, WeightGradient | BiasGradient):
        return replace(op, pixels=op.pixels * samples)
    if not isinstance(op, Arrange):
        return op
    height = graph.tensors[op.output].shape[0]

    def lower(lattice: Lattice, rows: int) -> Lattice:
        return replace(lattice, origin=(lattice.origin[0] + rows, lattice.origin[1]))

    def moved(piece: Piece, s: int) -> Piece:
        source = lower(piece.source, s * graph.tensors[op.parts[piece.part]].shape[0])
        return replace(piece, source=source, target=lower(piece.target, s * height))

    return replace(op, pieces=tuple(moved(p, s) for s in range(samples) for p in op.pieces))
