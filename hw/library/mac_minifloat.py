"""Multiply-accumulate units of minifloats, which stay sign and magnitude all the way.

Magnitudes are multiplied, and the sign is an exclusive or in front of the accumulator's adder and the carry into it,
which a LUT of six inputs takes in for nothing. Where there are several lanes, their signs are taken relative to the
first one's, so that every adder still has one.
"""

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Mux, Value

from sateen.formats import Minifloat
from sateen.hw.formats.minifloat import MinifloatCircuits
from sateen.hw.library.arithmetic import LUT_INPUTS, add, add_signed, booth, lookup, multiply
from sateen.hw.library.mac_datapath import MULTIPLIER_BITS, Codes, Datapath, exact_bits, magnitude_limit

LUT_OPERAND_BITS = 8
"""For rows of LUTs: beyond it significands and a shifter take a fraction of the LUTs."""


class MinifloatDatapath(Datapath[Minifloat]):
    """Signs apart from magnitudes."""

    @staticmethod
    def why_not(implementation: str, a: Minifloat, w: Minifloat) -> str | None:
        if implementation == "late" and coarse_bits(a, w) < 2:
            return "there is one coarse bit already, as in 'shift'"
        widest = max(a.fixed_bits, w.fixed_bits)
        if implementation == "lut" and widest > LUT_OPERAND_BITS:
            return f"operands of {widest} bits in fixed point make too many rows; at most {LUT_OPERAND_BITS}"
        if implementation == "table" and (inputs := a.bits + w.bits - 2) > LUT_INPUTS:
            return f"a product depends on {inputs} bits, a LUT on {LUT_INPUTS}"
        return None

    def fixed(self, fmt: Minifloat, code: Value) -> Value:
        sign, magnitude = sign_magnitude(fmt, code)
        return Mux(sign, -magnitude, magnitude)[: fmt.fixed_bits].as_signed()

    def dsp(self, codes: Codes) -> Value:
        fine = [fine_bits_of_operand(f) for f in (self.a, self.w)]
        terms = []
        for x, y in codes:
            (s, p, c), (t, q, d) = partly_fixed(self.a, x, fine[0]), partly_fixed(self.w, y, fine[1])
            product = self.keep(p * q)
            sign = self.keep(s ^ t)
            if fine[0] >= self.a.exponent_bits and fine[1] >= self.w.exponent_bits:
                terms.append((sign, product[2:]))  # both exponents count from one
            else:
                coarse = self.keep((c << fine[0]) + (d << fine[1]))
                terms.append((sign, aligned(product, coarse, min(fine))[2:]))
        return self._accumulate(terms)

    def lut(self, codes: Codes) -> Value:
        parts = [(sign_magnitude(self.a, x), sign_magnitude(self.w, y)) for x, y in codes]
        pairs = [(p, q, s ^ t) for (s, p), (t, q) in parts]
        bits = exact_bits(self.a, self.w, len(codes))
        total = self.keep(booth(self.m, pairs, magnitude_limit(self.a), signed_bits=bits))
        return add(self.m, self.i_psum, total, self.acc_bits)

    def late(self, codes: Codes) -> Value:
        """The last step has two sources for a bit, one select and the sign: a LUT of four inputs."""
        exponent_bits = exponent_sum_bits(self.a, self.w)
        terms = []
        for x, y in codes:
            p, q = fields(self.a, x), fields(self.w, y)
            exponent = exponent_sum(p, q)[:exponent_bits]
            shifted = self.keep(multiply(self.m, p.significand, q.significand) << exponent[:-1])
            last = self.keep(exponent[-1])
            magnitude = shifted << (last << exponent_bits - 1)
            terms.append((self.keep(p.sign ^ q.sign), magnitude[2 : 2 + self._width]))
        return self._accumulate(terms)

    def shift(self, codes: Codes) -> Value:
        exponent_bits = exponent_sum_bits(self.a, self.w)
        fine = fine_bits(exponent_bits)
        terms = []
        for x, y in codes:
            p, q = fields(self.a, x), fields(self.w, y)
            exponent = (p.exponent + q.exponent)[:exponent_bits]
            shifted = self.keep(multiply(self.m, p.significand, q.significand) << exponent[:fine])
            coarse = self.keep(exponent[fine:]) << fine
            # both exponents count from one: the two lowest bits are zero
            terms.append((self.keep(p.sign ^ q.sign), aligned(shifted, coarse, fine)[2 : 2 + self._width]))
        return self._accumulate(terms)

    def table(self, codes: Codes) -> Value:
        a, w = (f.fixed(f.codes[: f.sign_mask]).tolist() for f in (self.a, self.w))
        entries = [x * y for y in w for x in a]
        terms = []
        for x, y in codes:
            product = lookup(Cat(x[:-1], y[:-1]), entries, max(entries).bit_length())
            terms.append((self.keep(x[-1] ^ y[-1]), self.keep(product)))
        return self._accumulate(terms)

    @property
    def _width(self) -> int:
        """Bits of the magnitude of a product."""
        return (magnitude_limit(self.a) * magnitude_limit(self.w)).bit_length()

    def _accumulate(self, terms: list[tuple[Value, Value]]) -> Value:
        """i_psum + the sum of signed magnitudes, an adder for each."""
        (sign, total), *others = terms
        relative = [(sign ^ s, t) for s, t in others]
        bits = len(total) + 1
        for n, (s, t) in enumerate(relative, 2):
            total = add_signed(self.m, total, t, s, bits + (n - 1).bit_length())
        return add_signed(self.m, self.i_psum, total, sign, self.acc_bits)


