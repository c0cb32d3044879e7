"""What indices cost beside the weights: LUT, FF and block RAM of the load unit and of the index buffer.

python benchmarks/index_cost.py [ecp5|xcup]

Machines like sat256, each module synthesized by itself; a minute and a half on one core; results are cached.
"""

from __future__ import annotations

import sys

from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import synthesize
from sateen.hw.chip.verilog import convert
from sateen.hw.memory.buffers import IndexBuffer
from sateen.hw.memory.load import LoadUnit
from sateen.machine.presets import PRESETS

SAT256 = PRESETS["sat256"]
MACHINES = {
    "no patterns": SAT256.replace(patterns=("dense",)),
    "int8": SAT256,
    "e3m2": SAT256.replace(weight_format="e3m2", activation_format="e3m2"),
    "int4": SAT256.replace(weight_format="int4", activation_format="int4"),
    "groups of 16": SAT256.replace(group=16, patterns=(*SAT256.patterns, "2:16")),
}


def main() -> None:
    family = FAMILIES[sys.argv[1] if len(sys.argv) > 1 else "ecp5"]
    print(f"| {family.title} | module | LUT | of these logic | FF | block RAM |\n|---|---|---|---|---|---|")
    for name, config in MACHINES.items():
        parts = {"load unit": LoadUnit(config=config)}
        if config.indexed:
            parts["index buffer"] = IndexBuffer(config=config)
        for part, component in parts.items():
            found = resources(synthesize(convert(component, "dut"), family, top="dut").cells, family)
            counts = (found[k] for k in ("lut", "lut_logic", "ff", "bram"))
            print(f"| {name} | {part} | {' | '.join(map(str, counts))} |", flush=True)


if __name__ == "__main__":
    main()
