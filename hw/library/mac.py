"""Exact multiply-accumulate units for any pair of formats, in several circuits: the library that is measured.

`psum` takes `i_psum` plus the sum of `lanes` products. Operands are codes, so a unit includes its decoders.
"""

from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sateen.formats import Format, Integer, Minifloat
from sateen.hw.library.mac_datapath import MULTIPLIER_BITS, Datapath, exact_bits, pack_stride, packs
from sateen.hw.library.mac_integer import IntegerDatapath
from sateen.hw.library.mac_minifloat import MinifloatDatapath

IMPLEMENTATIONS = ("dsp", "packed", "lut", "shift", "late", "table")

DATAPATHS: dict[type[Format], type[Datapath]] = {Integer: IntegerDatapath, Minifloat: MinifloatDatapath}
"""By family. A method of each has the name of an implementation."""


def why_not(implementation: str, a: Format, w: Format, lanes: int) -> str | None:
    """Why there is no such unit, or None."""
    if type(a) is not type(w) or type(a) not in DATAPATHS:
        return "both formats must be integers or both minifloats"
    if implementation == "packed" and not packs(a, w):
        return f"two fields of {pack_stride(a, w)} bits do not fit an operand of {MULTIPLIER_BITS} bits"
    if implementation == "packed" and lanes % 2:
        return "lanes are packed in pairs"
    return DATAPATHS[type(a)].why_not(implementation, a, w)


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

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, w = self.formats
        datapath = DATAPATHS[type(a)](m, a, w, self.enable, self.i_psum)
        total = getattr(datapath, self.implementation)([(self.a[n], self.w[n]) for n in range(self.lanes)])
        with m.If(self.enable):
            m.d.sync += self.psum.eq(total)
        return m
