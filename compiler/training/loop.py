"""A training run: epochs over the samples, kept in a folder so that it can go on to the same bits."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from sateen.arrays import read_npz, write_npz
from sateen.compiler.training.plan import Plan
from sateen.compiler.training.scales import fitting
from sateen.compiler.training.settings import Settings
from sateen.compiler.training.state import State, initial
from sateen.compiler.training.step import Trainer
from sateen.errors import DataError
from sateen.files import replacing
from sateen.ir.nodes import Normalize

STATE = "state.npz"
SAVE_S = 60.0
"""Seconds between states that are kept, at most, beside those at the end of each epoch."""
_EVALUATED = 256
"""Samples that are evaluated at a time."""

Report = Callable[[dict[str, Any]], None]
"""Called after each step: "epoch", "loss" and "accuracy" of it so far, "step", "steps", "end", and then "test"."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples (N, H, W, C) as the host gives them, and their classes (N,)."""

    x: np.ndarray
    labels: np.ndarray


def check_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """The labels as int64. Raises DataError where they do not fit the logits."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"labels: class {wrong}, the network has {classes} logits, classes 0 to {classes - 1}; "
            "number the classes from 0, or give a network with more outputs"
        )
    return labels.astype(np.int64)


def train(
    plan: Plan,
    settings: Settings,
    data: Samples,
    folder: Path,
    *,
    test: Samples | None = None,
    report: Report | None = None,
) -> State:
    """Train, or go on where the folder's state is; the state is kept in it whatever ends the run.

    Raises DataError where the folder's run is another, or this one diverges.
    """
    settings.check(len(data.x))
    identity = _identity(plan, settings, data)
    trainer = Trainer(plan, settings, begin(plan, settings, data, folder))
    steps = len(data.x) // settings.batch
    total = steps * settings.epochs
    kept = time.monotonic()
    with threadpool_limits(1, "blas"):  # products are small, and threads would wait for one another
        try:
            while trainer.state.step < total:
                epoch, at = divmod(trainer.state.step, steps)
                chosen, rate, _ = batch_of(settings, len(data.x), trainer.state.step)
                result = trainer.step(data.x[chosen], data.labels[chosen], rate)
                _note(trainer.state, epoch, result.loss, result.correct, settings.batch)
                row = trainer.state.history[-1]
                if at == steps - 1:
                    if test is not None:
                        row["test"] = accuracy(trainer, test)
                    save_state(folder, trainer.state, identity)
                elif time.monotonic() - kept > SAVE_S:
                    save_state(folder, trainer.state, identity)
                    kept = time.monotonic()
                if report is not None:
                    report(
                        {**_means(row), "step": trainer.state.step, "steps": total, "end": at == steps - 1}
                    )
        except BaseException:
            save_state(folder, trainer.state, identity)
            raise
    return trainer.state


def begin(plan: Plan, settings: Settings, data: Samples, folder: Path) -> State:
    """The state that the folder has, or a new one. Raises DataError where it is another run's."""
    state = load_state(folder, _identity(plan, settings, data))
    if state is None:
        state = initial(plan, settings)
        state.scales[plan.input] = fitting(float(np.abs(data.x).max()), settings.formats[1])
    return state


def batch_of(settings: Settings, samples: int, step: int) -> tuple[np.ndarray, float, int]:
    """Which samples a step takes, its rate, and its epoch."""
    steps = samples // settings.batch
    epoch, at = divmod(step, steps)
    order = np.random.default_rng((settings.seed, epoch)).permutation(samples)
    chosen = np.sort(order[at * settings.batch : (at + 1) * settings.batch])
    return chosen, settings.rate_at(step, steps * settings.epochs), epoch


def accuracy(trainer: Trainer, samples: Samples) -> float:
    """The part of samples whose largest logit is their label's."""
    right = 0
    for i in range(0, len(samples.x), _EVALUATED):
        guess = trainer.logits(samples.x[i : i + _EVALUATED]).argmax(axis=1)
        right += int((guess == samples.labels[i : i + _EVALUATED]).sum())
    return right / len(samples.x)


