"""Every code of every format against exact rational arithmetic written here, ml_dtypes and gfloat."""

from __future__ import annotations

import bisect
import re
from fractions import Fraction

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest

from sateen.errors import FormatError
from sateen.formats import Format, Integer, Minifloat, all_formats, parse_format

FORMATS = [*all_formats(), parse_format("e4m3b11"), parse_format("e2m3b0"), parse_format("e3m0b63")]
INTEGERS = [f for f in FORMATS if isinstance(f, Integer)]
MINIFLOATS = [f for f in FORMATS if isinstance(f, Minifloat)]
by_name = {"ids": str}

ML_DTYPES = {
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "int1": ml_dtypes.int1,
    "int2": ml_dtypes.int2,
    "int4": ml_dtypes.int4,
    "int8": np.int8,
    "uint1": ml_dtypes.uint1,
    "uint2": ml_dtypes.uint2,
    "uint4": ml_dtypes.uint4,
    "uint8": np.uint8,
}


def codes(f: Format) -> np.ndarray:
    return np.arange(1 << f.bits, dtype=np.uint8)


def ref_decode(name: str, code: int) -> Fraction | str:
    """The value of a code, from the format's name alone; "nan", "inf" and "-inf" where that is no number."""
    if match := re.fullmatch(r"(u?)int(\d)(n?)", name):
        bits = int(match[2])
        negative = not match[1] and code >= 1 << (bits - 1)
        return Fraction(code - (1 << bits) if negative else code)
    match = re.fullmatch(r"e(\d)m(\d)(?:b(\d+))?(fn)?", name)
    assert match
    e, m = int(match[1]), int(match[2])
    bias = int(match[3]) if match[3] else 2 ** (e - 1) - 1
    negative, exponent, mantissa = code >> (e + m), code >> m & (2**e - 1), code & (2**m - 1)
    if name == "e4m3fn" and (exponent, mantissa) == (15, 7):
        return "nan"
    if name == "e5m2" and exponent == 31:
        return "nan" if mantissa else ("-inf" if negative else "inf")
    significand = Fraction(mantissa, 2**m) + (exponent > 0)
    value = significand * Fraction(2) ** (max(exponent, 1) - bias)
    return -value if negative else value


def grid(f: Format) -> list[tuple[Fraction, int]]:
    """(value, code) of what encode may give, ascending; of the two zeros only +0."""
    found = {}
    for code in range(1 << f.bits):
        value = ref_decode(f.name, code)
        if isinstance(value, Fraction):
            found.setdefault(value, code)
    if f.name.endswith("n") and f.name.startswith("int"):
        del found[min(found)]
    return sorted(found.items())


def ref_encode(f: Format, points: list[tuple[Fraction, int]], x: float) -> int:
    """The nearest value's code, ties to the even code, by exact comparison; the sign of a zero is x's."""
    exact = Fraction(x)
    i = bisect.bisect(points, exact, key=lambda p: p[0])
    value, code = min(points[max(i - 1, 0) : i + 1], key=lambda p: (abs(p[0] - exact), p[1] & 1))
    if isinstance(f, Minifloat) and value == 0 and np.signbit(x):
        code |= 1 << (f.bits - 1)
    return code


def cases(f: Format) -> np.ndarray:
    """Values, midpoints, their float64 neighbours, quarters, beyond, tiny and huge, both signs of zero."""
    values = np.array([float(v) for v, _ in grid(f)])
    middles = (values[1:] + values[:-1]) / 2
    quarters = np.concatenate([(3 * values[1:] + values[:-1]) / 4, (values[1:] + 3 * values[:-1]) / 4])
    beyond = [values[-1] + (values[-1] - values[-2]) * k / 2 for k in (1, 2, 3)]
    points = np.concatenate([values, middles, quarters, beyond])
    tiny, huge = np.finfo(float).smallest_subnormal, np.finfo(float).max
    return np.concatenate(
        [
            points,
            -points,
            np.nextafter(points, np.inf),
            np.nextafter(points, -np.inf),
            [0.0, -0.0, tiny, -tiny, huge, -huge, 0.5 * 2.0**f.lsb_exponent],
        ]
    )


@pytest.mark.parametrize("f", FORMATS, **by_name)
def test_every_code_decodes_to_its_value(f):
    assert f.decode(codes(f)).dtype == np.float64
    for code, got in zip(codes(f), f.decode(codes(f)), strict=True):
        want = ref_decode(f.name, int(code))
        if isinstance(want, str):
            assert np.isnan(got) if want == "nan" else got == float(want)
        else:
            assert Fraction(float(got)) == want
            if want == 0:
                assert np.signbit(got) == (isinstance(f, Minifloat) and code != 0)


