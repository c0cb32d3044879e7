"""Post-training quantization of ResNet8 on CIFAR-10: accuracy of the bit-exact integers by format and by method.

python benchmarks/ptq.py --model resnet8.onnx --data FOLDER [--output F.json]   (cifar10_train.zip, cifar10_test.zip)
python benchmarks/ptq.py --model resnet8.onnx --cycles                          what input terms and merged pools cost

With --output the rows that are there already are kept, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from cifar10 import accuracy, cifar10
from rich.progress import Progress

import sateen
from sateen.compiler.ptq import RECIPES, Equalize, Gptq, MergePool, Recipe, Smooth

FORMATS = ("int8", "e4m3", "int6", "e3m2", "e2m3", "int4", "e2m1")
CYCLES = (("mac256", "e3m2"), ("mac256", "int4"), ("sat256", "e3m2"), ("tiny", "int4"))

ABOUT = """Columns are the formats of weights and activations. Some
rows are ways to find scales alone, bias correction included; "input terms" gives inputs of few bits as several codes,
and so do all rows that have another method; `balanced`, `best` and `learned` are recipes of `--ptq`, and `fast` is
"mse"; with "pools apart" the average pool's output is codes (docs/adr/0024-merged-pools.md). "samples" are training
images for calibration (`--calibration`). Fewer test images than 10 000 are a seeded choice of them. Empty: not
measured."""


def apart(name: str) -> Recipe:
    """A recipe without merged pools."""
    passes = tuple(p for p in RECIPES[name].passes if not isinstance(p, MergePool))
    return replace(RECIPES[name], name=f"{name}, pools apart", passes=passes)


METHODS = {
    r.name: r
    for r in (
        Recipe("minmax", scales="minmax", input_terms=1),
        Recipe("percentile", scales="percentile", input_terms=1),
        Recipe("entropy", scales="entropy", input_terms=1),
        Recipe("mse", input_terms=1),
        Recipe("mse, power of two", input_terms=1, power_of_two=True),
        Recipe("mse, input terms", input_terms=0),
        Recipe("equalize", (Equalize(),), input_terms=0),
        Recipe("smooth", (Smooth(),), input_terms=0),
        Recipe("gptq", (Gptq(refit=False, sweeps=0),), input_terms=0),
        Recipe("gptq, sweeps", (Gptq(refit=False),), input_terms=0),
        Recipe("equalize, balanced", (Equalize(), Gptq()), input_terms=0),
        Recipe("smooth, balanced", (Smooth(), Gptq()), input_terms=0),
        *(apart(name) for name in ("balanced", "best", "learned")),
    )
} | {name: r for name, r in RECIPES.items() if name != "fast"}
"""Scales alone, then each method beside the best scales, then together; from "mse, input terms" on with input terms,
and only the recipes by their own names with merged pools."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=10_000, help="test images; all are 10 000")
    parser.add_argument("--calibration", type=int, default=256, help="training images")
    parser.add_argument(
        "--held-out", action="store_true", help="training images instead of test images, to choose options by"
    )
    parser.add_argument(
        "--formats", nargs="*", default=[f"{f}/{f}" for f in FORMATS], help="weights/activations"
    )
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--apart", action="store_true", help="weights alone and activations alone too, the other int8"
    )
    parser.add_argument("--output", type=Path, help="JSON, and a Markdown table beside it")
    parser.add_argument(
        "--cycles",
        action="store_true",
        help="cycles with 1, 2 and 4 input terms; cycles, bytes of constants and bits of the accumulator with "
        "pools apart and merged; no accuracy",
    )
    args = parser.parse_args()
    if args.cycles:
        print_cycles(sateen.load(args.model))
        return
    if args.data is None:
        parser.error("--data is missing; it is needed for all but --cycles")

    calibration, images, labels = cifar10(args.data, args.calibration, args.images, held_out=args.held_out)
    network = sateen.load(args.model)
    assert network.graph is not None, "sateen check says why"
    name, output = network.graph.inputs[0].name, network.graph.outputs[0].port.name
    rows: list[dict[str, Any]] = []
    if args.output and args.output.exists():
        rows = json.loads(args.output.read_text())
    settings = {
        "images": len(images),
        "samples": len(calibration),
        "of": "training" if args.held_out else "test",
    }
    session = onnxruntime.InferenceSession(args.model)
    logits = np.concatenate([session.run(None, {name: x[None]})[0] for x in images])
    by_float = right(logits, labels)
    if not any(r["method"] == "float" and settings.items() <= r.items() for r in rows):
        rows.append(
            {"method": "float", "formats": "float32", "accuracy": accuracy(logits, labels), **settings}
        )
    pairs = list(args.formats)
    if args.apart:
        pairs += [p for f in args.formats for p in (f"{f.split('/')[0]}/int8", f"int8/{f.split('/')[1]}")]
    work = [(p, m) for p in dict.fromkeys(pairs) for m in args.methods]
    with Progress(transient=True) as bar:
        task = bar.add_task("ptq", total=len(work))
        for formats, method in work:
            key = {"method": method, "formats": formats, **settings}
            if not any(key.items() <= r.items() for r in rows):
                weights, activations = formats.split("/")
                began = time.perf_counter()
                quantized = network.quantize(
                    weights=weights,
                    activations=activations,
                    calibration={name: calibration},
                    ptq=METHODS[method],
                )
                middle = time.perf_counter()
                found = quantized.run({name: images})[output]
                rows.append(
                    key
                    | {
                        "accuracy": accuracy(found, labels),
                        "lost": int((by_float & ~right(found, labels)).sum()),
                        "won": int((right(found, labels) & ~by_float).sum()),
                        "quantize_s": round(middle - began, 1),
                        "reference_s": round(time.perf_counter() - middle, 1),
                        "input_terms": max(quantized.record["input_terms"].values(), default=1),
                    }
                )
                bar.console.print(json.dumps(rows[-1]), highlight=False)
                if args.output:
                    args.output.write_text(json.dumps(rows, indent=1) + "\n")
            bar.advance(task)
    text = page([r for r in rows if r["of"] == settings["of"]])
    print(text)
    if args.output:
        args.output.with_suffix(".md").write_text(text)


