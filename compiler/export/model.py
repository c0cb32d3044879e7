"""The quantized network as an ONNX model, in standard operators where ONNX has the number formats, else QONNX.

Inputs and outputs have the names and shapes of the original; inside, tensors are (N, C, H, W). The scale of a
weight includes the rounding of its requantization multiplier, so the float model states the same real numbers
as the integers do; what is left between the two is float32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import onnx
from onnx import helper as oh

from sateen.compiler.export import other_ops, ports, sums
from sateen.compiler.export.dialects import Standard
from sateen.compiler.export.network_writer import NetworkWriter
from sateen.ir.ports import first_of_each
from sateen.ir.quantized import (
    Arrange,
    Concat,
    Linear,
    MatMul,
    Maximum,
    MaxPool,
    Normalize,
    Op,
    QuantizedGraph,
    Softmax,
    Stored,
)

_FUSION_NOTE = (
    "ONNX Runtime: set the session's graph_optimization_level to ORT_ENABLE_BASIC at most; the fusions beyond "
    "it are meant for int8 and uint8 and make invalid or wrong operators of other types."
)

EXPORT: dict[type[Op], Callable[[NetworkWriter, Any], str]] = {
    Linear: sums.linear,
    MatMul: sums.matmul,
    MaxPool: other_ops.max_pool,
    Concat: other_ops.concat,
    Arrange: other_ops.arrange,
    Maximum: other_ops.maximum,
    Stored: other_ops.stored,
    Softmax: other_ops.softmax,
    Normalize: other_ops.normalize,
}
"""Writes an op's nodes and gives the name of its value."""


def export_onnx(qgraph: QuantizedGraph, batch: int | None = None) -> onnx.ModelProto:
    """The model; the batch dimension is "N", or of fixed size. Checked by ONNX's checker."""
    return Exporter(qgraph, batch).model()


class Exporter(NetworkWriter):
    """Writes one model. With `apart`, every operator reads its operands from graph inputs of their own, in
    `given` by tensor, so that its rounding can be seen alone; `value` has what each tensor was computed as.
    """

    def __init__(self, qgraph: QuantizedGraph, batch: int | None, *, apart: bool = False) -> None:
        names = {p.source for p in qgraph.inputs} | {p.name for p in qgraph.inputs}
        super().__init__(qgraph, batch, [*names, *(o.port.name for o in qgraph.outputs)])
        self.inputs = [
            self.writer.input(p.source, (self.batch, *p.shape), ports.kind_of(p))
            for p in first_of_each(qgraph.inputs)
        ]
        for port in qgraph.inputs:
            ports.write_input(self, port)
        if apart:
            for name in qgraph.tensors:
                self.given[name] = self.writer.unique(f"{name}_given")
                self.inputs.append(self.writer.input(self.given[name], self.shape(name)))
        for op in qgraph.ops:
            self.value[op.output] = EXPORT[type(op)](self, op)
        self.outputs = [ports.write_output(self, o) for o in qgraph.outputs]

    def model(self) -> onnx.ModelProto:
        w = self.writer
        shown = {o.name for o in self.outputs}
        infos = [v for name, v in w.values.items() if name not in shown]
        graph = oh.make_graph(
            w.nodes, self.qgraph.name or "quantized", self.inputs, self.outputs, w.initializers
        )
        graph.value_info.extend(infos)
        opsets = self.dialect.opsets()
        ir = oh.find_min_ir_version_for(opsets, ignore_unknown=True)
        model = oh.make_model(graph, opset_imports=opsets, ir_version=ir)
        if isinstance(self.dialect, Standard) and not self.dialect.eight_bit_integers:
            model.doc_string = _FUSION_NOTE
        model.producer_name, model.producer_version = "sateen", version("sateen")
        onnx.checker.check_model(model)
        return model
