"""Accuracy of every format of 3 to 8 bits against what a multiply-accumulate costs, and against bytes of weights.

    python benchmarks/format_sweep.py                                     the digits networks, a DS-CNN too
    python benchmarks/format_sweep.py --data FOLDER                       and a vision transformer on CIFAR-10
    python benchmarks/format_sweep.py --data FOLDER --model resnet8.onnx  and ResNet8
                                     [--networks cifar_vit] [--formats int4 e2m1] [--methods fast balanced] [--apart]
                                     [--images N] [--calibration N] [--output DIR]

Weights and activations are of one format; with --apart also each alone, the other int8. Accuracy is that of the
bit-exact integers; of the transformer those are its matrix layers (`cut_network`). LUTs are those of the smallest
unit without DSP, 4 lanes, from `fpga/library/mac_units.json`. Writes DIR/format_sweep.json, .md and .png; rows that
are there are kept, so that an interrupted run goes on where it was.
"""

# extras: benchmark

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

import sateen
from sateen.compiler.ptq import RECIPES, Recipe
from sateen.formats import parse_format
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.library.mac_units import swept_formats
from sateen.models.data import CALIBRATION, digits_split
from sateen.models.images import centred, load
from sateen.reporting.sweeps import front, luts
from sateen.sim import run_reference

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

    network: sateen.Network

    def quantize(
        self, samples: np.ndarray, recipe: Recipe, weights: str, activations: str
    ) -> tuple[Run, int]:
        assert self.network.graph is not None, "sateen check says why"
        port, output = self.network.graph.inputs[0].name, self.network.graph.outputs[0].port.name
        quantized = self.network.quantize(
            weights=weights, activations=activations, calibration={port: samples}, ptq=recipe
        ).graph
        count = sum(c.codes.size for op in quantized.ops for c in op.constants)
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
    network: Network = cut(model) if parts else Whole(sateen.load(model))
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
    return parse_format(name).uniform


Rows = list[dict[str, Any]]


def tables(found: Rows) -> str:
    text = [
        "# Every format of 3 to 8 bits\n",
        "Accuracy in percent of the bit-exact integers, weights and activations of one format; methods are recipes of",
        "`--ptq`. Bold: the best of its width and method. LUTs are per multiply-accumulate, of the smallest unit",
        'without DSP, 4 lanes (`benchmarks/mac_units.py`). "In float32": the same values and scales, computed as fake',
        "quantization is. All rows of a table are of the same images. All recipes but `fast` add weights, for inputs",
        "of several codes and for merged pools (docs/ptq.md). Empty: not measured; fronts are of what was measured.\n",
        "    python benchmarks/format_sweep.py --methods fast balanced best --networks digits_cnn digits_resnet",
        "    python benchmarks/format_sweep.py --methods fast balanced --data FOLDER --model resnet8.onnx "
        "--networks resnet8 [--apart]",
        "    python benchmarks/format_sweep.py --methods fast --data FOLDER --networks cifar_vit --images 1000 "
        "--calibration 128 [--fake]\n",
        "![accuracy against LUTs and bytes](format_sweep.png)\n",
        "## Best integer / best minifloat of each width\n",
        "An asterisk: of those measured, since some formats of the width are not.\n",
        *summary(found),
    ]
    for network in dict.fromkeys(r["network"] for r in found):
        mine = [r for r in found if r["network"] == network]
        seen = {r["weights"] for r in mine if r["weights"] == r["activations"]}
        missing = [f.name for f in swept_formats() if f.name not in seen]
        notes = [CUT[network]] if network in CUT else []
        notes += [f"Not measured: {', '.join(missing)}."] if missing else []
        text += [f"\n## {network}", *([f"\n{' '.join(notes)}"] if notes else [])]
        for rows in by_images(mine):
            text += ["", said(rows[0]) + ".\n", *table(rows)]
            text += [f"\n{line}" for line in fronts(rows)]
    return "\n".join(text) + "\n"


def by_images(found: Rows) -> list[Rows]:
    """Rows that compare: of one network and the same images, the largest first."""
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in found:
        groups.setdefault((row["network"], row["images"], row["samples"]), []).append(row)
    return sorted(groups.values(), key=len, reverse=True)


