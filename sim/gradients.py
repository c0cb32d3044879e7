"""Exact integer functions of a training step, in NumPy: the models of `sateen.ir.gradients` (docs/training.md).

Arrays hold integers, fixed-point units of their format, as floats or integers of any type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from sateen.formats import Format, SparsityPattern
from sateen.ir.gradients import MASTER_EXPONENT, VELOCITY_EXPONENT, Update
from sateen.ir.operation import Window
from sateen.sim.exact_sums import INT64_SAFE, ExactSum, largest, products
from sateen.sim.integer import windows

_BLOCK = 1024
"""Pixels."""
_LIMB = 24
_FRACTION = 61
_INT32 = (-(1 << 31), (1 << 31) - 1)


def selected(weight: np.ndarray, pattern: SparsityPattern, axis: int) -> np.ndarray:
    """Which elements are the n of each m along `axis` of greatest magnitude, ties to the lower index, bool.

    The last group may be shorter. As `sateen.sim.sore.select`, and SORE in RTL, where the axis is a multiple of m.
    """
    if pattern.dense:
        return np.ones(weight.shape, bool)
    n, m = pattern.n, pattern.m
    moved = np.moveaxis(np.abs(weight).astype(np.int64), axis, -1)
    rest = -moved.shape[-1] % m
    moved = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, rest)])
    groups = moved.reshape(*moved.shape[:-1], -1, m)
    key = groups * m + np.arange(m - 1, -1, -1)  # no two are equal
    least = np.partition(key, m - n, axis=-1)[..., m - n : m - n + 1]
    mask = (key >= least).reshape(moved.shape)[..., : moved.shape[-1] - rest]
    return np.moveaxis(mask, -1, axis)


def _padded(x: np.ndarray, pads: tuple[int, int, int, int], kind: type) -> np.ndarray:
    top, left, bottom, right = pads
    x = x[:, max(-top, 0) : x.shape[1] + min(bottom, 0), max(-left, 0) : x.shape[2] + min(right, 0)]
    if max(pads) <= 0:
        return np.ascontiguousarray(x, dtype=kind)
    top, left, bottom, right = (max(p, 0) for p in pads)
    n, h, w, c = x.shape
    out = np.zeros((n, h + top + bottom, w + left + right, c), kind)
    out[:, top : top + h, left : left + w] = x
    return out


def _columns(padded: np.ndarray, window: Window) -> Iterator[tuple[slice, np.ndarray]]:
    """Some samples at a time, and what their output pixels read (pixels, taps * I): a block stays in a cache."""
    view = windows(padded, window.kernel, window.stride, window.dilation)
    n, rows, columns, *reads = view.shape
    step = max(1, _BLOCK // max(1, rows * columns))
    for i in range(0, n, step):
        yield slice(i, i + step), view[i : i + step].reshape(-1, math.prod(reads))


def forward(x: np.ndarray, weight: np.ndarray, window: Window) -> ExactSum:
    """(N, H, W, I) by (taps, I, O): sums (N, OH, OW, O)."""
    outputs = weight.shape[2]
    shape = (len(x), *window.plane(*x.shape[1:3]), outputs)

    def apply(padded: np.ndarray, part: np.ndarray) -> np.ndarray:
        out = np.empty(shape, padded.dtype)
        matrix = part.reshape(-1, outputs)
        for at, columns in _columns(padded, window):
            np.matmul(columns, matrix, out=out[at].reshape(-1, outputs))
        return out

    return products(lambda part, kind: _padded(part, window.pads, kind), apply, _bound((0, 1)), x, weight)


def backward(dy: np.ndarray, weight: np.ndarray, window: Window, plane: tuple[int, int]) -> ExactSum:
    """(N, OH, OW, O) by (taps, I, O): sums (N, *plane, I), the gradient of what `forward` read."""
    taps, inputs, outputs = weight.shape
    n, rows, columns, _ = dy.shape
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    if (sh, sw) == (1, 1):  # a convolution with turned weights
        reach = ((kh - 1) * dh, (kw - 1) * dw)
        above, before = window.pads[:2]
        pads = (reach[0] - above, reach[1] - before, plane[0] - rows + above, plane[1] - columns + before)
        turned = Window(window.kernel, dilation=window.dilation, pads=pads)
        return forward(dy, weight[::-1].transpose(0, 2, 1), turned)
    top, left = (max(p, 0) for p in window.pads[:2])
    crop = (max(-window.pads[0], 0), max(-window.pads[1], 0))
    height = max(plane[0] - crop[0] + top, (rows - 1) * sh + (kh - 1) * dh + 1)
    width = max(plane[1] - crop[1] + left, (columns - 1) * sw + (kw - 1) * dw + 1)

    def apply(pixels: np.ndarray, part: np.ndarray) -> np.ndarray:
        matrix = part.transpose(2, 0, 1).reshape(outputs, taps * inputs)
        spread = (pixels @ matrix).reshape(n, rows, columns, taps, inputs)
        out = np.zeros((n, height, width, inputs), spread.dtype)
        for tap in range(taps):
            y, x = tap // kw * dh, tap % kw * dw
            out[:, y : y + (rows - 1) * sh + 1 : sh, x : x + (columns - 1) * sw + 1 : sw] += spread[
                ..., tap, :
            ]
        found = out[:, top : top + plane[0] - crop[0], left : left + plane[1] - crop[1]]
        if crop == (0, 0):
            return found
        whole: np.ndarray = np.zeros((n, *plane, inputs), spread.dtype)
        whole[:, crop[0] :, crop[1] :] = found
        return whole

    return products(
        lambda part, kind: part.reshape(-1, outputs).astype(kind), apply, _bound((0, 2)), dy, weight
    )


def _bound(axes: tuple[int, int]) -> Callable[[np.ndarray, np.ndarray], int]:
    """Of sums over those axes of weights."""

    def bound(x: np.ndarray, weight: np.ndarray) -> int:
        return largest(x) * int(np.abs(weight).astype(np.float64).sum(axis=axes).max())

    return bound


def weight_gradient(x: np.ndarray, dy: np.ndarray, window: Window) -> ExactSum:
    """(N, H, W, I) by (N, OH, OW, O): sums (taps, I, O) over all pixels of all samples."""
    inputs, outputs = x.shape[3], dy.shape[3]
    pixels = dy.shape[0] * dy.shape[1] * dy.shape[2]

    def apply(padded: np.ndarray, part: np.ndarray) -> np.ndarray:
        total = sum(columns.T @ part[at].reshape(-1, outputs) for at, columns in _columns(padded, window))
        return np.asarray(total).reshape(-1, inputs, outputs)

    def bound(x: np.ndarray, part: np.ndarray) -> int:
        # The least of two: as many pixels with the greatest, or Cauchy and Schwarz.
        return min(largest(x) * largest(part) * pixels, int(_norm(x) * _norm(part) * (1 + 1e-9)) + 1)

    return products(lambda part, kind: _padded(part, window.pads, kind), apply, bound, x, dy)


def _norm(x: np.ndarray) -> float:
    """The greatest of a channel over all pixels."""
    flat = x.reshape(-1, x.shape[-1]).astype(np.float64, copy=False)
    return float(np.sqrt(np.einsum("ni,ni->i", flat, flat).max()))


def bias_gradient(dy: np.ndarray) -> np.ndarray:
    """Sums (O,) over all pixels of all samples, int64."""
    return np.asarray(dy.reshape(-1, dy.shape[-1]).astype(np.float64).astype(np.int64).sum(axis=0))


def gate(dy: np.ndarray, reference: np.ndarray, low: int, high: int) -> np.ndarray:
    """The gradient where low < reference < high, else 0."""
    open_ = reference > low
    if reference.size and int(reference.max()) >= high:
        open_ &= reference < high
    return np.where(open_, dy, dy.dtype.type(0))


def pool_gate(
    dy: np.ndarray, x: np.ndarray, pooled: np.ndarray, tap: tuple[int, int], window: Window
) -> np.ndarray:
    """The gradient (N, OH, OW, C) where the element of `tap` in a max pool's window is the maximum, else 0."""
    rows, columns = dy.shape[1:3]
    at = [
        np.arange(k) * s + t * d - p
        for k, s, t, d, p in zip(
            (rows, columns), window.stride, tap, window.dilation, window.pads[:2], strict=True
        )
    ]
    inside = [(a >= 0) & (a < size) for a, size in zip(at, x.shape[1:3], strict=True)]
    found = x[:, np.clip(at[0], 0, x.shape[1] - 1)][:, :, np.clip(at[1], 0, x.shape[2] - 1)]
    wins = (found == pooled) & inside[0][:, None, None] & inside[1][None, :, None]
    return np.where(wins, dy, dy.dtype.type(0))


