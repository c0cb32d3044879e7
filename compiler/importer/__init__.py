"""ONNX to the floating-point IR: `load_model`, `import_model`, `check_model`.

A file goes through `loading` (read, check, name, fold constants), `integer` (integer operators to floating-point ones
between quantizers), `walk` with the handlers of `ops_*` (one IR node or none for each ONNX node, layouts tracked
symbolically) and `passes` (IR to IR: merge padding, scales and functions).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from sateen.compiler.importer.build import walk_model
from sateen.compiler.importer.cut import Cut, cut, fixed, frontier
from sateen.compiler.importer.domains import QUANTIZERS
from sateen.compiler.importer.fused import FUSED, MISPLACED
from sateen.compiler.importer.handlers import HANDLERS
from sateen.compiler.importer.host_inputs import on_host
from sateen.compiler.importer.integer import in_floating_point
from sateen.compiler.importer.integer_findings import of_the_file, remarks
from sateen.compiler.importer.integer_forms import DYNAMIC
from sateen.compiler.importer.integer_forms import OPERATORS as INTEGER_OPERATORS
from sateen.compiler.importer.limits import LIMITS
from sateen.compiler.importer.loading import (
    any_batch,
    complete,
    graph_inputs,
    load_model,
    node_names,
    prepare,
    simplify,
    validate,
)
from sateen.compiler.importer.lookups import LOOKED_UP, looked_up, with_lookups
from sateen.compiler.importer.norms import ABSORBED, recognized
from sateen.compiler.importer.nouns import NOT_CHECKED, PORTS, Finding, Refused
from sateen.compiler.importer.one_version import separated
from sateen.compiler.importer.quantizers import recentered, settle
from sateen.compiler.importer.shapes import Shapes, Values, with_shapes, with_values
from sateen.compiler.importer.stated import stated
from sateen.compiler.importer.tidy import tidy
from sateen.compiler.importer.versions import modernized
from sateen.compiler.importer.wide_weights import split_wide
from sateen.compiler.importer.written import WRITTEN
from sateen.errors import ModelError
from sateen.ir.graph import Graph

__all__ = [
    "DYNAMIC",
    "FUSED",
    "HANDLERS",
    "INTEGER_OPERATORS",
    "LIMITS",
    "MISPLACED",
    "WRITTEN",
    "Cut",
    "Finding",
    "Shapes",
    "Values",
    "check_model",
    "cut",
    "fixed",
    "frontier",
    "import_model",
    "load_model",
    "prepare",
    "read_model",
]


def _load(source: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        validate(source)
        return modernized(source)
    return load_model(source)


def import_model(
    source: str | Path | onnx.ModelProto, shapes: Shapes | None = None, values: Values | None = None
) -> Graph:
    """The network as an IR graph, tidied and verified. The model is not changed.

    Raises ModelError with the first problem and how many more there are.
    """
    graph, findings = read_model(source, shapes, values)
    problems = [f for f in findings if f.supported is False]
    if problems:
        more = f" (and {len(problems) - 1} more: `sateen check` lists them)" if len(problems) > 1 else ""
        raise ModelError(f"{problems[0]}{more}")
    assert graph is not None
    return graph


def check_model(source: str | Path | onnx.ModelProto) -> list[Finding]:
    """One finding for each node of the model as it is given, in its order, then problems of inputs and
    outputs.

    Raises ModelError only if the file cannot be read at all.
    """
    return read_model(source)[1]


def read_model(
    source: str | Path | onnx.ModelProto, shapes: Shapes | None = None, values: Values | None = None
) -> tuple[Graph | None, list[Finding]]:
    """The graph, tidied and verified, or None where a finding says that something is not supported; the findings.

    `shapes` are those of inputs that the file leaves open, `values` what inputs always are.
    """
    model = with_shapes(with_values(_load(source), values), shapes)
    names = [(name, n.op_type) for name, n in zip(node_names(model), model.graph.node, strict=True)]
    declared = {i.name: _shape(i) for i in graph_inputs(model.graph)}
    free = any_batch(model.graph)
    completed = complete(model)
    del model
    rewritten = in_floating_point(completed)
    light, absorbed = recognized(simplify(rewritten.light))
    light, lookups, tables = looked_up(light)
    graph, problems, findings = walk_model(light, free, rewritten.codes)
    findings = of_the_file(findings, light.owners, dict(names), rewritten.codes)
    found = {f.node: f for f in findings if f.op_type not in PORTS}
    found |= {f.node: f for f in stated(completed, {n.name for n in light.model.graph.node})}
    kinds = dict(names)
    found |= {n: Finding(n, kinds[n], True, ABSORBED) for n in absorbed if n in kinds}
    found |= {n: Finding(n, kinds[n], True, LOOKED_UP) for n in tables if n in kinds}
    ports = [f for f in (*findings, *problems) if f.op_type in PORTS]
    if graph is not None:
        try:
            graph = settle(tidy(on_host(separated(recentered(graph)), light.model)))
            graph = replace(split_wide(graph), remarks=remarks(rewritten.dynamic))
            graph = with_lookups(graph, lookups)
            graph.verify()
        except Refused as e:
            node = light.owners.get(e.finding.node, e.finding.node)
            kind = found[node].op_type if node in found else e.finding.op_type
            found[node] = replace(e.finding, node=node, op_type=kind)
    refused = any(f.supported is False for f in (*found.values(), *ports))
    if refused:
        graph = None
        found = {k: _unsettled(f) for k, f in found.items()}
    listed = []
    for name, op_type in names:
        gone = Finding(name, op_type, True, "constant or without effect, removed before import")
        listed.append(replace(found.pop(name, gone), op_type=op_type))
    if graph is not None:
        used = {p.source for p in graph.inputs}
        graph = replace(graph, unused={name: s for name, s in declared.items() if name not in used})
    return graph, [*listed, *found.values(), *dict.fromkeys(ports)]


def _unsettled(finding: Finding) -> Finding:
    """Whether a quantizer goes with its neighbours is settled on the whole graph alone."""
    if finding.op_type in QUANTIZERS and finding.supported:
        return replace(finding, supported=None, reason=NOT_CHECKED)
    return finding


def _shape(info: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(d.dim_value or None for d in info.type.tensor_type.shape.dim)[1:]
