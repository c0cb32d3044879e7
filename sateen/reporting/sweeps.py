"""A network in every format, for the report: accuracy against what a multiply-accumulate costs, and Pareto fronts.

`benchmarks/format_sweep.py` measures it: JSON, a list of rows with network, method, weights, activations, accuracy and
float (percent), images, samples and weight_bytes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sateen.errors import DataError, SateenError
from sateen.formats import parse_format
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.library.mac_units import best, rows
from sateen.reporting.charts import escape, framed, ticks

LANES = 4
FIELDS = (
    "network",
    "method",
    "weights",
    "activations",
    "accuracy",
    "float",
    "images",
    "samples",
    "weight_bytes",
)
HEIGHT, TOP, BOTTOM, AXIS = 300, 14, 40, 60


@dataclass(frozen=True, slots=True)
class Point:
    """A format for weights and activations."""

    format: str
    bits: int
    family: str
    accuracy: float
    luts: dict[str, float]  # by family
    weight_bytes: int


def luts(name: str, family: str) -> float:
    """Of one multiply-accumulate: the smallest unit without DSP, `LANES` lanes. Raises DataError if not measured."""
    unit = best(_units(), name, family, LANES, dsp=False)
    if unit is None:
        raise DataError(
            f"format {name}: no unit of it without DSP is in the table of multiply-accumulate units"
        )
    return float(unit["lut"]) / LANES


@functools.cache
def _units() -> list[dict[str, Any]]:
    return rows()


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of those that no other beats: less cost, more accuracy."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    found: list[int] = []
    for i in order:
        if not found or points[i][1] > points[found[-1]][1]:
            found.append(i)
    return found


def read_sweep(path: str | Path) -> list[dict[str, Any]]:
    """For the report's page: each network and method with its points, charts and fronts. Raises DataError."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found = [{k: row[k] for k in FIELDS} for row in content]
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in found:
            if row["weights"] == row["activations"]:
                key = tuple(row[k] for k in ("network", "method", "float", "images", "samples"))
                groups.setdefault(key, []).append(row)
        networks = list(dict.fromkeys(network for network, *_ in groups))
        order = sorted(groups, key=lambda key: networks.index(key[0]))  # a network's methods side by side
        return [_page([_point(row) for row in groups[key]], *key) for key in order]
    except SateenError as e:
        raise DataError(f"sweep {path}: {e}") from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(
            f"sweep {path}: cannot be read ({e}); give what benchmarks/format_sweep.py has written"
        ) from None


def _point(row: dict[str, Any]) -> Point:
    fmt = parse_format(row["weights"])
    costs = {family: luts(fmt.name, family) for family in FAMILIES}
    return Point(fmt.name, fmt.bits, fmt.family, float(row["accuracy"]), costs, int(row["weight_bytes"]))


def _page(
    points: list[Point], network: str, method: str, float_accuracy: float, images: int, samples: int
) -> dict[str, Any]:
    points = sorted(points, key=lambda p: (p.bits, p.family))
    costs = {f"LUT, {f.title}": [p.luts[name] for p in points] for name, f in FAMILIES.items()}
    costs["bytes"] = [float(p.weight_bytes) for p in points]
    fronts = {
        title: [points[i].format for i in front([(c, p.accuracy) for c, p in zip(cost, points, strict=True)])]
        for title, cost in costs.items()
    }
    return {
        "network": network,
        "method": method,
        "float": float_accuracy,
        "images": images,
        "samples": samples,
        "points": points,
        "fronts": fronts,
        "charts": {
            title: scatter(
                points, cost, fronts[title], float_accuracy, f"accuracy of {network} against {title}"
            )
            for title, cost in costs.items()
        },
    }


def scatter(
    points: Sequence[Point], costs: Sequence[float], on_front: Sequence[str], reference: float, title: str
) -> str:
    """Accuracy (percent) against a cost: integers and minifloats, the front named, `reference` a line across.

    The axis begins below the first quarter of the points; those further down lie on its edge.
    """
    values = sorted(p.accuracy for p in points)
    low = max(0.0, 5 * (values[len(values) // 4] // 5) - 5)
    high = max(values[-1], reference, low + 1)
    widest = max(costs) * 1.08
    plot = HEIGHT - TOP - BOTTOM

    def y(value: float) -> float:
        return TOP + plot * (1 - (max(value, low) - low) / (high - low))

    axis, body = [], []
    for tick in ticks(high, 20):
        if tick >= low:
            axis.append(f'<text x="{AXIS - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick} %</text>')
            body.append(f'<line class="grid" x1="0" x2="100%" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
    for tick in ticks(widest, 8):
        body.append(f'<text x="{100 * tick / widest:.2f}%" y="{HEIGHT - BOTTOM + 16}">{tick:,}</text>')
    body.append(f'<line class="reference" x1="0" x2="100%" y1="{y(reference):.1f}" y2="{y(reference):.1f}"/>')
    for p, cost in zip(points, costs, strict=True):
        x, at = 100 * cost / widest, y(p.accuracy)
        text = f"{p.format}: {p.accuracy:.2f} %, {cost:,.1f}"
        body.append(
            f'<circle class="{p.family}" cx="{x:.2f}%" cy="{at:.1f}" r="4"><title>{escape(text)}</title></circle>'
        )
        if p.format in on_front:
            body.append(f'<text x="{x:.2f}%" dx="6" y="{at - 5:.1f}">{escape(p.format)}</text>')
    return framed(axis, body, title, HEIGHT, AXIS)
