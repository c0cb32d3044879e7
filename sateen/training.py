"""`sateen.train`: a network trained on the numbers of the array, from an ONNX file to a build folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sateen.arrays import check_ports
from sateen.errors import BuildError, ConfigError, DataError, ModelError
from sateen.files import check_writable, write_file
from sateen.machine.config import AcceleratorConfig
from sateen.machine.presets import PRESETS
from sateen.machine.presets import preset as preset_config
from sateen.options import Arrays, Machine, Progress, Shapes, choose_config, default_machine, model_path
from sateen.reporting.labels import load_labels
from sateen.samples import load_samples

if TYPE_CHECKING:
    from sateen.compiler.training import Plan, Samples, Settings, State
    from sateen.compiler.training.machine import Step

TRAINED = "trained.onnx"
BUILD = "build"
REPORT = "report.html"
CALIBRATION = 256
"""Training samples that the trained network is calibrated on, at most."""


def train(
    model: str | Path,
    run: str | Path,
    data: Arrays,
    labels: str | Path | np.ndarray,
    *,
    sparsity: str = "2:8",
    method: str = "bdwp",
    weights: str = "int8",
    activations: str = "int8",
    gradients: str = "int8",
    epochs: int = 10,
    batch: int = 32,
    rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    pruned_decay: float = 2e-4,
    scratch: bool = False,
    seed: int = 0,
    test: tuple[Arrays, str | Path | np.ndarray] | None = None,
    preset: str | None = None,
    shapes: Shapes | None = None,
    build: bool = True,
    machine: Machine | None = "train256",
    engine: str = "reference",
    steps: int = 1,
    trace: str | Path | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train an ONNX network with N:M sparse weights and codes of at most 8 bits, on exact sums.

    A run that was interrupted goes on, to the same bits, when it is asked for again.

    Parameters
    ----------
    model, run : the file; the folder of the run, new, empty or with a run that is to go on
    data, labels : samples as `compile` takes them for calibration; the class of each, an array or a file with one
    sparsity, method : "N:M", and how it is kept: "bdwp" (forward along input channels, backward along output channels),
        "sr-ste" (the forward selection in both), "dense"; the first and the last layer stay dense
    weights, activations, gradients : format names, with a sign
    epochs, batch : passes over the samples; samples of a step
    rate, momentum, weight_decay, pruned_decay : of the steps; the rate's greatest, see docs/training.md
    scratch, seed : begin at random weights; what that and the samples' order come from
    test : samples and labels that each epoch is tested on
    preset : the machine of the build, by default the one for the pattern
    shapes : of inputs whose sizes the file leaves open, the batch first
    build : whether to compile the trained network into RUN/build
    machine : on which a step's cycles are counted, or steps are run; None counts none
    engine, steps : "reference" trains; "program" or "rtl" does so many steps from where the run is, there and in the
        reference, compares after each, and leaves the run as it was
    trace : a file for the time of each instruction of a step, its passes apart, for Perfetto or Chrome; of `steps` the
        first
    report : called after each step with a dict: "epoch", "loss", "accuracy", "step", "steps", "end"
    progress : called with a stage's name and the fraction done, 0 to 1

    Returns
    -------
    dict
        "loss" and "accuracy" of the last epoch, "test" if there were such samples, "epochs", "steps", "history",
        "cycles" of a step by pass ("ff", "bp", "wu", "update", "total", "layers"), and the files: "trained", "build".
        Of steps in an engine: "equal", "differences" of each step, "loss", "accuracy", "cycles".

    Raises
    ------
    SateenError
        A network without a gradient, labels that do not fit, a folder of another run, a run that diverges: its last
        state is kept.

    Examples
    --------
    >>> result = sateen.train("net.onnx", "run", {"input": images}, labels, epochs=2, batch=8)
    >>> result["accuracy"]
    """
    from sateen.compiler.importer import import_model
    from sateen.compiler.training import (
        Samples,
        Settings,
        check_labels,
        curve,
        make_plan,
        with_masters,
        write_onnx,
    )
    from sateen.compiler.training import train as run_training
    from sateen.reporting.training import write_page

    if trace is not None:
        if machine is None:
            raise DataError(f"trace {trace}: a step's time needs a machine; name one, such as train256")
        check_writable(Path(trace), "trace")
    folder = _folder(Path(run))
    settings = Settings(
        sparsity, method, weights, activations, gradients, epochs, batch, rate, momentum, weight_decay,
        pruned_decay, scratch, seed,
    )  # fmt: skip
    if progress:
        progress("import", 0.0)
    plan = make_plan(import_model(model_path(model), shapes), settings)
    port = plan.graph.inputs[0]
    unused = set(plan.graph.unused)

    def samples(x: Arrays, y: str | Path | np.ndarray, what: str) -> tuple[np.ndarray, Samples]:
        loaded = load_samples(x, lambda: plan.graph.inputs, f"{what} data")
        given = {name: a for name, a in loaded.items() if name not in unused}
        values = check_ports(given, {port.source: port.shape}, f"{what} data")[port.source]
        classes = check_labels(load_labels(y, len(values)), plan.classes)
        return values, Samples(port.to_hwc(values).astype(np.float32), classes)

    values, found = samples(data, labels, "training")
    held_out = None if test is None else samples(*test, "test")[1]
    settings.check(len(values))

    def step(row: dict[str, Any]) -> None:
        if progress:
            progress(
                f"epoch {row['epoch']}: loss {row['loss']:.4f}, accuracy {100 * row['accuracy']:.1f} %",
                row["step"] / row["steps"],
            )
        if report:
            report(row)

    if engine != "reference":
        return _steps(plan, settings, found, folder, engine, steps, machine, trace, progress)
    state = run_training(plan, settings, found, folder, test=held_out, report=step)
    write_onnx(folder / TRAINED, plan.graph, with_masters(plan, settings, state))
    rows = curve(state)
    result: dict[str, Any] = {**rows[-1], "epochs": epochs, "steps": state.step}
    del result["epoch"]
    result |= {"history": rows, "trained": str(folder / TRAINED)}
    if machine is not None:
        if progress:
            progress("cycles", 1.0)
        result["cycles"], result["cycles_note"] = _cycles(plan, settings, found, state, machine, trace)
    write_page(folder / REPORT, plan, settings, rows, result.get("cycles"))
    if build:
        from sateen.compiler.pipeline import compile_model
        from sateen.fpga.estimate.resource_model import luts

        pattern = settings.pattern
        machine = choose_config(None, preset, weights, activations)
        if preset is None:
            machine = default_machine((pattern,), machine)
        compile_model(
            folder / TRAINED, folder / BUILD, config=machine, calibration={port.source: values[:CALIBRATION]},
            sparsity=pattern, sparsity_method="magnitude" if pattern.dense else "keep", luts=luts,
            progress=progress,
        )  # fmt: skip
        result["build"] = str(folder / BUILD)
    return result


