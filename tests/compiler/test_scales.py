"""Scale search against brute force, and the shapes that samples can take."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sateen.compiler.quantize.scales import (
    METHODS,
    Observed,
    Samples,
    activation_quant,
    grid,
    normalised,
    weight_scales,
)
from sateen.errors import DataError
from sateen.formats import Minifloat, all_formats, parse_format


def seen(values) -> Observed:
    values = np.asarray(values, np.float64)
    return Observed("t", float(values.min()), float(values.max()), values)


def error(quant, values) -> float:
    return float(((quant.dequantize(quant.quantize(values)) - values) ** 2).sum())


@pytest.mark.parametrize("fmt", all_formats(), ids=str)
def test_prefix_sums_are_the_error_of_rounding(fmt):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, 300)
    scales = [0.01, 0.3, 1.0]
    found = Samples(x).errors(np.array([grid(fmt) * s for s in scales]))
    expected = [((fmt.decode(fmt.encode(x / s)) * s - x) ** 2).sum() for s in scales]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_error_after_a_function():
    x = np.random.default_rng(0).normal(0, 1, 200)
    fmt = parse_format("int4")
    found = Samples(x, np.tanh).errors(grid(fmt) * 0.2)
    expected = ((np.tanh(fmt.decode(fmt.encode(x / 0.2)) * 0.2) - np.tanh(x)) ** 2).sum()
    np.testing.assert_allclose(found, [expected], rtol=1e-9)


@pytest.mark.parametrize("fmt", all_formats(), ids=str)
def test_any_samples_in_any_format(fmt):
    x = np.random.default_rng(1).normal(0, 1, 400)
    kinds = {
        "normal": x,
        "relu": np.maximum(x, 0),
        "negative": -np.abs(x) - 1,
        "constant": np.full(5, 3.0),
        "zero": np.zeros(5),
        "tiny": x * 1e-30,
    }
    coarse = fmt.bits < 4 or getattr(fmt, "mantissa_bits", 1) == 0
    for kind, method, power_of_two in itertools.product(kinds, METHODS, (False, True)):
        x = kinds[kind]
        quant = activation_quant(seen(x), fmt, method=method, power_of_two=power_of_two)
        assert 0 < quant.scale < np.inf
        assert quant.scale == np.float32(quant.scale)
        assert fmt.min_fixed <= quant.zero_point <= fmt.max_fixed
        assert quant.dequantize(np.array([quant.zero_code])) == 0
        if isinstance(fmt, Minifloat):  # a value of the format
            assert fmt.fixed(fmt.from_fixed(np.array([quant.zero_point]))) == quant.zero_point
        if power_of_two:
            assert np.log2(quant.scale) % 1 == 0
        if kind in ("normal", "relu", "constant") and not coarse:
            assert error(quant, x) <= 0.08 * (x**2).sum()


@pytest.mark.parametrize("name", ["int8", "int4", "uint8", "uint3", "int8n"])
@pytest.mark.parametrize("shape", ["normal", "relu", "shifted", "outlier"])
def test_mse_is_near_the_best_of_a_dense_search(name, shape):
    fmt = parse_format(name)
    x = np.random.default_rng(2).normal(0, 1, 500)
    x = {
        "normal": x,
        "relu": np.maximum(x, 0),
        "shifted": np.maximum(x, -0.3),
        "outlier": np.append(x, 30.0),
    }[shape]
    found = error(activation_quant(seen(x), fmt), x)
    low, high = min(x.min(), 0), max(x.max(), 0)
    best = np.inf
    for f, g in np.ndindex(40, 40):
        scale = (high * (f + 1) / 40 - low * (g + 1) / 40) / (fmt.max_fixed - fmt.min_fixed)
        zero = np.clip(np.rint(fmt.min_fixed - low * (g + 1) / 40 / scale), fmt.min_fixed, fmt.max_fixed)
        codes = np.clip(np.rint(x / scale) + zero, fmt.min_fixed, fmt.max_fixed)
        best = min(best, (((codes - zero) * scale - x) ** 2).sum())
    assert found <= 1.1 * best + 1e-12


def test_a_zero_point_where_it_lowers_the_error():
    x = np.abs(np.random.default_rng(0).normal(0, 1, 1000))
    assert activation_quant(seen(x), parse_format("int8")).zero_point == -128
    assert activation_quant(seen(x), parse_format("uint8")).zero_point == 0
    assert activation_quant(seen(x - 0.5), parse_format("uint8")).zero_point > 0


def test_unknown_method():
    with pytest.raises(DataError, match="scale method 'best' is unknown; it must be mse, minmax, percentile"):
        activation_quant(seen([1.0]), parse_format("int8"), method="best")


@pytest.mark.parametrize("fmt", [f for f in all_formats() if f.min_fixed < 0 and f.bits > 1], ids=str)
@pytest.mark.parametrize("power_of_two", [False, True])
def test_weight_scales(fmt, power_of_two):
    rng = np.random.default_rng(3)
    weight = rng.normal(0, 1, (6, 3, 3, 4)) * np.exp2(rng.integers(-8, 8, 6))[:, None, None, None]
    weight[2] = 0
    covering = weight_scales(weight, fmt, method="minmax", power_of_two=power_of_two)
    best = weight_scales(weight, fmt, method="mse", power_of_two=power_of_two)
    assert covering[2] == best[2] == 1
    assert (best == best.astype(np.float32)).all()

    def errors(scale):
        scale = scale[:, None, None, None]
        return ((fmt.decode(fmt.encode(weight / scale)) * scale - weight) ** 2).sum(axis=(1, 2, 3))

    assert (errors(best) <= errors(covering) * (1 + 1e-9)).all()
    reach = np.abs(weight).max(axis=(1, 2, 3))
    assert (reach <= covering * max(fmt.max, -fmt.min) * (1 + 1e-6)).all()
    if power_of_two:
        assert (np.log2(best) % 1 == 0).all()


@given(st.floats(2.0**-140, 65535.0))
def test_normalised_multipliers(m):
    multiplier, shift = normalised(m)
    assert 1 <= multiplier <= 65535
    assert 0 <= shift <= 127
    if m >= 2.0**-111:
        assert multiplier >= 1 << 15
        assert abs(multiplier * 2.0**-shift - m) <= 2.0**-16 * m


def test_a_multiplier_that_does_not_fit():
    with pytest.raises(OverflowError):
        normalised(70000.0)
