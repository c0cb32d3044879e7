"""The quantized graph as one file, exact and the same byte for byte: a zip of graph.json and .npy arrays.

Reals are written as Python prints them, which reads back the same; integers beyond 64 bits as JSON integers.
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
from sateen.errors import BuildError
from sateen.formats import Format, SparsityPattern, parse_format
from sateen.ir.chosen import Chosen
from sateen.ir.graph import HostOp, InputOp, Output, Port
from sateen.ir.heads import Batch
from sateen.ir.pieces import Lattice, Piece
from sateen.ir.quant import Quantizer
from sateen.ir.quantized import Constant, Factor, Linear, Op, Quant, QuantizedGraph, Residual, Tensor
from sateen.ir.verify import broken

VERSION = 1
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
_CLASSES: dict[str, type] = {
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
        *(Piece, Lattice, Batch, Chosen),
        *get_args(Op),
    )
}


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


def to_bytes(qgraph: QuantizedGraph) -> bytes:
    """The file's content."""
    arrays: list[np.ndarray] = []
    header = {"version": VERSION, "graph": _encode(qgraph, arrays)}
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
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            header = json.loads(z.read("graph.json"))
            if header["version"] != VERSION:
                raise BuildError(
                    f"quantized graph of version {header['version']}, this program reads {VERSION}; "
                    "compile the model again"
                )

            def array(i: int) -> np.ndarray:
                return read_npy(z.read(f"{i}.npy"))

            graph = _decode(header["graph"], array)
        if not isinstance(graph, QuantizedGraph):
            raise BuildError("not a quantized graph; compile the model again")
        if (found := broken(graph)) is not None:
            raise BuildError(f"not a quantized graph: {found[1]}; compile the model again")
    except BuildError:
        raise
    except Exception as e:  # a damaged file can fail in any of the layers below
        raise BuildError(
            f"not a quantized graph ({type(e).__name__}: {e}); compile the model again"
        ) from None
    return graph


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
        case _ if type(x).__name__ in _CLASSES:
            fields = {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
            if isinstance(x, Linear):
                fields = _flat(fields)
            return {
                "$class": type(x).__name__,
                "fields": {k: _encode(v, arrays) for k, v in fields.items()},
            }
    raise BuildError(f"a quantized graph cannot hold a {type(x).__name__}: {x!r}")


def _decode(x: Any, array: Any) -> Any:
    if isinstance(x, list):
        return [_decode(v, array) for v in x]
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
        return tuple(_decode(v, array) for v in x["$tuple"])
    if "$dict" in x:
        return {k: _decode(v, array) for k, v in x["$dict"]}
    cls = _CLASSES[x["$class"]]
    fields = {k: _decode(v, array) for k, v in x["fields"].items()}
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
