"""The components that estimates add up, by name: all that `hw.chip.top.MACHINE` consists of."""

from __future__ import annotations

from sateen.fpga.estimate.technology import TECHNOLOGIES
from sateen.hw.chip.top import MACHINE
from sateen.hw.terms import Component, Terms
from sateen.machine.config import AcceleratorConfig

COMPONENTS: dict[str, Component] = {c.name: c for c in MACHINE.everything() if c is not MACHINE}


def instances(config: AcceleratorConfig) -> dict[str, int]:
    """How many of each component a machine has."""
    return {c.name: n for c, n in MACHINE.walk(config) if c is not MACHINE}


def terms_of(name: str, config: AcceleratorConfig, family: str) -> Terms:
    """Of one instance of a component, in a family of FPGAs."""
    return COMPONENTS[name].of(config, TECHNOLOGIES[family])
