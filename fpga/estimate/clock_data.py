"""The clock model's data: machines placed and routed whole on ECP5, with the longest path to each component.

Each machine is placed for the slowest speed grade; the routed design is then timed again for the fastest one as it is.
Results are cached: an interrupted experiment goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sateen.files import cache_entry, load_entry, store_entry
from sateen.fpga.estimate.resource_data import NARROW, as_json, from_json
from sateen.fpga.flow.place_and_route import ARCHITECTURES, Part, Routed, few_pins, netlist, place_and_route
from sateen.fpga.flow.place_and_route import tool_version as router_version
from sateen.fpga.flow.synthesis import tool_version
from sateen.hw.chip.verilog import emit_verilog
from sateen.machine.config import DATAFLOWS, AcceleratorConfig

Row = dict[str, Any]
PART = Part("ecp5", "85k", "CABGA756", "6")
GRADES = ("6", "8")
"""That placed for, and that timed again."""
TARGET_MHZ = 100.0
"""More than most machines reach, so that nextpnr tries throughout."""

_GROUPS = (
    ("bank address", r"activations\.bank_|bank_conflict"),
    ("activations", r"activations\."),
    ("buffers", r"(weights|indices|parameters)\."),
    ("product", r"matrix\.array\.pe_\d+_\d+\.(product|\$\S*MULT18X18D)"),
    ("element", r"matrix\.array\.pe_\d+_\d+\."),
    ("edge", r"matrix\.array\."),
    ("accumulator", r"matrix\.accumulator\."),
    ("matrix", r"matrix\."),
    ("requantizer", r"vector\.drain\.requantizer"),
    ("drain", r"vector\.drain\."),
    ("pool", r"vector\."),
    ("control", r"control\."),
    ("registers", r"registers\."),
    ("load", r"load\."),
    ("store", r"store\."),
)
GROUPS = tuple(name for name, _ in _GROUPS)
"""Where a path ends; of two that a name matches, the first."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A machine to be placed, with nextpnr's seed."""

    config: AcceleratorConfig
    seed: int = 1


def trials() -> list[Trial]:
    """A fixed list, from small to large within each kind; the first few already differ in most fields."""
    small = AcceleratorConfig(
        rows=1, cols=1, lanes=1, group=1, acc_bits=24, act_banks=2, act_bank_depth=512, weight_depth=512,
        acc_depth=64, parameter_depth=64, vector_lanes=1, bus_bits=32, queue_depth=2, burst_beats=16, outstanding=2,
    )  # fmt: skip
    least, middle = (small.replace(narrow=True, **fields) for fields in NARROW[:2])
    sparse: dict[str, Any] = {"lanes": 1, "group": 4, "patterns": ("dense", "2:4", "1:4")}
    machines = (
        replace(least, rows=2, cols=2),
        replace(middle, rows=4, cols=4, act_banks=4, act_bank_depth=1024, vector_lanes=2),
        replace(least, rows=2, cols=2, weight_format="e3m2", activation_format="e3m2", acc_bits=32, **sparse),
        replace(small, rows=2, cols=2, lanes=2, group=2, act_banks=4, table=False),
        replace(least, weight_format="int4", activation_format="int4", acc_bits=16, table=False),
        replace(middle, rows=8, cols=8, act_banks=4, act_bank_depth=1024, bus_bits=64, vector_lanes=2),
        replace(least, cols=2, rows=2, weight_format="e4m3", activation_format="e4m3", acc_bits=49, act_banks=4),
        replace(middle, rows=4, cols=8, lanes=1, group=2, act_banks=8, dataflows=DATAFLOWS,
                weight_format="int4", activation_format="int4", acc_bits=20),
        replace(least, rows=2, cols=2, weight_format="e5m2", activation_format="e5m2", multiplier="shift",
                acc_bits=80, residual=False),
        replace(small, weight_format="e2m1", activation_format="e2m1", rows=4, cols=4, acc_bits=20, act_banks=8,
                act_bank_depth=2048, bus_bits=128, outstanding=8, queue_depth=4),
        replace(middle, rows=4, cols=16, group=4, act_banks=4, vector_lanes=4, bus_bits=64),
        replace(least, weight_depth=2048, acc_depth=512, act_bank_depth=4096),
    )  # fmt: skip
    found = [Trial(replace(config, name=f"clock{n}")) for n, config in enumerate(machines)]
    return [*found[:4], replace(found[0], seed=2), *found[4:]]


def measure(trial: Trial) -> Row:
    """Place, route and time a machine. Raises BuildError."""
    verilog = emit_verilog(trial.config)
    architecture = ARCHITECTURES[PART.architecture]
    tools = [tool_version(), router_version(architecture.package)]
    design = cache_entry("clock", *tools[:1], verilog)
    path = cache_entry("clock", *tools, verilog, PART.title, str(TARGET_MHZ), str(trial.seed), *GRADES)
    if (known := load_entry(path)) is not None:
        return dict(json.loads(known))
    with tempfile.TemporaryDirectory(prefix="sateen-clock-") as name:
        kept = Path(name) / "kept.json"
        if not design.is_file():
            design.parent.mkdir(parents=True, exist_ok=True)
            netlist(few_pins(verilog), PART, kept)
            shutil.move(kept, design)
        options: dict[str, Any] = {"frequency": TARGET_MHZ, "seed": trial.seed, "detailed": True}
        routed = {GRADES[0]: place_and_route(design, PART, keep=kept, **options)}
        for grade in GRADES[1:]:
            routed[grade] = place_and_route(kept, replace(PART, speed=grade), again=True, **options)
    first = routed[GRADES[0]]
    row: Row = {
        "name": trial.config.name,
        "config": as_json(trial.config),
        "seed": trial.seed,
        "text": hashlib.sha256(verilog.encode()).hexdigest()[:12],
        "tools": tools,
        "used": {k: n for k, n in first.used.items() if n},
        "longest": dict(zip(("from", "to", "logic_ns", "wires_ns"), first.longest, strict=True)),
        "mhz": {grade: r.fmax for grade, r in routed.items()},
        "ns": {grade: longest_by_group(r) for grade, r in routed.items()},
    }
    store_entry(path, json.dumps(row).encode())
    return row


def longest_by_group(routed: Routed) -> dict[str, float]:
    """GROUPS to ns."""
    found: dict[str, float] = {}
    for cell, ns in routed.arrivals.items():
        if (group := group_of(cell)) is not None:
            found[group] = max(found.get(group, 0.0), ns)
    return {name: found[name] for name in GROUPS if name in found}


def group_of(cell: str) -> str | None:
    """Where a cell of the design below `few_pins` belongs; None for the pins' own."""
    inside = cell.removeprefix("design.")
    return next((name for name, pattern in _GROUPS if re.match(pattern, inside)), None)


def config_of(row: Mapping[str, Any]) -> AcceleratorConfig:
    return from_json(row["config"])


def write(rows: Sequence[Row], path: Path) -> None:
    """In the order of `trials`."""
    order = [(t.config.name, t.seed) for t in trials()]
    rows = sorted(rows, key=lambda r: order.index((r["name"], r["seed"])))
    path.write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n", encoding="utf-8")


def read(path: Path) -> list[Row]:
    return list(json.loads(path.read_text(encoding="utf-8")))
