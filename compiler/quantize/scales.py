"""Scale search: which scale (and zero point) rounds given samples with the least squared error.

The samples are sorted once; sums over the samples that fall into each cell of a candidate's grid then come
from prefix sums, so a candidate costs one binary search per grid value, however many samples there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sateen.compiler.quantize.calibrate import LARGEST
from sateen.errors import DataError
from sateen.formats import Format
from sateen.ir.quantized import (
    Quant,
)
from sateen.ir.sums import MULTIPLIER_BITS, MULTIPLIER_MAX, SHIFT_MAX

METHODS = ("mse", "minmax", "percentile", "entropy")
PERCENTILE = 99.95
"""Of the samples that the method "percentile" keeps, at either end half of the rest is cut."""

_TINY, _HUGE = 2.0**-100, 2.0**120
"""Of a scale, which files hold as float32."""
_FACTORS = np.exp2(np.linspace(-4, 0.5, 55))  # of the min-max scale
_WEIGHT_FACTORS = np.exp2(np.linspace(-3.5, 0.25, 31))
_CLIPS = np.linspace(0.1, 1.0, 46)  # of either end of the range, for uniform formats
_COARSE_FACTORS = np.exp2(np.linspace(-3, 0.25, 14))
_SHIFTS = 17  # zero points of a format with unlike steps that are tried before their neighbours
_BINS = 2048  # of the histogram that entropy calibration looks at
_ENTROPY_SAMPLES = 2 * _BINS  # of fewer values the histogram says nothing: "entropy" is then "mse"
_OCTAVES = 5  # powers of two below the min-max scale


class Samples:
    """Sorted samples x, and what they stand for: y = function(x), the identity by default."""

    def __init__(self, x: np.ndarray, function: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        self.x = np.sort(np.asarray(x, np.float64).reshape(-1))
        self.function = function
        self.y = self.x if function is None else function(self.x)
        self._sum = np.concatenate([[0.0], np.cumsum(self.y)])
        self._square = float(np.dot(self.y, self.y))

    def divergences(self, grids: np.ndarray) -> np.ndarray:
        """Kullback-Leibler divergence of the samples' histogram from what each grid (candidates, values) leaves of it.

        A cell of the grid spreads its samples evenly over those of its bins that are not empty; what is clipped
        counts at the ends. Ref: Migacz, 8-bit Inference with TensorRT, GTC 2017.
        """
        counts, edges = np.histogram(self.x, _BINS)
        middle = (edges[1:] + edges[:-1]) / 2
        used = counts > 0
        p, middle = counts[used] / counts.sum(), middle[used]
        found = np.empty(len(grids))
        for i, values in enumerate(grids):
            inside = (middle >= values[0]) & (middle <= values[-1])
            if not inside.any():
                found[i] = np.inf
                continue
            first, last = np.flatnonzero(inside)[[0, -1]]
            clipped = p[first : last + 1].copy()  # the reference has the outliers in its last bins
            clipped[0] += p[:first].sum()
            clipped[-1] += p[last + 1 :].sum()
            cell = np.searchsorted((values[1:] + values[:-1]) / 2, middle[first : last + 1])
            mass = np.bincount(cell, p[first : last + 1])  # the candidate lacks them
            q = (mass / np.maximum(np.bincount(cell), 1))[cell]
            found[i] = float(np.sum(clipped * np.log(clipped / (q / q.sum()))))
        return found

    def errors(self, grids: np.ndarray) -> np.ndarray:
        """Sum of squared errors for each grid: (candidates, values), values ascending, saturating."""
        grids = np.atleast_2d(grids)
        middle = (grids[:, 1:] + grids[:, :-1]) / 2
        cut = np.searchsorted(self.x, middle.reshape(-1)).reshape(middle.shape)
        edge = np.zeros((len(grids), 1), np.int64)
        cut = np.concatenate([edge, cut, edge + len(self.x)], axis=1)
        n, s = np.diff(cut, axis=1), np.diff(self._sum[cut], axis=1)
        values = grids if self.function is None else self.function(grids)
        return self._square + (values * values * n - 2 * values * s).sum(axis=1)


def grid(fmt: Format) -> np.ndarray:
    """The format's values, ascending, each once (finite ones)."""
    values = np.unique(fmt.fixed(fmt.codes))
    values = values[(values >= fmt.min_fixed) & (values <= fmt.max_fixed)]
    return values * 2.0**fmt.lsb_exponent


