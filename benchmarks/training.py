"""Accuracy of networks that are trained on the exact arithmetic of the array, over seeds.

    python benchmarks/training.py --rates 0.02 0.05 0.1                   (which rate is best, on held-out samples)
    python benchmarks/training.py                                         (the digits networks, at those rates)
    python benchmarks/training.py --fine-tune --epochs 10                 (the digits networks as they were trained)
    python benchmarks/training.py --times                                 (of a step of ResNet8 in the reference)
    python benchmarks/training.py --data FOLDER --images 4000 --epochs 10 (ResNet8 on CIFAR-10's zip files; rates, too)

Writes docs/results/training.json and .md. Rows that are there are kept, so a run that was stopped goes on. Needs the
`train` extra, and Pillow for CIFAR-10.
"""

# extras: train

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
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
from sateen.errors import DataError
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
TUNED = tuple(("int8", m, n) for n in ("2:4", "2:8", "1:4") for m in ("one-shot", "bdwp"))
"""Of networks that are trained already: pruned, and trained on."""
TUNING_RATE = 0.01
"""Not tuned."""
TIMED = ("int8", "e4m3fn", "e4m3fn/e5m2", "e5m2")
CHOOSING = ((FLOAT, "dense", "dense"), ("int8", "dense", "dense"), ("int8", "bdwp", "2:8"))
"""By whose mean accuracy on held-out samples a network's rate is chosen."""
HELD_OUT = 5
"""One of so many training samples is held out while a rate is chosen."""
SAME = ("network", "formats", "method", "pattern", "seed", "epochs", "rate", "held_out")


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


def exact_accuracy(plan: Plan, settings: Settings, data: Samples, test: Samples, tuned: bool = True) -> float:
    """Without `tuned`, of the weights as they are, with scales of a first batch."""
    state = initial(plan, settings)
    state.scales[plan.input] = fitting(float(np.abs(data.x).max()), settings.formats[1])
    trainer = Trainer(plan, settings, state)
    if not tuned:
        n = settings.batch
        trainer.step(data.x[:n], data.labels[:n], 0.0)
        return accuracy(trainer, test)
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


def split(data: Samples) -> tuple[Samples, Samples]:
    """Training samples without those held out, and these."""
    order = np.random.default_rng(0).permutation(len(data.x))
    n = len(order) // HELD_OUT
    held, rest = np.sort(order[:n]), np.sort(order[n:])
    return Samples(data.x[rest], data.labels[rest]), Samples(data.x[held], data.labels[held])


def run(args: argparse.Namespace) -> None:
    for name, graph, train, test in networks(args):
        if args.rates:
            part, held = split(train)
            for rate in args.rates:
                for way in CHOOSING:
                    row(name, graph, part, held, way, 0, rate, args, held_out=True)
            continue
        name += ", fine-tuned" if args.fine_tune else ""
        rate = args.rate or (TUNING_RATE if args.fine_tune else chosen_rate(kept(), name))
        for seed in args.seeds:
            for way in TUNED if args.fine_tune else WAYS:
                if not args.only or " ".join(way) in args.only:
                    row(name, graph, train, test, way, seed, rate, args, held_out=False)


def row(
    name: str, graph: Graph, train: Samples, test: Samples, way: tuple[str, str, str], seed: int, rate: float,
    args: argparse.Namespace, *, held_out: bool,
) -> None:  # fmt: skip
    """Trains one way and keeps what comes of it, if it is not there."""
    formats, method, pattern = way
    known: dict[str, Any] = {
        "network": name, "formats": formats, "method": method, "pattern": pattern, "seed": seed,
        "epochs": args.epochs, "rate": rate, "held_out": held_out,
    }  # fmt: skip
    if any(all(r[k] == known[k] for k in SAME) for r in kept()):
        return
    values, _, grads = formats.partition("/")
    fmt = "int8" if formats == FLOAT else values
    settings = Settings(
        "2:8" if pattern == "dense" else pattern, "bdwp" if method == "one-shot" else method, fmt, fmt, grads or fmt,
        args.epochs, args.batch, rate, scratch=not args.fine_tune, seed=seed,
    )  # fmt: skip
    plan = make_plan(graph, settings)
    began = time.process_time()
    try:
        if formats == FLOAT:
            known["accuracy"] = float_accuracy(plan, settings, train, test)
        else:
            known["accuracy"] = exact_accuracy(plan, settings, train, test, method != "one-shot")
    except DataError:  # it diverges
        known["accuracy"] = 0.0
    known["cpu_s"] = round(time.process_time() - began, 1)
    keep(known)
    print(known, flush=True)


def kept() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def keep(row: dict[str, Any]) -> None:
    rows = [r for r in kept() if any(r[k] != row[k] for k in SAME)]
    RESULTS.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(table([*rows, row]), encoding="utf-8")


def held_out(rows: list[dict[str, Any]], network: str) -> dict[float, float]:
    """Of each rate the mean accuracy on held-out samples of the ways that choose."""
    own = [r for r in rows if r["held_out"] and r["network"] == network]
    rates = sorted({r["rate"] for r in own})
    return {rate: float(np.mean([r["accuracy"] for r in own if r["rate"] == rate])) for rate in rates}


