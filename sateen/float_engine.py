"""`--engine float`: the network as it was imported, neither pruned nor rounded, which the others are judged by."""

from __future__ import annotations

import math
import time

import numpy as np

from sateen.compiler.float_executor import float_outputs, run_float
from sateen.errors import BuildError
from sateen.ir.graph import Graph
from sateen.ir.serialize import float_from_bytes
from sateen.options import Progress
from sateen.sim.engines import Build, RunResult, result_of
from sateen.sim.reference import check_inputs

FILE = "float.bin"
_ELEMENTS = 1 << 22
"""Of all tensors of the samples that are run at once."""


def float_graph(b: Build) -> Graph:
    """The network that the build was compiled from. Raises BuildError."""
    if FILE not in b.manifest["files"]:
        raise BuildError(f"build {b.folder}: has no {FILE}, the network in floating point; compile again")
    try:
        return float_from_bytes(b.read(FILE))
    except BuildError as e:
        raise BuildError(f"{b.folder / FILE}: {e}") from None


def run_in_float(b: Build, inputs: dict[str, np.ndarray], progress: Progress | None = None) -> RunResult:
    """Run it on a batch, some samples at a time. Raises BuildError and DataError."""
    graph = float_graph(b)
    arrays = check_inputs(graph.inputs, inputs)
    named = {p.source: arrays[p.name] for p in graph.inputs}
    total = len(next(iter(named.values())))
    step = max(1, _ELEMENTS // max(1, sum(map(math.prod, graph.shapes.values()))))
    parts = []
    started = time.perf_counter()
    for start in range(0, total, step):
        part = {name: x[start : start + step] for name, x in named.items()}
        parts.append(float_outputs(graph, run_float(graph, part)))
        if progress:
            progress("float", min(start + step, total) / total)
    outputs = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    outputs = {n: y.astype(np.float32) if y.dtype == np.float64 else y for n, y in outputs.items()}
    return result_of(b, "float", outputs, total, None, time.perf_counter() - started)
