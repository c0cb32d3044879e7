"""The quantized network as an ONNX model, in standard operators where ONNX has the number formats, else QONNX.

Inputs and outputs have the names and shapes of the original; inside, tensors are (N, C, H, W). The scale of a
weight includes the rounding of its requantization multiplier, so the float model states the same real numbers
as the integers do; what is left between the two is float32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx import helper as oh

from sateen.compiler.export.dialects import Dialect, Qonnx, Standard
from sateen.compiler.export.graph import Dim, GraphWriter
from sateen.compiler.quantize.residuals import folded_zero_points
from sateen.errors import FormatError
from sateen.formats.catalog import ONNX_TYPES
from sateen.formats.rows import EPSILON_FRACTION
from sateen.ir.chosen import Chosen
from sateen.ir.functions import FUNCTIONS, OUTPUT_FUNCTIONS
from sateen.ir.graph import InputOp, Output, Port, first_of_each
from sateen.ir.quantized import (
    Arrange,
    Concat,
    Factor,
    Linear,
    MatMul,
    Maximum,
    MaxPool,
    Normalize,
    Op,
    Quant,
    QuantizedGraph,
    Softmax,
    Stored,
)
from sateen.sim.reference import value_order

_LOOKUP_RANGE = 1 << 16
"""Fixed-point values up to which a table is indexed directly; wider formats search their 256 values."""

_FUSION_NOTE = (
    "ONNX Runtime: set the session's graph_optimization_level to ORT_ENABLE_BASIC at most; the fusions beyond "
    "it are meant for int8 and uint8 and make invalid or wrong operators of other types."
)

_TO_CHW = (1, 2, 0)  # position of H, W and C in (C, H, W)


def export_onnx(qgraph: QuantizedGraph, batch: int | None = None) -> onnx.ModelProto:
    """The model; the batch dimension is "N", or of fixed size. Checked by ONNX's checker."""
    return Exporter(qgraph, batch).model()


def uses_standard_types(qgraph: QuantizedGraph) -> bool:
    """Whether every number format is an ONNX type, so that the export is QuantizeLinear/DequantizeLinear."""
    return all(f.name in ONNX_TYPES for f in _formats(qgraph))


def _formats(qgraph: QuantizedGraph) -> set:
    weights = {c.format for op in qgraph.ops for c in op.constants}
    return weights | {t.quant.format for t in qgraph.tensors.values()}


