"""The quantized graph's definition, word by word: Python integers and fractions, one output element at a time."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np

from sateen.formats import Format
from sateen.ir.quantized import Arrange, Concat, Linear, MaxPool, QuantizedGraph


@cache
def fixed_values(fmt: Format) -> list[int]:
    return [int(v) for v in fmt.fixed(np.arange(1 << fmt.bits))]


@cache
def finite_codes(fmt: Format) -> list[int]:
    finite = np.isfinite(fmt.decode(np.arange(1 << fmt.bits)))
    fixed = fixed_values(fmt)
    return [c for c, ok in enumerate(finite) if ok and fmt.min_fixed <= fixed[c] <= fmt.max_fixed]


def nearest_code(t: Fraction, fmt: Format) -> int:
    """Nearest finite value, ties to the even code; the code of +0 for zero."""
    fixed = fixed_values(fmt)
    codes = finite_codes(fmt)
    best = min(codes, key=lambda c: (abs(fixed[c] - t), c & 1))
    return fmt.zero_code if fixed[best] == 0 else best


def requantize(t: Fraction, op: Linear) -> int:
    fmt, zero = op.requantized.format, op.requantized.zero_after
    # Python rounds a half to even
    y = fixed_values(fmt)[nearest_code(t, fmt)] if not fmt.uniform else round(t) + zero
    code = nearest_code(Fraction(min(max(y, op.low), op.high)), fmt)
    return code if op.table is None else int(op.table[code])


def differences(qgraph: QuantizedGraph, tensors: dict[str, np.ndarray], samples: int) -> list[str]:
    """Where the tensors (H, W, C) of one image do not follow from one another, at `samples` places of each."""
    rng = np.random.default_rng(0)
    found = []
    for op in qgraph.ops:
        places = list(np.ndindex(*qgraph.tensors[op.output].shape))
        for at in rng.permutation(len(places))[:samples]:
            expected = _element(qgraph, op, tensors, *places[at])
            if int(tensors[op.output][places[at]]) != expected:
                found.append(f"{op.name}{places[at]}: {tensors[op.output][places[at]]}, not {expected}")
    return found


def _element(qgraph: QuantizedGraph, op, tensors, y: int, x: int, c: int) -> int:
    if isinstance(op, Concat):
        return int(np.concatenate([tensors[p] for p in op.parts], axis=-1)[y, x, c])
    if isinstance(op, Arrange):
        for p in op.pieces:
            for i, j in np.ndindex(*p.counts):
                (ty, tx), (sy, sx) = (
                    tuple(o + i * a + j * b for o, a, b in zip(at.origin, at.outer, at.inner, strict=True))
                    for at in (p.target, p.source)
                )
                if (ty, tx) == (y, x):
                    return int(tensors[op.parts[p.part]][sy, sx, c])
    source = tensors[op.input]
    quant = qgraph.tensors[op.input].quant
    fixed = fixed_values(quant.format)
    kernel = op.kernel if isinstance(op, MaxPool) else op.weight.shape[1:3]

    def taps():
        for i, j in np.ndindex(*kernel):
            iy = y * op.stride[0] + i * op.dilation[0] - op.pads[0]
            ix = x * op.stride[1] + j * op.dilation[1] - op.pads[1]
            inside = 0 <= iy < source.shape[0] and 0 <= ix < source.shape[1]
            yield i, j, iy, ix, inside

    if isinstance(op, MaxPool):
        values = [int(source[iy, ix, c]) for _, _, iy, ix, inside in taps() if inside]
        return max(values, key=lambda code: fixed[code])
    weights = fixed_values(op.weight.format)
    per_group = op.weight.shape[3]
    first = c // (len(op.weight.codes) // op.groups) * per_group
    acc = int(op.bias[c])
    for i, j, iy, ix, inside in taps():
        for k in range(per_group):
            channel = first + k if op.channels is None else int(op.channels[c, k])
            a = int(source[iy, ix, channel]) if inside else quant.zero_code
            acc += fixed[a] * weights[int(op.weight.codes[c, i, j, k])]
    if op.raw:
        return acc
    t = Fraction(acc * int(op.multiplier[c]), 1 << int(op.shift[c]))
    if op.residual:
        r = qgraph.tensors[op.residual.input].quant
        value = fixed_values(r.format)[int(tensors[op.residual.input][y, x, c])] - r.zero_after
        t += Fraction(value * op.residual.multiplier, 1 << op.residual.shift)
    return requantize(t, op)
