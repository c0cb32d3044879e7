"""MLPerf Tiny's ResNet8 on CIFAR-10, every layer in RTL: accuracy, bit-exactness, cycles.

python benchmarks/resnet8.py --model resnet8.onnx --data FOLDER      (cifar10_train.zip, cifar10_test.zip)

With --images 0 or --rtl-images 0 an engine is left out: accuracies alone take seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from cifar10 import cifar10

import sateen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset", default="mac256")
    parser.add_argument("--images", type=int, default=100, help="through the program engine")
    parser.add_argument("--rtl-images", type=int, default=3)
    parser.add_argument("--accuracy-images", type=int, default=1000, help="through the reference")
    parser.add_argument(
        "--formats", nargs="*", default=["int8/int8", "e3m2/e3m2"], help="weights/activations"
    )
    args = parser.parse_args()

    most = max(args.accuracy_images, args.images, args.rtl_images)
    calibration, images, labels = cifar10(args.data, 200, most)
    session = onnxruntime.InferenceSession(args.model)
    name = session.get_inputs()[0].name
    logits = np.concatenate([session.run(None, {name: x[None]})[0] for x in images[: args.accuracy_images]])
    wanted = labels[: args.accuracy_images]
    rows: list[dict[str, Any]] = [
        {"formats": "float32", "accuracy": float((logits.argmax(1) == wanted).mean())}
    ]
    for formats in args.formats:
        weights, activations = formats.split("/")
        with tempfile.TemporaryDirectory() as folder:
            build = Path(folder) / "build"
            manifest = sateen.compile(
                args.model,
                build,
                calibration={name: calibration},
                preset=args.preset,
                weights=weights,
                activations=activations,
            )
            output = manifest["outputs"][0]["name"]
            reference = sateen.run(build, {name: images[: args.accuracy_images]}, "reference")
            found = {
                engine: sateen.run(build, {name: images[:count]}, engine)
                for engine, count in (
                    ("program", args.images),
                    ("model", args.rtl_images),
                    ("rtl", args.rtl_images),
                )
                if count
            }
        expected = reference.outputs[output]
        row: dict[str, Any] = {
            "formats": formats,
            "accuracy": float((expected.argmax(1) == wanted).mean()),
            "reference_s": round(reference.wall_s, 2),
        }
        for engine in sorted({"program", "rtl"} & set(found)):
            pairs = zip(found[engine].outputs[output], expected, strict=False)
            row[f"{engine}_images_equal"] = sum(a.tobytes() == b.tobytes() for a, b in pairs)
        if "rtl" in found:
            row |= {
                "cycles_model": found["model"].cycles_per_sample,
                "cycles_rtl": found["rtl"].cycles_per_sample,
                "utilization": round(found["rtl"].utilization, 4),
                "rtl_s": round(found["rtl"].wall_s, 2),
            }
        rows.append(row)
        print(json.dumps(rows[-1]), flush=True)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
