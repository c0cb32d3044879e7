"""Candidates whose cycles and resources are known, and which of them is worth measuring.

Accuracy belongs to a network in codes, of which there are few, and costs seconds; the rest belongs to the machine and
costs a fraction of that. So many machines are screened for each one that is measured, and the next is the one that
would move the front the furthest, with its accuracy where that is known and a hopeful prediction where it is not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sateen.explorer.candidate import Candidate
from sateen.explorer.goals import METRICS, Goals
from sateen.explorer.predict import Network, Predictor
from sateen.explorer.study import Trial

HOPE = 1.0
"""Standard deviations above the prediction that a candidate may have."""
RECENT = 256
"""Networks that predictions are from."""
LITTLE = 1e-9
"""By which a limit may be missed, or the front moved, for nothing."""


@dataclass(frozen=True, slots=True)
class Screened:
    point: Mapping[str, int]
    candidate: Candidate
    gains: np.ndarray
    """(objectives,), as `Waiting.scaled`; 0 for those that are dear."""
    excess: float
    """By how much limits are missed that are not dear."""


@dataclass
class Waiting:
    """What was screened and not measured, and what is known of networks in codes."""

    goals: Goals
    candidates: dict[str, Screened] = field(default_factory=dict)
    """By the candidate's key."""
    scores: dict[Network, dict[str, float]] = field(default_factory=dict)
    """Dear metrics of networks that were measured, on all data or a part."""
    _promising: list[Mapping[str, int]] | None = None

    @property
    def dear(self) -> tuple[str, ...]:
        """The metrics that objectives and limits ask for and that a network has to run for."""
        names = (*self.goals.objectives, *(name for name, _ in self.goals.limits))
        return tuple(dict.fromkeys(name for name in names if METRICS[name].dear))

    def add(self, point: Mapping[str, int], candidate: Candidate, metrics: Mapping[str, Any]) -> None:
        """What screening found."""
        gains = self.scaled([dict.fromkeys(self.dear, 0.0) | dict(metrics)])[0]
        self.candidates[candidate.key] = Screened(point, candidate, gains, self._excess(metrics))

    def learn(self, candidate: Candidate, metrics: Mapping[str, Any]) -> None:
        """What measuring a candidate says of its network."""
        found = {n: metrics.get(n, metrics.get("part", {}).get(n)) for n in self.dear}
        if found and all(v is not None for v in found.values()):
            self.scores[candidate.network] = found
        self.candidates.pop(candidate.key, None)
        self._promising = None

    def best(self, front: Sequence[Mapping[str, Any]], busy: Collection[Network] = ()) -> Screened | None:
        """What to measure next, given the metrics of the front's members; None if nothing promises anything.

        `busy` are networks that are being measured; others tell more until it is known what they are worth.
        """
        waiting = [
            s
            for s in self.candidates.values()
            if s.candidate.network in self.scores or s.candidate.network not in busy
        ]
        if not waiting:
            return None
        gains, excess = self._hopes(waiting)
        kept = excess <= LITTLE
        if not kept.any():  # nothing is expected to keep the limits: what comes nearest
            return None if front else waiting[int(excess.argmin())]
        unit = np.maximum(gains[kept].std(0), LITTLE)
        if front:
            reached = self.scaled(front)
            # of each, the least of what it is ahead of a member in the objective where it is ahead the most
            ahead = ((gains[:, None] - reached[None]) / unit).max(2).min(1)
        else:
            ahead = (gains / unit).sum(1)
        ahead[~kept] = -np.inf
        choice = int(ahead.argmax())
        return waiting[choice] if not front or ahead[choice] > LITTLE else None

    def promising(self, front: Sequence[Trial]) -> list[Mapping[str, int]]:
        """Points of the front that was expected of all that were screened when something was measured last."""
        if self._promising is None:
            waiting = list(self.candidates.values())
            points, gains = [t.point for t in front], self.scaled([t.metrics for t in front])
            if waiting:
                hopes, excess = self._hopes(waiting)
                behind = np.any(np.all(gains[None] >= hopes[:, None], axis=2), axis=1)  # most are
                kept = np.flatnonzero((excess <= LITTLE) & ~behind)
                points += [waiting[i].point for i in kept]
                gains = np.concatenate([gains, hopes[kept]])
            self._promising = [points[i] for i in _undominated(gains)]
        return self._promising

    def scaled(self, metrics: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """(N, objectives) of which more is better, logarithms of what is not accuracy."""
        found = np.zeros((len(metrics), len(self.goals.objectives)))
        for i, name in enumerate(self.goals.objectives):
            values = np.array([m[name] for m in metrics], float)
            if not METRICS[name].dear:
                values = np.log(np.maximum(values, LITTLE))
            found[:, i] = values if METRICS[name].more else -values
        return found

    def _excess(self, metrics: Mapping[str, Any]) -> float:
        return sum(max(0.0, v) for v in self.goals.excess(metrics).values())

    def _hopes(self, waiting: Sequence[Screened]) -> tuple[np.ndarray, np.ndarray]:
        """(N, objectives) gains with accuracies as good as they may be, and (N,) by how much limits are missed then."""
        gains = np.array([s.gains for s in waiting])
        excess = np.array([s.excess for s in waiting])
        if not self.dear:
            return gains, excess
        number = {n: i for i, n in enumerate(dict.fromkeys(s.candidate.network for s in waiting))}
        expected = {n: self.scores[n] for n in number if n in self.scores}
        expected |= self._predicted([n for n in number if n not in expected])
        which = [number[s.candidate.network] for s in waiting]
        metrics = [expected[n] for n in number]
        for i, name in enumerate(self.goals.objectives):
            if METRICS[name].dear:
                sign = 1.0 if METRICS[name].more else -1.0
                gains[:, i] = sign * np.array([m[name] for m in metrics])[which]
        return gains, excess + np.array([self._excess(m) for m in metrics])[which]

    def _predicted(self, networks: Sequence[Network]) -> dict[Network, dict[str, float]]:
        found: dict[Network, dict[str, float]] = {n: {} for n in networks}
        for name in self.dear if networks else ():
            known = {n: s[name] for n, s in list(self.scores.items())[-RECENT:]}
            sign = 1.0 if METRICS[name].more else -1.0
            hopes = np.full(len(networks), 100.0 if METRICS[name].more else 0.0)
            if known:
                mean, deviation = Predictor(known)(networks)
                most = max(sign * v for v in known.values())  # no network is better than all before it
                hopes = sign * np.minimum(sign * mean + HOPE * deviation, most)
            for network, value in zip(networks, hopes, strict=True):
                found[network][name] = float(value)
        return found


def _undominated(gains: np.ndarray) -> list[int]:
    """Positions of rows that no other row is at least as good as everywhere, and better somewhere."""
    chosen: list[int] = []
    for i in np.lexsort(-gains.T[::-1]):  # whoever dominates comes before
        if not (gains[chosen] >= gains[i]).all(1).any():
            chosen.append(int(i))
    return chosen
