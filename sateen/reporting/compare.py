"""Builds side by side: cycles layer by layer, resources, accuracy, bytes, energy; what is estimated stays apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sateen.errors import BuildError
from sateen.fpga.estimate.energy import energy
from sateen.fpga.estimate.resource_model import RESOURCES
from sateen.fpga.estimate.resource_model import estimate as resources
from sateen.machine.config import AcceleratorConfig
from sateen.manifest import BuildFiles
from sateen.reporting.labels import accuracy
from sateen.sim.engines import Build


def compare(builds: Sequence[str | Path], device: str) -> dict[str, Any]:
    """A column for each build. Raises BuildError, ConfigError.

    The result is {"device", "builds": […], "layers": [{"name", "cycles": [… or None]}]}; a build's "estimated" and
    "measured" hold resources, the latter None where `sateen cost` has not counted them.
    """
    if len(builds) < 2:
        raise BuildError("one build is nothing to compare; give two or more")
    found = [_build(Path(path), device) for path in builds]
    names = dict.fromkeys(name for b in found for name in b["layers"])
    return {
        "device": device,
        "builds": [{k: v for k, v in b.items() if k != "layers"} for b in found],
        "layers": [{"name": name, "cycles": [b["layers"].get(name) for b in found]} for name in names],
    }


def _build(path: Path, device: str) -> dict[str, Any]:
    files, b = BuildFiles(path), Build(path)
    manifest, totals = files.manifest, files.schedule["totals"]
    config = AcceleratorConfig.from_dict(manifest["config"], f"build {path}")
    counted = resources(config, device)
    scored, weights = accuracy(b), totals["weights"]
    uj = energy(totals, config, manifest["batch"])["uj"]
    layers: dict[str, int] = {}
    for row in files.schedule["layers"]:
        layers[row["name"]] = layers.get(row["name"], 0) + row["cycles"]
    return {
        "build": str(path),
        "model": manifest["model"],
        "machine": config.name,
        "multipliers": config.multipliers,
        "weights": config.weight_format,
        "activations": config.activation_format,
        "batch": manifest["batch"],
        "cycles": manifest["cycles"],
        "utilization": totals["utilization"],
        "bytes": totals["bytes"]["total"],
        "weight_bytes": weights["values_bytes"] + weights["index_bytes"],
        "energy_uj": [uj["total_low"], uj["total_high"]],
        "accuracy": scored and 100 * scored["correct"] / scored["samples"],
        "estimated": {name: counted["devices"][device]["total"][name] for name in RESOURCES},
        "measured": _measured(path, files, device),
        "layers": layers,
    }


def _measured(path: Path, files: BuildFiles, device: str) -> dict[str, Any] | None:
    """What `sateen cost` counted of this Verilog; None where it has not."""
    try:
        kept = json.loads((path / "cost.json").read_text(encoding="utf-8"))
        if kept["verilog_sha256"] == files.manifest["files"]["accelerator.v"] and device in kept["devices"]:
            return {name: kept["devices"][device]["total"][name] for name in RESOURCES}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BuildError(f"{path / 'cost.json'}: cannot be read ({e}); run sateen cost again") from None
    return None
