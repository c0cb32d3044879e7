"""The serial reciprocal against its NumPy model: every result, and the cycles it takes."""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from sateen.formats import rows
from sateen.hw.vector.reciprocal import Reciprocal, operand_bits, reciprocal_cycles
from sateen.machine.config import AcceleratorConfig

UNITS = {"softmax": {"softmax": True}, "normalize": {"normalize": True}}
UNITS["both"] = UNITS["softmax"] | UNITS["normalize"]


def variance(config: AcceleratorConfig, rng: random.Random) -> tuple[int, int, int, int]:
    """Sum of squares, sum, count and epsilon of a row of any length and spread."""
    fmt = config.activation
    bits = rows.element_bits(fmt)
    spread = rng.randrange(bits)
    count = rng.choice([1, 2, 3, 50, rows.MOST_ELEMENTS])
    x = [rng.randint(-1 << bits - 1, (1 << bits - 1) - 1) >> spread for _ in range(min(count, 50))]
    if count == rows.MOST_ELEMENTS and rng.random() < 0.5:  # the largest sums that there are
        least = -1 << bits - 1
        return count * least * least, count * least, count, rng.getrandbits(rows.epsilon_bits(fmt) - 2)
    total = 0 if rng.random() < 0.2 else sum(x)
    epsilon = rng.getrandbits(rng.randrange(1, rows.epsilon_bits(fmt) - 1))
    return sum(v * v for v in x), total, max(count, len(x)), epsilon


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", ["int8", "uint8", "int4", "e4m3", "e5m2"])
def test_reciprocal(name, unit):
    config = AcceleratorConfig(activation_format=name, acc_bits=100, **UNITS[unit])
    dut, rng = Reciprocal(config=config), random.Random(f"{name} {unit}")

    async def bench(ctx) -> None:
        for _ in range(40):
            root = config.normalize and (not config.softmax or rng.random() < 0.6)
            if root:
                squares, total, count, epsilon = variance(config, rng)
                number = (count * squares - total * total << rows.EPSILON_FRACTION) + epsilon
                ctx.set(dut.total, total)
                ctx.set(dut.count, count)
                ctx.set(dut.epsilon, epsilon)
            else:
                least = 1 << rows.TERM_BITS - 1
                squares = number = rng.randint(least, (1 << rng.randint(rows.TERM_BITS, rows.sum_bits())) - 1)
            ctx.set(dut.squares, squares)
            ctx.set(dut.root, root)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for cycle in range(1, reciprocal_cycles(config, root) + 1):
                assert ctx.get(dut.done) == (cycle == reciprocal_cycles(config, root)), cycle
                if cycle < reciprocal_cycles(config, root):
                    await ctx.tick()
            if number:
                bits, inverse = rows.reciprocal(np.array([number], object), config.activation, root=root)
                found = operand_bits(config) - 2 * ctx.get(dut.half), ctx.get(dut.inverse)
                assert found == (bits[0], inverse[0]), (root, number)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