@pytest.mark.parametrize("f", FORMATS, **by_name)
def test_fixed_times_lsb_is_the_value(f):
    fixed = f.fixed(codes(f))
    assert fixed.dtype == np.int64
    for code, got in zip(codes(f), fixed, strict=True):
        want = ref_decode(f.name, int(code))
        if isinstance(want, Fraction):
            assert int(got) * Fraction(2) ** f.lsb_exponent == want
        else:  # saturated, the sign kept
            assert got == (f.min_fixed if code >> (f.bits - 1) else f.max_fixed)
    assert 1 in fixed or f.name == "int1", "the lsb is the least magnitude"


@pytest.mark.parametrize("f", FORMATS, **by_name)
def test_limits(f):
    values = [v for v, _ in grid(f)]
    assert (Fraction(f.min), Fraction(f.max)) == (values[0], values[-1])
    lsb = Fraction(2) ** f.lsb_exponent
    assert (f.min_fixed * lsb, f.max_fixed * lsb) == (values[0], values[-1])
    assert Fraction(f.smallest) == min(abs(v) for v in values if v) == lsb
    # the least width that holds every fixed-point value
    fixed = f.fixed(codes(f))
    assert fixed.min() >= -(1 << (f.fixed_bits - 1)) and fixed.max() < 1 << (f.fixed_bits - 1)
    narrower = 1 << f.fixed_bits >> 2
    assert f.fixed_bits == 1 or fixed.min() < -narrower or fixed.max() >= narrower
    assert f.decode(f.zero_code) == 0 and not np.signbit(f.decode(f.zero_code))


@pytest.mark.parametrize("f", FORMATS, **by_name)
def test_every_code_comes_back(f):
    values = f.decode(codes(f))
    skip = ~np.isfinite(values) | (values < f.min)  # specials below; the code that narrow leaves out
    assert np.array_equal(f.encode(values[~skip]), codes(f)[~skip])


@pytest.mark.parametrize("f", FORMATS, **by_name)
def test_encode_is_nearest_with_ties_to_even(f):
    points, x = grid(f), cases(f)
    got = f.encode(x)
    assert got.dtype == np.uint8
    wrong = [(v, int(c)) for v, c in zip(x, got, strict=True) if c != ref_encode(f, points, v)]
    assert not wrong


@pytest.mark.parametrize("f", FORMATS, **by_name)
def test_infinities_saturate(f):
    assert np.array_equal(f.decode(f.encode([np.inf, -np.inf])), [f.max, f.min])


@pytest.mark.parametrize("f", FORMATS, **by_name)
def test_encode_nan(f):
    x = [1.0, np.nan, 0.0, np.copysign(np.nan, -1)]
    if f.name in ("e4m3fn", "e5m2"):
        got = f.encode(x)
        assert np.array_equal(np.isnan(f.decode(got)), np.isnan(x))
        assert np.array_equal(got, np.array(x).astype(ML_DTYPES[f.name]).view(np.uint8))
    else:
        with pytest.raises(FormatError, match=rf"^{f.name}: cannot encode NaN"):
            f.encode(x)


