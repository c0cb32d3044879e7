"""Graphs as one file, the same byte for byte: a zip of graph.json and .npy arrays. The quantized graph is exact.

Reals are written as Python prints them, which reads back the same; integers beyond 64 bits as JSON integers. The float
graph's arrays are kept in float32.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any, get_args

import numpy as np

from sateen.arrays import read_npy
from sateen.errors import BuildError, ModelError
from sateen.formats import Format, SparsityPattern, parse_format
from sateen.formats.digits import Digits
from sateen.ir.chosen import Chosen
from sateen.ir.graph import Graph
from sateen.ir.heads import Batch
from sateen.ir.nodes import Expression, Node
from sateen.ir.pieces import Lattice, Piece
from sateen.ir.ports import HostOp, InputOp, Output, Port
from sateen.ir.quant import GivenWeights, Quantizer
from sateen.ir.quantized import Constant, Factor, Linear, Op, Quant, QuantizedGraph, Residual, Tensor
from sateen.ir.verify import broken

VERSION = 1
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
_QUANTIZED: dict[str, type] = {
    c.__name__: c
    for c in (
        *(
            QuantizedGraph,
            Tensor,
            Quant,
            Quantizer,
            Residual,
            Factor,
            SparsityPattern,
            Port,
            InputOp,
            Output,
            HostOp,
        ),
        *(Piece, Lattice, Batch, Chosen, Digits),
        *get_args(Op),
    )
}
_FLOAT: dict[str, type] = {
    c.__name__: c
    for c in (
        Graph,
        Quantizer,
        GivenWeights,
        SparsityPattern,
        Port,
        InputOp,
        Output,
        HostOp,
        Piece,
        Lattice,
        Batch,
        Chosen,
        Quant,
    )
} | {c.__name__: c for c in get_args(Node)}  # some names are those of other classes there


def load(path: str | Path) -> QuantizedGraph:
    """Read a file that holds `to_bytes`. Raises BuildError when the file is missing, damaged or of another version."""
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise BuildError(f"{path}: cannot be read ({e.strerror or e}); compile the model again") from None
    try:
        return from_bytes(data)
    except BuildError as e:
        raise BuildError(f"{path}: {e}") from None


def to_bytes(graph: QuantizedGraph | Graph) -> bytes:
    """The file's content."""
    arrays: list[np.ndarray] = []
    header = {"version": VERSION, "graph": _encode(graph, arrays)}
    if isinstance(graph, Graph):
        arrays = [a.astype(np.float32) if a.dtype == np.float64 else a for a in arrays]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as z:
        text = json.dumps(header, indent=1, sort_keys=True, ensure_ascii=False)
        z.writestr(_entry("graph.json"), text.encode())
        for i, array in enumerate(arrays):
            block = io.BytesIO()
            np.lib.format.write_array(block, array, version=(1, 0), allow_pickle=False)
            z.writestr(_entry(f"{i}.npy"), block.getvalue())
    return out.getvalue()


def from_bytes(data: bytes) -> QuantizedGraph:
    """The graph. Raises BuildError for anything but the output of `to_bytes`."""
    graph = _read(data, "quantized graph", _QUANTIZED)
    if not isinstance(graph, QuantizedGraph):
        raise BuildError("not a quantized graph; compile the model again")
    if (found := broken(graph)) is not None:
        raise BuildError(f"not a quantized graph: {found[1]}; compile the model again")
    return graph


def float_from_bytes(data: bytes) -> Graph:
    """The float graph, arrays as float64. Raises BuildError for anything but the output of `to_bytes`."""
    graph = _read(data, "float graph", _FLOAT)
    if not isinstance(graph, Graph):
        raise BuildError("not a float graph; compile the model again")
    try:
        graph.verify()
    except ModelError as e:
        raise BuildError(f"not a float graph: {e}; compile the model again") from None
    return graph


