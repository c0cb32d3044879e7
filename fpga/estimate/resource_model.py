"""LUT, FF, DSP and block RAM of a configuration, estimated in milliseconds.

Each component has terms, beside its hardware (hw/terms.py): bits that take a LUT or a flip-flop. Their coefficients
are fitted to syntheses (benchmarks/resource_model.py) and kept in resource_model.json, beside the error on
configurations that the fit has not seen; DSPs and memories are counted by rule. A machine is the sum of its
components, and what synthesis gains on a machine in one, across the components' boundaries.
"""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

from sateen.errors import ConfigError
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.estimate.components import instances, terms_of
from sateen.fpga.estimate.fitted_range import beyond
from sateen.machine.config import AcceleratorConfig

Coefficients = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Family, group of components, resource, term."""
GROUP = {"weights": "buffer", "indices": "buffer", "parameters": "buffer", "first_element": "element",
         "first_lut_element": "lut_element"}  # fmt: skip
"""Parts that have their coefficients in common with others."""
UNMEASURED: dict[str, dict[str, float]] = {"lut": {}, "ff": {}}
"""Of a part that no machine has that was synthesized for the fit."""
LIKE = {"ice40": "ecp5"}
"""Families without coefficients of their own, and whose they take; memories and DSPs are counted by their own rules."""
ACROSS = "across"
"""The group of what synthesis gains across components."""
CONSTANT = ("one", "tiled")
"""Terms that are no bits."""
FILE = "resource_model.json"
RESOURCES = ("lut", "ff", "dsp", "bram")
RANGED = (
    "rows", "cols", "lanes", "group", "acc_bits", "act_banks", "act_bank_depth", "weight_depth", "acc_depth",
    "parameter_depth", "vector_lanes", "bus_bits", "queue_depth", "burst_beats", "outstanding", "multipliers",
    "act_word_bits", "weight_word_bits",
)  # fmt: skip
"""Sizes of a configuration of which the data have a least and a most."""


def estimate(config: AcceleratorConfig, device: str | None = None) -> dict[str, Any]:
    """Estimated counts of a machine for one family, or all.

    The result is {"name", "source": "estimated", "outside": […], "devices": {family: {"title", "bram_unit", "error",
    "total", "parts"}}}; `outside` says in which fields the configuration lies beyond what the model was fitted to, and
    `error` holds the errors on machines held out of the fit. Raises ConfigError for an unknown device.
    """
    if device is not None and device not in FAMILIES:
        raise ConfigError(f"unknown device '{device}'; devices are {', '.join(FAMILIES)}")
    model = load()
    found = {}
    for name in [device] if device else FAMILIES:
        family = FAMILIES[name]
        total, parts = predict(config, name, model["coefficients"])
        found[name] = {
            "device": name,
            "title": family.title,
            "source": "estimated",
            "bram_unit": family.bram_unit,
            "error": model["errors"].get(name),
            "total": _rounded(total),
            "parts": [{"name": part} | _rounded(counts) for part, counts in parts.items()],
        }
    return {
        "name": config.name,
        "source": "estimated",
        "outside": outside(config, model["range"]),
        "devices": found,
    }


def counts(config: AcceleratorConfig, technology: str) -> dict[str, float]:
    """Counts of a machine in a family of `technology.TECHNOLOGIES`, those without coefficients of their own too."""
    return _rounded(predict(config, technology, load()["coefficients"])[0])


def luts(config: AcceleratorConfig) -> dict[str, float]:
    """LUTs of a machine, estimated, by family."""
    coefficients = load()["coefficients"]
    return {family: predict(config, family, coefficients)[0]["lut"] for family in FAMILIES}


def predict(
    config: AcceleratorConfig, family: str, coefficients: Coefficients
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Counts of a machine, and of all instances of each of its components, not rounded."""
    parts: dict[str, dict[str, float]] = {}
    for part, n in instances(config).items():
        if n:
            one = predict_part(part, config, family, coefficients)
            parts[part] = {name: n * one[name] for name in RESOURCES}
    total = {name: sum(p[name] for p in parts.values()) for name in RESOURCES}
    if fitted := coefficients[LIKE.get(family, family)].get(ACROSS):
        terms = across_terms(config, total)
        gained = {
            name: sum(fitted[name].get(t, 0.0) * n for t, n in terms[name].items()) for name in ("lut", "ff")
        }
        parts["(across parts)"] = gained | {"dsp": 0, "bram": 0}
        total = total | {name: total[name] + gained[name] for name in gained}
    return total, parts


def predict_part(
    part: str, config: AcceleratorConfig, family: str, coefficients: Coefficients
) -> dict[str, float]:
    """Counts of one instance of a component, LUTs and flip-flops as they come."""
    terms = terms_of(part, config, family)
    fitted = coefficients[LIKE.get(family, family)].get(GROUP.get(part, part), UNMEASURED)
    return {
        "lut": _sum(fitted["lut"], terms.lut),
        "ff": _sum(fitted["ff"], terms.ff),
        "dsp": terms.dsp,
        "bram": terms.bram / 2,
    }


def _sum(fitted: dict[str, float], terms: dict[str, float]) -> float:
    """A term that the data do not have is as many LUTs or flip-flops as it has bits."""
    return max(0.0, sum(fitted.get(name, 0.0 if name in CONSTANT else 1.0) * n for name, n in terms.items()))


def across_terms(config: AcceleratorConfig, total: dict[str, float]) -> dict[str, dict[str, float]]:
    """What the gain across components depends on, by resource."""
    return {name: {"one": 1.0, "total": total[name]} for name in ("lut", "ff")}


def outside(config: AcceleratorConfig, limits: dict[str, Any]) -> list[str]:
    """The fields that lie beyond what the model was fitted to, with their values and those limits."""
    found = beyond(config, limits, RANGED, "fitted")
    for field, fmt in (("weight_format", config.weight), ("activation_format", config.activation)):
        kind = fmt.family
        if kind not in limits:
            found.append(f"{field} = {fmt.name} (fitted to no {kind})")
        elif not limits[kind][0] <= fmt.fixed_bits <= limits[kind][1]:
            low, high = limits[kind]
            found.append(
                f"{field} = {fmt.name} of {fmt.fixed_bits} bits (each {kind} fitted has {low} to {high})"
            )
    return found


@functools.cache
def load() -> dict[str, Any]:
    """What is committed."""
    content: dict[str, Any] = json.loads((files("sateen.fpga.estimate") / FILE).read_text(encoding="utf-8"))
    return content


def _rounded(counts: dict[str, float]) -> dict[str, float]:
    """LUTs and flip-flops as whole numbers."""
    return {k: v if k == "bram" and v % 1 else round(v) for k, v in counts.items()}
