"""Size and clock of machines on Lattice ECP5 (85k, by default speed grade 6), placed and routed with nextpnr.

    python benchmarks/fmax.py                               tiny and an 8 × 8 machine
    python benchmarks/fmax.py --config F.toml --seeds 5     others; or --preset NAME

LUT, FF, DSP and block RAM are Yosys's, of the machine alone, as `sateen cost` counts them. For place and route the
machine's ports go to shift registers (`few_pins`), so that every path is between registers on the chip. Several minutes
for each seed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.place_and_route import Part, few_pins, netlist, place_and_route
from sateen.fpga.flow.synthesis import synthesize
from sateen.hw.chip.verilog import emit_verilog
from sateen.machine.config import AcceleratorConfig
from sateen.machine.presets import preset

SQUARE = preset("ulx3s-85f").replace(name="8x8", narrow=False, bus_bits=32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", action="append", default=[])
    parser.add_argument("--config", action="append", default=[], type=AcceleratorConfig.load)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--speed", choices=("6", "7", "8"), default="6")
    parser.add_argument("--frequency", type=float, default=100, help="MHz that placement aims at")
    args = parser.parse_args()
    part = Part("ecp5", "85k", "CABGA756", args.speed)
    configs = [preset(name) for name in args.preset] + args.config or [preset("tiny"), SQUARE]
    print(
        "| machine | multipliers | LUT | FF | DSP | block RAM | MHz, median | MHz, best | seeds | minutes |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for config in configs:
        verilog = emit_verilog(config)
        n = resources(synthesize(verilog, FAMILIES["ecp5"]).cells, FAMILIES["ecp5"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "design.json"
            netlist(few_pins(verilog), part, path)
            routed = [
                place_and_route(path, part, frequency=args.frequency, seed=seed)
                for seed in range(1, args.seeds + 1)
            ]
        fmax = [r.fmax for r in routed]
        minutes = sum(r.seconds for r in routed) / 60
        print(
            f"| {config.name} | {config.multipliers} | {n['lut']:,} | {n['ff']:,} | {n['dsp']} | {n['bram']} | "
            f"{statistics.median(fmax):.1f} | {max(fmax):.1f} | {args.seeds} | {minutes:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