@pytest.mark.parametrize("f", FORMATS, **by_name)
def test_scalars_shapes_and_types_agree(f):
    x = cases(f)[:24].reshape(2, 3, 4)
    got = f.encode(x)
    assert got.shape == x.shape and f.decode(got).shape == x.shape
    one_by_one = [int(f.encode(v)) for v in x.flat]
    assert one_by_one == got.ravel().tolist()
    assert np.array_equal(f.encode(x.transpose(2, 0, 1)), got.transpose(2, 0, 1))
    assert np.array_equal(f.decode(got.astype(np.int64)), f.decode(got), equal_nan=True)
    small = np.array([-3, 0, 1, 2])
    assert np.array_equal(f.encode(small), f.encode(small.astype(np.float32)))
    assert f.encode(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("f", FORMATS, **by_name)
def test_from_fixed(f):
    lsb = 2.0**f.lsb_exponent
    near = np.unique(np.concatenate([f.fixed(codes(f)) + d for d in (-2, -1, 0, 1, 2)]))
    middles = (near[1:] + near[:-1]) // 2
    fixed = np.unique(np.concatenate([near, middles, middles + 1, 3 * near[[0, -1]]]))
    want = f.encode(fixed * lsb)
    assert np.array_equal(f.from_fixed(fixed), want)
    assert np.array_equal(f.from_fixed(fixed.astype(object)), want)
    assert np.array_equal(f.from_fixed([10**40, -(10**40)]), f.encode([np.inf, -np.inf]))
    assert f.from_fixed(0) == f.zero_code and f.from_fixed(-0) == f.zero_code
    assert np.array_equal(f.from_fixed(np.array([2**64 - 1], np.uint64)), f.encode([np.inf]))


@pytest.mark.parametrize("name", ML_DTYPES)
def test_as_ml_dtypes(name):
    f, dtype = parse_format(name), ML_DTYPES[name]
    theirs = codes(f).view(dtype).astype(np.float64)
    ours = f.decode(codes(f))
    assert np.array_equal(ours.view(np.int64)[~np.isnan(ours)], theirs.view(np.int64)[~np.isnan(theirs)])
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    if isinstance(f, Minifloat):
        # ml_dtypes gives NaN or infinity beyond the range and rounds float64 twice (via float32): compare
        # within the range, on float32 and its neighbours; signed zeros by bits
        x = np.clip(cases(f), f.min, f.max).astype(np.float32)
        x = np.concatenate([x, np.nextafter(x, np.float32(0))])
        mask = (1 << f.bits) - 1
        assert np.array_equal(f.encode(x), x.astype(dtype).view(np.uint8) & mask)


def gfloat_info(f: Minifloat) -> gfloat.FormatInfo:
    if f.specials != "none":
        return {"e4m3fn": gfloat.formats.format_info_ocp_e4m3, "e5m2": gfloat.formats.format_info_ocp_e5m2}[
            f.name
        ]
    return gfloat.FormatInfo(
        f.name,
        f.bits,
        f.mantissa_bits + 1,
        bias=f.bias,
        is_signed=True,
        domain=gfloat.Domain.Finite,
        has_nz=True,
        num_high_nans=0,
        has_subnormals=True,
        is_twos_complement=False,
    )


@pytest.mark.parametrize("f", MINIFLOATS, **by_name)
def test_as_gfloat(f):
    info = gfloat_info(f)
    ours = f.decode(codes(f))
    theirs = np.array([gfloat.decode_float(info, int(c)).fval for c in codes(f)])
    assert np.array_equal(ours, theirs, equal_nan=True)
    number = ~np.isnan(ours)
    assert np.array_equal(np.signbit(ours[number]), np.signbit(theirs[number]))
    x = cases(f)
    rounded = [gfloat.round_float(info, v, gfloat.RoundMode.TiesToEven, sat=True) for v in x]
    wrong = [(v, t, int(c)) for v, t, c in zip(x, rounded, f.encode(x), strict=True) if f.decode(c) != t]
    assert not wrong
    assert np.array_equal(f.encode(x), [gfloat.encode_float(info, v) for v in rounded])


def test_codes_are_checked():
    int4 = parse_format("int4")
    with pytest.raises(FormatError, match=r"^int4: code 16 is outside 0 to 15; .*two's complement"):
        int4.decode(np.array([0, 16], np.uint8))
    with pytest.raises(FormatError, match=r"^int4: code -1 is outside 0 to 15"):
        int4.fixed([-1])
    with pytest.raises(FormatError, match=r"^int4: codes must be integers \(uint8\), not float64"):
        int4.decode(1.0)
    assert int4.decode(np.zeros((0,), np.int64)).shape == (0,)
    assert (int4.decode(0xF), int4.encode(-1), parse_format("int8").encode(-1)) == (-1, 0xF, 0xFF)


@pytest.mark.parametrize("bad", [1j, "one", [[1], [2, 3]]], ids=str)
def test_values_are_checked(bad):
    values = np.array(bad, object) if isinstance(bad, list) else bad
    with pytest.raises(FormatError, match=r"^e3m2: values to encode must be real numbers, not "):
        parse_format("e3m2").encode(values)


@pytest.mark.parametrize("name", ["uint8", "e3m2"])
def test_fixed_values_are_checked(name):
    with pytest.raises(FormatError, match=rf"^{name}: fixed-point values must be integers, not float64"):
        parse_format(name).from_fixed(np.ones(1))
    with pytest.raises(FormatError, match="must be integers, not float;"):
        parse_format(name).from_fixed(np.array([10**30, 0.5], object))
