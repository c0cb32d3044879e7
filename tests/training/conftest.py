"""A run's files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from training_nets import network, samples


@pytest.fixture
def files(tmp_path):
    """Of a run: model, samples and labels."""
    x, labels = samples()
    onnx.save(network(), tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=x)
    np.savez(tmp_path / "labels.npz", labels=labels)
    return tmp_path
