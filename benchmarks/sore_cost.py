"""LUTs and flip-flops of SORE, counted by Yosys: python benchmarks/sore_cost.py [FORMAT ...]

"per lane" is the difference of two lanes and one: control is shared by all lanes.
"""

import sys

from amaranth.back import verilog

from sateen.formats import PATTERNS, SparsityPattern, parse_format
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import synthesize
from sateen.hw.memory.sore import SORE

CATALOGUE = tuple(p for p in PATTERNS.values() if not p.dense)
UNITS = {
    "2:8": (SparsityPattern(2, 8),),
    "4:8": (SparsityPattern(4, 8),),
    "4:16": (SparsityPattern(4, 16),),
    "2:4 2:8": (SparsityPattern(2, 4), SparsityPattern(2, 8)),
    " ".join(p.name for p in CATALOGUE): CATALOGUE,
}


def main(formats: list[str]) -> None:
    print("| format | patterns | family | LUT, one lane | FF, one lane | LUT per lane | FF per lane |")
    print("|---|---|---|--:|--:|--:|--:|")
    for name in formats:
        for title, patterns in UNITS.items():
            for family in (FAMILIES["ecp5"], FAMILIES["xcup"]):
                one, two = (
                    resources(
                        synthesize(
                            verilog.convert(
                                SORE(fmt=parse_format(name), patterns=patterns, lanes=lanes), name="sore"
                            ),
                            family,
                            top="sore",
                        ).cells,
                        family,
                    )
                    for lanes in (1, 2)
                )
                numbers = [one["lut"], one["ff"], two["lut"] - one["lut"], two["ff"] - one["ff"]]
                print(f"| {name} | {title} | {family.title} | {' | '.join(map(str, numbers))} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["int8", "e3m2"])
