"""`sateen explore` from its options to the front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sateen.arrays import check_ports
from sateen.compiler.float_executor import float_outputs, run_float
from sateen.errors import ConfigError, DataError
from sateen.explorer.evaluate import Task, first_output
from sateen.explorer.goals import METRICS, Goals, parse_limits, parse_objectives
from sateen.explorer.refine import refine
from sateen.explorer.search import Options, Search
from sateen.explorer.space import Space, default_space, load_space, space_of
from sateen.explorer.study import (
    FILE,
    VERSION,
    Study,
    check_same,
    digest,
    digest_arrays,
    load_about,
    named,
    open_study,
)
from sateen.explorer.target import Target, find_target
from sateen.files import load_entry, shown, store_entry
from sateen.ir.graph import Graph
from sateen.ir.ports import Port
from sateen.machine.config import AcceleratorConfig
from sateen.options import SPARSITY_METHODS, Arrays, Shapes, model_path
from sateen.reporting.labels import load_labels
from sateen.samples import is_random, load_samples
from sateen.version import __version__

Progress = Callable[[str, float], None]


def explore(
    model: str | Path,
    folder: Path,
    *,
    calibration: Arrays | None,
    data: Arrays | None,
    labels: str | Path | np.ndarray | None,
    device: str,
    objectives: str | Sequence[str] | None,
    limits: Sequence[str] | Mapping[str, float] | None,
    space: str | Path | Mapping[str, Any] | None,
    clock: float | None,
    method: str,
    shapes: Shapes | None,
    options: Options,
    progress: Progress,
    per_layer: int = 0,
    per_layer_by: str = "evolve",
) -> tuple[Study, Search, Task]:
    """Search, or go on; what is found. Raises SateenError."""
    progress("import", 0.0)
    path = model_path(model)
    wanted = parse_objectives(objectives, labels is not None)
    given = parse_limits(limits, labels is not None)
    target = find_target(device, clock, wanted)
    goals = Goals(wanted, target.limits(given))
    base = target.machine
    chosen = _space(space, base, target)
    if method not in SPARSITY_METHODS or method == "keep":
        raise ConfigError(f"sparsity method '{method}'; it must be magnitude, wanda or sparsegpt")
    if is_random(calibration) or is_random(data):
        raise DataError("samples are random, and accuracies of such mean nothing; give real ones")

    def ports() -> Sequence[Port]:
        return _graph(path, shapes).inputs

    samples = None if calibration is None else load_samples(calibration, ports, "calibration data")
    tested = samples if data is None else load_samples(data, ports, "data")
    if data is None and labels is not None:
        raise DataError("labels are given without data; give --data X.npz with the samples that they are of")
    about = _about(
        path, target, goals, chosen, method, shapes,
        calibration=(named(calibration), samples), data=(named(data), tested), labels=labels,
        storage=options.storage,
    )  # fmt: skip
    if (folder / FILE).is_file():  # before the model is read: a study of another is refused at once
        check_same(folder, load_about(folder), about)
    graph = _graph(path, shapes)
    checked = _checked(graph, goals, tested)
    study = open_study(folder, about)
    task = _task(path, graph, folder, target, goals, method, samples, checked, labels, about, progress)
    search = Search(study, chosen, options)
    search.run(task, progress)
    if per_layer:
        refine(search, task, per_layer, progress, per_layer_by)
    return study, search, task


def _space(space: str | Path | Mapping[str, Any] | None, base: AcceleratorConfig, target: Target) -> Space:
    if space is None:
        return default_space(base, target.memory)
    if isinstance(space, Mapping):
        return space_of(space, "space", base, target.memory)
    return load_space(space, base, target.memory)


def _about(
    path: Path,
    target: Target,
    goals: Goals,
    space: Space,
    method: str,
    shapes: Shapes | None,
    *,
    calibration: tuple[str | None, Mapping[str, np.ndarray] | None],
    data: tuple[str | None, Mapping[str, np.ndarray] | None],
    labels: str | Path | np.ndarray | None,
    storage: str | None,
) -> dict[str, Any]:
    base = {k: v for k, v in space.base.to_dict().items() if k not in space.axes}
    timing = [space.memory.latency, space.memory.interval]
    return {
        "version": VERSION,
        "sateen": __version__,
        "model": shown(str(path)),
        "model_sha256": digest(path.read_bytes(), dict(shapes or {})),
        "calibration": calibration[0],
        "calibration_sha256": digest_arrays(calibration[1]),
        "data": data[0],
        "data_sha256": digest_arrays(data[1]),
        "labels": named(labels),
        "labels_sha256": None if labels is None else digest_arrays({"labels": _labels(labels, data[1])}),
        "device": target.name,
        "board": None if target.board is None else target.board.name,
        "clock": target.clock_mhz,
        "clock_source": target.clock_source,
        "objectives": list(goals.objectives),
        "limits": [list(pair) for pair in goals.limits],
        "space": {"axes": {k: list(v) for k, v in space.axes.items()}, "base": base, "memory": timing},
        "method": method,
        "storage": storage,
        "shapes": {k: list(v) for k, v in (shapes or {}).items()},
    }


def _labels(labels: str | Path | np.ndarray, data: Mapping[str, np.ndarray] | None) -> np.ndarray:
    count = len(next(iter((data or {}).values()), ()))
    if isinstance(labels, str | Path):
        return load_labels(labels, count)
    found = np.asarray(labels)
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise DataError(f"labels: are {found.dtype} {found.shape}; they must be integers of shape ({count},)")
    return found


def _graph(path: Path, shapes: Shapes | None) -> Graph:
    from sateen.stages import load

    return load(path, shapes=shapes)._graph()


def _checked(graph: Graph, goals: Goals, data: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """The samples that accuracy is counted on; none where nothing asks for it."""
    names = (*goals.objectives, *(name for name, _ in goals.limits))
    dear = next((name for name in names if METRICS[name].dear), None)
    if dear is None:
        return {}
    if data is None:
        raise DataError(f"{dear} needs samples; give --calibration X.npz, and --data X.npz with more of them")
    ports = {p.source: list(p.shape) for p in graph.inputs}
    return check_ports({k: a for k, a in data.items() if k not in graph.unused}, ports, "data")


def _task(
    path: Path,
    graph: Graph,
    folder: Path,
    target: Target,
    goals: Goals,
    method: str,
    calibration: dict[str, np.ndarray] | None,
    data: dict[str, np.ndarray],
    labels: str | Path | np.ndarray | None,
    about: Mapping[str, Any],
    progress: Progress,
) -> Task:
    identity = digest(
        *(about[k] for k in ("sateen", "model_sha256", "calibration_sha256", "data_sha256", "labels_sha256")),
        method,
    )
    cache = folder / "cache"
    entry = cache / f"float-{identity[:24]}"
    if not data:
        expected = np.zeros((0, 0))
    elif (kept := load_entry(entry)) is not None:
        expected = np.frombuffer(kept, np.float64).reshape(len(next(iter(data.values()))), -1)
    else:
        progress("float network", 0.0)
        expected = first_output(float_outputs(graph, run_float(graph, data)))
        store_entry(entry, expected.tobytes())
    truth = None if labels is None or not data else _labels(labels, data)
    return Task(
        shown(str(path)), graph, calibration, data, expected, truth, target, goals, method, cache, identity
    )