def pool_gradient(dy: np.ndarray, x: np.ndarray, pooled: np.ndarray, window: Window) -> np.ndarray:
    """Sums (N, H, W, C), the gradient of what a max pool read: each tap's gate at its place, overlaps added."""
    n, rows, columns, c = dy.shape
    kind = np.float64
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    top, left = (max(p, 0) for p in window.pads[:2])
    height = max(x.shape[1] + top, (rows - 1) * sh + (kh - 1) * dh + 1)
    width = max(x.shape[2] + left, (columns - 1) * sw + (kw - 1) * dw + 1)
    out = np.zeros((n, height, width, c), kind)
    for i in range(kh):
        for j in range(kw):
            part = pool_gate(dy, x, pooled, (i, j), window)
            y, z = i * dh, j * dw
            out[:, y : y + (rows - 1) * sh + 1 : sh, z : z + (columns - 1) * sw + 1 : sw] += part
    return out[:, top : top + x.shape[1], left : left + x.shape[2]]


# -- the update --------------------------------------------------------------------------------------------


def update(
    rule: Update,
    master: np.ndarray,
    velocity: np.ndarray,
    gradient: np.ndarray | ExactSum,
    fmt: Format,
    pattern: SparsityPattern,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Master weights and velocities, int32, and codes after a step; arrays (taps, I, O), see `ir.gradients.Update`.

    `gradient` holds the exact sums. `pattern` is that of the forward selection, which `pruned` asks for.
    """
    decay: int | np.ndarray = rule.decay[0]
    if rule.pruned != decay and not pattern.dense:
        kept = selected(fmt.fixed(encoded(master, rule.scale, fmt)), pattern, 1)
        decay = np.where(kept, decay, rule.pruned)
    w, v = updated(rule, master, velocity, gradient, decay)
    return w, v, encoded(w, rule.scale, fmt)


def updated(
    rule: Update,
    master: np.ndarray,
    velocity: np.ndarray,
    gradient: np.ndarray | ExactSum,
    decay: int | np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Master weights and velocities, with the multipliers `decay` of the rule's."""
    terms = [
        _shifted(master.astype(np.int64), decay, rule.decay[1]),
        _shifted(velocity.astype(np.int64), *rule.momentum),
        *_shifted_parts(gradient, *rule.rate),
    ]
    whole, fraction = terms[0]
    for more, below in terms[1:]:
        fraction = (fraction & (1 << _FRACTION) - 1) + below
        whole = whole + more + (fraction >> _FRACTION)
    rest, half = fraction & (1 << _FRACTION) - 1, 1 << _FRACTION - 1
    v = np.clip(whole + ((rest > half) | ((rest == half) & (whole & 1 == 1))), *_INT32)
    w = np.clip(master.astype(np.int64) - rounded_shift(v, MASTER_EXPONENT - VELOCITY_EXPONENT), *_INT32)
    return w.astype(np.int32), v.astype(np.int32)


def encoded(master: np.ndarray, scale: int, fmt: Format) -> np.ndarray:
    """Codes of master weights, for a scale of 2**scale."""
    return fmt.positive_zero(fmt.encode(master.astype(np.float64) * 2.0 ** (MASTER_EXPONENT - scale)))


def rounded_shift(x: np.ndarray, shift: int) -> np.ndarray:
    """RNE(x * 2**-shift) of int64."""
    if shift == 0:
        return x
    whole, rest, half = x >> shift, x & (1 << shift) - 1, 1 << shift - 1
    return np.asarray(whole + ((rest > half) | ((rest == half) & (whole & 1 == 1))))


def _shifted_parts(x: np.ndarray | ExactSum, factor: int, shift: int) -> list[tuple[np.ndarray, np.ndarray]]:
    if not isinstance(x, ExactSum):
        return [_shifted(x, factor, shift)]
    if any(shift - up < _LIMB for _, up in x.parts):  # a part alone might saturate
        return [_shifted(x.integers(), factor, shift)]
    return [_shifted(part, factor, shift - up) for part, up in x.parts]


def _shifted(x: np.ndarray, factor: int | np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """x * factor * 2**-shift as its floor, saturated far beyond int32, and a fraction in units of 2**-61."""
    if shift < 0:
        x, shift = x * (1 << -shift), 0
    if x.dtype == object and largest(x) >= INT64_SAFE:
        product = x * factor
        whole = np.clip(product >> shift, -INT64_SAFE // 4, INT64_SAFE // 4).astype(np.int64)
        return whole, (product & (1 << shift) - 1).astype(np.int64) << _FRACTION - shift
    x = x.astype(np.int64)
    high, low = x >> _LIMB, x & (1 << _LIMB) - 1
    low = low * factor
    high = high * factor + (low >> _LIMB)
    low &= (1 << _LIMB) - 1
    if shift >= _LIMB:
        down = shift - _LIMB
        rest = (high & (1 << down) - 1) << _LIMB | low
        return high >> down, rest << _FRACTION - shift
    limit = 1 << 62 - _LIMB
    high = np.clip(high, -limit, limit - 1)
    return (high << _LIMB - shift) + (low >> shift), (low & (1 << shift) - 1) << _FRACTION - shift
