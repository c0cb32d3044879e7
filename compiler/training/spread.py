"""Where the gradients that a pool's windows give to a pixel lie side by side, along one axis of its plane.

A pixel has as many places as windows read it at most; what no window fills is zero.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tap:
    """Windows `first` to `first + count` have an element of the plane there; of the spread plane, places `target`,
    `target + step`, …"""

    tap: int
    first: int
    count: int
    target: int
    step: int


@dataclass(frozen=True, slots=True)
class Line:
    """An axis of a pool's plane in which each pixel has `deep` places, one for each window that may read it."""

    deep: int
    size: int
    taps: tuple[Tap, ...]
    free: tuple[int, ...]
    """Places of no window."""

    def places(self, window: int) -> tuple[int, ...]:
        """Those of one window."""
        inside = (t for t in self.taps if t.first <= window < t.first + t.count)
        return tuple(sorted(t.target + (window - t.first) * t.step for t in inside))


def line(kernel: int, stride: int, dilation: int, pad: int, windows: int, size: int) -> Line:
    if windows == 1:
        stride = kernel * dilation  # it meets no other
    phases: dict[int, int] = {}
    found = []
    for tap in range(kernel):
        at = tap * dilation - pad
        rank = phases[at % stride] = phases.get(at % stride, -1) + 1
        first = max(0, -(at // stride))
        last = min(windows - 1, (size - 1 - at) // stride)
        if first <= last:
            found.append((tap, first, last - first + 1, at + first * stride, rank))
    deep = max(phases.values()) + 1
    taps = tuple(Tap(t, first, n, y * deep + rank, stride * deep) for t, first, n, y, rank in found)
    used = {t.target + k * t.step for t in taps for k in range(t.count)}
    return Line(deep, size * deep, taps, tuple(p for p in range(size * deep) if p not in used))


def progressions(places: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """As few runs of equal steps as are found from the front: first, count, step."""
    found, left = [], list(places)
    while left:
        best = (left[0], 1, 1)
        held = set(left)
        for other in left[1:3]:
            step, count = other - left[0], 1
            while left[0] + count * step in held:
                count += 1
            if count > best[1]:
                best = (left[0], count, step)
        found.append(best)
        gone = {best[0] + k * best[2] for k in range(best[1])}
        left = [p for p in left if p not in gone]
    return found
