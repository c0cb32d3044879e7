"""Outer products on the array: what the elements that keep sums of them cost.

python benchmarks/outer_products.py [--only NAME ...]       LUT, FF and DSP of the array, by Yosys: without them, with
                                                            them, with short groups
python benchmarks/outer_products.py --gradients             what gradients in a format of their own take
"""

from __future__ import annotations

import argparse
import sys

from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import synthesize
from sateen.hw.chip.verilog import convert
from sateen.hw.matrix.array import SystolicArray
from sateen.hw.vector.requantize import Requantizer
from sateen.machine.config import DATAFLOWS, AcceleratorConfig

PATTERNS = ("dense", "2:4", "2:8")
_PART = AcceleratorConfig(
    name="4x8, int8", rows=4, cols=8, lanes=1, group=8, patterns=PATTERNS, acc_bits=36, vector_lanes=4
)
_E4M3 = dict(weight_format="e4m3", activation_format="e4m3", acc_bits=57)
ARRAYS = {
    c.name: c
    for c in (
        _PART,
        _PART.replace(name="4x8, e4m3", **_E4M3),
        _PART.replace(name="4x8, int8, output-stationary", dataflows=DATAFLOWS),
        _PART.replace(name="8x32, int8", rows=8, cols=32),
        _PART.replace(name="8x32, e4m3", rows=8, cols=32, **_E4M3),
    )
}


def cost(names: list[str]) -> None:
    print("| array | device | LUT | FF | DSP |\n|---|---|--:|--:|--:|")
    for name in names:
        for family in FAMILIES.values():
            found = []
            for outer, short in ((False, False), (True, False), (True, True)):
                array = SystolicArray(config=ARRAYS[name].replace(outer_products=outer, short_groups=short))
                found.append(
                    resources(synthesize(convert(array, "array"), family, top="array").cells, family)
                )
            cells = (" → ".join(f"{n[k]:,}" for n in found) for k in ("lut", "ff", "dsp"))
            print(f"| {name} | {family.title} | {' | '.join(cells)} |", flush=True)


GRADIENTS = (
    ("int8", "int8", 40), ("int8", "e4m3fn", 40), ("e4m3fn", "e4m3fn", 57), ("e4m3fn", "e5m2", 72),
    ("e5m2", "e5m2", 88),
)  # fmt: skip
"""Formats of weights and activations, and of gradients; bits of their sums over a few thousand pixels."""


def gradients() -> None:
    print(
        "| weights and activations | gradients | sums | device | array 4x8: LUT, FF, DSP | a lane of DRAIN's |"
    )
    print("|---|---|--:|---|--:|--:|")
    for fmt, own, bits in GRADIENTS:
        config = _PART.replace(
            outer_products=True, weight_format=fmt, activation_format=fmt, acc_bits=bits, multiplier="shift",
            gradient_format=own if own != fmt else "",
        )  # fmt: skip
        blocks = (SystolicArray(config=config), Requantizer(config=config))
        texts = [convert(block, "block") for block in blocks]
        for family in FAMILIES.values():
            counts = [resources(synthesize(t, family, top="block").cells, family) for t in texts]
            cells = (", ".join(f"{n[k]:,}" for k in ("lut", "ff", "dsp")) for n in counts)
            print(f"| {fmt} | {own} | {bits} | {family.title} | {' | '.join(cells)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ARRAYS, default=list(ARRAYS), metavar="NAME")
    parser.add_argument("--gradients", action="store_true")
    args = parser.parse_args()
    if args.gradients:
        gradients()
    else:
        cost(args.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
