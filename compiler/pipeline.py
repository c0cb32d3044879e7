"""`sateen compile`: from an ONNX file to a build folder. The stages, in order, are the body of `compile_model`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from sateen.build_folder import MANIFEST, TIMES, check_target, write_build
from sateen.compiler.dense_machine import Luts, against_dense, warn
from sateen.compiler.export.model import export_onnx
from sateen.compiler.importer import Shapes, Values, cut, import_model, load_model
from sateen.compiler.prune.channels import Cut, Words, prune_channels
from sateen.compiler.prune.one_shot import METHODS, keep_patterns, recognise, sparsify, violation
from sateen.compiler.ptq.recipe import LEAST_SAMPLES, RECIPES, Recipe, fit
from sateen.compiler.quantize.conformed import conformed
from sateen.compiler.quantize.errors import MEASURED, Origin, measure
from sateen.compiler.quantize.given import weight_format
from sateen.compiler.quantize.given_weights import room_for_biases
from sateen.compiler.quantize.network import accumulator_bits
from sateen.compiler.schedule.backend import Program, generate, specialise, without_indices
from sateen.compiler.schedule.place import words_on_chip
from sateen.compiler.schedule.summary import schedule
from sateen.compiler.warn import collected
from sateen.errors import ConfigError, DataError, ModelError
from sateen.files import shown
from sateen.formats import SparsityPattern, parse_sparsity
from sateen.formats.sparsity import DENSE
from sateen.hw.chip.verilog import emit_verilog
from sateen.ir.fused import FusedGraph
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv
from sateen.ir.ports import Port, first_of_each
from sateen.ir.quantized import QuantizedGraph
from sateen.ir.serialize import to_bytes
from sateen.machine.config import DATAFLOWS, AcceleratorConfig
from sateen.manifest import OWN, VERSION, own_hash
from sateen.sim.memory_timing import NOMINAL
from sateen.version import __version__

_logger = logging.getLogger("sateen")

Progress = Callable[[str, float], None]
Calibration = Mapping[str, np.ndarray] | Callable[[Graph], Mapping[str, np.ndarray]]

KEEP = "keep"
AUTO = "auto"


def compile_model(
    model_path: str | Path,
    build: Path,
    *,
    config: AcceleratorConfig,
    calibration: Calibration | None = None,
    random: bool = False,
    fixed_formats: tuple[bool, bool] = (True, True),
    recipe: Recipe = RECIPES["fast"],
    sparsity: SparsityPattern = DENSE,
    sparsity_method: str = "magnitude",
    sparsity_layers: Mapping[str, SparsityPattern] | None = None,
    channels: float = 1.0,
    dataflow: str = AUTO,
    batch: int = 1,
    board: str | None = None,
    shapes: Shapes | None = None,
    values: Values | None = None,
    until: Sequence[str] = (),
    luts: Luts | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the build folder and return its manifest, with the seconds of TIMES.

    On any error an earlier build there is left as it was.

    Parameters
    ----------
    calibration : one array for each graph input, (N, *shape), or a function from the graph to them; a model that says
        how each tensor is rounded needs none
    random : the samples mean nothing, which the manifest says
    fixed_formats : whether the configuration's formats of weights and activations stay, or those of a model that is
        quantized already take their place
    recipe : how the network is quantized, see `sateen.compiler.ptq.recipe`
    sparsity : what layers are pruned to, first and last excepted; dense keeps what the file has
    sparsity_method : "magnitude", "wanda", "sparsegpt"; "keep" prunes nothing and refuses what breaks the pattern
    sparsity_layers : patterns of single layers by name, first and last too, before `sparsity`
    channels : the most that is left of the array's steps, whole channels removed before anything else
    dataflow : one of the machine's for all layers; "auto" chooses the faster for each
    batch : samples that a run computes together, see `sateen.compiler.schedule.batch`
    board : what bitstreams are made for, recorded in the manifest
    shapes : of inputs whose sizes the file leaves open, the batch first
    values : what inputs are for every sample
    until : tensors at which the model is cut; what follows is kept for the host
    luts : of a machine, for the comparison with one without patterns
    progress : called with a stage's name and the fraction of all the work done

    Raises
    ------
    SateenError
    """
    build = Path(build).resolve()  # a link stays a link, to the new build
    check_target(build)

    def step(name: str, fraction: float) -> None:
        if progress:
            progress(name, fraction)

    step("import", 0.0)
    source, host = parted(model_path, until)
    quantized = quantize_graph(
        import_model(source, shapes, values), str(model_path), config=config, calibration=calibration,
        random=random, fixed_formats=fixed_formats, recipe=recipe, sparsity=sparsity, sparsity_method=sparsity_method,
        sparsity_layers=sparsity_layers, channels=channels, progress=step,
    )  # fmt: skip
    quantized = replace(quantized, host=host)
    step("schedule", 0.5)
    program = map_network(quantized, dataflow, batch)
    step("Verilog", 0.7)
    verilog = emit_verilog(program.config)
    step("write", 0.95)
    manifest = write_program(
        build, Path(model_path).name, quantized, program, predicted(quantized, program), verilog, board, luts
    )
    step("done", 1.0)
    return manifest


