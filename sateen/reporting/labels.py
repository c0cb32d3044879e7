"""How often a build is right: its outputs against labels, kept in the build folder for the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from sateen.arrays import load_npz
from sateen.errors import BuildError, DataError
from sateen.files import write_file
from sateen.sim.engines import Build, RunResult

FILE = "accuracy.json"


def load_labels(path: str | Path | np.ndarray, samples: int) -> np.ndarray:
    """The class of each sample, (samples,) integers, or an .npz file with one array of them. Raises DataError."""
    if not isinstance(path, str | Path):
        labels = np.asarray(path)
        if labels.shape != (samples,) or labels.dtype.kind not in "iu":
            raise DataError(
                f"labels: {labels.dtype} {labels.shape}; they must be integers of shape ({samples},)"
            )
        return labels
    arrays = load_npz(path, "labels")
    if len(arrays) != 1:
        raise DataError(f"labels {path}: has {len(arrays)} arrays; give one, with the class of each sample")
    name, labels = next(iter(arrays.items()))
    if labels.shape != (samples,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"labels {path}: array '{name}' is {labels.dtype} {labels.shape}; it must be integers of shape ({samples},)"
        )
    return labels


def score(b: Build, result: RunResult, in_float: RunResult, labels: np.ndarray) -> dict[str, Any]:
    """Count the samples whose largest output is their label's, here and in the float network, and keep that.

    Raises BuildError, DataError.
    """
    if result.outputs is None or len(result.outputs) != 1:
        raise DataError(
            f"labels: engine '{result.engine}' gives {len(result.outputs or {})} outputs; accuracy is counted on one"
        )

    def hits(outputs: dict[str, np.ndarray] | None) -> np.ndarray:
        (values,) = (outputs or {}).values()
        return np.asarray(values.reshape(len(labels), -1).argmax(axis=1) == labels)

    right, by_float = hits(result.outputs), hits(in_float.outputs)
    found = {
        "build": b.identity.hex(),
        "engine": result.engine,
        "samples": len(labels),
        "correct": int(right.sum()),
        "float_correct": int(by_float.sum()),
        "only_float": int((by_float & ~right).sum()),
        "only_build": int((right & ~by_float).sum()),
    }
    if result.engine != in_float.engine:
        write_file(b.folder / FILE, json.dumps(found, indent=1, sort_keys=True) + "\n", "accuracy")
    return found


def difference(found: dict[str, Any]) -> tuple[float, float]:
    """Points that the build has more than float, and their standard error: both saw the same samples."""
    n, won, lost = found["samples"], found["only_build"], found["only_float"]
    gain = won - lost
    return 100 * gain / n, 100 * math.sqrt(max(won + lost - gain**2 / n, 0.0)) / n


def accuracy(b: Build) -> dict[str, Any] | None:
    """What `score` kept for this build, if it did. Raises BuildError."""
    path = b.folder / FILE
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        return found if found["build"] == b.identity.hex() and "float_correct" in found else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BuildError(f"{path}: cannot be read ({e}); run with --labels again") from None
