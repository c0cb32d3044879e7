"""Rounding to a format in torch, with gradients for what is rounded and for its scale; weights with learned rounding.

The gradient passes the rounding as if it were none, inside the range; that of the scale is LSQ's, on any grid.

Ref: Esser et al., Learned Step Size Quantization, arXiv 1902.08153; Lee et al., FlexRound, arXiv 2306.00317;
Nagel et al., AdaRound, arXiv 2004.10568.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.autograd import Function

from sateen.compiler.ptq.adaround import BETAS, SHIFT, STRETCH, inverse, neighbours
from sateen.compiler.ptq.torch_graph import as_tensor, channels_second
from sateen.errors import FormatError
from sateen.formats import Format

STRENGTH = 0.01
"""Of AdaRound's penalty, against an error of 1 at the start."""
_QUICK = 10.0
"""How much faster AdaRound's logits move than FlexRound's factors at the same rate."""
_FARTHEST = 3.0
"""Of the logarithm of a scale's change."""
_MARGIN = 0.35
"""Of a step: how far from its code a weight starts at most, so that it starts as that code."""


def project(x: torch.Tensor, fmt: Format, offset: float = 0.0) -> torch.Tensor:
    """x on the format's grid shifted by `-offset`, saturated. As `Quant.quantize` rounds; ties of formats without
    mantissa aside, which float32 does not see anyway."""
    if fmt.uniform:
        return torch.clamp(torch.round(x), fmt.min - offset, fmt.max - offset)
    if fmt.mantissa_bits is None:
        raise FormatError(
            f"{fmt}: how it rounds is not known to learned rounding; use another --ptq than learned"
        )
    x = torch.clamp(x + offset if offset else x, fmt.min, fmt.max)
    # the exponent field of float32 is that of the binade
    power = (x.view(torch.int32) & 0x7F800000).view(torch.float32)
    step = torch.clamp(power, min=2.0 ** (fmt.lsb_exponent + fmt.mantissa_bits)) * 2.0**-fmt.mantissa_bits
    x = torch.round(x / step) * step
    return x - offset if offset else x


class _Round(Function):
    """x and its scale, which broadcasts to x, to scale * project(x / scale)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, fmt: Format, offset: float) -> torch.Tensor:
        v = x * (1 / scale)
        q = project(v, fmt, offset)
        inside = v.clamp(fmt.min - offset, fmt.max - offset) == v
        ctx.save_for_backward(q - v.mul_(inside), inside)
        ctx.shape = scale.shape
        return q * scale

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        of_scale, inside = ctx.saved_tensors
        total = None
        if ctx.needs_input_grad[1]:
            total = (gradient * of_scale).sum_to_size(ctx.shape) if ctx.shape else (gradient * of_scale).sum()
        return gradient * inside, total, None, None


def rounded(x: torch.Tensor, scale: torch.Tensor, fmt: Format, offset: float = 0.0) -> torch.Tensor:
    """x as it is once it has been given codes; offset is the zero point as a value of the format."""
    return _Round.apply(x, scale, fmt, offset)


@dataclass(frozen=True, slots=True)
class Rounded:
    """A Conv's weights as they are rounded: grid (O, KH, KW, I / groups), float64 values of the format, times
    scale (O,)."""

    grid: np.ndarray
    scale: np.ndarray
    bias: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        return self.grid * self.scale[:, None, None, None]


def nearest(weight: np.ndarray, scale: np.ndarray, bias: np.ndarray, fmt: Format) -> Rounded:
    """Rounded to nearest, and weights that lie on the grid already just so."""
    codes = fmt.encode(weight / scale[:, None, None, None])
    return Rounded(fmt.fixed(codes) * 2.0**fmt.lsb_exponent, scale, bias)


def grown(size: torch.Tensor) -> torch.Tensor:
    """The factor that a scale's learned parameter stands for."""
    return torch.exp(size.clamp(-_FARTHEST, _FARTHEST))


class Bias:
    """Learned in units of `reach`, the size of the layer's outputs."""

    def __init__(self, start: np.ndarray, reach: float) -> None:
        self.start, self.reach = as_tensor(start), reach
        self.change = torch.zeros_like(self.start, requires_grad=True)

    def __call__(self) -> torch.Tensor:
        return self.start + self.reach * self.change

    def result(self) -> np.ndarray:
        return self().detach().double().numpy()


