"""Exact convolution of fixed-point integers, on the fastest arithmetic that provably loses no bit.

A sum of products is exact in floating point, in any order, while the sum of the magnitudes stays below 2**24
(float32) or 2**53 (float64). The bound is that of the weights at hand and of the activations' range; beyond
it the operands are split into limbs. See docs/architecture.md, "The numeric contract".
"""

from __future__ import annotations

from typing import Any

import numpy as np

FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53
INT64_EXACT = 1 << 63


def magnitude_bound(weight: np.ndarray, largest: int) -> int:
    """The largest sum over one output channel of |w| * largest; weight (O, ...) holds integers."""
    flat = weight.reshape(len(weight), -1)
    most = max(int(flat.max(initial=0)), -int(flat.min(initial=0)))
    if most * flat.shape[1] >= INT64_EXACT:
        flat = flat.astype(object)
    sums = np.abs(flat).sum(axis=1)
    return int(max(sums, default=0)) * largest


class Convolution:
    """Cross-correlation of (N, H, W, I) with weights (O, KH, KW, I / groups), exact, in integers.

    `largest` bounds the magnitude of the activations, `padding` is the integer read outside the plane. The
    result is an array (N, OH, OW, O) of integers: float32 or float64 while `bound` allows, else int64 or
    Python integers (dtype object). `bound` holds for every partial sum in any order.
    """

    def __init__(
        self,
        weight: np.ndarray,
        largest: int,
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        groups: int = 1,
        padding: int = 0,
    ) -> None:
        self.shape = weight.shape
        self.stride, self.dilation, self.pads = stride, dilation, pads
        self.groups, self.padding = groups, padding
        self.bound = magnitude_bound(weight, max(largest, abs(padding)))
        self.dtype: Any
        self._limb = 0
        if self.bound < FLOAT32_EXACT:
            self.dtype = np.dtype(np.float32)
        elif self.bound < FLOAT64_EXACT:
            self.dtype = np.dtype(np.float64)
        else:
            self.dtype = np.dtype(np.int64)
            # limb*limb products of every term of a sum stay below 2**53
            terms = int(np.prod(weight.shape[1:]))
            self._limb = (52 - terms.bit_length()) // 2
        parts = _limbs(weight, self._limb) if self._limb else [weight]
        self._parts = [self._arrange(p.astype(np.float64 if self._limb else self.dtype)) for p in parts]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x: (N, H, W, I) integers, of `dtype` to save a copy."""
        if not self._limb:
            return self._convolve(self._pad(x.astype(self.dtype, copy=False)), self._parts[0])
        digits = [d.astype(np.float64) for d in _limbs(self._pad(x.astype(np.int64, copy=False)), self._limb)]
        total: Any = 0
        wide = object if self.bound >= INT64_EXACT else np.int64
        for i, digit in enumerate(digits):
            for j, part in enumerate(self._parts):
                product = self._convolve(digit, part).astype(np.int64).astype(wide)
                total = total + (product << self._limb * (i + j))  # wraps on the way, the sum does not
        return total

    def _arrange(self, w: np.ndarray) -> np.ndarray:
        """(O, KH, KW, I/g) to (KH*KW, g, O/g) when I/g = 1, (K, O) when g = 1, else (g, K, O/g)."""
        o, kh, kw, i = w.shape
        if i == 1 and self.groups > 1:
            return np.ascontiguousarray(w.reshape(self.groups, -1, kh * kw).transpose(2, 0, 1))
        if self.groups == 1:
            return np.ascontiguousarray(w.reshape(o, -1).T)
        return np.ascontiguousarray(w.reshape(self.groups, o // self.groups, -1).transpose(0, 2, 1))

    def _pad(self, x: np.ndarray) -> np.ndarray:
        top, left, bottom, right = self.pads
        if not any(self.pads):
            return x
        x = x[:, max(-top, 0) : x.shape[1] + min(bottom, 0), max(-left, 0) : x.shape[2] + min(right, 0)]
        top, left, bottom, right = (max(p, 0) for p in self.pads)
        n, h, w, c = x.shape
        padded = np.full((n, h + top + bottom, w + left + right, c), self.padding, x.dtype)
        padded[:, top : top + h, left : left + w] = x
        return padded

    def _convolve(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        o, kh, kw, i = self.shape
        view = windows(x, (kh, kw), self.stride, self.dilation)
        n, oh, ow = view.shape[:3]
        if i == 1 and self.groups > 1:
            acc = np.zeros((n, oh, ow, self.groups, o // self.groups), w.dtype)
            for tap in range(kh * kw):
                acc += view[:, :, :, tap // kw, tap % kw, :, None] * w[tap]
            return acc.reshape(n, oh, ow, o)
        if self.groups == 1:
            return (view.reshape(n * oh * ow, kh * kw * i) @ w).reshape(n, oh, ow, o)
        split = view.reshape(n * oh * ow, kh * kw, self.groups, i).transpose(2, 0, 1, 3)
        product = split.reshape(self.groups, n * oh * ow, kh * kw * i) @ w
        return product.transpose(1, 0, 2).reshape(n, oh, ow, o)


def conv(x: np.ndarray, weight: np.ndarray, **options: Any) -> np.ndarray:
    """One exact convolution of integers, int64 or Python integers; options as for `Convolution`."""
    largest = int(np.abs(x.astype(object)).max(initial=0))
    acc = Convolution(weight, largest, **options)(x)
    return acc if acc.dtype == object else acc.astype(np.int64)


def windows(
    x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> np.ndarray:
    """A view (N, OH, OW, KH, KW, C) of (N, H, W, C): the windows of a convolution, nothing copied."""
    n, h, w, c = x.shape
    oh = (h - (kernel[0] - 1) * dilation[0] - 1) // stride[0] + 1
    ow = (w - (kernel[1] - 1) * dilation[1] - 1) // stride[1] + 1
    sn, sh, sw, sc = x.strides
    return np.lib.stride_tricks.as_strided(
        x,
        (n, max(oh, 0), max(ow, 0), *kernel, c),
        (sn, sh * stride[0], sw * stride[1], sh * dilation[0], sw * dilation[1], sc),
        writeable=False,
    )


def _limbs(x: np.ndarray, bits: int) -> list[np.ndarray]:
    """x = sum of limb_i * 2**(bits*i), 0 <= limb_i < 2**bits but for the last, which carries the sign."""
    x = x.astype(np.int64)
    limbs = []
    while x.size and max(int(x.max()), -int(x.min())) >= 1 << bits:
        limbs.append(x & (1 << bits) - 1)
        x = x >> bits
    return [*limbs, x]
