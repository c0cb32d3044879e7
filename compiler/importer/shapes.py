"""What a user says of a file's inputs: sizes that it leaves open, values that are the same for every sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sateen.errors import ModelError

Shapes = Mapping[str, Sequence[int]]
"""By graph input, the batch first."""

Values = Mapping[str, float | np.ndarray]
"""By graph input: what it always is."""


def forget_shapes(graph: onnx.GraphProto) -> None:
    """All but the inputs' shapes, to be inferred anew."""
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]


def with_shapes(model: onnx.ModelProto, shapes: Shapes | None) -> onnx.ModelProto:
    """The model, or a copy whose inputs have these shapes.

    Raises ModelError for a name that is no input, another rank, or a size that the file fixes otherwise.
    """
    if not shapes:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constant = {t.name for t in copy.graph.initializer}
    inputs = {i.name: i for i in copy.graph.input if i.name not in constant}
    named: dict[str, int] = {}
    for name, sizes in shapes.items():
        if name not in inputs:
            known = ", ".join(inputs) or "none"
            raise ModelError(f"shape of '{name}': the model has no such input; it has {known}")
        sizes = [int(s) for s in sizes]
        if any(s < 1 for s in sizes):
            raise ModelError(f"shape of '{name}': sizes {sizes}; give sizes of at least 1")
        tensor = inputs[name].type.tensor_type
        dims = tensor.shape.dim
        given = ", ".join(d.dim_param or str(d.dim_value or "?") for d in dims)
        if tensor.HasField("shape") and len(dims) != len(sizes):
            raise ModelError(
                f"shape of '{name}': {len(sizes)} sizes; in the file it has {len(dims)}: ({given}), the batch first"
            )
        for k, (dim, size) in enumerate(zip(dims, sizes, strict=False)):
            if dim.dim_value > 0 and dim.dim_value != size:
                raise ModelError(
                    f"shape of '{name}': dimension {k} is {dim.dim_value} in the file, not {size}; only what the file "
                    f"leaves open can be given: ({given})"
                )
        for dim, size in zip(dims, sizes, strict=False):
            if dim.dim_param:
                named[dim.dim_param] = size if named.get(dim.dim_param, size) == size else 0
        del tensor.shape.dim[:]
        for size in sizes:
            tensor.shape.dim.add(dim_value=size)
    for value in inputs.values():
        fill(value, {name: size for name, size in named.items() if size})
    forget_shapes(copy.graph)
    return copy


def fill(value: onnx.ValueInfoProto, named: Mapping[str, int]) -> None:
    """Give an input, in place, the sizes of dimensions that it shares a name with."""
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param in named:
            dim.dim_value = named[dim.dim_param]


def with_values(model: onnx.ModelProto, values: Values | None) -> onnx.ModelProto:
    """The model, or a copy in which these inputs are constants.

    Raises ModelError for a name that is no input, and for what has another shape or type.
    """
    if not values:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inputs = {i.name: i for i in copy.graph.input}
    for name, given in values.items():
        if name not in inputs:
            raise ModelError(
                f"value of '{name}': the model has no such input; it has {', '.join(inputs) or 'none'}"
            )
        tensor = inputs[name].type.tensor_type
        sizes = [d.dim_value for d in tensor.shape.dim]
        array = np.asarray(given)
        if array.ndim == 0 and all(sizes):
            array = np.full(sizes, given)
        if len(sizes) != array.ndim or any(s not in (0, n) for s, n in zip(sizes, array.shape, strict=False)):
            raise ModelError(f"value of '{name}': it has shape {array.shape}; the input has {tuple(sizes)}")
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if (array.astype(kind) != array).any():
            raise ModelError(f"value of '{name}': {given} is no {kind.name}, which the input is of")
        copy.graph.input.remove(inputs[name])
        copy.graph.initializer.append(numpy_helper.from_array(array.astype(kind), name))
    return copy
