"""Weights of one layer as codes and scales, one scale for each output channel."""

from __future__ import annotations

import numpy as np

from sateen.compiler.quantize.options import Options
from sateen.compiler.quantize.scales import most, weight_scales
from sateen.errors import FormatError, ModelError
from sateen.formats import Format
from sateen.ir.fused import FusedLayer
from sateen.ir.nodes import Conv, Pool
from sateen.ir.quantized import Quant


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


def conv_weight(
    conv: Conv, source: Quant, options: Options, zeros: float, scale: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Codes (O, KH, KW, I/groups) and scales (O,), those of weights on the grid if given; `zeros` is added to the
    bias, of either sign."""
    fmt = options.weight_format
    weight = check_weights(conv, fmt)
    method = "minmax" if options.scale_method in ("minmax", "percentile") else "mse"
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


def corrected_bias(conv: Conv, change: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
    """The bias, less what the `change` of the weights by rounding adds to each output channel's mean.

    `mean` is that of each input channel (I,). Ref: Nagel et al., arXiv 1906.04721, section 4.2.
    """
    if mean is None:
        return conv.bias
    return conv.bias - (change * conv.read_by(mean)[:, None, None, :]).sum(axis=(1, 2, 3))


def dyadic(conv: Conv, codes: np.ndarray, scale: np.ndarray, fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of factors, one for each channel: exact where the factor is a code times a power of two, so that
    between two roundings of the file nothing else is rounded. The greatest such code."""
    if conv.weight[0].size > 1 or not fmt.uniform:
        return codes, scale
    codes, scale = codes.copy(), scale.copy()
    fraction, exponent = np.frexp(conv.weight.ravel())
    for power in range(fmt.bits):
        value = np.ldexp(fraction, power)
        exact = (value == np.rint(value)) & (value >= fmt.min_fixed) & (value <= fmt.max_fixed) & (value != 0)
        codes[exact] = fmt.from_fixed(value[exact].astype(np.int64)).reshape(-1, 1, 1, 1)
        scale[exact] = np.ldexp(1.0, exponent[exact] - power)
    return codes, scale


def uniform_weight(
    layer: FusedLayer, channels: int, kernel: tuple[int, int], options: Options, fine: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Depthwise weights of one code, scaled to 1 / (KH*KW): the least positive one, or, if accumulators must
    be `fine` because a zero point goes into the bias, the greatest power of two."""
    fmt = options.weight_format
    fixed = fmt.fixed(fmt.codes)
    positive = np.flatnonzero(fixed > 0)
    if not len(positive):
        what = "average pooling" if isinstance(layer.main, Pool) else "Add or activation"
        raise FormatError(
            f"{what} '{layer.name}': {fmt.name} has no positive value, which it needs as a weight; "
            "use a weight format of at least 2 bits, or uint1"
        )
    powers = positive[(fixed[positive] & (fixed[positive] - 1)) == 0]
    code = powers[np.argmax(fixed[powers])] if fine and len(powers) else positive[np.argmin(fixed[positive])]
    weight = np.full((channels, *kernel, 1), code, fmt.code_dtype)
    value = float(fixed[code]) * 2.0**fmt.lsb_exponent
    return weight, np.full(channels, 1 / (kernel[0] * kernel[1] * value))
