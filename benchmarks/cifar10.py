"""CIFAR-10 from JPEG folders in zip files (one folder per class), as MLPerf Tiny's ResNet8 takes it: NHWC, 0 to 255."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np


def load(path: Path, count: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32, 32, 3) float32 and (N,) labels: a seeded random choice of `count` images, or all."""
    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
        classes = sorted({n.rsplit("/", 2)[-2] for n in names})
        if count is not None and count < len(names):
            chosen = np.random.default_rng(seed).choice(len(names), count, replace=False)
            names = [names[i] for i in sorted(chosen)]
        images = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n))), np.float32) for n in names])
    return images, np.array([classes.index(n.rsplit("/", 2)[-2]) for n in names])
