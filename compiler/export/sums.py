"""Ops that sum products, and what becomes of the sums: operators of float numbers that round as the machine does."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from sateen.compiler.export.network_writer import NetworkWriter
from sateen.compiler.quantize.residuals import folded_zero_points
from sateen.errors import FormatError
from sateen.ir.quantized import Factor, Linear, MatMul, Quant
from sateen.sim.reference import value_order

_LOOKUP_RANGE = 1 << 16
"""Fixed-point values up to which a table is indexed directly; wider formats search their 256 values."""


def linear(net: NetworkWriter, op: Linear) -> str:
    w = net.writer
    source = net.quant(op.input)
    plain = _is_identity(op, source) and not any(folded_zero_points(op, net.qgraph))
    y = net.operand(op.input) if plain else _conv(net, op)
    if op.residual:
        kind, what = ("Mul", "product") if isinstance(op.residual, Factor) else ("Add", "sum")
        y = w.node(kind, [y, net.operand(op.residual.input)], f"{op.name}_{what}", w.shape(y))
    return _rounded(net, op, y)


def matmul(net: NetworkWriter, op: MatMul) -> str:
    """The batch as dimensions of its own, (N, groups, heads, pixels, channels), times what its rounding holds."""
    w, batch = net.writer, op.batch
    shapes = [net.qgraph.tensors[t].shape for t in (op.input, op.weight, op.output)]
    sizes = [batch.split(k, shape) for k, shape in enumerate(shapes)]
    factors = []
    for k, tensor in enumerate((op.input, op.weight)):
        groups, heads, pixels, channels = sizes[k]
        name = f"{op.name}_{'ab'[k]}"
        operand = net.operand(tensor)
        if k == 1 and op.digits and op.digits.saturates:
            most = np.array(net.quant(tensor).scale * op.digits.most, np.float32)
            operand = w.node(
                "Min", [operand, w.constant(most, f"{name}_most")], f"{name}_held", w.shape(operand)
            )
        if batch.in_channels[k]:  # (N, heads * C, groups, W)
            x = net.reshape(operand, (heads, channels, groups, pixels), f"{name}_heads")
            perm = (2, 0, 3, 1)
        else:  # (N, C, groups * heads, W)
            x = net.reshape(operand, (channels, groups, heads, pixels), f"{name}_heads")
            perm = (1, 2, 3, 0)
        if k == 1 and batch.transposed:
            perm = (perm[0], perm[1], perm[3], perm[2])
        factors.append(net.transpose(x, perm, name))
    groups, heads, pixels, channels = sizes[2]
    y = w.node("MatMul", factors, op.name, (net.batch, groups, heads, pixels, channels))
    perm, hwc = ((1, 3, 0, 2) if batch.in_channels[2] else (3, 0, 1, 2)), shapes[2]
    y = net.reshape(net.transpose(y, perm, f"{op.name}_plane"), (hwc[2], *hwc[:2]), f"{op.name}_sum")
    a, b = (net.quant(t) for t in (op.input, op.weight))
    if op.raw:
        assert op.raw_scale is not None
        unit = op.raw_scale
    else:
        q = op.requantized
        unit = np.ldexp(op.multiplier.astype(np.float64), -op.shift) * q.scale * 2.0**q.format.lsb_exponent
    scale = unit / (a.scale * b.scale * 2.0 ** (a.format.lsb_exponent + b.format.lsb_exponent))
    if (scale != 1).any():
        factor = w.constant(scale.astype(np.float32).reshape(-1, 1, 1), f"{op.name}_scale")
        y = w.node("Mul", [y, factor], f"{op.name}_scaled", w.shape(y))
    bias = np.array([int(v) for v in op.bias], np.float64) * unit
    if op.residual and (residual := net.quant(op.residual.input)).zero_before:
        # whose value lacks the zero point that the bias takes off
        bias += residual.scale * residual.offset
    if bias.any():
        offset = w.constant(bias.astype(np.float32).reshape(-1, 1, 1), f"{op.name}_bias")
        y = w.node("Add", [y, offset], f"{op.name}_shifted", w.shape(y))
    if op.residual:
        y = w.node("Add", [y, net.operand(op.residual.input)], f"{op.name}_sum", w.shape(y))
    return _rounded(net, op, y)


def _rounded(net: NetworkWriter, op: Linear | MatMul, y: str) -> str:
    """What becomes of a sum."""
    if op.raw:
        return y
    y = _clamp(net, op, y)
    if op.table is None:
        return net.activation(y, op.requantized, op.output, shifted=True)
    y = net.activation(y, op.requantized, f"{op.output}_before", shifted=True)
    return net.activation(_table(net, op, y), net.quant(op.output), op.output)


def _conv(net: NetworkWriter, op: Linear) -> str:
    source = net.quant(op.input)
    if op.weight.scale is None:
        raise FormatError(f"'{op.name}': no weight scale, so it cannot be written as ONNX")
    weight = net.dialect.weight(
        np.ascontiguousarray(op.weight.codes.transpose(0, 3, 1, 2)),
        op.weight.format,
        op.weight.scale,
        f"{op.name}_weight",
    )
    inputs = [_selected(net, op), weight]
    sums = zip(op.bias, op.weight.sums, strict=True)
    bias = np.array([int(b) + source.zero_point * int(s) for b, s in sums], object)
    lsb = source.format.lsb_exponent + op.weight.format.lsb_exponent
    unit = source.scale * op.weight.scale * 2.0**lsb
    if op.residual and (other := net.quant(op.residual.input)).zero_before:
        # the residual's value lacks the zero point that the bias takes off
        real = np.array([int(b) for b in bias], np.float64) * unit + other.scale * other.offset
        inputs.append(net.writer.constant(real.astype(np.float32), f"{op.name}_bias"))
    elif op.raw_offset is not None:
        real = np.array([int(b) for b in bias], np.float64) * unit + op.raw_offset
        inputs.append(net.writer.constant(real.astype(np.float32), f"{op.name}_bias"))
    elif any(bias):
        inputs.append(net.dialect.bias(bias, unit, f"{op.name}_bias"))
    return net.writer.node(
        "Conv",
        inputs,
        op.name,
        net.shape(op.output),
        kernel_shape=op.weight.shape[1:3],
        strides=op.stride,
        dilations=op.dilation,
        pads=[max(p, 0) for p in op.pads],
        group=op.groups,
    )


def _selected(net: NetworkWriter, op: Linear) -> str:
    """The op's input without what it leaves out: rows, columns, and channels that no weight is for."""
    x = net.operand(op.input)
    if min(op.pads) < 0:
        h, w, c = net.qgraph.tensors[op.input].shape
        top, left, bottom, right = (max(-p, 0) for p in op.pads)
        lows, highs = [top, left], [h - bottom, w - right]
        bounds = [
            net.writer.constant(np.array(v, np.int64), f"{op.name}_{what}")
            for what, v in (("starts", lows), ("ends", highs), ("axes", [2, 3]))
        ]
        shape = (net.batch, c, highs[0] - top, highs[1] - left)
        x = net.writer.node("Slice", [x, *bounds], f"{op.name}_cropped", shape)
    if op.channels is None:
        return x
    n, _, *plane = net.writer.shape(x)
    index = net.writer.constant(op.channels.ravel(), f"{op.name}_channels")
    return net.writer.node("Gather", [x, index], f"{op.name}_input", (n, op.channels.size, *plane), axis=1)


