"""The clock of a machine on ECP5, estimated in milliseconds.

The path to each component takes its logic, which is beside its hardware (hw/terms.py), and what wires take there: a
constant of the component, and a part that grows with the machine, the same for all. The longest decides. Coefficients
are fitted to machines that nextpnr placed and routed (benchmarks/clock_model.py) and kept in clock_model.json, beside
the error on machines that a fit has not seen.
"""

from __future__ import annotations

import functools
import json
import math
from importlib.resources import files
from typing import Any

from sateen.fpga.estimate.fitted_range import beyond
from sateen.fpga.estimate.technology import ECP5_DELAYS, TECHNOLOGIES
from sateen.hw.chip.top import MACHINE
from sateen.machine.config import AcceleratorConfig

FAMILY = "ecp5"
FILE = "clock_model.json"
GRADE = "6"
"""The speed grade that machines are placed for."""
RANGED = (
    "multipliers",
    "act_word_bits",
    "weight_word_bits",
    "acc_bits",
    "act_banks",
    "bus_bits",
    "position_bits",
)
"""Sizes of a configuration of which the data have a least and a most."""
Coefficients = dict[str, Any]
"""{"wires": {component: ns}, "growth": ns, "margin": ns, "faster": {grade: factor}}"""


def estimate_clock(config: AcceleratorConfig) -> dict[str, Any]:
    """Estimated clock of a machine.

    The result is {"source": "estimated", "mhz": {grade: MHz}, "ends_in": component, "error": {grade: {"count",
    "median", "worst"}}, "outside": […]}: errors are relative, on machines left out of the fit one at a time; `outside`
    says in which fields the configuration lies beyond the data.
    """
    model = load()
    ns = predict(config, model["coefficients"])
    component = max(ns, key=ns.__getitem__)
    return {
        "source": "estimated",
        "mhz": {grade: round(mhz, 1) for grade, mhz in clocks(ns, model["coefficients"]).items()},
        "ends_in": component,
        "error": model["errors"],
        "outside": beyond(config, model["range"], RANGED, "placed"),
    }


def predict(config: AcceleratorConfig, coefficients: Coefficients) -> dict[str, float]:
    """ns of the longest path to each component, speed grade 6."""
    size = spread(config)
    found = logic(config)
    return {
        name: found[name] + ns + coefficients["growth"] * size for name, ns in coefficients["wires"].items()
    }


def clocks(ns: dict[str, float], coefficients: Coefficients) -> dict[str, float]:
    """Speed grade to MHz."""
    mhz = 1000 / (max(ns.values()) + coefficients["margin"])
    return {GRADE: mhz} | {grade: mhz * factor for grade, factor in coefficients["faster"].items()}


def logic(config: AcceleratorConfig) -> dict[str, float]:
    """ns of logic on the path that ends in each of clock_data.GROUPS."""
    found: dict[str, float] = {}
    for component in MACHINE.everything():
        for name, ns in component.paths(config, ECP5_DELAYS).items():
            found[name] = max(found.get(name, 0.0), ns)
    return found


def spread(config: AcceleratorConfig) -> float:
    """A length that grows with the machine: block RAMs and DSPs lie in few columns, so wires between them are long."""
    return math.sqrt(blocks(config))


def blocks(config: AcceleratorConfig) -> int:
    return sum(n * component.blocks(config, TECHNOLOGIES[FAMILY]) for component, n in MACHINE.walk(config))


@functools.cache
def load() -> dict[str, Any]:
    """What is committed."""
    content: dict[str, Any] = json.loads((files("sateen.fpga.estimate") / FILE).read_text(encoding="utf-8"))
    return content
