"""Integer softmax and normalization: against exact fractions, and within a step of the real function."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sateen.formats import parse_format
from sateen.formats.catalog import all_formats
from sateen.formats.rows import (
    EPSILON_FRACTION,
    GUARD_BITS,
    MANTISSA_BITS,
    MOST_ELEMENTS,
    Exponentials,
    exponentials,
    fraction_bits,
    normalize_rows,
    reciprocal,
    reciprocal_bits,
    significand_bits,
    softmax_rows,
    variance_bits,
)

EIGHT = [f for f in all_formats() if f.bits == 8]


def slow_normalize(x, fmt, count, epsilon, centred):
    """By Python's integers, one by one."""
    total = sum(x) if centred else 0
    variance = (count * sum(v * v for v in x) - total * total << EPSILON_FRACTION) + epsilon
    places, kept = reciprocal_bits(fmt), significand_bits(fmt)
    bits = variance.bit_length() + variance.bit_length() % 2
    significand = variance << kept >> bits if bits else 0
    inverse = (4 << places) - 1
    if significand:
        # the greatest r with r * r * significand <= 2**(kept + 2 * places)
        inverse = min(inverse, isqrt((1 << kept + 2 * places) // significand))
    shift = (bits - EPSILON_FRACTION) // 2 + places - fraction_bits(fmt)
    products = [(count * v - total) * inverse for v in x]
    return [p >> shift if shift >= 0 else p << -shift for p in products]


def slow_softmax(codes, table, fmt):
    m, e = ([int(v) for v in np.take(f, codes)] for f in (table.mantissa, table.exponent))
    most = max(e)
    total = sum((a << GUARD_BITS) >> (most - b) for a, b in zip(m, e, strict=True))
    bits, inverse = (int(v[0]) for v in reciprocal(np.array([total]), fmt, root=False))
    shift = bits - GUARD_BITS + reciprocal_bits(fmt) - fraction_bits(fmt)
    return [
        int(Fraction(a * inverse) / Fraction(2) ** (shift + most - b) // 1) for a, b in zip(m, e, strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(["int8", "uint8", "int4", "e4m3", "e5m2", "e2m1"]))
def test_normalization_is_the_definition(data, name):
    fmt = parse_format(name)
    x = data.draw(st.lists(st.integers(fmt.min_fixed, fmt.max_fixed), min_size=1, max_size=9))
    epsilon, centred = data.draw(st.integers(0, 1 << 40)), data.draw(st.booleans())
    count = len(x) if centred or data.draw(st.booleans()) else 1
    found = normalize_rows(np.array([x]), fmt, count=count, epsilon=epsilon, centred=centred)
    assert found[0].tolist() == slow_normalize(x, fmt, count, epsilon, centred)
    turned = normalize_rows(np.array([x[::-1]]), fmt, count=count, epsilon=epsilon, centred=centred)
    assert turned[0].tolist() == found[0].tolist()[::-1]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(["int8", "uint8", "int4", "e4m3", "e5m2"]))
def test_softmax_is_the_definition(data, name):
    fmt = parse_format(name)
    finite = fmt.codes[np.isfinite(fmt.decode(fmt.codes))]
    codes = np.array(data.draw(st.lists(st.sampled_from(finite.tolist()), min_size=1, max_size=9)))
    scale = 10.0 ** data.draw(st.floats(-3, 2))
    table = exponentials(fmt.fixed(fmt.codes) * scale / max(fmt.max_fixed, -fmt.min_fixed))
    assert softmax_rows(codes[None], table, fmt)[0].tolist() == slow_softmax(codes, table, fmt)


@pytest.mark.parametrize("fmt", EIGHT, ids=str)
def test_a_reciprocal_is_cut_off(fmt):
    """Its error is less than its last place, of a significand that is cut off."""
    rng = np.random.default_rng(0)
    bits = rng.integers(10, variance_bits(fmt), 50)
    totals = np.array([int(rng.integers(1 << 9, 1 << 10)) << int(b - 10) for b in bits], object)
    for root in (False, True):
        even, inverse = reciprocal(totals, fmt, root=root)
        assert (even % 2 == 0).all() and all(t < 1 << int(b) for t, b in zip(totals, even, strict=True))
        v = np.array([float(Fraction(t, 1 << int(b))) for t, b in zip(totals, even, strict=True)])
        assert (v >= 0.25).all()
        wanted = (1 / np.sqrt(v) if root else 1 / v) * 2.0 ** reciprocal_bits(fmt)
        assert ((inverse <= wanted) & (inverse > wanted - 1.01)).all()


@pytest.mark.parametrize("fmt", EIGHT, ids=str)
@pytest.mark.parametrize("length", [1, 2, 33, 400])
def test_within_a_step(fmt, length):
    """What is left of the error is far below the finest step, so that rounding decides between neighbours alone."""
    rng = np.random.default_rng(length)
    codes = fmt.encode(rng.uniform(fmt.min, fmt.max, (20, length)))
    fixed = fmt.fixed(codes)
    values = fixed.astype(np.float64)
    table = exponentials(fmt.fixed(fmt.codes) * 8.0 / fmt.max_fixed)
    power = np.exp(8.0 * values / fmt.max_fixed)
    wanted = power / power.sum(axis=1, keepdims=True)
    unit = 2.0 ** -fraction_bits(fmt)
    found = softmax_rows(codes, table, fmt) * unit
    assert (np.abs(found - wanted) <= wanted * 2.0**-14 + unit).all()
    y = normalize_rows(fixed, fmt, count=length, epsilon=5) * unit
    d = values - values.mean(axis=1, keepdims=True)
    wanted = d / np.sqrt((d**2).mean(axis=1, keepdims=True) + 5 / 256 / length**2)
    assert (np.abs(y - wanted) <= np.abs(wanted) * 2.0 ** (1 - reciprocal_bits(fmt)) + unit).all()


def test_extremes():
    """Equal elements, one element, the longest row, and exponents that end."""
    fmt = parse_format("int8")
    assert not normalize_rows(np.full((1, 7), -128), fmt, count=7, epsilon=0).any()
    one = normalize_rows(np.array([[127]]), fmt, count=1, epsilon=1)
    assert one[0, 0] == 0
    x = np.full((1, MOST_ELEMENTS), -128)
    x[0, 0] = 127
    y = normalize_rows(x, fmt, count=MOST_ELEMENTS, epsilon=0)
    assert y[0, 0] * 2.0 ** -fraction_bits(fmt) == pytest.approx((MOST_ELEMENTS - 1) ** 0.5, rel=1e-4)
    table = exponentials(np.linspace(-1e6, 1e6, 256))
    assert table.exponent.min() == 0 and table.exponent.max() == (1 << 16) - 1
    assert (table.mantissa >= 1 << MANTISSA_BITS - 1).all()
    back = Exponentials.of_words(table.words)
    assert (back.mantissa == table.mantissa).all() and (back.exponent == table.exponent).all()
    # the largest reciprocal is a place below 4
    quarter = (1 << fraction_bits(fmt) - 2) - 1
    assert softmax_rows(np.zeros((1, 4), np.uint8), table, fmt).tolist() == [[quarter] * 4]
