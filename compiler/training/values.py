"""What the reference's training step computes with: integers and what they count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sateen.sim.exact_sums import ExactSum


@dataclass(frozen=True, slots=True)
class Values:
    """Integers, float32 where they are codes' fixed-point values, and what they count: real = data * 2**exponent."""

    data: np.ndarray
    exponent: int


@dataclass(frozen=True, slots=True)
class Gradients:
    """Exact sums over a batch, of weights (taps, I, O) and biases (O,), and the exponents of what they count.

    Of a normalization: of its scale (1, 1, C) and offset (C,); of what is stored: none, and (H, W, C)."""

    sums: ExactSum
    exponent: int
    bias: np.ndarray
    bias_exponent: int

    @property
    def weight(self) -> np.ndarray:
        return self.sums.integers()
