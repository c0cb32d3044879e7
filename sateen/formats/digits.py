"""A code of a wide integer as two codes of a narrower one, for weights that are computed and narrower than activations.

    v = (high << bits) + low,   low = v modulo 2**bits as a signed number,   high = (v + 2**(bits - 1)) >> bits

Two digits hold at most (2**bits + 1) * (2**(bits - 1) - 1), 119 for int4; what is larger counts as that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sateen.formats.base import Format


@dataclass(frozen=True, slots=True)
class Digits:
    """What `two_digits` found: codes of `whole` are two of `digit`."""

    whole: Format
    digit: Format

    @property
    def bits(self) -> int:
        """A step of the high digit is 2**bits."""
        return self.digit.bits

    @property
    def most(self) -> int:
        """The largest value; greater ones are saturated."""
        return min(self.whole.max_fixed, self._largest)

    @property
    def saturates(self) -> bool:
        """Whether there are greater ones."""
        return self._largest < self.whole.max_fixed

    @property
    def _largest(self) -> int:
        return ((1 << self.bits) + 1) * ((1 << self.bits - 1) - 1)

    @property
    def reach(self) -> tuple[int, int]:
        """The least and the greatest of values, and of values without their low digits."""
        step = 1 << self.bits
        values = np.array([int(self.whole.fixed(self.whole.codes).min()), self.most])
        high = (values + step // 2) // step * step
        return int(min(values[0], high[0])), int(max(values[1], high[1]))

    def value(self, codes: np.ndarray) -> np.ndarray:
        """Codes of `whole` of any shape to int64: the fixed-point values that they count as."""
        return np.minimum(self.whole.fixed(codes), self.most)

    def split(self, codes: np.ndarray, high: bool) -> np.ndarray:
        """Codes of `whole` to those of one of their digits."""
        values = self.value(codes)
        if high:
            values = values + (1 << self.bits - 1) >> self.bits
        return (values & (1 << self.bits) - 1).astype(self.digit.code_dtype)


def two_digits(whole: Format, digit: Format) -> Digits | None:
    """How codes of `whole` are two of the narrower `digit`, both in two's complement; None where they are not."""
    if (
        digit.bits < whole.bits <= 2 * digit.bits
        and _is_twos_complement(whole)
        and _is_twos_complement(digit)
    ):
        return Digits(whole, digit)
    return None


def _is_twos_complement(fmt: Format) -> bool:
    codes = fmt.codes.astype(np.int64)
    sign = codes >> fmt.bits - 1
    return fmt.lsb_exponent == 0 and np.array_equal(fmt.fixed(fmt.codes), codes - (sign << fmt.bits))