@dataclass(frozen=True, slots=True)
class Host:
    """The part of the file that runs on the host, and the names of all outputs of the file."""

    model: bytes
    outputs: tuple[str, ...]


def parted(
    path: str | Path | ModelProto, until: Sequence[str]
) -> tuple[str | Path | ModelProto, Host | None]:
    """What the machine gets of a file, and what follows. Raises ModelError."""
    if not until:
        return path, None
    model = path if isinstance(path, ModelProto) else load_model(path)
    parts = cut(model, until)
    if parts.tail is None:
        return parts.head, None
    outputs = tuple(o.name for o in model.graph.output)
    return parts.head, Host(parts.tail.SerializeToString(deterministic=True), outputs)


@dataclass(frozen=True, slots=True)
class Quantized:
    """A network in the formats of `config`, whose other fields it does not depend on, and how it was made."""

    graph: QuantizedGraph
    config: AcceleratorConfig
    record: dict[str, Any]
    """Of the recipe, with the seconds of each pass."""
    unused: dict[str, tuple[int | None, ...]]
    """Inputs that the file declares and nothing reads, and their shapes."""
    warnings: tuple[str, ...] = ()
    origin: Origin | None = None
    """What it is measured against; None where only the quantized graph is kept."""
    host: Host | None = None
    """What follows where the file was cut."""


def quantize_graph(
    graph: Graph,
    source: str,
    *,
    config: AcceleratorConfig,
    calibration: Calibration | None = None,
    random: bool = False,
    fixed_formats: tuple[bool, bool] = (True, True),
    recipe: Recipe = RECIPES["fast"],
    sparsity: SparsityPattern = DENSE,
    sparsity_method: str = "magnitude",
    sparsity_layers: Mapping[str, SparsityPattern] | None = None,
    channels: float = 1.0,
    progress: Callable[[str, float], None] = lambda name, fraction: None,
) -> Quantized:
    """What was imported from `source`, pruned and in codes. Parameters as `compile_model`'s."""
    if callable(calibration):
        calibration = calibration(graph)
    if calibration is not None:
        calibration = {name: a for name, a in calibration.items() if name not in graph.unused}
    imported = graph
    cuts: list[Cut] = []
    if channels != 1:
        words = Words(config.elements, config.cols)
        graph, cuts = prune_channels(graph, channels, samples=calibration or {}, words=words)
    network, config = _conformed(graph, config, fixed_formats)
    graph = network.graph
    layers = dict(sparsity_layers or {})
    prunes = any(not p.dense for p in (sparsity, *layers.values())) and sparsity_method != KEEP
    if calibration is None and (not graph.quantizers or prunes):
        raise DataError(
            f"{source}: no calibration data; give --calibration X.npz with some real samples for each graph input, "
            "batch first, as numpy.savez('X.npz', INPUT_NAME=samples) writes it"
        )
    with collected() as warnings:
        for remark in graph.remarks:
            _logger.warning("%s", remark)
        if random:
            _logger.warning(
                "calibration: random numbers; cycles and cost hold, outputs and accuracy mean nothing"
            )
        warn_of_samples(calibration or {})
        graph = _sparse(graph, config, sparsity, sparsity_method, dict(calibration or {}), layers)
        state, record = fit(
            network.with_graph(graph),
            calibration,
            recipe,
            weight_format=config.weight_format,
            activation_format=config.activation_format,
            progress=lambda i, n: progress("quantize", 0.1 + 0.4 * i / n),
        )
    assert state.quantized is not None
    if random:
        record["calibration"] = "random"
    if cuts:
        record["channels"] = {"left": channels, "sets": [asdict(cut) for cut in cuts]}
    origin = Origin(imported, state.network.graph, {} if random else evenly(calibration, MEASURED))
    return Quantized(state.quantized, config, record, graph.unused, tuple(warnings), origin)


LEAST_PRUNED_DB = 20.0
"""Signal to noise of an output below which pruning is warned of: a tenth of its values is error."""


