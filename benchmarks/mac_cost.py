"""Measure the LUT, FF and DSP of one MAC in every format and write fpga/library/mac_cost.json.

    .venv/bin/python benchmarks/mac_cost.py [FORMAT ...]

Both kinds of multiplier are synthesized, with and without DSPs.
A quarter of an hour on one core; results are cached.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.progress import track

import sateen.fpga.library
from sateen.formats import Format, all_formats, parse_format
from sateen.fpga.boards.devices import FAMILIES, Family
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import synthesize, tool_version
from sateen.fpga.library.mac_cost import TABLE, K, mac_verilog, measured


def measure(fmt: Format, family: Family) -> dict[str, Any]:
    """The multiplier with fewer LUTs, of those that need no more than one DSP."""
    found = []
    for multiplier in ("fixed",) if fmt.uniform else ("fixed", "shift"):
        verilog = mac_verilog(fmt, multiplier)
        with_dsp = resources(synthesize(verilog, family, top="mac").cells, family)
        without = resources(synthesize(verilog, family, top="mac", options="-nodsp").cells, family)
        found.append(
            {
                **{k: with_dsp[k] for k in ("lut", "ff", "dsp", "carry")},
                "lut_without_dsp": without["lut"],
                "multiplier": multiplier,
            }
        )
    best = min(found, key=lambda c: (c["dsp"] > 1, c["lut"], c["ff"]))
    return {**best, "lut_without_dsp": min(c["lut_without_dsp"] for c in found)}


def main() -> None:
    chosen = [parse_format(n) for n in sys.argv[1:]] or all_formats()
    table = measured()
    for fmt in track(chosen, description="MAC cost"):
        table[fmt.name] = {name: measure(fmt, family) for name, family in FAMILIES.items()}
        content = {"k": K, "lanes": 1, "tool": tool_version(), "formats": dict(sorted(table.items()))}
        path = Path(sateen.fpga.library.__path__[0]) / TABLE
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