class FlexRound:
    """Each weight is divided by a learned factor before it is rounded, one of its own times one of its input channel;
    each row's scale is learned too. Large weights move easily, zeros not at all.

    `weight` is what the float network has; it is moved to where it rounds to `start`.
    """

    def __init__(
        self, weight: np.ndarray, start: Rounded, fmt: Format, reach: float, *, scales: bool
    ) -> None:
        unit = start.scale[:, None, None, None]
        low, high = _cell(start.grid, fmt)
        near = np.clip(weight, np.maximum(low, fmt.min) * unit, np.minimum(high, fmt.max) * unit)
        self.base = _outputs_first(np.where((weight == 0) & (start.grid == 0), 0.0, near))
        self.start, self.fmt = start, fmt
        self.unit = as_tensor(start.scale)[:, None, None, None]
        self.bias = Bias(start.bias, reach)
        self.factors = torch.zeros_like(self.base, requires_grad=True)
        self.columns = torch.zeros((1, self.base.shape[1], 1, 1), requires_grad=True)
        self.size = torch.zeros((len(self.base), 1, 1, 1), requires_grad=scales)

    @property
    def scale(self) -> torch.Tensor:
        return self.unit * grown(self.size)

    def parameters(self) -> list[torch.Tensor]:
        return [self.factors, self.columns]

    def scales(self) -> list[torch.Tensor]:
        return [self.bias.change, self.size] if self.size.requires_grad else [self.bias.change]

    def weight(self, progress: float) -> torch.Tensor:
        """(O, I / groups, KH, KW); `progress` from 0 to 1 is how far learning is."""
        return rounded(self.base * torch.exp(self.factors + self.columns), self.scale, self.fmt)

    def penalty(self, progress: float) -> torch.Tensor | None:
        return None

    def result(self) -> Rounded:
        with torch.no_grad():
            scale = self.scale
            grid = project(self.base * torch.exp(self.factors + self.columns) / scale, self.fmt)
        return Rounded(_outputs_first_back(grid), scale.flatten().double().numpy(), self.bias.result())


class AdaRound:
    """Each weight goes to the grid value below or above it, which of them is learned. The scale stays."""

    def __init__(
        self, weight: np.ndarray, start: Rounded, fmt: Format, reach: float, *, scales: bool = False
    ) -> None:
        rows = weight.reshape(len(weight), -1)
        low, high = (v.reshape(weight.shape) for v in neighbours(rows, fmt, start.scale))
        unit = start.scale[:, None, None, None]
        part = np.divide(weight - low, high - low, out=np.zeros_like(low), where=high > low)
        # what the start has chosen is where learning begins, if it is one of the two
        value = start.grid * unit
        part = np.where(np.isclose(value, low), np.minimum(part, _MARGIN), part)
        part = np.where(np.isclose(value, high), np.maximum(part, 1 - _MARGIN), part)
        zero = (weight == 0) & (start.grid == 0)
        low, high = np.where(zero, 0.0, low), np.where(zero, 0.0, high)
        self.low, self.step = _outputs_first(low), _outputs_first(high - low)
        self.start, self.fmt = start, fmt
        self.scale = as_tensor(start.scale)
        self.logit = _outputs_first(inverse(np.clip(part, 0.05, 0.95)))
        self.change = torch.zeros_like(self.logit, requires_grad=True)
        self.bias = Bias(start.bias, reach)

    def parameters(self) -> list[torch.Tensor]:
        return [self.change]

    def scales(self) -> list[torch.Tensor]:
        return [self.bias.change]

    def _part(self) -> torch.Tensor:
        return torch.clamp(torch.sigmoid(self.logit + _QUICK * self.change) * STRETCH + SHIFT, 0, 1)

    def weight(self, progress: float) -> torch.Tensor:
        return self.low + self.step * self._part()

    def penalty(self, progress: float) -> torch.Tensor | None:
        """What drives each weight to one of its neighbours, from a fifth of the way on."""
        if progress < 0.2:
            return None
        first, last = BETAS
        beta = last + (first - last) * 0.5 * (1 + np.cos(np.pi * (progress - 0.2) / 0.8))
        return STRENGTH * (1 - (2 * self._part() - 1).abs().pow(beta)).sum() / len(self.logit)

    def result(self) -> Rounded:
        chosen = (self.low + self.step * (self._part() > 0.5)).detach()
        grid = _outputs_first_back(chosen) / self.start.scale[:, None, None, None]
        return replace(
            nearest(
                grid * self.start.scale[:, None, None, None], self.start.scale, self.start.bias, self.fmt
            ),
            bias=self.bias.result(),
        )


ROUNDINGS: dict[str, type[FlexRound] | type[AdaRound]] = {"flexround": FlexRound, "adaround": AdaRound}


def _cell(grid: np.ndarray, fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """The interval around each grid value that rounds to it, a little narrowed; beyond the range as wide as inside."""
    values = np.unique(fmt.fixed(fmt.codes))
    values = values[(values >= fmt.min_fixed) & (values <= fmt.max_fixed)] * 2.0**fmt.lsb_exponent
    at = np.searchsorted(values, grid)
    steps = np.diff(values) if len(values) > 1 else np.ones(1)
    below, above = steps[np.clip(at - 1, 0, len(steps) - 1)], steps[np.clip(at, 0, len(steps) - 1)]
    return grid - _MARGIN * below, grid + _MARGIN * above


def _outputs_first(weight: np.ndarray) -> torch.Tensor:
    """(O, KH, KW, I) to torch's (O, I, KH, KW)."""
    return channels_second(weight)


def _outputs_first_back(weight: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(weight.double().numpy().transpose(0, 2, 3, 1))