def _warn_of_pruning(errors: Mapping[str, Any]) -> None:
    for output in errors["outputs"]:
        snr, agree, samples = output["pruned_db"], output["pruned_agree"], errors["samples"]
        if snr is not None and snr < LEAST_PRUNED_DB:
            _logger.warning(
                "pruning in one shot leaves output '%s' %.1f dB signal to noise before anything is rounded%s; train "
                "the network with the pattern (docs/results/sparse_accuracy.md), or take one that keeps more weights",
                output["name"], snr,
                "" if agree is None else f", and the largest value where it was in {agree} of {samples} samples",
            )  # fmt: skip


def evenly(samples: Mapping[str, np.ndarray] | None, most: int) -> dict[str, np.ndarray]:
    """At most so many of the samples, spread over all of them."""
    count = len(next(iter((samples or {}).values()), ()))
    at = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else slice(0)
    return {name: x[at] for name, x in (samples or {}).items()}


def warn_of_samples(samples: Mapping[str, np.ndarray]) -> None:
    """Of calibration that says little about the ranges of tensors."""
    count = len(next(iter(samples.values()), ()))
    if 0 < count < LEAST_SAMPLES:
        _logger.warning(
            "calibration: %d sample%s; ranges of so few clip what others reach: give some dozens, at least %d",
            count, "s" * (count > 1), LEAST_SAMPLES,
        )  # fmt: skip
    for name, x in samples.items():
        if x.size > 1 and (x == x.flat[0]).all():
            _logger.warning(
                "calibration: input '%s' is %g everywhere; scales that follow from it mean nothing: give real samples",
                name, float(x.flat[0]),
            )  # fmt: skip
        elif len(x) > 1 and (x == x[:1]).all():
            _logger.warning(
                "calibration: all %d samples of input '%s' are equal, and count as one: give different ones",
                len(x),
                name,
            )


def map_network(quantized: Quantized, dataflow: str = AUTO, batch: int = 1) -> Program:
    """The program for the machine of `quantized.config`, `batch` samples a run."""
    config = quantized.config
    bits = accumulator_bits(quantized.graph, batch)
    if bits > 127:
        raise ConfigError(
            f"{config.weight_format} weights with {config.activation_format} activations need {bits}-bit accumulators; "
            "at most 127 are built: choose formats with fewer exponent bits"
        )
    config = specialise(config, quantized.graph, bits)
    return generate(quantized.graph, config, _dataflows(config, dataflow), batch)


def predicted(quantized: Quantized, program: Program) -> dict[str, Any]:
    """What schedule.json holds, in the nominal memory."""
    graph = quantized.graph
    return schedule(program, NOMINAL, graph, without_indices(graph, program))


def write_program(
    build: Path,
    model: str,
    quantized: Quantized,
    program: Program,
    predicted: dict[str, Any],
    verilog: str,
    board: str | None,
    luts: Luts | None = None,
) -> dict[str, Any]:
    """Write the build folder of what was compiled from the file `model`; its manifest, with the seconds of TIMES."""
    files = _files(quantized.graph, program, predicted, verilog)
    errors: dict[str, Any] | None = None
    dense = against_dense(quantized.graph, program, luts)
    with collected() as later:
        if quantized.origin is not None:
            files["float.bin"] = to_bytes(quantized.origin.imported)
            if quantized.origin.samples:
                errors = measure(quantized.graph, quantized.origin)
                files["errors.json"] = _json(errors)
                _warn_of_pruning(errors)
        if dense is not None:
            warn(dense, program)
    if quantized.host is not None:
        files["host.onnx"] = quantized.host.model
    record = dict(quantized.record)
    seconds = record.pop("seconds")
    manifest = _manifest(model, quantized.graph, program, files) | {"ptq": record, "board": board}
    if quantized.host is not None:
        manifest["host"] = {"outputs": list(quantized.host.outputs)}
    if errors is not None:
        manifest["errors"] = {key: errors[key] for key in ("samples", "outputs")}
    if dense is not None:
        manifest["dense_machine"] = dense
    manifest["warnings"] = [*quantized.warnings, *later]
    manifest["inputs"] += [{"name": k, "shape": list(s), "used": False} for k, s in quantized.unused.items()]
    manifest[OWN] = own_hash(manifest)
    write_build(build, files | {MANIFEST: _json(manifest), TIMES: _json({"ptq": seconds})})
    return manifest | {"ptq": record | {"seconds": seconds}}


def _conformed(
    graph: Graph, config: AcceleratorConfig, fixed: tuple[bool, bool]
) -> tuple[FusedGraph, AcceleratorConfig]:
    """Fused, the file's quantizers in the machine's formats, which are the file's own where they are not fixed."""
    weights = None if fixed[0] else weight_format(graph)
    network, activations = conformed(graph, config.activation if fixed[1] else None, config.activation)
    config = config.replace(activation_format=activations.name)
    if weights is not None:
        config = config.replace(weight_format=room_for_biases(network, weights).name)
    return network, config


