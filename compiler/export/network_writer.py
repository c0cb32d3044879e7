"""What the exporter of a quantized network keeps: the graph being written, and where each tensor's value is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sateen.compiler.export.dialects import Dialect, Qonnx, Standard
from sateen.compiler.export.graph import Dim, GraphWriter
from sateen.formats.catalog import ONNX_TYPES
from sateen.ir.quantized import Quant, QuantizedGraph


def uses_standard_types(qgraph: QuantizedGraph) -> bool:
    """Whether every number format is an ONNX type, so that the export is QuantizeLinear/DequantizeLinear."""
    return all(f.name in ONNX_TYPES for f in _formats(qgraph))


def _formats(qgraph: QuantizedGraph) -> set:
    weights = {c.format for op in qgraph.ops for c in op.constants}
    return weights | {t.quant.format for t in qgraph.tensors.values()}


class NetworkWriter:
    """The network while it is written; tensors are (N, C, H, W).

    `value` has the float value of each tensor so far, `given` the graph input that stands for it where every
    operator is to be seen alone.
    """

    def __init__(self, qgraph: QuantizedGraph, batch: int | None, reserved: Sequence[str]) -> None:
        self.qgraph = qgraph
        self.batch: Dim = "N" if batch is None else batch
        self.given: dict[str, str] = {}
        self.value: dict[str, str] = {}
        self.writer = GraphWriter(reserved)
        self.dialect: Dialect
        if uses_standard_types(qgraph):
            self.dialect = Standard(self.writer, _formats(qgraph))
        else:
            self.dialect = Qonnx(self.writer)

    def operand(self, tensor: str) -> str:
        return self.given.get(tensor) or self.value[tensor]

    def quant(self, tensor: str) -> Quant:
        return self.qgraph.tensors[tensor].quant

    def shape(self, tensor: str) -> tuple[Dim, ...]:
        h, w, c = self.qgraph.tensors[tensor].shape
        return (self.batch, c, h, w)

    def reshape(self, x: str, shape: tuple[int, ...], name: str) -> str:
        target = self.writer.constant(np.array([0, *shape], np.int64), f"{name}_shape")  # 0: as it is
        return self.writer.node("Reshape", [x, target], name, (self.batch, *shape))

    def transpose(self, x: str, perm: tuple[int, ...], name: str) -> str:
        """perm: of the dimensions after the batch."""
        if perm == tuple(range(len(perm))):
            return x
        shape = self.writer.shape(x)
        perm = (0, *(p + 1 for p in perm))
        return self.writer.node("Transpose", [x], name, [shape[p] for p in perm], perm=perm)

    def activation(self, x: str, quant: Quant, tensor: str, *, shifted: bool = False) -> str:
        """The value, rounded. `shifted`: the zero point that a minifloat adds before rounding is in x already."""
        if not quant.zero_before:
            return self.dialect.activation(x, quant, tensor)
        w, shape = self.writer, self.writer.shape(x)
        offset = self.dialect.scalar(quant.scale * quant.offset, f"{tensor}_offset")
        if not shifted:
            x = w.node("Add", [x, offset], f"{tensor}_shifted", shape)
        x = self.dialect.activation(x, replace(quant, zero_point=0), tensor)
        return w.node("Sub", [x, offset], f"{tensor}_centered", shape)
