"""Resources of a generated design, counted by Yosys: LUT, FF, DSP, block RAM, carry.

The total counts the netlist that place and route gets, before packing, all hierarchy dissolved. Each part below
the top is also synthesized by itself; what Yosys shares or removes across their boundaries is a row of its own
("across parts", often negative), so that the rows add up to the total.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sateen.errors import BuildError, ConfigError
from sateen.files import write_file
from sateen.fpga.boards.devices import FAMILIES, Family
from sateen.fpga.flow.dsp_sums import PACKING
from sateen.fpga.flow.synthesis import find_top, plain_name, synthesize
from sateen.processors import processors

Progress = Callable[[str, float], None]


def cost(
    build: Path,
    verilog: str,
    device: str | None = None,
    *,
    dsp_sums: bool = False,
    wide_muxes: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Count a build's Verilog for one family, or all, and keep the result in BUILD/cost.json.

    `dsp_sums`: with sums of products in the DSPs, for a family of PACKING, or all of them. `wide_muxes`: with
    multiplexers in the slices.
    The result is {"verilog_sha256": …, "devices": {family: {"total", "parts", "cells", "source", …}}}.
    Raises BuildError, ConfigError.
    """
    if device is not None and device not in FAMILIES:
        raise ConfigError(f"unknown device '{device}'; devices are {', '.join(FAMILIES)}")
    digest = hashlib.sha256(verilog.encode()).hexdigest()
    known = _known(build / "cost.json", digest)
    wanted = list(PACKING if dsp_sums else FAMILIES) if device is None else [device]
    for n, name in enumerate(wanted):

        def part(stage: str, fraction: float, n: int = n) -> None:
            if progress is not None:
                progress(stage, fraction)

        known[name] = count(verilog, FAMILIES[name], dsp_sums=dsp_sums, wide_muxes=wide_muxes, progress=part)
    result = {"verilog_sha256": digest, "devices": {name: known[name] for name in FAMILIES if name in known}}
    write_file(build / "cost.json", json.dumps(result, indent=1, sort_keys=True) + "\n", "counts")
    return {**result, "devices": {name: known[name] for name in wanted}}


def count(
    verilog: str,
    family: Family,
    *,
    dsp_sums: bool = False,
    wide_muxes: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Total and parts of a design. Raises BuildError."""
    top = find_top(verilog)
    instances = top_instances(verilog, top)
    synthesized = functools.partial(synthesize, family=family, dsp_sums=dsp_sums, wide_muxes=wide_muxes)
    with ThreadPoolExecutor(max_workers=min(2, processors())) as pool:
        whole = pool.submit(synthesized, verilog, top=top, progress=progress)
        single = {
            module: pool.submit(synthesized, extract(verilog, module), top=module)
            for module in dict.fromkeys(instances.values())
        }
        try:
            netlist = whole.result()
            cells = {module: future.result().cells for module, future in single.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    total = resources(netlist.cells, family)
    parts = [{"name": name, **resources(cells[module], family)} for name, module in instances.items()]
    parts.sort(key=lambda p: (-p["lut"], p["name"]))
    rest = {k: total[k] - sum(p[k] for p in parts) for k in total}
    if parts and any(rest.values()):
        parts.append({"name": "(across parts)", **rest})
    return {
        "device": family.name,
        "title": family.title + ", sums in DSPs" * dsp_sums + ", multiplexers in slices" * wide_muxes,
        "source": "measured",
        "tool": netlist.tool,
        "script": netlist.script,
        "bram_unit": family.bram_unit,
        "total": total,
        "parts": parts,
        "cells": netlist.cells,
    }


def resources(cells: dict[str, int], family: Family) -> dict[str, Any]:
    """Primitives to resources. Raises BuildError for a primitive that no table of the family knows."""
    tables = {
        "lut_logic": family.lut_logic,
        "lut_memory": family.lut_memory,
        "lut_carry": family.lut_carry,
        "ff": family.ff,
        "dsp": family.dsp,
        "bram": family.bram,
        "carry": family.carry,
    }
    for cell in cells:
        if cell not in family.free and not any(cell in t for t in tables.values()):
            raise BuildError(
                f"{family.title}: primitive {cell} is in no table; add it to fpga/boards/devices.py"
            )
    n = {k: sum(t.get(cell, 0) * m for cell, m in cells.items()) for k, t in tables.items()}
    return {
        "lut": n["lut_logic"] + n["lut_memory"] + n["lut_carry"],
        "ff": n["ff"],
        "dsp": n["dsp"],
        "bram": n["bram"] // 2 if n["bram"] % 2 == 0 else n["bram"] / 2,
        "carry": n["carry"],
        "lut_logic": n["lut_logic"],
        "lut_memory": n["lut_memory"],
        "lut_carry": n["lut_carry"],
    }


def modules(verilog: str) -> dict[str, str]:
    """Module name, as written, to its text."""
    return {
        m[1]: m[0]
        for m in re.finditer(r"^[ \t]*module\s+(\\\S+|\w+).*?^[ \t]*endmodule", verilog, re.M | re.S)
    }


def instances_in(body: str, known: dict[str, str]) -> dict[str, str]:
    """Instances of known modules in a module's text: instance name, without escape, to module."""
    found = re.findall(r"^\s*(\\\S+|\w+)\s+(\\\S+|\w+)\s*\(", body, re.M)
    return {plain_name(name): module for module, name in found if module in known}


def top_instances(verilog: str, top: str) -> dict[str, str]:
    """Instances directly in the top module."""
    known = modules(verilog)
    return instances_in(known[top], known)


def extract(verilog: str, top: str) -> str:
    """The text of a module and of all below it, so that its hash changes with nothing else."""
    known = modules(verilog)
    wanted, todo = {top}, [top]
    while todo:
        below = set(instances_in(known[todo.pop()], known).values()) - wanted
        wanted |= below
        todo += below
    return "\n".join(text for name, text in known.items() if name in wanted) + "\n"


def _known(path: Path, digest: str) -> dict[str, Any]:
    """Counts made earlier for the same Verilog."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found["devices"]) if found["verilog_sha256"] == digest else {}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
