"""Wider but sparser networks at equal multiplications: accuracy of the bit-exact integers and exact cycles.

    python benchmarks/sparse_wide.py [--epochs 30] [--seeds 3]

A ResNet for digits of 8 channels, dense, beside one of 16 channels at 1:4, which multiplies as often, and its
neighbours: trained from random weights, SR-STE for patterns, int8, on 16 multipliers (see channels.py).
Ref: Saxena et al., "Sparse Iso-FLOP Transformations", arXiv 2303.11525, Sparse Wide.
"""

# extras: train

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from channels import machine
from cifar10 import accuracy
from torch import nn

import sateen
from sateen.formats import PATTERNS
from sateen.models.data import CALIBRATION, digits_split
from sateen.models.digits import Block, augment, export
from sateen.models.sparse import fine_tune, harden, make_sparse

CHOICES = (("dense", 8), ("1:4", 16), ("2:4", 16), ("dense", 16))
RATE = 0.1


class Resnet(nn.Module):
    """DigitsResnet with `width` channels in its stem and first block, and twice as many in the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1)
        )
        self.classifier = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1)
        return self.classifier(torch.flatten(x, 1))


def measure(sparsity: str, width: int, epochs: int, seed: int) -> dict[str, float | int | str]:
    data = digits_split()
    torch.manual_seed(seed)
    net = Resnet(width)
    if sparsity != "dense":
        make_sparse(net, PATTERNS[sparsity], "sr-ste")
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    fine_tune(net, x, y, epochs=epochs, rate=RATE, augment=augment, seed=seed)
    harden(net)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        export(net, path)
        quantized = sateen.load(path).quantize(
            calibration={"input": data.x_train[:CALIBRATION]}, ptq="fast", sparsity=sparsity, sparsity_method="keep"
        )  # fmt: skip
    mapped = quantized.map(machine())
    found = quantized.run({"input": data.x_test})["logits"]
    return {
        "sparsity": sparsity,
        "width": width,
        "seed": seed,
        "multiplications": mapped.schedule["totals"]["macs"],
        "cycles": mapped.cycles,
        "accuracy": accuracy(found, data.y_test),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        for sparsity, width in CHOICES:
            print(json.dumps(measure(sparsity, width, args.epochs, seed)), flush=True)


if __name__ == "__main__":
    main()
