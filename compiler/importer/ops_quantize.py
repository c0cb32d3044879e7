"""Quantizers of files that are quantized already: QuantizeLinear and DequantizeLinear, and those of QONNX.

On a computed tensor a quantizer becomes a `Quantize` node, on a constant the constant's values and where they
come from (`Walk.given`), so that a convolution can keep its scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from sateen.compiler.importer import limits
from sateen.compiler.importer.nouns import GivenConstant, OnnxNode, Unsupported, Value, axis_in
from sateen.compiler.importer.walk import Walk
from sateen.errors import FormatError
from sateen.formats import Format, Integer, Minifloat, parse_format
from sateen.ir.nodes import Activation, Quantize
from sateen.ir.quant import PRECISIONS, GivenWeights, Quant, Quantizer

_TYPES = {
    **{name: name for name in ("int2", "uint2", "int4", "uint4", "int8", "uint8")},
    "float8_e4m3fn": "e4m3fn",
    "float8_e5m2": "e5m2",
    "float4_e2m1fn": "e2m1",
}
"""NumPy's names of ONNX's types, and ours."""

_REMEDY = "quantize it otherwise, or give the floating-point model"
_ROUND = ("ROUND", "HALF_EVEN")
SIGN = Integer(2, narrow=True)
"""Holds -1 and 1, and the zero that padding needs."""


# -- what a quantizer says ---------------------------------------------------------------------------


def zeros(walk: Walk, node: OnnxNode, i: int = 2) -> np.ndarray | None:
    """Constant input i, of any of the types of codes, as float64."""
    array = walk.constant(node, i)
    return None if array is None else array.astype(np.float64)


def one(walk: Walk, node: OnnxNode, i: int, what: str) -> float:
    """Constant input i, the same number for all elements."""
    array = zeros(walk, node, i)
    if array is None or array.size == 0 or (array != array.flat[0]).any():
        sizes = "missing" if array is None else f"of shape {array.shape}"
        raise Unsupported(
            f"its {what} is {sizes}, but the machine has one for each computed tensor",
            "quantize activations per tensor",
            limits.PER_TENSOR,
        )
    return float(array.flat[0])


def _precision(walk: Walk, node: OnnxNode) -> str:
    """The type in which QuantizeLinear divides: that of its scale, unless it says otherwise."""
    scale = walk.constant(node, 1)
    stated = node.integer("precision", 0)
    kind = (
        onnx.helper.tensor_dtype_to_np_dtype(stated) if stated else scale.dtype if scale is not None else None
    )
    return kind.name if kind is not None and kind.name in PRECISIONS else "float32"


def _qonnx_precision(walk: Walk, node: OnnxNode) -> str:
    """As the qonnx package computes: in NumPy, of float32 tensors."""
    scale = walk.constant(node, 1)
    return "float64" if scale is not None and scale.dtype == np.float64 else "float32"


def whole(walk: Walk, node: OnnxNode, i: int, what: str) -> int:
    number = one(walk, node, i, what)
    if number != int(number):
        raise Unsupported(f"its {what} is {number:g}", "it must be an integer")
    return int(number)


def positive(scale: float) -> float:
    if not scale > 0:
        raise Unsupported(f"its scale is {scale:g}", "scales must be positive")
    return scale


def onnx_format(dtype: np.dtype) -> Format:
    if dtype.name not in _TYPES:
        raise Unsupported(
            f"its type is {dtype.name}",
            f"use {', '.join(_TYPES)}: other types have no format here",
            limits.TYPES,
        )
    return parse_format(_TYPES[dtype.name])


def emit(walk: Walk, node: OnnxNode, x: Value, quantizer: Quantizer) -> Value:
    quant = quantizer.quant
    if not quantizer.low <= quant.zero_point <= quantizer.high:
        raise Unsupported(
            f"its zero point {quant.zero_point} is outside {quantizer.low} to {quantizer.high}, so that zero is "
            "no value",
            "export the model again",
        )
    if x.host:
        return Value(x.tensor, x.layout, (*x.host, ("round", quantizer)))
    if walk.is_open(x):
        return x
    out = walk.fresh(node.proto.output[0])
    walk.emit(Quantize(node.name, x.tensor, out, quantizer), walk.hwc(x))
    walk.quantizers[out] = quantizer
    return Value(out, x.layout)


# -- ONNX --------------------------------------------------------------------------------------------------


def _zero(walk: Walk, node: OnnxNode) -> tuple[np.dtype, np.ndarray]:
    """The type of the codes and the zero points; of QuantizeLinear."""
    zero = walk.constant(node, 2)
    if zero is not None:
        return zero.dtype, zero.astype(np.float64)
    kind = node.integer("output_dtype", 0) or onnx.TensorProto.UINT8
    return onnx.helper.tensor_dtype_to_np_dtype(kind), np.zeros(1)


def quantize_linear(walk: Walk, node: OnnxNode) -> Sequence[Value | np.ndarray]:
    x = walk.values[node.input(0)]
    if isinstance(x, np.ndarray):
        return walk.fold(node, {i: walk.values[i] for i in node.inputs if i})
    walk.codes.add(node.proto.output[0])  # codes, though they be refused
    dtype, zero = _zero(walk, node)
    fmt = onnx_format(dtype)
    scale = positive(one(walk, node, 1, "scale"))
    if zero.size == 0 or (zero != zero.flat[0]).any():
        raise Unsupported("it has several zero points", "quantize activations per tensor", limits.PER_TENSOR)
    if not fmt.uniform and (zero.any() or not node.integer("saturate", 1)):
        raise Unsupported(
            "its zero point is not 0" if zero.any() else "saturate = 0 gives NaN or infinity",
            "use zero point 0 and saturate = 1 with floating-point types",
        )
    quant = Quant(fmt, scale, int(zero.flat[0]), _precision(walk, node))
    walk.quants[node.proto.output[0]] = quant
    return [emit(walk, node, walk.value(node), Quantizer.whole(quant))]


def dequantize_linear(walk: Walk, node: OnnxNode) -> Sequence[Value | np.ndarray]:
    x = walk.values[node.input(0)]
    if isinstance(x, np.ndarray):
        return [_dequantized(walk, node, x)]
    value = walk.value(node)
    if node.input(0) not in walk.codes:
        raise Unsupported(
            "no QuantizeLinear wrote its input", "give the model floating-point inputs, quantized inside"
        )
    scale = one(walk, node, 1, "scale")
    zero = 0.0 if walk.constant(node, 2) is None else one(walk, node, 2, "zero point")
    last = value.host[-1][1] if value.host else walk.quantizers.get(value.tensor)
    if isinstance(last, Quantizer):
        quant = last.quant
        if (quant.scale, quant.zero_point) != (scale, zero):
            raise Unsupported(
                f"scale {scale:g} and zero point {zero:g} are not those of the QuantizeLinear before it "
                f"({quant.scale:g}, {quant.zero_point})",
                "use the same ones, and a Mul if a factor is meant",
            )
    return [value]


def clip_codes(walk: Walk, node: OnnxNode, x: Value, low: float, high: float) -> Value:
    """A Clip between QuantizeLinear and DequantizeLinear: how fewer than 8 bits are written in ONNX's older types."""
    if walk.is_open(x):
        return x
    given = walk.quantizers[x.tensor]
    unit = 2.0**given.quant.format.lsb_exponent
    bounds = (int(min(max(b, -(2.0**62)), 2.0**62) / unit) for b in (np.ceil(low), np.floor(high)))
    first, last = (min(max(b, given.low), given.high) for b in bounds)
    return emit(walk, node, x, Quantizer(given.quant, first, last))


