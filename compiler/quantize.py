"""The float network and its statistics to the quantized network: formats, scales, one rounding per output."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sateen.compiler.bounds import accumulator_bits
from sateen.compiler.calibrate import Statistics
from sateen.compiler.functions import evaluate
from sateen.compiler.fuse import Pass, Step, fuse, shared_scales
from sateen.compiler.given import given_codes, sign_of, signs
from sateen.compiler.residuals import align_residuals, fold_zero_points, residual_shifts_fit, snap_scales
from sateen.compiler.scales import (
    METHODS,
    MULTIPLIER_MAX,
    Observed,
    activation_quant,
    normalised,
    weight_scales,
)
from sateen.errors import DataError, FormatError, ModelError
from sateen.formats import Format, parse_format
from sateen.ir.graph import Concat, Conv, Graph, Pool
from sateen.ir.quantized import Concat as QuantizedConcat
from sateen.ir.quantized import Linear, MaxPool, Op, Quant, QuantizedGraph, Residual, Tensor

__all__ = ["accumulator_bits", "quantize", "residual_shifts_fit"]

_logger = logging.getLogger("sateen")


@dataclass(frozen=True, slots=True)
class Options:
    """How `quantize` chooses scales."""

    weight_format: Format
    activation_format: Format
    scale_method: str
    power_of_two: bool


def quantize(
    graph: Graph,
    statistics: Statistics | None,
    *,
    weight_format: str | Format,
    activation_format: str | Format,
    scale_method: str = "mse",
    power_of_two: bool = False,
) -> QuantizedGraph:
    """The quantized network: weights per output channel, activations per tensor.

    Parameters
    ----------
    statistics : from `calibrate` on this graph; None if all tensors have quantizers of the file. Those keep their
        scales, and so do weights that the file has quantized; both must be of the two formats (`given.conform`).
    scale_method : "mse" searches the scale of the least squared error, "minmax" covers the range seen,
        "percentile" nearly all of it.
    power_of_two : all scales are powers of two, so that requantization is a shift.

    Raises
    ------
    FormatError
        A format that cannot hold what the network needs of it.
    DataError
        Statistics that lack a tensor; an unknown method.
    """
    options = Options(_format(weight_format), _format(activation_format), scale_method, power_of_two)
    if scale_method not in METHODS:
        raise DataError(f"scale method '{scale_method}' is unknown; it must be {', '.join(METHODS)}")
    graph.verify()
    steps = fuse(graph)
    raw = _raw_outputs(graph, steps)
    names = [p.name for p in graph.inputs] + [s.output for s in steps]
    quants = _quants(graph, names, steps, statistics, options, raw)
    ops = tuple(_quantized(graph, s, quants, statistics, options, raw) for s in steps)
    tensors = {t: Tensor(t, graph.shapes[t], quants[t]) for t in names}
    metadata: dict[str, object] = {
        "weight_format": options.weight_format.name,
        "activation_format": options.activation_format.name,
        "scale_method": scale_method,
        "power_of_two": power_of_two,
        "calibration_samples": statistics.samples if statistics else 0,
    }
    qgraph = QuantizedGraph(graph.name, graph.inputs, graph.outputs, ops, tensors, metadata)
    return fold_zero_points(align_residuals(qgraph))


def _format(f: str | Format) -> Format:
    return f if isinstance(f, Format) else parse_format(f)


# -- tensors -----------------------------------------------------------------------------------------------


def _raw_outputs(graph: Graph, steps: tuple[Step, ...]) -> set[str]:
    """Outputs whose exact accumulators the host reads: nothing else reads them, nothing follows the sum."""
    read = {i for s in steps for i in s.inputs}
    return {
        s.output
        for s in steps
        if isinstance(s, Pass)
        and s.main is not None
        and s.residual is None
        and s.activation is None
        and s.output in {o.tensor for o in graph.outputs}
        and s.output not in read
        and s.output not in graph.quantizers
    }


def _quants(
    graph: Graph,
    names: list[str],
    steps: tuple[Step, ...],
    statistics: Statistics | None,
    options: Options,
    raw: set[str],
) -> dict[str, Quant]:
    """The Quant of every tensor in `names`, and of what the tables read."""
    given = graph.quantizers
    signs_of = {s.requantized: sign_of(s, graph) for s in steps if isinstance(s, Pass)}
    functions = {s.before: _function(s) for s in steps if isinstance(s, Pass) and s.table and s.before}
    shared = shared_scales(steps, names)
    # a table's input is a tensor with codes when the table stands alone; else its own error counts for nothing
    shared |= {before: before for before in functions if before not in shared}
    groups: dict[str, list[str]] = {}
    for name, group in shared.items():
        groups.setdefault(group, []).append(name)
    kept = {shared[name]: q.quant for name, q in given.items() if name in shared}
    # the scale of a raw output, and that of a sum of which only the sign counts, mean nothing
    kept |= {
        shared[t]: Quant(options.activation_format, 1.0)
        for t in (*(raw if given else ()), *(t for t, sign in signs_of.items() if sign))
    }
    unknown = [t for group, members in groups.items() if group not in kept for t in members]
    if unknown and statistics is None:
        raise DataError(
            f"the model says of {_listed(unknown)} not how it is rounded; give --calibration X.npz with real samples, "
            "or quantize the model there too"
        )
    if unknown and given:
        _logger.warning("calibrated, as the model does not quantize them: %s", ", ".join(unknown))
    quants = kept | {
        group: activation_quant(
            _observed(statistics, members),
            options.activation_format,
            method=options.scale_method,
            power_of_two=options.power_of_two,
            function=functions.get(group) if group not in names and options.scale_method == "mse" else None,
        )
        for group, members in groups.items()
        if group not in kept and statistics is not None
    }
    if not options.power_of_two:
        quants = snap_scales(steps, quants, shared, kept)
    return {name: quants[group] for name, group in shared.items()}


def _listed(names: list[str], most: int = 4) -> str:
    quoted = ", ".join(f"'{n}'" for n in names[:most])
    return quoted + (f" and {len(names) - most} more tensors" if len(names) > most else "")


def _observed(statistics: Statistics, names: list[str]) -> Observed:
    for name in names:
        if name not in statistics.tensors:
            raise DataError(f"calibration has no tensor '{name}'; calibrate the same model that is compiled")
    found = [statistics.tensors[n] for n in names]
    return Observed(
        names[0],
        min(s.minimum for s in found),
        max(s.maximum for s in found),
        np.concatenate([s.values for s in found]),
    )


# -- ops ---------------------------------------------------------------------------------------------------


def _quantized(
    graph: Graph,
    step: Step,
    quants: dict[str, Quant],
    statistics: Statistics | None,
    options: Options,
    raw: set[str],
) -> Op:
    match step:
        case Pool():
            return MaxPool(
                step.name,
                step.input,
                step.output,
                step.kernel,
                step.stride,
                step.dilation,
                step.pads,
                (step.name,),
            )
        case Concat():
            return QuantizedConcat(step.name, step.parts, step.output, (step.name,))
    requantized = quants[step.requantized]
    folded = [] if step.output in raw else [requantized] + ([quants[step.residual]] if step.residual else [])
    zeros = sum(q.scale * abs(q.offset) for q in folded if q.zero_before)
    source, sign = quants[step.input], sign_of(step, graph)
    linear = _linear(graph, step, source, requantized, statistics, options, sign or step.output in raw, zeros)
    if sign:
        linear = signs(linear, step, source)
        return replace(linear, table=_table(step, linear.requantized, quants[step.output]))
    if step.residual:
        linear = replace(linear, residual=Residual(step.residual, 1, 0))  # see align_residuals
    if step.table:
        return replace(linear, table=_table(step, requantized, quants[step.output]))
    if step.activation:
        low, high = (
            requantized.format.fixed(requantized.quantize(np.array([v]))).item()
            for v in (step.activation.low, step.activation.high)
        )
        return replace(linear, low=low, high=max(low, high))
    return linear


def _function(step: Pass) -> Callable[[np.ndarray], np.ndarray]:
    activation = step.activation
    assert activation is not None
    return lambda x: evaluate(activation, x)


def _table(step: Pass, before: Quant, after: Quant) -> np.ndarray:
    """The code of f(x) for every code of x, (2**bits,); NaN and infinity read as the largest values."""
    fmt = before.format
    fixed = fmt.fixed(np.arange(1 << fmt.bits))  # unlike decode's values, always finite
    x = before.scale * (fixed - before.zero_point) * 2.0**fmt.lsb_exponent
    return after.quantize(_function(step)(x))


def _linear(
    graph: Graph,
    step: Pass,
    source: Quant,
    requantized: Quant,
    statistics: Statistics | None,
    options: Options,
    raw: bool,
    zeros: float,
) -> Linear:
    """Weights, bias and multipliers; no residual, table or clamp yet. Zero points of the size `zeros` will be
    added to the bias."""
    geometry: dict[str, Any] = {}
    macs: int | None = 0
    match step.main:
        case Conv() as conv:
            bias = conv.bias
            if conv.given is not None:
                weight, scale = given_codes(conv, options.weight_format)
            else:
                weight, scale = _conv_weight(conv, source, options, zeros)
                if statistics is not None:
                    change = options.weight_format.decode(weight) * scale[:, None, None, None] - conv.weight
                    bias = _corrected_bias(conv, change, statistics.tensors[conv.input].mean)
            macs = 0 if conv.selects else None
            geometry = {
                "stride": conv.stride,
                "dilation": conv.dilation,
                "pads": conv.pads,
                "groups": conv.groups,
                "sparsity": conv.sparsity,
            }
        case Pool() as pool:
            weight, scale = _uniform(step, graph.shapes[step.input][2], pool.kernel, options, zeros > 0)
            bias = np.zeros(len(weight))
            geometry = {
                "stride": pool.stride,
                "dilation": pool.dilation,
                "pads": pool.pads,
                "groups": len(weight),
            }
        case None:
            weight, scale = _uniform(step, graph.shapes[step.input][2], (1, 1), options, zeros > 0)
            bias = np.zeros(len(weight))
            geometry = {"groups": len(weight)}
    fmt = options.weight_format
    unit = source.scale * scale * 2.0 ** (source.format.lsb_exponent + fmt.lsb_exponent)  # of an accumulator
    multiplier, shift, unit = _multipliers(step, unit, requantized, raw)
    scale = unit / (source.scale * 2.0 ** (source.format.lsb_exponent + fmt.lsb_exponent))
    return Linear(
        name=step.name,
        input=step.input,
        output=step.output,
        weight=weight,
        weight_format=fmt,
        bias=_bias(weight, bias, unit, source, fmt),
        multiplier=multiplier,
        shift=shift,
        requantized=requantized,
        low=requantized.format.min_fixed,
        high=requantized.format.max_fixed,
        raw=raw,
        raw_scale=unit if raw else None,
        macs=macs,
        source=step.source,
        weight_scale=scale,
        **geometry,
    )


def _corrected_bias(conv: Conv, change: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
    """The bias, less what the `change` of the weights by rounding adds to each output channel's mean.

    `mean` is that of each input channel (I,). Ref: Nagel et al., arXiv 1906.04721, section 4.2.
    """
    if mean is None:
        return conv.bias
    o, _, _, per_group = conv.weight.shape
    first = np.arange(o) // (o // conv.groups) * per_group
    inputs = mean[first[:, None] + np.arange(per_group)]
    return conv.bias - (change * inputs[:, None, None, :]).sum(axis=(1, 2, 3))


def _conv_weight(conv: Conv, source: Quant, options: Options, zeros: float) -> tuple[np.ndarray, np.ndarray]:
    """Codes (O, KH, KW, I/groups) and scales (O,); `zeros` is added to the bias, of either sign."""
    fmt = options.weight_format
    weight = np.asarray(conv.weight, np.float64)
    if not (np.isfinite(weight).all() and np.isfinite(conv.bias).all()):
        raise ModelError(f"Conv '{conv.name}': weights or bias hold NaN or infinity; repair the model")
    if fmt.min_fixed == 0 and weight.min(initial=0.0) < 0:
        raise FormatError(
            f"Conv '{conv.name}': its least weight is {weight.min():.6g}, but {fmt.name} has no negative "
            "values; use a signed weight format"
        )
    method = "mse" if options.scale_method == "mse" else "minmax"
    scale = weight_scales(weight, fmt, method=method, power_of_two=options.power_of_two)
    # A finer weight grid than the bias needs only widens accumulators (dead channels after batch norm).
    largest = max(abs(fmt.min_fixed), fmt.max_fixed) * 2.0**fmt.lsb_exponent
    reach = source.scale * max(abs(source.format.min), source.format.max) * largest * weight[0].size
    floor = (np.abs(conv.bias) + zeros / 16) / reach
    floor = np.exp2(np.ceil(np.log2(np.maximum(floor, 2.0**-120))))
    scale = np.where(np.any(weight != 0, axis=(1, 2, 3)), np.maximum(scale, floor), floor)
    zero = ~np.any(weight != 0, axis=(1, 2, 3)) & (conv.bias == 0)
    scale[zero] = scale[~zero].max(initial=0.0) or 1.0
    codes = fmt.encode(weight / scale[:, None, None, None])
    codes = np.where(fmt.fixed(codes) == 0, fmt.zero_code, codes).astype(np.uint8)
    return codes, scale


def _uniform(
    step: Pass, channels: int, kernel: tuple[int, int], options: Options, fine: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Depthwise weights of one code, scaled to 1 / (KH*KW): the least positive one, or, if accumulators must
    be `fine` because a zero point goes into the bias, the greatest power of two."""
    fmt = options.weight_format
    codes = np.arange(1 << fmt.bits)
    fixed = fmt.fixed(codes)
    positive = np.flatnonzero(fixed > 0)
    if not len(positive):
        what = "average pooling" if isinstance(step.main, Pool) else "Add or activation"
        raise FormatError(
            f"{what} '{step.name}': {fmt.name} has no positive value, which it needs as a weight; "
            "use a weight format of at least 2 bits, or uint1"
        )
    powers = positive[(fixed[positive] & (fixed[positive] - 1)) == 0]
    code = powers[np.argmax(fixed[powers])] if fine and len(powers) else positive[np.argmin(fixed[positive])]
    weight = np.full((channels, *kernel, 1), code, np.uint8)
    value = float(fixed[code]) * 2.0**fmt.lsb_exponent
    return weight, np.full(channels, 1 / (kernel[0] * kernel[1] * value))


def _multipliers(
    step: Pass, unit: np.ndarray, requantized: Quant, raw: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(multipliers, shifts, units): the rounding of a multiplier is taken back into the unit, and so into the
    weight's scale, so that the accumulator's real value stays exact."""
    if raw:
        return np.ones(len(unit), np.int64), np.zeros(len(unit), np.int64), unit
    target = requantized.scale * 2.0**requantized.format.lsb_exponent
    pairs = []
    for u in unit / target:
        try:
            m, s = normalised(float(u))
        except OverflowError:
            raise DataError(
                f"'{step.name}': one step of the sum is {float(u):.3g} steps of the output, more than "
                f"{MULTIPLIER_MAX}; the calibration samples hardly excite '{step.output}', use real ones"
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
    wide = any(abs(b) >= 1 << 62 for b in folded)
    return np.array(folded, object if wide else np.int64)
