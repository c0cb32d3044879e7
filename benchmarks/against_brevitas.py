"""Post-training quantization by Sateen and by Brevitas: one float model, the same images, formats and measure.

pip install brevitas==0.13.4 torch==2.13.0 tqdm onnxoptimizer
python benchmarks/against_brevitas.py --model resnet8.onnx --data FOLDER [--output docs/results/brevitas.json]
                                      [--formats F ...] [--recipes R ...] [--flows F ...] [--rounds 3]

With --rounds what is chosen is quantized so many times, all of a format in turn, for its seconds. FOLDER has
cifar10_train.zip and cifar10_test.zip. With --output the rows that are there already are kept, so that an interrupted
run goes on where it was, and the tables are written beside it.
"""

# extras: brevitas

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from brevitas_flows import (
    COMMON,
    EQUALIZE,
    THEIRS,
    VERSION,
    brevitas_logits,
    brevitas_network,
    compiled_logits,
    torch_model,
    versions,
)
from cifar10 import accuracy as percent
from cifar10 import cifar10
from ptq import apart
from threadpoolctl import threadpool_limits

import sateen
from sateen.compiler.ptq import LEAST_SAMPLES, RECIPES
from sateen.errors import SateenError
from sateen.formats import parse_format

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMATS = ("int8", "e4m3", "int6", "e3m2", "int4", "e2m1")

OURS = RECIPES | {r.name: r for r in map(apart, ("balanced", "best"))}

ABOUT = """Accuracy in percent on the same {images} test images, {samples} training images for calibration. The
standard error of a figure is {error:.1f} points. Sateen's is that of the bit-exact integer network, Brevitas' that
of its own simulation in float32. Empty: not measured.

Brevitas {version} runs as its example for vision does (`brevitas_examples.imagenet_classification.ptq`): graph
equalization ({equalize} iterations, biases merged), a scale for each output channel of weights and each tensor, the
latter at the {percentile} percentile (rows "MSE": both by MSE), GPTQ with activation order (rows "quantized inputs":
on them; rows "Qronos": that instead), bias correction; biases of 32 bits with integers, float with minifloats. "fx"
quantizes every tensor, also before additions and after pooling, as the machine does. "layerwise" quantizes only what
convolutions read; additions and pooling stay in float32, which no machine here can do. Asymmetric activations are for
integers only. With minifloats "fx" of Brevitas fails at residual additions, for want of an attribute
(https://github.com/Xilinx/brevitas/issues/897); the benchmark adds it, so that minifloats are aligned as integers are.

The image: Brevitas' input quantizer is uint8 in every row, which loses nothing. Sateen's recipes `balanced` and `best`
give the image as at most four codes of the row's format (docs/adr/0020-input-terms.md), `fast` as one. "Pools apart":
the average pool's output is codes (docs/adr/0024-merged-pools.md).
"""


SECONDS = """Processor time of all threads, calibration included, import and evaluation not. Torch and BLAS have one
thread, and both programs have quantized once before. The cells of a format ran one after another in one process, once
each (`--rounds`: the shortest of several turns); the machine was shared, and a cell's processor time varies by a tenth.
Empty: not timed in that way.
"""


