"""The floating-point graph in NumPy, for calibration and as the reference of the importer's tests. What the model
file rounds is rounded.

Convolutions are im2col and one float64 matrix product; the images go through in portions, so that the columns
stay below `COLUMN_BYTES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sateen.compiler.functions import evaluate
from sateen.errors import DataError
from sateen.formats.rows import as_rows, from_rows
from sateen.ir.functions import OUTPUT_FUNCTIONS
from sateen.ir.graph import Graph
from sateen.ir.nodes import (
    Activation,
    Add,
    Arrange,
    Concat,
    Conv,
    MatMul,
    Maximum,
    Mul,
    Node,
    Normalize,
    Pool,
    PoolKind,
    Quantize,
    Softmax,
    Stored,
)
from sateen.ir.pieces import moved

COLUMN_BYTES = 1 << 27


def windows(
    x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int],
    pads: tuple[int, int, int, int], fill: float,
) -> np.ndarray:  # fmt: skip
    """A view (N, OH, OW, C, KH, KW) of the padded (N, H, W, C)."""
    top, left, bottom, right = pads
    if min(pads) < 0:
        x = cropped(x, pads)
        top, left, bottom, right = (max(p, 0) for p in pads)
    if any(pads):
        x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    span = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=(1, 2))
    return view[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]


def cropped(x: np.ndarray, pads: tuple[int, int, int, int]) -> np.ndarray:
    """(N, H, W, C) without what negative padding takes away."""
    top, left, bottom, right = (max(-p, 0) for p in pads)
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def conv(node: Conv, x: np.ndarray) -> np.ndarray:
    """(N, H, W, C) to (N, OH, OW, O), float64."""
    outputs, kh, kw, per_group = node.weight.shape
    if node.channels is not None:
        x = x[..., node.channels.ravel()]
    view = windows(x, (kh, kw), node.stride, node.dilation, node.pads, 0.0)
    n, oh, ow = view.shape[:3]
    out = np.empty((n, oh, ow, outputs))
    if node.groups > 1 and per_group == 1 and outputs == node.groups:  # depthwise: one product for each tap
        out[:] = node.bias
        for ky in range(kh):
            for kx in range(kw):
                out += view[..., ky, kx] * node.weight[:, ky, kx, 0]
        return out
    wide = outputs // node.groups
    step = max(1, COLUMN_BYTES // max(1, 8 * oh * ow * kh * kw * per_group))
    for g in range(node.groups):
        part = view[:, :, :, g * per_group : (g + 1) * per_group].transpose(0, 1, 2, 4, 5, 3)
        weight = node.weight[g * wide : (g + 1) * wide].reshape(wide, -1).T
        for i in range(0, n, step):
            columns = part[i : i + step].reshape(-1, kh * kw * per_group)
            out[i : i + step, :, :, g * wide : (g + 1) * wide] = (columns @ weight).reshape(-1, oh, ow, wide)
    out += node.bias
    return out


def pool(node: Pool, x: np.ndarray) -> np.ndarray:
    """(N, H, W, C) to (N, OH, OW, C)."""
    first, together, last = POOLS[node.kind]
    view = windows(x, node.kernel, node.stride, node.dilation, node.pads, first)
    out = np.full(view.shape[:4], first)
    for ky in range(node.kernel[0]):
        for kx in range(node.kernel[1]):
            together(out, view[..., ky, kx], out=out)
    return last(out, math.prod(node.kernel))


POOLS: dict[PoolKind, tuple[float, np.ufunc, Callable[[np.ndarray, int], np.ndarray]]] = {
    "max": (-np.inf, np.maximum, lambda out, taps: out),
    "average": (0.0, np.add, lambda out, taps: out / taps),
}
"""Of each kind what padding counts as, how taps come together, and what is made of that."""


def normalize(node: Normalize, x: np.ndarray) -> np.ndarray:
    """(N, H, W, C) to the same. A row of zeros stays one, whatever epsilon is."""
    rows = as_rows(x, node.groups, node.plane)
    if node.centred:
        rows = rows - rows.mean(axis=-1, keepdims=True)
    square = (rows**2).sum(axis=-1, keepdims=True) / (rows.shape[-1] if node.averaged else 1)
    divisor = np.sqrt(square + node.epsilon)
    rows = rows / np.where(divisor > 0, divisor, 1.0)
    return from_rows(rows, x.shape, node.groups, node.plane) * node.scale + node.offset


FLOAT: dict[type[Node], Callable[[Any, list[np.ndarray]], np.ndarray]] = {
    Conv: lambda node, x: conv(node, x[0]),
    MatMul: lambda node, x: node.batch.multiply(x[0], x[1], np.matmul) * node.scale + node.bias,
    Add: lambda node, x: x[0] + x[1],
    Mul: lambda node, x: x[0] * x[1],
    Activation: lambda node, x: evaluate(node, x[0]),
    Pool: lambda node, x: pool(node, x[0]),
    Concat: lambda node, x: np.concatenate(x, axis=3),
    Arrange: lambda node, x: moved(x, node.pieces),
    Maximum: lambda node, x: np.maximum(*x),
    Stored: lambda node, x: node.values[None],
    Softmax: lambda node, x: OUTPUT_FUNCTIONS["softmax"].values(x[0], -1),
    Normalize: lambda node, x: normalize(node, x[0]),
    Quantize: lambda node, x: node.quantizer.round(x[0]),
}
"""Of each kind of node its value, for it and its inputs (N, H, W, C), float64; of one without inputs N is 1."""


def run_node(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    return FLOAT[type(node)](node, inputs)


def run_float(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of the graph, (N, H, W, C) float64.

    Args:
        inputs: for each graph input its samples (N, *shape), in the ONNX view.

    Raises DataError for an input that is missing or of another shape, and for numbers of samples that differ.
    """
    tensors: dict[str, np.ndarray] = {}
    for port in graph.inputs:
        if port.source not in inputs:
            raise DataError(
                f"input '{port.source}' is missing; give an array of shape (N, {_text(port.shape)})"
            )
        x = np.asarray(inputs[port.source])
        if x.shape[1:] != port.shape or x.ndim == 0:
            raise DataError(f"input '{port.source}' has shape {x.shape}; it must be (N, {_text(port.shape)})")
        tensors[port.name] = graph.rounded(port.name, port.to_hwc(x.astype(np.float64)))
    counts = {len(x) for x in tensors.values()}
    if len(counts) > 1:
        raise DataError(f"inputs have {sorted(counts)} samples; give the same number for each")
    for node in graph.nodes:
        y = graph.rounded(node.output, run_node(node, [tensors[i] for i in node.inputs]))
        tensors[node.output] = y if node.inputs else np.repeat(y, max(counts, default=1), axis=0)
    return tensors


def float_outputs(graph: Graph, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The graph's outputs by name in the ONNX view, (N, *shape), from what `run_float` gave."""
    found = {o.port.name: (o.port, o.present(tensors[o.tensor])) for o in graph.outputs}
    return {name: y if port.kind == "float32" else port.stated(y) for name, (port, y) in found.items()}


def _text(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