def snap(scales: np.ndarray, power_of_two: bool) -> np.ndarray:
    """Scales as float32 numbers, or the powers of two not below them."""
    scales = np.clip(scales, _TINY, _HUGE)
    if power_of_two:
        return np.unique(np.exp2(np.ceil(np.log2(scales) - 1e-9)))
    return scales.astype(np.float32).astype(np.float64)


def most(fmt: Format) -> float:
    """The largest magnitude that the format can stand for with any scale there is: little with an odd bias alone."""
    return min(LARGEST, _HUGE * max(fmt.max, -fmt.min))


def covering_scale(low: float, high: float, fmt: Format) -> float:
    """The least scale that, with zero point 0, represents [low, high] where the format has that sign."""
    needed = [0.0]
    if high > 0 and fmt.max > 0:
        needed.append(high / fmt.max)
    if low < 0 and fmt.min < 0:
        needed.append(low / fmt.min)
    return max(needed)


# -- activations -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Observed:
    """What calibration saw of a tensor, or of several that share one scale."""

    name: str
    minimum: float
    maximum: float
    samples: np.ndarray


def activation_quant(
    seen: Observed,
    fmt: Format,
    *,
    method: str = "mse",
    power_of_two: bool = False,
    function: Callable[[np.ndarray], np.ndarray] | None = None,
    centered: bool = False,
    highest: int | None = None,
) -> Quant:
    """The scale and zero point of a tensor, which is 0 if it must be `centered`. `function` is applied after rounding:
    its error is what counts. Values of more than `highest` steps count as that many, which a
    `centered` tensor alone may have.

    A tensor that was zero throughout gets the scale that makes 1 representable.
    """
    if method not in METHODS:
        raise DataError(f"scale method '{method}' is unknown; it must be {', '.join(METHODS)}")
    low, high = min(seen.minimum, 0.0), max(seen.maximum, 0.0)
    if low == high == 0.0:
        low, high = (0.0, 1.0) if fmt.max > 0 else (-1.0, 0.0)
    if max(-low, high) > most(fmt):
        raise DataError(
            f"calibration: '{seen.name}' reaches {max(-low, high):.3g}, and {fmt.name} holds at most {most(fmt):.3g} "
            "with any scale; choose a format with a smaller bias, or scale the network"
        )
    samples = Samples(seen.samples, function)
    values = samples.x[samples.x != 0]
    if centered and values.size and values[0] == values[-1]:  # an identity: there is a scale that is exact
        method = "minmax"
    if method == "percentile" and seen.samples.size:
        rest = (100 - PERCENTILE) / 2
        cut_low, cut_high = np.percentile(samples.x, [rest, 100 - rest])
        cut_low, cut_high = min(float(cut_low), 0.0), max(float(cut_high), 0.0)
        if cut_low < cut_high:
            low, high = cut_low, cut_high
    candidates = _symmetric(low, high, fmt, method, power_of_two, highest)
    if not centered:
        with_zeros = _asymmetric if fmt.uniform else _shifted
        candidates = np.concatenate([candidates, with_zeros(low, high, fmt, method, power_of_two)])
    many = samples.x.size >= _ENTROPY_SAMPLES and _fills(samples.x)
    scale, zero = _best(samples, candidates, fmt, method == "entropy" and many, highest)
    if method == "mse" and not fmt.uniform and zero:
        near = _near(zero, fmt)
        candidates = np.concatenate(
            [[[scale, zero]], _shifted(low, high, fmt, method, power_of_two, near, _FACTORS)]
        )
        scale, zero = _best(samples, candidates, fmt)
    if method == "mse" and fmt.uniform and not power_of_two:
        scale, zero = _best(samples, _refined(scale, zero, fmt), fmt, highest=highest)
    return Quant(fmt, float(scale), int(zero))


