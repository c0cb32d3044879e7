"""The control registers: access rules of docs/isa.md over AXI4-Lite with independent channels, and the counters."""

import random

import pytest
from amaranth.sim import Simulator

from sateen.hw.control.registers import Registers
from sateen.hw.memory.axi import Response
from sateen.machine.isa import Unit
from sateen.machine.presets import preset
from sateen.machine.registers import COUNTED, COUNTERS, ID, VERSION, Register, config_word

CONFIG = preset("tiny")
READ_ONLY = [r for r in Register if r not in (Register.CTRL, Register.INTERRUPT) and not 0x18 <= r <= 0x24]


class Host:
    """Drives the bus with random delays on every channel."""

    def __init__(self, ctx, dut, rng):
        self.ctx, self.bus, self.rng = ctx, dut.bus, rng

    async def _delay(self):
        for _ in range(self.rng.choice([0, 0, 1, 3])):
            await self.ctx.tick()

    async def _until(self, signal):
        for _ in range(50):
            if self.ctx.get(signal):
                return
            await self.ctx.tick()
        raise AssertionError(f"timeout waiting for {signal!r}")

    async def _send(self, channel, **values):
        ctx, bus = self.ctx, self.bus
        for name, value in values.items():
            ctx.set(getattr(bus, channel + name), value)
        ctx.set(getattr(bus, channel + "valid"), 1)
        await self._until(getattr(bus, channel + "ready"))
        await ctx.tick()
        ctx.set(getattr(bus, channel + "valid"), 0)

    async def write(self, address, value, strobe=15) -> Response:
        ctx, bus = self.ctx, self.bus
        order = [("aw", {"addr": address}), ("w", {"data": value, "strb": strobe})]
        self.rng.shuffle(order)
        if self.rng.random() < 0.3:  # both in one cycle; both are ready whenever no write is under way
            for channel, values in order:
                for name, v in values.items():
                    ctx.set(getattr(bus, channel + name), v)
                ctx.set(getattr(bus, channel + "valid"), 1)
            assert ctx.get(bus.awready) and ctx.get(bus.wready)
            await ctx.tick()
            ctx.set(bus.awvalid, 0)
            ctx.set(bus.wvalid, 0)
        else:
            for channel, values in order:
                await self._delay()
                await self._send(channel, **values)
        await self._delay()
        ctx.set(bus.bready, 1)
        await self._until(bus.bvalid)
        response = Response(ctx.get(bus.bresp))
        await ctx.tick()
        ctx.set(bus.bready, 0)
        return response

    async def read(self, address) -> tuple[int, Response]:
        ctx, bus = self.ctx, self.bus
        await self._delay()
        await self._send("ar", addr=address)
        await self._delay()
        ctx.set(bus.rready, 1)
        await self._until(bus.rvalid)
        result = ctx.get(bus.rdata), Response(ctx.get(bus.rresp))
        await ctx.tick()
        ctx.set(bus.rready, 0)
        return result

    async def value(self, address) -> int:
        value, response = await self.read(address)
        assert response == Response.OKAY
        return value


OF_ARRAYS = (Register.DATA, Register.STRIDE)


def simulate(bench, seed=0, config=CONFIG):
    dut = Registers(config=config)

    async def run(ctx):
        print(f"{seed=}")
        ctx.set(dut.ready, 1)
        await bench(ctx, dut, Host(ctx, dut, random.Random(seed)))

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(run)
    sim.run()


def test_constants():
    async def bench(ctx, dut, host):
        assert await host.value(Register.ID) == ID == int.from_bytes(b"SATE", "big")
        assert await host.value(Register.VERSION) == VERSION
        assert await host.value(Register.CONFIG) == config_word(CONFIG)

    simulate(bench)


def test_a_machine_with_few_registers():
    """No counters but CYCLES, no watchdog, and addresses of 16 bits."""

    async def bench(ctx, dut, host):
        for register in (Register.BASE_LOW, Register.BASE_HIGH, Register.PROGRAM, Register.WATCHDOG):
            assert await host.write(register, 0xFFFFF000) == Response.OKAY
        assert ctx.get(dut.base) == ctx.get(dut.program) == 0xF000
        assert await host.value(Register.BASE_LOW) == await host.value(Register.PROGRAM) == 0xF000
        assert await host.value(Register.BASE_HIGH) == await host.value(Register.WATCHDOG) == 0
        ctx.set(dut.busy, 1)
        ctx.set(dut.executing, 15)
        ctx.set(dut.beats, 3)
        for _ in range(100):
            await ctx.tick()
            assert not ctx.get(dut.timeout | dut.expired)
        for register in (*COUNTERS.values(), Register.BEATS_READ, Register.BEATS_WRITTEN):
            assert await host.value(register) == 0
        assert await host.value(Register.CYCLES_LOW) >= 100 and await host.value(Register.CYCLES_HIGH) == 0

    simulate(bench, config=CONFIG.replace(counters=False, memory_bits=16))


