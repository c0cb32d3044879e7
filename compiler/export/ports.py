"""Ports of the exported model: as the original file has them, with what the host computes before and after."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto
from onnx import helper as oh

from sateen.compiler.export.network_writer import NetworkWriter
from sateen.ir.chosen import Chosen
from sateen.ir.functions import FUNCTIONS, OUTPUT_FUNCTIONS
from sateen.ir.ports import InputOp, Output, Port

_TO_CHW = (1, 2, 0)  # position of H, W and C in (C, H, W)


def write_input(net: NetworkWriter, port: Port) -> None:
    w, x = net.writer, port.source
    if port.codes is not None:
        shape = w.shape(x)
        x = w.node("DequantizeLinear", [x, *_scale(net, port)], f"{port.name}_real", shape)
    if port.table is not None:
        rows = w.constant(port.table.astype(np.float32), f"{port.name}_table")
        x = w.node("Gather", [rows, x], f"{port.name}_rows", (*w.shape(x), *port.table.shape[1:]))
    if tuple(w.shape(x)[1:]) != tuple(port.view):
        x = net.reshape(x, port.view, f"{port.name}_view")
    perm = tuple(port.axes[i] for i in (2, 0, 1))
    x = net.transpose(x, perm, f"{port.name}_channels_first")
    for k, op in enumerate(port.host):
        x = _input_op(net, x, op, f"{port.name}_host{k}")
    terms, quant = [], net.quant(port.name)
    count = net.qgraph.terms(port)
    for t in range(count):
        name = f"{port.name}_term{t}" if count > 1 else port.name
        terms.append(net.activation(x, quant, name))
        if t + 1 < count:
            x = w.node("Sub", [x, terms[-1]], f"{name}_rest", w.shape(x))
    net.value[port.name] = (
        terms[0]
        if count == 1
        else w.node("Concat", terms, f"{port.name}_terms", net.shape(port.name), axis=1)
    )


def write_output(net: NetworkWriter, output: Output) -> onnx.ValueInfoProto:
    w, port = net.writer, output.port
    perm = [0, 0, 0]
    for i, axis in enumerate(port.axes):
        perm[axis] = _TO_CHW[i]
    x = net.transpose(net.value[output.tensor], tuple(perm), f"{port.name}_view")
    if tuple(port.shape) != tuple(port.view):
        x = net.reshape(x, port.shape, f"{port.name}_shaped")
    for k, host in enumerate(output.host):
        if isinstance(host, Chosen):
            x = _chosen(net, x, host, f"{port.name}_host{k}")
            continue
        if host.quantizer is not None:
            x = net.dialect.activation(x, host.quantizer.quant, f"{port.name}_host{k}")
            continue
        x = w.node(
            OUTPUT_FUNCTIONS[host.kind].operator,
            [x],
            f"{port.name}_{host.kind}",
            w.shape(x),
            axis=host.axis,
        )
    kind = kind_of(port)
    if port.codes is not None:
        inputs = [x, *_scale(net, port)]
        w.node("QuantizeLinear", inputs, port.name, w.shape(x), kind, exact_name=True)
    elif output.host and isinstance(output.host[-1], Chosen):
        w.node("Identity", [x], port.name, w.shape(x), kind, exact_name=True)
    elif kind != TensorProto.FLOAT:
        x = w.node("Round", [x], f"{port.name}_whole", w.shape(x))
        w.node("Cast", [x], port.name, w.shape(x), kind, exact_name=True, to=kind)
    else:
        w.node("Identity", [x], port.name, w.shape(x), exact_name=True)
    return w.values[port.name]


def _input_op(net: NetworkWriter, x: str, op: InputOp, name: str) -> str:
    w, shape = net.writer, net.writer.shape(x)

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
            bounds = ["" if np.isinf(v).any() else numbers(v, n) for v, n in ((op.a, "low"), (op.b, "high"))]
            return w.node("Clip", [x, *(bounds if bounds[1] else bounds[:1])], f"{name}_clip", shape)
        case "bipolar":
            zero = net.dialect.scalar(0.0, f"{name}_zero")
            below = w.node("Less", [x, zero], f"{name}_below", shape, TensorProto.BOOL)
            choices = [numbers(op.b, "low"), numbers(op.a, "high")]
            return w.node("Where", [below, *choices], f"{name}_sign", shape)
        case kind:
            return w.node(FUNCTIONS[kind].operator, [x], f"{name}_{kind}", shape)


def _chosen(net: NetworkWriter, x: str, chosen: Chosen, name: str) -> str:
    w, shape = net.writer, net.writer.shape(x)
    result = (shape[0], *chosen.shape(tuple(int(s) for s in shape[1:])))
    if chosen.last or not chosen.keep:
        kind, last = "ArgMax" if chosen.largest else "ArgMin", int(chosen.last)
        return w.node(
            kind, [x], name, result, TensorProto.INT64, axis=chosen.axis, keepdims=int(chosen.keep),
            select_last_index=last,
        )  # fmt: skip
    count = w.constant(np.array([chosen.count], np.int64), f"{name}_k")
    return w.top_k(x, count, name, result, chosen.axis, chosen.largest)[chosen.gives == "indices"]


def _scale(net: NetworkWriter, port: Port) -> tuple[str, str]:
    """Scale and zero point of a port of codes, as the file has them."""
    assert port.codes is not None
    zero = np.array(port.codes.zero_point, port.kind)
    return (
        net.dialect.scalar(port.codes.scale, f"{port.name}_port_scale"),
        net.writer.constant(zero, f"{port.name}_port_zero_point"),
    )


def kind_of(port: Port) -> int:
    """ONNX's type of the port's arrays."""
    return int(oh.np_dtype_to_tensor_dtype(np.dtype(port.kind)))
