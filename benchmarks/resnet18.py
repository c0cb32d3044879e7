"""Whole ResNet-18 at 224×224, random weights: time to compile, cycles and utilisation; with --rtl, every bit in RTL.

python benchmarks/resnet18.py [--preset sat256 --sparsity 2:8] [--weights e3m2 --activations e3m2] [--rtl]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

import sateen
from sateen.models.resnet18 import resnet18


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="mac256")
    parser.add_argument("--sparsity", default="dense")
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--activations", default="int8")
    parser.add_argument("--samples", type=int, default=2, help="for calibration")
    parser.add_argument(
        "--rtl", action="store_true", help="simulate one image and compare with the reference"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, build = Path(folder) / "resnet18.onnx", Path(folder) / "build"
        onnx.save(resnet18(), model)
        name = onnx.load(model).graph.input[0].name
        x = np.random.default_rng(0).normal(0, 1, (args.samples, 3, 224, 224)).astype(np.float32)
        started = time.perf_counter()
        manifest = sateen.compile(
            model,
            build,
            calibration={name: x},
            preset=args.preset,
            weights=args.weights,
            activations=args.activations,
            sparsity=args.sparsity,
            sparsity_method="magnitude",  # random weights: cycles and bits are the point
        )
        seconds = time.perf_counter() - started
        schedule = json.loads((build / "schedule.json").read_text())
        print("| layer | output | weights | cycles | utilisation | bytes loaded |\n|---|---|---|---|---|---|")
        for layer in schedule["layers"]:
            shape = "×".join(map(str, layer["output_shape"]))
            print(
                f"| {layer['name'][:40]} | {shape} | {layer['sparsity']} | {layer['cycles']:,} | "
                f"{100 * layer['utilization']:.1f} % | {layer['bytes_loaded']:,} |"
            )
        cycles, multipliers = manifest["cycles"], schedule["multipliers"]
        print(
            f"compiled in {seconds:.1f} s; {manifest['macs']:,} multiplications of {manifest['dense_macs']:,}"
        )
        print(
            f"{cycles:,} cycles predicted, utilisation {100 * manifest['macs'] / cycles / multipliers:.1f} %"
        )
        if args.rtl:
            inputs = {name: x[:1]}
            reference = sateen.run(build, inputs, "reference")
            rtl = sateen.run(build, inputs, "rtl")
            equal = all(rtl.outputs[k].tobytes() == v.tobytes() for k, v in reference.outputs.items())
            print(
                f"RTL: {rtl.cycles:,} cycles in {rtl.wall_s:.1f} s ({rtl.cycles_per_second:,.0f} cycles/s), "
                f"outputs {'equal' if equal else 'DIFFER'}, cycles {'equal' if rtl.cycles == cycles else 'DIFFER'}"
            )
            raise SystemExit(not (equal and rtl.cycles == cycles))


if __name__ == "__main__":
    main()