# -- operands ----------------------------------------------------------------------------------------------


class Fields(NamedTuple):
    """fixed = ±(significand << exponent) >> 1."""

    sign: Value
    significand: Value
    exponent: Value
    """The field itself, or one for subnormals, so nothing is subtracted from it."""
    field: Value


def fields(fmt: Minifloat, code: Value) -> Fields:
    magnitude = MinifloatCircuits(fmt).magnitude(code)
    mantissa, field = magnitude[: fmt.mantissa_bits], magnitude[fmt.mantissa_bits :]
    normal = field.any()
    return Fields(code[fmt.bits - 1], Cat(mantissa, normal), Cat(field[0] | ~normal, field[1:]), field)


def exponent_sum_bits(a: Minifloat, w: Minifloat) -> int:
    return ((1 << a.exponent_bits) + (1 << w.exponent_bits) - 2).bit_length()


def exponent_sum(p: Fields, q: Fields) -> Value:
    """p.exponent + q.exponent; the one that p's has for being subnormal is the carry into the adder.

    With that bit it is wide enough for Yosys to use ECP5's carry chain.
    """
    subnormal = ~p.significand[-1]
    return (Cat(subnormal, p.field) + Cat(subnormal, q.exponent))[1:]


def partly_fixed(fmt: Minifloat, code: Value, fine: int) -> tuple[Value, Value, Value]:
    """Sign, significand shifted by the `fine` lowest bits of the exponent, and the rest of the exponent."""
    f = fields(fmt, code)
    return f.sign, f.significand << f.exponent[:fine], f.exponent[fine:]


def fine_bits_of_operand(fmt: Minifloat) -> int:
    """Bits of the exponent that can be shifted in front of a DSP's operand."""
    fits = [n for n in range(fmt.exponent_bits + 1) if fmt.mantissa_bits + (1 << n) < MULTIPLIER_BITS]
    return fits[-1]


def sign_magnitude(fmt: Minifloat, code: Value) -> tuple[Value, Value]:
    f = fields(fmt, code)
    return f.sign, (f.significand << f.exponent)[1 : 1 + magnitude_limit(fmt).bit_length()]


# -- shifters ----------------------------------------------------------------------------------------------


def fine_bits(exponent_bits: int) -> int:
    """How many bits of the exponent to shift by in front of the register.

    Two coarse bits are left: where a bit has two sources, their choice and the sign fit the LUT in the
    accumulator's adder. Two fine bits are one four-way multiplexer, a LUT.
    """
    return min(exponent_bits, max(2, exponent_bits - 2))


def coarse_bits(a: Minifloat, w: Minifloat) -> int:
    """What `fine_bits` leaves."""
    exponent_bits = exponent_sum_bits(a, w)
    return exponent_bits - fine_bits(exponent_bits)


def aligned(value: Value, coarse: Value, fine: int) -> Value:
    """value << coarse, whose `fine` lowest bits are zero."""
    steps = coarse[fine:]
    return Cat(value, Const(0, 1)) if not len(steps) else one_hot_shift(value, steps, 1 << fine)


def one_hot_shift(value: Value, steps: Value, stride: int) -> Value:
    out = [Const(0, 1)] * (len(value) + stride * ((1 << len(steps)) - 1))
    for n in range(1 << len(steps)):
        chosen = steps == n
        for j in range(len(value)):
            out[n * stride + j] = out[n * stride + j] | (value[j] & chosen)
    return Cat(*out)
