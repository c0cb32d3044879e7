"""`sateen.explore` and `sateen.pick`, the Python side of `sateen explore`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sateen import api
from sateen.errors import ConfigError
from sateen.explorer.counts import count_members, counted
from sateen.explorer.page import write_page
from sateen.explorer.run import explore as run_search
from sateen.explorer.search import Options, parse_budget, read_study
from sateen.explorer.study import Study, digest
from sateen.formats.sparsity import DENSE
from sateen.options import Arrays, Progress, Shapes, model_path

DEFAULT_BUDGET = "10m"


def explore(
    model: str | Path,
    study: str | Path,
    *,
    calibration: Arrays | None = None,
    data: Arrays | None = None,
    labels: str | Path | np.ndarray | None = None,
    device: str = "ecp5",
    limits: Mapping[str, float] | Sequence[str] | None = None,
    objectives: str | Sequence[str] | None = None,
    space: str | Path | Mapping[str, Any] | None = None,
    budget: str | None = None,
    trials: int | None = None,
    clock: float | None = None,
    sampler: str = "auto",
    per_layer: int = 0,
    per_layer_by: str = "evolve",
    synthesize: int = 0,
    sparsity_method: str = "sparsegpt",
    seed: int = 0,
    workers: int = 1,
    scheduler: str | None = None,
    storage: str | None = None,
    shapes: Shapes | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search for the machines, formats and patterns that serve a network best.

    Parameters
    ----------
    model, study : the ONNX file; a folder, new, or with the same study, which then goes on
    calibration : real samples to quantize with, an .npz file or arrays by input, batch first
    data, labels : samples that accuracy is counted on, by default those of `calibration`, and the class of each;
        without labels accuracy is agreement with the float network
    device : "ecp5", "xcup" or a board's name
    limits : least or most of a metric: {"lut": 50000, "drop": 1.0}
    objectives : metrics, the first one first, by default "fps,lut,accuracy"
    space : a TOML file or a mapping: values for each axis, by default `sateen.explorer.space.DEFAULT`
    budget, trials : a time such as "20m", and candidates of the study in all; whichever comes first, by default 10m
    clock : MHz of every machine, where it is not to be estimated
    sampler : "auto", "tpe", "nsga2", "random" or "exhaustive"
    per_layer : members of the front with N:M weights that are given a pattern for each layer, at the same cycles
    per_layer_by : what looks for them: "evolve" by predictions, "sensitivity" by the divergence that each layer alone
        causes, "trace" by that estimated from its Hessian
    synthesize : members of the front that are built and synthesized, on a board placed, for counts beside estimates
    sparsity_method : how weights are pruned: "sparsegpt", "wanda", "magnitude"
    seed : what random choices begin with
    workers, scheduler : processes of this computer; the address of a Dask cluster, in their place
    storage : an SQL database's URL for the trials, in the place of the study's journal
    shapes : of inputs whose sizes the file leaves open, the batch first
    progress : called with the state of the search and the fraction done, 0 to 1

    Returns
    -------
    dict
        "front", a list of members, the best in the first objective first: metrics, "configuration", "toml",
        "command" and "counted", what synthesis counted of it, or None; "trials" by what became of them; "importances"
        of the axes; "results", the table of all candidates.

    Raises
    ------
    SateenError
        ConfigError where nothing keeps the limits, or for another study; DataError, ModelError, FormatError.

    Examples
    --------
    >>> found = sateen.explore("net.onnx", "study", calibration="samples.npz", limits={"lut": 20000}, trials=3)
    >>> [(member["fps"], member["lut"], member["agreement"]) for member in found["front"]]
    """
    if budget is None and trials is None:
        budget = DEFAULT_BUDGET
    seconds = None if budget is None else parse_budget(budget)
    for name, value in (("trials", trials), ("workers", workers)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} = {value}; it must be at least 1")
    for name, value in (("per_layer", per_layer), ("synthesize", synthesize)):
        if value < 0:
            raise ConfigError(f"{name} = {value}; it must be at least 0")
    if clock is not None and not clock > 0:
        raise ConfigError(f"clock = {clock:g} MHz; it must be above 0")
    options = Options(seconds, trials, sampler, seed, workers, scheduler, storage)
    found, search, _ = run_search(
        model, Path(study), calibration=calibration, data=data, labels=labels, device=device, objectives=objectives,
        limits=limits, space=space, clock=clock, method=sparsity_method, shapes=shapes, options=options,
        progress=progress or (lambda stage, fraction: None), per_layer=per_layer, per_layer_by=per_layer_by,
    )  # fmt: skip
    if synthesize:
        samples = calibration if found.about["calibration"] is None else None
        report = progress or (lambda stage, fraction: None)
        count_members(found, synthesize, lambda i, build: pick(study, i, build, calibration=samples), report)
    return summary(found, search.importances())


