# amaranth: UnusedElaboratable=no
"""The chip's memory beat by beat against the behavioural memory that states docs/isa.md, "Memory timing"."""

import random

import pytest
from amaranth.sim import Simulator
from axi_memory import READ_CHANNEL, WRITE_CHANNEL, Memory, settle

from sateen.hw.chip.soc_memory import LATENCY, SocMemory

SIZE = 8192


class Master:
    """Random bursts on both halves of the bus, at most `outstanding` open at once, as the units issue them."""

    def __init__(self, seed: int, beat_bytes: int, outstanding: int, bursts: int, stall: float):
        self.rng = random.Random(seed)
        self.beat_bytes, self.outstanding, self.stall = beat_bytes, outstanding, stall
        self.todo = {"ar": bursts, "aw": bursts}
        self.address = {"ar": None, "aw": None}
        self.opened = {"ar": 0, "aw": 0}
        self.beats: list[int] = []  # of write bursts whose address is out: those left
        self.read: list[int] = []
        self.beat = None

    def burst(self, channel: str) -> tuple[int, int]:
        """Writes go to the second page, which is not read meanwhile."""
        length = self.rng.choice((1, 2, 5, 16))
        first = self.rng.randrange(4096 // self.beat_bytes - length + 1)
        return (channel == "aw") * 4096 + first * self.beat_bytes, length

    def present(self, ctx, axi) -> None:
        for channel in ("ar", "aw"):
            free = self.opened[channel] < self.outstanding
            if (
                self.address[channel] is None
                and self.todo[channel]
                and free
                and self.rng.random() > self.stall
            ):
                self.address[channel] = self.burst(channel)
                self.opened[channel] += 1
                address, length = self.address[channel]
                ctx.set(getattr(axi, f"{channel}addr"), address)
                ctx.set(getattr(axi, f"{channel}len"), length - 1)
                ctx.set(getattr(axi, f"{channel}size"), self.beat_bytes.bit_length() - 1)
                ctx.set(getattr(axi, f"{channel}burst"), 1)
            ctx.set(getattr(axi, f"{channel}valid"), self.address[channel] is not None)
        if self.beat is None and self.beats and self.rng.random() > self.stall:
            self.beat = self.rng.getrandbits(8 * self.beat_bytes)
            ctx.set(axi.wdata, self.beat)
            ctx.set(axi.wstrb, self.rng.getrandbits(self.beat_bytes))
            ctx.set(axi.wlast, self.beats[0] == 1)
        ctx.set(axi.wvalid, self.beat is not None)
        ctx.set(axi.bready, self.rng.random() > self.stall)
        ctx.set(axi.rready, self.rng.random() > self.stall)

    def observe(self, r: dict[str, int], w: dict[str, int], rlast: int) -> None:
        for channel, v in (("ar", r), ("aw", w)):
            if v[f"{channel}valid"]:
                assert v[f"{channel}ready"], "an address every cycle"
                if channel == "aw":
                    self.beats.append(self.address["aw"][1])
                self.address[channel] = None
                self.todo[channel] -= 1
        if r["rvalid"] and r["rready"] and rlast:
            self.opened["ar"] -= 1
        if w["wvalid"] and w["wready"]:
            self.beat = None
            self.beats[0] -= 1
            if not self.beats[0]:
                self.beats.pop(0)
        if w["bvalid"] and w["bready"]:
            self.opened["aw"] -= 1

    @property
    def done(self) -> bool:
        return not any(self.todo.values()) and not any(self.opened.values())


class Shadow:
    """The signals that the behavioural memory sets, kept instead of driven."""

    def __init__(self, dut):
        self.dut = dut
        self.values: dict[str, int] = {}

    def set(self, name: str, value: int) -> None:
        self.values[name] = int(value)


class Names:
    """Attribute access gives the name: `ctx.set(axi.rvalid, 1)` becomes `values["rvalid"] = 1`."""

    def __getattr__(self, name: str) -> str:
        return name


@pytest.mark.parametrize("data_bits", [32, 128])
@pytest.mark.parametrize("outstanding", [1, 2, 4])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_timing_and_data_are_those_of_the_contract(data_bits, outstanding, stall):
    seed = random.Random(f"{data_bits} {outstanding} {stall}").randrange(1 << 30)
    print("seed", seed)
    beat_bytes = data_bits // 8
    image = random.Random(seed).randbytes(SIZE)
    dut = SocMemory(data_bits=data_bits, size=SIZE, outstanding=outstanding, image=image)
    oracle = Memory(bytearray(image), beat_bytes, 16, outstanding, latency=LATENCY)
    master = Master(seed, beat_bytes, outstanding, 25, stall)
    compared = ["rvalid", "bvalid"]

    async def bench(ctx):
        for t in range(20000):
            master.present(ctx, dut.bus)
            shadow = Shadow(dut)
            oracle.present_read(shadow, Names(), t)
            oracle.present_write(shadow, Names(), t)
            for name in compared:
                assert ctx.get(getattr(dut.bus, name)) == shadow.values.get(name, 0), f"{name} in cycle {t}"
            if shadow.values["rvalid"]:
                oracle_data.update({k: v for k, v in shadow.values.items() if k in ("rdata", "rlast")})
                assert ctx.get(dut.bus.rdata) == oracle_data["rdata"], f"cycle {t}"
                assert ctx.get(dut.bus.rlast) == oracle_data["rlast"]
                assert ctx.get(dut.bus.rresp) == 0
            if ctx.get(dut.bus.wvalid):
                assert ctx.get(dut.bus.wready) and shadow.values["wready"]
            rlast = ctx.get(dut.bus.rlast)
            reads = settle(READ_CHANNEL, [ctx.get(getattr(dut.bus, n)) for n in READ_CHANNEL])
            writes = settle(WRITE_CHANNEL, [ctx.get(getattr(dut.bus, n)) for n in WRITE_CHANNEL])
            await ctx.tick()
            oracle.observe_read(reads, t)
            oracle.observe_write(writes, t)
            master.observe(reads, writes, rlast)
            if master.done:
                break
        assert master.done, "the bursts do not end"
        for address in random.Random(seed).sample(range(SIZE), 200):
            assert await read(ctx, dut, address) == oracle.contents[address], hex(address)

    oracle_data: dict[str, int] = {}
    run(dut, bench)


def run(dut, bench) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


async def read(ctx, dut, address: int) -> int:
    ctx.set(dut.host.address, address)
    ctx.set(dut.host.read, 1)
    for _ in range(100):
        await ctx.tick()
        if ctx.get(dut.host.done):
            value = ctx.get(dut.host.read_data)
            await ctx.tick()
            ctx.set(dut.host.read, 0)
            await ctx.tick()
            return value
    raise AssertionError("no byte within 100 cycles")


async def write(ctx, dut, address: int, value: int) -> None:
    ctx.set(dut.host.address, address)
    ctx.set(dut.host.write_data, value)
    ctx.set(dut.host.write, 1)
    for _ in range(100):
        await ctx.tick()
        if ctx.get(dut.host.done):
            await ctx.tick()
            ctx.set(dut.host.write, 0)
            await ctx.tick()
            return
    raise AssertionError("not written within 100 cycles")


def filled(dut: SocMemory, image: bytes) -> SocMemory:
    """With contents that a single port's RAM has not at power-up."""
    size = dut.data_bits // 8
    dut.contents.init = [int.from_bytes(image[i : i + size], "little") for i in range(0, len(image), size)]
    return dut


@pytest.mark.parametrize("writes", [0, 25])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_single_port(writes, stall):
    """What is read is right whatever is written meanwhile; nothing is lost, and at worst every beat waits for one."""
    seed = random.Random(f"{writes} {stall}").randrange(1 << 30)
    print("seed", seed)
    image = random.Random(seed).randbytes(SIZE)
    dut = filled(SocMemory(data_bits=32, size=SIZE, outstanding=2, single_port=True), image)
    oracle = Memory(bytearray(image), 4, 16, 2, latency=LATENCY)
    master = Master(seed, 4, 2, 25, stall)
    master.todo["aw"] = writes
    expected: list[int] = []

    async def bench(ctx):
        for t in range(20000):
            master.present(ctx, dut.bus)
            if not writes:  # then it is as quick as the contract
                shadow = Shadow(dut)
                oracle.present_read(shadow, Names(), t)
                assert ctx.get(dut.bus.rvalid) == shadow.values.get("rvalid", 0), f"cycle {t}"
            oracle.present_write(Shadow(dut), Names(), t)
            reads = settle(READ_CHANNEL, [ctx.get(getattr(dut.bus, n)) for n in READ_CHANNEL])
            written = settle(WRITE_CHANNEL, [ctx.get(getattr(dut.bus, n)) for n in WRITE_CHANNEL])
            rlast = ctx.get(dut.bus.rlast)
            if reads["arvalid"] and reads["arready"]:
                first = reads["araddr"]
                expected.extend(range(first, first + 4 * (reads["arlen"] + 1), 4))
            if reads["rvalid"] and reads["rready"]:
                address = expected.pop(0)
                found = ctx.get(dut.bus.rdata).to_bytes(4, "little")
                assert found == image[address : address + 4], f"cycle {t}"
            await ctx.tick()
            oracle.observe_read(reads, t)
            oracle.observe_write(written, t)
            master.observe(reads, written, rlast)
            if master.done:
                break
        assert master.done and not expected, "the bursts do not end"
        for address in random.Random(seed).sample(range(SIZE), 200):
            assert await read(ctx, dut, address) == oracle.contents[address], hex(address)

    run(dut, bench)


@pytest.mark.parametrize("data_bits, single_port", [(32, False), (512, False), (32, True)])
def test_bytes(data_bits, single_port):
    image = bytes(range(256)) * 16
    dut = SocMemory(
        data_bits=data_bits,
        size=4096,
        outstanding=1,
        image=b"" if single_port else image,
        single_port=single_port,
    )
    filled(dut, image)
    rng = random.Random(7)
    contents = bytearray(bytes(range(256)) * 16)

    async def bench(ctx):
        for _ in range(200):
            address = rng.randrange(4096)
            if rng.random() < 0.5:
                contents[address] = rng.randrange(256)
                await write(ctx, dut, address, contents[address])
            assert await read(ctx, dut, address ^ 1) == contents[address ^ 1]
            assert await read(ctx, dut, address) == contents[address]

    run(dut, bench)


def test_outside():
    dut = SocMemory(data_bits=32, size=SIZE, outstanding=2, image=bytes(SIZE))
    bus = dut.bus

    async def bench(ctx):
        ctx.set(bus.rready, 1)
        ctx.set(bus.bready, 1)
        for address in (0, SIZE - 4, SIZE, 0x1000_0000, 1 << 63):
            wanted = 0 if address < SIZE else 3
            for channel in ("ar", "aw"):
                ctx.set(getattr(bus, f"{channel}addr"), address)
                ctx.set(getattr(bus, f"{channel}valid"), 1)
            ctx.set(bus.wstrb, 15)
            ctx.set(bus.wlast, 1)
            ctx.set(bus.wdata, 0xFFFFFFFF)
            await ctx.tick()
            ctx.set(bus.arvalid, 0)
            ctx.set(bus.awvalid, 0)
            ctx.set(bus.wvalid, 1)
            await ctx.tick()
            ctx.set(bus.wvalid, 0)
            seen = set()
            for _ in range(LATENCY):
                if ctx.get(bus.rvalid):
                    assert ctx.get(bus.rresp) == wanted
                    seen.add("r")
                if ctx.get(bus.bvalid):
                    assert ctx.get(bus.bresp) == wanted
                    seen.add("b")
                await ctx.tick()
            assert seen == {"r", "b"}
        written = [a for a in range(SIZE) if await read(ctx, dut, a)]
        assert written == [0, 1, 2, 3, *range(SIZE - 4, SIZE)]

    run(dut, bench)


def test_sizes():
    for size in (0, 100, 4097):
        with pytest.raises(ValueError, match=f"size must be a multiple of 4096 bytes, not {size}"):
            SocMemory(data_bits=32, size=size, outstanding=1)
    with pytest.raises(ValueError, match="image has 5000 bytes, the memory 4096"):
        SocMemory(data_bits=32, size=4096, outstanding=1, image=bytes(5000))
    with pytest.raises(ValueError, match="image must be empty where the memory has a single port"):
        SocMemory(data_bits=32, size=4096, outstanding=1, image=b"x", single_port=True)
