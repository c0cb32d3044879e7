"""Layers of which only the sign of the sum counts: the accumulator has it exactly, so nothing is rescaled."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np

from sateen.errors import DataError
from sateen.ir.fused import FusedGraph, FusedLayer, FusedNode
from sateen.ir.nodes import Conv, MatMul
from sateen.ir.quantized import Linear, Quant


def sign_of(node: FusedNode, network: FusedGraph) -> bool:
    """Whether only the sign of the node's sum counts, which the accumulator has exactly.

    Raises DataError if the sign is that of something rounded before, of which the file does not say how.
    """
    if (
        not isinstance(node, FusedLayer)
        or node.activation is None
        or node.activation.function != "bipolar"
        or node.before in network.graph.quantizers
    ):
        return False
    if node.main is None or isinstance(node.main, MatMul) or node.residual:
        raise DataError(
            f"BipolarQuant '{node.activation.name}' takes the sign of '{node.before}', an Add, a computed product or a "
            "tensor without a quantizer, which the machine would round first; put a Quant before it"
        )
    return True


def signs(linear: Linear, layer: FusedLayer, source: Quant) -> Linear:
    """The layer, raw until now: accumulators saturate at -1 and 1 instead of being rescaled, biases are rounded down.

    The sum is an integer n of steps u, so n * u + b >= 0 exactly if n + floor(b / u) >= 0.
    """
    assert linear.raw_scale is not None
    fmt = linear.requantized.format
    bias = layer.main.bias if isinstance(layer.main, Conv) else np.zeros(len(linear.bias))
    exact = [
        (Fraction(float(b)) / Fraction(float(u))).__floor__() - source.zero_point * int(s)
        for b, u, s in zip(bias, linear.raw_scale, linear.weight.sums, strict=True)
    ]
    wide = any(abs(b) >= 1 << 62 for b in exact)
    lsb = fmt.lsb_exponent - source.format.lsb_exponent - linear.weight.format.lsb_exponent
    zero = 0 if fmt.min_fixed < 0 else 1
    return dataclasses.replace(
        linear,
        bias=np.array(exact, object if wide else np.int64),
        multiplier=np.ones(len(bias), np.int64),
        shift=np.zeros(len(bias), np.int64),
        requantized=Quant(fmt, 1.0, zero),
        raw=False,
        raw_scale=None,
        raw_offset=None,
        weight=dataclasses.replace(linear.weight, scale=np.full(len(bias), 2.0**lsb / source.scale)),
    )
