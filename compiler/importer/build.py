"""Two walks and the graph's interface: inputs and outputs as ports."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping

import numpy as np
import onnx

from sateen.compiler.importer.constants import Light
from sateen.compiler.importer.handlers import HANDLERS
from sateen.compiler.importer.layout import normal, split_axes
from sateen.compiler.importer.loading import graph_inputs
from sateen.compiler.importer.moves import rebuilt
from sateen.compiler.importer.nouns import Finding, Unsupported, Value, View
from sateen.compiler.importer.pointwise import depthwise, settle
from sateen.compiler.importer.walk import Walk
from sateen.ir.chosen import Chosen
from sateen.ir.graph import Graph
from sateen.ir.nodes import Node
from sateen.ir.ports import HostOp, Output, Port
from sateen.ir.quant import Quantizer

Found = tuple[Graph | None, list[Finding], list[Finding]]
"""The graph, not yet tidied, or None and the problems; and what was found of each node."""


def walk_model(light: Light, any_batch: bool, codes: Mapping[str, str]) -> Found:
    """The graph as it is with a batch as dimension 0; where that will not do and the file fixes it, with all inputs
    being one sample. `codes` as in `integer.Rewritten`."""
    found = _walked(light, any_batch, codes, whole=False)
    batch = max((_sizes(i)[0] for i in graph_inputs(light.model.graph) if _sizes(i)), default=1)
    if found[0] is None and not any_batch and batch > 1:
        again = _walked(light, any_batch, codes, whole=True)
        if again[0] is not None or len(again[1]) < len(found[1]):
            return again
    return found


def _sizes(info: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in info.type.tensor_type.shape.dim]


def _walked(light: Light, any_batch: bool, codes: Mapping[str, str], whole: bool) -> Found:
    """Walk once to learn the layouts of the graph's inputs, and again with them decided.

    A plane of width 1 may be a row or a column: where the decisions do not go together, all are made the one, then
    the other.
    """
    first = Walk(light, HANDLERS, any_batch=any_batch, whole=whole)
    first.run()
    decided = dict(first.open)
    for _ in range(len(first.links) + 1):
        for a, b in (*first.links, *((b, a) for a, b in first.links)):
            if a in decided and b in decided and decided[a][0] > decided[b][0]:
                decided[b] = decided[a]
    views: dict[str, View] = {}
    del first  # its weights
    for info in graph_inputs(light.model.graph):
        _, view = decided.get(info.name, (-1, None))
        view = view or default_view(_sizes(info) if whole else _sizes(info)[1:])
        if view is not None:
            views[info.name] = view
    tries = [views]
    if any(view.line for view in views.values()):
        tries += [{name: v.turned(column) for name, v in views.items()} for column in (False, True)]
    found = []
    for k, chosen in enumerate(tries):
        if chosen not in tries[:k]:
            walk = Walk(light, HANDLERS, chosen, any_batch, whole)
            walk.run()
            found.append((*build_graph(walk, codes), walk.findings))
            if found[-1][0] is not None:
                return found[-1]
    return found[0]


def default_view(shape: list[int]) -> View | None:
    """Channels first, as ONNX has it; for a shape (batch left out) that no node says more about."""
    if math.prod(shape) <= 0:
        return None
    sizes = shape if len(shape) <= 3 else [s for s in shape if s != 1]
    match sizes:
        case []:
            return View((1, 1, 1), (0, 1, 2))
        case [c]:
            return View((1, 1, c), (0, 1, 2))
        case [c, w]:
            return View((1, c, w), (0, 2, 1))
        case [c, h, w]:
            return View((c, h, w), (1, 2, 0))
    return None


def build_graph(walk: Walk, codes: Mapping[str, str]) -> tuple[Graph | None, list[Finding]]:
    """The graph as walked, not yet tidied, or None and the problems."""
    problems = walk.problems()
    outputs: list[Output] = []
    for info in {o.name: o for o in walk.model.graph.output}.values():  # one listed twice is one array
        try:
            value = walk.values.get(info.name)
            if isinstance(value, Value) and not walk.is_open(value):
                if info.name in walk.views:
                    raise Unsupported(
                        "it is the graph's input itself; there is nothing to compute for it",
                        "remove it from the model's outputs",
                    )
                found = output(walk, info.name, value)
                outputs.append(dataclasses.replace(found, port=with_codes(walk, found.port, codes)))
            elif not problems:
                raise Unsupported("it does not depend on an input", "remove it from the model's outputs")
        except Unsupported as e:
            problems.append(Finding(info.name, "graph output", False, e.reason, e.remedy))
    if problems:
        return None, problems
    nodes = unique_names(walk.nodes)
    used = {i for n in nodes for i in n.inputs} | {o.tensor for o in outputs}
    ports = []
    for info in graph_inputs(walk.model.graph):
        if info.name in used:
            view = walk.views[info.name]
            shape = tuple(_sizes(info) if walk.whole else _sizes(info)[1:])
            ports.append(with_codes(walk, Port(info.name, shape, view.view, view.axes), codes))
    names = {p.name for p in ports}
    # A machine that computes nothing is no use to anyone, but it must be right: an input given out is copied.
    for k, out in enumerate(outputs):
        if out.tensor in names:
            c = walk.shapes[out.tensor][2]
            copy = walk.fresh(f"{out.port.name}.copy")
            nodes.append(depthwise(copy, out.tensor, copy, np.ones(c), np.zeros(c)))
            walk.shapes[copy] = walk.shapes[out.tensor]
            outputs[k] = dataclasses.replace(out, tensor=copy)
    kept = names | {n.output for n in nodes}
    shapes = {t: s for t, s in walk.shapes.items() if t in kept}
    name, ties = walk.model.graph.name or "network", tuple(walk.ties)
    return Graph(name, tuple(ports), tuple(outputs), tuple(nodes), shapes, ties=ties), []


def with_codes(walk: Walk, port: Port, codes: Mapping[str, str]) -> Port:
    """The port as the file has it: of codes, of whole sums, or of real numbers.

    Raises Unsupported for codes of floating-point types, which NumPy does not have.
    """
    if port.name not in codes:
        return port
    quant = walk.quants.get(codes[port.name])
    if quant is None:
        return dataclasses.replace(port, kind="int32")
    if not quant.format.uniform:
        raise Unsupported(
            f"it gives codes of {quant.format.name}, not values", "put a DequantizeLinear at the model's end"
        )
    signed = quant.format.min_fixed < 0
    return dataclasses.replace(port, codes=quant, kind="int8" if signed else "uint8")


def output(walk: Walk, name: str, value: Value) -> Output:
    """Raises Unsupported for codes, and for elements in an order in which pixels and channels cannot be moved."""
    if name in walk.codes:
        raise Unsupported("it gives codes, not values", "put a DequantizeLinear at the model's end")
    if walk.batch > 1 or (walk.any_batch and value.rank):
        walk.batch_first(value)
    # a sample's output that has no batch gets one in front of its dimensions
    begin = 0 if walk.batch == 1 and (not value.rank or value.layout[0]) else 1
    hwc = walk.hwc(value)
    pieces = split_axes(normal(f for d in value.layout[begin:] for f in d), hwc)
    order = [axis for _, _, axis in pieces]
    groups = [axis for axis, _ in itertools.groupby(order)]
    if groups.count(2) == 1 and order.count(2) > 1:  # channels in another order, side by side
        dims = [tuple((s, t) for s, t, axis in pieces if axis == k) for k in dict.fromkeys(groups)]
        moved = settle(
            walk,
            name,
            Value(value.tensor, ((), *dims)),
            1 + list(dict.fromkeys(groups)).index(2),
        )
        value = Value(moved.tensor, value.layout, value.host)
        order = [axis for _, _, axis in split_axes(normal(f for d in moved.layout[1:] for f in d), hwc)]
    if len(set(order)) != len(order):
        own = range(begin, value.rank)
        outer, rows, columns = tuple(own[:-2]), tuple(own[-2:-1]), tuple(own[-1:])
        axes = {axis for d in outer for _, _, axis in split_axes(value.layout[d], hwc)}
        # planes that are channels stay channels; one or two would leave most of a word empty
        planes = axes == {2} and math.prod(value.shape[d] for d in outer) > 2
        value = rebuilt(walk, name, value, (rows, columns, outer) if planes else (outer, rows, columns))
        hwc, order = walk.hwc(value), [2, 0, 1] if planes else [0, 1, 2]
    order = [axis for axis in range(3) if axis not in order] + order
    port = Port(
        name,
        value.shape[begin:],
        (hwc[order[0]], hwc[order[1]], hwc[order[2]]),
        (order.index(0), order.index(1), order.index(2)),
    )
    host: list[HostOp | Chosen] = []
    for kind, dim in value.host:
        if isinstance(dim, Quantizer):
            assert isinstance(kind, str)
            host.append(HostOp(kind, quantizer=dim))
            continue
        if dim not in value.layout[begin:]:
            what = kind if isinstance(kind, str) else "choice"
            raise Unsupported(
                f"the dimension of its {what} is reshaped afterwards", "put the Reshape before it"
            )
        axis = value.layout.index(dim, begin) - value.rank
        if isinstance(kind, Chosen):
            host.append(dataclasses.replace(kind, axis=axis))
            port = dataclasses.replace(port, kind="int64" if kind.gives == "indices" else port.kind)
        else:
            host.append(HostOp(kind, axis))
    return Output(port, value.tensor, tuple(host))


def unique_names(nodes: list[Node]) -> list[Node]:
    """An ONNX node may have become several: the later ones get a number."""
    seen: set[str] = set()
    numbers: dict[str, int] = {}
    out = []
    for node in nodes:
        n = numbers.get(node.name, 1)
        while (name := node.name if n == 1 else f"{node.name}_{n}") in seen:
            n += 1
        numbers[node.name] = n
        seen.add(name)
        out.append(node if name == node.name else dataclasses.replace(node, name=name))
    return out
