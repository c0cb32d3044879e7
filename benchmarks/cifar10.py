"""CIFAR-10 as ResNet8's benchmarks take it: NHWC, 0 to 255. FOLDER has cifar10_train.zip and cifar10_test.zip."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sateen.models.images import load


def cifar10(
    folder: Path, calibration: int, images: int, *, held_out: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """So many training images, so many test images (`held_out`: further training images instead), and their labels."""
    train = folder / "cifar10_train.zip"
    samples, _ = load(train, calibration)
    if held_out:
        found, labels = load(train, images, skip=calibration)
    else:
        found, labels = load(folder / "cifar10_test.zip", images)
    samples, found = (x.transpose(0, 2, 3, 1).astype(np.float32) for x in (samples, found))
    return samples, found, labels


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Percent of the samples, whose logits may have any shape."""
    return round(100 * float((logits.reshape(len(labels), -1).argmax(1) == labels).mean()), 2)
