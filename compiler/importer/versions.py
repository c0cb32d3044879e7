"""Models of operator sets 1 to 8, in the operators of set 9.

ONNX's own converter asks for the shape of every tensor, which it does not infer for operators as old as these, and
puts a broadcast operand's dimensions elsewhere. What changed until then is little, and is here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sateen.compiler.importer.domains import DEFAULT, OLDEST_OPSET, opset_of

_BROADCASTING = ["Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Greater", "Less", "Equal", "PRelu"]
_WITHOUT_MEANING = ("consumed_inputs", "is_test", "spatial", "output_sequence", "broadcast", "axis")
"""Attributes that inference does without; `axis` of an operand that is broadcast."""
_TO_ITEM = {"Reshape": "shape", "Upsample": "scales"}
"""Attributes that became the second input."""


def modernized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself if its operators are of set 9 or newer, else a copy in those of set 9."""
    opset = opset_of(model)
    if not opset or opset >= OLDEST_OPSET:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    ranks = given_ranks(model.graph)
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        if node.domain in DEFAULT:
            nodes.extend(_before(node, ranks, copy.graph, opset))
        nodes.append(node)
        ranks.update(dict.fromkeys(node.output, rank_of(node, ranks, copy.graph)))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    for imported in copy.opset_import:
        if imported.domain in DEFAULT:
            imported.version = OLDEST_OPSET
    return copy


def given_ranks(graph: onnx.GraphProto) -> dict[str, int]:
    """Dimensions of inputs and initializers."""
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in graph.input}
    return ranks | {t.name: len(t.dims) for t in graph.initializer}


def _before(
    node: onnx.NodeProto, ranks: dict[str, int], graph: onnx.GraphProto, opset: int
) -> Iterator[onnx.NodeProto]:
    """Change the node in place; what has to come before it."""
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    name = node.output[0]
    if opset < 7 and node.op_type in _BROADCASTING:
        own = ranks.get(node.input[1], 0)
        whole = ranks.get(node.input[0], own)
        axis = int(found.get("axis", 1 if node.op_type == "PRelu" else whole - own))
        axis += whole if axis < 0 else 0
        missing = whole - axis - own
        if own and missing > 0:
            yield helper.make_node(
                "Unsqueeze", [node.input[1]], [f"{name}.spread"], axes=[own + k for k in range(missing)]
            )
            node.input[1] = f"{name}.spread"
        _drop(node, _WITHOUT_MEANING)
    elif node.op_type in ("BatchNormalization", "Dropout") or opset < 7:
        kept = {"axis"} if node.op_type not in _BROADCASTING else set()
        _drop(node, [n for n in _WITHOUT_MEANING if n not in kept])
    match node.op_type:
        case "Upsample" if "height_scale" in found:
            found["scales"] = [1.0, 1.0, found["height_scale"], found["width_scale"]]
            _drop(node, ("height_scale", "width_scale"))
        case "Pad" if "paddings" in found:
            _drop(node, ("paddings",))
            node.attribute.append(helper.make_attribute("pads", found["paddings"]))
        case "Cast" if isinstance(found.get("to"), bytes):
            _drop(node, ("to",))
            kind = onnx.TensorProto.DataType.Value(found["to"].decode().upper())
            node.attribute.append(helper.make_attribute("to", kind))
        case "BatchNormalization" | "Dropout":  # what training writes, and exporters list
            del node.output[1:]
    item = _TO_ITEM.get(node.op_type, "")
    if item in found and len(node.input) == 1:
        dtype = np.int64 if item == "shape" else np.float32
        graph.initializer.append(numpy_helper.from_array(np.array(found[item], dtype), f"{name}.{item}"))
        node.input.append(f"{name}.{item}")
        _drop(node, (item,))


def _drop(node: onnx.NodeProto, names: tuple[str, ...] | list[str]) -> None:
    kept = [a for a in node.attribute if a.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def rank_of(node: onnx.NodeProto, ranks: dict[str, int], graph: onnx.GraphProto) -> int:
    """Dimensions of the node's results; those of its first input where the operator keeps them."""
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    first = ranks.get(node.input[0], 0) if node.input else 0
    match node.op_type:
        case "Flatten" | "Gemm":
            return 2
        case "Reshape":
            shape = next((t for t in graph.initializer if t.name == node.input[1]), None)
            return int(shape.dims[0]) if shape is not None and shape.dims else first
        case "Squeeze" if "axes" in found:
            return first - len(found["axes"])
        case "Unsqueeze" if "axes" in found:
            return first + len(found["axes"])
        case "Squeeze" | "Unsqueeze":
            axes = next(
                (t for t in graph.initializer if len(node.input) > 1 and t.name == node.input[1]), None
            )
            count = int(axes.dims[0]) if axes is not None and axes.dims else 1
            return first + (count if node.op_type == "Unsqueeze" else -count)
        case "Constant" if "value" in found:
            return len(found["value"].dims)
        case "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" if not found.get("keepdims", 1):
            return first - len(found.get("axes", range(first)))
    return (
        max((ranks.get(i, 0) for i in node.input), default=first) if node.op_type in _BROADCASTING else first
    )