def together(rows: Rows, method: str | None = None) -> Rows:
    """Those whose weights and activations are of one format, of one method if it is given."""
    return [r for r in rows if r["weights"] == r["activations"] and method in (None, r["method"])]


def methods_of(rows: Rows) -> list[str]:
    """From the cheapest on."""
    return [m for m in RECIPES if together(rows, m)]


def said(row: dict[str, Any]) -> str:
    return (
        f"{number(row['images'])} test images, {row['samples']} training images for calibration; "
        f"float {row['float']:.2f} %"
    )


def number(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def summary(found: Rows) -> Iterator[str]:
    widths = sorted({f.bits for f in swept_formats()})
    yield f"| network | test images | float | method | {' | '.join(f'{w} bits' for w in widths)} |"
    yield f"|---|--:|--:|---|{'--:|' * len(widths)}"
    for rows in by_images(found):
        for method in methods_of(rows):
            first = [rows[0]["network"], number(rows[0]["images"]), f"{rows[0]['float']:.2f}", method]
            cells = [best_pair(together(rows, method), width) for width in widths]
            if any(cells):
                yield f"| {' | '.join(first + cells)} |"


def best_pair(rows: Rows, width: int) -> str:
    """The integer's accuracy and the best minifloat's with its name; empty unless there are both.

    With an asterisk where formats of the width are missing.
    """
    mine = [r for r in rows if parse_format(r["weights"]).bits == width]
    integers = [r["accuracy"] for r in mine if is_integer(r["weights"])]
    others = [r for r in mine if not is_integer(r["weights"])]
    if not integers or not others:
        return ""
    best = max(others, key=lambda r: (r["accuracy"], -luts(r["weights"], "ecp5")))
    mark = "" if len(mine) == sum(f.bits == width for f in swept_formats()) else " *"
    return f"{max(integers):.2f} / {best['accuracy']:.2f} {best['weights']}{mark}"


def table(rows: Rows) -> Iterator[str]:
    methods = methods_of(rows)
    columns: dict[str, dict[str, str]] = {}
    sizes: dict[tuple[tuple[str, int], ...], list[str]] = {}  # terms of the input and merged pools add some
    for method in methods:
        of = tuple(sorted((r["weights"], r["weight_bytes"]) for r in together(rows, method)))
        sizes.setdefault(of, []).append(method)
    for of, same in sizes.items():
        title = "bytes of weights" + (f", {', '.join(same)}" if len(sizes) > 1 else "")
        columns[title] = {f: number(size) for f, size in of}
    for method in methods:
        columns[method] = dict(marked(together(rows, method)))
    for method in dict.fromkeys(r["method"] for r in rows):
        for title, fixed, free in (
            ("weights", "activations", "weights"),
            ("activations", "weights", "activations"),
        ):
            alone = {
                r[free]: f"{r['accuracy']:.2f}"
                for r in rows
                if r["method"] == method and r[fixed] == "int8" and r[free] != "int8"
            }
            if alone:
                columns[f"{method}, {title} alone, the other int8"] = alone
    for method in methods:
        fake = {r["weights"]: f"{r['fake']:.2f}" for r in together(rows, method) if "fake" in r}
        if fake:
            columns[f"{method}, in float32"] = fake
    yield f"| bits | format | LUT | UltraScale+ LUT | {' | '.join(columns)} |"
    yield f"|--:|---|{'--:|' * (len(columns) + 2)}"
    for f in swept_formats():
        cells = [column.get(f.name, "") for column in columns.values()]
        if any(cells):
            costs = [f"{luts(f.name, family):.1f}" for family in ("ecp5", "xcup")]
            yield f"| {' | '.join([str(f.bits), f.name, *costs, *cells])} |"


def marked(rows: Rows) -> Iterator[tuple[str, str]]:
    """Formats and accuracies, the best of each width bold."""
    most: dict[int, float] = {}
    for r in rows:
        bits = parse_format(r["weights"]).bits
        most[bits] = max(most.get(bits, 0.0), r["accuracy"])
    for r in rows:
        text = f"{r['accuracy']:.2f}"
        yield r["weights"], f"**{text}**" if r["accuracy"] == most[parse_format(r["weights"]).bits] else text


def fronts(rows: Rows) -> Iterator[str]:
    for method in methods_of(rows):
        mine = together(rows, method)
        if len(mine) < 4:
            continue  # a few formats are no front
        for title, cost in (
            ("LUTs", [luts(r["weights"], "ecp5") for r in mine]),
            ("bytes", [float(r["weight_bytes"]) for r in mine]),
        ):
            chosen = front([(c, r["accuracy"]) for c, r in zip(cost, mine, strict=True)])
            yield f"Pareto front, `{method}`, against {title}: {', '.join(mine[i]['weights'] for i in chosen)}."


DASHES = dict(zip(RECIPES, (":", "--", "-.", "-"), strict=True))


def plot(found: Rows, path: Path) -> None:
    """A line of charts for each network: the most thorough method's points and fronts, the others' fronts dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    networks = [
        next(g for g in by_images(found) if g[0]["network"] == n)
        for n in dict.fromkeys(r["network"] for r in found)
    ]
    families = list(FAMILIES)
    figure, axes = pyplot.subplots(
        len(networks), len(families) + 1, figsize=(18, 5 * len(networks)), squeeze=False, sharey="row"
    )
    for line, rows in zip(axes, networks, strict=True):
        methods = methods_of(rows)
        points = together(rows, methods[-1])
        for axis, family in zip(line, [*families, ""], strict=True):
            for method in methods:
                for integer in (True, False):
                    _draw(axis, together(rows, method), integer, family, method, last=method == methods[-1])
            axis.axhline(points[0]["float"], color="gray", lw=0.8, ls=":")
            axis.set_xlabel(f"LUT per MAC, {FAMILIES[family].title}" if family else "KiB of weights")
            axis.grid(alpha=0.3)
            axis.margins(x=0.09)
        values = sorted(r["accuracy"] for r in points)
        low, high = values[len(values) // 5], max(values[-1], points[0]["float"])
        margin = max(0.08 * (high - low), 0.1)
        line[0].set_ylim(low - margin, high + 2 * margin)
        line[0].set_ylabel(f"{rows[0]['network']}: accuracy, %, {number(rows[0]['images'])} images")
        line[0].legend(loc="lower right")
    figure.suptitle(
        "Weights and activations of one format; lines: Pareto fronts; dotted: float; the worst points are cut off",
        fontsize=15,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    figure.savefig(path, dpi=72)
    pyplot.close(figure)


def _draw(axis: Any, rows: Rows, integer: bool, family: str, method: str, last: bool) -> None:
    """One kind of format and method: its front, and for the `last` method its points and the front's names."""
    mine = [r for r in rows if is_integer(r["weights"]) == integer]
    if not mine:
        return
    cost = [luts(r["weights"], family) if family else r["weight_bytes"] / 1024 for r in mine]
    values = [r["accuracy"] for r in mine]
    kind, color = ("integer", "C0") if integer else ("minifloat", "C1")
    edge = front(list(zip(cost, values, strict=True)))
    x, y = [cost[i] for i in edge], [values[i] for i in edge]
    style = {"lw": 1.2, "alpha": 0.8} if last else {"lw": 1.4, "alpha": 0.7, "ls": DASHES[method]}
    axis.step(
        [*x, max(cost)],
        [*y, y[-1]],
        where="post",
        c=color,
        label=None if last else f"{kind}, {method}",
        **style,
    )
    if not last:
        return
    axis.plot(cost, values, "s" if integer else "o", c=color, ms=6, alpha=0.8, label=f"{kind}, {method}")
    for i in edge:
        offset = (-4, 5) if integer else (4, -11)  # apart, where an integer and a minifloat meet
        axis.annotate(
            mine[i]["weights"], (cost[i], values[i]), fontsize=9, xytext=offset, color=color,
            textcoords="offset points", ha="right" if integer else "left", clip_on=True,
        )  # fmt: skip


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
