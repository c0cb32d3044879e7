"""Multiply-accumulate units of integers."""

from collections.abc import Iterable

from amaranth.hdl import Cat, Value

from sateen.formats import Format
from sateen.hw.formats import circuits
from sateen.hw.library.arithmetic import LUT_INPUTS, add, booth, lookup, tree
from sateen.hw.library.mac_datapath import Codes, Datapath, exact_bits, magnitude_limit


class IntegerDatapath(Datapath[Format]):
    """Two's complement all the way."""

    @staticmethod
    def why_not(implementation: str, a: Format, w: Format) -> str | None:
        if implementation in ("shift", "late"):
            return "integers have no exponent"
        if implementation == "table" and (inputs := a.bits + w.bits) > LUT_INPUTS:
            return f"a product depends on {inputs} bits, a LUT on {LUT_INPUTS}"
        return None

    def fixed(self, fmt: Format, code: Value) -> Value:
        return circuits(fmt).decode_fixed(code)

    def dsp(self, codes: Codes) -> Value:
        return self._sum(self.keep(self.fixed(self.a, x) * self.fixed(self.w, y)) for x, y in codes)

    def table(self, codes: Codes) -> Value:
        a, w = (f.fixed(f.codes).tolist() for f in (self.a, self.w))
        bits = exact_bits(self.a, self.w, 1)
        entries = [x * y for y in w for x in a]
        return self._sum(self.keep(lookup(Cat(x, y), entries, bits).as_signed()) for x, y in codes)

    def lut(self, codes: Codes) -> Value:
        pairs = [(self.fixed(self.a, x), self.fixed(self.w, y), None) for x, y in codes]
        bits = exact_bits(self.a, self.w, len(codes))
        total = self.keep(booth(self.m, pairs, magnitude_limit(self.a), signed_bits=bits))
        return add(self.m, self.i_psum, total, self.acc_bits)

    def _sum(self, products: Iterable[Value]) -> Value:
        total = tree(list(products), lambda x, y: add(self.m, x, y))
        return add(self.m, self.i_psum, total, self.acc_bits)
