"""Tensors whose data are in files beside the model: read only from there, and only what is there.

A hub keeps a model and its data as links into a store; the names beside each other are the links'.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from sateen.arrays import available_memory
from sateen.errors import ModelError

MEMORY_PER_BYTE = 4
"""Of constants: what holds them while a network is imported, measured."""


def load_external(model: onnx.ModelProto, path: Path, where: str) -> None:
    """Put the data of every such tensor into the model, in place. Raises ModelError that begins with `where`."""
    tensors = [t for t in _tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL]
    folders = [path.parent, Path(os.path.realpath(path)).parent]
    parts = [(t, *_part(t, folders, f"{where}: external data of tensor '{t.name}'")) for t in tensors]
    total, there = sum(size for *_, size in parts), available_memory()
    if total * MEMORY_PER_BYTE > there:
        raise ModelError(
            f"{where}: {total:,} bytes of external data need about {MEMORY_PER_BYTE} times as much memory, and there "
            f"are {there:,}; take a machine with more, or a smaller network"
        )
    for tensor, file, offset, size in parts:
        try:
            with file.open("rb") as f:
                f.seek(offset)
                data = f.read(size)
        except OSError as e:
            raise ModelError(
                f"{where}: external data in {file} cannot be read ({e.strerror}); copy it again"
            ) from None
        tensor.raw_data = data
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _part(tensor: onnx.TensorProto, folders: list[Path], where: str) -> tuple[Path, int, int]:
    """File, offset and size in bytes of a tensor's data."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    name = Path(location)
    if not location or "\0" in location or name.is_absolute() or ".." in name.parts:
        raise ModelError(
            f"{where} is in '{location}'; it must be in a file beside the model: save the model again"
        )
    file = folders[0] / name
    try:
        if not file.exists() and (folders[1] / name).exists():
            file = folders[1] / name
        found = file.stat()
        offset, size = (int(entries.get(k) or 0) for k in ("offset", "length"))
    except OSError as e:
        raise ModelError(f"{where}: {file} cannot be read ({e.strerror}); put it beside the model") from None
    except ValueError:
        raise ModelError(
            f"{where}: offset or length of its data is no number; save the model again"
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{where}: {file} is no file; put the file beside the model")
    size = size or found.st_size - offset
    if offset < 0 or size < 0 or offset + size > found.st_size:
        raise ModelError(
            f"{where}: bytes {offset} to {offset + size} of {file}, which has {found.st_size}: it is cut short, or "
            "another model's; copy it again"
        )
    return file, offset, size


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (a for n in nodes for a in n.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        yield from attribute.tensors
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            yield from _of_graph(graph)
