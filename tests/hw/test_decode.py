# amaranth: UnusedElaboratable=no
"""Every code of every format, both kinds of operand, against the format's own integers."""

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from sateen.formats import all_formats, parse_format
from sateen.hw.decode import Decoder
from sateen.hw.formats import circuits, either

FORMATS = [*all_formats(), parse_format("e2m1b5"), parse_format("e5m2")]


def rtl_decode(fmt, multiplier):
    """(value, significand, exponent) of every code in order."""
    decoder = Decoder(fmt=fmt, multiplier=multiplier)
    result = []

    async def bench(ctx):
        for code in range(1 << fmt.bits):
            ctx.set(decoder.i, code)
            o = ctx.get(decoder.o)
            parts = (o, 0) if multiplier == "fixed" else (o.significand, o.exponent)
            result.append((parts[0] << parts[1], *parts))

    simulator = Simulator(decoder)
    simulator.add_testbench(bench)
    simulator.run()
    return result


@pytest.mark.parametrize("multiplier", ["fixed", "shift"])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_every_code(fmt, multiplier):
    want = fmt.fixed(np.arange(1 << fmt.bits)).tolist()
    got = rtl_decode(fmt, multiplier)
    assert [value for value, _, _ in got] == want
    assert max(exponent for _, _, exponent in got) == circuits(fmt).operand(multiplier).max_exponent


@pytest.mark.parametrize(
    "name,fixed,significand,exponent",
    [("int8", 8, 8, 0), ("uint8", 9, 9, 0), ("e2m1", 5, 3, 2), ("e3m2", 10, 4, 3), ("e4m3fn", 19, 5, 4)],
)
def test_operand_widths(name, fixed, significand, exponent):
    fmt = parse_format(name)
    assert circuits(fmt).operand_shape("fixed").width == fixed
    operand = circuits(fmt).operand("shift")
    assert (operand.significand_bits, operand.exponent_bits) == (significand, exponent)
    assert circuits(fmt).operand_shape("shift").size == significand + exponent
    assert operand.exponent_bits == 0 or not fmt.uniform


@pytest.mark.parametrize("multiplier", ["fixed", "shift"])
@pytest.mark.parametrize(
    "names", [("int8", "e4m3fn"), ("e4m3fn", "e5m2"), ("e5m2", "int8"), ("int4", "e2m1")], ids="-".join
)
def test_every_code_of_either_format(names, multiplier):
    formats = [parse_format(name) for name in names]
    decoding = either(multiplier, *formats)
    code, second = Signal(formats[0].bits), Signal()
    decoded = Signal(decoding.operand.significand_bits + decoding.operand.exponent_bits)
    m = Module()
    m.d.comb += decoded.eq(decoding.decode(code, second))
    found = []

    async def bench(ctx):
        for number in range(2):
            ctx.set(second, number)
            for value in range(1 << len(code)):
                ctx.set(code, value)
                significand, exponent = (ctx.get(part) for part in decoding.operand.parts(decoded))
                found.append(significand << exponent)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    assert found == [v for fmt in formats for v in fmt.fixed(fmt.codes).tolist()]


def test_unknown_multiplier():
    with pytest.raises(ValueError, match=r"multiplier must be one of .*, not 'lut'"):
        Decoder(fmt=parse_format("int8"), multiplier="lut")
