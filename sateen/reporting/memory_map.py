"""Where a build keeps what: tensors in the activation buffer from layer to layer, and the parts of its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sateen.reporting.charts import escape, framed, label_step

HEIGHT, TOP, BOTTOM, AXIS = 230, 10, 20, 74
GAP, LEAST = 4, 0.08
"""Pixels between banks; share of the height that each has at least."""


def draw(manifest: dict[str, Any], layers: list[dict[str, Any]], banks: int, depth: int) -> str:
    """Words of the activation buffer, from the first up, against layers: a block while a tensor is kept.

    Nothing where the build does not say, or keeps nothing on chip.
    """
    kept = manifest.get("on_chip", {})
    lives = _lives(layers)
    shown = {t: (*place, *lives[t]) for t, place in kept.items() if t in lives}
    if not shown:
        return ""
    y, axis, body = _strips({t: place[:2] for t, place in shown.items()}, banks, depth)
    wide = 100 / max(1, len(layers))
    for n, (tensor, (first, count, start, end)) in enumerate(shown.items()):
        top = y(first + count, True)
        text = (
            f"{tensor}: words {first:,} to {first + count - 1:,}, layers {layers[start]['index']} to "
            f"{layers[end]['index']}"
        )
        body.append(
            f'<rect class="c{n % 12} block" x="{start * wide:.2f}%" width="{(end - start + 1) * wide:.2f}%" '
            f'y="{top:.1f}" height="{max(1.0, y(first, False) - top):.1f}"><title>{escape(text)}</title></rect>'
        )
    step = label_step(len(layers))
    body += [
        f'<text x="{(n + 0.5) * wide:.2f}%" y="{HEIGHT - 4}" text-anchor="middle">{layer["index"]}</text>'
        for n, layer in enumerate(layers)
        if n % step == 0
    ]
    return framed(axis, body, "Words of the activation buffer that tensors take", HEIGHT, AXIS)


def _strips(
    places: dict[str, tuple[int, int]], banks: int, depth: int
) -> tuple[Callable[[int, bool], float], list[str], list[str]]:
    """Where a word is, a strip for each bank that is used, as high as the words that are; axis, and lines.

    The function is told whether a word is an end, which of two banks' border belongs to the lower one.
    """
    used = [0] * banks
    for first, count in places.values():
        for bank in range(first // depth, min(banks - 1, (first + count - 1) // depth) + 1):
            used[bank] = max(used[bank], min(depth, first + count - bank * depth))
    shown = [bank for bank in range(banks) if used[bank]]
    total, plot = sum(used), HEIGHT - TOP - BOTTOM - GAP * (len(shown) - 1)
    floor: dict[int, tuple[float, float]] = {}  # of each bank, its lower edge and its height
    at = float(HEIGHT - BOTTOM)
    for bank in shown:
        high = plot * (LEAST + (1 - LEAST * len(shown)) * used[bank] / total)
        floor[bank] = at, high
        at -= high + GAP

    def y(word: int, end: bool) -> float:
        bank = max(b for b in shown if b * depth < word or (b * depth == word and not end) or b == shown[0])
        low, high = floor[bank]
        return low - high * min(1.0, (word - bank * depth) / used[bank])

    axis, body = [], []
    for bank, (low, high) in floor.items():
        middle = low - high / 2 + 4
        axis.append(f'<text x="{AXIS - 8}" y="{middle:.1f}" text-anchor="end">{used[bank]:,}</text>')
        body.append(f'<rect class="lane" x="0" width="100%" y="{low - high:.1f}" height="{high:.1f}"/>')
    return y, axis, body


def _lives(layers: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Of each tensor the first and the last layer that has to do with it, as positions."""
    found: dict[str, tuple[int, int]] = {}
    for n, layer in enumerate(layers):
        for tensor in layer.get("tensors", ()):
            found[tensor] = (found.get(tensor, (n, n))[0], n)
    return found


def parts(manifest: dict[str, Any]) -> list[tuple[str, int | None, int]]:
    """Of the memory beside the machine: what it is, its first byte where it is in one piece, and its bytes."""
    m = manifest.get("memory")
    if not m:
        return []
    found: list[tuple[str, int | None, int]] = [
        ("weights, indices, parameters, tables", 0, m["constants_size"])
    ]
    found.append(("program", m["program_offset"], m["data_offset"] - m["program_offset"]))
    named = [*((r, "input") for r in m["inputs"]), *((r, "output") for r in m["outputs"])]
    found += [(f"{kind}: {r['tensor']}", r["offset"], r["size"]) for r, kind in named]
    rest = m["data_size"] - sum(r["size"] for r, _ in named)
    if rest > 0:
        spilled = len(manifest.get("spilled", ()))
        what = (
            f"{spilled} tensor{'s' * (spilled != 1)} that do not fit on chip"
            if spilled
            else "up to whole pages"
        )
        found.append((what, None, rest))
    return found
