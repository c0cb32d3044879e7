"""scikit-learn's digits: 1797 real scans of 8 × 8 pixels, split once and for all."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

TRAIN = 1297
"""Samples to train with; the remaining 500 are the test set."""
CALIBRATION = 200
_SPLIT_SEED = 2024
_MAX_PIXEL = 16.0


class Digits(NamedTuple):
    """Pixels are float32 (N, 1, 8, 8) from 0 to 1; labels are int64 (N,), 0 to 9."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def digits_split() -> Digits:
    """The fixed split of the digits: 1297 to train, 500 to test."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # optional; ships the scans

    digits = load_digits()
    x = (digits.images / _MAX_PIXEL).astype(np.float32)[:, None]
    y = digits.target.astype(np.int64)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(x))
    train, test = order[:TRAIN], order[TRAIN:]
    return Digits(x[train], y[train], x[test], y[test])


def write_digits_npz(folder: str | Path, name: str = "input") -> tuple[Path, Path, Path]:
    """Write calibration.npz (200 training samples), test.npz (500) and labels.npz; returns their paths.

    The first two hold one array, called `name` as the models' input is; labels.npz holds `labels`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digits = digits_split()
    arrays = {
        "calibration": {name: digits.x_train[:CALIBRATION]},
        "test": {name: digits.x_test},
        "labels": {"labels": digits.y_test},
    }
    paths = {stem: folder / f"{stem}.npz" for stem in arrays}
    for stem, content in arrays.items():
        np.savez_compressed(paths[stem], allow_pickle=False, **content)
    return paths["calibration"], paths["test"], paths["labels"]