def _dequantized(walk: Walk, node: OnnxNode, codes: np.ndarray) -> np.ndarray:
    scale, zero = walk.weights(node, 1), zeros(walk, node)
    if scale is None:
        raise Unsupported("it has no scale", "export the model again")
    if node.integer("block_size", 0):
        raise Unsupported(
            "its scales are per block along the sum",
            "use one scale for each output channel: the array adds up a channel before it is scaled",
            limits.PER_OUTPUT,
        )
    axis = 0  # of one scale it means nothing
    if scale.size > 1 or (zero is not None and zero.size > 1):
        axis = axis_in(node.integer("axis", 1), codes.ndim)

    def spread(a: np.ndarray) -> np.ndarray:
        if a.size == 1:
            return np.broadcast_to(a.reshape(()), codes.shape)
        if a.size != codes.shape[axis]:
            raise Unsupported(
                f"it has {a.size} scales or zero points for the {codes.shape[axis]} of dimension {axis}",
                "give one, or one for each",
            )
        return np.broadcast_to(a.reshape([-1 if d == axis else 1 for d in range(codes.ndim)]), codes.shape)

    integers = codes.astype(np.float64) - (0.0 if zero is None else spread(zero))
    fmt: Format | None = None
    why = f"its type is {codes.dtype.name}"
    if codes.dtype.name in _TYPES:
        fmt = onnx_format(codes.dtype)
    limits_ = _clip_limits(walk, node.input(0))
    if fmt is not None and fmt.uniform and limits_ is not None:
        zeros_ = np.zeros(1) if zero is None else zero
        fmt = _integer(np.array([limits_[0] - zeros_.max(), limits_[1] - zeros_.min()])) or fmt
    return _given(walk, node, fmt, integers, spread(scale), why)


