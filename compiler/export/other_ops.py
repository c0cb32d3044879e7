"""Ops that sum no products: those that move or choose codes, and those of rows."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from sateen.compiler.export.network_writer import NetworkWriter
from sateen.formats.rows import EPSILON_FRACTION
from sateen.ir.quantized import Arrange, Concat, Maximum, MaxPool, Normalize, Softmax, Stored


def max_pool(net: NetworkWriter, op: MaxPool) -> str:
    x = net.writer.node(
        "MaxPool",
        [net.operand(op.input)],
        op.name,
        net.shape(op.output),
        kernel_shape=op.kernel,
        strides=op.stride,
        dilations=op.dilation,
        pads=op.pads,
    )
    return net.activation(x, net.quant(op.output), op.output)


def concat(net: NetworkWriter, op: Concat) -> str:
    parts = [net.operand(p) for p in op.parts]
    x = net.writer.node("Concat", parts, op.name, net.shape(op.output), axis=1)
    return net.activation(x, net.quant(op.output), op.output)


def maximum(net: NetworkWriter, op: Maximum) -> str:
    parts = [net.operand(p) for p in op.parts]
    x = net.writer.node("Max", parts, op.name, net.shape(op.output))
    return net.activation(x, net.quant(op.output), op.output)


def stored(net: NetworkWriter, op: Stored) -> str:
    """The constant, as often as there are samples."""
    w, real = net.writer, net.quant(op.output).dequantize(op.codes)
    values = w.constant(real.transpose(2, 0, 1)[None].astype(np.float32), f"{op.output}_values")
    first = w.constant(np.array([0], np.int64), f"{op.output}_first")
    one = w.constant(np.array([1, 1, 1], np.int64), f"{op.output}_once")
    source = next(p.source for p in net.qgraph.inputs)
    rank = len(w.shape(source))
    shape = w.node("Shape", [source], f"{op.output}_shape", (rank,), TensorProto.INT64)
    batch = w.node("Gather", [shape, first], f"{op.output}_batch", (1,), TensorProto.INT64, axis=0)
    times = w.node("Concat", [batch, one], f"{op.output}_times", (4,), TensorProto.INT64, axis=0)
    return w.node("Expand", [values, times], op.output, net.shape(op.output))


def arrange(net: NetworkWriter, op: Arrange) -> str:
    """The pixels of all parts side by side, of which each output pixel takes one."""
    w, (h, width, c) = net.writer, net.qgraph.tensors[op.output].shape
    planes = [net.qgraph.tensors[p].shape[:2] for p in op.parts]
    begin = np.cumsum([0, *(a * b for a, b in planes)])
    index = np.zeros((h, width), np.int64)
    for piece in op.pieces:
        y, x = piece.source.pixels(piece.counts)
        index[piece.target.pixels(piece.counts)] = begin[piece.part] + y * planes[piece.part][1] + x
    rows = [
        net.reshape(net.operand(p), (c, a * b), f"{op.name}_pixels{k}")
        for k, (p, (a, b)) in enumerate(zip(op.parts, planes, strict=True))
    ]
    pixels = rows[0]
    if len(rows) > 1:
        pixels = w.node("Concat", rows, f"{op.name}_pixels", (net.batch, c, int(begin[-1])), axis=2)
    places = w.constant(index.ravel(), f"{op.name}_index")
    taken = w.node("Gather", [pixels, places], f"{op.name}_taken", (net.batch, c, h * width), axis=2)
    return net.activation(net.reshape(taken, (c, h, width), op.name), net.quant(op.output), op.output)


def softmax(net: NetworkWriter, op: Softmax) -> str:
    x = net.writer.node("Softmax", [net.operand(op.input)], op.name, net.shape(op.output), axis=1)
    return net.activation(x, net.quant(op.output), op.output)


def normalize(net: NetworkWriter, op: Normalize) -> str:
    """Mean, variance and what follows as operators of their own, which all opsets have."""
    w, name = net.writer, op.name
    h, width, c = net.qgraph.tensors[op.output].shape
    source, target = net.quant(op.input), net.quant(op.output)
    x, axis = net.operand(op.input), 1
    if op.plane:
        x, axis = net.reshape(x, (op.groups, op.elements), f"{name}_rows"), 2
    rows = w.shape(x)
    one = [1 if d == axis else s for d, s in enumerate(rows)]

    def reduced(operator: str, values: str, what: str) -> str:
        if net.dialect.opset < 18 and operator == "ReduceMean":
            return w.node(operator, [values], f"{name}_{what}", one, axes=[axis], keepdims=1)
        axes = w.constant(np.array([axis], np.int64), f"{name}_{what}_axes")
        return w.node(operator, [values, axes], f"{name}_{what}", one, keepdims=1)

    if op.centred:
        x = w.node("Sub", [x, reduced("ReduceMean", x, "mean")], f"{name}_centred", rows)
    square = w.node("Mul", [x, x], f"{name}_square", rows)
    variance = reduced("ReduceMean" if op.count > 1 or op.elements == 1 else "ReduceSum", square, "variance")
    unit = source.scale * 2.0**source.format.lsb_exponent / op.count
    epsilon = net.dialect.scalar(op.epsilon * 2.0**-EPSILON_FRACTION * unit**2, f"{name}_epsilon")
    variance = w.node("Add", [variance, epsilon], f"{name}_positive", one)
    divisor = w.node("Sqrt", [variance], f"{name}_divisor", one)
    x = w.node("Div", [x, divisor], f"{name}_normalized", rows)
    if op.plane:
        x = net.reshape(x, (c, h, width), f"{name}_plane")
    step = target.scale * 2.0**target.format.lsb_exponent
    scale = op.multiplier * np.ldexp(1.0, op.fraction - op.shift) * step
    offset = op.bias.astype(np.float64) * np.ldexp(1.0, -op.fraction) * np.abs(scale)
    for operator, values, neutral in (("Mul", scale, 1.0), ("Add", offset, 0.0)):
        if (values != neutral).any():
            constant = w.constant(values.astype(np.float32).reshape(-1, 1, 1), f"{name}_{operator.lower()}")
            x = w.node(operator, [x, constant], f"{name}_{operator.lower()}_result", w.shape(x))
    return net.activation(x, target, op.output, shifted=True)
