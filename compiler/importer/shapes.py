"""Shapes that a user gives for what the file leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from sateen.errors import ModelError

Shapes = Mapping[str, Sequence[int]]
"""By graph input, the batch first."""


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
        del tensor.shape.dim[:]
        for size in sizes:
            tensor.shape.dim.add(dim_value=size)
    forget_shapes(copy.graph)
    return copy
