"""Evenly spaced thresholds: which staircase of one step a row of thresholds is."""

from __future__ import annotations

import numpy as np

from sateen.compiler.importer.nouns import Unsupported

_CLOSE = 1e-4
"""Of a step, how far thresholds of floating point may lie from even ones."""
_BELOW = 2.0**-10
"""Of a step: a staircase rounds at its edges, and a value that reaches a threshold must come out above it."""


def steps_of(thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C,) first thresholds and (C,) steps of (C, K) thresholds, ascending.

    Integer thresholds that are not even count integers, so that a staircase which passes between each and the integer
    below it is the same: the one with the most room is taken. Raises Unsupported where no even staircase is.
    """
    if thresholds.shape[1] == 1:
        return thresholds[:, 0], np.ones(len(thresholds))
    if (np.diff(thresholds, axis=1) < 0).any():
        raise Unsupported("its thresholds do not ascend", "sort them")
    first, step = np.array([_even(row) or _whole(row) for row in thresholds]).T
    return first, step


def _even(row: np.ndarray) -> tuple[float, float] | None:
    k = np.arange(len(row))
    step, first = np.polyfit(k, row, 1)
    if step <= 0 or np.abs(first + step * k - row).max() > _CLOSE * step:
        return None
    return float(first - _BELOW * step), float(step)


def _whole(row: np.ndarray) -> tuple[float, float]:
    """first + k * step in (row - 1, row) for all k, as far from both as can be.

    The bounds of the distance of two thresholds bound the step; for a step, those of all thresholds the first.
    """
    if (row != np.rint(row)).any():
        raise _uneven()
    k = np.arange(len(row))
    gaps = row[None, :] - row[:, None]
    distance = (k[None, :] - k[:, None]).astype(np.float64)
    ahead = distance > 0
    low = ((gaps - 1)[ahead] / distance[ahead]).max()
    high = ((gaps + 1)[ahead] / distance[ahead]).min()
    best = (-np.inf, 0.0, 0.0)
    for step in np.linspace(max(low, 1e-9), high, 257):  # room is concave in the step
        offsets = row - step * k
        room = (offsets.min() - (offsets.max() - 1)) / 2
        best = max(best, (room, (offsets.min() + offsets.max() - 1) / 2, step))
    if best[0] <= 0:
        raise _uneven()
    return best[1], best[2]


def _uneven() -> Unsupported:
    return Unsupported(
        "its thresholds are not evenly spaced", "export the model before its quantizers become thresholds"
    )
