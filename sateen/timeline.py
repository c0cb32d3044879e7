"""The schedule as an SVG drawing: one row per engine, time from left to right, one colour per layer."""

from __future__ import annotations

from typing import Any

ROWS = ("load", "matrix", "vector", "store")
WIDTH, LEFT, ROW, GAP, TOP = 1120, 62, 26, 8, 24
HUES = 12
"""Colours, in CSS classes c0 to c11, reused every 12 layers."""


def draw(schedule: dict[str, Any]) -> str:
    """An `<svg>` element. Instructions closer than a third of a pixel are drawn as one."""
    cycles = max(1, schedule["cycles"])
    names = {layer["index"]: layer["name"] for layer in schedule["layers"]}
    scale = (WIDTH - LEFT) / cycles
    height = TOP + len(ROWS) * (ROW + GAP) + 8
    parts = [
        f'<svg class="timeline" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="Busy time of each engine over the run">'
    ]
    for tick in ticks(cycles):
        x = LEFT + tick * scale
        anchor = "end" if x > WIDTH - 40 else "middle" if tick else "start"
        parts.append(f'<path class="tick" d="M{x:.1f} {TOP - 6}V{height - 8}"/>')
        parts.append(f'<text class="label" x="{x:.1f}" y="13" text-anchor="{anchor}">{short(tick)}</text>')
    for n, engine in enumerate(ROWS):
        y = TOP + n * (ROW + GAP)
        parts.append(f'<text class="label" x="0" y="{y + ROW - 8}">{engine}</text>')
        parts.append(f'<rect class="lane" x="{LEFT}" y="{y}" width="{WIDTH - LEFT}" height="{ROW}"/>')
        events = [e for e in schedule["timeline"] if e["engine"] == engine]
        for layer, start, end, busy, count in merged(events, cycles / (WIDTH - LEFT) / 3):
            width = max(0.4, (end - start) * scale)
            # A run of instructions with pauses is as opaque as it is busy.
            opacity = max(0.25, min(1.0, busy / max(1, end - start)))
            colour = "cx" if layer is None or layer < 0 else f"c{layer % HUES}"
            what = names.get(layer, "program")
            title = f"{engine}, {what}: cycles {start:,} to {end:,}, {count} instruction{'s' * (count > 1)}"
            parts.append(
                f'<rect class="{colour}" x="{LEFT + start * scale:.2f}" y="{y}" width="{width:.2f}" '
                f'height="{ROW}" opacity="{opacity:.2f}"><title>{escape(title)}</title></rect>'
            )
    parts.append("</svg>")
    return "\n".join(parts)


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


def ticks(cycles: int) -> list[int]:
    """Four to ten round numbers from 0 on."""
    step = 1
    while cycles / step > 10:
        step *= 2 if str(step)[0] in "15" else 5
        if str(step)[0] not in "125":
            step = 10 ** (len(str(step)) - 1)
    return list(range(0, cycles + 1, step))


def short(cycles: int) -> str:
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if cycles >= limit:
            return f"{cycles / limit:g} {unit}"
    return str(cycles)


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
