"""Multipliers of LUTs against integers, every pair of operands."""

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator

from sateen.hw.library.arithmetic import multiply_signed

SIZES = [(a, w) for a in range(2, 8) for w in range(2, 8) if a + w <= 12] + [(8, 4), (4, 8), (9, 3), (8, 8)]


@pytest.mark.parametrize("a_bits,w_bits", SIZES)
def test_every_product(a_bits, w_bits):
    m = Module()
    a, w = Signal(signed(a_bits)), Signal(signed(w_bits))
    product = Signal(signed(a_bits + w_bits))
    m.d.comb += product.eq(multiply_signed(m, a, w))
    step = 1 if a_bits + w_bits <= 12 else 3  # of 8 by 8 bits a third, with the ends

    async def bench(ctx):
        for x in (*range(-(1 << a_bits - 1), 1 << a_bits - 1, step), (1 << a_bits - 1) - 1):
            ctx.set(a, x)
            for y in range(-(1 << w_bits - 1), 1 << w_bits - 1):
                ctx.set(w, y)
                assert ctx.get(product) == x * y, (x, y)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
