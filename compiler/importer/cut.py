"""A file cut at some tensors: what comes before them for the machine, what follows for the host (`--until`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper

from sateen.compiler.importer.constants import lightened
from sateen.compiler.importer.loading import graph_inputs, infer_shapes, load_model, node_names, prepare
from sateen.compiler.importer.nouns import PORTS, Finding
from sateen.compiler.importer.shapes import Shapes, Values, with_shapes, with_values
from sateen.errors import ModelError

_HOST_IR = 10
"""Version of the file format that ONNX Runtime has read for long."""


@dataclass(frozen=True, slots=True)
class Cut:
    """head : the model up to the tensors, which are its outputs
    tail : from there to the file's outputs; None where nothing follows
    """

    head: onnx.ModelProto
    tail: onnx.ModelProto | None


def cut(model: onnx.ModelProto, tensors: Sequence[str]) -> Cut:
    """The model in two. Raises ModelError for a tensor that no node writes."""
    graph = model.graph
    writers = {o: n for n in graph.node for o in n.output if o}
    for name in tensors:
        if name not in writers:
            near = [o for o in writers if name.lower() in o.lower()][:4]
            hint = (
                f"tensors like it: {', '.join(near)}"
                if near
                else f"the first are {', '.join(list(writers)[:4])}"
            )
            raise ModelError(f"--until '{name}': no node of the model writes such a tensor; {hint}")
    wanted = list(dict.fromkeys(tensors))
    types = _types(model)
    head = _part(model, wanted, frozenset(), types)
    ends = [o.name for o in graph.output if o.name not in wanted]
    tail = _part(model, ends, frozenset(wanted), types) if ends else None
    if tail is not None:
        tail.ir_version = min(tail.ir_version, _HOST_IR)
    return Cut(head, tail)


def _part(
    model: onnx.ModelProto,
    outputs: Sequence[str],
    given: frozenset[str],
    types: dict[str, onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """The nodes that `outputs` need where `given` tensors are inputs."""
    needed, kept = set(outputs), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(name for name in _read(node) if name)
            needed.difference_update(given)
    kept.reverse()
    used = {name for node in kept for name in _read(node)}
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    constants = [t for t in model.graph.initializer if t.name in used]
    sparse = [t for t in model.graph.sparse_initializer if t.values.name in used]
    inputs = [i for i in graph_inputs(model.graph) if i.name in used and i.name not in given]
    inputs = [types[name] for name in given if name in used] + inputs
    for field in ("node", "initializer", "sparse_initializer", "input", "output", "value_info"):
        graph.ClearField(field)
    graph.node.extend(kept)
    graph.initializer.extend(constants)
    graph.sparse_initializer.extend(sparse)
    graph.input.extend(inputs)
    graph.output.extend(types[name] for name in outputs)
    return part


def _types(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Of every tensor, as far as they are known; else float32 of any shape."""
    found = {o: onnx.ValueInfoProto(name=o) for n in model.graph.node for o in n.output}
    for value in found.values():
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    known = (*infer_shapes(lightened(model)).value_info, *model.graph.value_info, *model.graph.output)
    return found | {v.name: v for v in known if v.type.WhichOneof("value")}


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that a node reads, also inside its branches and loops."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)
            yield from (o.name for o in graph.output)


def fixed(
    path: str | Path, shapes: Shapes | None = None, values: Values | None = None, until: Sequence[str] = ()
) -> onnx.ModelProto:
    """The model as it is imported: cut, for one sample, every size fixed, constants folded. Raises ModelError."""
    model = load_model(path)
    if until:
        model = cut(model, until).head
    light = prepare(with_shapes(with_values(model, values), shapes))
    found = onnx.ModelProto()
    found.CopyFrom(light.model)
    found.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in light.arrays.items())
    inferred = infer_shapes(light)
    outputs = {o.name: o for o in inferred.output}
    for output in found.graph.output:
        if output.name in outputs:
            output.CopyFrom(outputs[output.name])
    return found


def frontier(model: onnx.ModelProto, findings: Iterable[Finding]) -> list[str]:
    """Tensors at which to cut, so that all nodes that are left are supported, and as many as can be; empty if none."""
    verdict = {f.node: f.supported for f in findings if f.op_type not in PORTS}
    constants = {t.name for t in model.graph.initializer} | {
        t.values.name for t in model.graph.sparse_initializer
    }
    good = {i.name for i in graph_inputs(model.graph)} | constants | {""}
    fixed, computed, bad = set(constants), [], []
    for node, name in zip(model.graph.node, node_names(model), strict=True):
        reads = set(_read(node))
        if verdict.get(name) and reads <= good:
            good.update(node.output)
            if reads <= fixed | {""}:
                fixed.update(node.output)
            else:
                computed += [o for o in node.output if o]
        else:
            bad.append(reads)
    ends = set().union(*bad) | {o.name for o in model.graph.output}
    return [t for t in computed if t in ends] if bad else []