def curve(state: State) -> list[dict[str, Any]]:
    """Of each epoch "epoch", "loss" and "accuracy" (means over its samples), and "test" if there were such."""
    return [_means(row) for row in state.history]


def _note(state: State, epoch: int, loss: float, correct: int, batch: int) -> None:
    history = [dict(row) for row in state.history]
    if not history or history[-1]["epoch"] != epoch:
        history.append({"epoch": epoch, "sum": 0.0, "correct": 0, "samples": 0})
    row = history[-1]
    row["sum"] += loss * batch
    row["correct"] += correct
    row["samples"] += batch
    state.history = history


def _means(row: dict[str, Any]) -> dict[str, Any]:
    n = row["samples"]
    found = {"epoch": row["epoch"] + 1, "loss": row["sum"] / n, "accuracy": row["correct"] / n}
    return found | ({"test": row["test"]} if "test" in row else {})


# -- the folder --------------------------------------------------------------------------------------------


def _identity(plan: Plan, settings: Settings, data: Samples) -> dict[str, Any]:
    """What a run is, so that it goes on as it began."""
    hashed = hashlib.sha256()
    for array in (data.x, data.labels, *_numbers(plan)):
        hashed.update(np.ascontiguousarray(array).tobytes())
    return {**asdict(settings), "data": hashed.hexdigest()}


def _numbers(plan: Plan) -> Iterator[np.ndarray]:
    """What the model has by itself."""
    for node in plan.graph.nodes:
        for part in ("weight", "values"):
            if hasattr(node, part):
                yield getattr(node, part)
        if isinstance(node, Normalize):
            yield node.scale
            yield node.offset


def save_state(folder: Path, state: State, identity: dict[str, Any]) -> None:
    """Whole or not at all: what was kept before stays until this is complete."""
    arrays = state.arrays() | {"run": np.frombuffer(json.dumps(identity).encode(), np.uint8)}
    with replacing(folder / STATE, "training state") as scratch, scratch.open("wb") as f:
        write_npz(f, arrays)


def load_state(folder: Path, identity: dict[str, Any]) -> State | None:
    """The state that is kept; None if there is none. Raises DataError where it is another run's, or damaged."""
    path = folder / STATE
    if not path.exists():
        return None
    where = f"training state {path}"
    with path.open("rb") as f:
        arrays = read_npz(f, where)
    try:
        run = json.loads(arrays.pop("run").tobytes())
        state = State.of_arrays(arrays)
    except (KeyError, ValueError, TypeError) as e:
        raise DataError(
            f"{where}: is none of this program's ({type(e).__name__}); choose another folder"
        ) from None
    for name, value in identity.items():
        if run.get(name) != value:
            what = "the samples or the model" if name == "data" else f"{name.replace('_', ' ')} {value}"
            had = "others" if name == "data" else run.get(name)
            raise DataError(
                f"{where}: is of another run, with {had} instead of {what}; choose another folder"
            )
    return state


def with_masters(plan: Plan, settings: Settings, state: State) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Trained weights (O, KH, KW, I) and biases (O,), float64, as the forward pass selects them, by layer; of a
    normalization scale and offset (C,), of what is stored nothing and values (H, W, C)."""
    from sateen.ir.gradients import MASTER_EXPONENT
    from sateen.sim.gradients import selected

    trainer = Trainer(plan, settings, replace(state))
    found = {}
    for layer in plan.trainable:
        weights = state.layers[layer.name]
        if layer.kind != "conv":
            found[layer.name] = (
                weights.master.ravel() * 2.0**MASTER_EXPONENT, weights.bias * 2.0**MASTER_EXPONENT,
            )  # fmt: skip
            continue
        kept = selected(trainer.codes[layer.name], layer.forward_pattern, 1)
        real = weights.master * kept * 2.0**MASTER_EXPONENT
        _, inputs, outputs = layer.shape
        real = real.reshape(*layer.window.kernel, inputs, outputs).transpose(3, 0, 1, 2)
        found[layer.name] = (real, weights.bias * 2.0**MASTER_EXPONENT)
    return found
