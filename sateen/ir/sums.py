"""What ops whose results are rounded sums, and ops that give codes at once, have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from sateen.ir.operation import QuantizedOp
from sateen.ir.ports import Shape
from sateen.ir.quant import Quant

MULTIPLIER_BITS = 16
MULTIPLIER_MAX = (1 << MULTIPLIER_BITS) - 1
SHIFT_MAX = 127
"""Of what an accumulator is rescaled by."""
FACTOR_BITS = MULTIPLIER_BITS - 1
FACTOR_MAX = (1 << FACTOR_BITS) - 1
"""Of multipliers that have a sign."""


@dataclass(frozen=True, slots=True)
class Residual:
    """A second operand, added before the rounding: fixed-point units of its format, times multiplier * 2**-shift."""

    input: str
    multiplier: int  # 1 to MULTIPLIER_MAX
    shift: int  # s0 <= min(shift) of the channels


@dataclass(frozen=True, slots=True)
class Factor:
    """A second operand that the sum is multiplied by before the rounding, in fixed-point units of its format."""

    input: str


class Summed(QuantizedOp):
    """An op whose results are the array's sums, rounded once: see `Linear`."""

    __slots__ = ()
    bias: np.ndarray  # int64 or object (O,), zero point folded in
    multiplier: np.ndarray  # int64 (O,), 1 to MULTIPLIER_MAX
    shift: np.ndarray  # int64 (O,), 0 to SHIFT_MAX
    requantized: Quant  # before the table
    low: int  # clamp, fixed-point units
    high: int
    raw_scale: np.ndarray | None  # float64 (O,)
    raw_offset: np.ndarray | None

    @property
    @abstractmethod
    def residual(self) -> Residual | Factor | None:
        """A second summand, or factor."""

    @property
    def keeps_codes(self) -> bool:
        return False

    def real(self, values: np.ndarray, quant: Quant) -> np.ndarray:
        if not self.raw or self.raw_scale is None:
            return quant.dequantize(values)
        real = values.astype(np.float64) * self.raw_scale
        return real if self.raw_offset is None else real + self.raw_offset


class OfCodes(QuantizedOp):
    """An op that gives codes at once: it multiplies no weights, and looks nothing up."""

    __slots__ = ()

    @property
    def raw(self) -> bool:
        return False

    @property
    def table(self) -> None:
        return None

    def dense_macs(self, shape: Shape) -> int:
        return 0