class Exporter:
    """Writes one model. With `apart`, every operator reads its operands from graph inputs of their own, in
    `given` by tensor, so that its rounding can be seen alone; `value` has what each tensor was computed as.
    """

    def __init__(self, qgraph: QuantizedGraph, batch: int | None, *, apart: bool = False) -> None:
        self.qgraph = qgraph
        self.given: dict[str, str] = {}
        self.batch: Dim = "N" if batch is None else batch
        names = {p.source for p in qgraph.inputs} | {p.name for p in qgraph.inputs}
        self.writer = GraphWriter([*names, *(o.port.name for o in qgraph.outputs)])
        self.dialect: Dialect
        if uses_standard_types(qgraph):
            self.dialect = Standard(self.writer, _formats(qgraph))
        else:
            self.dialect = Qonnx(self.writer)
        self.value: dict[str, str] = {}  # tensor -> the float value (N, C, H, W)
        self.inputs = [
            self.writer.input(p.source, (self.batch, *p.shape), _kind(p))
            for p in first_of_each(qgraph.inputs)
        ]
        for port in qgraph.inputs:
            self._input(port)
        if apart:
            for name in qgraph.tensors:
                self.given[name] = self.writer.unique(f"{name}_given")
                self.inputs.append(self.writer.input(self.given[name], self._shape(name)))
        for op in qgraph.ops:
            self.value[op.output] = EXPORT[type(op)](self, op)
        self.outputs = [self._output(o) for o in qgraph.outputs]

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

    # -- ports ---------------------------------------------------------------------------------------------

    def _input(self, port: Port) -> None:
        w, x = self.writer, port.source
        if port.codes is not None:
            shape = w.shape(x)
            x = w.node("DequantizeLinear", [x, *self._scale(port)], f"{port.name}_real", shape)
        if port.table is not None:
            rows = w.constant(port.table.astype(np.float32), f"{port.name}_table")
            x = w.node("Gather", [rows, x], f"{port.name}_rows", (*w.shape(x), *port.table.shape[1:]))
        if tuple(w.shape(x)[1:]) != tuple(port.view):
            x = self._reshape(x, port.view, f"{port.name}_view")
        perm = tuple(port.axes[i] for i in (2, 0, 1))
        x = self._transpose(x, perm, f"{port.name}_channels_first")
        for k, op in enumerate(port.host):
            x = self._input_op(x, op, f"{port.name}_host{k}")
        terms, quant = [], self._quant(port.name)
        count = self.qgraph.terms(port)
        for t in range(count):
            name = f"{port.name}_term{t}" if count > 1 else port.name
            terms.append(self._activation(x, quant, name))
            if t + 1 < count:
                x = w.node("Sub", [x, terms[-1]], f"{name}_rest", w.shape(x))
        self.value[port.name] = (
            terms[0]
            if count == 1
            else w.node("Concat", terms, f"{port.name}_terms", self._shape(port.name), axis=1)
        )

    def _input_op(self, x: str, op: InputOp, name: str) -> str:
        w, shape = self.writer, self.writer.shape(x)

        def numbers(values: tuple[float, ...], what: str) -> str:
            array = np.array(values, np.float32)
            return w.constant(array.reshape((-1, 1, 1) if len(values) > 1 else ()), f"{name}_{what}")

        match op.kind:
            case "affine":
                if set(op.a) != {1.0}:
                    x = w.node("Mul", [x, numbers(op.a, "scale")], f"{name}_scaled", shape)
                if set(op.b) != {0.0}:
                    x = w.node("Add", [x, numbers(op.b, "offset")], f"{name}_shifted", shape)
                return x
            case "clip":
                bounds = [
                    "" if np.isinf(v).any() else numbers(v, n) for v, n in ((op.a, "low"), (op.b, "high"))
                ]
                return w.node("Clip", [x, *(bounds if bounds[1] else bounds[:1])], f"{name}_clip", shape)
            case "bipolar":
                zero = self.dialect.scalar(0.0, f"{name}_zero")
                below = w.node("Less", [x, zero], f"{name}_below", shape, TensorProto.BOOL)
                choices = [numbers(op.b, "low"), numbers(op.a, "high")]
                return w.node("Where", [below, *choices], f"{name}_sign", shape)
            case kind:
                return w.node(FUNCTIONS[kind].operator, [x], f"{name}_{kind}", shape)

    def _output(self, output: Output) -> onnx.ValueInfoProto:
        w, port = self.writer, output.port
        perm = [0, 0, 0]
        for i, axis in enumerate(port.axes):
            perm[axis] = _TO_CHW[i]
        x = self._transpose(self.value[output.tensor], tuple(perm), f"{port.name}_view")
        if tuple(port.shape) != tuple(port.view):
            x = self._reshape(x, port.shape, f"{port.name}_shaped")
        for k, host in enumerate(output.host):
            if isinstance(host, Chosen):
                x = self._chosen(x, host, f"{port.name}_host{k}")
                continue
            if host.quantizer is not None:
                x = self.dialect.activation(x, host.quantizer.quant, f"{port.name}_host{k}")
                continue
            x = w.node(
                OUTPUT_FUNCTIONS[host.kind].operator,
                [x],
                f"{port.name}_{host.kind}",
                w.shape(x),
                axis=host.axis,
            )
        kind = _kind(port)
        if port.codes is not None:
            inputs = [x, *self._scale(port)]
            w.node("QuantizeLinear", inputs, port.name, w.shape(x), kind, exact_name=True)
        elif output.host and isinstance(output.host[-1], Chosen):
            w.node("Identity", [x], port.name, w.shape(x), kind, exact_name=True)
        elif kind != TensorProto.FLOAT:
            x = w.node("Round", [x], f"{port.name}_whole", w.shape(x))
            w.node("Cast", [x], port.name, w.shape(x), kind, exact_name=True, to=kind)
        else:
            w.node("Identity", [x], port.name, w.shape(x), exact_name=True)
        return w.values[port.name]

    def _chosen(self, x: str, chosen: Chosen, name: str) -> str:
        w, shape = self.writer, self.writer.shape(x)
        result = (shape[0], *chosen.shape(tuple(int(s) for s in shape[1:])))
        if chosen.last or not chosen.keep:
            kind, last = "ArgMax" if chosen.largest else "ArgMin", int(chosen.last)
            return w.node(
                kind, [x], name, result, TensorProto.INT64, axis=chosen.axis, keepdims=int(chosen.keep),
                select_last_index=last,
            )  # fmt: skip
        count = w.constant(np.array([chosen.count], np.int64), f"{name}_k")
        return w.top_k(x, count, name, result, chosen.axis, chosen.largest)[chosen.gives == "indices"]

    def _scale(self, port: Port) -> tuple[str, str]:
        """Scale and zero point of a port of codes, as the file has them."""
        assert port.codes is not None
        zero = np.array(port.codes.zero_point, port.kind)
        return (
            self.dialect.scalar(port.codes.scale, f"{port.name}_port_scale"),
            self.writer.constant(zero, f"{port.name}_port_zero_point"),
        )

    def _reshape(self, x: str, shape: tuple[int, ...], name: str) -> str:
        target = self.writer.constant(np.array([0, *shape], np.int64), f"{name}_shape")  # 0: as it is
        return self.writer.node("Reshape", [x, target], name, (self.batch, *shape))

    def _transpose(self, x: str, perm: tuple[int, ...], name: str) -> str:
        """perm: of the dimensions after the batch."""
        if perm == tuple(range(len(perm))):
            return x
        shape = self.writer.shape(x)
        perm = (0, *(p + 1 for p in perm))
        return self.writer.node("Transpose", [x], name, [shape[p] for p in perm], perm=perm)

    # -- ops -----------------------------------------------------------------------------------------------

    def _operand(self, tensor: str) -> str:
        return self.given.get(tensor) or self.value[tensor]

    def _quant(self, tensor: str) -> Quant:
        return self.qgraph.tensors[tensor].quant

    def _shape(self, tensor: str) -> tuple[Dim, ...]:
        h, w, c = self.qgraph.tensors[tensor].shape
        return (self.batch, c, h, w)

    def max_pool(self, op: MaxPool) -> str:
        x = self.writer.node(
            "MaxPool",
            [self._operand(op.input)],
            op.name,
            self._shape(op.output),
            kernel_shape=op.kernel,
            strides=op.stride,
            dilations=op.dilation,
            pads=op.pads,
        )
        return self._activation(x, self._quant(op.output), op.output)

    def concat(self, op: Concat) -> str:
        parts = [self._operand(p) for p in op.parts]
        x = self.writer.node("Concat", parts, op.name, self._shape(op.output), axis=1)
        return self._activation(x, self._quant(op.output), op.output)

    def maximum(self, op: Maximum) -> str:
        parts = [self._operand(p) for p in op.parts]
        x = self.writer.node("Max", parts, op.name, self._shape(op.output))
        return self._activation(x, self._quant(op.output), op.output)

    def stored(self, op: Stored) -> str:
        """The constant, as often as there are samples."""
        w, real = self.writer, self._quant(op.output).dequantize(op.codes)
        values = w.constant(real.transpose(2, 0, 1)[None].astype(np.float32), f"{op.output}_values")
        first = w.constant(np.array([0], np.int64), f"{op.output}_first")
        one = w.constant(np.array([1, 1, 1], np.int64), f"{op.output}_once")
        source = next(p.source for p in self.qgraph.inputs)
        rank = len(w.shape(source))
        shape = w.node("Shape", [source], f"{op.output}_shape", (rank,), TensorProto.INT64)
        batch = w.node("Gather", [shape, first], f"{op.output}_batch", (1,), TensorProto.INT64, axis=0)
        times = w.node("Concat", [batch, one], f"{op.output}_times", (4,), TensorProto.INT64, axis=0)
        return w.node("Expand", [values, times], op.output, self._shape(op.output))

    def arrange(self, op: Arrange) -> str:
        """The pixels of all parts side by side, of which each output pixel takes one."""
        w, (h, width, c) = self.writer, self.qgraph.tensors[op.output].shape
        planes = [self.qgraph.tensors[p].shape[:2] for p in op.parts]
        begin = np.cumsum([0, *(a * b for a, b in planes)])
        index = np.zeros((h, width), np.int64)
        for piece in op.pieces:
            y, x = piece.source.pixels(piece.counts)
            index[piece.target.pixels(piece.counts)] = begin[piece.part] + y * planes[piece.part][1] + x
        rows = [
            self._reshape(self._operand(p), (c, a * b), f"{op.name}_pixels{k}")
            for k, (p, (a, b)) in enumerate(zip(op.parts, planes, strict=True))
        ]
        pixels = rows[0]
        if len(rows) > 1:
            pixels = w.node("Concat", rows, f"{op.name}_pixels", (self.batch, c, int(begin[-1])), axis=2)
        places = w.constant(index.ravel(), f"{op.name}_index")
        taken = w.node("Gather", [pixels, places], f"{op.name}_taken", (self.batch, c, h * width), axis=2)
        return self._activation(
            self._reshape(taken, (c, h, width), op.name), self._quant(op.output), op.output
        )

    def softmax(self, op: Softmax) -> str:
        x = self.writer.node("Softmax", [self._operand(op.input)], op.name, self._shape(op.output), axis=1)
        return self._activation(x, self._quant(op.output), op.output)

    def normalize(self, op: Normalize) -> str:
        """Mean, variance and what follows as operators of their own, which all opsets have."""
        w, name = self.writer, op.name
        h, width, c = self.qgraph.tensors[op.output].shape
        source, target = self._quant(op.input), self._quant(op.output)
        x, axis = self._operand(op.input), 1
        if op.plane:
            x, axis = self._reshape(x, (op.groups, op.elements), f"{name}_rows"), 2
        rows = w.shape(x)
        one = [1 if d == axis else s for d, s in enumerate(rows)]

        def reduced(operator: str, values: str, what: str) -> str:
            if self.dialect.opset < 18 and operator == "ReduceMean":
                return w.node(operator, [values], f"{name}_{what}", one, axes=[axis], keepdims=1)
            axes = w.constant(np.array([axis], np.int64), f"{name}_{what}_axes")
            return w.node(operator, [values, axes], f"{name}_{what}", one, keepdims=1)

        if op.centred:
            x = w.node("Sub", [x, reduced("ReduceMean", x, "mean")], f"{name}_centred", rows)
        square = w.node("Mul", [x, x], f"{name}_square", rows)
        variance = reduced(
            "ReduceMean" if op.count > 1 or op.elements == 1 else "ReduceSum", square, "variance"
        )
        unit = source.scale * 2.0**source.format.lsb_exponent / op.count
        epsilon = self.dialect.scalar(op.epsilon * 2.0**-EPSILON_FRACTION * unit**2, f"{name}_epsilon")
        variance = w.node("Add", [variance, epsilon], f"{name}_positive", one)
        divisor = w.node("Sqrt", [variance], f"{name}_divisor", one)
        x = w.node("Div", [x, divisor], f"{name}_normalized", rows)
        if op.plane:
            x = self._reshape(x, (c, h, width), f"{name}_plane")
        step = target.scale * 2.0**target.format.lsb_exponent
        scale = op.multiplier * np.ldexp(1.0, op.fraction - op.shift) * step
        offset = op.bias.astype(np.float64) * np.ldexp(1.0, -op.fraction) * np.abs(scale)
        for operator, values, neutral in (("Mul", scale, 1.0), ("Add", offset, 0.0)):
            if (values != neutral).any():
                constant = w.constant(
                    values.astype(np.float32).reshape(-1, 1, 1), f"{name}_{operator.lower()}"
                )
                x = w.node(operator, [x, constant], f"{name}_{operator.lower()}_result", w.shape(x))
        return self._activation(x, target, op.output, shifted=True)

    def _activation(self, x: str, quant: Quant, tensor: str, *, shifted: bool = False) -> str:
        """The value, rounded. `shifted`: the zero point that a minifloat adds before rounding is in x already."""
        if not quant.zero_before:
            return self.dialect.activation(x, quant, tensor)
        w, shape = self.writer, self.writer.shape(x)
        offset = self.dialect.scalar(quant.scale * quant.offset, f"{tensor}_offset")
        if not shifted:
            x = w.node("Add", [x, offset], f"{tensor}_shifted", shape)
        x = self.dialect.activation(x, replace(quant, zero_point=0), tensor)
        return w.node("Sub", [x, offset], f"{tensor}_centered", shape)

    def linear(self, op: Linear) -> str:
        w = self.writer
        source = self._quant(op.input)
        plain = is_identity(op, source) and not any(folded_zero_points(op, self.qgraph))
        y = self._operand(op.input) if plain else self._conv(op)
        if op.residual:
            kind, what = ("Mul", "product") if isinstance(op.residual, Factor) else ("Add", "sum")
            y = w.node(kind, [y, self._operand(op.residual.input)], f"{op.name}_{what}", w.shape(y))
        return self._rounded(op, y)

    def _rounded(self, op: Linear | MatMul, y: str) -> str:
        """What becomes of a sum."""
        if op.raw:
            return y
        y = self._clamp(op, y)
        if op.table is None:
            return self._activation(y, op.requantized, op.output, shifted=True)
        y = self._activation(y, op.requantized, f"{op.output}_before", shifted=True)
        return self._activation(self._table(op, y), self._quant(op.output), op.output)

    def matmul(self, op: MatMul) -> str:
        """The batch as dimensions of its own, (N, groups, heads, pixels, channels), times what its rounding holds."""
        w, batch = self.writer, op.batch
        shapes = [self.qgraph.tensors[t].shape for t in (op.input, op.weight, op.output)]
        sizes = [batch.split(k, shape) for k, shape in enumerate(shapes)]
        factors = []
        for k, tensor in enumerate((op.input, op.weight)):
            groups, heads, pixels, channels = sizes[k]
            name = f"{op.name}_{'ab'[k]}"
            if batch.in_channels[k]:  # (N, heads * C, groups, W)
                x = self._reshape(self._operand(tensor), (heads, channels, groups, pixels), f"{name}_heads")
                perm = (2, 0, 3, 1)
            else:  # (N, C, groups * heads, W)
                x = self._reshape(self._operand(tensor), (channels, groups, heads, pixels), f"{name}_heads")
                perm = (1, 2, 3, 0)
            if k == 1 and batch.transposed:
                perm = (perm[0], perm[1], perm[3], perm[2])
            factors.append(self._transpose(x, perm, name))
        groups, heads, pixels, channels = sizes[2]
        y = w.node("MatMul", factors, op.name, (self.batch, groups, heads, pixels, channels))
        perm, hwc = ((1, 3, 0, 2) if batch.in_channels[2] else (3, 0, 1, 2)), shapes[2]
        y = self._reshape(self._transpose(y, perm, f"{op.name}_plane"), (hwc[2], *hwc[:2]), f"{op.name}_sum")
        a, b = (self._quant(t) for t in (op.input, op.weight))
        if op.raw:
            assert op.raw_scale is not None
            unit = op.raw_scale
        else:
            q = op.requantized
            unit = (
                np.ldexp(op.multiplier.astype(np.float64), -op.shift) * q.scale * 2.0**q.format.lsb_exponent
            )
        scale = unit / (a.scale * b.scale * 2.0 ** (a.format.lsb_exponent + b.format.lsb_exponent))
        if (scale != 1).any():
            factor = w.constant(scale.astype(np.float32).reshape(-1, 1, 1), f"{op.name}_scale")
            y = w.node("Mul", [y, factor], f"{op.name}_scaled", w.shape(y))
        bias = np.array([int(v) for v in op.bias], np.float64) * unit
        if op.residual and (residual := self._quant(op.residual.input)).zero_before:
            # whose value lacks the zero point that the bias takes off
            bias += residual.scale * residual.offset
        if bias.any():
            offset = w.constant(bias.astype(np.float32).reshape(-1, 1, 1), f"{op.name}_bias")
            y = w.node("Add", [y, offset], f"{op.name}_shifted", w.shape(y))
        if op.residual:
            y = w.node("Add", [y, self._operand(op.residual.input)], f"{op.name}_sum", w.shape(y))
        return self._rounded(op, y)

    def _conv(self, op: Linear) -> str:
        source = self._quant(op.input)
        if op.weight.scale is None:
            raise FormatError(f"'{op.name}': no weight scale, so it cannot be written as ONNX")
        weight = self.dialect.weight(
            np.ascontiguousarray(op.weight.codes.transpose(0, 3, 1, 2)),
            op.weight.format,
            op.weight.scale,
            f"{op.name}_weight",
        )
        inputs = [self._selected(op), weight]
        sums = zip(op.bias, op.weight.sums, strict=True)
        bias = np.array([int(b) + source.zero_point * int(s) for b, s in sums], object)
        lsb = source.format.lsb_exponent + op.weight.format.lsb_exponent
        unit = source.scale * op.weight.scale * 2.0**lsb
        if op.residual and (other := self._quant(op.residual.input)).zero_before:
            # the residual's value lacks the zero point that the bias takes off
            real = np.array([int(b) for b in bias], np.float64) * unit + other.scale * other.offset
            inputs.append(self.writer.constant(real.astype(np.float32), f"{op.name}_bias"))
        elif op.raw_offset is not None:
            real = np.array([int(b) for b in bias], np.float64) * unit + op.raw_offset
            inputs.append(self.writer.constant(real.astype(np.float32), f"{op.name}_bias"))
        elif any(bias):
            inputs.append(self.dialect.bias(bias, unit, f"{op.name}_bias"))
        return self.writer.node(
            "Conv",
            inputs,
            op.name,
            self._shape(op.output),
            kernel_shape=op.weight.shape[1:3],
            strides=op.stride,
            dilations=op.dilation,
            pads=[max(p, 0) for p in op.pads],
            group=op.groups,
        )

    def _selected(self, op: Linear) -> str:
        """The op's input without what it leaves out: rows, columns, and channels that no weight is for."""
        x = self._operand(op.input)
        if min(op.pads) < 0:
            h, w, c = self.qgraph.tensors[op.input].shape
            top, left, bottom, right = (max(-p, 0) for p in op.pads)
            lows, highs = [top, left], [h - bottom, w - right]
            bounds = [
                self.writer.constant(np.array(v, np.int64), f"{op.name}_{what}")
                for what, v in (("starts", lows), ("ends", highs), ("axes", [2, 3]))
            ]
            shape = (self.batch, c, highs[0] - top, highs[1] - left)
            x = self.writer.node("Slice", [x, *bounds], f"{op.name}_cropped", shape)
        if op.channels is None:
            return x
        n, _, *plane = self.writer.shape(x)
        index = self.writer.constant(op.channels.ravel(), f"{op.name}_channels")
        return self.writer.node(
            "Gather", [x, index], f"{op.name}_input", (n, op.channels.size, *plane), axis=1
        )

    def _clamp(self, op: Linear | MatMul, y: str) -> str:
        w, quant = self.writer, op.requantized
        fmt = quant.format
        below, above = op.low > fmt.min_fixed, op.high < fmt.max_fixed

        def real(fixed: int) -> float:
            return quant.scale * (fixed - quant.zero_after) * 2.0**fmt.lsb_exponent

        if below and real(op.low) == 0 and not above:
            return w.node("Relu", [y], f"{op.name}_relu", w.shape(y))
        if not below and not above:
            return y
        bounds = [
            self.dialect.scalar(real(op.low), f"{op.name}_low") if below else "",
            self.dialect.scalar(real(op.high), f"{op.name}_high") if above else "",
        ]
        return w.node("Clip", [y, *(bounds if above else bounds[:1])], f"{op.name}_clip", w.shape(y))

    def _table(self, op: Linear | MatMul, y: str) -> str:
        """Look the value up: by its integer where those are few, else by counting the values below it."""
        w, quant, out = self.writer, op.requantized, self._quant(op.output)
        assert op.table is not None
        fmt, shape = quant.format, w.shape(y)
        name = f"{op.name}_table"
        if fmt.max_fixed - fmt.min_fixed < _LOOKUP_RANGE:
            unit = self.dialect.scalar(quant.scale * 2.0**fmt.lsb_exponent, f"{name}_unit")
            offset = w.constant(np.array(quant.zero_point - fmt.min_fixed, np.int64), f"{name}_offset")
            x = w.node("Div", [y, unit], f"{name}_scaled", shape)
            x = w.node("Round", [x], f"{name}_integer", shape)
            x = w.node("Cast", [x], f"{name}_cast", shape, TensorProto.INT64, to=TensorProto.INT64)
            index = w.node("Add", [x, offset], f"{name}_index", shape, TensorProto.INT64)
            codes = fmt.from_fixed(np.arange(fmt.min_fixed, fmt.max_fixed + 1))
        else:
            codes = value_order(fmt)[1]
            real = quant.dequantize(codes)
            middles = w.constant(((real[1:] + real[:-1]) / 2).astype(np.float32), f"{name}_middles")
            last = w.constant(np.array([-1], np.int64), f"{name}_axis")
            x = w.node("Unsqueeze", [y, last], f"{name}_column", (*shape, 1))
            wide = (*shape, len(codes) - 1)
            x = w.node("Greater", [x, middles], f"{name}_above", wide, TensorProto.BOOL)
            x = w.node("Cast", [x], f"{name}_cast", wide, TensorProto.INT64, to=TensorProto.INT64)
            index = w.node("ReduceSum", [x, last], f"{name}_index", shape, TensorProto.INT64, keepdims=0)
        values = w.constant(out.dequantize(op.table[codes]).astype(np.float32), name)
        return w.node("Gather", [values, index], f"{name}_value", shape, axis=0)


def _kind(port: Port) -> int:
    """ONNX's type of the port's arrays."""
    return int(oh.np_dtype_to_tensor_dtype(np.dtype(port.kind)))


EXPORT: dict[type[Op], Callable[[Exporter, Any], str]] = {
    Linear: Exporter.linear,
    MatMul: Exporter.matmul,
    MaxPool: Exporter.max_pool,
    Concat: Exporter.concat,
    Arrange: Exporter.arrange,
    Maximum: Exporter.maximum,
    Stored: Exporter.stored,
    Softmax: Exporter.softmax,
    Normalize: Exporter.normalize,
}
"""Writes an op's nodes and gives the name of its value."""


def is_identity(op: Linear, source: Quant) -> bool:
    """Whether the op carries its input through the array unchanged, for an Add or an activation."""
    pointwise = op.weight.shape[1:] == (1, 1, 1) and op.groups == len(op.bias)
    if op.macs != 0 or not pointwise or op.stride != (1, 1) or any(op.pads) or op.channels is not None:
        return False
    weight = op.weight.fixed.ravel()
    return bool((weight != 0).all() and (op.bias == -source.zero_point * weight).all())
