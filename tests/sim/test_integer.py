"""The exact convolution against Python integers, at and beyond every bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sateen.sim.integer import FLOAT32_EXACT, FLOAT64_EXACT, INT64_EXACT, Convolution, conv, magnitude_bound


def slow(x, weight, stride=(1, 1), dilation=(1, 1), pads=(0, 0, 0, 0), groups=1, padding=0):
    """Python integers, one element at a time."""
    top, left, bottom, right = pads
    # objects only after padding, which would put np.int64 among the Python integers
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=padding).astype(object)
    o, kh, kw, i = weight.shape
    oh = (x.shape[1] - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    ow = (x.shape[2] - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    out = np.zeros((len(x), oh, ow, o), object)
    for n, y, c, k in np.ndindex(*out.shape):
        first = k // (o // groups) * i
        ys = y * stride[0] + np.arange(kh) * dilation[0]
        xs = c * stride[1] + np.arange(kw) * dilation[1]
        window = x[n][ys][:, xs][..., first : first + i]
        out[n, y, c, k] = (window * weight[k].astype(object)).sum()
    return out


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_python_integers(data):
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    i, o = draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    options = {
        "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "dilation": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "pads": draw(st.tuples(*[st.integers(0, 2)] * 4)),
        "groups": groups,
    }
    a_bits, w_bits = draw(st.integers(1, 33)), draw(st.integers(1, 33))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    options["padding"] = int(rng.integers(-(1 << a_bits), 1 << a_bits))
    x = rng.integers(-(1 << a_bits), 1 << a_bits, (2, 6, 5, i * groups))
    weight = rng.integers(-(1 << w_bits), 1 << w_bits, (o, *kernel, i))
    found = conv(x, weight, **options)
    assert (found == slow(x, weight, **options)).all()


@pytest.mark.parametrize("limit", [FLOAT32_EXACT, FLOAT64_EXACT, INT64_EXACT])
@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_the_arithmetic_changes_where_the_bound_does(limit, over, groups):
    """All products of one sign and the largest size: the sum is the bound itself, odd so that a lost bit shows."""
    terms, largest = 3, 5
    weight = np.full((3, 1, 1, terms), (limit - 1) // (terms * largest), np.int64)
    weight[:, 0, 0, 0] += (limit - 1 - magnitude_bound(weight, largest)) // largest + over
    x = np.full((1, 2, 2, terms * groups), -largest)
    layer = Convolution(weight, largest, groups=groups)
    assert (layer.bound >= limit) == over
    expected = {FLOAT32_EXACT: (np.float32, np.float64), FLOAT64_EXACT: (np.float64, np.int64)}
    if limit in expected:
        assert layer.dtype == expected[limit][over]
    found = layer(x)
    assert (found.dtype == object) == (limit == INT64_EXACT and over)
    assert (found.astype(object) == -layer.bound).all()


def test_depthwise_does_not_build_a_dense_matrix():
    weight = np.ones((64, 3, 3, 1), np.int64)
    layer = Convolution(weight, 127, groups=64)
    assert sum(p.size for p in layer._parts) == weight.size
    assert (layer(np.full((1, 3, 3, 64), 2)) == 18).all()


def test_a_kernel_larger_than_the_plane_gives_nothing():
    assert conv(np.ones((1, 2, 2, 1), np.int64), np.ones((1, 3, 3, 1), np.int64)).shape == (1, 0, 0, 1)
