"""A trained float network as an ONNX file: the layers of the graph with other weights, NCHW."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sateen.compiler.training import written
from sateen.errors import ModelError
from sateen.files import write_file
from sateen.ir.graph import Graph
from sateen.ir.nodes import (
    Activation,
    Add,
    Arrange,
    Concat,
    Conv,
    MatMul,
    Mul,
    Normalize,
    Pool,
    Softmax,
    Stored,
)
from sateen.ir.ports import Port

_OPSET = 17


def write_onnx(path: Path, graph: Graph, trained: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the graph with `trained` weights (O, KH, KW, I) and biases (O,) by Conv; batch normalization stays folded.

    Of a normalization by its node these are scale and offset (C,), of what is stored nothing and values (H, W, C).
    """
    write_file(path, _model(graph, trained).SerializeToString(), "trained model")


def _model(graph: Graph, trained: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> onnx.ModelProto:
    writer = Writer()
    (port,), (output,) = graph.inputs, graph.outputs
    if port.host or port.kind != "float32":
        raise ModelError(f"input '{port.name}': the host computes on it; a trained file cannot say so")
    tensors = {port.name: writer.to_nchw(port)}
    for node in graph.nodes:
        x = [tensors[i] for i in node.inputs]
        match node:
            case Conv():
                weight, bias = trained.get(node.name, (node.weight, node.bias))
                names = [
                    writer.constant(f"{node.name}.weight", weight.transpose(0, 3, 1, 2).astype(np.float32)),
                    writer.constant(f"{node.name}.bias", bias.astype(np.float32)),
                ]
                cropped = writer.cropped(x[0], node.pads)
                if node.channels is not None:
                    cropped = written.selected(writer, node, cropped)
                pads = [max(p, 0) for p in node.pads]
                made = writer.node(
                    "Conv", [cropped, *names], node.name, pads=pads, strides=node.stride, dilations=node.dilation,
                    kernel_shape=node.weight.shape[1:3], group=node.groups,
                )  # fmt: skip
            case Pool():
                kind = {"max": "MaxPool", "average": "AveragePool"}[node.kind]
                more = {"dilations": node.dilation} if node.kind == "max" else {"count_include_pad": 1}
                made = writer.node(
                    kind, x, node.name, kernel_shape=node.kernel, strides=node.stride, pads=node.pads, **more
                )
            case Add() | Mul():
                made = writer.node(type(node).__name__, x, node.name)
            case MatMul():
                made = written.matmul(writer, graph, node, x)
            case Softmax():
                made = writer.node("Softmax", x, node.name, axis=1)
            case Normalize():
                scale, offset = trained.get(node.name, (node.scale, node.offset))
                made = written.normalize(writer, graph, node, x[0], scale, offset)
            case Concat():
                made = writer.node("Concat", x, node.name, axis=1)
            case Arrange():
                made = written.arrange(writer, graph, node, x)
            case Stored():
                _, values = trained.get(node.name, (None, node.values))
                made = written.stored(writer, node, values, port.name)
            case Activation() if node.function != "clip":
                made = written.function(writer, node, x[0])
            case Activation():
                ends = [
                    writer.constant(f"{node.name}.{end}", np.float32(v)) if np.isfinite(v) else ""
                    for end, v in (("low", node.low), ("high", node.high))
                ]
                relu = (node.low, node.high) == (0.0, np.inf)
                made = (
                    writer.node("Relu", x, node.name) if relu else writer.node("Clip", [*x, *ends], node.name)
                )
            case _:
                raise ModelError(f"{type(node).__name__} '{node.name}': is not part of a trained network")
        tensors[node.output] = made
    result = writer.from_nchw(tensors[output.tensor], output.port)
    writer.nodes.append(helper.make_node("Identity", [result], [output.port.name], name="result"))
    made_graph = helper.make_graph(
        writer.nodes, graph.name or "trained",
        [helper.make_tensor_value_info(port.name, TensorProto.FLOAT, ["N", *port.shape])],
        [helper.make_tensor_value_info(output.port.name, TensorProto.FLOAT, ["N", *output.port.shape])],
        writer.initializers,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(
        made_graph,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="sateen",
    )


class Writer:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: object) -> str:
        value = f"{name}:out"
        plain: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in attributes.items()}
        self.nodes.append(helper.make_node(kind, inputs, [value], name=name, **plain))
        return value

    def reshape(self, x: str, shape: tuple[int, ...], name: str) -> str:
        """Of what follows the batch."""
        target = self.constant(f"{name}.shape", np.array([0, *shape], np.int64))
        return self.node("Reshape", [x, target], name)

    def affine(self, x: str, scale: np.ndarray, offset: np.ndarray, name: str) -> str:
        """x * scale + offset of each channel, where they are not 1 and 0."""
        for operator, values, neutral in (("Mul", scale, 1.0), ("Add", offset, 0.0)):
            if (values != neutral).any():
                constant = self.constant(f"{name}.{operator}", values.astype(np.float32).reshape(-1, 1, 1))
                x = self.node(operator, [x, constant], f"{name}.{operator}.result")
        return x

    def cropped(self, x: str, pads: tuple[int, ...]) -> str:
        """Without the rows and columns that negative pads leave out."""
        if min(pads) >= 0:
            return x
        top, left, bottom, right = (max(-p, 0) for p in pads)
        starts = self.constant(f"{x}.starts", np.array([top, left], np.int64))
        last = np.iinfo(np.int64).max
        ends = self.constant(f"{x}.ends", np.array([-bottom or last, -right or last], np.int64))
        axes = self.constant(f"{x}.axes", np.array([2, 3], np.int64))
        return self.node("Slice", [x, starts, ends, axes], f"{x}.slice")

    def to_nchw(self, port: Port) -> str:
        """From the file's input: `Port` says how (H, W, C) comes of it."""
        view = self.constant("view in", np.array([0, *port.view], np.int64))
        x = self.node("Reshape", [port.name, view], "input view")
        h, w, c = port.axes
        return self.node("Transpose", [x], "input order", perm=[0, c + 1, h + 1, w + 1])

    def from_nchw(self, x: str, port: Port) -> str:
        """The inverse, for the output."""
        place = {axis: i for i, axis in enumerate(port.axes)}  # of (H, W, C)
        nchw = {0: 2, 1: 3, 2: 1}
        perm = [0, *(nchw[place[axis]] for axis in range(3))]
        x = self.node("Transpose", [x], "output order", perm=perm)
        shape = self.constant("shape out", np.array([0, *port.shape], np.int64))
        return self.node("Reshape", [x, shape], "output shape")