def chosen_rate(rows: list[dict[str, Any]], network: str) -> float:
    found = held_out(rows, network)
    if not found:
        raise SystemExit(f"{network}: no rate is chosen; run with --rates first, or give --rate")
    return max(found, key=lambda rate: found[rate])


def choice(rows: list[dict[str, Any]], network: str) -> list[str]:
    """A table of the accuracies on held-out samples that chose the rate."""
    own = [r for r in rows if r["held_out"] and r["network"] == network]
    if not own:
        return []
    names = "float dense | int8 dense | int8 BDWP 2:8"
    lines = [f"| rate, {own[0]['epochs']} epochs, held-out samples | {names} | mean |", "|---|" + "--:|" * 4]
    for rate, mean in held_out(rows, network).items():
        found = {(r["formats"], r["method"], r["pattern"]): r["accuracy"] for r in own if r["rate"] == rate}
        cells = [f"{100 * found[way]:.1f}" if way in found else "" for way in CHOOSING]
        lines.append(f"| {rate:g} | {' | '.join(cells)} | {100 * mean:.1f} |")
    return [*lines, ""]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table for each network, means and standard errors over seeds."""
    lines = [
        "# Accuracy of training on exact sums",
        "",
        "From scratch, without normalization and without augmentation; batch 32, SGD with momentum 0.9, weight decay",
        "5e-4, a rate that rises over a twentieth of the steps and falls as a cosine. The same initial weights and",
        "order of samples in each row of a seed. A network's rate is the one with the greatest mean accuracy of float",
        f"dense, int8 dense and int8 BDWP 2:8 on one of {HELD_OUT} training samples, held out for that (seed 0).",
        "*Fine-tuned* are networks that were trained in float: pruned as they are (one-shot), and trained on, at a",
        f"rate of {TUNING_RATE:g} that was not tuned. `python benchmarks/training.py` writes this page.",
    ]
    tested = [r for r in rows if not r["held_out"]]
    for network, epochs in dict.fromkeys((r["network"], r["epochs"]) for r in tested):
        own = [r for r in tested if (r["network"], r["epochs"]) == (network, epochs)]
        lines += ["", f"## {network}, {epochs} epochs, rate {own[0]['rate']:g}", ""]
        lines += choice(rows, network)
        lines += [
            "| formats | method | pattern | test accuracy, % | standard error | seeds |",
            "|---|---|---|--:|--:|--:|",
        ]
        for way in TUNED if network.endswith("fine-tuned") else WAYS:
            found = [100 * r["accuracy"] for r in own if (r["formats"], r["method"], r["pattern"]) == way]
            if found:
                error = (
                    f"{np.std(found, ddof=1) / len(found) ** 0.5:.2f}"
                    if len(found) > 1 and way[1] != "one-shot"
                    else ""
                )
                lines.append(f"| {' | '.join(way)} | {np.mean(found):.2f} | {error} | {len(found)} |")
    return "\n".join(lines) + "\n"


def times(rounds: int) -> None:
    """A table of the CPU time of a step of ResNet8, 32 samples, dense; formats take turns."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(0, 0.5, (32, 32, 32, 3)).astype(np.float32), rng.integers(0, 10, 32)
    trainers = {}
    for name in TIMED:
        values, _, grads = name.partition("/")
        settings = Settings("2:8", "dense", values, values, grads or values, scratch=True)
        plan = make_plan(resnet8(), settings)
        state = initial(plan, settings)
        state.scales[plan.input] = fitting(float(np.abs(x).max()), settings.formats[1])
        trainers[name] = Trainer(plan, settings, state)
        trainers[name].step(x, labels, 0.01)  # finds its scales
    took: dict[str, list[float]] = {name: [] for name in TIMED}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            began = time.process_time()
            trainer.step(x, labels, 0.01)
            took[name].append(time.process_time() - began)
    print("| formats | CPU time of a step, ms | of int8's |\n|---|--:|--:|")
    least = np.array(took[TIMED[0]])
    for name, found in took.items():
        print(f"| {name} | {1000 * np.median(found):.0f} | {np.median(found / least):.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["digits_cnn", "digits_resnet"])
    parser.add_argument("--data", type=Path, help="folder of cifar10_train.zip and cifar10_test.zip")
    parser.add_argument("--images", type=int, help="of CIFAR-10 to train with (default all)")
    parser.add_argument("--test-images", type=int, help="of CIFAR-10 to test with (default all)")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, help="default: the one that was chosen")
    parser.add_argument("--rates", type=float, nargs="+", help="to choose from, on held-out samples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="WAY", help='such as "int8 bdwp 2:8"')
    parser.add_argument("--fine-tune", action="store_true", help="from the weights that the network has")
    parser.add_argument("--times", type=int, nargs="?", const=9, metavar="ROUNDS", help="of a step")
    args = parser.parse_args()
    if args.times:
        times(args.times)
    else:
        run(args)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1, "blas"):  # products are small
        main()
