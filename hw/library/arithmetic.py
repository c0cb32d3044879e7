"""Adders and multipliers as FPGAs have them cheapest: carry chains and LUTs of six inputs."""

from collections.abc import Callable, Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from sateen.hw.terms import Delays, Terms

LUT_INPUTS = 6

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


def tree(values: list[Value], combine: Callable[[Value, Value], Value]) -> Value:
    """Sum of signed values in a balanced tree."""
    while len(values) > 1:
        values = [
            combine(*p) if len(p) == 2 else p[0]
            for p in (values[i : i + 2] for i in range(0, len(values), 2))
        ]
    return values[0]


# -- multipliers -------------------------------------------------------------------------------------------


def booth(
    m: Module, pairs: Sequence[tuple[Value, Value, Value | None]], limit: int, signed_bits: int
) -> Value:
    """Sum of ±a·w over pairs (a, w, flip), from the lowest digits of w up.

    A digit of -2 to 2 stands for two bits of w; its row is a LUT of six inputs for each bit, the adder included:
    two bits of a, three of w and the sum so far. After each digit two bits of the sum are final.
    Ref: Booth's radix-4 recoding (MacSorley 1961); Walters, "Array multipliers for high throughput in Xilinx
    FPGAs with 6-input LUTs", Computers 5(4), 2016.
    """
    y = pairs[0][1]
    bits = len(y) + (not y.shape().signed)
    low: list[Value] = []
    total, bound = Const(0, signed(1)), 0
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
            total = add(m, total, row, width, negative)
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


def multiply_signed(m: Module, a: Value, w: Value) -> Value:
    """The product of two signed numbers, by what is smallest in LUTs (adr/0054-lut-multipliers.md)."""
    bits = len(a) + len(w)
    if bits <= LUT_INPUTS:
        entries = [x * y for y in _signed_codes(len(w)) for x in _signed_codes(len(a))]
        return lookup(Cat(a, w), entries, bits).as_signed()
    wide, narrow = (a, w) if len(a) >= len(w) else (w, a)
    return booth(m, [(wide.as_signed(), narrow.as_signed(), None)], 1 << (len(wide) - 1), signed_bits=bits)


def multiply_signed_terms(a: int, w: int, count: int, t: Terms) -> None:
    """Of `multiply_signed`, by the bits of its operands."""
    if a + w <= LUT_INPUTS:
        t.add(table=count * (a + w))
    else:
        t.add(rows=count * sum(_row_bits(a, w)), row=count * len(_row_bits(a, w)))


def multiply_signed_path(a: int, w: int, d: Delays) -> float:
    """ns from its operands to its register: a digit's choice and a carry chain for each row."""
    if a + w <= LUT_INPUTS:
        return d.lut * 2
    return sum(2 * d.lut + d.carry(bits) for bits in _row_bits(a, w))


def _signed_codes(bits: int) -> list[int]:
    return [v - (1 << bits) if v >> (bits - 1) else v for v in range(1 << bits)]


def _row_bits(a: int, w: int) -> list[int]:
    """Of the adders of `booth`."""
    found, bound = [], 0
    for k in range(0, min(a, w), 2):
        bound = (bound >> 2) + (1 << max(a, w)) + 1
        found.append(min(bound.bit_length() + 1, a + w - k))
    return found


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
