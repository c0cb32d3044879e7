"""The schedule as an SVG drawing: one row per unit, time from left to right, one colour per layer."""

from __future__ import annotations

from typing import Any

from sateen.machine.isa import UNITS
from sateen.reporting.charts import escape, framed, ticks

AXIS, ROW, GAP, TOP = 62, 26, 8, 24
PIXELS = 1000
"""How finely instructions are told apart, across the whole run."""
HUES = 12
"""Colours, in CSS classes c0 to c11, reused every 12 layers."""


def draw(schedule: dict[str, Any]) -> str:
    """An axis and a plot. Instructions closer than a third of a pixel are drawn as one."""
    cycles = max(1, schedule["cycles"])
    names = {layer["index"]: layer["name"] for layer in schedule["layers"]}
    height = TOP + len(UNITS) * (ROW + GAP) + 8
    axis, body = [], []
    for tick in ticks(cycles):
        x = 100 * tick / cycles
        anchor = "end" if x > 96 else "middle" if tick else "start"
        body.append(f'<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="{TOP - 6}" y2="{height - 8}"/>')
        body.append(f'<text x="{x:.2f}%" y="13" text-anchor="{anchor}">{short(tick)}</text>')
    for n, unit in enumerate(UNITS):
        y = TOP + n * (ROW + GAP)
        axis.append(f'<text x="0" y="{y + ROW - 8}">{unit}</text>')
        body.append(f'<rect class="lane" x="0" y="{y}" width="100%" height="{ROW}"/>')
        events = [e for e in schedule["timeline"] if e["engine"] == unit]
        for layer, start, end, busy, count in merged(events, cycles / PIXELS / 3):
            width = max(40 / PIXELS, 100 * (end - start) / cycles)
            # A run of instructions with pauses is as opaque as it is busy.
            opacity = max(0.25, min(1.0, busy / max(1, end - start)))
            colour = "cx" if layer is None or layer < 0 else f"c{layer % HUES}"
            what = names.get(layer, "program")
            title = f"{unit}, {what}: cycles {start:,} to {end:,}, {count} instruction{'s' * (count > 1)}"
            body.append(
                f'<rect class="{colour}" x="{100 * start / cycles:.3f}%" y="{y}" width="{width:.3f}%" '
                f'height="{ROW}" opacity="{opacity:.2f}"><title>{escape(title)}</title></rect>'
            )
    return framed(axis, body, "Busy time of each unit over the run", height, AXIS)


def merged(events: list[dict[str, Any]], gap: float) -> list[tuple[Any, int, int, int, int]]:
    """Runs (layer, start, end, busy cycles, instructions) of one layer whose pauses are shorter than `gap` cycles."""
    runs: list[tuple[Any, int, int, int, int]] = []
    for e in sorted(events, key=lambda e: e["start"]):
        layer, start, end = e["layer"], e["start"], e["done"] + 1
        if runs and runs[-1][0] == layer and start - runs[-1][2] <= gap:
            _, first, last, busy, count = runs[-1]
            runs[-1] = (layer, first, max(last, end), busy + end - start, count + 1)
        else:
            runs.append((layer, start, end, end - start, 1))
    return runs


def short(cycles: int) -> str:
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if cycles >= limit:
            return f"{cycles / limit:g} {unit}"
    return str(cycles)