def _clamp(net: NetworkWriter, op: Linear | MatMul, y: str) -> str:
    w, quant = net.writer, op.requantized
    fmt = quant.format
    below, above = op.low > fmt.min_fixed, op.high < fmt.max_fixed

    def real(fixed: int) -> float:
        return quant.scale * (fixed - quant.zero_after) * 2.0**fmt.lsb_exponent

    if below and real(op.low) == 0 and not above:
        return w.node("Relu", [y], f"{op.name}_relu", w.shape(y))
    if not below and not above:
        return y
    bounds = [
        net.dialect.scalar(real(op.low), f"{op.name}_low") if below else "",
        net.dialect.scalar(real(op.high), f"{op.name}_high") if above else "",
    ]
    return w.node("Clip", [y, *(bounds if above else bounds[:1])], f"{op.name}_clip", w.shape(y))


def _table(net: NetworkWriter, op: Linear | MatMul, y: str) -> str:
    """Look the value up: by its integer where those are few, else by counting the values below it."""
    w, quant, out = net.writer, op.requantized, net.quant(op.output)
    assert op.table is not None
    fmt, shape = quant.format, w.shape(y)
    name = f"{op.name}_table"
    if fmt.max_fixed - fmt.min_fixed < _LOOKUP_RANGE:
        unit = net.dialect.scalar(quant.scale * 2.0**fmt.lsb_exponent, f"{name}_unit")
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


def _is_identity(op: Linear, source: Quant) -> bool:
    """Whether the op carries its input through the array unchanged, for an Add or an activation."""
    pointwise = op.weight.shape[1:] == (1, 1, 1) and op.groups == len(op.bias)
    if op.macs != 0 or not pointwise or op.stride != (1, 1) or any(op.pads) or op.channels is not None:
        return False
    weight = op.weight.fixed.ravel()
    return bool((weight != 0).all() and (op.bias == -source.zero_point * weight).all())
