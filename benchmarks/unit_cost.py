"""What each unit for computed operands adds to a machine: LUT, FF, DSP and block RAM, counted by Yosys.

    python benchmarks/unit_cost.py [--preset tiny] [--family ecp5 xcup]
    python benchmarks/unit_cost.py --weights int4 --only computed_weights      what digits of computed weights take

Each row is a whole machine with the option less the one without any. Options that a model does not need are left out
by `specialize`, and leave the machine's Verilog as it was.
"""

from __future__ import annotations

import argparse
import sys

import sateen
from sateen.fpga.boards.devices import FAMILIES, Family
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import find_top, synthesize
from sateen.hw.chip.verilog import emit_verilog
from sateen.machine.config import AcceleratorConfig

UNITS = {
    "`product`: residuals that multiply": {"product": True},
    "`softmax`": {"softmax": True},
    "`normalize`": {"normalize": True},
    "`softmax`, `normalize`: both in one unit": {"softmax": True, "normalize": True},
    "`computed_weights`, one word at a time": {"computed_weights": True, "transpose_words": 1},
    "`computed_weights`, two words": {"computed_weights": True, "transpose_words": 2},
    "`depthwise`": {"depthwise": True},
    "all, two words": {
        **dict.fromkeys(("product", "softmax", "normalize", "computed_weights", "depthwise"), True),
        "transpose_words": 2,
    },
}
KINDS = ("lut", "ff", "dsp", "bram")


def counted(config: AcceleratorConfig, family: Family) -> dict[str, float]:
    verilog = emit_verilog(config)
    found = resources(synthesize(verilog, family, top=find_top(verilog)).cells, family)
    return {kind: found[kind] for kind in KINDS}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--weights", help="their format; that of the preset by default")
    parser.add_argument("--only", default="", metavar="TEXT", help="options with this in their name")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=["ecp5", "xcup"])
    options = parser.parse_args()
    plain = sateen.preset(options.preset).replace(
        product=False, softmax=False, normalize=False, computed_weights=False, depthwise=False
    )
    if options.weights:
        plain = plain.replace(weight_format=options.weights)
    print("| machine | device | LUT | FF | DSP | block RAM |\n|---|---|--:|--:|--:|--:|")
    for family in (FAMILIES[name] for name in options.family):
        base = counted(plain, family)
        print(f"| {options.preset} | {family.title} | {_row(base, '')} |", flush=True)
        for title, changes in ((t, c) for t, c in UNITS.items() if options.only in t):
            found = counted(plain.replace(**changes), family)
            added = {kind: found[kind] - base[kind] for kind in KINDS}
            print(f"| {title} | {family.title} | {_row(added, '+')} |", flush=True)
    return 0


def _row(found: dict[str, float], sign: str) -> str:
    return " | ".join(f"{found[kind]:{sign},g}" for kind in KINDS)


if __name__ == "__main__":
    sys.exit(main())
