"""Two codes of a narrow integer for one of a wider: every code of every pair of formats."""

import numpy as np
import pytest

from sateen.formats import all_formats, parse_format
from sateen.formats.digits import two_digits

PAIRS = [
    (whole, digit, found)
    for whole in all_formats()
    for digit in all_formats()
    if (found := two_digits(whole, digit)) is not None
]


@pytest.mark.parametrize(("whole", "digit", "digits"), PAIRS, ids=lambda x: getattr(x, "name", ""))
def test_digits_are_codes_and_count_as_what_they_are_of(whole, digit, digits):
    high, low = (digit.fixed(digits.split(whole.codes, h)) for h in (True, False))
    values = (high << digit.bits) + low
    assert np.array_equal(values, digits.value(whole.codes))
    assert np.array_equal(values, np.minimum(whole.fixed(whole.codes), digits.most))
    least, most = digits.reach
    assert least == min(values.min(), (high << digit.bits).min())
    assert most == max(values.max(), (high << digit.bits).max())
    assert digits.saturates == bool((whole.fixed(whole.codes) > digits.most).any())


def test_which_formats_have_digits():
    assert {(w.name, d.name) for w, d, _ in PAIRS if w.name == "int8"} == {
        ("int8", f"int{b}{n}") for b in range(4, 8) for n in ("", "n")
    }
    assert two_digits(parse_format("int8"), parse_format("int4")).most == 119
    for whole, digit in (
        ("int8", "int3"),
        ("uint8", "int4"),
        ("int8", "uint4"),
        ("e4m3", "e2m1"),
        ("int8", "int8"),
    ):
        assert two_digits(parse_format(whole), parse_format(digit)) is None
