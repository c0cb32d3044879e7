"""Accuracy of N:M sparse networks: every pattern, by six methods, in four formats, on the bit-exact reference.

    python benchmarks/sparse_accuracy.py                                          (the two digits networks)
    python benchmarks/sparse_accuracy.py --model resnet8.onnx --data FOLDER       (cifar10_train.zip, cifar10_test.zip)

Writes docs/results/sparse_accuracy.json, .md and .png; a run replaces its own rows there and keeps the others.
Needs the `train` extra, matplotlib, and Pillow for CIFAR-10.
"""

# extras: train, benchmark

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sateen.compiler import float_outputs, run_float
from sateen.compiler.importer import import_model
from sateen.compiler.prune import METHODS, sparsify
from sateen.compiler.quantize import calibrate, quantize
from sateen.formats import PATTERNS, SparsityPattern
from sateen.formats.sparsity import DENSE
from sateen.ir.graph import Graph
from sateen.models import cifar, digits
from sateen.models.data import CALIBRATION, digits_split
from sateen.models.graph_net import GraphNet
from sateen.models.images import load as load_images
from sateen.models.sparse import Augment, fine_tune, harden, make_sparse
from sateen.sim import run_reference

ROOT = Path(__file__).parent.parent
FORMATS = ("int8", "int4", "e3m2", "e2m1")
FINE_TUNED = "fine-tuned"
TRAINED = {FINE_TUNED: "sr-ste", "PDP": "pdp", "BDWP": "bdwp"}
"""Methods that train, by the name of their rows."""
BATCH = 100
LABELS = {"wanda": "Wanda", "sparsegpt": "SparseGPT"}


@dataclass(frozen=True)
class Network:
    """A trained network with its data; images (N, *ONNX shape) float32."""

    name: str
    graph: Graph
    calibration: np.ndarray
    test: tuple[np.ndarray, np.ndarray]
    train: tuple[np.ndarray, np.ndarray]
    augment: Augment
    view: nn.Module  # images as stored for training, to what the network reads
    scale: float  # of an input that trains well
    epochs: int
    rate: float


