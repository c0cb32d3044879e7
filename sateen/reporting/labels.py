"""How often a build is right: its outputs against labels, kept in the build folder for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sateen.arrays import load_npz
from sateen.errors import BuildError, DataError
from sateen.files import write_file
from sateen.sim.engines import Build, RunResult

FILE = "accuracy.json"


def load_labels(path: str | Path, samples: int) -> np.ndarray:
    """The class of each sample, (samples,) integers, from an .npz file with one array. Raises DataError."""
    arrays = load_npz(path, "labels")
    if len(arrays) != 1:
        raise DataError(f"labels {path}: has {len(arrays)} arrays; give one, with the class of each sample")
    name, labels = next(iter(arrays.items()))
    if labels.shape != (samples,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"labels {path}: array '{name}' is {labels.dtype} {labels.shape}; it must be integers of shape ({samples},)"
        )
    return labels


def score(b: Build, result: RunResult, labels: np.ndarray) -> dict[str, Any]:
    """Count the samples whose largest output is their label's, and keep that. Raises BuildError, DataError."""
    if result.outputs is None or len(result.outputs) != 1:
        raise DataError(
            f"labels: engine '{result.engine}' gives {len(result.outputs or {})} outputs; accuracy is counted on one"
        )
    (values,) = result.outputs.values()
    right = values.reshape(len(labels), -1).argmax(axis=1) == labels
    found = {
        "build": b.identity.hex(),
        "engine": result.engine,
        "samples": len(labels),
        "correct": int(right.sum()),
    }
    write_file(b.folder / FILE, json.dumps(found, indent=1, sort_keys=True) + "\n", "accuracy")
    return found


def accuracy(b: Build) -> dict[str, Any] | None:
    """What `score` kept for this build, if it did. Raises BuildError."""
    path = b.folder / FILE
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        return found if found["build"] == b.identity.hex() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BuildError(f"{path}: cannot be read ({e}); run with --labels again") from None
