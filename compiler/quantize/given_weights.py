"""Weights and biases of files that are quantized already: codes, and what biases lose as whole steps of the sum."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from sateen.compiler.quantize.signs import sign_of
from sateen.errors import FormatError, ModelError
from sateen.formats import Format
from sateen.ir.fused import FusedGraph, FusedLayer
from sateen.ir.nodes import Conv
from sateen.ir.quant import Quant
from sateen.ir.quantized import Linear, Op

_logger = logging.getLogger("sateen")

COARSE = 0.01
"""Steps of an output, that a bias may lose silently."""
FINE = 0.001
"""What wider weights, once there have to be any, bring that down to."""


def given_codes(conv: Conv, fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """Codes (O, KH, KW, I/groups) and positive scales (O,) of weights that the file has quantized.

    Raises FormatError if `fmt` lacks one of the values, ModelError if a weight is no multiple of its scale any more.
    """
    assert conv.given is not None
    scale = np.abs(conv.given.scale)
    used = np.any(conv.weight != 0, axis=(1, 2, 3))
    scale = np.where(scale > 0, scale, scale[used].max(initial=0.0) or 1.0)
    exact = conv.weight / scale[:, None, None, None] * 2.0**-fmt.lsb_exponent
    fixed = np.rint(exact)
    if (np.abs(exact - fixed) > 1e-6 * np.maximum(1.0, np.abs(fixed))).any():
        file_lsb = conv.given.format.lsb_exponent
        if file_lsb >= fmt.lsb_exponent:
            raise ModelError(
                f"Conv '{conv.name}': its weights are no longer multiples of the scales that the file gives; "
                "use --sparsity dense, or prune before quantizing"
            )
    codes = fmt.from_fixed(fixed.astype(np.int64))
    lost = (fmt.fixed(codes) != fixed) | (np.abs(exact - fixed) > 1e-6 * np.maximum(1.0, np.abs(fixed)))
    if lost.any():
        at = tuple(int(i) for i in np.argwhere(lost)[0])
        value = exact[at] * 2.0**fmt.lsb_exponent
        raise FormatError(
            f"Conv '{conv.name}': a weight is {value:g} times its scale ({conv.given.format.name} in the file), which "
            f"{fmt.name} does not have; use --weights {conv.given.format.name}, or a wider format"
        )
    off = scale < TURNED_OFF * scale.max()  # else the bias would be more steps than accumulators have
    codes[off] = fmt.from_fixed(np.zeros(1, np.int64))[0]
    return fmt.positive_zero(codes), np.where(off, scale.max(), scale)


TURNED_OFF = 2.0**-40
"""A channel's scale over the largest, where a batch normalization has made the channel a constant: its weights are
taken for zero."""


def refined(
    conv: Conv, codes: np.ndarray, scale: np.ndarray, step: float, fmt: Format
) -> tuple[np.ndarray, np.ndarray]:
    """Codes times a power of two, scales divided by it, where a bias is no whole number of steps of the sum.

    A bias becomes a whole number, so finer steps keep more of one that the file has not quantized. `step` times a
    scale is one step of the sum. The greatest power of two that the format has room for.
    """
    codes, scale = codes.copy(), scale.copy()
    for o in np.flatnonzero(bias_rest(conv.bias, step * scale)):
        fixed = fmt.fixed(codes[o])
        for power in range(fmt.fixed_bits, 0, -1):
            finer = fmt.from_fixed(fixed << power)
            if (fmt.fixed(finer) == fixed << power).all():
                codes[o], scale[o] = finer, scale[o] / (1 << power)
                break
    return codes, scale


def bias_rest(bias: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """What rounding a bias to whole units loses, in units; 0 if that is float32's noise."""
    exact = bias / unit
    rest = np.abs(exact - np.rint(exact))
    return np.where(rest > np.maximum(1e-3, 2e-7 * np.abs(exact)), rest, 0.0)


def room_for_biases(network: FusedGraph, fmt: Format) -> Format:
    """The format of weights: the file's, or the first wider one that gives biases fine enough steps of the sum."""
    if not fmt.uniform:
        return fmt
    first, where = _worst_bias(network, fmt)
    lost, wide = first, fmt
    for wider in fmt.wider() if first > COARSE else ():
        if lost <= FINE:
            break
        wide = wider
        lost, _ = _worst_bias(network, wide)
    if wide is not fmt:
        _logger.warning(
            "weights are %s: at the file's %s the bias of Conv '%s' would shift its output by up to %.2g of its "
            "steps; --weights %s makes the machine smaller",
            wide.name, fmt.name, where, first, fmt.name,
        )  # fmt: skip
    return wide


def _worst_bias(network: FusedGraph, fmt: Format) -> tuple[float, str]:
    """The most that a bias of a Conv whose weights are in `fmt` loses, in steps of its output; and that Conv's name."""
    worst, where = 0.0, ""
    for layer in network.layers:
        conv = layer.main
        if not isinstance(conv, Conv) or conv.given is None or sign_of(layer, network):
            continue
        source, target = (network.graph.quantizers.get(t) for t in (layer.input, layer.requantized))
        if source is None or target is None:  # to be calibrated, or read by the host
            continue
        codes, scale = given_codes(conv, fmt)
        lsb = source.quant.format.lsb_exponent + fmt.lsb_exponent
        _, scale = refined(conv, codes, scale, source.quant.scale * 2.0**lsb, fmt)
        if (lost := _lost(conv, scale, source.quant, target.quant, fmt)) > worst:
            worst, where = lost, conv.name
    return worst, where


def _lost(conv: Conv, scale: np.ndarray, source: Quant, target: Quant, fmt: Format) -> float:
    """The most that a bias loses by becoming whole steps of the sum, in steps of the output."""
    unit = scale * source.scale * 2.0 ** (source.format.lsb_exponent + fmt.lsb_exponent)
    lost = bias_rest(conv.bias, unit) * unit
    return float(lost.max(initial=0.0)) / (target.scale * 2.0**target.format.lsb_exponent)


def warn_of_biases(network: FusedGraph, ops: tuple[Op, ...], quants: Mapping[str, Quant]) -> None:
    """Say which layer's bias, of those with the file's weights, loses most by becoming whole steps of the sum."""
    worst, where = COARSE, ""
    for node, op in zip(network.nodes, ops, strict=True):
        conv = node.main if isinstance(node, FusedLayer) else None
        known = isinstance(op, Linear) and not op.raw and op.weight.scale is not None
        if not (isinstance(conv, Conv) and conv.given and known) or sign_of(node, network):
            continue
        assert isinstance(op, Linear) and op.weight.scale is not None
        lost = _lost(conv, op.weight.scale, quants[node.inputs[0]], op.requantized, op.weight.format)
        if lost > worst:
            worst, where = lost, conv.name
    if where:
        _logger.warning(
            "biases become whole steps of the sum, which shifts the output of Conv '%s' by up to %.2g of its steps: "
            "codes may differ from the file's next to a tie; --weights with more bits has finer steps",
            where,
            worst,
        )
