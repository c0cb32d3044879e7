"""If, Loop and Scan whose course is known from the file: the branch that is taken, the body as often as it runs.

What is computed stays, and is refused by the walk with what about it is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sateen.compiler.importer.constants import Constants, Light
from sateen.compiler.importer.domains import DEFAULT, opset_of
from sateen.compiler.importer.nouns import OnnxNode, Unsupported

MOST_NODES = 1 << 16
"""Of an unrolled graph."""

_KINDS = ("If", "Loop", "Scan")


def has_control(light: Light) -> bool:
    return any(n.op_type in _KINDS and n.domain in DEFAULT for n in light.model.graph.node)


def unrolled(light: Light, shapes: Mapping[str, tuple[int, ...]]) -> Light:
    """The model without control flow, as far as constants and `shapes` of tensors say how it runs."""
    model = onnx.ModelProto()
    model.CopyFrom(light.model)
    graph = model.graph
    refused, owners = dict(light.refused), dict(light.owners)
    opset = opset_of(model)
    while True:
        known = _Known(light, graph, shapes, opset)
        nodes: list[onnx.NodeProto] = []
        changed = False
        for k, proto in enumerate(graph.node):
            if proto.op_type not in _KINDS or proto.domain not in DEFAULT or proto.name in refused:
                nodes.append(proto)
                continue
            try:
                made = list(_RULES[proto.op_type](OnnxNode(proto, opset), known, f"{proto.name or k}"))
            except Unsupported as e:
                refused[proto.name] = e.reason, e.remedy
                nodes.append(proto)
                continue
            for i, node in enumerate(made):
                node.name = f"{proto.name}:{i}"
                owners[node.name] = owners.get(proto.name, proto.name)
            nodes += made
            changed = True
            if len(nodes) > MOST_NODES:
                reason = f"unrolled, it has more than {MOST_NODES} nodes"
                refused[proto.name] = reason, "export the model with fewer steps"
                return replace(light, refused=refused)
        if not changed:
            break
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(known.added)
    return replace(light, model=model, owners=owners, refused=refused)


class _Known:
    """Constants and shapes by tensor, and constants that unrolling adds."""

    def __init__(
        self, light: Light, graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]], opset: int
    ) -> None:
        self.shapes = shapes
        self.constants = Constants(graph, light.arrays)
        self.added: list[onnx.TensorProto] = []
        self.inputs, self.nodes, self.opset = list(graph.input), list(graph.node), opset
        self.sources = {o: list(n.input) for n in graph.node for o in n.output}
        self.sizes = {
            n.output[0]: np.array(shapes[n.input[0]], np.int64)
            for n in graph.node
            if n.op_type == "Shape" and not n.attribute and min(shapes.get(n.input[0], (0,)), default=0) > 0
        }

    def value(self, name: str) -> np.ndarray | None:
        """A constant, or what operators make of constants and of shapes; None for what is computed."""
        if name in self.constants:
            return self.constants.get(name)
        behind = self._behind(name)
        nodes = [n for n in self.nodes if behind.intersection(n.output)]
        feeds = {i: self.sizes.get(i, self.constants.get(i)) for i in behind}
        nodes = [n for n in self.nodes if any(o in behind and feeds[o] is None for o in n.output)]
        made = {o for n in nodes for o in n.output}
        given = {i: v for i, v in feeds.items() if v is not None}
        if made | set(given) < behind or any(n.op_type in _KINDS for n in nodes):
            return None
        ports = [helper.make_value_info(i, onnx.TypeProto()) for i in given]
        graph = helper.make_graph(nodes, "known", ports, [helper.make_value_info(name, onnx.TypeProto())])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        try:
            (found,) = ReferenceEvaluator(model).run([name], given)
        except Exception:  # of an operator that it does not have: then it is not known
            return None
        return np.asarray(found)

    def _behind(self, name: str) -> set[str]:
        """What the tensor is made of, itself included; of a Shape whose input's sizes are known, that is all."""
        waiting, seen = [name], set[str]()
        while waiting:
            at = waiting.pop()
            if at and at not in seen:
                seen.add(at)
                waiting += [] if at in self.constants or at in self.sizes else self.sources.get(at, ())
        return seen

    def number_behind(self, name: str) -> str | None:
        """The graph's input of one element that alone decides what the tensor is."""
        behind = self._behind(name)
        inputs = [i for i in self.inputs if i.name in behind]
        single = all(d.dim_value == 1 for i in inputs for d in i.type.tensor_type.shape.dim)
        return inputs[0].name if len(inputs) == 1 and single else None

    def add(self, name: str, values: np.ndarray) -> str:
        self.added.append(numpy_helper.from_array(values, name))
        return name

    def size(self, name: str, axis: int) -> int | None:
        array = self.constants.get(name)
        shape = array.shape if array is not None else self.shapes.get(name)
        return shape[axis] if shape and -len(shape) <= axis < len(shape) and shape[axis] > 0 else None


