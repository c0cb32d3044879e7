"""Softmax and normalization in integers: tables of exponentials, factors and offsets of channels."""

from __future__ import annotations

import math

import numpy as np

from sateen.compiler.quantize.linear import integers
from sateen.errors import DataError
from sateen.formats.rows import (
    EPSILON_FRACTION,
    MOST_ELEMENTS,
    epsilon_bits,
    exponentials,
    fraction_bits,
)
from sateen.ir.nodes import Normalize, Softmax
from sateen.ir.ports import Shape
from sateen.ir.quant import Quant
from sateen.ir.quantized import Normalize as QuantizedNormalize
from sateen.ir.quantized import Softmax as QuantizedSoftmax
from sateen.ir.sums import FACTOR_BITS, FACTOR_MAX, SHIFT_MAX

_RANGE = 14
"""A channel's factor is at least its offset times 2**-_RANGE, so that the offset stays short."""


def softmax(node: Softmax, shape: Shape, source: Quant, target: Quant) -> QuantizedSoftmax:
    """Raises DataError for rows that are too long."""
    _counted(node.name, "Softmax", shape[2])
    fmt = source.format
    table = exponentials(source.scale * (fmt.fixed(fmt.codes) - source.zero_point) * 2.0**fmt.lsb_exponent)
    bias, multiplier, shift = _factors(np.ones(1), np.zeros(1), target)
    return QuantizedSoftmax(
        node.name, node.input, node.output, table.words, bias, multiplier, shift,
        fraction=fraction_bits(target.format), source=(node.name,),
    )  # fmt: skip


def normalize(node: Normalize, shape: Shape, source: Quant, target: Quant) -> QuantizedNormalize:
    """Raises DataError for rows that are too long, and an epsilon that is far larger than what is normalized."""
    h, w, c = shape
    elements = c // node.groups * (h * w if node.plane else 1)
    _counted(node.name, "normalization", elements)
    count = elements if node.averaged else 1
    unit = source.scale * 2.0**source.format.lsb_exponent
    factor = count if node.averaged else 1.0
    epsilon = round(node.epsilon * factor**2 / unit**2 * 2**EPSILON_FRACTION)
    most = (1 << epsilon_bits(source.format)) - 1
    if epsilon > most:
        raise DataError(
            f"normalization '{node.name}': epsilon = {node.epsilon:g} is too large for '{node.input}', of which a step "
            f"is {unit:.3g}: over {elements} elements at most {node.epsilon * most / epsilon:.3g}; calibrate with real "
            "samples"
        )
    bias, multiplier, shift = _factors(node.scale, node.offset, target)
    return QuantizedNormalize(
        node.name, node.input, node.output, count, elements, epsilon, bias, multiplier, shift,
        fraction=fraction_bits(target.format), plane=node.plane, groups=node.groups, centred=node.centred,
        source=(node.name,),
    )  # fmt: skip


def _counted(name: str, what: str, elements: int) -> None:
    if elements > MOST_ELEMENTS:
        raise DataError(
            f"{what} '{name}': a row of {elements} elements, and the machine counts to {MOST_ELEMENTS}; normalize over "
            "fewer"
        )


def _factors(
    scale: np.ndarray, offset: np.ndarray, target: Quant
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(biases, multipliers, shifts) of y * scale + offset."""
    unit = target.scale * 2.0**target.format.lsb_exponent
    fraction = fraction_bits(target.format)
    offset = offset + target.zero_before * unit
    least = max(float(np.abs(scale).max()), float(np.abs(offset).max()), unit) * 2.0**-60
    biases, multipliers, shifts = [], [], []
    for s, b in zip(scale.tolist(), offset.tolist(), strict=True):
        s = math.copysign(max(abs(s), abs(b) * 2.0**-_RANGE, least), s)
        mantissa, exponent = math.frexp(abs(s) / unit)
        multiplier, shift = round(math.ldexp(mantissa, FACTOR_BITS)), FACTOR_BITS + fraction - exponent
        if multiplier > FACTOR_MAX:
            multiplier, shift = multiplier >> 1, shift - 1
        if not 0 <= shift <= SHIFT_MAX:
            lost = max(0, shift - SHIFT_MAX)
            multiplier, shift = max(1, multiplier >> lost), min(max(shift, 0), SHIFT_MAX)
        given = math.ldexp(multiplier, fraction - shift) * unit
        biases.append(round(math.ldexp(b / given, fraction)))
        multipliers.append(-multiplier if s < 0 else multiplier)
        shifts.append(shift)
    return integers(biases), np.array(multipliers, np.int64), np.array(shifts, np.int64)
