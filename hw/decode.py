"""Decoding of format codes where they enter the array: combinational, a few gates for each code.

A decoded operand is a *fixed-point integer*, in units of `2**fmt.lsb_exponent`, or for multiplier="shift" a
signed *significand* and an *exponent* of the same value, `significand << exponent`. NaN and infinity decode
as the largest finite magnitude, as `fmt.fixed` has it; activations and weights never hold them.
"""

from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sateen.formats import Format
from sateen.hw.formats import circuits


class Decoder(wiring.Component):
    """One code to one operand, combinational.

    Parameters
    ----------
    fmt : Format
    multiplier : str
        "fixed" or "shift": the kind of operand.

    Members
    -------
    i : In(fmt.bits)
    o : Out(circuits(fmt).operand_shape(multiplier))
    """

    latency = 0
    initiation_interval = 1

    def __init__(self, *, fmt: Format, multiplier: str = "fixed"):
        self.circuits = circuits(fmt)
        self.multiplier = multiplier
        super().__init__({"i": In(fmt.bits), "o": Out(self.circuits.operand_shape(multiplier))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += Value.cast(self.o).eq(self.circuits.decode(self.multiplier, self.i))
        return m
