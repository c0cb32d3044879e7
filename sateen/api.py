"""The Python interface to networks: one function per command, same options, same errors, no printing.

import sateen
sateen.compile("net.onnx", "build", calibration="samples.npz", preset="tiny", weights="e3m2")
result = sateen.run("build", {"x": images}, engine="rtl")
sateen.report("build")

What an FPGA takes of a build is in `sateen.hardware`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sateen.arrays import check_ports
from sateen.errors import DataError
from sateen.files import check_writable
from sateen.machine.config import AcceleratorConfig
from sateen.options import (
    BOARD,
    DEFAULT_BAUD,
    DEFAULT_PRESET,
    DEFAULT_PTQ,
    ENGINES,
    FLOAT,
    SIMULATED,
    SPARSE_PRESET,
    Arrays,
    Progress,
    Shapes,
    SparsityMap,
    Values,
    choose_config,
    choose_patterns,
    choose_recipe,
    model_path,
)
from sateen.samples import RANDOM, RANDOM_MEANS_NOTHING, early, is_random, load_samples

if TYPE_CHECKING:
    import numpy as np

    from sateen.compiler.check import Finding
    from sateen.compiler.ptq.recipe import Recipe
    from sateen.sim.engines import Build as Opened
    from sateen.sim.engines import RunResult


def check(
    model: str | Path,
    *,
    shapes: Shapes | None = None,
    values: Values | None = None,
    until: Sequence[str] = (),
) -> list[Finding]:
    """Say of each node of an ONNX file whether it is supported.

    Parameters
    ----------
    model : the file's path
    shapes : of inputs whose sizes the file leaves open, the batch first: {"input": (1, 3, 320, 320)}
    values : inputs that are the same for every sample, and so constants: {"sr": 16000}
    until : tensors of the file at which it is cut; what follows is not looked at

    Returns
    -------
    list of Finding
        In the file's order, each with `node`, `op_type`, `supported` (None where that depends on a node that is not),
        `reason`, `remedy` and `to_dict()`.

    Raises
    ------
    ModelError
        The file cannot be read.

    Examples
    --------
    >>> findings = sateen.check("net.onnx")
    >>> [str(f) for f in findings if not f.supported]
    """
    from sateen.compiler.check import check_model
    from sateen.compiler.pipeline import parted

    return check_model(parted(model_path(model), until)[0], shapes, values)


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
    sparsity_map: SparsityMap | None = None,
    channels: float = 1.0,
    ptq: str | Path | Recipe = DEFAULT_PTQ,
    scales: str | None = None,
    power_of_two: bool = False,
    dataflow: str = "auto",
    batch: int = 1,
    board: str | None = None,
    shapes: Shapes | None = None,
    values: Values | None = None,
    until: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compile an ONNX file into a build folder: program, weights, Verilog, exact cycles.

    Parameters
    ----------
    model, build : the file; the folder, new, empty or with a build that is to be replaced
    calibration : real samples, batch first: an .npz file or arrays by input, an .npy file, a folder of images or
        `Images` for the one input; "random" for cycles and cost alone; a file that says how every tensor is rounded
        needs none
    config, preset : the machine, as a configuration or a TOML file's path, or as a preset's name; by default the
        board's, "sat256" with an N:M `sparsity`, else "mac256"
    weights, activations : format names such as "int8", "e3m2", which replace the configuration's; by default int8, or
        those of a file that is quantized already
    sparsity, sparsity_method : "N:M", to which all layers but the first and the last are pruned, and how: "sparsegpt",
        "wanda", "magnitude"; "keep" prunes nothing and refuses weights that break the pattern
    sparsity_map : patterns of single layers, in the place of `sparsity`: a TOML file, or {"conv1": "2:4", "default":
        "2:8"}; first and last are pruned where they are named
    channels : the most that is left of the array's work when whole channels are removed, those that matter the least,
        above 0; 1 removes none
    ptq : a recipe: "auto" ("fast" at integers of 8 bits, else "balanced"), "fast", "balanced", "best", "learned" (needs
        PyTorch), a TOML file's path, a `Recipe`
    scales : how it finds scales of activations, if not its own way: "mse", "minmax", "percentile", "entropy"
    power_of_two : all scales are powers of two, so that requantization is a shift
    dataflow : "weight_stationary", "output_stationary", or "auto" for the faster one of each layer
    batch : samples that a run computes together, so that weights are read once for all from the layer on where that
        is faster
    board : for which bitstreams will be made
    shapes : of inputs whose sizes the file leaves open, the batch first: {"input": (1, 3, 320, 320)}
    values : inputs that are the same for every sample, and so constants: {"sr": 16000}
    until : tensors of the file at which it is cut; what follows is kept in the build for the host, see `run`
    progress : called with a stage's name and the fraction done, 0 to 1

    Returns
    -------
    dict
        The manifest: "cycles" of a run of "batch" samples, "macs", "totals", "config", "files" with their hashes, and
        more.

    Raises
    ------
    SateenError
        ModelError, DataError, FormatError, ConfigError or BuildError; a build that was there before is left as it was.

    Examples
    --------
    >>> manifest = sateen.compile("net.onnx", "build", calibration="samples.npz", preset="tiny")
    >>> manifest["cycles"]
    """
    from sateen.compiler.pipeline import compile_model
    from sateen.fpga.estimate.resource_model import luts

    pattern, layers = choose_patterns(sparsity, sparsity_map)
    if board is not None:
        from sateen.fpga.boards.catalog import board as find

        machine = find(board).name
        preset = machine if config is None and preset is None else preset
    if config is None and preset is None:
        sparse = any(not p.dense for p in (pattern, *layers.values()))
        preset = SPARSE_PRESET if sparse else DEFAULT_PRESET
    chosen = choose_config(config, preset, weights, activations)
    recipe = choose_recipe(ptq, scales, power_of_two)
    path = model_path(model)
    given = None if calibration is None else early(calibration, "calibration data")
    return compile_model(
        path,
        Path(build),
        config=chosen,
        calibration=None
        if given is None
        else lambda graph: load_samples(given, lambda: graph.inputs, "calibration data"),
        random=is_random(calibration),
        fixed_formats=(
            config is not None or weights is not None,
            config is not None or activations is not None,
        ),
        recipe=recipe,
        sparsity=pattern,
        sparsity_method=sparsity_method,
        sparsity_layers=layers,
        channels=channels,
        dataflow=dataflow,
        batch=batch,
        board=board,
        shapes=shapes,
        values=values,
        until=until,
        luts=luts,
        progress=progress,
    )