def _clip_limits(walk: Walk, name: str) -> tuple[float, float] | None:
    """Those of the Clip that wrote a constant, if one did."""
    clip = next((n for n in walk.model.graph.node if n.op_type == "Clip" and name in n.output), None)
    if clip is None or len(clip.input) != 3:
        return None
    low, high = (walk.values.get(i) for i in clip.input[1:])
    return (
        (float(low.min()), float(high.max()))
        if isinstance(low, np.ndarray) and isinstance(high, np.ndarray)
        else None
    )


def _given(
    walk: Walk, node: OnnxNode, fmt: Format | None, values: np.ndarray, scale: np.ndarray, why: str
) -> np.ndarray:
    """Register `values * scale`, a constant, with values in units of 1."""
    fixed = values * 2.0 ** -(fmt.lsb_exponent if fmt else 0)
    inside = fmt is None or not fixed.size or fmt.min_fixed <= fixed.min() <= fixed.max() <= fmt.max_fixed
    if fmt is not None and fmt.uniform and not inside:
        fmt = _integer(fixed) or Integer(8)  # which `split_wide` sees to
    scale = np.broadcast_to(scale, fixed.shape)
    walk.given[node.proto.output[0]] = GivenConstant(fmt, fixed, scale, why)
    return np.asarray(values * scale)


def _integer(fixed: np.ndarray) -> Integer | None:
    """The narrowest signed integers, of at most 8 bits, that hold all."""
    found = (Integer(b, narrow=narrow) for b in range(1, 9) for narrow in (True, False)[b < 2 :])
    return next((f for f in found if f.min_fixed <= fixed.min() and fixed.max() <= f.max_fixed), None)


# -- QONNX ---------------------------------------------------------------------------------------------------


