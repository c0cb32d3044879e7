"""Requantization against exact rational arithmetic, by cases and by random numbers of every size."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sateen.errors import FormatError
from sateen.formats import Format, Integer, Minifloat, all_formats, parse_format
from sateen.formats.requantize import requantize, round_shift

FORMATS = [
    "uint8",
    "int8",
    "int4",
    "int1",
    "e4m3fn",
    "e5m2",
    "e3m2",
    "e2m1",
    "e3m0",
    "e4m0",
    "e5m0",
    "e1m1",
    "e1m6",
]


def ref_round(x: Fraction, f: Format) -> int:
    """x in fixed-point units to the nearest point of the grid without end, ties to the even code."""
    magnitude, negative = abs(x), x < 0
    if not isinstance(f, Minifloat):
        return round(x)  # Python rounds ties to even
    m, code = f.mantissa_bits, 0

    def value(code: int) -> int:
        exponent, mantissa = code >> m, code & ((1 << m) - 1)
        return ((1 << m) + mantissa) << (exponent - 1) if exponent else mantissa

    high = 1
    while value(high) <= magnitude:
        high *= 2
    while high - code > 1:  # value(code) <= magnitude < value(high)
        middle = (code + high) // 2
        code, high = (middle, high) if value(middle) <= magnitude else (code, middle)
    below, above = magnitude - value(code), value(code + 1) - magnitude
    if below > above or (below == above and code & 1):
        code += 1
    return -value(code) if negative else value(code)


def ref_requantize(f, acc, multiplier, shift, zero_point=0, low=None, high=None, addend=0) -> int:
    y = ref_round(Fraction(acc * multiplier + addend, 2**shift), f) + zero_point
    y = min(max(y, f.min_fixed if low is None else low), f.max_fixed if high is None else high)
    return int(f.from_fixed(y))


def around_ties(f: Format, shift: int) -> list[int]:
    """Integers t such that t * 2**-shift is a grid point, halfway between two, or one off."""
    fixed = sorted({int(v) for v in f.fixed(np.arange(1 << f.bits))} | {3 * f.max_fixed, 5 * f.min_fixed})
    doubled = {2 * v for v in fixed} | {a + b for a, b in pairwise(fixed)} | {1, -1}
    return sorted({(v << shift >> 1) + d for v in doubled for d in (-1, 0, 1)})


@pytest.mark.parametrize("name", [f.name for f in all_formats()])
@pytest.mark.parametrize("shift", [0, 1, 2, 5, 17, 40, 70, 127])
def test_points_and_ties(name, shift):
    f = parse_format(name)
    t = around_ties(f, shift)
    want = [ref_round(Fraction(v, 2**shift), f) for v in t]
    assert round_shift(t, shift, f).tolist() == want
    assert requantize(t, 1, shift, f).tolist() == [ref_requantize(f, v, 1, shift) for v in t]


integers = st.integers(1, 130).flatmap(lambda bits: st.integers(-(1 << bits), 1 << bits))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FORMATS), st.lists(st.tuples(integers, st.integers(0, 127)), min_size=1, max_size=5))
def test_round_shift(name, pairs):
    f = parse_format(name)
    t, shift = zip(*pairs, strict=True)
    got = round_shift(np.array(t, object), shift, f)
    assert got.tolist() == [ref_round(Fraction(a, 2**s), f) for a, s in pairs]


@st.composite
def requantizations(draw):
    f = parse_format(draw(st.sampled_from(FORMATS)))
    bits = draw(st.sampled_from([8, 20, 31, 36, 48, 61, 62, 63, 64, 80]))
    n = draw(st.integers(1, 4))
    acc = draw(st.lists(st.integers(-(1 << bits), (1 << bits) - 1), min_size=n, max_size=n))
    multiplier = draw(st.lists(st.integers(1, 65535), min_size=n, max_size=n))
    least = draw(st.integers(0, 100))
    shift = draw(st.lists(st.integers(least, 127), min_size=n, max_size=n))
    addend = draw(st.just(0) | st.integers(-(1 << bits + 12), 1 << bits + 12))
    zero_point = draw(st.integers(-256, 255)) if isinstance(f, Integer) else 0
    low, high = sorted(draw(st.tuples(*[st.integers(f.min_fixed, f.max_fixed)] * 2)))
    if draw(st.booleans()):
        low = high = None
    return f, acc, multiplier, shift, zero_point, low, high, addend


@settings(max_examples=600, deadline=None)
@given(requantizations())
def test_requantize(case):
    f, acc, multiplier, shift, zero_point, low, high, addend = case
    got = requantize(acc, multiplier, shift, f, zero_point, low, high, addend)
    assert got.dtype == np.uint8
    rows = zip(acc, multiplier, shift, strict=True)
    assert got.tolist() == [ref_requantize(f, a, m, s, zero_point, low, high, addend) for a, m, s in rows]


@pytest.mark.parametrize("name", ["int8", "e4m3fn", "e3m0"])
@pytest.mark.parametrize("bits", [30, 45, 60, 75])
def test_paths_agree(name, bits):
    """float64, shortened, limbs and Python integers: the same numbers, scaled up by a power of two."""
    f, rng = parse_format(name), np.random.default_rng(bits)
    acc = rng.integers(-(1 << 30), 1 << 30, (40, 50))
    multiplier, shift = rng.integers(1, 1 << 16, 50), rng.integers(30, 42, 50)
    up = bits - 30
    scaled = acc.astype(object) << up
    assert np.array_equal(
        requantize(scaled, multiplier, shift + up, f), requantize(acc, multiplier, shift, f)
    )


def test_broadcasting_in_blocks():
    rng, f = np.random.default_rng(1), parse_format("int8")
    acc, addend = (
        rng.integers(-(1 << 20), 1 << 20, (2, 3, 150, 64)),
        rng.integers(-(1 << 30), 1 << 30, (3, 150, 64)),
    )
    multiplier, shift = rng.integers(1, 1 << 16, 64), rng.integers(24, 30, 64)
    got = requantize(acc, multiplier, shift, f, 3, -100, 90, addend)
    assert got.shape == acc.shape
    for i in (0, 1):
        assert np.array_equal(
            got[i, 2, 149], requantize(acc[i, 2, 149], multiplier, shift, f, 3, -100, 90, addend[2, 149])
        )
    again = requantize(acc.reshape(-1), np.tile(multiplier, 900), np.tile(shift, 900), f, 3, -100, 90,
                       np.concatenate([addend, addend]).reshape(-1))  # fmt: skip
    assert np.array_equal(got.ravel(), again)
    assert requantize(acc[0, 0], multiplier[:, None, None, None], 20, f).shape == (64, 1, 150, 64)


def test_zero_is_plus_zero():
    for name in ("e3m2", "e4m3fn", "e3m0", "int8"):
        assert requantize([-1, 0, 1], 1, 10, parse_format(name)).tolist() == [0, 0, 0]


def test_empty():
    f = parse_format("int8")
    assert requantize(np.zeros((0, 4), np.int64), np.ones(4, np.int64), 3, f).shape == (0, 4)
    assert round_shift(np.zeros(0, np.int64), 3, f).shape == (0,)


def test_refuses():
    f = parse_format("int8")
    with pytest.raises(FormatError, match="acc must be integers, not float64"):
        requantize(np.array([1.5]), 1, 0, f)
    with pytest.raises(FormatError, match="shift -1 to -1; it must be 0 to"):
        round_shift(1, -1, f)
    with pytest.raises(FormatError, match="int8: the clamp is empty, low = 5 and high = 4"):
        requantize([1], 1, 0, f, low=5, high=4)
