"""The fast requantization against the definition in Python fractions, on every arithmetic that it may choose."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import slow_reference
from hypothesis import given, settings
from hypothesis import strategies as st

from sateen.formats import parse_format
from sateen.ir.quantized import Constant, Linear, Quant, Residual
from sateen.sim.requantizer import Requantizer

PATHS = {"float": 30, "int": 58, "exact": 76}
"""Bits of the accumulators that lead to each."""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["int8", "uint5", "int1", "e3m2", "e2m1", "e4m0", "e4m3fn", "e5m2"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_equals_the_definition(path, name, data):
    fmt = parse_format(name)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    bits, channels = PATHS[path] - 16, 4
    zero = int(rng.integers(fmt.min_fixed, fmt.max_fixed + 1)) if fmt.uniform else 0
    bounds = fmt.fixed(np.arange(1 << fmt.bits))
    bounds = np.clip(np.sort(rng.choice(bounds, 2)), fmt.min_fixed, fmt.max_fixed)
    low, high = (int(b) for b in bounds) if rng.integers(2) else (fmt.min_fixed, fmt.max_fixed)
    middle = max(0, bits + 16 - fmt.fixed_bits)  # the shift that brings accumulators into the format's range
    shift = np.clip(rng.integers(middle - 6, middle + 6, channels), 0, 127)
    if data.draw(st.booleans()):
        shift[:2] = 0, 127
    multiplier = 1 << rng.integers(0, 16, channels)
    if rng.integers(2):
        multiplier = rng.integers(1, 1 << 16, channels)
    multiplier[0] = 65535
    residual = None
    if path == "float" and data.draw(st.booleans()):
        residual = Residual("r", int(rng.integers(1, 256)), int(shift.min()))
        shift = np.minimum(shift, residual.shift + 10)
    largest = (1 << bits) - 1
    bias = [largest, *map(int, rng.integers(-largest, largest, channels - 1))]
    op = Linear(
        "op",
        "x",
        "y",
        Constant(np.zeros((channels, 1, 1, 1), np.uint8), parse_format("int8")),
        np.array(bias, np.int64 if path != "exact" else object),
        multiplier,
        shift,
        Quant(fmt, 1.0, zero),
        low,
        high,
        residual=residual,
        table=rng.permutation(1 << fmt.bits).astype(np.uint8) if rng.integers(2) else None,
    )
    requantizer = Requantizer(op, largest, 300)
    if fmt.name != "e5m2" and not (shift == 0).any():
        assert requantizer._path == path
    acc = rng.integers(-largest, largest + 1, (1, 5, 5, channels))
    acc[0, 0] >>= bits // 2
    values = rng.integers(-300, 301, acc.shape)
    given_acc = acc.astype(object) if path == "exact" else acc.astype(np.float64)
    found = requantizer(given_acc, values if residual else None)
    for at in np.ndindex(acc.shape):
        c = at[-1]
        t = Fraction((int(acc[at]) + int(bias[c])) * int(op.multiplier[c]), 1 << int(shift[c]))
        if residual:
            t += Fraction(int(values[at]) * residual.multiplier, 1 << residual.shift)
        assert found[at] == slow_reference.requantize(t, op), (at, t)
