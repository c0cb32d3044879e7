"""The digits network on the synthesized netlist, Yosys's cells under Verilator, against the RTL and the reference.

    python benchmarks/gate_level.py [--architectures ecp5 ice40] [--formats int8 e3m2] [--images N] [--preset NAME]

Exits with 1 where outputs or cycles differ. Minutes for each netlist.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path

import sateen
from sateen.fpga.flow.gate_level import SYNTH, gate_level
from sateen.models.data import CALIBRATION, digits_split
from sateen.sim import Build, run_build


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architectures", nargs="+", choices=SYNTH, default=list(SYNTH))
    parser.add_argument("--formats", nargs="+", default=["int8", "e3m2"])
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--preset", default="tiny")
    args = parser.parse_args()
    data = digits_split()
    x = {"input": data.x_test[: args.images]}
    failed = False
    print("| netlist | formats | images | cycles | of the RTL | outputs | synthesis | cycles/s |")
    print("|---|---|--:|--:|--:|---|--:|--:|")
    for name in args.formats:
        with (
            tempfile.TemporaryDirectory() as folder,
            as_file(files("sateen.models") / "digits_cnn.onnx") as model,
        ):
            build = Path(folder) / "build"
            calibration = {"input": data.x_train[:CALIBRATION]}
            sateen.compile(
                model, build, calibration=calibration, preset=args.preset, weights=name, activations=name
            )
            reference = sateen.run(build, x, "reference").outputs["logits"]
            rtl = sateen.run(build, x, "rtl")
            for architecture in args.architectures:
                begin = time.monotonic()
                netlist = gate_level((build / "accelerator.v").read_text(encoding="utf-8"), architecture)
                seconds = time.monotonic() - begin
                found = run_build(Build(build), x, "rtl", verilog=netlist)
                equal = found.outputs["logits"].tobytes() == reference.tobytes()
                failed |= not equal or found.cycles != rtl.cycles
                print(
                    f"| {architecture} | {name} | {args.images} | {found.cycles} | {rtl.cycles} | "
                    f"{'equal' if equal else 'DIFFERENT'} | {seconds:.0f} s | {found.cycles_per_second:,.0f} |",
                    flush=True,
                )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