def _sparse(
    graph: Graph,
    config: AcceleratorConfig,
    pattern: SparsityPattern,
    method: str,
    samples: dict[str, np.ndarray],
    layers: dict[str, SparsityPattern],
) -> Graph:
    """Prune to the pattern, or recognise those that the file's layers obey and the machine is built for."""
    if method not in (*METHODS, KEEP):
        raise ConfigError(f"sparsity method '{method}' is unknown; it must be {', '.join((*METHODS, KEEP))}")
    for p in dict.fromkeys((pattern, *layers.values())):
        check_built_for(p, config)
    if pattern.dense and not layers:
        return recognise(graph, [p for p in map(parse_sparsity, config.patterns) if not p.dense])[0]
    if method != KEEP:
        pruned, report = sparsify(graph, pattern, method=method, samples=samples, layers=layers)
        if not layers and all(layer.pattern.dense for layer in report):
            reasons = ", ".join(f"'{layer.name}' ({layer.reason})" for layer in report[:4])
            more = f" and {len(report) - 4} more" if len(report) > 4 else ""
            _logger.warning(
                "sparsity %s prunes nothing: every layer with weights stays dense: %s%s; first, last and depthwise "
                "layers always do", pattern, reasons or "there is none", more,
            )  # fmt: skip
        return pruned
    if layers:
        return keep_patterns(graph, pattern, layers)
    found = recognise(graph, [pattern])[0]
    convs = [n for n in found.nodes if isinstance(n, Conv)]
    for conv in convs[1:-1]:
        if conv.whole and (broken := violation(conv, pattern)):
            raise ModelError(f"{broken}; prune it with --sparsity-method {', '.join(METHODS)}")
    return found


def check_built_for(pattern: SparsityPattern, config: AcceleratorConfig) -> None:
    """Raises ConfigError for a machine without the pattern."""
    if pattern.name not in config.patterns:
        raise ConfigError(
            f"sparsity {pattern}: configuration '{config.name}' is built for {', '.join(config.patterns)}; "
            "use --preset sat256 or add the pattern to the configuration's patterns"
        )


def _dataflows(config: AcceleratorConfig, dataflow: str) -> tuple[str, ...]:
    if dataflow == AUTO:
        return config.mappings
    if dataflow not in DATAFLOWS:
        raise ConfigError(f"dataflow '{dataflow}' is unknown; it must be {AUTO}, {' or '.join(DATAFLOWS)}")
    if dataflow not in config.dataflows:
        raise ConfigError(
            f"dataflow {dataflow}: configuration '{config.name}' is built for {', '.join(config.dataflows)}; "
            "add it to the configuration's dataflows"
        )
    return (dataflow,)


def _files(
    quantized: QuantizedGraph, program: Program, predicted: dict[str, Any], verilog: str
) -> dict[str, bytes]:
    return {
        "model.onnx": export_onnx(quantized).SerializeToString(deterministic=True),
        "quantized.bin": to_bytes(quantized),
        "program.bin": program.code,
        "weights.bin": program.constants,
        "accelerator.v": verilog.encode(),
        "schedule.json": _json(predicted),
    }


def _manifest(
    model: str, quantized: QuantizedGraph, program: Program, files: dict[str, bytes]
) -> dict[str, Any]:
    predicted = json.loads(files["schedule.json"])
    return {
        "version": VERSION,
        "sateen": __version__,
        "model": shown(model),
        "name": quantized.name,
        "config": program.config.to_dict(),
        "inputs": [_port(p) for p in first_of_each(quantized.inputs)],
        "outputs": [_port(o.port) | {"shape": list(o.shape)} for o in quantized.outputs],
        "macs": predicted["totals"]["macs"],
        "dense_macs": predicted["totals"]["dense_macs"],
        "cycles": predicted["cycles"],
        "batch": program.batch,
        "totals": predicted["totals"],
        "latency": NOMINAL.latency,
        "interval": NOMINAL.interval,
        "instructions": len(program.instructions),
        "memory": {
            "constants_size": len(program.constants),
            "program_offset": program.program_offset,
            "data_offset": program.data_offset,
            "data_size": program.data_size,
            "inputs": [asdict(r) for r in program.inputs],
            "outputs": [asdict(r) for r in program.outputs],
        },
        "spilled": program.placement.spilled,
        "on_chip": words_on_chip(program.graph, program.placement, program.config),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }


def _port(port: Port) -> dict[str, Any]:
    found: dict[str, Any] = {"name": port.source, "shape": list(port.shape)}
    if port.kind != "float32":
        found["type"] = port.kind
    if port.codes is not None:
        found |= {"scale": port.codes.scale, "zero_point": port.codes.zero_point}
    return found


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
