"""Fits the resource model's coefficients to the data, and measures its errors. Wants SciPy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from sateen.fpga.estimate.components import COMPONENTS, terms_of
from sateen.fpga.estimate.fitted_range import extent
from sateen.fpga.estimate.resource_data import LUT_UNITS, ROW_UNITS, WHOLE, Row, from_json, held_out
from sateen.fpga.estimate.resource_model import (
    ACROSS,
    CONSTANT,
    GROUP,
    RANGED,
    RESOURCES,
    Coefficients,
    across_terms,
    predict,
    predict_part,
)
from sateen.fpga.estimate.resource_parts import DECODER
from sateen.hw.formats import decoder_term

FLOOR = 20.0
"""LUTs or flip-flops: the error of a component that has fewer counts as if it had so many."""
LEAST_MACHINES = 4
"""To fit what is gained across components to."""
PRIOR = 0.02
"""How much a coefficient that the data leave open is held at one LUT, or flip-flop, a bit."""


def fit(rows: list[Row]) -> Coefficients:
    """Of components, from all of them; and of what is gained across them, from the machines that are not held out."""
    found = fit_parts(rows)
    for family in found:
        machines = [r for r in rows if r["family"] == family and r["part"] == WHOLE]
        found[family][ACROSS] = _fit_across(
            [r for r in machines if not held_out(from_json(r["config"]))], found
        )
    return found


def fit_parts(rows: Iterable[Row]) -> Coefficients:
    rows = list(rows)
    decoders: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["part"] == DECODER.name:
            config = from_json(row["config"])
            term = decoder_term(config.activation, config.multiplier)
            decoders.setdefault(row["family"], {})[term] = row["lut"]
    data: dict[tuple[str, str], list[Row]] = {}
    for row in distinct(r for r in rows if r["part"] in COMPONENTS):
        part = str(row["part"])
        data.setdefault((row["family"], GROUP.get(part, part)), []).append(row)
    found: Coefficients = {}
    for (family, group), members in sorted(data.items()):
        terms = [terms_of(r["part"], from_json(r["config"]), family) for r in members]
        found.setdefault(family, {})[group] = {
            "lut": _solve([t.lut for t in terms], [r["lut"] for r in members], decoders.get(family, {})),
            "ff": _solve([t.ff for t in terms], [r["ff"] for r in members]),
        }
    return found


def distinct(rows: Iterable[Row]) -> list[Row]:
    """One row for each text and family."""
    return list({(r["family"], r["part"], r["text"]): r for r in rows}.values())


def _solve(
    terms: list[dict[str, float]], counts: list[float], known: Mapping[str, float] = MappingProxyType({})
) -> dict[str, float]:
    """Non-negative least squares of the relative errors; coefficients of `known` terms are as given."""
    from scipy.optimize import nnls

    names = sorted({name for t in terms for name, n in t.items() if n} - set(known))
    given = dict(known) if any(name in known for t in terms for name in t) else {}
    if not names:
        return given
    matrix = np.array([[t.get(name, 0.0) for name in names] for t in terms])
    weight = 1 / np.maximum(np.array(counts, float), FLOOR)
    y = np.array(
        [n - sum(given.get(k, 0.0) * v for k, v in t.items()) for n, t in zip(counts, terms, strict=True)]
    )
    scale = np.sqrt(np.mean((matrix * weight[:, None]) ** 2, axis=0))
    prior = np.array([0.0 if name in CONSTANT else 1.0 for name in names])
    left = np.vstack([matrix * weight[:, None], np.diag(PRIOR * scale)])
    right = np.concatenate([y * weight, PRIOR * scale * prior])
    # bits cost something, but a constant may be negative
    free = [n for n, name in enumerate(names) if name in CONSTANT]
    solution, _ = nnls(np.hstack([left, -left[:, free]]), right)
    for n, taken in zip(free, solution[len(names) :], strict=True):
        solution[n] -= taken
    return given | {name: round(float(v), 4) for name, v in zip(names, solution, strict=False)}


def _fit_across(rows: list[Row], coefficients: Coefficients) -> dict[str, dict[str, float]]:
    """Least squares of the relative errors of what machines in one have more, or less, than their components."""
    found: dict[str, dict[str, float]] = {}
    for name in ("lut", "ff"):
        terms, left, weights = [], [], []
        for row in rows:
            config = from_json(row["config"])
            total, _ = predict(config, row["family"], coefficients)
            terms.append(across_terms(config, total)[name])
            left.append(row[name] - total[name])
            weights.append(1 / row[name])
        keys = sorted({key for t in terms for key in t})
        if len(terms) < LEAST_MACHINES:
            found[name] = {}
            continue
        matrix = np.array([[t[key] for key in keys] for t in terms]) * np.array(weights)[:, None]
        solution = np.linalg.lstsq(matrix, np.array(left) * np.array(weights), rcond=None)[0]
        found[name] = {key: round(float(v), 5) for key, v in zip(keys, solution, strict=True)}
    return found


# -- errors ------------------------------------------------------------------------------------------------


def part_errors(rows: list[Row], coefficients: Coefficients, family: str) -> list[dict[str, Any]]:
    """Errors of each different component, all of which are fitted."""
    found = []
    for row in distinct(r for r in rows if r["family"] == family and r["part"] in COMPONENTS):
        guess = predict_part(row["part"], from_json(row["config"]), family, coefficients)
        found.append({"part": row["part"]} | {name: relative(guess[name], row[name]) for name in RESOURCES})
    return found


def left_out_errors(rows: list[Row], part: str, family: str) -> list[dict[str, Any]]:
    """Errors of each different component of a kind that no sampled machine has, fitted to all others of its kind."""
    mine = distinct(r for r in rows if r["family"] == family and r["part"] == part)
    found = []
    for row in mine:
        others = fit_parts(r for r in mine if r is not row)
        guess = predict_part(part, from_json(row["config"]), family, others)
        errors = {name: relative(guess[name], row[name]) for name in RESOURCES}
        found.append({"configuration": row["configuration"]} | errors)
    return found


def machine_errors(rows: list[Row], coefficients: Coefficients, family: str) -> list[dict[str, Any]]:
    """Errors of each machine that was synthesized as one."""
    found = []
    for row in rows:
        if row["family"] == family and row["part"] == WHOLE:
            config = from_json(row["config"])
            total, _ = predict(config, family, coefficients)
            found.append(
                {"configuration": row["configuration"], "held_out": held_out(config)}
                | {name: relative(total[name], row[name]) for name in RESOURCES}
            )
    return found


def relative(predicted: float, counted: float) -> float:
    """Error as a part of what is counted."""
    return abs(predicted - counted) / max(counted, 1.0)


def summary(errors: list[float]) -> dict[str, Any]:
    """Number, median, 95th percentile and worst."""
    if not errors:
        return {"count": 0}
    median, p95, worst = (round(float(v), 5) for v in np.quantile(errors, (0.5, 0.95, 1.0)))
    return {"count": len(errors), "median": median, "p95": p95, "worst": worst}


def ranges(rows: list[Row]) -> dict[str, Any]:
    """Least and most of each size in the data, and bits of the formats in fixed point."""
    apart = {*ROW_UNITS, *LUT_UNITS}
    texts = dict.fromkeys(
        r["config"] for r in rows if r["part"] != DECODER.name and r["configuration"] not in apart
    )
    configs = [from_json(text) for text in texts]
    found: dict[str, Any] = extent(configs, RANGED)
    for fmt in {f for c in configs for f in (c.weight, c.activation)}:
        low, high = found.get(fmt.family, (fmt.fixed_bits, fmt.fixed_bits))
        found[fmt.family] = [min(low, fmt.fixed_bits), max(high, fmt.fixed_bits)]
    return found