def summary(study: Study, importances: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What `sateen explore --json` prints, and its page written. Raises ConfigError where nothing keeps the limits."""
    members = study.members()
    if not members:
        raise study.none_meets()
    for member, trial in zip(members, study.front(), strict=True):
        member["counted"] = counted(study.folder, trial.candidate)
    about = study.about
    return {
        "study": str(study.folder),
        "model": about["model"],
        "device": about["device"],
        "objectives": about["objectives"],
        "limits": {name: value for name, value in about["limits"]},
        "trials": len(study.trials),
        "states": dict(Counter(t.state for t in study.trials)),
        "seconds": round(sum(t.seconds for t in study.trials), 1),
        "results": str(study.write_results()),
        "page": str(write_page(study, members, importances)),
        "importances": importances,
        "front": members,
    }


def pick(
    study: str | Path,
    index: int,
    build: str | Path,
    *,
    calibration: Arrays | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compile a member of a study's front.

    Parameters
    ----------
    study : the folder that `explore` wrote
    index : of the member, 0 for the best in the first objective
    build : the build folder to write
    calibration : the study's samples, where they were not given to it as a file
    progress : called with a stage's name and the fraction done, 0 to 1

    Returns
    -------
    dict
        The manifest, see `sateen.compile`.

    Raises
    ------
    SateenError
        ConfigError for a folder that is no study, an index beyond the front, or a model that has changed; what
        `sateen.compile` raises.

    Examples
    --------
    >>> found = sateen.explore("net.onnx", "study", calibration="samples.npz", limits={"lut": 20000}, trials=3)
    >>> sateen.pick("study", 0, "picked")["cycles"]
    """
    there, _ = read_study(Path(study))
    members, front = there.members(), there.front()
    if not 0 <= index < len(front):
        most = f"0 to {len(front) - 1}" if front else "none: nothing keeps the limits"
        raise ConfigError(f"study {study}: has no member {index} on its front; there are {most}")
    about, candidate = there.about, front[index].candidate
    shapes = {k: tuple(v) for k, v in about["shapes"].items()}
    path = model_path(about["model"])
    if digest(path.read_bytes(), shapes) != about["model_sha256"]:
        raise ConfigError(f"study {study}: model {path} has changed since; explore it anew")
    samples = about["calibration"] if calibration is None else calibration
    if samples is None and about["calibration_sha256"] is not None:
        raise ConfigError(f"study {study}: its calibration samples came from no file; give them again")
    return api.compile(
        path,
        build,
        calibration=samples,
        config=candidate.config.replace(name=members[index]["configuration"]["name"]),
        channels=candidate.channels,
        sparsity=DENSE.name if candidate.layers else candidate.sparsity,
        sparsity_map=dict(candidate.layers) | {"default": candidate.sparsity} if candidate.layers else None,
        sparsity_method=about["method"],
        ptq=candidate.recipe,
        board=about["board"],
        shapes=shapes or None,
        progress=progress,
    )
