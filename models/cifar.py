"""Networks for CIFAR-10, and the training of one: `python -m sateen.models.cifar --data FOLDER --out DIR`.

Writes cifar_vit.onnx, the committed one as it is. FOLDER has cifar10_train.zip and cifar10_test.zip (`models.images`).
Two minutes of one core; goes on where it was interrupted. The same PyTorch on the same processor gives the same file.
Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sateen.models.digits import Block, _conv, export
from sateen.models.images import centred, load

NAME = "resnet8_cifar10"
MARGIN = 4
"""Pixels by which a training image is shifted at most."""
OPSET = 20
"""Has Gelu as one operator."""
SEED = 7
BATCH = 64
RATE = 2e-3


class Resnet8(nn.Module):
    """Conv 16, blocks of 16, 32 and 64 channels (the last two of stride 2), global average, Gemm 10.

    Input (N, 3, 32, 32), 0 to 1. Ref: MLPerf Tiny, image classification; its shortcuts have no normalization.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 16), nn.ReLU())
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1)
        return self.classifier(torch.flatten(x, 1))


class Attention(nn.Module):
    """Self-attention (N, tokens, width), spelled out so that each product is a node of the export."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.depth = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens, width = x.shape[1:]
        qkv = self.qkv(x).reshape(-1, tokens, 3, self.heads, self.depth).permute(2, 0, 3, 1, 4)
        scores = qkv[0] @ qkv[1].transpose(-1, -2) * self.depth**-0.5
        mixed = scores.softmax(-1) @ qkv[2]
        return self.project(mixed.transpose(1, 2).reshape(-1, tokens, width))


class Encoder(nn.Module):
    """Attention and two layers with Gelu, each behind a layer normalization and beside a shortcut."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Three convolutions of stride 2 to 16 tokens of width 48, 3 encoders of 3 heads, average, Gemm 10.

    Input (N, 3, 32, 32), -1 to 1. Ref: Xiao et al., Early Convolutions Help Transformers See Better, arXiv 2106.14881.
    """

    def __init__(self, width: int = 48, depth: int = 3, heads: int = 3, ratio: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *(_conv(3, width // 4, stride=2), nn.ReLU(), _conv(width // 4, width // 2, stride=2), nn.ReLU()),
            nn.Conv2d(width // 2, width, 3, 2, 1),
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.encoders = nn.Sequential(*(Encoder(width, heads, ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).reshape(-1, *self.position.shape[:0:-1]).transpose(1, 2) + self.position
        return self.classifier(self.norm(self.encoders(x)).mean(1))


EPOCHS = 4


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(N, 3, H, W) shifted by up to four pixels, zeros moving in, and mirrored half the time; alike for the batch."""
    h, w = x.shape[2:]
    dy, dx = (int(v) for v in torch.randint(0, 2 * MARGIN + 1, (2,), generator=generator))
    x = nn.functional.pad(x, (MARGIN,) * 4)[:, :, dy : dy + h, dx : dx + w]
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int, state: Path) -> None:
    """In place, on images (N, 3, 32, 32) of bytes; AdamW, the rate falling as a cosine.

    `state` is a file that holds where it is after each epoch, from which an interrupted run goes on.
    """
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=5e-2)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.15)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first = 0
    if state.exists():
        stored = torch.load(state, weights_only=True)
        first = stored["epoch"]
        generator.set_state(stored["generator"])
        for name, part in parts.items():
            part.load_state_dict(stored[name])
    model.train()
    for epoch in range(first, epochs):
        began = time.perf_counter()
        for chosen in torch.randperm(len(x), generator=generator).split(BATCH):
            loss = nn.functional.cross_entropy(
                model(augment(x[chosen].float() / 127.5 - 1, generator)), y[chosen], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - began
        print(f"  epoch {epoch + 1:2}/{epochs}: loss {loss.item():.3f}, {seconds:.0f} s", file=sys.stderr)
        stored = {name: part.state_dict() for name, part in parts.items()}
        torch.save(stored | {"epoch": epoch + 1, "generator": generator.get_state()}, state)
    model.eval()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sateen.models.cifar", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the two zip files")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the ONNX files")
    parser.add_argument("--images", type=int, help="training images; all by default")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the order of float additions must not depend on the machine
    torch.use_deterministic_algorithms(True)
    images, labels = load(options.data / "cifar10_train.zip", options.images)
    tests, truth = load(options.data / "cifar10_test.zip", 2000)
    torch.manual_seed(SEED)
    model = VisionTransformer()
    train(model, images, labels, options.epochs, options.out / "cifar_vit.pt")
    with torch.no_grad():
        guess = model(torch.from_numpy(centred(tests))).argmax(1).numpy()
    path = options.out / "cifar_vit.onnx"
    export(model, path, (1, 3, 32, 32), opset=OPSET)
    print(f"{path}: {np.mean(guess == truth):.2%} of 2000 test images, {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