def _folder(folder: Path) -> Path:
    """The run's folder, made if it is not there. Raises BuildError for one that holds something else."""
    from sateen.compiler.training.loop import STATE

    try:
        folder.mkdir(parents=True, exist_ok=True)
        strange = sorted(p.name for p in folder.iterdir()) if not (folder / STATE).exists() else []
    except OSError as e:
        raise BuildError(
            f"{folder}: cannot be the folder of a run ({e.strerror}); choose another -o"
        ) from None
    if strange:
        raise BuildError(
            f"{folder}: is not empty, it holds '{strange[0]}', and no training run; choose another -o"
        )
    return folder


def _machine(given: Machine) -> AcceleratorConfig:
    if isinstance(given, AcceleratorConfig):
        return given
    return preset_config(str(given)) if str(given) in PRESETS else AcceleratorConfig.load(given)


def _cycles(
    plan: Plan, settings: Settings, data: Samples, state: State, machine: Machine, trace: str | Path | None
) -> tuple[dict[str, Any] | None, str]:
    """Of a step with the first batch; or why there are none."""
    from sateen.compiler.training import Trainer, cycles, record

    trainer = Trainer(plan, settings, state)
    n = settings.batch
    try:
        step = record(trainer, data.x[:n], data.labels[:n], settings.rate, _machine(machine))
        if trace is not None:
            _write_trace(step, plan, trace)
        return cycles(step), ""
    except (ConfigError, ModelError) as e:
        return None, str(e)


def _write_trace(step: Step, plan: Plan, path: str | Path) -> None:
    from sateen.compiler.training import PASSES, events
    from sateen.reporting.trace import step_trace

    title = f"a step of {plan.graph.name or 'the network'} on {step.config.name}"
    write_file(Path(path), json.dumps(step_trace(events(step), PASSES, title)), "trace")


def _steps(
    plan: Plan, settings: Settings, data: Samples, folder: Path, engine: str, steps: int, machine: Machine | None,
    trace: str | Path | None, progress: Progress | None,
) -> dict[str, Any]:  # fmt: skip
    """`steps` of the run in an engine and in the reference."""
    from sateen.compiler.training import Trainer, batch_of, begin, cycles, differences, record

    if engine not in ("program", "rtl"):
        raise DataError(f"unknown engine '{engine}' of training; choose one of reference, program, rtl")
    if machine is None:
        raise DataError(f"engine '{engine}' needs a machine; name one, such as train256")
    trainer = Trainer(plan, settings, begin(plan, settings, data, folder))
    config = _machine(machine)
    found: dict[str, Any] = {"engine": engine, "steps": steps, "equal": True, "differences": []}
    for k in range(steps):
        chosen, rate, _ = batch_of(settings, len(data.x), trainer.state.step)
        step = record(trainer, data.x[chosen], data.labels[chosen], rate, config)
        if trace is not None and k == 0:
            _write_trace(step, plan, trace)

        def part(fraction: float, k: int = k) -> None:
            if progress:
                progress(f"{engine}, step {k + 1}", (k + fraction) / steps)

        compared = differences(step, engine, part)
        found["differences"].append(compared["differences"])
        found["equal"] = found["equal"] and not compared["differences"]
        found |= {"loss": step.result.loss, "accuracy": step.result.correct / settings.batch}
        found["cycles"] = cycles(step) | ({"rtl": compared["cycles"]} if engine == "rtl" else {})
    return found
