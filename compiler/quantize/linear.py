"""One layer in integers: weights, bias and the multipliers that rescale its sums; products of two tensors too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sateen.compiler.quantize.activations import ActivationPlan
from sateen.compiler.quantize.calibrate import Statistics
from sateen.compiler.quantize.given_weights import bias_rest, given_codes, refined
from sateen.compiler.quantize.options import Options
from sateen.compiler.quantize.scales import normalised
from sateen.compiler.quantize.signs import sign_of
from sateen.compiler.quantize.weights import conv_weight, corrected_bias, dyadic, uniform_weight
from sateen.errors import DataError
from sateen.formats import Format
from sateen.formats.digits import two_digits
from sateen.formats.sparsity import DENSE
from sateen.ir.fused import FusedGraph, FusedLayer
from sateen.ir.heads import INPUT
from sateen.ir.nodes import Conv, MatMul, Pool
from sateen.ir.quantized import (
    Constant,
    Linear,
    Quant,
)
from sateen.ir.quantized import MatMul as QuantizedMatMul
from sateen.ir.sums import MULTIPLIER_MAX


@dataclass(frozen=True, slots=True)
class Basis:
    """What all layers are made from. `weight_scales` has those (O,) of Convs whose weights lie on the grid already."""

    network: FusedGraph
    statistics: Statistics | None
    plan: ActivationPlan
    options: Options
    weight_scales: Mapping[str, np.ndarray]


def make_linear(basis: Basis, layer: FusedLayer, raw: bool, zeros: float) -> Linear:
    """Weights, bias and multipliers; no residual, table or clamp yet. Zero points of the size `zeros` will be
    added to the bias."""
    options, channels = basis.options, basis.network.graph.shapes[layer.input][2]
    source, requantized = basis.plan.quants[layer.input], basis.plan.quants[layer.requantized]
    geometry: dict[str, Any] = {}
    macs: int | None = 0
    sparsity = DENSE
    match layer.main:
        case Conv() as conv:
            bias = conv.bias
            if conv.given is not None:
                weight, scale = given_codes(conv, options.weight_format)
                if not sign_of(layer, basis.network):  # which is exact as it is
                    lsb = source.format.lsb_exponent + options.weight_format.lsb_exponent
                    weight, scale = refined(
                        conv, weight, scale, source.scale * 2.0**lsb, options.weight_format
                    )
            else:
                weight, scale = conv_weight(conv, source, options, zeros, basis.weight_scales.get(conv.name))
                rounded = basis.network.graph.quantizers
                if layer.input in rounded and layer.requantized in rounded:
                    weight, scale = dyadic(conv, weight, scale, options.weight_format)
                if basis.statistics is not None:
                    change = options.weight_format.decode(weight) * scale[:, None, None, None] - conv.weight
                    bias = corrected_bias(conv, change, _mean(basis, conv.input))
            macs, sparsity = 0 if conv.selects else None, conv.sparsity
            if conv.given is not None and conv.given.again:
                (h, w, _), columns = basis.network.graph.shapes[conv.output], weight.shape[3]
                macs = h * w * weight.size // columns * (columns - conv.given.again)
            geometry = {
                "stride": conv.stride,
                "dilation": conv.dilation,
                "pads": conv.pads,
                "groups": conv.groups,
                "channels": conv.channels,
            }
        case Pool() as pool:
            weight, scale = uniform_weight(layer, channels, pool.kernel, options, zeros > 0)
            bias = np.zeros(len(weight))
            geometry = {
                "stride": pool.stride,
                "dilation": pool.dilation,
                "pads": pool.pads,
                "groups": len(weight),
            }
        case MatMul():
            raise AssertionError("it has no weights: see make_matmul")
        case None:
            weight, scale = uniform_weight(layer, channels, (1, 1), options, zeros > 0)
            bias = np.zeros(len(weight))
            geometry = {"groups": len(weight)}
    fmt = options.weight_format
    unit = source.scale * scale * 2.0 ** (source.format.lsb_exponent + fmt.lsb_exponent)  # of an accumulator
    step = requantized.scale * 2.0**requantized.format.lsb_exponent
    if layer.product and layer.residual:
        factor = basis.plan.quants[layer.residual]
        step /= factor.scale * 2.0**factor.format.lsb_exponent
    multiplier, shift, unit = _multipliers(layer, unit, step, raw)
    scale = unit / (source.scale * 2.0 ** (source.format.lsb_exponent + fmt.lsb_exponent))
    return Linear(
        name=layer.name,
        input=layer.input,
        output=layer.output,
        weight=Constant(weight, fmt, scale, sparsity),
        bias=_bias(weight, bias, unit, source, fmt),
        multiplier=multiplier,
        shift=shift,
        requantized=requantized,
        low=requantized.format.min_fixed,
        high=requantized.format.max_fixed,
        raw=raw,
        raw_scale=unit if raw else None,
        raw_offset=_rest(layer.main, unit) if raw else None,
        macs=macs,
        source=layer.source,
        **geometry,
    )


def make_matmul(basis: Basis, layer: FusedLayer, main: MatMul, raw: bool) -> QuantizedMatMul:
    """Bias and multipliers; no table or clamp yet."""
    quants, shapes = basis.plan.quants, basis.network.graph.shapes
    a, b, requantized = quants[main.input_a], quants[main.input_b], quants[layer.requantized]
    unit = a.scale * b.scale * main.scale * 2.0 ** (a.format.lsb_exponent + b.format.lsb_exponent)
    step = requantized.scale * 2.0**requantized.format.lsb_exponent
    multiplier, shift, unit = _multipliers(layer, unit, step, raw)
    return QuantizedMatMul(
        name=layer.name,
        input=main.input_a,
        weight=main.input_b,
        output=layer.output,
        batch=main.batch,
        reduction=main.batch.split(INPUT, shapes[main.input_a])[3],
        bias=integers([round(float(v) / float(u)) for v, u in zip(main.bias, unit, strict=True)]),
        multiplier=multiplier,
        shift=shift,
        requantized=requantized,
        low=requantized.format.min_fixed,
        high=requantized.format.max_fixed,
        raw=raw,
        raw_scale=unit if raw else None,
        source=layer.source,
        digits=two_digits(basis.options.activation_format, basis.options.weight_format),
    )


def _mean(basis: Basis, tensor: str) -> np.ndarray | None:
    """Of each channel (C,), and of all tensors that it is tied to: so that steps have one bias."""
    assert basis.statistics is not None
    tie = next((t for t in basis.network.graph.ties if tensor in t), (tensor,))
    known = [basis.statistics.tensors[t].mean for t in tie if t in basis.statistics.tensors]
    means = [m for m in known if m is not None]
    return np.mean(means, axis=0) if means else None


def _rest(main: Conv | MatMul | Pool | None, unit: np.ndarray) -> np.ndarray | None:
    """What whole steps leave of the bias of a file's own weights: at few bits too much to lose."""
    if not isinstance(main, Conv) or main.given is None:
        return None
    rest = np.where(bias_rest(main.bias, unit) > 0, main.bias - np.rint(main.bias / unit) * unit, 0.0)
    return rest if rest.any() else None


