"""What the array computes for an op, in one form for all kinds of ops: weights, parameters, what a DRAIN does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sateen.compiler.schedule.dataflow import Source
from sateen.compiler.schedule.tiles import concat_tile, gathered_tile, linear_tile
from sateen.ir.quantized import (
    ComputedConv,
    Concat,
    Factor,
    Linear,
    MatMul,
    Op,
    QuantizedGraph,
    Residual,
    Window,
)
from sateen.machine.config import AcceleratorConfig


@dataclass(frozen=True, slots=True)
class Product:
    """An op as sums of products, which are rounded, clamped and looked up; fields as `ir.quantized.Linear`'s."""

    op: Op
    sources: Callable[[int], list[Source]]
    """The weights of an output tile, one for each input that reaches into it."""
    bias: np.ndarray  # (O,)
    multiplier: np.ndarray  # (O,)
    shift: np.ndarray  # (O,)
    low: int
    high: int
    zero_point: int = 0
    residual: Residual | Factor | None = None

    @property
    def window(self) -> Window:
        return self.op.window

    @property
    def slides(self) -> bool:
        """Whether a tap is the neighbouring pixel's next."""
        return self.window.stride[1] == self.window.dilation[1]


def linear_product(op: Linear, graph: QuantizedGraph, config: AcceleratorConfig) -> Product:
    h, w, _ = graph.tensors[op.output].shape

    def sources(tile: int) -> list[Source]:
        plain = op.channels is None
        parts = [linear_tile(op, tile, config)] if plain else gathered_tile(op, tile, h * w, config)
        return [Source.of(op.input, dense, word0, config) for dense, word0 in parts]

    multiplier, shift = op.multiplier, op.shift
    if op.raw:
        multiplier, shift = np.ones(len(op.bias), int), np.zeros(len(op.bias), int)
    return Product(
        op, sources, op.bias, multiplier, shift, op.low, op.high, op.requantized.zero_after, op.residual
    )


def computed_product(op: MatMul | ComputedConv) -> Product:
    """Without weights, which are computed."""
    multiplier, shift = op.multiplier, op.shift
    if op.raw:
        multiplier, shift = np.ones(len(op.bias), int), np.zeros(len(op.bias), int)
    return Product(
        op,
        lambda tile: [],
        op.bias,
        multiplier,
        shift,
        op.low,
        op.high,
        op.requantized.zero_after,
        op.residual,
    )


def concat_product(op: Concat, graph: QuantizedGraph, config: AcceleratorConfig) -> Product:
    """Every code times 1."""
    channels = graph.tensors[op.output].shape[2]

    def sources(tile: int) -> list[Source]:
        return [Source.of(t, d, word0, config) for t, d, word0 in concat_tile(op, graph, tile, config)]

    zeros, ones = np.zeros(channels, int), np.ones(channels, int)
    fmt = config.activation
    return Product(op, sources, zeros, ones, zeros, fmt.min_fixed, fmt.max_fixed)
