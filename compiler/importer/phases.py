"""Outputs that read their inputs with the same weights are a phase: a convolution of its own, whose pixels `Arrange`
puts between those of the other phases. No zero is multiplied."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sateen.compiler.importer.moves import arrange
from sateen.compiler.importer.nouns import Unsupported
from sateen.compiler.importer.walk import Walk
from sateen.ir.nodes import Conv
from sateen.ir.pieces import pieces_of
from sateen.ir.ports import Shape

MOST_PHASES = 256


@dataclass(frozen=True, slots=True)
class Phase:
    """Along one axis: outputs `first`, `first` + `period`, …, `count` of them. Output number n of the phase is the sum
    over t of weights[t] * input[start + n * stride + t * dilation]."""

    first: int
    period: int
    count: int
    start: int
    stride: int
    weights: np.ndarray
    dilation: int = 1

    @property
    def last(self) -> int:
        """The last input that is read."""
        return self.start + (self.count - 1) * self.stride + (len(self.weights) - 1) * self.dilation


SAME = Phase(0, 1, 1, 0, 1, np.ones(1))


def emit_phases(
    walk: Walk, name: str, source: str, out: str, shape: Shape, rows: Sequence[Phase], columns: Sequence[Phase],
    kernel: Callable[[Phase, Phase], tuple[np.ndarray, int]], bias: np.ndarray,
) -> str:  # fmt: skip
    """A convolution for each pair of phases, and their pixels in order. `kernel` gives weights (O, KH, KW, I / groups)
    and groups; inputs outside the plane are zero."""
    if len(rows) * len(columns) > MOST_PHASES:
        raise Unsupported(
            f"its sizes make {len(rows) * len(columns)} phases of different weights, of which {MOST_PHASES} are taken",
            "enlarge by a whole number",
        )
    height, width, _ = walk.shapes[source]
    parts, pieces = [], []
    for y in rows:
        for x in columns:
            weight, groups = kernel(y, x)
            pads = (-y.start, -x.start, y.last - height + 1, x.last - width + 1)
            tensor = walk.fresh(out if len(rows) * len(columns) == 1 else f"{out}.phase")
            walk.emit(
                Conv(
                    name, source, tensor, weight, bias, (y.stride, x.stride), (y.dilation, x.dilation), pads, groups
                ),
                (y.count, x.count, shape[2]),
            )  # fmt: skip
            parts.append(tensor)
            pieces += pieces_of(len(parts) - 1, _lattice(y, 0), _lattice(x, 1))
    if len(parts) == 1:
        return parts[0]
    return arrange(walk, f"{name}.interleave", parts, pieces, out, shape)


def depthwise_kernel(channels: int) -> Callable[[Phase, Phase], tuple[np.ndarray, int]]:
    """For `emit_phases`: each channel by itself, weighted by the product of a row's weight and a column's."""

    def kernel(y: Phase, x: Phase) -> tuple[np.ndarray, int]:
        return np.repeat(np.outer(y.weights, x.weights)[None, :, :, None], channels, axis=0), channels

    return kernel


def _lattice(phase: Phase, axis: int) -> np.ndarray:
    places = np.zeros((3, phase.count), np.int64)
    places[0] = phase.first + phase.period * np.arange(phase.count)
    places[1 + axis] = np.arange(phase.count)
    return places


def phases(at: np.ndarray, weights: np.ndarray) -> list[Phase]:
    """The fewest phases of outputs that read inputs `at` (outputs, taps) with `weights`."""
    n = len(at)
    weights = np.where(np.abs(weights) < 1e-12, 0.0, weights)

    def one(first: int, period: int) -> Phase | None:
        own, w = at[first::period], weights[first::period]
        steps = np.diff(own[:, 0])
        even = len(set(steps.tolist())) <= 1 and (len(steps) == 0 or steps[0] >= 1)
        if not even or not np.allclose(w, w[0], rtol=0, atol=1e-9):
            return None
        used = np.flatnonzero(w[0])
        low, high = int(used[0]), int(used[-1]) + 1
        stride = int(steps[0]) if len(steps) else 1
        return Phase(first, period, len(own), int(own[0, low]), stride, w[0, low:high])

    for period in range(1, n + 1):
        found: list[Phase] = []
        for first in range(period):
            phase = one(first, period)
            if phase is None:
                break
            found.append(phase)
        else:
            return found
    raise AssertionError("a phase of one output is always one")


def borders(at: np.ndarray, weights: np.ndarray, dilation: int = 1) -> list[Phase]:
    """Runs of neighbouring outputs with the same weights of their taps, `dilation` apart."""
    found: list[Phase] = []
    cuts = [0, *(np.flatnonzero((np.diff(weights, axis=0) != 0).any(axis=1)) + 1), len(at)]
    for first, end in itertools.pairwise(cuts):
        used = np.flatnonzero(weights[first])
        low, high = int(used[0]), int(used[-1]) + 1
        stride = int(at[first + 1, 0] - at[first, 0]) if end - first > 1 else 1
        own = weights[first, low:high]
        found.append(Phase(int(first), 1, int(end - first), int(at[first, low]), stride, own, dilation))
    return found
