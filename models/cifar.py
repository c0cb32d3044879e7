"""CIFAR-10 from JPEG folders in zip files, and MLPerf Tiny's ResNet8 for it. Needs PyTorch and Pillow."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sateen.errors import DataError
from sateen.models.digits import Block, _conv

NAME = "resnet8_cifar10"
MARGIN = 4
"""Pixels by which a training image is shifted at most."""


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


def load(path: str | Path, count: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64: a seeded random choice of `count`, or all.

    The zip holds one folder of JPEG files for each class. Raises DataError when it cannot be read.
    """
    from PIL import Image

    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
            classes = sorted({n.rsplit("/", 2)[-2] for n in names})
            if count is not None and count < len(names):
                names = [
                    names[i] for i in np.sort(np.random.default_rng(seed).permutation(len(names))[:count])
                ]
            images = [np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names]
    except (OSError, zipfile.BadZipFile) as e:
        raise DataError(
            f"{path}: cannot be read ({e}); give a zip of JPEG files in one folder per class"
        ) from None
    if not images:
        raise DataError(f"{path}: holds no JPEG files; give a zip of them in one folder per class")
    labels = np.array([classes.index(n.rsplit("/", 2)[-2]) for n in names], np.int64)
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)), labels


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(N, 3, H, W) shifted by up to four pixels, zeros moving in, and mirrored half the time; alike for the batch."""
    h, w = x.shape[2:]
    dy, dx = (int(v) for v in torch.randint(0, 2 * MARGIN + 1, (2,), generator=generator))
    x = nn.functional.pad(x, (MARGIN,) * 4)[:, :, dy : dy + h, dx : dx + w]
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)
