"""Labelled images, such as CIFAR-10, from JPEG folders in a zip file. Needs Pillow."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from sateen.errors import DataError


def load(
    path: str | Path, count: int | None = None, seed: int = 0, skip: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64: a seeded random choice of `count`, or all.

    With `skip`, none of the first so many of that choice: what is held out of them.

    The zip holds one folder of JPEG files for each class. Raises DataError when it cannot be read.
    """
    from PIL import Image

    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
            classes = sorted({n.rsplit("/", 2)[-2] for n in names})
            if count is not None and count < len(names):
                order = np.random.default_rng(seed).permutation(len(names))[skip : skip + count]
                names = [names[i] for i in np.sort(order)]
            images = [np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names]
    except (OSError, zipfile.BadZipFile) as e:
        raise DataError(
            f"{path}: cannot be read ({e}); give a zip of JPEG files in one folder per class"
        ) from None
    if not images:
        raise DataError(f"{path}: holds no JPEG files; give a zip of them in one folder per class")
    labels = np.array([classes.index(n.rsplit("/", 2)[-2]) for n in names], np.int64)
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)), labels


def centred(images: np.ndarray) -> np.ndarray:
    """Bytes as float32, -1 to 1."""
    return images.astype(np.float32) / np.float32(127.5) - 1
