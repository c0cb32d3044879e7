"""ONNX to the floating-point IR: `load_model`, `import_model`, `check_model`.

A file goes through `loading` (read, check, name, fold constants), `walk` with the handlers of `ops_*` (one IR
node or none for each ONNX node, layouts tracked symbolically) and `passes` (IR to IR: merge padding, scales and
functions).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from sateen.compiler.importer.build import build_graph, walk_model
from sateen.compiler.importer.loading import load_model, node_names, prepare, validate
from sateen.compiler.importer.nouns import PORTS, Finding, Refused
from sateen.compiler.importer.passes import tidy
from sateen.compiler.importer.quantizers import recentered, settle
from sateen.errors import ModelError
from sateen.ir.graph import Graph, Quantize

__all__ = ["Finding", "check_model", "import_model", "load_model"]


def _load(source: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        validate(source)
        return source
    return load_model(source)


def import_model(source: str | Path | onnx.ModelProto) -> Graph:
    """The network as an IR graph, tidied and verified. The model is not changed.

    Raises ModelError with the first problem and how many more there are.
    """
    walk = walk_model(prepare(_load(source)))
    graph, problems = build_graph(walk)
    if problems:
        more = f" (and {len(problems) - 1} more: `sateen check` lists them)" if len(problems) > 1 else ""
        raise ModelError(f"{problems[0]}{more}")
    assert graph is not None
    graph = _settled(graph)
    graph.verify()
    return graph


def _settled(graph: Graph) -> Graph:
    return settle(tidy(recentered(graph)))


def check_model(source: str | Path | onnx.ModelProto) -> list[Finding]:
    """One finding for each node of the model as it is given, in its order, then problems of inputs and
    outputs.

    Raises ModelError only if the file cannot be read at all.
    """
    model = _load(source)
    names = [(name, n.op_type) for name, n in zip(node_names(model), model.graph.node, strict=True)]
    light = prepare(model)
    del model
    walk = walk_model(light)
    graph, problems = build_graph(walk)
    ports = [f for f in (*walk.findings, *problems) if f.op_type in PORTS]
    found = {f.node: f for f in walk.findings if f.op_type not in PORTS}
    if graph is not None and any(isinstance(n, Quantize) for n in graph.nodes):
        try:
            _settled(graph)
        except Refused as e:
            node = e.finding.node
            found[node] = replace(e.finding, op_type=found[node].op_type) if node in found else e.finding
    out = []
    for name, op_type in names:
        gone = Finding(name, op_type, True, "constant or without effect, removed before import")
        out.append(found.pop(name, gone))
    return [*out, *found.values(), *dict.fromkeys(ports)]
