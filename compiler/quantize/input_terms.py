"""Inputs that are more precise than the machine's activations: each value as the sum of several codes.

A machine has one format for all activations, but the first layer of a network usually deserves 8 bits. It gets
them from its weights being used once for each term; where the layer has few channels, the terms fill lanes that
would be idle.
"""

from __future__ import annotations

import numpy as np

from sateen.compiler.quantize.scales import METHODS, Observed, activation_quant, grid, snap
from sateen.errors import DataError
from sateen.formats import Format, Integer
from sateen.ir.quantized import Quant

MOST_TERMS = 4
_SAMPLES = 2048
_ZEROS = 9  # zero points that are tried
_FACTORS = np.exp2(np.linspace(-0.75, 3, 16))  # of the scale that covers the range with all terms
_NOTHING = 1e-100  # a tensor of smaller values is one of zeros
_ENOUGH = 5.0
"""Times the squared error of 8-bit integers: more than 7 bits."""


def split_input(
    seen: Observed, fmt: Format, terms: int, *, method: str = "mse", power_of_two: bool = False
) -> tuple[Quant, int]:
    """Scale and zero point, which all terms share, and the number of terms: `terms`, or for 0 as many as 8 bits need.

    Raises DataError for a number of terms below 0 or above MOST_TERMS.
    """
    if not 0 <= terms <= MOST_TERMS:
        raise DataError(
            f"input terms = {terms}; they must be 1 to {MOST_TERMS}, or 0 for as many as 8 bits need"
        )
    options = {"method": method if method in METHODS else "mse", "power_of_two": power_of_two}
    single = activation_quant(seen, fmt, **options)  # type: ignore[arg-type]
    if terms == 1 or (terms == 0 and fmt.bits >= 8 and fmt.uniform):
        return single, 1
    x = seen.samples
    if len(x) > _SAMPLES:
        x = np.sort(x)[np.linspace(0, len(x) - 1, _SAMPLES).round().astype(int)]
    x = x[:, None]
    if terms:
        return _search(seen, x, fmt, terms, power_of_two)[0], terms
    eight = activation_quant(seen, Integer(8), **options)  # type: ignore[arg-type]
    enough = _ENOUGH * _error(x, eight, 1)
    best, count, least = single, 1, _error(x, single, 1)
    while least > enough and count < MOST_TERMS:
        quant, error = _search(seen, x, fmt, count + 1, power_of_two)
        if error >= least:
            break
        best, count, least = quant, count + 1, error
    return best, count


def _search(
    seen: Observed, x: np.ndarray, fmt: Format, terms: int, power_of_two: bool
) -> tuple[Quant, float]:
    low, high = min(seen.minimum, 0.0), max(seen.maximum, 0.0)
    if not max(-low, high) > _NOTHING:
        high = 1.0
    values = np.rint(grid(fmt) * 2.0**-fmt.lsb_exponent).astype(np.int64)
    zeros = {int(values[i]) for i in np.linspace(0, len(values) - 1, _ZEROS).round().astype(int)} | {0}
    ordered = sorted(zeros, key=abs)
    bases = [_covering(low, high, fmt, zero * 2.0**fmt.lsb_exponent) for zero in ordered]
    if not any(0 < base < np.inf for base in bases):  # formats of one bit: either sign, but not both
        bases = [_covering(low, high, fmt, zero * 2.0**fmt.lsb_exponent, one_sign=True) for zero in ordered]
    found: tuple[float, Quant] | None = None
    for zero, base in zip(ordered, bases, strict=True):
        if not 0 < base < np.inf:
            continue
        factors = np.exp2(np.arange(-1.0, 4.0)) if power_of_two else _FACTORS
        for scale in snap(base / terms * factors, power_of_two):
            quant = Quant(fmt, float(scale), zero)
            error = _error(x, quant, terms)
            if found is None or error < found[0]:
                found = error, quant
    assert found is not None  # every format has two values, so there is a zero point for either sign
    return found[1], found[0]


def _covering(low: float, high: float, fmt: Format, offset: float, one_sign: bool = False) -> float:
    """The least scale that reaches from low to high; infinite if none does, unless `one_sign` is enough."""
    needed = []
    for reach, room in ((-low, offset - fmt.min), (high, fmt.max - offset)):
        if room or not reach:
            needed.append(reach / room if room else 0.0)
        elif not one_sign:
            needed.append(np.inf)
    return max(needed)


def _error(x: np.ndarray, quant: Quant, terms: int) -> float:
    codes = quant.quantize_terms(x, terms)
    return float(np.mean((quant.dequantize(codes).sum(axis=-1) - x[:, 0]) ** 2))
