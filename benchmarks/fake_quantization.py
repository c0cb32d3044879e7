"""A quantized network as training frameworks compute it: rounded values, sums and scales in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sateen.compiler import conv
from sateen.ir.nodes import Conv
from sateen.ir.quantized import Factor, Linear, QuantizedGraph
from sateen.sim import finish_outputs, quantize_inputs


def run_fake(qgraph: QuantizedGraph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `run_reference` gives, but for ties that float32 decides otherwise. Raises TypeError for pooling by maximum
    and for Concat."""
    tensors = quantize_inputs(qgraph, inputs)
    for op in qgraph.ops:
        if not isinstance(op, Linear):
            raise TypeError(f"{op.name}: only layers of the array")
        tensors[op.output] = _linear(qgraph, op, tensors)
    return finish_outputs(qgraph, tensors)


def _real(qgraph: QuantizedGraph, name: str, codes: np.ndarray, zero: int = 0) -> np.ndarray:
    """Values of codes, float32, without a zero point of the format's unit."""
    quant = qgraph.tensors[name].quant
    unit = np.float32(quant.scale * 2.0**quant.format.lsb_exponent)
    return unit * (quant.format.fixed(codes) - zero).astype(np.float32)


def _linear(qgraph: QuantizedGraph, op: Linear, tensors: dict[str, np.ndarray]) -> np.ndarray:
    source, target = qgraph.tensors[op.input].quant, op.requantized
    unit = op.multiplier * np.exp2(-op.shift.astype(float)) * target.scale * 2.0**target.format.lsb_exponent
    if isinstance(op.residual, Factor):
        other = qgraph.tensors[op.residual.input].quant
        unit = unit / (other.scale * 2.0**other.format.lsb_exponent)
    if op.raw:
        unit = op.raw_scale
    to_unit = op.weight.format.lsb_exponent + source.format.lsb_exponent
    scale = unit / (source.scale * 2.0**to_unit)  # of weights
    weight = (op.weight.format.decode(op.weight.codes) * scale[:, None, None, None]).astype(np.float32)
    bias = (op.bias.astype(float) * unit).astype(np.float32)
    top, left, bottom, right = op.pads
    x = np.pad(tensors[op.input], ((0, 0), (top, bottom), (left, right), (0, 0)),
               constant_values=source.zero_code)  # fmt: skip
    node = Conv(op.name, "", "", weight, bias, op.stride, op.dilation, groups=op.groups, channels=op.channels)
    t = conv(node, _real(qgraph, op.input, x)).astype(np.float32)
    if op.raw:
        return t / unit  # which `finish_outputs` multiplies by
    if op.residual:
        other = qgraph.tensors[op.residual.input].quant
        r = _real(qgraph, op.residual.input, tensors[op.residual.input], other.zero_after)
        t = t * r if isinstance(op.residual, Factor) else t + r
    codes = replace(target, zero_point=target.zero_after).quantize(t)
    codes = target.format.from_fixed(np.clip(target.format.fixed(codes), op.low, op.high))
    return codes if op.table is None else op.table[codes]
