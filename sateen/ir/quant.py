"""How real numbers become codes: of a tensor, of a file's quantizer, of a file's weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sateen.formats import Format

PRECISIONS = ("float64", "float32", "float16", "bfloat16")


def rounded_to(precision: str, x: np.ndarray | float) -> np.ndarray:
    """float64 `x`, rounded to nearest, ties to even, as the type of that name would hold it."""
    match precision:
        case "float64":
            return np.asarray(x, np.float64)
        case "bfloat16":
            fraction, exponent = np.frexp(np.asarray(x, np.float32).astype(np.float64))
            return np.ldexp(np.rint(fraction * 256.0), exponent - 8)
        case "float32" | "float16":
            with np.errstate(over="ignore"):  # to infinity, which saturates
                return np.asarray(x).astype(precision).astype(np.float64)
    raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")


@dataclass(frozen=True, slots=True)
class Quant:
    """real = scale * (fixed(code) - zero_point) * 2**lsb_exponent.

    The zero point is a fixed-point number of the format. Where steps are uniform it is added after the rounding, as
    QuantizeLinear does with integers. The grid of a minifloat is finer in places, so there it is added before: see
    docs/adr/0014-minifloat-zero-points.md.

    `precision` is the type in which a model file's own scale divides, by default that of the scale there: ties
    are the normal case (images in [-1, 1] with steps of 2 / 255), and which they are depends on it. `added` is the
    zero point in a file of QONNX, whose Quant adds it before it rounds an integer. Both count where single values
    are rounded, on the host and in tables; sums are exact and round once.
    """

    format: Format
    scale: float
    zero_point: int = 0
    precision: str = "float64"
    added: int = 0

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        return self.real(self.format.decode(codes))

    def real(self, values: np.ndarray) -> np.ndarray:
        """What values of the format stand for."""
        of_scale = self.precision if rounded_to(self.precision, self.scale) == self.scale else "float32"
        return rounded_to(of_scale, self.scale * (values - self.offset))

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Round to nearest, ties to even, and saturate; see above for the zero point. -0 becomes +0."""
        # Of numbers of 24 bits and fewer, float64's quotients and sums round to their type as the exact ones do.
        given = rounded_to(self.precision, np.asarray(x, np.float64))
        scale = rounded_to(self.precision, self.scale)
        if self.zero_before and self.precision != "float64":  # the file has an Add there
            shift = rounded_to(self.precision, self.scale * self.offset)
            scaled = rounded_to(self.precision, rounded_to(self.precision, given + shift) / scale)
        else:
            scaled = rounded_to(self.precision, given / scale)
            if self.added:
                scaled = np.rint(rounded_to(self.precision, scaled + self.added)) - self.added
            if self.zero_after:
                scaled = np.rint(scaled)
            if self.zero_point:
                scaled = scaled + self.offset
        return self.format.positive_zero(self.format.encode(scaled))

    def quantize_terms(self, x: np.ndarray, terms: int) -> np.ndarray:
        """Codes (..., terms * C) of x (..., C): each term is the code of what the terms before it leave over.

        What real value they stand for is the sum of the terms', channel t*C + c being term t of channel c.
        """
        codes, rest = [], np.asarray(x, np.float64)
        for _ in range(terms):
            codes.append(self.quantize(rest))
            rest = rest - self.dequantize(codes[-1])
        return np.concatenate(codes, axis=-1)

    @property
    def offset(self) -> float:
        """The zero point as a value of the format."""
        return self.zero_point * 2.0**self.format.lsb_exponent

    @property
    def zero_after(self) -> int:
        """What is added to a rounded number: the zero point where steps are uniform, else 0."""
        return self.zero_point if self.format.uniform else 0

    @property
    def zero_before(self) -> int:
        """What is added before rounding, in fixed-point units: the zero point where steps differ, else 0."""
        return self.zero_point - self.zero_after

    @property
    def reach(self) -> tuple[int, int]:
        """The least and the greatest fixed-point value of any code."""
        fixed = self.format.fixed(self.format.codes)
        return int(fixed.min()), int(fixed.max())

    @property
    def zero_code(self) -> int:
        """The code of real zero: what padding pads with."""
        return int(self.format.encode(np.array([self.offset]))[0])


@dataclass(frozen=True, slots=True)
class Quantizer:
    """A rounding that the model file asks for: `quant`, saturating at low and high, fixed-point units of its format."""

    quant: Quant
    low: int
    high: int

    @staticmethod
    def whole(quant: Quant) -> Quantizer:
        """Saturating where the format does."""
        return Quantizer(quant, quant.format.min_fixed, quant.format.max_fixed)

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest value."""
        unit = self.quant.scale * 2.0**self.quant.format.lsb_exponent
        return unit * (self.low - self.quant.zero_point), unit * (self.high - self.quant.zero_point)

    def round(self, x: np.ndarray) -> np.ndarray:
        """The values that `x` become."""
        low, high = self.limits
        return self.quant.dequantize(self.quant.quantize(np.clip(x, low, high)))

    def __str__(self) -> str:
        q = self.quant
        text = f"{q.format.name}, scale {q.scale:.6g}" + (
            f", zero point {q.zero_point}" if q.zero_point else ""
        )
        if (self.low, self.high) != (q.format.min_fixed, q.format.max_fixed):
            text += f", limits {self.low} to {self.high}"
        return text


@dataclass(frozen=True, slots=True, eq=False)
class GivenWeights:
    """The weights of a model file that is quantized already are values of `format` times scale (O,), of any sign.

    The last `again` input channels are there a second time, for what weights exceed the format by.
    """

    format: Format
    scale: np.ndarray
    again: int = 0
