"""The Python interface: one function per command, same options, same errors, no printing.

import sateen
sateen.compile("net.onnx", "build", calibration="samples.npz", preset="tiny", weights="e3m2")
result = sateen.run("build", {"x": images}, engine="rtl")
sateen.cost("build", device="ecp5")
sateen.estimate(preset="sat256")
sateen.report("build")
sateen.bitstream("build", board="ulx3s-85f")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sateen.arrays import check_ports, load_npz
from sateen.errors import ConfigError, DataError, ModelError
from sateen.files import check_writable
from sateen.formats import SparsityPattern, parse_format, parse_sparsity
from sateen.formats.sparsity import DENSE
from sateen.machine.config import AcceleratorConfig
from sateen.machine.presets import preset as preset_config
from sateen.manifest import read_file, read_manifest

if TYPE_CHECKING:
    from sateen.compiler.check import Finding
    from sateen.compiler.ptq.recipe import Recipe
    from sateen.sim.engines import RunResult

Progress = Callable[[str, float], None]
"""Called with a stage's name and the fraction done, 0 to 1."""

Arrays = str | Path | Mapping[str, np.ndarray]
"""A file's path, or one array per graph input, batch first."""
Shapes = Mapping[str, Sequence[int]]
"""By graph input, the batch first."""

ENGINES = ("reference", "program", "model", "rtl")
BOARD = "board"
"""Not an engine of its own: the RTL, on a chip."""
DEFAULT_BAUD = 115200
DEFAULT_ATTEMPTS = 3
"""Placements of a bitstream, at most."""
SCALES = ("mse", "minmax", "percentile", "entropy")
SPARSITY_METHODS = ("magnitude", "wanda", "sparsegpt", "keep")
DEFAULT_PRESET = "mac256"
DEFAULT_PTQ = "fast"
SPARSE_PRESET = "sat256"


def check(model: str | Path, *, shapes: Shapes | None = None) -> list[Finding]:
    """One finding per node of the ONNX file: supported, or why not and what to do. Raises ModelError.

    `shapes` are those of inputs whose sizes the file leaves open, the batch first: {"input": (1, 3, 320, 320)}.
    """
    from sateen.compiler.check import check_model

    return check_model(_model_path(model), shapes)


def compile(
    model: str | Path,
    build: str | Path,
    *,
    calibration: Arrays | None = None,
    config: AcceleratorConfig | str | Path | None = None,
    preset: str | None = None,
    weights: str | None = None,
    activations: str | None = None,
    sparsity: str = "dense",
    sparsity_method: str = "sparsegpt",
    ptq: str | Path = DEFAULT_PTQ,
    scales: str | None = None,
    power_of_two: bool = False,
    dataflow: str = "auto",
    board: str | None = None,
    shapes: Shapes | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compile an ONNX file into the folder `build` and return its manifest.

    `config` is a configuration or a TOML file's path; otherwise `preset` names one (default that of the `board`, for
    which bitstreams are then made; without one "mac256", or "sat256" with an N:M `sparsity`, to which all layers but
    the first and the last are pruned).
    `ptq` is a recipe: "fast", "balanced", "best", "learned" (needs PyTorch) or a TOML file's path; `scales` ("mse",
    "minmax", "percentile", "entropy") replaces the way in which it finds the scales of activations.
    `dataflow` is one of those that the machine is built for, or "auto" for the faster one of each layer.
    `shapes` are those of inputs whose sizes the file leaves open, the batch first: {"input": (1, 3, 320, 320)}.
    With `power_of_two` all scales are powers of two, so that requantization is a shift.
    `weights` and `activations` are format names that replace the configuration's. A model that is quantized already
    keeps its scales, brings its formats unless they are given here or by `config`, needs no `calibration` if it says
    how every tensor is rounded, and takes only recipes that change neither weights nor scales. Raises SateenError.
    """
    from sateen.compiler.pipeline import compile_model

    pattern = parse_sparsity(sparsity)
    if board is not None:
        from sateen.fpga.boards.catalog import board as find

        machine = find(board).name
        preset = machine if config is None and preset is None else preset
    if config is None and preset is None:
        preset = SPARSE_PRESET if not pattern.dense else DEFAULT_PRESET
    chosen = choose_config(config, preset, weights, activations)
    recipe = choose_recipe(ptq, scales, power_of_two)
    path = _model_path(model)
    samples = None if calibration is None else _arrays(calibration, "calibration data")
    return compile_model(
        path,
        Path(build),
        config=chosen,
        calibration=samples,
        fixed_formats=(
            config is not None or weights is not None,
            config is not None or activations is not None,
        ),
        recipe=recipe,
        sparsity=pattern,
        sparsity_method=sparsity_method,
        dataflow=dataflow,
        board=board,
        shapes=shapes,
        progress=progress,
    )


def run(
    build: str | Path,
    inputs: Arrays,
    engine: str = "reference",
    *,
    latency: int = 32,
    interval: int = 1,
    trace: str | Path | None = None,
    port: str | None = None,
    baud: int | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run a build on inputs with one engine. `latency` and `interval` are the memory's, in cycles (docs/isa.md).

    Engine "board" runs it on the board at the serial device `port`, whose memory has a timing of its own. `baud` is
    by default what the build's bitstreams were made for.

    Raises BuildError, DataError, LinkError.
    """
    from sateen.board import run_on_board
    from sateen.sim.engines import run_build

    if engine not in (*ENGINES, BOARD):
        raise DataError(f"unknown engine '{engine}'; choose one of {', '.join((*ENGINES, BOARD))}")
    if (engine == BOARD) != (port is not None):
        raise DataError(
            "engine 'board' needs the serial device that the board is on; give it with --port"
            if port is None
            else f"a port is for engine 'board', not '{engine}'; use --engine board or leave --port out"
        )
    for name, value in (("latency", latency), ("interval", interval)):
        if value < 1:
            raise DataError(f"memory {name} = {value}; it must be at least 1 cycle")
    if trace is not None and engine != "rtl":
        raise DataError(
            f"a trace needs the RTL, not engine '{engine}'; use --engine rtl or leave --trace out"
        )
    if trace is not None:
        check_writable(trace, "trace")
    folder = Path(build)
    declared = read_manifest(folder)["inputs"]
    ports = {p["name"]: p["shape"] for p in declared if p.get("used", True)}
    given = _arrays(inputs, "inputs")
    unused = {p["name"] for p in declared} - set(ports)
    arrays = check_ports({k: a for k, a in given.items() if k not in unused}, ports, "inputs")
    if port is not None:
        if baud is None:
            baud = _baud(folder)
        return run_on_board(folder, arrays, port, baud=baud, progress=progress)
    return run_build(
        folder,
        arrays,
        engine,
        latency=latency,
        interval=interval,
        trace=None if trace is None else Path(trace),
        progress=progress,
    )


