"""Columns for each layer as inline SVG, which keep their text's size at any width: lengths across are in percent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

HEIGHT, TOP, BOTTOM, AXIS = 190, 12, 20, 74
WIDEST = 2.6
"""Of a column, in percent of the chart."""
LABELS = 30
"""Layers that are numbered at most; of more, every second, fifth, tenth ... is."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One layer: `bars` side by side, each a stack of (CSS class, value, what it is) from the bottom up."""

    label: str
    name: str
    bars: tuple[tuple[tuple[str, float, str], ...], ...]

    @property
    def highest(self) -> float:
        return max((sum(value for _, value, _ in bar) for bar in self.bars), default=0)


def columns(slots: Sequence[Slot], title: str, units: Sequence[tuple[int, str]]) -> str:
    """An axis and a plot. `units` are (size, name), large to small; the axis has the first that is not too large."""
    highest = max((s.highest for s in slots), default=0) or 1
    size, unit = next(((n, u) for n, u in units if highest >= n), units[-1])
    plot = HEIGHT - TOP - BOTTOM

    def y(value: float) -> float:
        return TOP + plot * (1 - value / highest)

    axis, body = [], []
    for tick in (t / 100 for t in ticks(100 * highest / size, 5)):  # two decimals
        at = y(tick * size)
        text = f"{tick:g} {unit}" if tick else "0"
        axis.append(f'<text x="{AXIS - 8}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
        body.append(f'<line class="grid" x1="0" x2="100%" y1="{at:.1f}" y2="{at:.1f}"/>')
    step = label_step(len(slots))
    for n, slot in enumerate(slots):
        wide = 100 / len(slots)
        width = min(0.8 * wide / max(1, len(slot.bars)), WIDEST)
        left = (n + 0.5) * wide - width * len(slot.bars) / 2
        for k, bar in enumerate(slot.bars):
            base = 0.0
            for kind, value, what in bar:
                if value:
                    top = y(base + value)
                    text = f"{slot.label} {slot.name}: {what}"
                    body.append(
                        f'<rect class="{kind}" x="{left + k * width:.2f}%" width="{width * 0.92:.2f}%" y="{top:.1f}" '
                        f'height="{max(0.5, y(base) - top):.1f}"><title>{escape(text)}</title></rect>'
                    )
                    base += value
        if n % step == 0:
            body.append(
                f'<text x="{(n + 0.5) * wide:.2f}%" y="{HEIGHT - 4}" text-anchor="middle">{escape(slot.label)}</text>'
            )
    return framed(axis, body, title, HEIGHT, AXIS)


def framed(axis: Sequence[str], body: Sequence[str], title: str, height: int, axis_width: int) -> str:
    """An axis of fixed width beside a plot that takes the rest."""
    return "\n".join(
        (
            f'<div class="chart"><svg width="{axis_width}" height="{height}" aria-hidden="true">',
            *axis,
            f'</svg><svg class="plot" width="100%" height="{height}" role="img" aria-label="{escape(title)}">',
            *body,
            "</svg></div>",
        )
    )


def ticks(limit: float, most: int = 10) -> list[int]:
    """0 and up to `most` round numbers up to the limit."""
    steps = (digit * 10**power for power in count() for digit in (1, 2, 5))
    step = next(s for s in steps if limit / s <= most)
    return list(range(0, int(limit) + 1, step))


def label_step(layers: int) -> int:
    return ticks(layers, LABELS)[1] if layers > LABELS else 1


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def histogram(shares: Sequence[float], title: str) -> str:
    """Bars of equal width, as high as the root of their share, so that tails are seen."""
    width, height = 4, 22
    top = max(shares, default=0.0) or 1.0
    bars = "".join(
        f'<rect x="{n * width}" y="{height - h:.1f}" width="{width - 1}" height="{h:.1f}">'
        f"<title>{100 * s:.2g} %</title></rect>"
        for n, s in enumerate(shares)
        if (h := height * (s / top) ** 0.5) > 0
    )
    across = len(shares) * width
    return (
        f'<svg class="histogram" role="img" aria-label="{escape(title)}" width="{across}" height="{height + 1}">{bars}'
        f'<line x1="0" x2="{across}" y1="{height + 0.5}" y2="{height + 0.5}"/></svg>'
    )