class Pixels(nn.Module):
    """(N, 3, H, W) 0 to 1, to (N, H, W, 3) 0 to 255."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 255 * x.permute(0, 2, 3, 1)


def networks(args: argparse.Namespace) -> Iterator[Network]:
    if args.data is None:
        data = digits_split()
        for name in args.networks:
            graph = import_model(ROOT / "models" / f"{name}.onnx")
            yield Network(
                name, graph, data.x_train[:CALIBRATION], (data.x_test, data.y_test), (data.x_train, data.y_train),
                digits.augment, nn.Identity(), 1.0, args.epochs or 15, args.rate or 0.1,
            )  # fmt: skip
        return
    train = load_images(args.data / "cifar10_train.zip", args.train_images)
    images, labels = load_images(args.data / "cifar10_test.zip", args.images)
    hwc = [x.transpose(0, 2, 3, 1).astype(np.float32) for x in (train[0][:CALIBRATION], images)]
    yield Network(
        "resnet8_cifar10", import_model(args.model), hwc[0], (hwc[1], labels), train,
        cifar.augment, Pixels(), 255.0, args.epochs or 4, args.rate or 0.05,
    )  # fmt: skip


def fine_tuned(network: Network, pattern: SparsityPattern, method: str) -> Graph:
    """From the dense weights, and normalization folded again; layers as `sparsify` chooses them."""
    torch.manual_seed(0)
    _, report = sparsify(network.graph, pattern)
    net = GraphNet(network.graph, network.scale)
    net.normalize(torch.from_numpy(network.calibration))
    names = net.names()
    if not pattern.dense:
        make_sparse(net, pattern, method, keep_dense={names[e.name] for e in report if e.pattern.dense})
    x, y = (torch.from_numpy(v) for v in network.train)
    fine_tune(
        nn.Sequential(network.view, net),
        x,
        y,
        epochs=network.epochs,
        rate=network.rate,
        augment=network.augment,
    )
    harden(net)
    return net.to_graph({e.name: e.pattern for e in report})


def accuracy(network: Network, logits: list[np.ndarray]) -> float:
    guess = np.concatenate(logits).reshape(len(network.test[1]), -1).argmax(1)
    return round(float((guess == network.test[1]).mean()), 4)


def measure(network: Network, graph: Graph, formats: list[str]) -> dict[str, float]:
    """Accuracy of the float network, and of the quantized one for each format of weights and activations."""
    (port,), (output,) = graph.inputs, graph.outputs
    images = network.test[0]
    parts = [{port.name: images[i : i + BATCH]} for i in range(0, len(images), BATCH)]
    found = {
        "float": accuracy(
            network, [float_outputs(graph, run_float(graph, p))[output.port.name] for p in parts]
        )
    }
    statistics = calibrate(graph, {port.name: network.calibration})
    for fmt in formats:
        quantized = quantize(graph, statistics, weight_format=fmt, activation_format=fmt)
        found[fmt] = accuracy(network, [run_reference(quantized, {port.name: images})[output.port.name]])
    return found


def rows(network: Network, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    calibration = {network.graph.inputs[0].name: network.calibration}
    patterns = [DENSE] + [PATTERNS[p] for p in args.patterns]
    for pattern in patterns:
        for method in ["as given"] if pattern.dense else METHODS:
            if method in args.methods:
                graph = network.graph
                if not pattern.dense:
                    graph, _ = sparsify(graph, pattern, method=method, samples=calibration)
                yield {"pattern": pattern.name, "method": method} | measure(network, graph, args.formats)
        for name in [FINE_TUNED] if pattern.dense else TRAINED:
            if name in args.methods and network.epochs > 0:
                graph = fine_tuned(network, pattern, TRAINED[name])
                yield {"pattern": pattern.name, "method": name} | measure(network, graph, args.formats)


# -- results -----------------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """Markdown: a table for each network."""
    lines = [
        "# Accuracy of N:M sparse networks",
        "",
        "Test accuracy in percent. The formats are measured with the bit-exact reference engine, weights and",
        "activations both in the format, in all layers; *float* is the same pruned network in floating point.",
        "The first and the last layer are dense. Magnitude, Wanda and SparseGPT are one-shot; *fine-tuned* is",
        "SR-STE from the dense weights, quantized after training without further tuning, PDP and BDWP the same",
        "training with their masks; *dense, fine-tuned* is that without a pattern.",
        "",
        "Command: `python benchmarks/sparse_accuracy.py`, for ResNet8 with `--model` and `--data`.",
    ]
    for name, entry in results.items():
        columns = ["float", *entry["formats"]]
        lines += [
            "",
            f"## {name}",
            "",
            f"{entry['test_images']} test images, {entry['calibration_images']} to calibrate; fine-tuning: "
            f"{entry['epochs']} epochs of {entry['train_images']} images, rate {entry['rate']}."
            + (" Images are JPEG files, in training and test." if "cifar" in name else ""),
            "",
            f"| pattern | method | {' | '.join(columns)} |",
            "|---|---|" + "--:|" * len(columns),
        ]
        for row in entry["rows"]:
            values = " | ".join(f"{100 * row[c]:.1f}" for c in columns)
            lines.append(f"| {row['pattern']} | {LABELS.get(row['method'], row['method'])} | {values} |")
    return "\n".join([*lines, "", "![accuracy by pattern](sparse_accuracy.png)", ""])


def plot(results: dict[str, Any], path: Path) -> None:
    """A row of panels for each network, a panel for each format: accuracy by pattern, a line for each method.

    Dotted lines part patterns of different density.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    order = sorted(PATTERNS.values(), key=lambda p: (-p.density, p.m))
    styles = {
        "magnitude": ("#8c8c8c", "o"), "wanda": ("#e69f00", "s"), "sparsegpt": ("#0072b2", "^"),
        FINE_TUNED: ("#009e73", "D"), "PDP": ("#cc79a7", "v"), "BDWP": ("#d55e00", "P"),
    }  # fmt: skip
    width = max(len(e["formats"]) for e in results.values())
    figure, axes = pyplot.subplots(
        len(results), width, figsize=(3.1 * width, 2.5 * len(results) + 0.6), squeeze=False, sharey="row"
    )  # fmt: skip
    for (name, entry), line in zip(results.items(), axes, strict=True):
        for fmt, panel in zip(entry["formats"], line, strict=False):
            cell = {(r["pattern"], r["method"]): 100 * r[fmt] for r in entry["rows"]}
            shown = [p.name for p in order if any(key[0] == p.name for key in cell) and not p.dense]
            panel.axhline(cell["dense", "as given"], color="black", lw=1, ls="--", label="dense, as given")
            if ("dense", FINE_TUNED) in cell:
                panel.axhline(
                    cell["dense", FINE_TUNED], color="#009e73", lw=1, ls="--", label="dense, fine-tuned"
                )
            for method, (color, marker) in styles.items():
                points = [(i, cell[p, method]) for i, p in enumerate(shown) if (p, method) in cell]
                if points:
                    panel.plot(*zip(*points, strict=True), color=color, marker=marker, ms=4, lw=1.2,
                               label=LABELS.get(method, method))  # fmt: skip
            panel.set_xticks(range(len(shown)), shown, fontsize=8)
            for i in range(1, len(shown)):
                if PATTERNS[shown[i]].density != PATTERNS[shown[i - 1]].density:
                    panel.axvline(i - 0.5, color="#bbbbbb", lw=0.6, ls=":")
            panel.set_title(f"{name}, {fmt}", fontsize=9)
            panel.grid(axis="y", color="#dddddd", lw=0.6)
            panel.set_axisbelow(True)
        line[0].set_ylabel("test accuracy, %")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.35 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks", nargs="*", default=["digits_cnn", "digits_resnet"], choices=[*digits.MODELS]
    )
    parser.add_argument("--model", type=Path, help="ResNet8 for CIFAR-10, ONNX, NHWC, 0 to 255")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10's zip files")
    parser.add_argument("--images", type=int, default=1000, help="of CIFAR-10's test set")
    parser.add_argument("--train-images", type=int, default=10_000, help="of CIFAR-10's training set")
    parser.add_argument("--epochs", type=int, help="of fine-tuning (15, CIFAR-10: 4); -1 leaves it out")
    parser.add_argument("--rate", type=float, help="of fine-tuning (0.1, CIFAR-10: 0.05)")
    parser.add_argument("--patterns", nargs="*", default=[p for p in PATTERNS if p != DENSE.name])
    parser.add_argument("--formats", nargs="*", default=list(FORMATS))
    parser.add_argument(
        "--methods",
        nargs="*",
        default=["as given", *METHODS, *TRAINED],
        choices=["as given", *METHODS, *TRAINED],
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    args = parser.parse_args()
    if (args.model is None) != (args.data is None):
        parser.error("--model and --data go together")
    torch.set_num_threads(1)  # the order of float additions must not depend on the machine
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "sparse_accuracy.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    order = list(
        product([DENSE.name, *(p for p in PATTERNS if p != DENSE.name)], ["as given", *METHODS, *TRAINED])
    )
    for network in networks(args):
        start = time.perf_counter()
        before = results.get(network.name, {}).get("rows", [])
        entry = results[network.name] = {
            "test_images": len(network.test[1]), "calibration_images": len(network.calibration),
            "train_images": len(network.train[1]), "epochs": max(network.epochs, 0), "rate": network.rate,
            "formats": args.formats, "rows": list(before),
        }  # fmt: skip
        for row in rows(network, args):
            kept = [
                r for r in entry["rows"] if (r["pattern"], r["method"]) != (row["pattern"], row["method"])
            ]
            entry["rows"] = sorted([*kept, row], key=lambda r: order.index((r["pattern"], r["method"])))
            print(f"{time.perf_counter() - start:6.0f} s  {network.name}  {json.dumps(row)}", flush=True)
        results = dict(sorted(results.items()))
        path.write_text(json.dumps(results, indent=1) + "\n")
        (args.out / "sparse_accuracy.md").write_text(table(results))
        plot(results, args.out / "sparse_accuracy.png")


if __name__ == "__main__":
    main()
