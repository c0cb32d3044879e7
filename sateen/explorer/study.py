"""A study's folder: what it is about, every trial, the results as a table, the members of the front.

STUDY/study.json      model, data, space, goals: what must be the same for a study to go on
STUDY/journal.log     Optuna's journal of the trials
STUDY/results.parquet a row for each candidate
STUDY/front/          I.toml for each member of the front, I.sparsity.toml where layers have patterns of their own
STUDY/cache/          networks in codes and their scores
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sateen.errors import ConfigError
from sateen.explorer.candidate import Candidate, write_member
from sateen.explorer.goals import METRICS, Goals, front, nearest
from sateen.explorer.libraries import library
from sateen.files import replacing, shown, write_file
from sateen.version import __version__

FILE = "study.json"
JOURNAL = "journal.log"
RESULTS = "results.parquet"
VERSION = 2


@dataclass(frozen=True)
class Trial:
    """A candidate, as it was measured.

    Attributes
    ----------
    number : int
        In the order in which they were begun.
    point : mapping
        Positions on the axes.
    state, reason, metrics, seconds
        Those of its `Outcome`.
    """

    number: int
    point: Mapping[str, int]
    candidate: Candidate
    state: str
    metrics: Mapping[str, Any]
    reason: str = ""
    seconds: float = 0.0


@dataclass
class Study:
    """What is known so far."""

    folder: Path
    about: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)
    _front: tuple[int, list[Trial]] = field(default=(0, []), repr=False, compare=False)
    """Of so many trials."""

    @property
    def goals(self) -> Goals:
        return Goals(
            tuple(self.about["objectives"]), tuple((name, value) for name, value in self.about["limits"])
        )

    def front(self) -> list[Trial]:
        """Members of the Pareto front, by the objectives in their order, the best first."""
        if self._front[0] != len(self.trials):
            measured = [t for t in self.trials if t.state == "measured"]
            chosen = [measured[i] for i in front(self.goals, [t.metrics for t in measured])]
            self._front = len(self.trials), chosen
        return list(self._front[1])

    def nearest(self) -> Trial | None:
        """What misses the limits by the least."""
        known = [t for t in self.trials if t.metrics]
        i = nearest(self.goals, [t.metrics for t in known])
        return None if i is None else known[i]

    def none_meets(self) -> ConfigError:
        """What to say where no candidate keeps all limits."""
        goals, near = self.goals, self.nearest()
        limits = ", ".join(f"{name}={value:g}" for name, value in goals.limits)
        if near is None:
            why = next((t.reason for t in self.trials if t.reason), "nothing was tried")
            return ConfigError(
                f"study {self.folder}: none of {len(self.trials)} candidates can run the model: {why}"
            )
        names = dict.fromkeys([*(name for name, _ in goals.limits), *goals.objectives])
        metrics = dict(near.metrics.get("part", {})) | dict(near.metrics)
        got = ", ".join(f"{name} {metrics[name]:.6g}" for name in names if metrics.get(name) is not None)
        missed = [name for name, v in goals.excess(metrics).items() if v > 1e-12]
        over = f", which misses {' and '.join(missed)}" if missed else ""
        return ConfigError(
            f"study {self.folder}: none of {len(self.trials)} candidates keeps the limits {limits}; the nearest, trial "
            f"{near.number}, has {got}{over}: loosen a limit, widen the space, or give more time; the study is kept"
        )

    def members(self) -> list[dict[str, Any]]:
        """The front as plain values, and its TOML files written."""
        return [self._member(i, trial) for i, trial in enumerate(self.front())]

    def _member(self, index: int, trial: Trial) -> dict[str, Any]:
        config, patterns = write_member(self.folder / "front", index, trial.candidate)
        metrics = trial.metrics
        names = [name for name in METRICS if metrics.get(name) is not None]
        return {
            "index": index,
            "trial": trial.number,
            **{name: metrics[name] for name in names},
            "clock_source": self.about["clock_source"],
            "weights": trial.candidate.config.weight_format,
            "activations": trial.candidate.config.activation_format,
            "recipe": trial.candidate.recipe,
            "channels": trial.candidate.channels,
            "sparsity": trial.candidate.sparsity,
            "layers": dict(trial.candidate.layers),
            "multipliers": metrics["multipliers"],
            "latency": trial.candidate.memory.latency,
            "outside": metrics["outside"],
            "configuration": trial.candidate.config.stated() | {"name": f"front-{index}"},
            "toml": str(config),
            "command": trial.candidate.command(
                self.about["model"], self.about["calibration"], str(config), str(patterns), self.about["board"],
                f"build-{index}", self.about["method"],
            ),
        }  # fmt: skip

    def write_results(self) -> Path:
        """The table of all candidates."""
        pa, pq = library("pyarrow"), library("pyarrow.parquet")
        on_front = {t.number: i for i, t in enumerate(self.front())}
        rows = [_row(t, on_front.get(t.number)) for t in self.trials]
        path = self.folder / RESULTS
        with replacing(path, "results") as scratch:
            pq.write_table(pa.Table.from_pylist(rows), scratch)
        return path


def _row(trial: Trial, index: int | None) -> dict[str, Any]:
    candidate = trial.candidate
    config = {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in candidate.config.to_dict().items()
        if k != "name"
    }
    own = {
        "recipe": candidate.recipe,
        "channels": candidate.channels,
        "sparsity": candidate.sparsity,
        "layers": json.dumps(dict(candidate.layers)),
        "latency": candidate.memory.latency,
        "interval": candidate.memory.interval,
    }
    measured = {f"{name}": trial.metrics.get(name) for name in METRICS}
    return {
        "trial": trial.number, "state": trial.state, "reason": trial.reason, "front": index, "seconds": trial.seconds,
        **measured, "outside": "; ".join(trial.metrics.get("outside", ())), **own, **config,
    }  # fmt: skip


def open_study(folder: Path, about: dict[str, Any]) -> Study:
    """The study in a folder, made if there is none. Raises ConfigError where another is there."""
    path = folder / FILE
    if path.is_file():
        check_same(folder, load_about(folder), about)
        return Study(folder, about)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"study {folder}: is no study and not empty; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(about, indent=1, sort_keys=True) + "\n", "study")
    return Study(folder, about)


def load_about(folder: Path) -> dict[str, Any]:
    """What a study is about. Raises ConfigError."""
    path = folder / FILE
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(
            f"study {folder}: there is none; sateen explore MODEL.onnx -o {folder} makes it"
        ) from None
    except (OSError, ValueError, TypeError) as e:
        raise ConfigError(f"study {folder}: {FILE} cannot be read ({e}); choose another folder") from None
    if found.get("version") != VERSION or found.get("sateen") != __version__:
        raise ConfigError(
            f"study {folder}: is of sateen {found.get('sateen')}, and this is {__version__}; choose another folder"
        )
    return found


def check_same(folder: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ConfigError that says in what a study differs from the one that is asked for."""
    plain = json.loads(json.dumps(wanted))
    for key, what in SAME.items():
        if there.get(key) != plain.get(key):
            before = _short(there.get(key if key[-7:] != "_sha256" else key[:-7]))
            raise ConfigError(
                f"study {folder}: was made for another {what} ({before}); give the same, or choose another folder"
            )


SAME = {
    "model_sha256": "model", "calibration_sha256": "set of calibration samples", "data_sha256": "set of data",
    "labels_sha256": "set of labels", "device": "device", "clock": "clock", "objectives": "list of objectives",
    "limits": "set of limits", "space": "space", "method": "way to prune",
}  # fmt: skip
"""What must agree for a study to go on, and what it is called."""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"


def digest(*parts: Any) -> str:
    """SHA-256 of bytes and of plain values."""
    total = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def digest_arrays(arrays: Mapping[str, Any] | None) -> str | None:
    """SHA-256 of named arrays."""
    if arrays is None:
        return None
    parts: list[Any] = []
    for name in sorted(arrays):
        parts += [name, str(arrays[name].dtype), list(arrays[name].shape), arrays[name].tobytes()]
    return digest(*parts)


def named(path: Any) -> str | None:
    """A file's path as it was given, or what stands for arrays."""
    return shown(str(path)) if isinstance(path, str | Path) else None


def is_study(path: str | Path) -> bool:
    """Whether a folder holds a study."""
    return (Path(path) / FILE).is_file()


def sequence(values: Sequence[Any]) -> list[Any]:
    """As JSON has it."""
    return [list(v) if isinstance(v, tuple) else v for v in values]
