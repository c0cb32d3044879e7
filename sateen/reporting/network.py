"""The network as it is scheduled: a line for each layer with its cycles, and what each reads, drawn beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ROW, LANE, MARGIN = 24, 11, 10
"""Pixels: of a line, between edges that pass beside layers, and at the sides."""
MOST_LANES = 10


@dataclass(frozen=True, slots=True)
class Row:
    """A layer, or an input of the network, which has no cycles."""

    label: str
    name: str
    kind: str
    shape: str
    cycles: int | None
    limited_by: str | None


def rows_of(layers: list[dict[str, Any]]) -> list[Row]:
    """Inputs, then layers in their order."""
    found = [Row("", tensor, "input", "", None, None) for tensor in _inputs(layers)]
    return found + [
        Row(
            str(layer["index"]),
            layer["short"],
            layer["kind"],
            " × ".join(map(str, layer["output_shape"])),
            layer["cycles"],
            layer["limited_by"],
        )
        for layer in layers
    ]


def _inputs(layers: list[dict[str, Any]]) -> list[str]:
    made = {layer.get("output") for layer in layers}
    return list(dict.fromkeys(t for layer in layers for t in layer.get("inputs", ()) if t not in made))


def edges(layers: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """(from, to) as positions in `rows_of`."""
    first = _inputs(layers)
    at = {t: n for n, t in enumerate(first)}
    found = []
    for n, layer in enumerate(layers):
        found += [(at[t], n + len(first)) for t in dict.fromkeys(layer.get("inputs", ())) if t in at]
        at[layer.get("output", "")] = n + len(first)
    return found


def draw(layers: list[dict[str, Any]]) -> str:
    """The edges as inline SVG, as high as the lines: straight to the next line, else through a lane on the left."""
    joined, count = edges(layers), len(rows_of(layers))
    ends: list[int] = []  # of the last edge in each lane
    lanes: dict[tuple[int, int], int] = {}
    for a, b in sorted(joined):
        if b != a + 1:
            lane = next((n for n, end in enumerate(ends) if end <= a), len(ends))
            ends[lane : lane + 1] = [b]
            lanes[a, b] = min(lane, MOST_LANES - 1)
    width = 2 * MARGIN + LANE * min(len(ends), MOST_LANES)
    trunk = width - MARGIN

    def y(n: int) -> float:
        return (n + 0.5) * ROW

    body = []
    for a, b in joined:
        if (a, b) not in lanes:
            body.append(f'<line class="edge" x1="{trunk}" x2="{trunk}" y1="{y(a)}" y2="{y(b)}"/>')
            continue
        x = trunk - LANE * (lanes[a, b] + 1)
        body.append(
            f'<path class="edge" d="M{trunk} {y(a)} Q{x} {y(a)} {x} {y(a) + ROW / 2} V{y(b) - ROW / 2} '
            f'Q{x} {y(b)} {trunk} {y(b)}"/>'
        )
    body += [f'<circle class="node" cx="{trunk}" cy="{y(n)}" r="4"/>' for n in range(count)]
    size = f'width="{width}" height="{count * ROW}"'
    return f'<svg {size} role="img" aria-label="Which layer reads what">{"".join(body)}</svg>'