def int_quant(walk: Walk, node: OnnxNode) -> Sequence[Value | np.ndarray]:
    bits = whole(walk, node, 3, "bit width")
    signed, narrow = bool(node.integer("signed", 1)), bool(node.integer("narrow", 0))
    mode = node.text("rounding_mode", "ROUND").upper()
    if bits == 1 and signed:  # as the qonnx package runs it: -1 and 1
        zero = walk.weights(node, 2)
        if zero is not None and zero.any():
            raise Unsupported("a zero point of a signed bit", "use BipolarQuant")
        return bipolar_quant(walk, node)
    if not 1 <= bits <= 32:
        raise Unsupported(f"its bit width is {bits}", "use 1 to 8 bits", limits.EIGHT_BITS)
    low = (narrow - (1 << bits - 1)) if signed else 0
    high = (1 << bits - signed) - 1 - (narrow and not signed)
    if isinstance(walk.values[node.input(0)], np.ndarray):
        return [_int_constant(walk, node, bits, signed, (low, high), mode)]
    _rounding(mode)
    if bits > 8 or high <= low:
        raise Unsupported(f"{bits} bits, {low} to {high}", "activations have 1 to 8 bits", limits.EIGHT_BITS)
    scale, zero_point = one(walk, node, 1, "scale"), whole(walk, node, 2, "zero point")
    if scale < 0:  # x / -s rounds as -(x / s) does
        low, high, zero_point, scale, signed = -high, -low, -zero_point, -scale, True
    added = zero_point
    fmt = Integer(bits, signed, narrow and signed)
    if low < fmt.min_fixed:  # -(2**bits - 1) to 0
        shift = fmt.min_fixed - low
        low, high, zero_point = low + shift, high + shift, zero_point + shift
    quant = Quant(fmt, positive(scale), zero_point, _qonnx_precision(walk, node), added)
    return [emit(walk, node, walk.value(node), Quantizer(quant, low, high))]


def _rounding(mode: str) -> None:
    if mode not in _ROUND:
        raise Unsupported(
            f"rounding_mode {mode}: the machine rounds to nearest, ties to even", "use ROUND", limits.NEAREST
        )


_MODES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **dict.fromkeys(_ROUND, np.rint),
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}
"""Ref: qonnx.custom_op.general.intquant.resolve_rounding_mode. Constants are rounded here, in any of them."""


def _int_constant(
    walk: Walk, node: OnnxNode, bits: int, signed: bool, limits_: tuple[int, int], mode: str
) -> np.ndarray:
    x, scale, zero = (walk.weights(node, i) for i in range(3))
    if x is None or scale is None or mode not in _MODES:
        raise Unsupported(f"rounding_mode {mode} or its inputs are unknown", "export the model again")
    zero = np.zeros(()) if zero is None else zero
    # as float32, in which the file was made: a quotient next to a tie must round as it did there
    y = (x.astype(np.float32) / scale.astype(np.float32)).astype(np.float64) + zero
    values = _MODES[mode](np.clip(y, *limits_)) - zero
    narrow = signed and limits_[0] > -(1 << bits - 1)
    fmt = Integer(bits, signed, narrow) if bits <= 8 and limits_[1] > limits_[0] else None
    return _given(walk, node, fmt, values, scale, f"it has {bits} bits")


def bipolar_quant(walk: Walk, node: OnnxNode) -> Sequence[Value | np.ndarray]:
    """x >= 0 gives scale, else -scale."""
    x = walk.values[node.input(0)]
    if isinstance(x, np.ndarray):
        scale = walk.weights(node, 1)
        if scale is None:
            raise Unsupported("it has no scale", "export the model again")
        return [_given(walk, node, SIGN, np.where(x >= 0, 1.0, -1.0), scale, "")]
    quant = Quant(SIGN, positive(one(walk, node, 1, "scale")), precision=_qonnx_precision(walk, node))
    value = walk.value(node)
    if value.host:
        raise Unsupported("it takes the sign of what the host computes", "remove it")
    if walk.is_open(value):
        return [value]
    out = walk.fresh(f"{node.proto.output[0]}_sign")
    walk.emit(
        Activation(f"{node.name}.sign", value.tensor, out, "bipolar", (("scale", quant.scale),)),
        walk.hwc(value),
    )
    return [emit(walk, node, Value(out, value.layout, value.host), Quantizer.whole(quant))]


