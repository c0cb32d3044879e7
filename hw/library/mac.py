"""Exact multiply-accumulate units for any pair of formats, in several circuits: the library that is measured.

`psum` takes `i_psum` plus the sum of `lanes` products. Operands are codes, so a unit includes its decoders.

A minifloat stays sign and magnitude all the way: magnitudes are multiplied, and the sign is an exclusive or in
front of the accumulator's adder and the carry into it, which a LUT of six inputs takes in for nothing. Where
there are several lanes, their signs are taken relative to the first one's, so that every adder still has one.
"""

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sateen.formats import Format, Integer, Minifloat

IMPLEMENTATIONS = ("dsp", "packed", "lut", "shift", "late", "table")
MULTIPLIER_BITS = 18
"""Of a signed operand of one DSP multiplier (ECP5 18 x 18, UltraScale+ 27 x 18)."""
LUT_INPUTS = 6
LUT_OPERAND_BITS = 8
"""Of minifloats, for rows of LUTs: beyond it significands and a shifter take a fraction of the LUTs."""


def magnitude_limit(fmt: Format) -> int:
    """The largest magnitude of a code, in units of 2**lsb_exponent, codes that `encode` never gives included."""
    return int(np.abs(fmt.fixed(np.arange(1 << fmt.bits, dtype=np.uint8))).max())


def exact_bits(a: Format, w: Format, k: int) -> int:
    """Bits of a two's complement number that holds every sum of `k` products."""
    fixed = [f.fixed(np.arange(1 << f.bits, dtype=np.uint8)).astype(object) for f in (a, w)]
    products = [
        k * int(x) * int(y)
        for x in (fixed[0].min(), fixed[0].max())
        for y in (fixed[1].min(), fixed[1].max())
    ]
    return max((p if p >= 0 else ~p).bit_length() for p in products) + 1


def packs(a: Format, w: Format) -> bool:
    """Whether two lanes of these formats share one DSP multiplier."""
    return max(a.fixed_bits, w.fixed_bits) + pack_stride(a, w) <= MULTIPLIER_BITS


def pack_stride(a: Format, w: Format) -> int:
    """Bits between the fields of a packed product; the middle one, of two products, has to fit."""
    return exact_bits(a, w, 2)


def why_not(implementation: str, a: Format, w: Format, lanes: int) -> str | None:
    """Why there is no such unit, or None."""
    floats = isinstance(a, Minifloat) and isinstance(w, Minifloat)
    integers = isinstance(a, Integer) and isinstance(w, Integer)
    if not (floats or integers):
        return "both formats must be integers or both minifloats"
    if implementation == "packed" and not packs(a, w):
        return f"two fields of {pack_stride(a, w)} bits do not fit an operand of {MULTIPLIER_BITS} bits"
    if implementation == "packed" and lanes % 2:
        return "lanes are packed in pairs"
    if implementation in ("shift", "late") and not floats:
        return "integers have no exponent"
    if implementation == "late" and coarse_bits(a, w) < 2:
        return "there is one coarse bit already, as in 'shift'"
    widest = max(a.fixed_bits, w.fixed_bits)
    if implementation == "lut" and floats and widest > LUT_OPERAND_BITS:
        return f"operands of {widest} bits in fixed point make too many rows; at most {LUT_OPERAND_BITS}"
    inputs = a.bits + w.bits - 2 * floats
    if implementation == "table" and inputs > LUT_INPUTS:
        return f"a product depends on {inputs} bits, a LUT on {LUT_INPUTS}"
    return None


