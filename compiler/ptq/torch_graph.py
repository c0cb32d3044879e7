"""The nodes of a float graph in torch, with gradients. Tensors are (N, C, H, W) float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sateen.compiler.functions import as_expression, evaluate, has_gradient
from sateen.ir.functions import COMBINING, FUNCTIONS
from sateen.ir.nodes import (
    Activation,
    Add,
    Arrange,
    Concat,
    Conv,
    Expression,
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
from sateen.ir.pieces import plane_of


def differentiable(node: Node) -> bool:
    """Whether `run_node` has a gradient for the node's inputs; functions made of steps have none."""
    return not isinstance(node, Activation) or has_gradient(node)


def run_node(
    node: Node,
    inputs: list[torch.Tensor],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """The node's output; a Conv takes another weight (O, I / groups, KH, KW) and bias (O,) than its own."""
    return _conv(node, inputs, weight, bias) if isinstance(node, Conv) else TORCH[type(node)](node, inputs)


def _conv(
    node: Conv,
    inputs: list[torch.Tensor],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    x = inputs[0] if node.channels is None else inputs[0][:, torch.from_numpy(node.channels.ravel())]
    x, pads = _padded(x, node.pads, 0.0)
    weight = channels_second(node.weight) if weight is None else weight
    bias = as_tensor(node.bias) if bias is None else bias
    return F.conv2d(x, weight, bias, node.stride, pads, node.dilation, node.groups)


def _activation(node: Activation, inputs: list[torch.Tensor]) -> torch.Tensor:
    if not differentiable(node):
        return torch.from_numpy(evaluate(node, inputs[0].detach().numpy())).float()
    y = _evaluate(as_expression(node), inputs[0])
    return torch.nan_to_num(y) if node.function != "clip" else y


def _matmul(node: MatMul, inputs: list[torch.Tensor]) -> torch.Tensor:
    a, b = (x.permute(0, 2, 3, 1) for x in inputs)
    y = node.batch.multiply(a, b, torch.matmul)
    return (y * as_tensor(node.scale) + as_tensor(node.bias)).permute(0, 3, 1, 2)


def _quantize(node: Quantize, inputs: list[torch.Tensor]) -> torch.Tensor:
    raise TypeError(f"'{node.name}' is a quantizer, which import should have taken out")


def channels_second(x: np.ndarray) -> torch.Tensor:
    """(N, H, W, C), or weights (O, KH, KW, I), as torch has them; channels stay innermost in memory, as is faster."""
    return as_tensor(x).permute(0, 3, 1, 2)


def as_tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))


def _evaluate(e: Expression, x: torch.Tensor) -> torch.Tensor:
    results: dict[int, torch.Tensor] = {}
    for part in e.postorder():
        results[id(part)] = _apply(part, [results[id(a)] for a in part.arguments], x)
    return results[id(e)]


def _apply(part: Expression, arguments: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    if part.function == "x":
        return x
    parameters: dict[str, Any] = dict(part.parameters)
    if part.function == "constant":
        return torch.full_like(x, parameters["value"])
    row = FUNCTIONS.get(part.function) or COMBINING[part.function]
    return row.in_torch(torch, *arguments, **parameters)


def _padded(
    x: torch.Tensor, pads: tuple[int, int, int, int], fill: float
) -> tuple[torch.Tensor, tuple[int, int]]:
    """What an operation with symmetric padding is given, and that padding."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right) and min(pads) >= 0 and fill == 0.0:
        return x, (top, left)
    return (F.pad(x, (left, right, top, bottom), value=fill) if any(pads) else x), (0, 0)


def _max_pool(node: Pool, x: torch.Tensor) -> torch.Tensor:
    x, _ = _padded(x, node.pads, -math.inf)
    return F.max_pool2d(x, node.kernel, node.stride, 0, node.dilation)


def _average_pool(node: Pool, x: torch.Tensor) -> torch.Tensor:
    x, pads = _padded(x, node.pads, 0.0)
    if node.dilation == (1, 1):
        if not any(pads):
            return F.avg_pool2d(x, node.kernel, node.stride)
        x = F.pad(x, (pads[1], pads[1], pads[0], pads[0]))
        return F.avg_pool2d(x, node.kernel, node.stride)
    channels = x.shape[1]
    weight = torch.full((channels, 1, *node.kernel), 1 / math.prod(node.kernel))
    return F.conv2d(x, weight, None, node.stride, pads, node.dilation, channels)


POOLS: dict[PoolKind, Callable[[Pool, torch.Tensor], torch.Tensor]] = {
    "max": _max_pool,
    "average": _average_pool,
}


def _of_one_batch(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """What is stored is one sample, for all."""
    n = max(len(p) for p in parts)
    return [p.expand(n, -1, -1, -1) for p in parts]


def _arrange(node: Arrange, parts: list[torch.Tensor]) -> torch.Tensor:
    parts = _of_one_batch(parts)
    n, c = parts[0].shape[:2]
    out = parts[0].new_zeros((n, c, *plane_of(node.pieces)))
    for p in node.pieces:
        y, x = map(torch.from_numpy, p.source.pixels(p.counts))
        to_y, to_x = map(torch.from_numpy, p.target.pixels(p.counts))
        out[:, :, to_y, to_x] = parts[p.part][:, :, y, x]
    return out


def _normalize(node: Normalize, inputs: list[torch.Tensor]) -> torch.Tensor:
    x = inputs[0]
    rows = x.reshape(x.shape[0], node.groups, -1, *x.shape[2:])
    dims = (2, 3, 4) if node.plane else (2,)
    if node.centred:
        rows = rows - rows.mean(dim=dims, keepdim=True)
    square = (
        (rows**2).mean(dim=dims, keepdim=True) if node.averaged else (rows**2).sum(dim=dims, keepdim=True)
    )
    least = torch.finfo(torch.float32).tiny
    rows = rows * torch.rsqrt((square + node.epsilon).clamp(min=least))
    scale, offset = (as_tensor(v)[:, None, None] for v in (node.scale, node.offset))
    return rows.reshape(x.shape) * scale + offset


TORCH: dict[type[Node], Callable[[Any, list[torch.Tensor]], torch.Tensor]] = {
    Conv: _conv,
    MatMul: _matmul,
    Add: lambda node, x: x[0] + x[1],
    Mul: lambda node, x: x[0] * x[1],
    Activation: _activation,
    Pool: lambda node, x: POOLS[node.kind](node, x[0]),
    Concat: lambda node, x: torch.cat(_of_one_batch(x), dim=1),
    Arrange: _arrange,
    Maximum: lambda node, x: torch.maximum(*x),
    Stored: lambda node, x: channels_second(node.values[None]),
    Softmax: lambda node, x: torch.softmax(x[0], dim=1),
    Normalize: _normalize,
    Quantize: _quantize,
}
"""Of each kind of node its value, for it and its inputs (N, C, H, W); of one without inputs N is 1."""
