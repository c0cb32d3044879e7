"""A model without its large constants, which are kept beside it as arrays: the rest is small, to be copied at will."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import numpy_helper

from sateen.compiler.importer.domains import DEFAULT
from sateen.errors import ModelError

LARGE = 1 << 10
"""Elements; shapes, axes and the like are smaller, and stay where libraries look for them."""


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """`model` lacks the initializers, and the nodes of type Constant, that `arrays` has by the tensor's name."""

    model: onnx.ModelProto
    arrays: dict[str, np.ndarray]
    owners: dict[str, str] = field(default_factory=dict)
    """Nodes that the importer added, and the file's node that each belongs to."""
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Reason and remedy of nodes that could not be written in other operators."""

    def lacks(self, node: onnx.NodeProto) -> bool:
        """Whether this node of the whole model was one of them."""
        return _is_constant(node) and node.output[0] in self.arrays


def array_of(tensor: onnx.TensorProto) -> np.ndarray:
    """The tensor's values. Raises ModelError if it does not hold as many as its shape says."""
    try:
        return numpy_helper.to_array(tensor)
    except Exception as e:
        raise ModelError(
            f"tensor '{tensor.name}': its data cannot be read as {list(tensor.dims)} of type "
            f"{type_name(tensor.data_type)} ({str(e).splitlines()[0] if str(e) else type(e).__name__}); "
            "the file is damaged, export or copy it again"
        ) from None


class Constants:
    """Values by tensor: initializers, what Constant nodes give and Identity passes on, and what is kept beside."""

    def __init__(self, graph: onnx.GraphProto, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._tensors = {t.name: t for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                if value is not None:
                    self._tensors[node.output[0]] = value
            elif node.op_type == "Identity" and node.input[0] in self._tensors:
                self._tensors[node.output[0]] = self._tensors[node.input[0]]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays or name in self._tensors

    def get(self, name: str) -> np.ndarray | None:
        """None for what is computed. Raises ModelError for a tensor that does not hold what its shape says."""
        if name in self._arrays:
            return self._arrays[name]
        return array_of(self._tensors[name]) if name in self._tensors else None


def type_name(data_type: int) -> str:
    known = onnx.TensorProto.DataType.values()
    return onnx.TensorProto.DataType.Name(data_type).lower() if data_type in known else str(data_type)


def sketch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with one element in place of each large constant: what ONNX's checker looks at."""
    moved = {t.name: t for t in model.graph.initializer if _large(t)} | _large_constants(model.graph, set())
    copy = _without(model, moved)
    for name, tensor in moved.items():
        one = copy.graph.initializer.add(name=name, data_type=tensor.data_type)
        with contextlib.suppress(KeyError):  # then the checker says that it knows no such type
            one.raw_data = bytes(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return copy


def lightened(model: onnx.ModelProto) -> Light:
    """Without the large initializers and constants that only nodes with a computed operand read; no node that is left
    has lost an operand that it could be folded with. The argument is not changed."""
    graph = model.graph
    constant = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    needed = {o.name for o in graph.output}  # where they are: outputs, subgraphs, nodes that can be folded
    for node in graph.node:
        needed.update(_inner_names(node))
        if all(i in constant or not i for i in node.input):
            constant.update(node.output)
            needed.update(node.input)
    moved = {t.name: t for t in graph.initializer if _large(t) and t.name not in needed}
    moved |= _large_constants(graph, needed)
    return Light(_without(model, moved), {name: array_of(tensor) for name, tensor in moved.items()})


def as_inputs(light: Light) -> onnx.ModelProto:
    """The model with its missing constants declared as inputs, so that it is complete."""
    model = onnx.ModelProto()
    model.CopyFrom(light.model)
    for name, array in light.arrays.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    return model


def without_inputs(model: onnx.ModelProto, names: Iterable[str]) -> None:
    """Take declarations of inputs out again, in place."""
    names = set(names)
    kept = [i for i in model.graph.input if i.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _large(tensor: onnx.TensorProto) -> bool:
    return tensor.HasField("raw_data") and math.prod(tensor.dims) >= LARGE


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in DEFAULT and len(node.output) == 1


def _large_constants(graph: onnx.GraphProto, needed: set[str]) -> dict[str, onnx.TensorProto]:
    """What large Constant nodes give, by output; without those that are `needed` where they are."""
    found = {}
    for node in graph.node:
        if _is_constant(node):
            tensor = next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)
            if tensor is not None and _large(tensor) and node.output[0] not in needed:
                found[node.output[0]] = tensor
    return found


def _inner_names(node: onnx.NodeProto) -> set[str]:
    """Tensors that the node's subgraphs, if it has any, may read of the graph around it."""
    graphs = [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]
    inner = [n for g in graphs for n in g.node]
    outputs = {o.name for g in graphs for o in g.output}
    return outputs.union(*({*n.input} | _inner_names(n) for n in inner))


def _without(model: onnx.ModelProto, moved: Container[str]) -> onnx.ModelProto:
    """A copy that at no time holds the constants `moved`."""
    copy = onnx.ModelProto()
    for descriptor, value in model.ListFields():
        if descriptor.name == "graph":
            copy.graph.SetInParent()
        else:
            _set(copy, descriptor.name, value)
    for descriptor, value in model.graph.ListFields():
        match descriptor.name:
            case "initializer" | "input":
                value = [v for v in value if v.name not in moved]
            case "node":
                value = [n for n in value if not (_is_constant(n) and n.output[0] in moved)]
        _set(copy.graph, descriptor.name, value)
    return copy


def _set(message: Message, name: str, value: Any) -> None:
    field = getattr(message, name)
    if hasattr(field, "extend"):
        field.extend(value)
    elif isinstance(value, Message):
        field.CopyFrom(value)
    else:
        setattr(message, name, value)
