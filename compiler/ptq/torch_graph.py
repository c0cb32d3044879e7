"""The nodes of a float graph in torch, with gradients. Tensors are (N, C, H, W) float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sateen.compiler.functions import as_expression, evaluate
from sateen.ir.graph import Activation, Add, Concat, Conv, Expression, Node, Pool

Function = Callable[..., torch.Tensor]


def _hard_sigmoid(x: torch.Tensor, alpha: float = 0.2, beta: float = 0.5) -> torch.Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def _elu(x: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def _gelu(x: torch.Tensor, tanh: float = 0.0) -> torch.Tensor:
    return F.gelu(x, approximate="tanh" if tanh else "none")


FUNCTIONS: dict[str, Function] = {
    "clip": lambda x, low=-math.inf, high=math.inf: x.clamp(low, high),
    "affine": lambda x, scale=1.0, offset=0.0: scale * x + offset,
    "leaky_relu": lambda x, alpha=0.01: torch.where(x < 0, alpha * x, x),
    "thresholded_relu": lambda x, alpha=1.0: torch.where(x > alpha, x, 0.0),
    "elu": _elu,
    "selu": lambda x, alpha=1.6732631921768188, gamma=1.0507010221481323: gamma * _elu(x, alpha),
    "celu": lambda x, alpha=1.0: x.clamp(min=0) + alpha * torch.expm1(x.clamp(max=0) / alpha),
    "softplus": F.softplus,
    "softsign": F.softsign,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5),
    "swish": lambda x, alpha=1.0: x * torch.sigmoid(alpha * x),
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "gelu": _gelu,
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "abs": torch.abs,
    "neg": torch.neg,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "asinh": torch.asinh,
}
"""Of `sateen.compiler.functions` those with a gradient, by the same names and parameters."""

COMBINING: dict[str, Function] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
}


def differentiable(node: Node) -> bool:
    """Whether `run_node` has a gradient for the node's inputs; functions made of steps have none."""
    return not isinstance(node, Activation) or _has_gradient(as_expression(node))


def _has_gradient(e: Expression) -> bool:
    known = {"x", "constant", *FUNCTIONS, *COMBINING}
    return all(part.function in known for part in e.postorder())


def run_node(
    node: Node,
    inputs: list[torch.Tensor],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """The node's output; a Conv takes another weight (O, I / groups, KH, KW) and bias (O,) than its own."""
    match node:
        case Conv():
            x = inputs[0] if node.channels is None else inputs[0][:, torch.from_numpy(node.channels.ravel())]
            x, pads = _padded(x, node.pads, 0.0)
            weight = channels_second(node.weight) if weight is None else weight
            bias = as_tensor(node.bias) if bias is None else bias
            return F.conv2d(x, weight, bias, node.stride, pads, node.dilation, node.groups)
        case Add():
            return inputs[0] + inputs[1]
        case Concat():
            return torch.cat(inputs, dim=1)
        case Pool():
            return _pool(node, inputs[0])
        case Activation():
            if differentiable(node):
                y = _evaluate(as_expression(node), inputs[0])
                return torch.nan_to_num(y) if node.function != "clip" else y
            return torch.from_numpy(evaluate(node, inputs[0].detach().numpy())).float()
    raise TypeError(f"no torch model of {type(node).__name__}")


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
    function = FUNCTIONS.get(part.function) or COMBINING[part.function]
    return function(*arguments, **parameters)


def _padded(
    x: torch.Tensor, pads: tuple[int, int, int, int], fill: float
) -> tuple[torch.Tensor, tuple[int, int]]:
    """What an operation with symmetric padding is given, and that padding."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right) and min(pads) >= 0 and fill == 0.0:
        return x, (top, left)
    return (F.pad(x, (left, right, top, bottom), value=fill) if any(pads) else x), (0, 0)


def _pool(node: Pool, x: torch.Tensor) -> torch.Tensor:
    if node.kind == "max":
        x, _ = _padded(x, node.pads, -math.inf)
        return F.max_pool2d(x, node.kernel, node.stride, 0, node.dilation)
    x, pads = _padded(x, node.pads, 0.0)
    if node.dilation == (1, 1):
        if not any(pads):
            return F.avg_pool2d(x, node.kernel, node.stride)
        x = F.pad(x, (pads[1], pads[1], pads[0], pads[0]))
        return F.avg_pool2d(x, node.kernel, node.stride)
    channels = x.shape[1]
    weight = torch.full((channels, 1, *node.kernel), 1 / math.prod(node.kernel))
    return F.conv2d(x, weight, None, node.stride, pads, node.dilation, channels)
