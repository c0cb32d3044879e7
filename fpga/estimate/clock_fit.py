"""Fits the clock model's coefficients to placed machines, and measures its errors."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from sateen.fpga.estimate.clock_data import Row, config_of
from sateen.fpga.estimate.clock_model import GRADE, Coefficients, clocks, logic, predict, spread


def fit(rows: list[Row]) -> Coefficients:
    """Least squares: a constant for each component, and one slope for all."""
    names = sorted({name for row in rows for name in row["ns"][GRADE]})
    lines, wires = [], []
    for row in rows:
        config = config_of(row)
        known, size = logic(config), spread(config)
        for name, ns in row["ns"][GRADE].items():
            lines.append([float(name == n) for n in names] + [size])
            wires.append(ns - known[name])
    matrix, y = np.array(lines), np.array(wires)
    *constants, growth = np.linalg.lstsq(matrix, y, rcond=None)[0]
    if growth < 0:  # more than the data can tell
        constants, growth = np.linalg.lstsq(matrix[:, :-1], y, rcond=None)[0], 0.0
    found: Coefficients = {
        "wires": {name: round(float(ns), 4) for name, ns in zip(names, constants, strict=True)},
        "growth": round(float(growth), 4),
        "margin": 0.0,
        "faster": {},
    }
    # the longest of several paths is longer than the longest of their means
    over = [1000 / row["mhz"][GRADE] - max(predict(config_of(row), found).values()) for row in rows]
    found["margin"] = round(statistics.mean(over), 4)
    for grade in rows[0]["mhz"]:
        if grade != GRADE:
            ratios = [row["mhz"][grade] / row["mhz"][GRADE] for row in rows]
            found["faster"][grade] = round(statistics.median(ratios), 4)
    return found


def left_out(rows: list[Row]) -> list[dict[str, Any]]:
    """Each machine estimated by a fit without it, whatever its seed."""
    found = []
    for row in rows:
        others = [r for r in rows if r["config"] != row["config"]]
        estimate = clocks(predict(config_of(row), coefficients := fit(others)), coefficients)
        mean = statistics.mean(1000 / r["mhz"][GRADE] for r in others)
        found.append(
            {
                "name": row["name"],
                "seed": row["seed"],
                "mhz": estimate,
                "error": {g: estimate[g] / mhz - 1 for g, mhz in row["mhz"].items()},
                "mean_error": 1000 / mean / row["mhz"][GRADE] - 1,
            }
        )
    return found


def errors(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Speed grade to the number of machines left out, and the median and worst size of the relative error."""
    found = left_out(rows)
    return {
        grade: summary([abs(f["error"][grade]) for f in found if f["seed"] == 1]) for grade in rows[0]["mhz"]
    }


def summary(sizes: list[float]) -> dict[str, float]:
    return {
        "count": len(sizes),
        "median": round(statistics.median(sizes), 4),
        "worst": round(max(sizes), 4),
    }
