"""Transformers and their kin whole on 256 multipliers: cycles by the exact model, RTL, and accuracy.

    python benchmarks/transformers.py                                    cycles of all, by the model
    python benchmarks/transformers.py --only deit_tiny --rtl             and in RTL, against the reference
    python benchmarks/transformers.py --only deit_tiny --layers          what each layer takes
    python benchmarks/transformers.py --file vit.onnx                    a file with one input of zero mean
    python benchmarks/transformers.py --accuracy --data FOLDER           of the vision transformer on CIFAR-10
    python benchmarks/transformers.py --accuracy --data FOLDER --formats int4/int8     weights and activations

Weights are random, but for accuracy: the point is cycles and bits. Utilization is all multiplications of the network
over cycles times multipliers. FOLDER has cifar10_train.zip and cifar10_test.zip (`sateen.models.images`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from cifar10 import accuracy

import sateen
from sateen.compiler.ptq import RECIPES
from sateen.models import transformers
from sateen.models.images import centred, load
from sateen.sim import run_reference

NETWORKS = {
    f.__name__: f
    for f in (
        transformers.deit_tiny,
        transformers.swin_block,
        transformers.convnext_block,
        transformers.mixer_block,
    )
}
MACHINE = sateen.preset("mac256").replace(
    vector_lanes=16, bus_bits=256, transpose_words=2, depthwise=True, act_bank_depth=1 << 15
)
"""8 rows of two lanes, 16 columns, 2 MiB of activations; what else a network needs is added to it (`specialize`)."""
FORMATS = ("int8", "e4m3", "int4/int8", "int4", "e2m1")


def measure(name: str, path: Path, layers: bool, rtl: bool) -> None:
    network = sateen.load(path)
    if network.graph is None:
        found = next(f for f in network.findings if f.supported is False)
        print(f"| {name} | refused: {found.op_type}: {found.reason} | | | | | |", flush=True)
        return
    rng = np.random.default_rng(0)
    samples = {p.name: rng.normal(0, 1, (2, *p.shape)).astype(np.float32) for p in network.graph.inputs}
    mapped = network.quantize(calibration=samples).map(MACHINE)
    rows, cycles = mapped.layers, mapped.cycles
    macs = sum(row["macs"] for row in rows)
    found = "not run"
    if rtl:
        found = _rtl(mapped, {k: v[:1] for k, v in samples.items()})
    at_work, alone = share(mapped.schedule["timeline"], cycles)
    print(
        f"| {name} | {macs / 1e6:,.1f} M | {cycles:,} | {macs / (cycles * MACHINE.multipliers):.1%} | "
        f"{at_work:.1%} | {alone:.1%} | {found} |",
        flush=True,
    )
    if layers:
        for row in rows:
            print(
                f"| . {row['name']} | {row['kind']} | {row['cycles']:,} | {row['start']:,} to {row['end']:,} | | | |"
            )


def share(timeline: list[dict[str, Any]], cycles: int) -> tuple[float, float]:
    """Of the time, in which a row is being computed; and in which meanwhile the array has nothing to do."""
    rows, array = np.zeros(cycles + 1, bool), np.zeros(cycles + 1, bool)
    for event in timeline:
        if event["opcode"] == "ROW":
            rows[event["start"] : event["done"] + 1] = True
        elif event["engine"] == "matrix":
            array[event["start"] : event["done"] + 1] = True
    return float(rows.mean()), float((rows & ~array).mean())


def _rtl(mapped: sateen.MappedNetwork, inputs: dict[str, np.ndarray]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        build = mapped.write(Path(folder) / "build")
        wanted, found = build.run(inputs, "reference"), build.run(inputs, "rtl")
    assert wanted.outputs is not None and found.outputs is not None
    same = all(v.tobytes() == found.outputs[k].tobytes() for k, v in wanted.outputs.items())
    bits = "all bits equal" if same else "bits DIFFER"
    return f"{bits}, cycles {'equal' if found.cycles == mapped.cycles else f'{found.cycles:,}'}"


def measure_accuracy(
    data: Path, methods: list[str], formats: list[str], images: int, calibration: int
) -> None:
    samples, _ = load(data / "cifar10_train.zip", calibration)
    tested, labels = load(data / "cifar10_test.zip", images)
    samples, tested = centred(samples), centred(tested)
    with as_file(files("sateen.models") / "cifar_vit.onnx") as model:
        session = onnxruntime.InferenceSession(model)
        network = sateen.load(model)
        port = session.get_inputs()[0].name
        logits = np.concatenate([session.run(None, {port: x[None]})[0] for x in tested])
        print(f"| | float | {accuracy(logits, labels):.2f} |", flush=True)
        assert network.graph is not None, "sateen check says why"
        name, output = network.graph.inputs[0].name, network.graph.outputs[0].port.name
        for method in methods:
            for fmt in formats:
                began = time.perf_counter()
                weights, _, activations = fmt.partition("/")
                quantized = network.quantize(
                    weights=weights,
                    activations=activations or weights,
                    calibration={name: samples},
                    ptq=RECIPES[method],
                ).graph
                found = run_reference(quantized, {name: tested})[output]
                print(f"| {method} | {fmt} | {accuracy(found, labels):.2f} |", flush=True)
                print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=[], metavar="NAME")
    parser.add_argument("--file", type=Path, nargs="+", default=[])
    parser.add_argument("--layers", action="store_true", help="a line for each layer, too")
    parser.add_argument("--rtl", action="store_true", help="run in RTL, too, against the reference")
    parser.add_argument("--accuracy", action="store_true", help="measure the accuracy of cifar_vit instead")
    parser.add_argument("--data", type=Path, help="with --accuracy")
    parser.add_argument("--methods", nargs="+", choices=RECIPES, default=["fast", "balanced"])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=128)
    options = parser.parse_args()
    if options.accuracy:
        if options.data is None:
            parser.error("--accuracy needs --data")
        measure_accuracy(options.data, options.methods, options.formats, options.images, options.calibration)
        return 0
    print("| network | multiplications | cycles | busy | rows | rows alone | in RTL |")
    print("|---|--:|--:|--:|--:|--:|---|")
    with tempfile.TemporaryDirectory() as folder:
        paths = {file.stem: file for file in options.file}
        for name in options.only or ([] if options.file else NETWORKS):
            paths[name] = Path(folder) / f"{name}.onnx"
            onnx.save(NETWORKS[name](0), paths[name])
        for name, path in paths.items():
            measure(name, path, options.layers, options.rtl)
    return 0


if __name__ == "__main__":
    sys.exit(main())
