"""How many codes of the exported quantized model differ between ONNX Runtime's float32 and our integers.

python benchmarks/onnxruntime_agreement.py [--model F.onnx --calibration X.npz] [--samples 100]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import sateen
from sateen.compiler.export import compare_with_onnxruntime
from sateen.models.data import digits_split

MODELS = Path(__file__).parents[1] / "models"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, nargs="*", help="default: the digits networks")
    parser.add_argument("--calibration", type=Path, help="one array per input; default: digits")
    parser.add_argument("--samples", type=int, default=100)
    args = parser.parse_args()
    print("| model | formats | scales | codes | differ | steps at most | end to end: differ | steps |")
    print("|---|---|---|---|---|---|---|---|")
    for model in args.model or sorted(MODELS.glob("digits*.onnx")):
        network = sateen.load(model)
        assert network.graph is not None, "sateen check says why"
        name = network.graph.inputs[0].name
        samples = (
            dict(np.load(args.calibration)) if args.calibration else {name: digits_split().x_train[:200]}
        )
        inputs = {k: v[: args.samples] for k, v in samples.items()}
        for weights, activations in (
            ("int8", "int8"),
            ("int8", "uint8"),
            ("e4m3fn", "e4m3fn"),
            ("int4", "int4"),
        ):
            for power_of_two in (False, True):
                quantized = network.quantize(
                    weights=weights, activations=activations, calibration=samples, power_of_two=power_of_two
                )
                r = compare_with_onnxruntime(quantized.graph, inputs)
                scales = "powers of two" if power_of_two else "any"
                figures = (
                    f"skipped: {r['skipped']} | | | |"
                    if r["skipped"]
                    else f"{r['codes']:,} | {r['differing']} | {r['max_steps']} | {r['end_to_end_differing']} | "
                    f"{r['end_to_end_max_steps']}"
                )
                print(f"| {model.stem} | {weights}/{activations} | {scales} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