class MAC(wiring.Component):
    """An exact multiply-accumulate unit.

    Parameters
    ----------
    a, w : Format
        Of the operands: two integers or two minifloats.
    lanes : int
        Products in a cycle.
    k : int
        Products in the longest sum; it sets the width of `psum`.
    implementation : str
        "dsp": a multiplication for each lane, of magnitudes for minifloats. What exceeds a DSP's operand is
        shifted afterwards, in steps of eight positions. "packed": two lanes in one multiplication. "lut":
        Booth's rows of fixed-point operands, all lanes' rows of one weight in one sum. "shift": significands
        are multiplied, and the product is shifted. "late": the same, with all but one step of the shift before the
        register. "table": every bit of a product is one table.

    Members
    -------
    a, w : In
        `lanes` codes each.
    enable : In(1)
        Both stages move; they keep their contents otherwise.
    i_psum : In(signed(acc_bits))
        Belongs to the operands of the cycle before. For an accumulator connect `psum`.
    psum : Out(signed(acc_bits))

    Raises
    ------
    ValueError
        A unit that does not exist; see `why_not`.
    """

    latency = 2
    """Enabled cycles from the operands to `psum`. From `i_psum` it is one."""
    initiation_interval = 1

    def __init__(self, *, a: Format, w: Format, lanes: int = 1, k: int, implementation: str):
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"implementation must be one of {IMPLEMENTATIONS}, not {implementation!r}")
        if not 1 <= lanes <= 8:
            raise ValueError(f"lanes must be 1 to 8, not {lanes!r}")
        if k < lanes:
            raise ValueError(f"k must be at least lanes = {lanes}, not {k!r}")
        if reason := why_not(implementation, a, w, lanes):
            raise ValueError(f"{a} x {w}, {lanes} lanes, {implementation!r}: {reason}")
        self.formats = a, w
        self.lanes = lanes
        self.implementation = implementation
        self.acc_bits = exact_bits(a, w, k)
        super().__init__(
            {
                "a": In(data.ArrayLayout(unsigned(a.bits), lanes)),
                "w": In(data.ArrayLayout(unsigned(w.bits), lanes)),
                "enable": In(1),
                "i_psum": In(signed(self.acc_bits)),
                "psum": Out(signed(self.acc_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        codes = [(self.a[n], self.w[n]) for n in range(self.lanes)]
        total = getattr(self, f"_{self.implementation}")(m, codes)
        with m.If(self.enable):
            m.d.sync += self.psum.eq(total)
        return m

    # -- implementations: codes to the next psum ----------------------------------------------------------

    def _dsp(self, m: Module, codes) -> Value:
        a, w = self.formats
        if isinstance(a, Integer):
            products = [self._keep(m, integer(a, x) * integer(w, y)) for x, y in codes]
            return add(m, self.i_psum, tree(products, lambda x, y: add(m, x, y)), self.acc_bits)
        fine = [fine_bits_of_operand(f) for f in self.formats]
        terms = []
        for x, y in codes:
            (s, p, c), (t, q, d) = (
                partly_fixed(f, v, n) for f, v, n in zip(self.formats, (x, y), fine, strict=True)
            )
            product = self._keep(m, p * q)
            sign = self._keep(m, s ^ t)
            if fine[0] >= a.exponent_bits and fine[1] >= w.exponent_bits:
                terms.append((sign, product[2:]))  # both exponents count from one
            else:
                coarse = self._keep(m, (c << fine[0]) + (d << fine[1]))
                terms.append((sign, aligned(product, coarse, min(fine))[2:]))
        return self._accumulate(m, terms)

    def _packed(self, m: Module, codes) -> Value:
        """(a0 + a1 2**s)(w1 + w0 2**s) has a0 w0 + a1 w1 at 2**s; what is below borrows one from it if negative.

        Ref: packing as in AMD WP486, with a convolution's middle term in place of a shared operand.
        """
        s = pack_stride(*self.formats)
        sums = []
        for (x0, y0), (x1, y1) in zip(codes[::2], codes[1::2], strict=True):
            a0, a1 = (fixed(self.formats[0], x) for x in (x0, x1))
            w0, w1 = (fixed(self.formats[1], y) for y in (y0, y1))
            product = self._keep(m, (a0 + (a1 << s)) * (w1 + (w0 << s)), 2 * s)
            sums.append((product[s - 1], product[s : 2 * s].as_signed()))
        total = self.i_psum
        for borrow, middle in sums:
            total = add(m, total, middle, self.acc_bits, borrow)
        return total

    def _lut(self, m: Module, codes) -> Value:
        a, w = self.formats
        if isinstance(a, Integer):
            pairs = [(integer(a, x), integer(w, y), None) for x, y in codes]
        else:
            parts = [(sign_magnitude(a, x), sign_magnitude(w, y)) for x, y in codes]
            pairs = [(p, q, s ^ t) for (s, p), (t, q) in parts]
        limit = magnitude_limit(a), magnitude_limit(w)
        total = self._keep(m, booth(m, pairs, limit[0], signed_bits=exact_bits(a, w, self.lanes)))
        return add(m, self.i_psum, total, self.acc_bits)

    def _late(self, m: Module, codes) -> Value:
        """The last step has two sources for a bit, one select and the sign: a LUT of four inputs."""
        a, w = self.formats
        width = (magnitude_limit(a) * magnitude_limit(w)).bit_length()
        exponent_bits = exponent_sum_bits(a, w)
        terms = []
        for x, y in codes:
            exponent = exponent_sum(a, x, w, y)[:exponent_bits]
            (s, p, _), (t, q, _) = fields(a, x), fields(w, y)
            shifted = self._keep(m, multiply(m, p, q) << exponent[:-1])
            last = self._keep(m, exponent[-1])
            terms.append((self._keep(m, s ^ t), (shifted << (last << exponent_bits - 1))[2 : 2 + width]))
        return self._accumulate(m, terms)

    def _shift(self, m: Module, codes) -> Value:
        a, w = self.formats
        width = (magnitude_limit(a) * magnitude_limit(w)).bit_length()
        exponent_bits = exponent_sum_bits(a, w)
        fine = fine_bits(exponent_bits)
        terms = []
        for x, y in codes:
            (s, p, e), (t, q, f) = fields(a, x), fields(w, y)
            exponent = (e + f)[:exponent_bits]
            shifted = self._keep(m, multiply(m, p, q) << exponent[:fine])
            coarse = self._keep(m, exponent[fine:]) << fine
            # both exponents count from one: the two lowest bits are zero
            terms.append((self._keep(m, s ^ t), aligned(shifted, coarse, fine)[2 : 2 + width]))
        return self._accumulate(m, terms)

    def _table(self, m: Module, codes) -> Value:
        a, w = self.formats
        values = [f.fixed(np.arange(1 << f.bits, dtype=np.uint8)).tolist() for f in self.formats]
        if isinstance(a, Integer):
            bits = exact_bits(a, w, 1)
            entries = [x * y for y in values[1] for x in values[0]]
            products = [self._keep(m, lookup(Cat(x, y), entries, bits).as_signed()) for x, y in codes]
            return add(m, self.i_psum, tree(products, lambda x, y: add(m, x, y)), self.acc_bits)
        values = [v[: len(v) // 2] for v in values]
        entries = [x * y for y in values[1] for x in values[0]]
        terms = []
        for x, y in codes:
            product = lookup(Cat(x[:-1], y[:-1]), entries, max(entries).bit_length())
            terms.append((self._keep(m, x[-1] ^ y[-1]), self._keep(m, product)))
        return self._accumulate(m, terms)

    # -- shared --------------------------------------------------------------------------------------------

    def _keep(self, m: Module, value: Value, bits: int | None = None) -> Value:
        """The register between the two stages."""
        value = Value.cast(value)
        shape = value.shape() if bits is None else signed(bits)
        kept = Signal(shape, reset_less=True, name="kept")
        with m.If(self.enable):
            m.d.sync += kept.eq(value)
        return kept

    def _accumulate(self, m: Module, terms) -> Value:
        """i_psum + the sum of signed magnitudes, an adder for each."""
        (sign, total), *others = terms
        relative = [(sign ^ s, t) for s, t in others]
        bits = len(total) + 1
        for n, (s, t) in enumerate(relative, 2):
            total = add_signed(m, total, t, s, bits + (n - 1).bit_length())
        return add_signed(m, self.i_psum, total, sign, self.acc_bits)


# -- operands ----------------------------------------------------------------------------------------------


def integer(fmt: Integer, code: Value) -> Value:
    """A signed value: unsigned formats get a zero on top."""
    return code.as_signed() if fmt.signed else Cat(code, Const(0, 1)).as_signed()


def saturated(fmt: Minifloat, code: Value) -> Value:
    """The code without its sign; NaN and infinity count as the largest finite number."""
    magnitude = code[: fmt.bits - 1]
    if fmt.max_code + 1 < fmt.sign_mask:
        magnitude = Mux(magnitude > fmt.max_code, fmt.max_code, magnitude)[: fmt.bits - 1]
    return magnitude


def fields(fmt: Minifloat, code: Value) -> tuple[Value, Value, Value]:
    """Sign, significand and exponent: fixed = ±(significand << exponent) >> 1.

    The exponent is the field itself, or one for subnormals, so nothing is subtracted from it.
    """
    magnitude = saturated(fmt, code)
    mantissa, field = magnitude[: fmt.mantissa_bits], magnitude[fmt.mantissa_bits :]
    normal = field.any()
    return code[fmt.bits - 1], Cat(mantissa, normal), Cat(field[0] | ~normal, field[1:])


def exponent_sum_bits(a: Minifloat, w: Minifloat) -> int:
    return ((1 << a.exponent_bits) + (1 << w.exponent_bits) - 2).bit_length()


def exponent_sum(a: Minifloat, x: Value, w: Minifloat, y: Value) -> Value:
    """The sum of the exponents in `fields`; the one that x has for being subnormal is the carry into the adder.

    With that bit it is wide enough for Yosys to use ECP5's carry chain.
    """
    (_, p, _), (_, _, f) = fields(a, x), fields(w, y)
    subnormal = ~p[-1]
    return (Cat(subnormal, saturated(a, x)[a.mantissa_bits :]) + Cat(subnormal, f))[1:]


def partly_fixed(fmt: Minifloat, code: Value, fine: int) -> tuple[Value, Value, Value]:
    """Sign, significand shifted by the `fine` lowest bits of the exponent, and the rest of the exponent."""
    sign, significand, exponent = fields(fmt, code)
    return sign, significand << exponent[:fine], exponent[fine:]


def fine_bits_of_operand(fmt: Minifloat) -> int:
    """Bits of the exponent that can be shifted in front of a DSP's operand."""
    fits = [n for n in range(fmt.exponent_bits + 1) if fmt.mantissa_bits + (1 << n) < MULTIPLIER_BITS]
    return fits[-1]


def sign_magnitude(fmt: Minifloat, code: Value) -> tuple[Value, Value]:
    sign, significand, exponent = fields(fmt, code)
    return sign, (significand << exponent)[1 : 1 + magnitude_limit(fmt).bit_length()]


def fixed(fmt: Format, code: Value) -> Value:
    """The fixed-point value, signed."""
    if isinstance(fmt, Integer):
        return integer(fmt, code)
    sign, magnitude = sign_magnitude(fmt, code)
    return Mux(sign, -magnitude, magnitude)[: fmt.fixed_bits].as_signed()


# -- adders ------------------------------------------------------------------------------------------------


def add(m: Module, x: Value, y: Value, bits: int | None = None, carry: Value | None = None) -> Value:
    """Signed x + y + carry, a carry chain of its own.

    Yosys gathers sums of more than two numbers in trees of full adders, two LUTs a bit and level, where a carry
    chain takes one. It does not if the sum is used in two parts.
    """
    bits = bits or max(len(x), len(y)) + 1
    if carry is not None:
        total = Signal(bits + 1, name="sum")
        m.d.comb += total.eq(Cat(carry, extend(x, bits)) + Cat(carry, extend(y, bits)))
        return total[1:].as_signed()
    total = Signal(bits, name="sum")
    m.d.comb += total.eq(extend(x, bits) + extend(y, bits))
    return Cat(x[0] ^ y[0], total[1:]).as_signed()


def add_signed(m: Module, x: Value, magnitude: Value, sign: Value, bits: int) -> Value:
    """x + magnitude, or x - magnitude."""
    term = extend(magnitude, bits) ^ sign.replicate(bits)
    return add(m, x, term, bits, sign)


def extend(x: Value, bits: int) -> Value:
    x = Value.cast(x)
    top = x[-1] if x.shape().signed else Const(0, 1)
    return Cat(x, top.replicate(max(bits - len(x), 0)))[:bits]


def tree(values: list[Value], combine) -> Value:
    """Sum of signed values in a balanced tree."""
    while len(values) > 1:
        values = [
            combine(*p) if len(p) == 2 else p[0]
            for p in (values[i : i + 2] for i in range(0, len(values), 2))
        ]
    return values[0]


# -- multipliers -------------------------------------------------------------------------------------------


def booth(m: Module, pairs, limit: int, signed_bits: int) -> Value:
    """Sum of ±a·w over pairs (a, w, flip), from the lowest digits of w up.

    A digit of -2 to 2 stands for two bits of w; its row is a LUT of six inputs for each bit, the adder included:
    two bits of a, three of w and the sum so far. After each digit two bits of the sum are final.
    Ref: Booth's radix-4 recoding (MacSorley 1961); Walters, "Array multipliers for high throughput in Xilinx
    FPGAs with 6-input LUTs", Computers 5(4), 2016.
    """
    y = pairs[0][1]
    bits = len(y) + (not y.shape().signed)
    low, total, bound = [], None, 0
    for k in range(0, bits, 2):
        bound >>= 2
        for a, w, flip in pairs:
            y0, y1, y2 = (Const(0, 1) if n < 0 else extend(w, bits + 1)[n] for n in (k - 1, k, k + 1))
            one = y1 ^ y0
            two = Mux(y2, ~(y1 | y0), y1 & y0)
            negative = y2 if flip is None else y2 ^ flip
            # bound: |digit a| <= 2 limit, and what the lower digits leave
            bound += 2 * limit + 1
            width = min(bound.bit_length() + 1, signed_bits - k)
            wide = extend(a, width)
            row = Cat((one & wide[j]) | (two & (wide[j - 1] if j else 0)) for j in range(width))
            row = row ^ negative.replicate(width)
            total = add(m, Const(0, signed(1)) if total is None else total, row, width, negative)
        low += [total[0], total[1]]
        total = total[min(2, len(total) - 1) :].as_signed()  # the sign, at least
    return Cat(*low, total)[:signed_bits].as_signed()


def multiply(m: Module, p: Value, q: Value) -> Value:
    """The product of two unsigned numbers."""
    bits = len(p) + len(q)
    if bits <= LUT_INPUTS:
        entries = [x * y for y in range(1 << len(q)) for x in range(1 << len(p))]
        return lookup(Cat(p, q), entries, bits if min(len(p), len(q)) > 1 else bits - 1)
    if len(p) == len(q) == 4:
        # by two bits of q each: of the second row all bits but one fit the adder's LUTs
        low, high = (multiply(m, p, q[n : n + 2]) for n in (0, 2))
        return Cat(low[:2], add(m, low[2:], high, 6))
    return booth(m, [(p, q, None)], (1 << len(p)) - 1, bits + 1).as_unsigned()[:bits]


def lookup(inputs: Value, entries: list[int], bits: int) -> Value:
    """entries[inputs], every bit a function of the inputs by itself."""

    def function(column: tuple[int, ...], n: int) -> Value:
        if len(set(column)) == 1:
            return Const(column[0], 1)
        half = len(column) // 2
        if column[:half] == column[half:]:
            return function(column[:half], n - 1)
        return Mux(inputs[n - 1], function(column[half:], n - 1), function(column[:half], n - 1))

    return Cat(function(tuple(v >> b & 1 for v in entries), len(inputs)) for b in range(bits))


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
