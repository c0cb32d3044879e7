"""Counts that are updated in turn: exact, whenever they are read, and over their own width."""

import random

import pytest
from amaranth.sim import Simulator

from sateen.hw.control.counters import Counters


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_exact_whenever_they_are_read(seed):
    rng = random.Random(seed)
    events, wide, width = (2, 3, 4, 7), 4, 5
    dut = Counters(slots=8, events=events, wide=wide, width=width)
    rates = [rng.choice([0.1, 0.5, 1.0]) for _ in events]

    async def bench(ctx):
        counts = [0] * len(events)

        async def tick():
            happens = [rng.random() < rate for rate in rates]
            ctx.set(dut.events, sum(h << k for k, h in enumerate(happens)))
            await ctx.tick()
            for k, h in enumerate(happens):
                counts[k] += h

        async def read(slot):
            before = list(counts)
            ctx.set(dut.slot, slot)
            ctx.set(dut.read, 1)
            waited = 0
            while not ctx.get(dut.valid):
                await tick()
                waited += 1
                assert waited <= dut.latency
            value = ctx.get(dut.value)
            await tick()
            ctx.set(dut.read, 0)
            await tick()
            return before, value, list(counts)

        for _ in range(3):
            ctx.set(dut.clear, 1)
            ctx.set(dut.events, 0)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            counts[:] = [0] * len(events)
            for _ in range(rng.choice([0, 5, 300])):
                await tick()
            for _ in range(60):
                k = rng.randrange(len(events))
                before, value, after = await read(events[k])
                assert any(n % (1 << width) == value for n in range(before[k], after[k] + 1))
                if events[k] == wide:
                    whole = value | ctx.get(dut.high) << width
                    assert before[k] <= whole <= after[k]
            ctx.set(dut.events, 0)
            for k, slot in enumerate(events):  # nothing happens any more: the exact numbers
                rates[:], saved = [0] * len(events), list(rates)
                assert (await read(slot))[1] == counts[k] % (1 << width)
                rates[:] = saved

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_counts_begin_at_the_clear():
    """An event of each slot in every cycle, cleared at each place of a round: none is lost, none is left over."""
    dut = Counters(slots=8, events=(1, 4, 7), wide=4, width=5)

    async def bench(ctx):
        ctx.set(dut.events, 7)
        found = 0
        for place in range(48):
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            ctx.set(dut.slot, dut.counted[place % 3])
            ctx.set(dut.read, 1)
            for cycle in range(2 + place):
                if ctx.get(dut.valid):
                    found += 1
                    assert ctx.get(dut.value) == (cycle - 1) % 32  # until two cycles before
                await ctx.tick()
            ctx.set(dut.read, 0)
        assert found > 100

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_slots_are_a_power_of_two_with_one_to_spare():
    with pytest.raises(ValueError, match="power of two"):
        Counters(slots=6, events=(1,), wide=1)
    with pytest.raises(ValueError, match="to spare"):
        Counters(slots=4, events=(0, 1, 2), wide=2)
    with pytest.raises(ValueError, match="to spare"):
        Counters(slots=8, events=(1, 2), wide=1)  # the second is where the first one's carry goes
    with pytest.raises(ValueError, match="event's"):
        Counters(slots=8, events=(1,), wide=2)
