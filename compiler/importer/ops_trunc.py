"""QONNX's Trunc, which drops the low bits of an average pool's sum. The machine does that exactly.

With n the sum and t the power of two that it is divided by:

    ROUND   round(n / t)                          what requantization does
    FLOOR   round((2 n - (t - 1)) / (2 t))        an odd number by an even one with no odd factor: never a tie,
    CEIL    round((2 n + (t - 1)) / (2 t))        so the codes of the weights are 2, and the rest is a bias

Ref: qonnx.custom_op.general.trunc, versions 1 and 2 of the operator; brevitas.core.quant.int.TruncIntQuant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sateen.compiler.importer import limits
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value
from sateen.compiler.importer.ops_quantize import emit, one, positive, whole
from sateen.compiler.importer.walk import Walk
from sateen.formats import Integer
from sateen.ir.nodes import Activation, Conv, Pool
from sateen.ir.quant import GivenWeights, Quant, Quantizer

_DROPPED = {"ROUND": 0, "HALF_EVEN": 0, "FLOOR": -1, "CEIL": 1}
"""The sign of the bias, in halves of t - 1."""

_REMEDY = "average with AveragePool or GlobalAveragePool and a Quant after it"


def trunc(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    value = walk.value(node)
    if walk.is_open(value):
        return [value]
    pool = next((n for n in walk.nodes if n.output == value.tensor), None)
    before = _quantizer(walk, pool.input) if isinstance(pool, Pool) and pool.kind == "average" else None
    if before is None:
        raise Unsupported(
            "it drops low bits of something else than the sum of an average pool of quantized values",
            "put it right after an AveragePool whose input a Quant rounds, or use a Quant instead",
            limits.AFTER_POOL,
        )
    assert isinstance(pool, Pool)
    signed = before.low < before.quant.zero_point
    scale, divisor, mode, quantizer = _parameters(walk, node, signed)
    step = before.quant.scale / math.prod(pool.kernel)
    if not before.quant.format.uniform or not math.isclose(step, scale, rel_tol=1e-5):
        raise Unsupported(
            f"its scale is {scale:.6g}, but one step of the average pool's sum is {step:.6g}",
            "use the scale of the pool's input divided by the size of the window",
            limits.AFTER_POOL,
        )
    out_unit = quantizer.quant.scale
    sign = _DROPPED[mode] if divisor > 1 else 0
    code, fmt = (2, Integer(3, narrow=True)) if sign else (1, Integer(2, narrow=True))
    c = walk.hwc(value)[2]
    weight = np.full((c, *pool.kernel, 1), out_unit / (divisor * before.quant.scale))
    bias = np.full(c, sign * (divisor - 1) / 2 * out_unit / divisor)
    out = walk.fresh(f"{node.proto.output[0]}_sum")
    walk.emit(
        Conv(
            f"{node.name}.sum", pool.input, out, weight, bias, pool.stride, pool.dilation, pool.pads, c,
            given=GivenWeights(fmt, weight[:, 0, 0, 0] / code),
        ),
        walk.hwc(value),
    )  # fmt: skip
    return [emit(walk, node, Value(out, value.layout, value.host), quantizer)]


def _parameters(walk: Walk, node: OnnxNode, signed: bool) -> tuple[float, int, str, Quantizer]:
    """The input's scale, the divisor, the rounding mode, and the quantizer of the result.

    `signed` holds where the node does not say, in version 1.
    """
    mode = node.text("rounding_mode", "FLOOR").upper()
    if mode not in _DROPPED:
        raise Unsupported(f"rounding_mode {mode}", f"use {', '.join(_DROPPED)}", limits.ROUNDING)
    scale = positive(one(walk, node, 1, "scale"))
    if zero := whole(walk, node, 2, "zero point"):
        raise Unsupported(f"its zero point is {zero}", "use zero point 0 before the average pool")
    second = len(node.inputs) > 5  # version 2 has an output scale, and saturates
    bits = whole(walk, node, 5 if second else 4, "output bit width")
    out_scale = positive(one(walk, node, 4, "output scale")) if second else scale
    ratio = out_scale / scale if second else 2.0 ** (whole(walk, node, 3, "input bit width") - bits)
    divisor = 1 << max(0, round(math.log2(ratio)))
    if not math.isclose(divisor, ratio, rel_tol=1e-5):
        raise Unsupported(
            f"it divides by {ratio:g}",
            f"use output scales and bit widths that divide by 1, 2, 4, …; {_REMEDY}",
        )
    if not 1 <= bits <= 8:
        raise Unsupported(f"its output has {bits} bits", "use 1 to 8 bits", limits.EIGHT_BITS)
    signed = bool(node.integer("signed", 1)) if second else signed
    fmt = Integer(bits, signed, signed and bool(node.integer("narrow", 0)))
    return scale, divisor, mode, Quantizer.whole(Quant(fmt, out_scale))


def _quantizer(walk: Walk, tensor: str) -> Quantizer | None:
    """That which rounded the tensor, also before operations that only choose among its values."""
    while tensor not in walk.quantizers:
        match next((n for n in walk.nodes if n.output == tensor), None):
            case Pool(kind="max") as writer:
                tensor = writer.inputs[0]
            case Activation(function="clip") as writer if not writer.low and writer.high == np.inf:
                tensor = writer.inputs[0]
            case _:
                return None
    return walk.quantizers[tensor]
