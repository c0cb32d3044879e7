"""The float network and its statistics to the quantized network: formats, scales, one rounding per output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sateen.compiler.quantize.activations import ActivationPlan, plan_activations, raw_outputs, table_function
from sateen.compiler.quantize.bounds import accumulator_bits
from sateen.compiler.quantize.calibrate import Statistics
from sateen.compiler.quantize.fuse import Pass, Step, fuse
from sateen.compiler.quantize.given import bias_rest, given_codes, refined, sign_of, signs, warn_of_biases
from sateen.compiler.quantize.residuals import align_residuals, fold_zero_points, residual_shifts_fit
from sateen.compiler.quantize.scales import (
    MULTIPLIER_MAX,
    most,
    normalised,
    weight_scales,
)
from sateen.errors import DataError, FormatError, ModelError
from sateen.formats import Format, Integer, parse_format
from sateen.ir.graph import Concat, Conv, Graph, Pool
from sateen.ir.quantized import Concat as QuantizedConcat
from sateen.ir.quantized import Linear, MaxPool, Op, Quant, QuantizedGraph, Residual, Tensor

__all__ = ["accumulator_bits", "quantize", "residual_shifts_fit"]


@dataclass(frozen=True, slots=True)
class Options:
    """How `quantize` chooses scales."""

    weight_format: Format
    activation_format: Format
    scale_method: str
    power_of_two: bool
    weight_scales: Mapping[str, np.ndarray] = field(default_factory=dict)


def quantize(
    graph: Graph,
    statistics: Statistics | None,
    *,
    weight_format: str | Format,
    activation_format: str | Format,
    scale_method: str = "mse",
    power_of_two: bool = False,
    input_terms: int = 1,
    plan: ActivationPlan | None = None,
    weight_scales: Mapping[str, np.ndarray] | None = None,
) -> QuantizedGraph:
    """The quantized network: weights per output channel, activations per tensor.

    Parameters
    ----------
    statistics : from `calibrate` on this graph; None if all tensors have quantizers of the file. Those keep their
        scales, and so do weights that the file has quantized; both must be of the two formats (`given.conform`).
    scale_method : "mse" searches the scale of the least squared error, "minmax" covers the range seen,
        "percentile" nearly all of it, "entropy" keeps most of the histogram's information (weights, and tensors with
        few values, as with "mse").
    power_of_two : all scales are powers of two, so that requantization is a shift.
    input_terms : codes that each value of an input is given as, where a Conv reads it and nothing else does; 0 takes
        as many as are needed for the precision of eight bits, at most `MOST_TERMS`
    plan : from `plan_activations`, instead of choosing the same again
    weight_scales : (O,) by Conv: those of weights that lie on the format's grid already

    Raises
    ------
    FormatError
        A format that cannot hold what the network needs of it.
    DataError
        Statistics that lack a tensor; an unknown method.
    """
    options = Options(
        _format(weight_format),
        _format(activation_format),
        scale_method,
        power_of_two,
        weight_scales or {},
    )
    if plan is None:
        plan = plan_activations(
            graph,
            statistics,
            activation_format=activation_format,
            scale_method=scale_method,
            power_of_two=power_of_two,
            input_terms=input_terms,
        )
    quants = plan.quants
    graph.verify()
    steps = fuse(graph)
    raw = raw_outputs(graph, steps)
    names = [p.name for p in graph.inputs] + [s.output for s in steps]
    ops = tuple(_quantized(graph, s, quants, statistics, options, raw) for s in steps)
    warn_of_biases(graph, steps, ops, quants)
    ops = tuple(_repeated(graph, op, plan) for op in ops)
    tensors = {t: Tensor(t, _shape(graph, t, plan), quants[t]) for t in names}
    metadata: dict[str, object] = {
        "weight_format": options.weight_format.name,
        "activation_format": options.activation_format.name,
        "scale_method": scale_method,
        "power_of_two": power_of_two,
        "input_terms": plan.terms,
        "calibration_samples": statistics.samples if statistics else 0,
    }
    qgraph = QuantizedGraph(graph.name, graph.inputs, graph.outputs, ops, tensors, metadata)
    return fold_zero_points(align_residuals(qgraph))


def _format(f: str | Format) -> Format:
    return f if isinstance(f, Format) else parse_format(f)


# -- tensors -----------------------------------------------------------------------------------------------


def _shape(graph: Graph, tensor: str, plan: ActivationPlan) -> tuple[int, int, int]:
    h, w, c = graph.shapes[tensor]
    return h, w, c * plan.terms.get(tensor, 1)


def _repeated(graph: Graph, op: Op, plan: ActivationPlan) -> Op:
    """An op that reads terms has its weights once for each; the network needs no more multiplications for it."""
    if not isinstance(op, Linear) or op.input not in plan.terms:
        return op
    terms, (h, w, _) = plan.terms[op.input], graph.shapes[op.output]
    sums = op.weight_format.fixed(op.weight).reshape(len(op.weight), -1).sum(axis=1)
    zero = plan.quants[op.input].zero_point
    bias = [int(b) - (terms - 1) * zero * int(s) for b, s in zip(op.bias, sums, strict=True)]
    macs = h * w * op.weight.size if op.macs is None else op.macs
    channels = op.channels
    if channels is not None:
        channels = np.concatenate([channels + k * graph.shapes[op.input][2] for k in range(terms)], axis=1)
    weight = np.tile(op.weight, (1, 1, 1, terms))
    return replace(op, weight=weight, channels=channels, bias=_integers(bias), macs=macs)


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


def _table(step: Pass, before: Quant, after: Quant) -> np.ndarray:
    """The code of f(x) for every code of x, (2**bits,); NaN and infinity read as the largest values."""
    fmt = before.format
    fixed = fmt.fixed(np.arange(1 << fmt.bits))  # unlike decode's values, always finite
    x = before.real(fixed * 2.0**fmt.lsb_exponent)
    return after.quantize(table_function(step)(x))


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
                if not sign_of(step, graph):  # which is exact as it is
                    lsb = source.format.lsb_exponent + options.weight_format.lsb_exponent
                    weight, scale = refined(
                        conv, weight, scale, source.scale * 2.0**lsb, options.weight_format
                    )
            else:
                weight, scale = _conv_weight(conv, source, options, zeros)
                if step.input in graph.quantizers and step.requantized in graph.quantizers:
                    weight, scale = _dyadic(conv, weight, scale, options.weight_format)
                if statistics is not None:
                    change = options.weight_format.decode(weight) * scale[:, None, None, None] - conv.weight
                    bias = _corrected_bias(conv, change, statistics.tensors[conv.input].mean)
            macs = 0 if conv.selects else None
            if conv.given is not None and conv.given.again:
                (h, w, _), columns = graph.shapes[conv.output], weight.shape[3]
                macs = h * w * weight.size // columns * (columns - conv.given.again)
            geometry = {
                "stride": conv.stride,
                "dilation": conv.dilation,
                "pads": conv.pads,
                "groups": conv.groups,
                "sparsity": conv.sparsity,
                "channels": conv.channels,
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
        raw_offset=_rest(step.main, unit) if raw else None,
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
    return conv.bias - (change * conv.read_by(mean)[:, None, None, :]).sum(axis=(1, 2, 3))


def check_weights(conv: Conv, fmt: Format) -> np.ndarray:
    """The weights, float64. Raises ModelError if they are not finite, FormatError if the format lacks their sign."""
    weight = np.asarray(conv.weight, np.float64)
    if not (np.isfinite(weight).all() and np.isfinite(conv.bias).all()):
        raise ModelError(f"Conv '{conv.name}': weights or bias hold NaN or infinity; repair the model")
    if fmt.min_fixed == 0 and weight.min(initial=0.0) < 0:
        raise FormatError(
            f"Conv '{conv.name}': its least weight is {weight.min():.6g}, but {fmt.name} has no negative "
            "values; use a signed weight format"
        )
    largest = float(np.abs(weight).max(initial=0.0))
    if largest > most(fmt):
        raise ModelError(
            f"Conv '{conv.name}': its largest weight is {largest:.3g}, and {fmt.name} holds at most {most(fmt):.3g} "
            "with any scale; repair the model"
        )
    return weight


def _conv_weight(conv: Conv, source: Quant, options: Options, zeros: float) -> tuple[np.ndarray, np.ndarray]:
    """Codes (O, KH, KW, I/groups) and scales (O,); `zeros` is added to the bias, of either sign."""
    fmt = options.weight_format
    weight = check_weights(conv, fmt)
    method = "minmax" if options.scale_method in ("minmax", "percentile") else "mse"
    scale = options.weight_scales.get(conv.name)
    if scale is None:
        scale = weight_scales(weight, fmt, method=method, power_of_two=options.power_of_two)
    # A finer weight grid than the bias needs only widens accumulators (dead channels after batch norm).
    largest = max(abs(fmt.min_fixed), fmt.max_fixed) * 2.0**fmt.lsb_exponent
    reach = source.scale * max(abs(source.format.min), source.format.max) * largest * weight[0].size
    floor = (np.abs(conv.bias) + zeros / 16) / reach
    floor = np.exp2(np.ceil(np.log2(np.maximum(floor, 2.0**-120))))
    scale = np.where(np.any(weight != 0, axis=(1, 2, 3)), np.maximum(scale, floor), floor)
    zero = ~np.any(weight != 0, axis=(1, 2, 3)) & (conv.bias == 0)
    scale[zero] = scale[~zero].max(initial=0.0) or 1.0
    return fmt.positive_zero(fmt.encode(weight / scale[:, None, None, None])), scale


def _dyadic(conv: Conv, codes: np.ndarray, scale: np.ndarray, fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of factors, one for each channel: exact where the factor is a code times a power of two, so that
    between two roundings of the file nothing else is rounded. The greatest such code."""
    if conv.weight[0].size > 1 or not isinstance(fmt, Integer):
        return codes, scale
    codes, scale = codes.copy(), scale.copy()
    fraction, exponent = np.frexp(conv.weight.ravel())
    for power in range(fmt.bits):
        value = np.ldexp(fraction, power)
        exact = (value == np.rint(value)) & (value >= fmt.min_fixed) & (value <= fmt.max_fixed) & (value != 0)
        codes[exact] = fmt.from_fixed(value[exact].astype(np.int64)).reshape(-1, 1, 1, 1)
        scale[exact] = np.ldexp(1.0, exponent[exact] - power)
    return codes, scale


