"""Calibration: what values the tensors of a network take on real samples."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sateen.compiler.quantize.scores import scores_of, within_reach
from sateen.errors import DataError
from sateen.ir.graph import Graph
from sateen.sim.reference import check_inputs

Progress = Callable[[int, int], None]
Run = Callable[[Graph, dict[str, np.ndarray]], dict[str, np.ndarray]]

KEPT = 1 << 16
"""Values kept of each tensor, drawn evenly from all samples; its extremes are kept besides."""

_BATCH_ELEMENTS = 1 << 24  # of all tensors of a batch together

LARGEST = 1e30
"""Values whose squares, which errors are made of, still fit float64 by far."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorStatistics:
    """Range over all samples (float64), some of the values (1-D), and of each channel the mean and the
    largest magnitude (C,)."""

    minimum: float
    maximum: float
    values: np.ndarray
    mean: np.ndarray | None = None
    peak: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of every tensor by name; `samples` is how many went in."""

    tensors: dict[str, TensorStatistics]
    samples: int


def calibrate(
    graph: Graph,
    samples: dict[str, np.ndarray],
    *,
    kept: int = KEPT,
    progress: Progress | None = None,
    run: Run | None = None,
) -> Statistics:
    """Run the float network on samples (N, *ONNX shape) by input name. `progress` is called with (done, N).

    `run` evaluates the graph, by default `sateen.compiler.float_executor.run_float`.
    The result depends on the samples alone: the values to keep are drawn with a seed from the tensor's name.

    Raises
    ------
    DataError
        No or unknown inputs, wrong shapes, no samples, values or results that are not finite.
    """
    if run is None:
        from sateen.compiler.float_executor import run_float

        run = run_float
    try:
        arrays = check_inputs(graph.inputs, samples)
    except DataError as e:
        raise DataError(f"calibration: {e}") from None
    total = len(next(iter(arrays.values())))
    elements = sum(h * w * c for h, w, c in graph.shapes.values())
    batch = max(1, min(total, _BATCH_ELEMENTS // max(elements, 1)))
    quota = max(1, kept // total)
    gathered: dict[str, list[np.ndarray]] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    sums: dict[str, np.ndarray] = {}
    peaks: dict[str, np.ndarray] = {}
    drawn = {name: _Draw(name) for name in graph.shapes}
    scores = scores_of(graph)
    for start in range(0, total, batch):
        tensors = run(graph, {k: v[start : start + batch] for k, v in arrays.items()})
        for name, x in within_reach(scores, tensors).items():
            x = np.asarray(x, np.float64)
            sums[name] = sums.get(name, 0.0) + x.sum(axis=(0, 1, 2))
            peaks[name] = np.maximum(peaks.get(name, 0.0), np.maximum(x.max((0, 1, 2)), -x.min((0, 1, 2))))
            x = x.reshape(len(x), -1)
            least, most = float(x.min()), float(x.max())
            if not max(-least, most) <= LARGEST:  # NaN too
                raise DataError(
                    f"calibration: tensor '{name}' becomes NaN, infinite or larger than {LARGEST:g} on samples "
                    f"{start} to {start + len(x) - 1}; check the samples' scale and the model"
                )
            low[name], high[name] = min(low.get(name, least), least), max(high.get(name, most), most)
            gathered.setdefault(name, []).append(drawn.setdefault(name, _Draw(name))(x, quota))
        if progress:
            progress(min(start + batch, total), total)
    found = {}
    for name, parts in gathered.items():
        h, w, _ = graph.shapes[name]
        values = np.concatenate([*parts, [low[name], high[name]]])
        found[name] = TensorStatistics(
            low[name], high[name], values, sums[name] / (total * h * w), peaks[name]
        )
    return Statistics(found, total)


class _Draw:
    """Random values of each sample of a tensor, the same in every run."""

    def __init__(self, name: str) -> None:
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))

    def __call__(self, x: np.ndarray, quota: int) -> np.ndarray:
        """(N, size) to at most N * quota values."""
        if x.shape[1] <= quota:
            return x.reshape(-1).copy()
        at = self.rng.integers(0, x.shape[1], (len(x), quota))
        return np.take_along_axis(x, at, axis=1).reshape(-1)
