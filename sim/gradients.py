"""Exact integer functions of a training step, in NumPy: the models of `sateen.ir.gradients` (docs/training.md).

Arrays hold integers, fixed-point units of their format, as floats or integers of any type. A sum is exact in floating
point, in any order, while the sum of its terms' magnitudes stays below 2**24 (float32) or 2**53 (float64). Beyond it
one operand is split into a high and a low part, whose sums are exact, until they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sateen.formats import Format, SparsityPattern
from sateen.ir.gradients import MASTER_EXPONENT, VELOCITY_EXPONENT, Update
from sateen.ir.operation import Window
from sateen.sim.integer import FLOAT32_EXACT, FLOAT64_EXACT, windows

_INT64_SAFE = 1 << 62
_LIMB = 24
_FRACTION = 61
_INT32 = (-(1 << 31), (1 << 31) - 1)


def largest(x: np.ndarray) -> int:
    """The greatest magnitude."""
    return max(int(x.max(initial=0)), -int(x.min(initial=0)))


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


def exactly(
    linear: Callable[[np.ndarray, type], np.ndarray], x: np.ndarray, weight: int, most: int | None = None
) -> np.ndarray:
    """linear(x, float type), exact, for a linear function of x whose results are at most |x| * `weight`.

    `most` bounds |x|. The result is float32, float64, int64, or Python integers where these are too small.
    """
    most = largest(x) if most is None else most
    bound = most * weight
    if bound < FLOAT32_EXACT:
        return linear(x, np.float32)
    if bound < FLOAT64_EXACT:
        return linear(x, np.float64)
    shift = most.bit_length() // 2
    wide = x.astype(np.float64)
    high = np.floor(wide * 2.0**-shift)
    parts = [exactly(linear, p, weight) for p in (high, wide - high * 2.0**shift)]
    kind = np.int64 if bound < _INT64_SAFE else object
    top, low = (p.astype(np.int64).astype(kind) if p.dtype != object else p for p in parts)
    return np.asarray(top * (1 << shift) + low)


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


def _columns(x: np.ndarray, window: Window, kind: type) -> np.ndarray:
    """(N * OH * OW, taps * I)."""
    view = windows(_padded(x, window.pads, kind), window.kernel, window.stride, window.dilation)
    return view.reshape(-1, view.shape[3] * view.shape[4] * view.shape[5])


def forward(x: np.ndarray, weight: np.ndarray, window: Window, most: int | None = None) -> np.ndarray:
    """(N, H, W, I) by (taps, I, O): sums (N, OH, OW, O)."""
    taps, inputs, outputs = weight.shape
    bound = int(np.abs(weight).astype(np.float64).sum(axis=(0, 1)).max())
    shape = (len(x), *window.plane(*x.shape[1:3]), outputs)

    def linear(part: np.ndarray, kind: type) -> np.ndarray:
        matrix: np.ndarray = weight.reshape(taps * inputs, outputs).astype(kind)
        return (_columns(part, window, kind) @ matrix).reshape(shape)

    return exactly(linear, x, bound, most)


def backward(
    dy: np.ndarray, weight: np.ndarray, window: Window, plane: tuple[int, int], most: int | None = None
) -> np.ndarray:
    """(N, OH, OW, O) by (taps, I, O): sums (N, *plane, I), the gradient of what `forward` read."""
    taps, inputs, outputs = weight.shape
    bound = int(np.abs(weight).astype(np.float64).sum(axis=(0, 2)).max())
    n, rows, columns, _ = dy.shape
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    top, left = (max(p, 0) for p in window.pads[:2])
    crop = (max(-window.pads[0], 0), max(-window.pads[1], 0))
    height = max(plane[0] - crop[0] + top, (rows - 1) * sh + (kh - 1) * dh + 1)
    width = max(plane[1] - crop[1] + left, (columns - 1) * sw + (kw - 1) * dw + 1)

    def linear(part: np.ndarray, kind: type) -> np.ndarray:
        matrix: np.ndarray = weight.transpose(2, 0, 1).reshape(outputs, taps * inputs).astype(kind)
        spread = (part.reshape(-1, outputs).astype(kind) @ matrix).reshape(n, rows, columns, taps, inputs)
        out = np.zeros((n, height, width, inputs), kind)
        for tap in range(taps):
            y, x = tap // kw * dh, tap % kw * dw
            out[:, y : y + (rows - 1) * sh + 1 : sh, x : x + (columns - 1) * sw + 1 : sw] += spread[
                ..., tap, :
            ]
        found = out[:, top : top + plane[0] - crop[0], left : left + plane[1] - crop[1]]
        if crop == (0, 0):
            return found
        whole: np.ndarray = np.zeros((n, *plane, inputs), kind)
        whole[:, crop[0] :, crop[1] :] = found
        return whole

    return exactly(linear, dy, bound, most)


def weight_gradient(x: np.ndarray, dy: np.ndarray, window: Window) -> np.ndarray:
    """(N, H, W, I) by (N, OH, OW, O): sums (taps, I, O) over all pixels of all samples."""
    inputs, outputs = x.shape[3], dy.shape[3]
    # Cauchy and Schwarz: of the magnitudes' sums, in any order.
    norm = float(np.sqrt(np.einsum("ni,ni->i", *[x.reshape(-1, inputs).astype(np.float64)] * 2).max()))
    other = float(np.sqrt(np.einsum("ni,ni->i", *[dy.reshape(-1, outputs).astype(np.float64)] * 2).max()))
    pixels = dy.shape[0] * dy.shape[1] * dy.shape[2]
    most = largest(dy)
    bound = min(largest(x) * pixels, int(norm * other * (1 + 1e-9)) // max(most, 1) + 1)

    def linear(part: np.ndarray, kind: type) -> np.ndarray:
        return _columns(x, window, kind).T @ part.reshape(-1, outputs).astype(kind)

    def safe(part: np.ndarray, kind: type) -> np.ndarray:
        return linear(part, kind).reshape(-1, inputs, outputs)

    if most * bound < FLOAT64_EXACT:
        return exactly(safe, dy, bound, most)
    return exactly(safe, dy, largest(x) * pixels, most)


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
    gradient: np.ndarray,
    fmt: Format,
    pattern: SparsityPattern,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Master weights and velocities, int32, and codes after a step; arrays (taps, I, O), see `ir.gradients.Update`.

    `gradient` holds the exact sums. `pattern` is that of the forward selection, which `pruned_decay` asks for.
    """
    terms = [
        _shifted(master.astype(np.int64), *rule.decay),
        _shifted(velocity.astype(np.int64), *rule.momentum),
        _shifted(gradient, *rule.rate),
    ]
    whole = terms[0][0] + terms[1][0] + terms[2][0]
    fraction = terms[0][1] + terms[1][1] + terms[2][1]
    whole = whole + (fraction >> _FRACTION)
    rest, half = fraction & (1 << _FRACTION) - 1, 1 << _FRACTION - 1
    v = np.clip(whole + ((rest > half) | ((rest == half) & (whole & 1 == 1))), *_INT32)
    w = np.clip(master.astype(np.int64) - rounded_shift(v, MASTER_EXPONENT - VELOCITY_EXPONENT), *_INT32)
    codes = encoded(w, rule.scale, fmt)
    if rule.pruned_decay[0]:
        pruned = ~selected(fmt.fixed(codes), pattern, 1)
        k, s = rule.pruned_decay
        w = np.where(pruned, w - rounded_shift(w * k, s), w)
        codes = encoded(w, rule.scale, fmt)
    return w.astype(np.int32), v.astype(np.int32), codes


def encoded(master: np.ndarray, scale: int, fmt: Format) -> np.ndarray:
    """Codes of master weights, for a scale of 2**scale."""
    return fmt.positive_zero(fmt.encode(master.astype(np.float64) * 2.0 ** (MASTER_EXPONENT - scale)))


def rounded_shift(x: np.ndarray, shift: int) -> np.ndarray:
    """RNE(x * 2**-shift) of int64."""
    if shift == 0:
        return x
    whole, rest, half = x >> shift, x & (1 << shift) - 1, 1 << shift - 1
    return np.asarray(whole + ((rest > half) | ((rest == half) & (whole & 1 == 1))))


def _shifted(x: np.ndarray, factor: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """x * factor * 2**-shift as its floor, saturated far beyond int32, and a fraction in units of 2**-61."""
    if shift < 0:
        x, shift = x * (1 << -shift), 0
    if x.dtype == object and largest(x) >= _INT64_SAFE:
        product = x * factor
        whole = np.clip(product >> shift, -_INT64_SAFE // 4, _INT64_SAFE // 4).astype(np.int64)
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
