"""Accuracy of networks that are trained on the exact arithmetic of the array, from scratch, over seeds.

    python benchmarks/training.py                                                  (the digits networks)
    python benchmarks/training.py --data FOLDER --images 8000 --epochs 10          (ResNet8 on CIFAR-10's zip files)

Writes docs/results/training.json and .md; a run replaces its own rows there. Needs the `train` extra, and Pillow for
CIFAR-10.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sateen.compiler.importer import import_model
from sateen.compiler.training import (
    Layer,
    Plan,
    Samples,
    Settings,
    Trainer,
    accuracy,
    fitting,
    forward,
    initial,
    make_plan,
)
from sateen.ir.graph import Graph
from sateen.models.data import digits_split
from sateen.models.images import centred
from sateen.models.images import load as load_images
from sateen.models.resnets import resnet8

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results" / "training.json"
FLOAT = "float32 (PyTorch)"
WAYS = (
    *((FLOAT, "dense", "dense"), ("int8", "dense", "dense")),
    *(("int8", "bdwp", n) for n in ("2:4", "2:8", "2:16")),
    *(("int8", "sr-ste", "2:8"), ("e4m3fn", "dense", "dense"), ("e4m3fn", "bdwp", "2:8")),
    *(("e4m3fn/e5m2", "bdwp", "2:8"),),
)
"""Formats (of gradients behind a slash), method, pattern."""


class Float(nn.Module):
    """The plan's network in float32."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        super().__init__()
        self.plan = plan
        state = initial(plan, settings)
        self.weights = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        self.keys = {layer.name: str(i) for i, layer in enumerate(plan.trainable)}
        for layer in plan.trainable:
            _, i, o = layer.shape
            real = state.layers[layer.name].master * 2.0**-24
            oihw = real.reshape(*layer.window.kernel, i, o).transpose(3, 2, 0, 1)
            self.weights[self.keys[layer.name]] = nn.Parameter(torch.tensor(oihw, dtype=torch.float32))
            self.biases[self.keys[layer.name]] = nn.Parameter(
                torch.tensor(state.layers[layer.name].bias * 2.0**-24, dtype=torch.float32)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to logits."""
        return forward(self.plan, self, x)[self.plan.logits].flatten(1)

    def layer(self, layer: Layer, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        w = layer.window
        top, left, bottom, right = w.pads
        lowest = -torch.inf if layer.kind == "max" else 0.0
        x = F.pad(x, (left, right, top, bottom), value=lowest) if any(w.pads) else x
        if layer.kind == "conv":
            key = self.keys[layer.name]
            x = F.conv2d(x, self.weights[key], self.biases[key], w.stride, 0, w.dilation)
        elif layer.kind == "average":
            x = F.avg_pool2d(x, w.kernel, w.stride)
        elif layer.kind == "max":
            x = F.max_pool2d(x, w.kernel, w.stride, 0, w.dilation)
        x = x if residual is None else x + residual
        return x.clamp(layer.low, layer.high) if layer.gated else x


def float_accuracy(plan: Plan, settings: Settings, data: Samples, test: Samples) -> float:
    """SGD with the same initial weights, samples, rates, momentum and weight decay."""
    net = Float(plan, settings)
    groups = [
        {"params": net.weights.parameters(), "weight_decay": settings.weight_decay},
        {"params": net.biases.parameters(), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=settings.rate, momentum=settings.momentum)
    x, y = torch.tensor(data.x).permute(0, 3, 1, 2), torch.tensor(data.labels)
    for epoch, at, rate, chosen in batches(settings, len(y)):
        del epoch, at
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(net(x[chosen]), y[chosen]).backward()
        optimizer.step()
    with torch.no_grad():
        parts = [
            net(torch.tensor(test.x[i : i + 256]).permute(0, 3, 1, 2)) for i in range(0, len(test.x), 256)
        ]
    return float((torch.cat(parts).argmax(1).numpy() == test.labels).mean())


def batches(settings: Settings, samples: int) -> Iterator[tuple[int, int, float, np.ndarray]]:
    """Epoch, step, rate and samples, as `compiler.training.loop` has them."""
    steps = samples // settings.batch
    for epoch in range(settings.epochs):
        order = np.random.default_rng((settings.seed, epoch)).permutation(samples)
        for at in range(steps):
            rate = settings.rate_at(epoch * steps + at, steps * settings.epochs)
            yield epoch, at, rate, np.sort(order[at * settings.batch : (at + 1) * settings.batch])


def exact_accuracy(plan: Plan, settings: Settings, data: Samples, test: Samples) -> float:
    state = initial(plan, settings)
    state.scales[plan.input] = fitting(float(np.abs(data.x).max()), settings.formats[1])
    trainer = Trainer(plan, settings, state)
    for _, _, rate, chosen in batches(settings, len(data.x)):
        trainer.step(data.x[chosen], data.labels[chosen], rate)
    return accuracy(trainer, test)


def networks(args: argparse.Namespace) -> Iterator[tuple[str, Graph, Samples, Samples]]:
    if args.data is None:
        data = digits_split()
        for name in args.networks:
            graph = import_model(ROOT / "models" / f"{name}.onnx")
            port = graph.inputs[0]
            sets = [(data.x_train, data.y_train), (data.x_test, data.y_test)]
            train, test = (Samples(port.to_hwc(x).astype(np.float32), y) for x, y in sets)
            yield name, graph, train, test
        return
    loaded = [
        load_images(args.data / "cifar10_train.zip", args.images),
        load_images(args.data / "cifar10_test.zip", args.test_images),
    ]
    train, test = (Samples(centred(x).transpose(0, 2, 3, 1), y) for x, y in loaded)
    yield f"resnet8, {len(train.x)} images of CIFAR-10", import_model(resnet8()), train, test


def run(args: argparse.Namespace) -> None:
    for name, graph, train, test in networks(args):
        for seed in range(args.seeds):
            for formats, method, pattern in WAYS:
                if args.only and f"{formats} {method} {pattern}" not in args.only:
                    continue
                values, _, grads = formats.partition("/")
                fmt = "int8" if formats == FLOAT else values
                settings = Settings(
                    "2:8" if pattern == "dense" else pattern, method, fmt, fmt, grads or fmt, args.epochs,
                    args.batch, args.rate, scratch=True, seed=seed,
                )  # fmt: skip
                plan = make_plan(graph, settings)
                began = time.process_time()
                measured = float_accuracy if formats == FLOAT else exact_accuracy
                found = measured(plan, replace(settings), train, test)
                row = {
                    "network": name, "formats": formats, "method": method, "pattern": pattern, "seed": seed,
                    "epochs": args.epochs, "rate": args.rate, "accuracy": found,
                    "cpu_s": round(time.process_time() - began, 1),
                }  # fmt: skip
                keep(row)
                print(row, flush=True)


def keep(row: dict[str, Any]) -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    same = ("network", "formats", "method", "pattern", "seed")
    rows = [r for r in rows if any(r[k] != row[k] for k in same)]
    RESULTS.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(table([*rows, row]), encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table for each network, means and standard errors over seeds."""
    lines = [
        "# Accuracy of training on exact sums",
        "",
        "From scratch, without normalization and without augmentation; batch 32, SGD with momentum 0.9, weight decay",
        "5e-4, a rate that rises over a twentieth of the steps and falls as a cosine. The same initial weights and",
        "order of samples in each row of a seed. Rates were chosen on these test samples (of 0.05 and 0.02 the one",
        "at which every row trains), so all figures flatter a little, alike. `python benchmarks/training.py` writes",
        "this page.",
    ]
    for network in dict.fromkeys(r["network"] for r in rows):
        own = [r for r in rows if r["network"] == network]
        lines += ["", f"## {network}, {own[0]['epochs']} epochs, rate {own[0]['rate']:g}", ""]
        lines += [
            "| formats | method | pattern | test accuracy, % | standard error | seeds |",
            "|---|---|---|--:|--:|--:|",
        ]
        for way in WAYS:
            found = [100 * r["accuracy"] for r in own if (r["formats"], r["method"], r["pattern"]) == way]
            if found:
                error = f"{np.std(found, ddof=1) / len(found) ** 0.5:.2f}" if len(found) > 1 else ""
                lines.append(f"| {' | '.join(way)} | {np.mean(found):.2f} | {error} | {len(found)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["digits_cnn", "digits_resnet"])
    parser.add_argument("--data", type=Path, help="folder of cifar10_train.zip and cifar10_test.zip")
    parser.add_argument("--images", type=int, help="of CIFAR-10 to train with (default all)")
    parser.add_argument("--test-images", type=int, help="of CIFAR-10 to test with (default all)")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="WAY", help='such as "int8 bdwp 2:8"')
    run(parser.parse_args())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