def _multipliers(
    layer: FusedLayer, unit: np.ndarray, target: float, raw: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(multipliers, shifts, units) that make sums steps of `target`: the rounding of a multiplier is taken back into
    the unit, and so into the weight's scale, so that the accumulator's real value stays exact."""
    if raw:
        return np.ones(len(unit), np.int64), np.zeros(len(unit), np.int64), unit
    pairs = []
    for u in unit / target:
        try:
            m, s = normalised(float(u))
        except OverflowError:
            raise DataError(
                f"'{layer.name}': one step of the sum is {float(u):.3g} steps of the output, more than "
                f"{MULTIPLIER_MAX}; the calibration samples hardly excite '{layer.output}', use real ones"
            ) from None
        zeros = (m & -m).bit_length() - 1
        if m == 1 << zeros:  # a power of two is a plain shift
            m, s = m >> min(zeros, s), s - min(zeros, s)
        pairs.append((m, s))
    multiplier, shift = np.array(pairs, np.int64).reshape(-1, 2).T
    return multiplier.copy(), shift.copy(), np.ldexp(multiplier.astype(np.float64), -shift) * target


def _bias(weight: np.ndarray, bias: np.ndarray, unit: np.ndarray, source: Quant, fmt: Format) -> np.ndarray:
    """Integers in units of the accumulator, the input's zero point folded in: int64, or object."""
    sums = fmt.fixed(weight).reshape(len(weight), -1).sum(axis=1)
    folded = [
        round(float(b) / float(u)) - source.zero_point * int(s)
        for b, u, s in zip(bias, unit, sums, strict=True)
    ]
    return integers(folded)


def integers(values: list[int]) -> np.ndarray:
    return np.array(values, object if any(abs(v) >= 1 << 62 for v in values) else np.int64)
