"""`make demo`: the digits CNN at int8 and at e3m2 through all four engines, its cost, and a report.

    .venv/bin/python benchmarks/demo.py [--images N] [--out FOLDER] [--preset NAME] [--device DEV]

Exits with 1 if an engine's outputs differ from the reference, or the predicted cycles from the RTL's.
"""

from __future__ import annotations

import argparse
import sys
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from rich.table import Table

import sateen
from sateen.cli.io import emit, emit_table, guarded, progress
from sateen.cli.run import differences
from sateen.models.data import CALIBRATION, digits_split
from sateen.options import ENGINES

FORMATS = ("int8", "e3m2")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=500, help="test images, at most 500 (default all)")
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--device", default="ecp5")
    args = parser.parse_args()
    return guarded(lambda: demo(args.images, args.out, args.preset, args.device))


def demo(images: int, out: Path, preset: str, device: str) -> int:
    data = digits_split()
    x, labels = data.x_test[:images], data.y_test[:images]
    out.mkdir(parents=True, exist_ok=True)
    results = Table(
        *(
            "formats",
            "engine",
            "samples",
            "accuracy",
            "cycles per sample",
            "utilization",
            "time",
            "against the reference",
        ),
        title=f"digits CNN on '{preset}'",
    )
    costs = Table("formats", "device", "LUT", "FF", "DSP", "block RAM", "source", title="Resources")
    reports, failed = [], False
    with as_file(files("sateen.models") / "digits_cnn.onnx") as model:
        results.add_row("float32", "ONNX Runtime", str(len(x)), percent(float_accuracy(model, x, labels)))
        for name in FORMATS:
            build = out / f"digits_cnn_{name}"
            failed |= engines(model, build, name, preset, x, labels, data.x_train[:CALIBRATION], results)
            with progress(f"{name}: cost") as report:
                found = sateen.cost(build, device, progress=report)["devices"][device]
            total = found["total"]
            counts = (f"{total[k]:,}" for k in ("lut", "ff", "dsp", "bram"))
            costs.add_row(name, found["title"], *counts, f"{found['source']}, {found['tool']}")
            reports.append(sateen.report(build))
    emit_table(results)
    emit_table(costs)
    for path in reports:
        emit(f"report: {path}")
    return 1 if failed else 0


def engines(
    model: Path,
    build: Path,
    name: str,
    preset: str,
    x: np.ndarray,
    labels: np.ndarray,
    samples: np.ndarray,
    table: Table,
) -> bool:
    """Compile and run with every engine; True if outputs or cycles differ."""
    with progress(f"{name}: compile") as report:
        manifest = sateen.compile(
            model,
            build,
            preset=preset,
            weights=name,
            activations=name,
            calibration={"input": samples},
            progress=report,
        )
    port = manifest["outputs"][0]["name"]
    found = {}
    for engine in ENGINES:
        with progress(f"{name}: {engine}") as report:
            found[engine] = sateen.run(build, {"input": x}, engine, progress=report)
    expected = found["reference"].outputs
    missed = found["model"].cycles != found["rtl"].cycles
    wrong = missed
    for engine, r in found.items():
        verdict = ""
        if r.outputs is not None and engine != "reference":
            different = sum(differences(expected, r.outputs).values())
            wrong |= different > 0
            verdict = f"{different} outputs differ" if different else "outputs equal"
        if engine == "rtl":
            verdict += ", cycles differ from the prediction" if missed else ", cycles as predicted"
        table.add_row(
            name,
            engine,
            str(r.batch),
            "" if r.outputs is None else percent((r.outputs[port].argmax(1) == labels).mean()),
            "" if r.cycles_per_sample is None else f"{r.cycles_per_sample:,}",
            "" if r.utilization is None else percent(r.utilization),
            f"{r.wall_s:.2f} s",
            verdict,
        )
    return wrong


def float_accuracy(model: Path, x: np.ndarray, labels: np.ndarray) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = np.concatenate(
        [session.run(None, {"input": sample[None]})[0] for sample in x]
    )  # batch 1, as exported
    return float((logits.argmax(1) == labels).mean())


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