def cost(build: str | Path, device: str | None = None, *, progress: Progress | None = None) -> dict[str, Any]:
    """Exact resource counts of the generated Verilog; None counts for all device families. See `fpga.cost`."""
    from sateen.fpga.flow.cost import cost as count

    folder = Path(build)
    read_file(folder, read_manifest(folder), "accelerator.v")
    return count(folder, device, progress=progress)


def estimate(
    machine: AcceleratorConfig | str | Path | None = None,
    device: str | None = None,
    *,
    preset: str | None = None,
) -> dict[str, Any]:
    """Resources and clock of a machine as models estimate them; None is for all device families.

    `machine` is a configuration, its TOML file, or a build, whose energy for a sample is estimated, too; or there is a
    `preset`. "ecp5" also has a "clock". Takes milliseconds and synthesizes nothing. See `fpga.resource_model.estimate`,
    `fpga.clock_model.estimate_clock` and `fpga.energy`. Raises ConfigError, BuildError.
    """
    from sateen.fpga.estimate import clock_model
    from sateen.fpga.estimate.energy import energy
    from sateen.fpga.estimate.resource_model import estimate as resources

    def predict(config: AcceleratorConfig) -> dict[str, Any]:
        found = resources(config, device)
        if family := found["devices"].get(clock_model.FAMILY):
            family["clock"] = clock_model.estimate_clock(config)
        return found

    if (machine is None) == (preset is None):
        raise ConfigError(
            "nothing to estimate is given; give a build, a configuration or a preset"
            if machine is None
            else f"both {machine} and preset '{preset}' are given; choose one"
        )
    if isinstance(machine, str | Path) and not Path(machine).is_file():
        folder = Path(machine)
        manifest = read_manifest(folder)
        config = AcceleratorConfig.from_dict(manifest["config"], f"build {machine}")
        totals = json.loads(read_file(folder, manifest, "schedule.json"))["totals"]
        return predict(config) | {"energy": energy(totals, config)}
    return predict(choose_config(machine, preset, None, None))


def report(build: str | Path, output: str | Path | None = None, sweep: str | Path | None = None) -> Path:
    """Write the build's HTML page, BUILD/report.html if no path is given, and return its path.

    With `sweep`, what benchmarks/format_sweep.py wrote, it has a section on accuracy and cost by format.
    """
    from sateen.reporting.page import write_report

    return write_report(
        Path(build), None if output is None else Path(output), None if sweep is None else Path(sweep)
    )


