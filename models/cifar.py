"""MLPerf Tiny's ResNet8 for CIFAR-10 and the images' augmentation. Needs PyTorch."""

from __future__ import annotations

import torch
from torch import nn

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


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(N, 3, H, W) shifted by up to four pixels, zeros moving in, and mirrored half the time; alike for the batch."""
    h, w = x.shape[2:]
    dy, dx = (int(v) for v in torch.randint(0, 2 * MARGIN + 1, (2,), generator=generator))
    x = nn.functional.pad(x, (MARGIN,) * 4)[:, :, dy : dy + h, dx : dx + w]
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)