def _fills(x: np.ndarray) -> bool:
    """Whether the sorted x differ by more than the bins of a histogram can be narrow."""
    return bool(x[-1] - x[0] > 4 * _BINS * np.spacing(max(abs(x[0]), abs(x[-1]))))


def _symmetric(
    low: float, high: float, fmt: Format, method: str, power_of_two: bool, highest: int | None = None
) -> np.ndarray:
    """(candidates, 2): scale, zero point 0."""
    base = covering_scale(low, high, fmt)
    if highest is not None:
        base = max(base, high / (highest * 2.0**fmt.lsb_exponent))
    if base == 0.0:  # all values have the sign that the format lacks
        base = max(-low, high) / max(fmt.max, -fmt.min)
    scales = snap(base * _factors(method, power_of_two, _FACTORS), power_of_two)
    return np.stack([scales, np.zeros_like(scales)], axis=1)


def _asymmetric(low: float, high: float, fmt: Format, method: str, power_of_two: bool) -> np.ndarray:
    """(candidates, 2): the range, clipped at either end, is mapped to all codes; real zero is a code."""
    levels = fmt.max_fixed - fmt.min_fixed
    if power_of_two:
        scales = snap((high - low) / levels * _factors(method, True, _FACTORS), True)
        width = scales * levels
        lows = np.concatenate([np.full_like(scales, low), (low + high - width) / 2, high - width])
        scales = np.tile(scales, 3)
    else:
        searched = method in ("mse", "entropy")
        ones = np.ones_like(_CLIPS if searched else np.ones(1))
        clips = _CLIPS if searched else ones
        lows = low * np.concatenate([clips, clips, ones])  # both ends, the lower, the upper
        highs = high * np.concatenate([clips, ones, clips])
        scales = snap((highs - lows) / levels, False)
    zeros = np.clip(np.rint(fmt.min_fixed - lows / scales), fmt.min_fixed, fmt.max_fixed)
    return np.stack([scales, zeros], axis=1)


def _shifted(
    low: float,
    high: float,
    fmt: Format,
    method: str,
    power_of_two: bool,
    zeros: np.ndarray | None = None,
    factors: np.ndarray = _COARSE_FACTORS,
) -> np.ndarray:
    """(candidates, 2): for each zero point (by default some, evenly spread over the codes) scales up to the
    one that covers the range. A range of one sign is given nearly all codes by a zero point near the other end."""
    if zeros is None:
        values = (grid(fmt) * 2.0**-fmt.lsb_exponent).astype(np.int64)
        zeros = values[np.unique(np.linspace(0, len(values) - 1, _SHIFTS).round().astype(int))]
    pairs = []
    for zero in zeros:
        room_low, room_high = zero - fmt.min_fixed, fmt.max_fixed - zero
        needed = [-low / room_low if room_low else 0.0, high / room_high if room_high else 0.0]
        if (low < 0 and not room_low) or (high > 0 and not room_high):
            continue
        base = max(needed) * 2.0**-fmt.lsb_exponent
        for scale in snap(base * _factors(method, power_of_two, factors), power_of_two):
            pairs.append((scale, float(zero)))
    return np.array(pairs, np.float64).reshape(-1, 2)