def _uniform(
    step: Pass, channels: int, kernel: tuple[int, int], options: Options, fine: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Depthwise weights of one code, scaled to 1 / (KH*KW): the least positive one, or, if accumulators must
    be `fine` because a zero point goes into the bias, the greatest power of two."""
    fmt = options.weight_format
    fixed = fmt.fixed(fmt.codes)
    positive = np.flatnonzero(fixed > 0)
    if not len(positive):
        what = "average pooling" if isinstance(step.main, Pool) else "Add or activation"
        raise FormatError(
            f"{what} '{step.name}': {fmt.name} has no positive value, which it needs as a weight; "
            "use a weight format of at least 2 bits, or uint1"
        )
    powers = positive[(fixed[positive] & (fixed[positive] - 1)) == 0]
    code = powers[np.argmax(fixed[powers])] if fine and len(powers) else positive[np.argmin(fixed[positive])]
    weight = np.full((channels, *kernel, 1), code, fmt.code_dtype)
    value = float(fixed[code]) * 2.0**fmt.lsb_exponent
    return weight, np.full(channels, 1 / (kernel[0] * kernel[1] * value))


def _rest(main: Conv | Pool | None, unit: np.ndarray) -> np.ndarray | None:
    """What whole steps leave of the bias of a file's own weights: at few bits too much to lose."""
    if not isinstance(main, Conv) or main.given is None:
        return None
    rest = np.where(bias_rest(main.bias, unit) > 0, main.bias - np.rint(main.bias / unit) * unit, 0.0)
    return rest if rest.any() else None


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
    return _integers(folded)


def _integers(values: list[int]) -> np.ndarray:
    return np.array(values, object if any(abs(v) >= 1 << 62 for v in values) else np.int64)