def _inlined(
    body: onnx.GraphProto, names: dict[str, str], prefix: str, known: _Known
) -> list[onnx.NodeProto]:
    """The body's nodes; `names` are those of its inputs outside, to which those of its results are added."""
    for tensor in body.initializer:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = names[tensor.name] = f"{prefix}/{tensor.name}"
        known.added.append(copy)
    nodes = []
    for proto in body.node:
        copy_of = onnx.NodeProto()
        copy_of.CopyFrom(proto)
        copy_of.name = f"{prefix}/{proto.name}"
        copy_of.input[:] = [names.get(i, i) for i in proto.input]
        names |= {o: f"{prefix}/{o}" for o in proto.output if o}
        copy_of.output[:] = [names[o] if o else "" for o in proto.output]
        _rename_inside(copy_of, names)
        nodes.append(copy_of)
    return nodes


def _rename_inside(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """What the node's own subgraphs read of the body around them."""
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            own = {t.name for t in graph.initializer} | {i.name for i in graph.input}
            own |= {o for n in graph.node for o in n.output}
            outer = {k: v for k, v in names.items() if k not in own}
            for inner in graph.node:
                inner.input[:] = [outer.get(i, i) for i in inner.input]
                _rename_inside(inner, outer)
            for output in graph.output:
                output.name = outer.get(output.name, output.name)


def _same(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [source], [target])


def _if(node: OnnxNode, known: _Known, prefix: str) -> Iterator[onnx.NodeProto]:
    condition = known.value(node.input(0))
    if condition is None:
        remedy = "export the model with the branch resolved"
        if (number := known.number_behind(node.input(0))) is not None:
            remedy = f"say what the input '{number}' always is: --value {number}=1, or {remedy}"
        raise Unsupported("its condition is computed", remedy)
    branch = node.attributes["then_branch" if condition.any() else "else_branch"]
    assert isinstance(branch, onnx.GraphProto)
    names: dict[str, str] = {}
    yield from _inlined(branch, names, prefix, known)
    for inner, outer in zip(branch.output, node.proto.output, strict=True):
        yield _same(names.get(inner.name, inner.name), outer)


def _stacked(
    node: OnnxNode, known: _Known, parts: list[str], output: str, axis: int
) -> Iterator[onnx.NodeProto]:
    """The values of all steps side by side along a new axis."""
    rows = []
    for part in parts:
        rows.append(f"{part}.row")
        if node.opset < 13:
            yield helper.make_node("Unsqueeze", [part], [rows[-1]], axes=[axis])
        else:
            where = known.add(f"{part}.axis", np.array([axis], np.int64))
            yield helper.make_node("Unsqueeze", [part, where], [rows[-1]])
    yield helper.make_node("Concat", rows, [output], axis=axis)


def _steady(body: onnx.GraphProto) -> bool:
    """Whether the body's condition is true whenever the one that it was given was."""
    name, given = body.output[0].name, body.input[1].name
    writers = {o: n for n in body.node for o in n.output}
    while name in writers and writers[name].op_type in ("Identity", "Cast"):
        name = writers[name].input[0]
    if name == given:
        return True
    values = {t.name: t for t in body.initializer}
    if name in writers and writers[name].op_type == "Constant":
        values[name] = next(a.t for a in writers[name].attribute if a.name == "value")
    return name in values and bool(numpy_helper.to_array(values[name]).all())


def _loop(node: OnnxNode, known: _Known, prefix: str) -> Iterator[onnx.NodeProto]:
    count = known.value(node.input(0)) if node.input(0) else None
    going = known.value(node.input(1)) if node.input(1) else np.array(True)
    body = node.attributes["body"]
    assert isinstance(body, onnx.GraphProto)
    remedy = "export the model with the loop unrolled"
    if count is None or going is None:
        raise Unsupported("how often it runs is computed", remedy)
    if not _steady(body):
        raise Unsupported("it ends by a computed condition", remedy)
    steps = int(count.ravel()[0]) if going.all() else 0
    carried = list(node.proto.input[2:])
    if steps * max(1, len(body.node)) > MOST_NODES:
        raise Unsupported(f"it runs {steps} times, more than {MOST_NODES} nodes", remedy)
    collected: list[list[str]] = [[] for _ in body.output[1 + len(carried) :]]
    for step in range(steps):
        names = {
            body.input[0].name: known.add(f"{prefix}/{step}.number", np.array(step, np.int64)),
            body.input[1].name: known.add(f"{prefix}/{step}.going", np.array(True)),
            **{i.name: c for i, c in zip(body.input[2:], carried, strict=True)},
        }
        yield from _inlined(body, names, f"{prefix}/{step}", known)
        results = [names.get(o.name, o.name) for o in body.output[1:]]
        carried = results[: len(carried)]
        for values, result in zip(collected, results[len(carried) :], strict=True):
            values.append(result)
    outputs = list(node.proto.output)
    for source, target in zip(carried, outputs, strict=False):
        if target:
            yield _same(source, target)
    for values, target in zip(collected, outputs[len(carried) :], strict=False):
        if target:
            if not values:
                raise Unsupported("it runs 0 times and gives nothing", remedy)
            yield from _stacked(node, known, values, target, 0)


def _scan(node: OnnxNode, known: _Known, prefix: str) -> Iterator[onnx.NodeProto]:
    body = node.attributes["body"]
    assert isinstance(body, onnx.GraphProto)
    count = node.integer("num_scan_inputs", 1)
    states, scanned = list(node.proto.input[:-count]), list(node.proto.input[-count:])
    if len(states) + count != len(body.input):
        raise Unsupported("it is a Scan of operator set 8, over a batch", "export the model for a newer one")
    axes = node.integers("scan_input_axes", [0] * count)
    backwards = node.integers("scan_input_directions", [0] * count)
    sizes = {known.size(s, a) for s, a in zip(scanned, axes, strict=True)}
    if len(sizes) != 1 or None in sizes:
        raise Unsupported("how long its inputs are is not known", "export the model with fixed shapes")
    steps = next(s for s in sizes if s is not None)
    if steps * max(1, len(body.node)) > MOST_NODES:
        raise Unsupported(f"it runs {steps} times, more than {MOST_NODES} nodes", "export a shorter sequence")
    collected: list[list[str]] = [[] for _ in body.output[len(states) :]]
    for step in range(steps):
        names = {i.name: s for i, s in zip(body.input, states, strict=False)}
        for k, (inner, source) in enumerate(zip(body.input[len(states) :], scanned, strict=True)):
            at = steps - 1 - step if backwards[k] else step
            index = known.add(f"{prefix}/{step}.{k}", np.array(at, np.int64))
            names[inner.name] = f"{prefix}/{step}/{inner.name}"
            yield helper.make_node("Gather", [source, index], [names[inner.name]], axis=axes[k])
        yield from _inlined(body, names, f"{prefix}/{step}", known)
        results = [names.get(o.name, o.name) for o in body.output]
        states = results[: len(states)]
        for values, result in zip(collected, results[len(states) :], strict=True):
            values.append(result)
    for source, target in zip(states, node.proto.output, strict=False):
        if target:
            yield _same(source, target)
    out_axes = node.integers("scan_output_axes", [0] * len(collected))
    out_backwards = node.integers("scan_output_directions", [0] * len(collected))
    for k, (values, target) in enumerate(zip(collected, node.proto.output[len(states) :], strict=False)):
        if target:
            yield from _stacked(
                node, known, values[::-1] if out_backwards[k] else values, target, out_axes[k]
            )


_RULES = {"If": _if, "Loop": _loop, "Scan": _scan}