def print_cycles(network: sateen.Network) -> None:
    """As the exact model counts them, on random inputs: scales do not matter."""
    rng = np.random.default_rng(0)
    assert network.graph is not None, "sateen check says why"
    samples = {p.name: rng.uniform(0, 255, (8, *p.shape)).astype(np.float32) for p in network.graph.inputs}

    def cost(name: str, fmt: str, recipe: Recipe) -> tuple[int, int, int]:
        quantized = network.quantize(weights=fmt, activations=fmt, calibration=samples, ptq=recipe)
        mapped = quantized.map(name)
        return mapped.cycles, mapped.memory["constants_size"], mapped.config.acc_bits

    for name, fmt in CYCLES:
        counts = [cost(name, fmt, Recipe("cycles", input_terms=terms))[0] for terms in (1, 2, 4)]
        print(f"| {name} | {fmt} | {' | '.join(f'{c:,}'.replace(',', ' ') for c in counts)} |")
    for name, fmt in CYCLES:
        apart, merged = cost(name, fmt, Recipe("apart")), cost(name, fmt, Recipe("merged", (MergePool(),)))
        cells = (f"{c:,}".replace(",", " ") for pair in zip(apart, merged, strict=True) for c in pair)
        print(f"| {name} | {fmt} | {' | '.join(cells)} |")


def right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return logits.reshape(len(labels), -1).argmax(1) == labels


def page(rows: list[dict[str, Any]]) -> str:
    """For each number of images, most first, accuracies and differences to float."""
    parts = [
        "# Post-training quantization of ResNet8 on CIFAR-10\n",
        f"Accuracy in percent of the bit-exact integer network. {ABOUT}\n",
        "    python benchmarks/ptq.py --model resnet8.onnx --data FOLDER --output ptq.json\n",
    ]
    for images in sorted({r["images"] for r in rows}, reverse=True):
        chosen = [r for r in rows if r["images"] == images]
        real = next(r["accuracy"] for r in chosen if r["method"] == "float")
        error = 100 * (real / 100 * (1 - real / 100) / images) ** 0.5
        parts += [
            f"## {images} {chosen[0]['of']} images\n",
            f"Float: {real:.2f} %. The standard error of an accuracy is {error:.1f} points.\n",
            table(chosen),
            *against_float(chosen, images),
        ]
    return "\n".join(parts)


def against_float(rows: list[dict[str, Any]], images: int) -> list[str]:
    """The recipes' differences. Float and integers see the same images, so the error is that of a sum over pairs."""
    lines = []
    for fmt in FORMATS:
        for row in rows:
            if row["formats"] == f"{fmt}/{fmt}" and row["method"] in RECIPES and "lost" in row:
                gain = row["won"] - row["lost"]
                error = 100 * (row["won"] + row["lost"] - gain**2 / images) ** 0.5 / images
                cells = (fmt, row["method"], row["samples"], row["won"], row["lost"])
                lines.append(f"| {' | '.join(map(str, cells))} | {100 * gain / images:+.2f} | {error:.2f} |")
    if not lines:
        return []
    return [
        "Recipes against float on the same images: how many only they, or only float, class rightly, the difference in",
        "points, and its standard error.\n",
        "| format | recipe | samples | won | lost | difference | error |",
        "|---|---|--:|--:|--:|--:|--:|",
        *lines,
        "",
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Methods down, formats across, in percent."""
    formats = list(dict.fromkeys(r["formats"] for r in rows if r["method"] != "float"))
    formats.sort(key=lambda f: FORMATS.index(f.split("/")[0]) if f.split("/")[0] in FORMATS else len(FORMATS))
    found = {(r["method"], r["samples"], r["formats"]): r["accuracy"] for r in rows}
    done = {(r["method"], r["samples"]) for r in rows}
    work = [(m, n) for m in METHODS for n in sorted({n for k, n in done if k == m})]
    lines = [
        f"| method | samples | {' | '.join(formats)} |",
        f"|---|---{'|---' * len(formats)}|",
    ]
    for method, samples in work:
        cells = [f"{found[method, samples, f]:.2f}" if (method, samples, f) in found else "" for f in formats]
        lines.append(f"| {method} | {samples} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
