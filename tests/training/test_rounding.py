"""Sums that are split, and their one rounding, against Python's integers and fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sateen.compiler.training.rounding import rounded
from sateen.formats import parse_format
from sateen.ir.operation import Window
from sateen.sim import gradients
from sateen.sim.exact_sums import ExactSum

FORMATS = ("int8", "int4", "e4m3fn", "e5m2", "e2m1", "e3m0")


def nearest(value: Fraction, fmt, low: int, high: int) -> int:
    """The value of the clamped grid that is nearest; of two as near the one with the even code."""
    codes = np.arange(1 << fmt.bits)
    fixed = fmt.fixed(codes[np.isfinite(fmt.decode(codes))])
    grid = sorted({int(v) for v in fixed if low <= v <= high})
    gaps = [abs(value - v) for v in grid]
    best = [v for v, gap in zip(grid, gaps, strict=True) if gap == min(gaps)]
    even = [v for v in best if int(fmt.from_fixed(np.array([v]))[0]) % 2 == 0]
    return even[0] if len(best) > 1 else best[0]


@st.composite
def sums(draw):
    """Terms of one shape or of a channel, of all sizes and types, and what they are rounded to."""
    fmt = parse_format(draw(st.sampled_from(FORMATS)))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))

    def term(bits, shape=(2, 3)):
        data = rng.integers(-(1 << bits), 1 << bits, shape)
        data = data * rng.integers(0, 2, shape) if draw(st.booleans()) else data
        return data if draw(st.booleans()) else data.astype(np.float64)

    terms = []
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(-20, 70))
        if draw(st.booleans()):
            shifts = draw(st.sampled_from(((0,), (13, 0), (40, 21, 0))))
            parts = tuple((term(draw(st.integers(0, 52))), k) for k in shifts)
            terms.append((ExactSum(parts), at))
        else:
            terms.append((term(draw(st.integers(0, 52)), draw(st.sampled_from([(2, 3), (3,)]))), at))
    if draw(st.booleans()):  # a tie, or just beside one
        values, at = np.unique(fmt.fixed(np.arange(1 << fmt.bits - 2))), terms[0][1]
        k = rng.integers(0, len(values) - 1, (2, 3))
        doubled = (values[k] + values[k + 1]) * rng.choice([-1, 1], (2, 3))
        terms = [(doubled, at + 40), (rng.integers(-1, 2, (2, 3)), at - 20)]
        return terms, at + 41, fmt
    return terms, draw(st.integers(-20, 120)), fmt


@settings(max_examples=300, deadline=None)
@given(sums(), st.booleans())
def test_a_sum_is_rounded_once(case, relu):
    terms, exponent, fmt = case
    low, high = (0 if relu else fmt.min_fixed), fmt.max_fixed
    exact = np.zeros((2, 3), object)
    for t, e in terms:
        for part, up in t.parts if isinstance(t, ExactSum) else ((t, 0),):
            unit = Fraction(2) ** (e + up)
            exact = exact + np.array([int(v) * unit for v in part.ravel()]).reshape(part.shape)
    wanted = [nearest(v / Fraction(2) ** exponent, fmt, low, high) for v in exact.ravel()]
    found = rounded(terms, exponent, fmt, low, high)
    assert found.dtype == np.float32
    assert np.broadcast_to(found, (2, 3)).ravel().tolist() == wanted


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2"])
@pytest.mark.parametrize("stride", [1, 2])
def test_sums_of_a_format_that_spans_many_binades(name, stride):
    """Parts add to what Python's integers give, and are exact floats each."""
    fmt = parse_format(name)
    rng = np.random.default_rng(5)
    window = Window((3, 3), (stride, stride), pads=(1, 1, 1, 1))

    def values(*shape):
        scaled = rng.normal(0, fmt.max, shape) * 2.0 ** rng.integers(-30, 1, shape)
        return fmt.fixed(fmt.encode(scaled)).astype(np.float64)

    x, w = values(3, 9, 9, 5), values(9, 5, 4)
    dy = values(3, *window.plane(9, 9), 4)
    x[0, 0, 0], w[0, 0] = fmt.max_fixed, -fmt.max_fixed
    whole = [a.astype(np.int64).astype(object) for a in (x, w, dy)]
    for function, a, b in (
        (gradients.forward, 0, 1),
        (gradients.backward, 2, 1),
        (gradients.weight_gradient, 0, 2),
    ):
        floats, ints = (x, w, dy), whole
        extra = ((9, 9),) if function is gradients.backward else ()
        found = function(floats[a], floats[b], window, *extra)
        assert all(np.abs(p).max() < 2**53 and (p == np.rint(p)).all() for p, _ in found.parts)
        assert (len(found.parts) > 1) == (name == "e5m2")
        wanted = _defined(function, ints[a], ints[b], window)
        assert (found.integers().astype(object) == wanted).all()
        assert (found.rounded() == wanted.astype(np.float64)).all()


def _defined(function, a, b, window):
    """Tap by tap, in Python's integers, on a plane with a border of zeros."""
    (kh, kw), (sh, sw) = window.kernel, window.stride
    rows, columns = window.plane(9, 9)

    def seen(plane, tap):
        i, j = divmod(tap, kw)
        return plane[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (columns - 1) * sw + 1 : sw]

    if function is gradients.backward:
        out = np.zeros((len(a), 11, 11, b.shape[1]), object)
        for tap, weight in enumerate(b):
            seen(out, tap)[...] += np.dot(a, weight.T)
        return out[:, 1:10, 1:10]
    padded = np.zeros((len(a), 11, 11, a.shape[3]), object)
    padded[:, 1:10, 1:10] = a
    if function is gradients.forward:
        return sum(np.dot(seen(padded, tap), weight) for tap, weight in enumerate(b))
    flat = b.reshape(-1, b.shape[3])
    return np.stack([np.dot(seen(padded, t).reshape(len(flat), -1).T, flat) for t in range(kh * kw)])