def float_quant(walk: Walk, node: OnnxNode) -> Sequence[Value | np.ndarray]:
    _rounding(node.text("rounding_mode", "ROUND").upper())
    if not node.integer("saturation", 1):
        raise Unsupported("saturation = 0 gives NaN or infinity", "use saturation = 1")
    e, m = whole(walk, node, 2, "exponent width"), whole(walk, node, 3, "mantissa width")
    bias = whole(walk, node, 4, "exponent bias") if node.input(4) else 0
    limit = one(walk, node, 5, "greatest value") if node.input(5) else np.inf
    try:
        fmt = Minifloat(e, m, bias or None)  # a bias of 0 means the usual one, as the qonnx package has it
        if (fmt.name, limit) == ("e4m3", 448.0):
            fmt = Minifloat(4, 3, 7, "fn")
    except FormatError as error:
        raise Unsupported(str(error), _REMEDY, limits.EIGHT_BITS) from None
    assert fmt.bias is not None
    plain = (2 - 2.0**-m) * 2.0 ** ((1 << e) - 1 - fmt.bias)  # without codes for NaN and infinity
    limit = min(limit, plain)
    high = limit * 2.0**-fmt.lsb_exponent
    if limit > fmt.max or fmt.fixed(fmt.encode(np.array([limit])))[0] != high:
        raise Unsupported(
            f"its greatest value is {limit:g}, which {fmt.name} does not have",
            f"use a max_val that is a value of the format, at most {fmt.max:g}",
        )
    if isinstance(walk.values[node.input(0)], np.ndarray):
        x, scale = walk.weights(node, 0), walk.weights(node, 1)
        assert x is not None
        if scale is None:
            raise Unsupported("it has no scale", "export the model again")
        quotient = (x.astype(np.float32) / scale.astype(np.float32)).astype(
            np.float64
        )  # as in `_int_constant`
        values = _rounded(quotient, m, fmt.bias)
        return [_given(walk, node, fmt, np.clip(values, -limit, limit), scale, "")]
    quant = Quant(fmt, positive(one(walk, node, 1, "scale")), precision=_qonnx_precision(walk, node))
    return [emit(walk, node, walk.value(node), Quantizer(quant, -int(high), int(high)))]


def _rounded(x: np.ndarray, mantissa_bits: int, bias: int) -> np.ndarray:
    """To the grid of a minifloat without limit, as QONNX defines it."""
    exponent = np.frexp(np.abs(x))[1] - 1.0
    step = np.exp2(np.maximum(exponent - mantissa_bits, 1.0 - bias - mantissa_bits))
    return np.rint(x / step) * step


# -- what a convolution reads --------------------------------------------------------------------------


def given_weights(
    walk: Walk, node: OnnxNode, i: int, output: int, factor: float = 1.0
) -> GivenWeights | None:
    """The scales of constant input i, whose axis `output` is that of the output channels; None: not quantized.

    Raises Unsupported if they differ within an output channel, or if the format is none of ours.
    """
    given = walk.given.get(node.input(i))
    if given is None:
        return None
    if given.format is None:
        raise Unsupported(
            f"its weights '{node.input(i)}' do not fit 8 bits ({given.why})",
            "use weights of 1 to 8 bits with zero point 0",
            limits.EIGHT_BITS,
        )
    scale = given.scale if given.scale.ndim else given.scale.reshape(1)
    rows = np.moveaxis(scale, output, 0).reshape(scale.shape[output], -1)
    if (rows != rows[:, :1]).any():
        raise Unsupported(
            f"the scales of its weights '{node.input(i)}' differ within an output channel",
            "use one scale for each output channel: the array adds up a channel before it is scaled",
            limits.PER_OUTPUT,
        )
    return GivenWeights(given.format, rows[:, 0] * factor)