def run(
    build: str | Path | Opened,
    inputs: Arrays,
    engine: str = "reference",
    *,
    latency: int = 32,
    interval: int = 1,
    trace: str | Path | None = None,
    port: str | None = None,
    baud: int | None = None,
    labels: str | Path | np.ndarray | None = None,
    host: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Run a build on samples with one engine; outputs are the same bits in each but "float".

    Parameters
    ----------
    build : a folder that `compile` wrote; one that is open is not read again
    inputs : samples as `compile` takes them for calibration
    engine : "reference", "program", "model" (cycles alone), "rtl" (Verilator), or "board" (on `port`);
        "float" is the network as it was imported, before it was pruned and rounded
    latency, interval : of the memory, in cycles: to the first beat of a read, and from beat to beat (docs/isa.md)
    trace : a waveform file (.fst) of the whole run, so give few samples, with layouts for viewers; engine "rtl"
    port, baud : the board's serial device ("sim": the chip with its pins is simulated), and its bits per second
        (default: what the build's bitstreams have)
    host : also run what follows where the file was cut (`until`), with ONNX Runtime: `outputs` are the file's own
    labels : the class of each sample, (N,) integers or an .npz file with them: `accuracy` then says how many outputs
        are right, here and in the float network
    progress : called with the engine's name and the fraction done, 0 to 1

    Returns
    -------
    RunResult
        `outputs` by name, float32, batch first; `cycles` of the batch, `utilization`, `wall_s` (seconds), `counters`;
        `accuracy` of `labels`; `to_dict()`.

    Raises
    ------
    DataError, BuildError, LinkError
        Inputs or options that do not fit; a folder or a tool that is broken; a board that does not answer.

    Examples
    --------
    >>> result = sateen.run("build", {"input": images}, engine="program")
    >>> result.outputs["logits"].argmax(axis=1)
    """
    from sateen.board import run_on_board
    from sateen.float_engine import run_in_float
    from sateen.host_tail import finish_on_host
    from sateen.reporting.labels import load_labels, score
    from sateen.sim.engines import Build as Opened
    from sateen.sim.engines import run_build

    known = (*ENGINES, FLOAT, BOARD)
    if engine not in known:
        raise DataError(f"unknown engine '{engine}'; choose one of {', '.join(known)}")
    if engine == "model" and labels is not None:
        raise DataError(
            "engine 'model' counts cycles and has no outputs; leave labels out, or use another engine"
        )
    if (engine == BOARD) != (port is not None):
        raise DataError(
            "engine 'board' needs the serial device that the board is on; give it with --port, or --port sim"
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
    b = build if isinstance(build, Opened) else Opened(build)
    declared = b.manifest["inputs"]
    ports = {p["name"]: p["shape"] for p in declared if p.get("used", True)}
    given = load_samples(inputs, lambda: b.graph().inputs, "inputs")
    unused = {p["name"] for p in declared} - set(ports)
    checked = check_ports({k: a for k, a in given.items() if k not in unused}, ports, "inputs")
    if labels is not None and b.manifest.get("ptq", {}).get("calibration") == RANDOM:
        raise DataError(
            f"build {b.folder}: its {RANDOM_MEANS_NOTHING}; compile it with real samples for labels"
        )
    classes = None if labels is None else load_labels(labels, len(next(iter(checked.values()))))
    if port == SIMULATED:
        from sateen.sim.board import SimulatedBoard

        if baud is not None:
            raise DataError(f"baud {baud}: the simulated board has its own; leave --baud out")
        with SimulatedBoard(b.folder) as board:
            result = run_on_board(b, checked, board.port, baud=board.baud, progress=progress)
    elif port is not None:
        result = run_on_board(b, checked, port, baud=_baud(b) if baud is None else baud, progress=progress)
    elif engine == FLOAT:
        result = run_in_float(b, checked, progress)
    else:
        result = run_build(
            b,
            checked,
            engine,
            latency=latency,
            interval=interval,
            trace=None if trace is None else Path(trace),
            progress=progress,
        )
    if host and result.outputs is not None:
        result = replace(result, outputs=finish_on_host(b, result.outputs, given))
    if classes is None:
        return result
    in_float = result if engine == FLOAT else run_in_float(b, checked, progress)
    if host and in_float is not result:
        in_float = replace(in_float, outputs=finish_on_host(b, in_float.outputs or {}, given))
    return replace(result, accuracy=score(b, result, in_float, classes))


def report(build: str | Path, output: str | Path | None = None, sweep: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about a build: layers, cycles, utilisation, cost.

    Parameters
    ----------
    build : a folder that `compile` wrote
    output : the page, by default BUILD/report.html
    sweep : what benchmarks/format_sweep.py wrote, for a section on accuracy and cost by format

    Returns
    -------
    Path
        The page's.

    Raises
    ------
    BuildError, DataError
        A broken folder; a sweep that is none.

    Examples
    --------
    >>> page = sateen.report("build")
    >>> page.name
    """
    from sateen.reporting.page import write_report

    return write_report(
        Path(build), None if output is None else Path(output), None if sweep is None else Path(sweep)
    )


def _baud(b: Opened) -> int:
    """Of the build's bitstreams, where all agree."""
    from sateen.bitstreams import bitstreams

    rates = {found["baud"] for found in bitstreams(b)}
    if len(rates) > 1:
        raise DataError(
            f"build {b.folder}: its bitstreams have {', '.join(map(str, sorted(rates)))} baud; say which with --baud"
        )
    return rates.pop() if rates else DEFAULT_BAUD
