"""What a candidate is judged by: objectives, limits, and the Pareto front of those that keep the limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sateen.errors import ConfigError

Metrics = Mapping[str, Any]
"""Of a candidate, by the names of `METRICS`; one that is not known is missing or None."""


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    unit: str
    more: bool
    """Whether more of it is better."""
    dear: bool = False
    """Whether the network has to run to know it."""
    source: str = "estimated"


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("fps", "samples a second", True, source="exact cycles at its clock"),
        Metric("cycles", "cycles a sample", False, source="exact"),
        Metric("lut", "LUTs", False),
        Metric("ff", "flip-flops", False),
        Metric("dsp", "DSPs", False),
        Metric("bram", "block RAMs", False),
        Metric("clock", "MHz", True),
        Metric("energy", "µJ a sample", False),
        Metric("bytes", "bytes moved a sample", False, source="exact"),
        Metric("weight_bytes", "bytes of weights", False, source="exact"),
        Metric("accuracy", "% of the labels", True, dear=True, source="bit-exact reference"),
        Metric("agreement", "% of the float network's classes", True, dear=True, source="bit-exact reference"),
        Metric("drop", "points of accuracy (or agreement) lost", False, dear=True, source="bit-exact reference"),
        Metric("sqnr", "dB", True, dear=True, source="bit-exact reference"),
    )
}  # fmt: skip
DEFAULT_OBJECTIVES = ("fps", "lut", "accuracy")


@dataclass(frozen=True, slots=True)
class Goals:
    """Objectives, the first one first, and the least or most of a metric that is allowed."""

    objectives: tuple[str, ...]
    limits: tuple[tuple[str, float], ...] = ()

    @property
    def senses(self) -> tuple[bool, ...]:
        """Of each objective, whether more is better."""
        return tuple(METRICS[name].more for name in self.objectives)

    def excess(self, metrics: Metrics) -> dict[str, float]:
        """By how much of the limit each of those that are known is missed; at most 0 where it is kept."""
        found = {}
        for name, limit in self.limits:
            value = metrics.get(name)
            if value is not None:
                beyond = limit - value if METRICS[name].more else value - limit
                found[name] = beyond / max(abs(limit), 1e-9) if limit else beyond
        return found

    def kept(self, metrics: Metrics) -> bool:
        return all(v <= 1e-12 for v in self.excess(metrics).values())

    def known(self, metrics: Metrics) -> bool:
        """Whether everything that objectives and limits ask for is there."""
        names = (*self.objectives, *(name for name, _ in self.limits))
        return all(metrics.get(name) is not None for name in names)

    def gains(self, metrics: Metrics) -> tuple[float, ...]:
        """The objectives as numbers of which more is better."""
        return tuple(
            metrics[name] if more else -metrics[name]
            for name, more in zip(self.objectives, self.senses, strict=True)
        )


def parse_objectives(text: str | Sequence[str] | None, labels: bool) -> tuple[str, ...]:
    """Names from "fps,lut,accuracy"; without labels accuracy is agreement. Raises ConfigError."""
    names = DEFAULT_OBJECTIVES if text is None else text.split(",") if isinstance(text, str) else text
    chosen = [_known(name.strip(), "objective") for name in names]
    if not labels:
        chosen = ["agreement" if name == "accuracy" else name for name in chosen]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(
            f"objectives {','.join(names)}: give each once, such as {','.join(DEFAULT_OBJECTIVES)}"
        )
    return tuple(chosen)


def parse_limits(
    given: Sequence[str] | Mapping[str, float] | None, labels: bool
) -> tuple[tuple[str, float], ...]:
    """Limits from "lut=50000" and so on, each a least or a most as its metric asks for. Raises ConfigError."""
    pairs: list[tuple[str, float]] = []
    items = [f"{k}={v}" for k, v in given.items()] if isinstance(given, Mapping) else given or ()
    for text in items:
        name, equals, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not equals or not math.isfinite(number):
            raise ConfigError(f"limit '{text}': it must be NAME=NUMBER, such as lut=50000 or drop=1.0")
        name = _known(name.strip(), "limit")
        pairs.append(("agreement" if name == "accuracy" and not labels else name, number))
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"limit '{twice}' is given twice; give it once")
    return tuple(pairs)


def _known(name: str, what: str) -> str:
    if name not in METRICS:
        raise ConfigError(f"unknown {what} '{name}'; it must be one of {', '.join(METRICS)}")
    return name


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is at least as good as `b` everywhere and better somewhere; more is better."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def front(goals: Goals, found: Sequence[Metrics]) -> list[int]:
    """Positions of those that keep all limits and that no other such one dominates.

    The best in the first objective comes first, then in the second, and so on; of equal ones the first found stays.
    """
    gains = {i: goals.gains(m) for i, m in enumerate(found) if goals.known(m) and goals.kept(m)}
    order = sorted(gains, key=lambda i: (tuple(-g for g in gains[i]), i))
    chosen: list[int] = []
    for i in order:  # whoever dominates comes before
        if not any(dominates(gains[j], gains[i]) or gains[j] == gains[i] for j in chosen):
            chosen.append(i)
    return chosen


def nearest(goals: Goals, found: Sequence[Metrics]) -> int | None:
    """The position of the candidate that misses the limits by the least, all misses added; None if there is none."""
    known = [i for i, m in enumerate(found) if goals.known(m)] or [i for i, m in enumerate(found) if m]
    return min(known, key=lambda i: sum(max(0.0, v) for v in goals.excess(found[i]).values()), default=None)
