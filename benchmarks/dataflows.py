"""Weight-stationary against output-stationary, layer by layer, by the exact cycle model, and the choice in RTL.

    python benchmarks/dataflows.py                                    ResNet-18 at 224×224, random weights
    python benchmarks/dataflows.py --model F.onnx --sparsity 2:4 --rtl
    python benchmarks/dataflows.py --cost                             LUT, FF and DSP of the array, by Yosys

The network is compiled three times: each dataflow for all layers, and the faster for each. A layer's cycles are those
of its MATRIX instructions; the last row is the whole program's, with loading and draining beside them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import sateen
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import synthesize
from sateen.hw.chip.verilog import convert
from sateen.hw.matrix.array import SystolicArray
from sateen.machine.config import DATAFLOWS, AcceleratorConfig
from sateen.machine.presets import preset
from sateen.models.resnet18 import resnet18


def layers(build: Path) -> list[dict[str, Any]]:
    found = json.loads((build / "schedule.json").read_text())["layers"]
    return [layer for layer in found if layer["dataflow"]]


def cost(config: AcceleratorConfig) -> None:
    """The array with 24-bit sums, with and without the second dataflow."""
    print("| array | device | LUT | FF | DSP |\n|---|---|---|---|---|")
    for family in FAMILIES.values():
        for dataflows in (DATAFLOWS[:1], DATAFLOWS):
            array = SystolicArray(config=config.replace(dataflows=dataflows, acc_bits=24))
            found = resources(synthesize(convert(array, "array"), family, top="array").cells, family)
            names = " and ".join(d.replace("_", "-") for d in dataflows)
            print(
                f"| {names} | {family.title} | {found['lut']:,} | {found['ff']:,} | {found['dsp']} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="an ONNX file with one input")
    parser.add_argument("--preset", default="sat256")
    parser.add_argument("--bus", type=int, default=512)
    parser.add_argument("--sparsity", default="dense")
    parser.add_argument("--rtl", action="store_true", help="run the chosen program in RTL too")
    parser.add_argument("--cost", action="store_true", help="count the array's resources instead")
    args = parser.parse_args()
    base = preset(args.preset)
    if args.cost:
        cost(base)
        return
    config = base.replace(
        dataflows=DATAFLOWS, bus_bits=args.bus, burst_beats=min(base.burst_beats, 4096 * 8 // args.bus)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = args.model or Path(folder) / "resnet18.onnx"
        if args.model is None:
            onnx.save(resnet18(), path)
        graph = onnx.load(path).graph
        constants = {t.name for t in graph.initializer}
        port = next(i for i in graph.input if i.name not in constants)
        shape = [d.dim_value or 1 for d in port.type.tensor_type.shape.dim]
        x = {port.name: np.random.default_rng(0).normal(0, 1, (4, *shape[1:])).astype(np.float32)}
        manifest, schedules = {}, {}
        for dataflow in (*DATAFLOWS, "auto"):
            build = Path(folder) / dataflow
            manifest[dataflow] = sateen.compile(
                path, build, calibration=x, config=config, sparsity=args.sparsity, dataflow=dataflow,
                sparsity_method="magnitude",
            )  # fmt: skip
            schedules[dataflow] = layers(build)
        print(
            f"{args.preset}, {args.sparsity}, {args.bus}-bit bus: {config.rows}×{config.cols}×{config.lanes}\n"
        )
        print("| layer | output | weight-stationary | output-stationary | ratio | chosen |")
        print("|---|---|---|---|---|---|")
        ws, os = DATAFLOWS
        for row in schedules["auto"]:
            cycles = row["dataflow_cycles"]
            shape = "×".join(map(str, row["output_shape"]))
            print(
                f"| {row['name']} | {shape} | {cycles[ws]:,} | {cycles[os]:,} | {cycles[os] / cycles[ws]:.3f} | "
                f"{row['dataflow'].replace('_', '-')} |"
            )
            slower = [d for d, n in cycles.items() if n < cycles[row["dataflow"]]]
            assert not slower, f"{row['name']}: {slower[0]} is faster"
        total = {d: m["cycles"] for d, m in manifest.items()}
        print(f"| all, the program | | {total[ws]:,} | {total[os]:,} | | {total['auto']:,} |")
        if args.rtl:
            inputs = {name: a[:1] for name, a in x.items()}
            reference = sateen.run(Path(folder) / "auto", inputs, "reference")
            found = sateen.run(Path(folder) / "auto", inputs, "rtl")
            assert all(v.tobytes() == found.outputs[k].tobytes() for k, v in reference.outputs.items())
            assert found.cycles == total["auto"]
            print(f"\nRTL: {found.cycles:,} cycles, outputs equal to the reference's, {found.wall_s:.1f} s")


if __name__ == "__main__":
    main()
