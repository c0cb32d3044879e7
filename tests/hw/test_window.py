# amaranth: UnusedElaboratable=no
"""Window addresses against the formulas of docs/isa.md, for both loop orders."""

import itertools
import random

import pytest
from amaranth.hdl import Module, Signal, unsigned
from amaranth.sim import Simulator

from sateen.hw import isa
from sateen.hw.window import MATRIX_ORDER, POOL_ORDER, NestedCounter, Sum, Window

ADDR_BITS = 12
COUNTS = {
    "ky": "kernel_h",
    "kx": "kernel_w",
    "c": "channel_words",
    "p": "passes",
    "oy": "out_h",
    "ox": "out_w",
}


def random_fields(rng, order):
    fields = {name: rng.randrange(1 << 24) for name in ("base", "step_x", "step_y", "step_kx", "step_ky")}
    fields |= {name: rng.randint(-4, 2) for name in ("x0", "y0")}
    fields |= {name: rng.randint(1, 6) for name in ("in_w", "in_h")}
    fields |= {name: rng.randint(0, 3) for name in ("stride_x", "stride_y", "dilation_x", "dilation_y")}
    return fields | {COUNTS[level]: rng.randint(1, 3) for level in order}


def ref_window(f, order):
    """(addr, inside, first flags, last flags) of every iteration."""
    result = []
    for index in itertools.product(*(range(f[COUNTS[level]]) for level in order)):
        i = dict(zip(order, index, strict=True))
        y = f["y0"] + i["oy"] * f["stride_y"] + i["ky"] * f["dilation_y"]
        x = f["x0"] + i["ox"] * f["stride_x"] + i["kx"] * f["dilation_x"]
        word = f["base"] + i["c"] + i["oy"] * f["step_y"] + i["ox"] * f["step_x"]
        word += i["ky"] * f["step_ky"] + i["kx"] * f["step_kx"]
        first = [all(v == 0 for v in index[n:]) for n in range(len(order))]
        last = [all(i[k] == f[COUNTS[k]] - 1 for k in order[n:]) for n in range(len(order))]
        result.append((word % (1 << ADDR_BITS), 0 <= y < f["in_h"] and 0 <= x < f["in_w"], first, last))
    return result


def rtl_window(programs, order, layout, stall, seed):
    """The same for each program, one after the other, with random waits between steps."""
    m = Module()
    m.submodules.window = window = Window(order=order, addr_bits=ADDR_BITS)
    instruction = Signal(layout)
    m.d.comb += window.set(instruction)
    rng = random.Random(seed)
    results = []

    async def bench(ctx):
        for fields in programs:
            ctx.set(instruction, fields)
            ctx.set(window.load, 1)
            await ctx.tick()
            ctx.set(window.load, 0)
            ctx.set(instruction.as_value(), rng.getrandbits(layout.size))  # latched, so this does no harm
            walk = []
            done = False
            while not done:
                while rng.random() < stall:
                    await ctx.tick()
                first = [bool(ctx.get(window.first[level])) for level in order]
                last = [bool(ctx.get(window.last[level])) for level in order]
                walk.append((ctx.get(window.addr), bool(ctx.get(window.inside)), first, last))
                done = last[0]
                assert len(walk) < 1000, "the walk does not end"
                ctx.set(window.step, 1)
                await ctx.tick()
                ctx.set(window.step, 0)
            results.append(walk)

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results


@pytest.mark.parametrize("order,layout", [(MATRIX_ORDER, isa.MATRIX), (POOL_ORDER, isa.POOL)])
@pytest.mark.parametrize("stall", [0, 0.3])
def test_random_windows(order, layout, stall):
    rng = random.Random(5)
    programs = [random_fields(rng, order) for _ in range(12)]
    got = rtl_window(programs, order, layout, stall, seed=6)
    assert got == [ref_window(fields, order) for fields in programs]


@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_positions(sign):
    """The largest positions of the fields do not come back into the plane by wrapping."""
    fields = dict(base=0, step_x=0, step_y=0, step_kx=0, step_ky=0, in_w=16383, in_h=16383, stride_x=63)
    fields |= dict(stride_y=63, dilation_x=255, dilation_y=255, kernel_w=1, kernel_h=511, channel_words=1)
    fields |= dict(out_w=1, out_h=1, x0=0, y0=8191 if sign > 0 else -8192)
    got = rtl_window([fields], POOL_ORDER, isa.POOL, 0, seed=0)
    assert got == [ref_window(fields, POOL_ORDER)]


def test_order_is_checked():
    with pytest.raises(ValueError, match="order must hold each of ky, kx, c, oy, ox"):
        Window(order=("ky", "kx", "c", "oy"), addr_bits=4)


def test_levels_are_checked():
    with pytest.raises(ValueError, match=r"sum 'a' steps at unknown levels \['z'\]"):
        NestedCounter(levels={"x": 4}, sums={"a": Sum(unsigned(4), {"z": 1})})