def _read(data: bytes, what: str, classes: dict[str, type]) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            header = json.loads(z.read("graph.json"))
            if header["version"] != VERSION:
                raise BuildError(
                    f"{what} of version {header['version']}, this program reads {VERSION}; "
                    "compile the model again"
                )

            def array(i: int) -> np.ndarray:
                x = read_npy(z.read(f"{i}.npy"))
                return x.astype(np.float64) if classes is _FLOAT and x.dtype == np.float32 else x

            return _decode(header["graph"], array, classes)
    except BuildError:
        raise
    except Exception as e:  # a damaged file can fail in any of the layers below
        raise BuildError(f"not a {what} ({type(e).__name__}: {e}); compile the model again") from None


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    return info


def _encode(x: Any, arrays: list[np.ndarray]) -> Any:
    match x:
        case None | bool() | int() | str():
            return x
        case float():
            return x
        case Format():
            return {"$format": x.name}
        case np.ndarray() if x.dtype == object:
            return {"$integers": [int(v) for v in x.flat], "shape": list(x.shape)}
        case np.ndarray():
            arrays.append(np.ascontiguousarray(x))
            return {"$array": len(arrays) - 1}
        case np.generic():
            return x.item()
        case tuple():
            return {"$tuple": [_encode(v, arrays) for v in x]}
        case list():
            return [_encode(v, arrays) for v in x]
        case dict():
            return {"$dict": [[k, _encode(v, arrays)] for k, v in x.items()]}
        case Expression():  # parts may be shared
            parts = x.postorder()
            place = {id(p): i for i, p in enumerate(parts)}
            listed = [
                [p.function, _encode(p.parameters, arrays), [place[id(a)] for a in p.arguments]]
                for p in parts
            ]
            return {"$expression": listed}
        case _ if type(x) in (_QUANTIZED.get(type(x).__name__), _FLOAT.get(type(x).__name__)):
            fields = {f.name: getattr(x, f.name) for f in dataclasses.fields(x) if f.init}
            if isinstance(x, Linear):
                fields = _flat(fields)
            return {
                "$class": type(x).__name__,
                "fields": {k: _encode(v, arrays) for k, v in fields.items()},
            }
    raise BuildError(f"a graph cannot hold a {type(x).__name__}: {x!r}")


def _decode(x: Any, array: Any, classes: dict[str, type]) -> Any:
    def read(value: Any) -> Any:
        return _decode(value, array, classes)

    if isinstance(x, list):
        return [read(v) for v in x]
    if not isinstance(x, dict):
        return x
    if "$format" in x:
        return parse_format(x["$format"])
    if "$integers" in x:
        flat = np.empty(len(x["$integers"]), object)
        flat[:] = x["$integers"]
        return flat.reshape(x["shape"])
    if "$array" in x:
        return array(x["$array"])
    if "$tuple" in x:
        return tuple(read(v) for v in x["$tuple"])
    if "$dict" in x:
        return {k: read(v) for k, v in x["$dict"]}
    if "$expression" in x:
        parts: list[Expression] = []
        for function, parameters, arguments in x["$expression"]:
            parts.append(Expression(function, read(parameters), tuple(parts[a] for a in arguments)))
        return parts[-1]
    cls = classes[x["$class"]]
    fields = {k: read(v) for k, v in x["fields"].items()}
    return cls(**(_deep(fields) if cls is Linear else fields))


_WEIGHT = {"weight": "codes", "weight_format": "format", "weight_scale": "scale", "sparsity": "sparsity"}
"""Fields of a Linear in the file, which knows no constants, and of its weight here."""


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """A Linear's fields as they are in the file, in its order."""
    own = {f: getattr(fields["weight"], own) for f, own in _WEIGHT.items()}
    channels = fields.pop("channels")
    return {**fields, "weight": own.pop("weight"), **own, "channels": channels}


def _deep(fields: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `_flat`."""
    weight = {own: fields.pop(f) for f, own in _WEIGHT.items()}
    return {**fields, "weight": Constant(**weight)}
