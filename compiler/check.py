"""What of a model is supported: the list behind `sateen check`, made before anything is built.

It goes as far as `sateen compile` does without a configuration and samples: a file that is quantized already is brought
into the machine's formats and its weights into codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from sateen.compiler.importer import Finding, Shapes, Values, cut, fixed, frontier, load_model, read_model
from sateen.compiler.importer.nouns import PORTS
from sateen.compiler.quantize.activations import open_tensors, plan_activations
from sateen.compiler.quantize.calibrate import Statistics, TensorStatistics
from sateen.compiler.quantize.conformed import DEFAULT, conformed
from sateen.compiler.quantize.given import weight_format
from sateen.compiler.quantize.network import quantize_fused
from sateen.compiler.quantize.options import Options
from sateen.compiler.quantize.signs import sign_of
from sateen.compiler.warn import quiet
from sateen.errors import DataError, FormatError, ModelError, SateenError
from sateen.ir.fused import sources
from sateen.ir.graph import Graph

__all__ = ["Finding", "check_model", "fixed_model", "supported_until"]


def check_model(
    source: str | Path | onnx.ModelProto, shapes: Shapes | None = None, values: Values | None = None
) -> list[Finding]:
    """One finding for each node of the file, in its order, then for what else stands against compiling it.

    Raises ModelError only if the file cannot be read at all.
    """
    return checked(source, shapes, values)[1]


def checked(
    source: str | Path | onnx.ModelProto, shapes: Shapes | None = None, values: Values | None = None
) -> tuple[Graph | None, list[Finding]]:
    """What was imported, None where something is refused, and the findings of `check_model`."""
    graph, findings = read_model(source, shapes, values)
    if graph is None or not graph.quantizers:
        return graph, findings
    for found in _trial(graph):
        at = next((i for i, f in enumerate(findings) if f.node == found.node), None)
        if at is None:
            findings.append(found)
        elif found.supported:
            old = findings[at]
            reason, calibrated = f"{old.reason}; {found.reason}", old.calibrated + found.calibrated
            findings[at] = replace(old, reason=reason, calibrated=calibrated)
        else:
            findings[at] = replace(found, op_type=findings[at].op_type)
    return graph, findings


def supported_until(
    path: str | Path,
    findings: Sequence[Finding],
    shapes: Shapes | None = None,
    values: Values | None = None,
    until: Sequence[str] = (),
) -> list[str]:
    """Tensors at which the file can be cut so that a check finds all that is left supported; empty where it cannot."""
    model = load_model(path)
    found = frontier(cut(model, until).head if until else model, findings)
    while found:
        head = cut(model, found).head
        again = check_model(head, shapes, values)
        if all(f.supported for f in again):
            return found
        fewer = frontier(head, again)
        found = fewer if fewer != found else []
    return []


def fixed_model(
    path: str | Path, shapes: Shapes | None = None, values: Values | None = None, until: Sequence[str] = ()
) -> onnx.ModelProto:
    """The file as it is imported: for one sample, all sizes fixed. Raises ModelError for what is not supported."""
    model = fixed(path, shapes, values, until)
    if problem := next((f for f in check_model(model) if not f.supported), None):
        raise ModelError(f"model {path}: as it is imported, {problem}; it is not written")
    return model


def _trial(graph: Graph) -> Iterator[Finding]:
    """Problems of a quantized file that show when it is compiled, and what it does not round: compiling needs samples
    for that, and here it lies in [-1, 1]."""
    try:
        weights = weight_format(graph) or DEFAULT
        network, activations = conformed(graph, None)
    except SateenError as e:
        yield _finding(graph.name, "model", e)
        return
    signs = []
    for node in network.nodes:
        try:
            sign_of(node, network)
        except DataError as e:
            name = sources(node)[-1]
            found = _finding(name.removesuffix(".sign"), "BipolarQuant", e)
            signs.append(replace(found, reason="it " + found.reason.partition("' ")[2]))
    yield from signs
    if signs:
        return
    graph = network.graph
    writers, ports = {n.output: n.name for n in graph.nodes}, {p.name: p.source for p in graph.inputs}
    for tensor in open_tensors(network):
        name = ports.get(tensor, tensor)
        why = f"the file does not round '{name}': compile needs --calibration"
        kind = PORTS[0] if tensor in ports else "tensor"
        yield Finding(writers.get(tensor, name), kind, True, why, calibrated=(name,))
    values = np.linspace(-1, 1, 33)
    open_ = {
        name: TensorStatistics(-1.0, 1.0, values, np.zeros(shape[2]), np.ones(shape[2]))
        for name, shape in graph.shapes.items()
    }
    statistics, options = Statistics(open_, 1), Options(weights, activations, "minmax")
    try:
        with quiet():
            quantize_fused(network, statistics, plan_activations(network, statistics, options), options)
    except (FormatError, ModelError) as e:
        yield _finding(graph.name, "model", e)
    except DataError:  # of samples, which there are none of
        return


def _finding(node: str, op_type: str, error: SateenError) -> Finding:
    reason, _, remedy = str(error).partition("; ")
    return Finding(node, op_type, False, reason, remedy)
