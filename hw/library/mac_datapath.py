"""What multiply-accumulate units of both families of formats have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from amaranth.hdl import Module, Signal, Value, signed

from sateen.formats import Format
from sateen.hw.library.arithmetic import add

MULTIPLIER_BITS = 18
"""Of a signed operand of one DSP multiplier (ECP5 18 x 18, UltraScale+ 27 x 18)."""


def magnitude_limit(fmt: Format) -> int:
    """The largest magnitude of a code, in units of 2**lsb_exponent, codes that `encode` never gives included."""
    return int(np.abs(fmt.fixed(fmt.codes)).max())


def exact_bits(a: Format, w: Format, k: int) -> int:
    """Bits of a two's complement number that holds every sum of `k` products."""
    fixed = [f.fixed(f.codes).astype(object) for f in (a, w)]
    products = [
        k * int(x) * int(y)
        for x in (fixed[0].min(), fixed[0].max())
        for y in (fixed[1].min(), fixed[1].max())
    ]
    return max((p if p >= 0 else ~p).bit_length() for p in products) + 1


def pack_stride(a: Format, w: Format) -> int:
    """Bits between the fields of a packed product; the middle one, of two products, has to fit."""
    return exact_bits(a, w, 2)


def packs(a: Format, w: Format) -> bool:
    """Whether two lanes of these formats share one DSP multiplier."""
    return max(a.fixed_bits, w.fixed_bits) + pack_stride(a, w) <= MULTIPLIER_BITS


Codes = Sequence[tuple[Value, Value]]
"""Of an activation and of a weight, for each lane."""

F = TypeVar("F", bound=Format)


class Datapath(ABC, Generic[F]):
    """The implementations for two formats of one family: methods from pairs of codes to the next psum."""

    def __init__(self, m: Module, a: F, w: F, enable: Value, i_psum: Value):
        self.m, self.a, self.w, self.enable, self.i_psum = m, a, w, enable, i_psum
        self.acc_bits = len(i_psum)

    @staticmethod
    @abstractmethod
    def why_not(implementation: str, a: F, w: F) -> str | None:
        """Why the family has no such unit, or None."""

    @abstractmethod
    def fixed(self, fmt: F, code: Value) -> Value:
        """The fixed-point value, signed."""

    def packed(self, codes: Codes) -> Value:
        """(a0 + a1 2**s)(w1 + w0 2**s) has a0 w0 + a1 w1 at 2**s; what is below borrows one from it if negative.

        Ref: packing as in AMD WP486, with a convolution's middle term in place of a shared operand.
        """
        s = pack_stride(self.a, self.w)
        sums = []
        for (x0, y0), (x1, y1) in zip(codes[::2], codes[1::2], strict=True):
            a0, a1 = (self.fixed(self.a, x) for x in (x0, x1))
            w0, w1 = (self.fixed(self.w, y) for y in (y0, y1))
            product = self.keep((a0 + (a1 << s)) * (w1 + (w0 << s)), 2 * s)
            sums.append((product[s - 1], product[s : 2 * s].as_signed()))
        total = self.i_psum
        for borrow, middle in sums:
            total = add(self.m, total, middle, self.acc_bits, borrow)
        return total

    def keep(self, value: Value, bits: int | None = None) -> Value:
        """The register between the two stages."""
        value = Value.cast(value)
        shape = value.shape() if bits is None else signed(bits)
        kept = Signal(shape, reset_less=True, name="kept")
        with self.m.If(self.enable):
            self.m.d.sync += kept.eq(value)
        return kept