def test_config_word_tells_configurations_apart():
    words = {config_word(CONFIG.replace(**c)) for c in ({}, {"rows": 4}, {"bus_bits": 64}, {"table": False})}
    assert len(words) == 4 and all(0 <= w < 1 << 32 for w in words)


@pytest.mark.parametrize("arrays", (1, 2))
@pytest.mark.parametrize("seed", range(4))
def test_random_writes(seed, arrays):
    """Every writable register under byte strobes, alignment and readiness, against a dictionary."""
    align = {Register.BASE_LOW: 4096, Register.PROGRAM: CONFIG.beat_bytes} | dict.fromkeys(OF_ARRAYS, 4096)
    plain = [Register.BASE_LOW, Register.BASE_HIGH, Register.PROGRAM, Register.WATCHDOG]
    plain += OF_ARRAYS * (arrays > 1)

    async def bench(ctx, dut, host):
        rng = host.rng
        model = dict.fromkeys(plain, 0)
        for _ in range(60):
            register = rng.choice(plain)
            ready = rng.random() < 0.7
            ctx.set(dut.ready, ready)
            value, strobe = rng.getrandbits(32), rng.choice([15, rng.randrange(16)])
            if rng.random() < 0.5:
                value &= ~0xFFF
            mask = sum(0xFF << 8 * i for i in range(4) if strobe >> i & 1)
            allowed = ready and (value & mask) % align.get(register, 1) == 0
            response = await host.write(register, value, strobe)
            assert response == (Response.OKAY if allowed else Response.SLVERR)
            if allowed:
                model[register] = model[register] & ~mask | value & mask
            for r, v in model.items():
                assert await host.value(r) == v
            ctx.set(dut.ready, 1)
            assert ctx.get(dut.base) == model[Register.BASE_HIGH] << 32 | model[Register.BASE_LOW]
            assert ctx.get(dut.program) == model[Register.PROGRAM]
            if arrays > 1:
                assert (ctx.get(dut.data), ctx.get(dut.stride)) == tuple(model[r] for r in OF_ARRAYS)

    simulate(bench, seed, CONFIG.replace(arrays=arrays))


def test_refused_accesses():
    async def bench(ctx, dut, host):
        mapped = {int(r) for r in Register if r not in OF_ARRAYS} | {0x50 + 4 * i for i in range(16)}
        for address in range(0, 256, 4):
            data, response = await host.read(address)
            readable = address in mapped and address != Register.CTRL
            assert response == (Response.OKAY if readable else Response.SLVERR), hex(address)
            assert readable or data == 0
            if address not in mapped or address in READ_ONLY or 0x50 <= address < 0x90:
                assert await host.write(address, 0) == Response.SLVERR, hex(address)
        ctx.set(dut.ready, 0)
        assert await host.write(Register.CTRL, 1) == Response.SLVERR
        assert await host.write(Register.CTRL, 1, strobe=0b1110) == Response.OKAY  # bit 0 is not written
        assert await host.write(Register.CTRL, 2) == Response.OKAY  # a soft reset always is
        ctx.set(dut.ready, 1)
        assert await host.write(Register.CTRL, 3) == Response.SLVERR  # but not together with start
        ctx.set(dut.ready, 0)

    simulate(bench)


def test_start_and_soft_reset_are_strobes():
    seen = []
    dut = Registers(config=CONFIG)

    async def watch(ctx):
        async for _, _, start, reset in ctx.tick().sample(dut.start, dut.soft_reset):
            if start or reset:
                seen.append((start, reset))

    async def bench(ctx):
        host = Host(ctx, dut, random.Random(0))
        ctx.set(dut.ready, 1)
        for value in (1, 2, 0):
            await host.write(Register.CTRL, value)
        ctx.set(dut.ready, 0)
        await host.write(Register.CTRL, 1)
        await ctx.tick().repeat(2)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.add_testbench(watch, background=True)
    sim.run()
    assert seen == [(1, 0), (0, 1)]


