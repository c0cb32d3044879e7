"""Accuracy of a vision transformer that is trained on digits, on the exact arithmetic and in float32, over seeds.

    python benchmarks/training_tokens.py [--rates 0.02 0.05 0.1] [--seeds 0 1 2] [--epochs 15] [--only "int8 dense" ...]

`--rates` compares rates in float32 on held-out samples instead. Two blocks of 32 features and 4 heads, patches of 2 × 2
and a class token, from random weights. Needs the extra `train`.
"""

# extras: train

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F
from training import batches, exact_accuracy, split

from sateen.compiler.importer import import_model
from sateen.compiler.training import Plan, Samples, Settings, make_plan
from sateen.models.data import digits_split
from sateen.models.transformers import digits_vit

WAYS = ("float32 dense", "int8 dense", "int8/e4m3fn dense", "int8 bdwp", "int8/e4m3fn bdwp")
"""Formats (of gradients behind a slash) and the method, 2:8."""


class Block(nn.Module):
    """Attention and an MLP, each behind a normalization and beside a sum."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(features, 1e-6) for _ in range(2))
        self.heads, self.qkv = heads, nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)
        self.fc1, self.fc2 = nn.Linear(features, 2 * features), nn.Linear(2 * features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, features = x.shape
        parts = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(n, tokens, features)
        x = x + self.proj(y)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Float(nn.Module):
    """`digits_vit` in float32, from random weights of the size that the exact run begins with."""

    def __init__(self, seed: int, features: int = 32, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.patches = nn.Conv2d(1, features, 2, 2)
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, features))
        self.where = nn.Parameter(0.02 * torch.randn(1, 17, features))
        self.blocks = nn.Sequential(*(Block(features, heads) for _ in range(depth)))
        self.norm, self.logits = nn.LayerNorm(features, 1e-6), nn.Linear(features, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, 0, (module.weight[0].numel()) ** -0.5)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            for last in (block.proj, block.fc2):  # of a branch, as `training.initial` has it
                last.weight.data *= (2 * depth + 1) ** -0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, 8, 8) to logits."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1) + self.where
        return self.logits(self.norm(self.blocks(x))[:, 0])


def float_accuracy(plan: Plan, settings: Settings, data: Samples, test: Samples) -> float:
    """SGD with the same samples, rates, momentum and weight decay."""
    del plan
    net = Float(settings.seed)
    linear = [m.weight for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    others = [p for p in net.parameters() if all(p is not w for w in linear)]
    groups = [{"params": linear, "weight_decay": settings.weight_decay}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=settings.rate, momentum=settings.momentum)
    x, y = torch.tensor(data.x).permute(0, 3, 1, 2), torch.tensor(data.labels)
    for _, _, rate, chosen in batches(settings, len(y)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(net(x[chosen]), y[chosen]).backward()
        optimizer.step()
    with torch.no_grad():
        guess = net(torch.tensor(test.x).permute(0, 3, 1, 2)).argmax(1).numpy()
    return float((guess == test.labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS)
    args = parser.parse_args()
    graph, data = import_model(digits_vit()), digits_split()
    port = graph.inputs[0]
    train, test = (
        Samples(port.to_hwc(x).astype(np.float32), y)
        for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test))
    )
    if args.rates:
        train, test = split(train)
    for seed in args.seeds:
        for way in WAYS[:1] if args.rates else args.only:
            for rate in args.rates or [args.rate]:
                formats, method = way.split()
                values, _, gradients = formats.partition("/")
                fmt = "int8" if formats == "float32" else values
                settings = Settings(
                    "2:8", method, fmt, fmt, gradients or fmt, args.epochs, rate=rate, scratch=True, seed=seed
                )
                plan, began = make_plan(graph, settings), time.process_time()
                run = float_accuracy if formats == "float32" else exact_accuracy
                found = run(plan, settings, train, test)
                spent = time.process_time() - began
                print(f"| {way} | {seed} | {rate:g} | {100 * found:.1f} % | {spent:.0f} s |", flush=True)


if __name__ == "__main__":
    with threadpool_limits(1):
        torch.set_num_threads(1)
        main()