# -- the comparison --------------------------------------------------------------------------------------


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its seconds of processor time."""
    began = time.process_time()
    found = run()
    return found, round(time.process_time() - began, 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--calibration", type=int, default=256, help="training images")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), help="of weights and activations")
    parser.add_argument("--recipes", nargs="*", choices=OURS, default=list(RECIPES), help="Sateen's")
    parser.add_argument("--flows", nargs="*", choices=THEIRS, default=list(THEIRS), help="Brevitas'")
    parser.add_argument(
        "--rounds", type=int, default=1, help="quantize each so many times, in turn, for seconds"
    )
    parser.add_argument("--output", type=Path, help="JSON, and Markdown tables beside it")
    args = parser.parse_args()
    version = versions()
    if args.flows and version["brevitas"] != VERSION:
        print(f"Brevitas {version['brevitas']}; the results in docs/ are those of {VERSION}", file=sys.stderr)

    import torch

    torch.set_num_threads(1)
    threadpool_limits(1, "blas")
    calibration, images, labels = cifar10(args.data, args.calibration, args.images)
    network = sateen.load(args.model)
    graph = network.graph
    assert graph is not None, "sateen check says why"
    port = graph.inputs[0]
    first = [torch.from_numpy(port.to_hwc(x).transpose(0, 3, 1, 2).copy()) for x in (calibration, images)]
    settings = {"images": len(images), "samples": len(calibration)}
    rows: list[dict[str, Any]] = []
    if args.output and args.output.exists():
        rows = json.loads(args.output.read_text())

    def save() -> None:
        if args.output:
            args.output.write_text("[\n" + ",\n".join(f" {json.dumps(r)}" for r in rows) + "\n]\n")

    def measured(key: dict[str, Any], run: Callable[[], dict[str, Any]]) -> None:
        key = key | settings
        if any(key.items() <= r.items() for r in rows):
            return
        rows.append(key | run())
        print(json.dumps(rows[-1]), flush=True)
        save()

    def accuracy(logits: np.ndarray) -> float:
        return percent(logits, labels)

    def float_rows() -> dict[str, Any]:
        session = onnxruntime.InferenceSession(args.model)
        wanted = np.concatenate([session.run(None, {port.name: x[None]})[0] for x in images])
        given = brevitas_logits(torch_model(graph), first[1])
        return {"accuracy": accuracy(wanted), "in_torch": accuracy(given), **version}

    def by_us(fmt: str, recipe: str, samples: np.ndarray = calibration) -> sateen.QuantizedNetwork:
        given = {port.name: samples}
        return network.quantize(weights=fmt, activations=fmt, calibration=given, ptq=OURS[recipe])

    def by_them(fmt: str, flow: str, samples: torch.Tensor = first[0]) -> nn.Module:
        return brevitas_network(torch_model(graph), samples, fmt, THEIRS[flow])

    def ours(fmt: str, recipe: str) -> dict[str, Any]:
        quantized, seconds = timed(lambda: by_us(fmt, recipe))
        found = quantized.run({port.name: images})[graph.outputs[0].port.name]
        return {"accuracy": accuracy(found), "seconds": [seconds]}

    def theirs(fmt: str, flow: str) -> dict[str, Any]:
        made, seconds = timed(lambda: by_them(fmt, flow))
        row: dict[str, Any] = {"accuracy": accuracy(brevitas_logits(made, first[1])), "seconds": [seconds]}
        if not parse_format(fmt).uniform:
            return row  # Brevitas cannot export minifloats that are not OCP's
        try:
            row["compiled"] = accuracy(compiled_logits(made, first[1]))
        except SateenError as e:
            row["refused"] = str(e)
        return row

    def in_turn(fmt: str) -> None:
        chosen = [
            r
            for r in rows
            if (settings | {"format": fmt}).items() <= r.items()
            and r["how"] in (args.recipes if r["who"] == "Sateen" else args.flows)
        ]
        for done in range(args.rounds):
            for row in chosen:
                seconds = row.setdefault("seconds", [])
                if len(seconds) <= done:
                    run = by_us if row["who"] == "Sateen" else by_them
                    seconds.append(timed(lambda run=run, how=row["how"]: run(fmt, how))[1])
                    print(fmt, row["who"], row["how"], seconds, flush=True)
                    save()

    by_us("int8", "fast", calibration[:LEAST_SAMPLES])  # imports and caches, which are not to be timed
    if args.flows:
        by_them("int8", "fx", first[0][:LEAST_SAMPLES])
    measured({"who": "float"}, float_rows)
    for fmt in args.formats:
        for recipe in args.recipes:
            measured({"who": "Sateen", "how": recipe, "format": fmt}, lambda f=fmt, r=recipe: ours(f, r))
        for flow in args.flows:
            if "asymmetric" not in flow or parse_format(fmt).uniform:
                measured({"who": "Brevitas", "how": flow, "format": fmt}, lambda f=fmt, r=flow: theirs(f, r))
        in_turn(fmt)
    text = report([r for r in rows if settings.items() <= r.items()])
    print(text)
    if args.output:
        args.output.with_suffix(".md").write_text(text)


def report(rows: list[dict[str, Any]]) -> str:
    """Accuracies and seconds by format, and where Sateen loses."""
    base = next(r for r in rows if r["who"] == "float")
    formats = [f for f in FORMATS if any(r.get("format") == f for r in rows)]
    found = {(r["who"], r["how"], r["format"]): r for r in rows if r["who"] != "float"}
    methods = [("Sateen", n) for n in OURS] + [("Brevitas", n) for n in THEIRS]
    methods = [m for m in methods if any((*m, f) in found for f in formats)]

    def table(cell: Callable[[dict[str, Any]], str]) -> Iterable[str]:
        yield f"| | {' | '.join(formats)} |"
        yield f"|---{'|---' * len(formats)}|"
        for who, how in methods:
            cells = [cell(found[who, how, f]) if (who, how, f) in found else "" for f in formats]
            if any(cells):
                yield f"| {who}, {how} | {' | '.join(cells)} |"

    def best(fmt: str, kind: str) -> dict[str, Any] | None:
        given = [
            r for (who, how, f), r in found.items() if (who, f) == ("Brevitas", fmt) and how.startswith(kind)
        ]
        return max(given, key=lambda r: r["accuracy"], default=None)

    error = (base["accuracy"] * (100 - base["accuracy"]) / base["images"]) ** 0.5
    about = ABOUT.format(
        **{k: base[k] for k in ("images", "samples")}, version=base["brevitas"], error=error, equalize=EQUALIZE,
        percentile=COMMON["act_quant_percentile"],
    )  # fmt: skip
    lines = [
        "# Side by side with Brevitas: ResNet8 on CIFAR-10\n",
        about,
        "    python benchmarks/against_brevitas.py --model resnet8.onnx --data FOLDER --output brevitas.json\n",
        f"Float: {base['accuracy']:.2f} % in ONNX Runtime, {base['in_torch']:.2f} % in torch.\n",
        "## Accuracy\n",
        *table(lambda r: f"{r['accuracy']:.2f}"),
        "\nBrevitas' networks, compiled by Sateen. Empty: not to be expressed as integers throughout.\n",
        *table(lambda r: f"{r['compiled']:.2f}" if "compiled" in r else ""),
        "\n## Seconds\n",
        SECONDS,
        *table(lambda r: f"{shortest(r):.1f}" if "seconds" in r else ""),
        "\n## Against the most accurate flow of Brevitas\n",
        "Of those that were measured. Difference: Sateen's accuracy less Brevitas', in points. Time: Brevitas' seconds",
        "over Sateen's, so that above 1 Sateen is faster; empty where one of the two was not timed.\n",
        "| | Sateen | | Brevitas, all tensors | difference | time | Brevitas, layerwise | difference | time |",
        "|---|---|--:|---|--:|--:|---|--:|--:|",
    ]
    for fmt in formats:
        for how in RECIPES:
            if ("Sateen", how, fmt) in found:
                mine = found["Sateen", how, fmt]
                cells = [fmt, how, f"{mine['accuracy']:.2f}"]
                for kind in ("fx", "layerwise"):
                    cells += against(mine, best(fmt, kind))
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def against(mine: dict[str, Any], other: dict[str, Any] | None) -> list[str]:
    """Cells: what it is, the difference in accuracy, how many times as long it takes."""
    if other is None:
        return ["", "", ""]
    timed = "seconds" in mine and "seconds" in other
    return [
        f"{other['accuracy']:.2f} ({other['how']})",
        f"{mine['accuracy'] - other['accuracy']:+.2f}",
        f"{shortest(other) / shortest(mine):.1f}" if timed else "",
    ]


def shortest(row: dict[str, Any]) -> float:
    return min(row["seconds"])


if __name__ == "__main__":
    main()