def _near(zero: float, fmt: Format) -> np.ndarray:
    """The zero points next to one of those that `_shifted` tries first."""
    values = (grid(fmt) * 2.0**-fmt.lsb_exponent).astype(np.int64)
    reach = max(1, len(values) // _SHIFTS)
    at = int(np.searchsorted(values, int(zero)))
    return values[max(0, at - reach) : at + reach + 1]


def _refined(scale: float, zero: float, fmt: Format) -> np.ndarray:
    """Neighbours of the best candidate."""
    scales = snap(scale * np.linspace(0.97, 1.03, 25), False)
    zeros = np.array([zero]) if zero == 0 else zero + np.arange(-2.0, 3.0)
    zeros = np.unique(np.clip(zeros, fmt.min_fixed, fmt.max_fixed))
    pairs = np.stack(np.meshgrid(scales, zeros, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.concatenate([[[scale, zero]], pairs])


def _factors(method: str, power_of_two: bool, factors: np.ndarray) -> np.ndarray:
    if method not in ("mse", "entropy"):
        return np.ones(1)
    return np.exp2(-np.arange(_OCTAVES, dtype=np.float64)) if power_of_two else np.append(factors, 1.0)


def _best(
    samples: Samples,
    candidates: np.ndarray,
    fmt: Format,
    entropy: bool = False,
    highest: int | None = None,
) -> tuple[float, float]:
    """The candidate (scale, zero point) of the least error, or divergence; among equals zero point 0, the larger
    scale."""
    if not samples.x.size:
        return candidates[0, 0], candidates[0, 1]
    values, offsets = grid(fmt), candidates[:, 1:] * 2.0**fmt.lsb_exponent
    if highest is not None:
        values = values[values <= highest * 2.0**fmt.lsb_exponent]
    grids = (values[None, :] - offsets) * candidates[:, :1]
    errors = samples.divergences(grids) if entropy else samples.errors(grids)
    least = errors.min()
    ties = np.flatnonzero(errors <= least + 1e-12 * (1.0 if entropy else abs(samples._square)))
    order = sorted(ties, key=lambda i: (candidates[i, 1] != 0, -candidates[i, 0]))
    return candidates[order[0], 0], candidates[order[0], 1]


# -- weights -----------------------------------------------------------------------------------------------


def weight_scales(
    weight: np.ndarray, fmt: Format, *, method: str = "mse", power_of_two: bool = False
) -> np.ndarray:
    """One scale per output channel, float64 (O,), for weights (O, ...); a zero channel gets 1."""
    rows = weight.reshape(len(weight), -1)
    if rows.shape[1] == 1:
        distinct, which = np.unique(rows, return_inverse=True)
        if len(distinct) < len(rows):  # a selection of many channels: few different weights
            found = weight_scales(distinct, fmt, method=method, power_of_two=power_of_two)
            return found[which.reshape(-1)]
    values = grid(fmt)
    scales = np.ones(len(rows))
    for i, row in enumerate(rows):
        base = covering_scale(float(row.min()), float(row.max()), fmt)
        if base == 0.0:
            largest = float(np.abs(row).max())
            if largest == 0.0:
                continue
            base = largest / max(fmt.max, -fmt.min)  # only the sign that the format lacks: rounds to zero
        factors = _factors(method, power_of_two, _WEIGHT_FACTORS)
        candidates = snap(base * factors, power_of_two)
        if len(candidates) > 1:
            errors = Samples(row).errors(values * candidates[:, None])
            candidates = candidates[[int(np.argmin(errors))]]
        scales[i] = candidates[0]
    return scales


def normalised(m: float) -> tuple[int, int]:
    """(multiplier, shift) with m ≈ multiplier * 2**-shift, the multiplier of full width if the shift allows.

    OverflowError when m is more than MULTIPLIER_MAX.
    """
    fraction, exponent = math.frexp(m)
    multiplier, shift = round(fraction * (1 << MULTIPLIER_BITS)), MULTIPLIER_BITS - exponent
    if multiplier > MULTIPLIER_MAX:
        multiplier, shift = multiplier >> 1, shift - 1
    if shift < 0:
        raise OverflowError(m)
    if shift > SHIFT_MAX:
        multiplier, shift = max(1, multiplier >> min(shift - SHIFT_MAX, 64)), SHIFT_MAX
    return multiplier, shift