def test_status_and_interrupt():
    async def bench(ctx, dut, host):
        async def finish():
            ctx.set(dut.finish, 1)
            await ctx.tick()
            ctx.set(dut.finish, 0)

        assert await host.value(Register.STATUS) == 0b100
        ctx.set(dut.ready, 0)
        ctx.set(dut.busy, 1)
        assert await host.value(Register.STATUS) == 0b001
        ctx.set(dut.busy, 0)
        ctx.set(dut.done, 1)
        ctx.set(dut.error, 6)
        assert await host.value(Register.STATUS) == 6 << 8 | 0b010

        await finish()
        assert await host.value(Register.INTERRUPT) == 2 and not ctx.get(dut.interrupt)
        await host.write(Register.INTERRUPT, 1)
        assert ctx.get(dut.interrupt), "pending was kept while disabled"
        await host.write(Register.INTERRUPT, 0, strobe=0b1110)
        assert await host.value(Register.INTERRUPT) == 3
        await host.write(Register.INTERRUPT, 3)
        assert await host.value(Register.INTERRUPT) == 1 and not ctx.get(dut.interrupt)
        await finish()
        assert ctx.get(dut.interrupt)
        await host.write(Register.INTERRUPT, 0)
        assert not ctx.get(dut.interrupt) and await host.value(Register.INTERRUPT) == 2

    simulate(bench)


def test_counters():
    async def bench(ctx, dut, host):
        rng = host.rng
        for _ in range(2):  # the second start clears what the first run counted
            await host.write(Register.CTRL, 1)
            counts = [[0] * 4 for _ in range(4)]
            beats = [0, 0]
            cycles = 57
            ctx.set(dut.busy, 1)
            for _ in range(cycles):
                executing, pending, stall = (rng.getrandbits(4) for _ in range(3))
                moved = rng.getrandbits(2)
                ctx.set(dut.executing, executing)
                ctx.set(dut.pending, pending)
                ctx.set(dut.stall, stall)
                ctx.set(dut.beats, moved)
                for u in Unit:
                    x, p, s = (v >> u & 1 for v in (executing, pending, stall))
                    for i, event in enumerate((x, p and not x, not p and not x, s)):
                        counts[u][i] += event
                beats = [b + (moved >> i & 1) for i, b in enumerate(beats)]
                await ctx.tick()
            ctx.set(dut.busy, 0)
            assert await host.value(Register.CYCLES_LOW) == cycles
            assert await host.value(Register.CYCLES_HIGH) == 0
            for u in Unit:
                got = [await host.value(COUNTERS[name, u]) for name in COUNTED]
                assert got == counts[u] and sum(got[:3]) == cycles
            assert [await host.value(Register.BEATS_READ), await host.value(Register.BEATS_WRITTEN)] == beats

    simulate(bench)


def test_counters_are_read_while_they_count():
    """Every unit busy in every cycle: each answer is a number of cycles between the question and the answer."""
    dut = Registers(config=CONFIG)
    ran = []

    async def watch(ctx):
        async for _, _, busy in ctx.tick().sample(dut.busy):
            ran.append(busy)

    async def bench(ctx):
        host = Host(ctx, dut, random.Random(0))
        ctx.set(dut.ready, 1)
        await host.write(Register.CTRL, 1)
        ctx.set(dut.executing, 15)
        ctx.set(dut.busy, 1)
        for _ in range(3):
            for register in (Register.CYCLES_LOW, *(COUNTERS["busy", u] for u in Unit)):
                before = sum(ran)
                value = await host.value(register)
                assert before - 1 <= value <= sum(ran)
                assert await host.value(COUNTERS["idle", Unit.LOAD]) == 0
            assert await host.value(Register.CYCLES_HIGH) == 0

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.add_testbench(watch, background=True)
    sim.run()


def test_watchdog():
    async def bench(ctx, dut, host):
        for limit in (0, 1, 20):
            await host.write(Register.WATCHDOG, limit)
            await host.write(Register.CTRL, 1)
            timeouts, expiries = [], []
            ctx.set(dut.busy, 1)
            first = ctx.get(dut.timeout)
            for t in range(60):
                if t and ctx.get(dut.timeout):
                    timeouts.append(t)
                if t and ctx.get(dut.expired):
                    expiries.append(t)
                await ctx.tick()
            ctx.set(dut.busy, 0)
            assert not first
            assert timeouts == ([limit] if limit else [])
            assert expiries == ([2 * limit] if limit else [])

    simulate(bench)
