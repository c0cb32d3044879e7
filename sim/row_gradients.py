"""Exact gradients of a row's functions, softmax and normalization, in NumPy: integers in, integers out.

A reciprocal and what it is multiplied by are cut off as `sateen.formats.rows` cuts the functions themselves; all sums
between are exact, so nothing depends on the order of a row's elements.
"""

from __future__ import annotations

import numpy as np

from sateen.formats import Format
from sateen.formats.base import as_integers
from sateen.formats.rows import (
    EPSILON_FRACTION,
    fraction_bits,
    normalize_rows,
    reciprocal,
    reciprocal_bits,
    variance_bits,
)
from sateen.sim.exact_sums import INT64_SAFE, largest
from sateen.sim.integer import FLOAT64_EXACT


def times(a: np.ndarray, b: np.ndarray, terms: int = 1, *, floats: bool = True) -> np.ndarray:
    """a * b, of a type in which a sum of `terms` such products is exact: float64 if `floats`, int64, or Python's."""
    bound = largest(a) * largest(b) * terms
    kind = np.float64 if floats and bound < FLOAT64_EXACT else np.int64 if bound < INT64_SAFE else object
    return np.asarray(_whole(a, kind) * _whole(b, kind))


def _whole(x: np.ndarray, kind: type) -> np.ndarray:
    if kind is np.float64 or x.dtype == object:
        return x.astype(kind)
    return x.astype(np.int64).astype(kind)


def softmax_gradient(dp: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two terms of dS = P * (dP - sum of dP * P), rows (..., n): P * dP, which counts units of P times units of dP,
    and -P * sum, which counts the square of units of P times those of dP."""
    first = times(p, dp, p.shape[-1])
    return first, times(-p, first.sum(axis=-1, keepdims=True))


def normalize_gradient(
    g: np.ndarray, x: np.ndarray, fmt: Format, *, count: int, epsilon: int, centred: bool = True
) -> np.ndarray:
    """The gradient of `normalize_rows`, which has these parameters, for rows (..., n) of gradients and of what it
    reads: int64, or Python integers, of `fraction_bits(fmt)`, with

        d = count * x - [centred] sum of x,   v = count * sum of x**2 - [centred] (sum of x)**2 + epsilon
        h = d / sqrt(v)
        dx = (count * g - [centred] sum of g - h * sum of g * h) / sqrt(v)

    The product h * sum and the result are cut off after the fraction.
    """
    places = fraction_bits(fmt)
    h = normalize_rows(x, fmt, count=count, epsilon=epsilon, centred=centred)
    x, g = as_integers(x, "x"), as_integers(g, "g")
    exact = x.astype(object) if variance_bits(fmt) > 63 else x
    total = exact.sum(axis=-1, keepdims=True) * int(centred)
    variance = count * (exact * exact).sum(axis=-1, keepdims=True) - total * total
    bits, inverse = reciprocal((variance << EPSILON_FRACTION) + epsilon, fmt, root=True)
    n = x.shape[-1]
    sums = times(g, h, n, floats=False).sum(axis=-1, keepdims=True)
    along = times(h, sums, floats=False) >> places
    fits = (largest(g) * (count + n)) << places < INT64_SAFE
    own = g if fits else g.astype(object)
    straight = (count * own - own.sum(axis=-1, keepdims=True) * int(centred)) << places
    found = times(straight - along, inverse, floats=False)
    shift = reciprocal_bits(fmt) + (bits - EPSILON_FRACTION) // 2
    return np.asarray(found >> (shift.astype(object) if found.dtype == object else np.minimum(shift, 63)))
