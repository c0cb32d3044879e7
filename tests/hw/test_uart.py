# amaranth: UnusedElaboratable=no
"""The serial line bit by bit: both directions, rates that are off, glitches, missing stop bits."""

import random
from itertools import pairwise

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from sateen.hw.chip.uart import MIN_DIVISOR, Receiver, Transmitter, divisor_of


def simulate(dut, *benches) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    for bench in benches:
        sim.add_testbench(bench)
    sim.run()


def receive(divisor: int, levels) -> list[int | None]:
    """What a receiver makes of a line, given cycle by cycle: bytes, None for a framing error."""
    dut = Receiver(divisor=divisor)
    found = []

    async def bench(ctx):
        for level in [*levels, *[1] * (12 * divisor)]:
            ctx.set(dut.rx, level)
            await ctx.tick()
            assert not (ctx.get(dut.valid) and ctx.get(dut.error))
            if ctx.get(dut.valid):
                found.append(ctx.get(dut.data))
            if ctx.get(dut.error):
                found.append(None)

    simulate(dut, bench)
    return found


def line_of(data: bytes, cycles_per_bit: float, gap: int = 0, stop: int = 1) -> list[int]:
    """Levels of the line, cycle by cycle."""
    bits = []
    for b in data:
        bits += [0, *(b >> i & 1 for i in range(8)), stop, *[1] * gap]
    return [bits[int(t / cycles_per_bit)] for t in range(int(len(bits) * cycles_per_bit))]


@pytest.mark.parametrize("divisor", [4, 5, 16])
@pytest.mark.parametrize("error", [-0.02, 0, 0.02])
def test_receives_back_to_back_at_rates_that_are_off(divisor, error):
    data = bytes(random.Random(divisor).randbytes(20)) + b"\x00\xff\x55\xaa"
    assert receive(divisor, [1] * 9 + line_of(data, divisor * (1 + error))) == list(data)


def test_a_glitch_is_no_start_bit():
    divisor = 16
    line = [1] * 20 + [0] * 6 + [1] * 40 + line_of(b"\x5a", divisor)
    assert receive(divisor, line) == [0x5A]


def test_missing_stop_bit_and_break():
    divisor = 8
    line = [1] * 20 + line_of(b"\x00", divisor, stop=0) + [0] * 500 + [1] * 20 + line_of(b"\x81", divisor)
    assert receive(divisor, line) == [None, 0x81], "one error, however long the line is low"


class Loop(wiring.Component):
    def __init__(self, divisor: int):
        self.transmitter, self.receiver = Transmitter(divisor=divisor), Receiver(divisor=divisor)
        super().__init__({"i": In(stream.Signature(8)), "valid": Out(1), "data": Out(8), "tx": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules += [self.transmitter, self.receiver]
        wiring.connect(m, wiring.flipped(self.i), self.transmitter.i)
        m.d.comb += [
            self.receiver.rx.eq(self.transmitter.tx),
            self.tx.eq(self.transmitter.tx),
            self.valid.eq(self.receiver.valid),
            self.data.eq(self.receiver.data),
        ]
        return m


@pytest.mark.parametrize("divisor", [4, 7])
def test_transmitter_takes_ten_bits_a_byte(divisor):
    data = list(random.Random(1).randbytes(12))
    dut, found, times = Loop(divisor), [], []

    async def send(ctx):
        t = 0
        for byte in data:
            ctx.set(dut.i.valid, 1)
            ctx.set(dut.i.payload, byte)
            while not ctx.get(dut.i.ready):
                await ctx.tick()
                t += 1
            times.append(t)
            await ctx.tick()
            t += 1
        ctx.set(dut.i.valid, 0)

    async def check(ctx):
        for _ in range((len(data) + 2) * (10 * divisor + 1)):
            await ctx.tick()
            if ctx.get(dut.valid):
                found.append(ctx.get(dut.data))
        assert ctx.get(dut.tx)

    simulate(dut, send, check)
    assert found == data
    assert {b - a for a, b in pairwise(times)} == {10 * divisor + 1}


def test_divisor():
    assert divisor_of(48_000_000, 115200) == 417
    assert divisor_of(25_000_000, 1_000_000) == 25
    with pytest.raises(ValueError, match=r"baud must be from 1 to clock_hz / 4 = 250, not 1000"):
        divisor_of(1000, 1000)
    with pytest.raises(
        ValueError, match=r"baud = 230000: the nearest rate at 1000000 Hz is 250000, off by 8"
    ):
        divisor_of(1_000_000, 230_000)
    for component in (Receiver, Transmitter):
        with pytest.raises(ValueError, match=f"divisor must be an integer of at least {MIN_DIVISOR}, not 3"):
            component(divisor=3)
