"""Integer inputs that choose rows of a table, such as tokens of a vocabulary: the host looks the rows up.

What the machine gets are the rows, so the table may be of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from sateen.compiler.importer.constants import Constants, Light
from sateen.compiler.importer.domains import DEFAULT
from sateen.compiler.importer.loading import graph_inputs
from sateen.ir.graph import Graph
from sateen.ir.ports import Port

LOOKED_UP = "rows of a table, which the host looks up"
_INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.INT8, TensorProto.INT16, TensorProto.UINT8)


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """What an input of the graph has become: rows of `table` (V, …), chosen by the file's input `source`, of NumPy's
    type `kind`."""

    source: str
    table: np.ndarray
    kind: str


def looked_up(light: Light) -> tuple[Light, dict[str, Lookup], frozenset[str]]:
    """The model with inputs of rows instead of indices; what they are, and names of nodes that are gone."""
    constants = Constants(light.model.graph, light.arrays)
    found: dict[str, Lookup] = {}
    gone: set[str] = set()
    model = onnx.ModelProto()
    model.CopyFrom(light.model)
    shown = {o.name for o in model.graph.output}
    for info in graph_inputs(light.model.graph):
        tensor = info.type.tensor_type
        sizes = [d.dim_value for d in tensor.shape.dim]
        chains = _chains(light.model.graph, info.name) if tensor.elem_type in _INTEGERS and sizes else None
        if not chains or min(sizes) < 1:
            continue
        tables = {end.output[0]: _table(end, constants, sizes) for *_, end in chains}
        if any(t is None for t in tables.values()) or shown.intersection(tables):
            continue
        own = next(i for i in model.graph.input if i.name == info.name)
        model.graph.input.remove(own)
        for name, table in tables.items():
            assert table is not None
            shape = (*sizes, *table.shape[1:])
            model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
            kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
            found[name] = Lookup(info.name, table, kind)
        gone.update(n.name for chain in chains for n in chain)
    if not found:
        return light, {}, frozenset()
    kept = [n for n in model.graph.node if n.name not in gone]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return replace(light, model=model), found, frozenset(gone)


def _chains(graph: onnx.GraphProto, name: str) -> list[list[onnx.NodeProto]] | None:
    """The ways from an integer tensor to what looks rows up by it; None where one leads elsewhere."""
    ways: list[list[onnx.NodeProto]] = []
    for node in (n for n in graph.node if name in n.input):
        if node.domain not in DEFAULT:
            return None
        if node.op_type in ("Gather", "OneHot"):
            ways.append([node])
            continue
        to = next((a.i for a in node.attribute if a.name == "to"), 0)
        if node.op_type not in ("Cast", "Identity") or (node.op_type == "Cast" and to not in _INTEGERS):
            return None
        after = _chains(graph, node.output[0])
        if after is None:
            return None
        ways += [[node, *way] for way in after]
    return ways


def _table(node: onnx.NodeProto, constants: Constants, sizes: Sequence[int]) -> np.ndarray | None:
    """(V, …) of a Gather or OneHot by a tensor of `sizes`; None where its rows are not constant or not one behind the
    other."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    given = [constants.get(i) for i in node.input]
    if node.op_type == "Gather":
        table = given[0]
        plain = attributes.get("axis", 0) == 0 and node.input[0] != node.input[1]
        return None if table is None or not plain or table.dtype.kind != "f" or table.ndim > 2 else table
    depth, values = given[1:]
    if depth is None or values is None or attributes.get("axis", -1) not in (-1, len(sizes)):
        return None
    off, on = values.astype(np.float32)
    return np.where(np.eye(int(depth.ravel()[0]), dtype=bool), on, off)


def with_lookups(graph: Graph, lookups: dict[str, Lookup]) -> Graph:
    """The graph with the file's inputs, whose rows the host looks up."""
    return replace(graph, inputs=tuple(_port(p, lookups.get(p.name)) for p in graph.inputs))


def _port(port: Port, lookup: Lookup | None) -> Port:
    if lookup is None:
        return port
    shape = port.shape[: len(port.shape) - lookup.table.ndim + 1]
    return replace(port, shape=shape, shared=lookup.source, table=lookup.table, kind=lookup.kind)