def bitstream(
    build: str | Path,
    board: str | None = None,
    *,
    clock: float | None = None,
    baud: int = DEFAULT_BAUD,
    seed: int = 1,
    attempts: int = DEFAULT_ATTEMPTS,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make the bitstream for a board, by default the one that the build was compiled for; return what was measured.

    `clock` is in MHz, by default the board's. A placement that misses it by little is followed by those of the next
    seeds, `attempts` in all. Raises LimitError if the machine does not fit or misses that clock.
    """
    from sateen.bitstreams import make_bitstream

    return make_bitstream(
        Path(build),
        board,
        clock_mhz=clock,
        baud=baud,
        seed=seed,
        attempts=attempts,
        output=None if output is None else Path(output),
        progress=progress,
    )


def vivado(
    build: str | Path, board: str, *, clock: float | None = None, output: str | Path | None = None
) -> list[Path]:
    """Write a Vivado project for a board that needs one, into `output` or BUILD/vivado/BOARD; return its files.

    `clock` is in MHz, by default the board's. Raises ConfigError and BuildError.
    """
    from sateen.fpga.flow.vivado import export_vivado, vendor_board
    from sateen.sim.engines import Build

    b, target = Build(Path(build)), vendor_board(board)
    if clock is not None:
        if target.system == "pcie":
            raise ConfigError(f"board '{board}': its clock is the PCIe bridge's; leave --clock out")
        target = replace(target, clock_mhz=clock)
    folder = b.folder / "vivado" / board if output is None else Path(output)
    return export_vivado(b.read("accelerator.v").decode(), target, folder, b.image())


def _baud(build: Path) -> int:
    """Of the build's bitstreams, where all agree."""
    from sateen.bitstreams import bitstreams
    from sateen.sim.engines import Build

    rates = {found["baud"] for found in bitstreams(Build(build))}
    if len(rates) > 1:
        raise DataError(
            f"build {build}: its bitstreams have {', '.join(map(str, sorted(rates)))} baud; say which with --baud"
        )
    return rates.pop() if rates else DEFAULT_BAUD


def choose_config(
    config: AcceleratorConfig | str | Path | None,
    preset: str | None,
    weights: str | None,
    activations: str | None,
) -> AcceleratorConfig:
    """The configuration that the options ask for. Raises ConfigError, FormatError."""
    if config is not None and preset is not None:
        raise ConfigError("both a configuration and a preset are given; choose one")
    if isinstance(config, AcceleratorConfig):
        chosen = config
    elif config is not None:
        chosen = AcceleratorConfig.load(config)
    else:
        chosen = preset_config(preset or DEFAULT_PRESET)
    formats = {"weight_format": weights, "activation_format": activations}
    given = {k: v for k, v in formats.items() if v is not None}
    for name in given.values():
        parse_format(name)
    return chosen.replace(**given)


def default_machine(pattern: SparsityPattern, formats: AcceleratorConfig) -> AcceleratorConfig:
    """The preset for a pattern where no machine is named, with these formats."""
    base = preset_config(DEFAULT_PRESET if pattern.dense else SPARSE_PRESET)
    if pattern.name not in base.patterns:  # as many elements in wider groups
        rows = max(1, base.elements // pattern.m)
        base = base.replace(rows=rows, group=pattern.m, patterns=(DENSE.name, pattern.name))
    return base.replace(weight_format=formats.weight_format, activation_format=formats.activation_format)


def choose_recipe(ptq: str | Path, scales: str | None, power_of_two: bool) -> Recipe:
    """The recipe that the options ask for. Raises ConfigError, DataError."""
    from sateen.compiler.ptq.recipe import load_recipe

    if scales is not None and scales not in SCALES:
        raise DataError(f"unknown scale search '{scales}'; choose one of {', '.join(SCALES)}")
    recipe = load_recipe(ptq)
    return replace(recipe, scales=scales or recipe.scales, power_of_two=power_of_two or recipe.power_of_two)


def _model_path(model: str | Path) -> Path:
    path = Path(model)
    if not path.exists():
        raise ModelError(f"model {path}: no such file; give an ONNX file")
    if path.is_dir():
        raise ModelError(f"model {path}: is a folder; give an ONNX file")
    return path


def _arrays(given: Arrays, what: str) -> dict[str, np.ndarray]:
    if isinstance(given, str | Path):
        return load_npz(given, what)
    return {name: np.asarray(array) for name, array in given.items()}
