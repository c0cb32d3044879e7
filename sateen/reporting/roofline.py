"""The layers under the machine's roofline: what its multipliers and its bus would allow, and what each layer gets.

Ref: S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from sateen.reporting.charts import escape, framed

HEIGHT, TOP, BOTTOM, AXIS = 260, 12, 24, 74
_NAMED = 6
"""Layers that take the most cycles are numbered in the drawing."""


def draw(schedule: dict[str, Any], bus_bytes: float) -> str:
    """Multiplications a cycle against multiplications a byte moved, both in logarithms; a circle for each layer.

    `bus_bytes` are those of a cycle. A layer that moves nothing lies at the right edge.
    """
    layers = [layer for layer in schedule["layers"] if layer["macs"] and layer["cycles"]]
    if not layers:
        return ""
    most = schedule["multipliers"]
    ridge = most / bus_bytes
    found = [layer["macs"] / layer["bytes"]["total"] for layer in layers if layer["bytes"]["total"]]
    left = _decade(min([ridge / 4, *found]), math.floor)
    right = _decade(max([ridge * 4, *found]), math.ceil)
    low = _decade(min([most / 10, *(layer["macs"] / layer["cycles"] for layer in layers)]), math.floor)
    high, plot = most * 1.25, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return 100 * math.log(value / left) / math.log(right / left)

    def y(value: float) -> float:
        return TOP + plot * (1 - math.log(max(value, low) / low) / math.log(high / low))

    axis, body = [], []
    for tick in _decades(low, high):
        if abs(y(tick) - y(most)) > 12:
            axis.append(f'<text x="{AXIS - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
        body.append(f'<line class="grid" x1="0" x2="100%" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
    axis.append(f'<text x="{AXIS - 8}" y="{y(most) + 4:.1f}" text-anchor="end">{most}</text>')
    for tick in _decades(left, right):
        anchor = "start" if tick == left else "end" if tick >= right else "middle"
        text = f"{tick:g} / byte" if tick >= right else f"{tick:g}"
        body.append(f'<text x="{x(tick):.2f}%" y="{HEIGHT - 8}" text-anchor="{anchor}">{text}</text>')
    start = max(left, low / bus_bytes)
    corners = ((start, start * bus_bytes), (ridge, most), (right, most))
    for (x0, y0), (x1, y1) in pairwise(corners):
        ends = f'x1="{x(x0):.2f}%" y1="{y(y0):.1f}" x2="{x(x1):.2f}%" y2="{y(y1):.1f}"'
        body.append(f'<line class="roof" {ends}/>')
    named = {layer["index"] for layer in sorted(layers, key=lambda layer: -layer["cycles"])[:_NAMED]}
    labels: list[tuple[float, float, list[str]]] = []
    for layer in layers:
        moved = layer["bytes"]["total"]
        rate, per_byte = layer["macs"] / layer["cycles"], layer["macs"] / moved if moved else right
        roof = min(most, per_byte * bus_bytes)
        text = (
            f"{layer['index']} {layer['short']}: {rate:.3g} multiplications a cycle, {100 * rate / roof:.0f} % of what "
            f"the roof allows at {per_byte:.3g} a byte"
        )
        at = f'cx="{x(per_byte):.2f}%" cy="{y(rate):.1f}"'
        size = 3 + 6 * math.sqrt(layer["cycles"] / max(1, schedule["cycles"]))
        body.append(
            f'<circle class="l-{layer["limited_by"] or "program"} point" {at} r="{size:.1f}">'
            f"<title>{escape(text)}</title></circle>"
        )
        if layer["index"] in named:
            _number(labels, str(layer["index"]), x(per_byte), y(rate))
    for at_x, at_y, numbers in labels:
        anchor, dx = ("end", -9) if at_x > 90 else ("start", 9)
        text = ", ".join(numbers)
        body.append(
            f'<text x="{at_x:.2f}%" dx="{dx}" y="{at_y + 13:.1f}" text-anchor="{anchor}">{text}</text>'
        )
    return framed(axis, body, "Multiplications a cycle against multiplications a byte", HEIGHT, AXIS)


def _number(labels: list[tuple[float, float, list[str]]], number: str, x: float, y: float) -> None:
    """A layer's, at (percent, pixels), or after that of one which lies there already."""
    near = next((n for at_x, at_y, n in labels if abs(at_x - x) < 4 and abs(at_y - y) < 14), None)
    if near is None:
        labels.append((x, y, [number]))
    else:
        near.append(number)


def _decade(value: float, rounded: Any) -> float:
    return float(10.0 ** rounded(math.log10(value)))


def _decades(low: float, high: float) -> Iterable[float]:
    tick = low
    while tick <= high * 1.0001:
        yield tick
        tick *= 10
