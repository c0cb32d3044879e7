"""Makes a failing case smaller for as long as it fails in the same way."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from fuzz_case import Case
from onnx import helper

from sateen.errors import ConfigError
from sateen.machine.config import AcceleratorConfig

Fails = Callable[[Case, onnx.ModelProto], bool]

PLAIN = {
    "sparsity": "dense", "method": "magnitude", "ptq": "fast", "power_of_two": False, "spread": 1.0, "samples": 1,
    "batch": 1, "latency": 1, "interval": 1, "dataflow": "auto",
}  # fmt: skip
"""What a case is made of where it doesn't matter."""

EASY: dict[str, Any] = {
    "weight_format": "int8", "activation_format": "int8", "patterns": ("dense",), "dataflows": ("weight_stationary",),
    "multiplier": "fixed", "depthwise": False, "memory_registers": False, "counters": True, "vector_lanes": 1,
    "queue_depth": 4, "outstanding": 1, "burst_beats": 16, "bus_bits": 32, "act_banks": 2, "act_bank_depth": 4096,
    "weight_depth": 4096, "acc_depth": 256, "parameter_depth": 256,
    "plane_bits": 14, "position_bits": 20, "kernel_bits": 9, "channel_bits": 12,
    "stride_bits": 6, "dilation_bits": 8, "memory_bits": 32, "word_bits": 24, "token_bits": 6, "rows": 1, "cols": 1,
    "lanes": 1, "group": 1, "acc_bits": 64,
}  # fmt: skip


def shrink(case: Case, model: onnx.ModelProto, fails: Fails, seconds: float) -> tuple[Case, onnx.ModelProto]:
    """The smallest found in about `seconds`: fewer nodes first, then plainer options and an easier machine."""
    end = time.monotonic() + seconds
    improved = True
    while improved:
        improved = False
        for smaller in _networks(model):
            if time.monotonic() > end:
                return case, model
            if fails(case, smaller):
                model, improved = smaller, True
                break
    for plainer in (_plain, _easy):
        for change in plainer(case):
            if time.monotonic() > end:
                break
            candidate = change(case)
            if candidate is not None and candidate != case and fails(candidate, model):
                case = candidate
    return case, model


def _plain(_case: Case) -> Iterator[Callable[[Case], Case | None]]:
    for name, value in PLAIN.items():
        yield lambda c, n=name, v=value: dataclasses.replace(c, **{n: v})  # type: ignore[misc]


def _easy(_case: Case) -> Iterator[Callable[[Case], Case | None]]:
    for name, value in EASY.items():
        yield lambda c, n=name, v=value: _with(c, {n: v})  # type: ignore[misc]


def _with(case: Case, changes: dict[str, Any]) -> Case | None:
    try:
        return dataclasses.replace(case, config=AcceleratorConfig(**(case.config.to_dict() | changes)))
    except (ConfigError, ZeroDivisionError):
        return None


def _networks(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Smaller networks: cut behind a tensor, cut in front of one, without one node, with one output."""
    shapes = _shapes(model)
    made = [o for n in model.graph.node for o in n.output if o in shapes]
    inputs, outputs = ([v.name for v in values] for values in (model.graph.input, model.graph.output))
    nodes = len(model.graph.node)
    for tensor in made:
        yield from _smaller(model, shapes, inputs, [tensor], nodes)
    for tensor in reversed(made):
        if tensor not in outputs:
            yield from _smaller(model, shapes, [*inputs, tensor], outputs, nodes)
    for i, node in enumerate(model.graph.node):
        a, b = node.input[0], node.output[0]
        if shapes.get(a) == shapes.get(b) is not None and b not in outputs:
            fresh = onnx.ModelProto()
            fresh.CopyFrom(model)
            del fresh.graph.node[i]
            for other in fresh.graph.node:
                other.input[:] = [a if t == b else t for t in other.input]
            yield from _smaller(fresh, shapes, inputs, outputs, nodes)
    if len(outputs) > 1:
        for tensor in outputs:
            yield from _smaller(model, shapes, inputs, [t for t in outputs if t != tensor], nodes + 1)


def _smaller(
    model: onnx.ModelProto, shapes: dict[str, list[int]], inputs: list[str], outputs: list[str], below: int
) -> Iterator[onnx.ModelProto]:
    """The part of the model between those tensors, if it has fewer than `below` nodes."""
    wanted, nodes, read = set(outputs), [], set()
    for node in reversed(model.graph.node):
        made = set(node.output) & wanted
        if made and not made & set(inputs):
            nodes.append(node)
            wanted |= set(node.input)
            read |= set(node.input)
    if not nodes or len(nodes) >= below:
        return
    graph = helper.make_graph(
        nodes[::-1],
        model.graph.name,
        [_info(t, shapes) for t in inputs if t in read],
        [_info(t, shapes) for t in outputs],
        [w for w in model.graph.initializer if w.name in read],
    )
    if graph.input:
        yield helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _info(tensor: str, shapes: dict[str, list[int]]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, shapes[tensor])


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
