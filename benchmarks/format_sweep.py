"""Accuracy of every format of 3 to 8 bits against what a multiply-accumulate costs, and against bytes of weights.

    python benchmarks/format_sweep.py                                     the digits networks, a DS-CNN too
    python benchmarks/format_sweep.py --data FOLDER                       and a vision transformer on CIFAR-10
    python benchmarks/format_sweep.py --data FOLDER --model resnet8.onnx  and ResNet8
                                     [--networks cifar_vit] [--formats int4 e2m1] [--methods fast balanced] [--apart]
                                     [--images N] [--calibration N] [--output DIR]

Weights and activations are of one format; with --apart also each alone, the other int8. Accuracy is that of the
bit-exact integers; of the transformer those are its matrix layers (`cut_network`). LUTs are those of the smallest unit
without DSP, 4 lanes, from `fpga/mac_units.json`. Writes DIR/format_sweep.json, .md and .png; rows that are there are
kept, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from cifar10 import accuracy, cifar10
from cut_network import CutNetwork, Engine, cut
from fake_quantization import run_fake
from rich.progress import Progress

from sateen.compiler.importer import import_model
from sateen.compiler.ptq.recipe import RECIPES, Recipe, run_recipe
from sateen.formats import Integer, parse_format
from sateen.fpga.devices import FAMILIES
from sateen.fpga.mac_units import swept_formats
from sateen.ir.graph import Graph
from sateen.ir.quantized import Linear
from sateen.models.data import CALIBRATION, digits_split
from sateen.models.images import centred, load
from sateen.sim.reference import run_reference
from sateen.sweeps import front, luts

RESULTS = Path(__file__).resolve().parents[1] / "docs/results"
DIGITS = ("digits_cnn", "digits_resnet", "digits_dscnn")
CIFAR = ("cifar_vit",)
"""Trained by `python -m sateen.models.cifar`."""
CUT = {
    "cifar_vit": "Matrix layers, with Gelu and Relu between them, are the bit-exact integers; layer normalization, "
    "softmax, the products and additions of computed tensors are float32."
}
"""Networks that run in parts, and what is said of them."""


Run = Callable[[np.ndarray, Engine], np.ndarray]


class Network(Protocol):
    """What can be quantized: gives a function from images and an engine to logits, and how many weights there are."""

    def quantize(
        self, samples: np.ndarray, recipe: Recipe, weights: str, activations: str
    ) -> tuple[Run, int]: ...


@dataclass(frozen=True)
class Whole:
    """A network that the machine runs from input to output."""

    graph: Graph

    def quantize(
        self, samples: np.ndarray, recipe: Recipe, weights: str, activations: str
    ) -> tuple[Run, int]:
        port, output = self.graph.inputs[0].name, self.graph.outputs[0].port.name
        quantized, _ = run_recipe(
            self.graph, {port: samples}, recipe, weight_format=weights, activation_format=activations
        )
        count = sum(op.weight.size for op in quantized.ops if isinstance(op, Linear))
        return lambda images, engine: engine(quantized, {port: images})[output], count


@dataclass(frozen=True)
class Task:
    """A network, what it is calibrated and what it is tested with, batch first, as it takes them."""

    name: str
    network: Network
    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    float_accuracy: float

    @property
    def key(self) -> dict[str, Any]:
        return {"network": self.name, "images": len(self.images), "samples": len(self.calibration)}

    def measure(self, method: str, weights: str, activations: str, fake: bool) -> dict[str, Any]:
        began = time.perf_counter()
        run, count = self.network.quantize(self.calibration, RECIPES[method], weights, activations)
        middle = time.perf_counter()
        found = run(self.images, run_reference)
        row = self.key | {
            "method": method,
            "weights": weights,
            "activations": activations,
            "accuracy": accuracy(found, self.labels),
            "float": self.float_accuracy,
            "weight_bytes": count * parse_format(weights).bits // 8,
            "quantize_s": round(middle - began, 1),
            "reference_s": round(time.perf_counter() - middle, 1),
        }
        return row | ({"fake": accuracy(run(self.images, run_fake), self.labels)} if fake else {})


def task(
    name: str,
    model: Path,
    calibration: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    parts: bool = False,
) -> Task:
    network: Network = cut(model) if parts else Whole(import_model(model))
    session = onnxruntime.InferenceSession(model)
    port = session.get_inputs()[0].name
    logits = np.concatenate([session.run(None, {port: x[None]})[0] for x in images])
    if isinstance(network, CutNetwork):
        found = network.run(images)[network.output]
        assert np.allclose(found, logits, atol=1e-3), f"{name} in parts is not the network"
    return Task(name, network, calibration, images, labels, accuracy(logits, labels))


def tasks(args: argparse.Namespace) -> Iterator[Task]:
    """Those of `--networks` for which there is data."""

    def wanted(name: str) -> bool:
        return args.networks is None or name in args.networks

    for name in filter(wanted, DIGITS):
        data = digits_split()
        with as_file(files("sateen.models") / f"{name}.onnx") as model:
            yield task(name, model, data.x_train[:CALIBRATION], data.x_test, data.y_test)
    for name in filter(wanted, CIFAR if args.data else ()):
        samples, _ = load(args.data / "cifar10_train.zip", args.calibration)
        images, labels = load(args.data / "cifar10_test.zip", args.images)
        with as_file(files("sateen.models") / f"{name}.onnx") as model:
            yield task(name, model, centred(samples), centred(images), labels, parts=name in CUT)
    if args.model is not None and wanted("resnet8"):
        yield task("resnet8", args.model, *cifar10(args.data, args.calibration, args.images))


def pairs(formats: Iterable[str], apart: bool) -> list[tuple[str, str]]:
    together = [(f, f) for f in formats]
    return together + (
        [p for f in formats if f != "int8" for p in ((f, "int8"), ("int8", f))] if apart else []
    )


# -- what it shows -------------------------------------------------------------------------------------------


def is_integer(name: str) -> bool:
    return isinstance(parse_format(name), Integer)


def tables(found: list[dict[str, Any]]) -> str:
    text = [
        "# Every format of 3 to 8 bits\n",
        "Accuracy in percent of the bit-exact integers, weights and activations of one format. Bold: the best of",
        "its width and method. LUTs are per multiply-accumulate, of the smallest unit without DSP, 4 lanes",
        '(`benchmarks/mac_units.py`). "In float32": the same values and scales, computed as fake quantization is.\n',
        "    python benchmarks/format_sweep.py --methods fast",
        "    python benchmarks/format_sweep.py --methods fast --data FOLDER --model resnet8.onnx --networks resnet8",
        "    python benchmarks/format_sweep.py --methods fast --data FOLDER --networks cifar_vit --images 1000 "
        "--calibration 128 [--fake]\n",
        "![accuracy against LUTs and bytes](format_sweep.png)",
    ]
    networks = dict.fromkeys(r["network"] for r in found)
    for network in networks:
        mine = [r for r in found if r["network"] == network]
        same = [r for r in mine if r["weights"] == r["activations"]]
        methods = list(dict.fromkeys(r["method"] for r in same))
        value = {(r["method"], r["weights"]): r["accuracy"] for r in same}
        most = {
            (m, bits): max(v for (n, f), v in value.items() if n == m and parse_format(f).bits == bits)
            for m, bits in {(m, parse_format(f).bits) for m, f in value}
        }
        first = mine[0]
        text += [
            f"\n## {network}\n",
            f"Float {first['float']:.2f} %; {first['images']} test images, {first['samples']} training images for "
            f"calibration.{absent(value)}{' ' + CUT[network] if network in CUT else ''}\n",
        ]
        alone = [(m, side) for m in methods for side in ("W", "A") if any(_apart(r, m, side) for r in mine)]
        header = ["bits", "format", "LUT", "UltraScale+ LUT", "bytes of weights", *methods]
        header += [f"{m}, {side} alone, the other int8" for m, side in alone]
        faked = [m for m in methods if any("fake" in r for r in same if r["method"] == m)]
        header += [f"{m}, in float32" for m in faked]
        text += [f"| {' | '.join(header)} |", "|--:|---|" + "--:|" * (len(header) - 2)]
        for f in swept_formats():
            if not any(f.name == name for _, name in value):
                continue
            cells = [str(f.bits), f.name, f"{luts(f.name, 'ecp5'):.1f}", f"{luts(f.name, 'xcup'):.1f}"]
            cells.append(
                f"{next(r['weight_bytes'] for r in same if r['weights'] == f.name):,}".replace(",", " ")
            )
            for m in methods:
                a = value.get((m, f.name))
                cells.append("" if a is None else f"**{a:.2f}**" if a == most[m, f.bits] else f"{a:.2f}")
            for m, side in alone:
                a = [
                    r["accuracy"]
                    for r in mine
                    if _apart(r, m, side) and f.name in (r["weights"], r["activations"])
                ]
                cells.append(f"{a[0]:.2f}" if a else "")
            for m in faked:
                a = [r["fake"] for r in same if (r["method"], r["weights"]) == (m, f.name) and "fake" in r]
                cells.append(f"{a[0]:.2f}" if a else "")
            text.append(f"| {' | '.join(cells)} |")
        for m in methods:
            names = [f for n, f in value if n == m]
            for title, cost in (
                ("LUTs", [luts(f, "ecp5") for f in names]),
                ("bytes", [float(parse_format(f).bits) for f in names]),
            ):
                chosen = front([(c, value[m, f]) for c, f in zip(cost, names, strict=True)])
                text.append(f"\nPareto front, `{m}`, against {title}: {', '.join(names[i] for i in chosen)}.")
    return "\n".join(text) + "\n"


def absent(value: dict[tuple[str, str], float]) -> str:
    missing = [f.name for f in swept_formats() if not any(f.name == name for _, name in value)]
    return f" Not measured: {', '.join(missing)}." if missing else ""


def _apart(row: dict[str, Any], method: str, side: str) -> bool:
    fixed, free = ("activations", "weights") if side == "W" else ("weights", "activations")
    return row["method"] == method and row[fixed] == "int8" and row[free] != "int8"


def plot(found: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    same = [r for r in found if r["weights"] == r["activations"]]
    networks = list(dict.fromkeys(r["network"] for r in same))
    families = list(FAMILIES)
    figure, axes = pyplot.subplots(
        len(networks), len(families) + 1, figsize=(18, 5 * len(networks)), squeeze=False, sharey="row"
    )
    for line, network in zip(axes, networks, strict=True):
        mine = [r for r in same if r["network"] == network]
        methods = list(dict.fromkeys(r["method"] for r in mine))
        method = methods[-1]
        points = [r for r in mine if r["method"] == method]
        for axis, family in zip(line, [*families, ""], strict=True):
            cost = [luts(r["weights"], family) if family else r["weight_bytes"] / 1024 for r in points]
            for integer, marker, color in ((True, "s", "C0"), (False, "o", "C1")):
                mask = [is_integer(r["weights"]) == integer for r in points]
                chosen = [
                    (c, r["accuracy"], r["weights"])
                    for c, r, ok in zip(cost, points, mask, strict=True)
                    if ok
                ]
                if not chosen:
                    continue
                axis.plot([c for c, _, _ in chosen], [a for _, a, _ in chosen], marker, c=color, ms=6, alpha=0.8,
                          label="integer" if integer else "minifloat")  # fmt: skip
                edge = [chosen[i] for i in front([(c, a) for c, a, _ in chosen])]
                axis.step(
                    [c for c, _, _ in edge], [a for _, a, _ in edge], where="post", c=color, lw=1, alpha=0.6
                )
                for c, a, name in edge:
                    axis.annotate(name, (c, a), fontsize=8, xytext=(3, 3), textcoords="offset points")
            axis.axhline(points[0]["float"], color="gray", lw=0.8, ls=":")
            axis.set_xlabel(f"LUT per MAC, {FAMILIES[family].title}" if family else "KiB of weights")
            axis.grid(alpha=0.3)
        low = sorted(r["accuracy"] for r in points)[len(points) // 4]
        line[0].set_ylim(bottom=max(0, low - 5))
        line[0].set_ylabel(f"{network}: accuracy, % ({method})")
        line[0].legend()
    figure.suptitle(
        "Weights and activations of one format; lines: Pareto fronts; dotted: float; worst points cut off"
    )
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    figure.savefig(path, dpi=60)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--networks", nargs="*", choices=[*DIGITS, *CIFAR, "resnet8"])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--calibration", type=int, default=256, help="training images")
    parser.add_argument("--formats", nargs="*", default=[f.name for f in swept_formats()])
    parser.add_argument("--methods", nargs="*", choices=RECIPES, default=["fast", "balanced"])
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--fake", action="store_true", help="in float32 too, as training frameworks compute")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.model is not None and args.data is None:
        parser.error("--model needs --data")
    if args.data is None and set(args.networks or ()) & {*CIFAR}:
        parser.error(f"--networks {' '.join(CIFAR)} needs --data")
    path = args.output / "format_sweep.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    work = [(m, w, a) for m in args.methods for w, a in pairs(args.formats, args.apart)]
    for t in tasks(args):
        with Progress(transient=True) as bar:
            for method, weights, activations in bar.track(work, description=t.name):
                key = t.key | {"method": method, "weights": weights, "activations": activations}
                old = next((r for r in found if key.items() <= r.items()), None)
                if old is not None and ("fake" in old or not args.fake):
                    continue
                found = [r for r in found if r is not old]
                found.append(t.measure(method, weights, activations, args.fake))
                path.write_text("[\n" + ",\n".join(f" {json.dumps(r)}" for r in found) + "\n]\n")
    path.with_suffix(".md").write_text(tables(found))
    plot(found, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
