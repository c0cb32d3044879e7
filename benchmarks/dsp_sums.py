"""Elements and arrays on UltraScale+, with sums of products beside the DSPs and in them: LUT, FF, DSP, by Yosys.

    python benchmarks/dsp_sums.py [--machine mac256]     a whole machine, too

docs/adr/0062-dsp-sums.md has the table.
"""

from __future__ import annotations

import argparse

from amaranth.lib import wiring

import sateen
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import find_top, synthesize
from sateen.hw.chip.verilog import convert, emit_verilog
from sateen.hw.matrix.array import SystolicArray
from sateen.hw.matrix.pe import PE
from sateen.machine.config import AcceleratorConfig

FAMILY = FAMILIES["xcup"]


def element(config: AcceleratorConfig) -> wiring.Component:
    return PE(
        lanes=config.lanes,
        group=config.group,
        activation=config.activation,
        weight=config.weight,
        multiplier=config.multiplier,
        acc_bits=config.acc_bits,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machine", metavar="PRESET", help="count this machine whole")
    options = parser.parse_args()
    big = sateen.preset("mac256")
    small = big.replace(rows=4, cols=4, vector_lanes=4)
    one = {"lanes": 1, "group": 1}
    designs = {
        "element, one lane": convert(element(big.replace(rows=16, **one)), "design"),
        "element, two lanes": convert(element(big), "design"),
        "array 4×4, one lane": convert(SystolicArray(config=small.replace(**one)), "design"),
        "array 4×4×2": convert(SystolicArray(config=small), "design"),
        "array of `mac256`, 8×16×2": convert(SystolicArray(config=big), "design"),
    }
    if options.machine:
        designs[f"`{options.machine}`, whole"] = emit_verilog(sateen.preset(options.machine))
    print("| int8 | sums | LUT | FF | DSP |\n|---|---|--:|--:|--:|")
    for title, verilog in designs.items():
        for where, dsp_sums in (("beside", False), ("in DSPs", True)):
            cells = synthesize(verilog, FAMILY, top=find_top(verilog), dsp_sums=dsp_sums).cells
            n = resources(cells, FAMILY)
            print(f"| {title} | {where} | {n['lut']:,} | {n['ff']:,} | {n['dsp']:,} |", flush=True)


if __name__ == "__main__":
    main()
