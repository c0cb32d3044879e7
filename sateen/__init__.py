"""Sateen: an ONNX network to a bit-exact FPGA accelerator.

`sateen.check`, `compile`, `run`, `cost`, `report` and `bitstream` do what the commands of the same names do, `estimate`
what `sateen cost --estimate` does; `explore` searches for the machine that serves a network best, and `pick` compiles
it; `load` begins the same in stages, whose values can be looked at and used again (`sateen.stages`). All are loaded on
first use, so that importing a number format stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sateen.version import __version__

if TYPE_CHECKING:
    from sateen.api import check, compile, report, run
    from sateen.errors import SateenError
    from sateen.explorer.api import explore, pick
    from sateen.formats import Format, parse_format
    from sateen.hardware import bitstream, cost, estimate
    from sateen.machine.config import AcceleratorConfig
    from sateen.machine.presets import PRESETS, preset
    from sateen.machine.space import random_machine, search_space
    from sateen.mapped import Build, MappedNetwork, open
    from sateen.samples import Images
    from sateen.sim.engines import RunResult
    from sateen.stages import Network, QuantizedNetwork, load
    from sateen.training import train

__all__ = [
    "PRESETS",
    "AcceleratorConfig",
    "Build",
    "Format",
    "Images",
    "MappedNetwork",
    "Network",
    "QuantizedNetwork",
    "RunResult",
    "SateenError",
    "__version__",
    "bitstream",
    "check",
    "compile",
    "cost",
    "estimate",
    "explore",
    "load",
    "open",
    "parse_format",
    "pick",
    "preset",
    "random_machine",
    "report",
    "run",
    "search_space",
    "train",
]

_HOME = {
    "check": "sateen.api",
    "compile": "sateen.api",
    "cost": "sateen.hardware",
    "estimate": "sateen.hardware",
    "report": "sateen.api",
    "run": "sateen.api",
    "train": "sateen.training",
    "bitstream": "sateen.hardware",
    "explore": "sateen.explorer.api",
    "pick": "sateen.explorer.api",
    "load": "sateen.stages",
    "open": "sateen.mapped",
    "Network": "sateen.stages",
    "QuantizedNetwork": "sateen.stages",
    "MappedNetwork": "sateen.mapped",
    "RunResult": "sateen.sim.engines",
    "Images": "sateen.samples",
    "Build": "sateen.mapped",
    "AcceleratorConfig": "sateen.machine.config",
    "PRESETS": "sateen.machine.presets",
    "preset": "sateen.machine.presets",
    "random_machine": "sateen.machine.space",
    "search_space": "sateen.machine.space",
    "SateenError": "sateen.errors",
    "Format": "sateen.formats",
    "parse_format": "sateen.formats",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sateen' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
