"""The store unit: what reaches memory, and when."""

import random

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib.memory import Memory as Ram
from amaranth.sim import Simulator
from axi_memory import WRITE_CHANNEL, Memory, settle

from sateen.hw import isa
from sateen.hw.memory.store import StoreUnit
from sateen.hw.ports import STORE_READ_LATENCY
from sateen.machine.config import AcceleratorConfig
from sateen.sim.memory_timing import MemoryTiming, store_timing

BASE = 0x12_0000_0000


def config_of(word_bytes: int, beat_bytes: int, **more) -> AcceleratorConfig:
    """Words of `word_bytes` elements of 8 bits, if not said otherwise."""
    sizes = {
        "rows": word_bytes // 2, "cols": 2, "lanes": 2, "group": 2, "vector_lanes": 1,
        "act_bank_depth": 64, "weight_depth": 256, "bus_bits": 8 * beat_bytes,
    }  # fmt: skip
    return AcceleratorConfig(**sizes | more)


CONFIGS = {
    "equal": config_of(8, 8, burst_beats=8, outstanding=3),
    "split2": config_of(16, 8, burst_beats=8, outstanding=2),
    "split4": config_of(16, 4, burst_beats=16, outstanding=2),
    "split16": config_of(64, 4, burst_beats=8, outstanding=4),
    "pack2": config_of(4, 8, burst_beats=4, outstanding=2),
    "pack16": config_of(4, 64, burst_beats=2, outstanding=2),
    "page": config_of(4, 64, burst_beats=64, outstanding=1),
    "single": config_of(8, 8, burst_beats=1, outstanding=1),
    "filled up": config_of(2, 8, activation_format="uint5", burst_beats=8, outstanding=2),
}
# Words of `bits` units, elements of 3 to 8 bits, against beats of every width: longer, shorter, equal.
GEARS = {
    f"{bits} bits, {elements} on {bus}": config_of(
        elements, bus // 8, activation_format=f"uint{bits}", burst_beats=8, outstanding=2
    )
    for bits in range(3, 9)
    for bus in (32, 64, 128, 256, 512)
    for elements in ((4, 32) if bus <= 128 else (8,))
}
CONFIGS |= GEARS
MEMORIES = [(1, 1), (5, 1), (2, 3), (20, 1), (1, 9), (30, 2), (3, 30)]
"""(latency, interval). Their number and that of the gears' bus widths have no common divisor."""


def run_stores(config, stores, memory, words):
    """Runs (source, destination, words) in turn; gives start, done, errors, beats and stalls of each."""
    dut = StoreUnit(config=config)
    m = Module()
    m.submodules.dut = dut
    m.submodules.ram = ram = Ram(shape=config.act_word_bits, depth=config.act_depth, init=words)
    port = ram.read_port()
    # Data is valid in one cycle only: anything else reads as ones.
    valid = dut.activation.en
    for _ in range(STORE_READ_LATENCY):
        previous, valid = valid, Signal()
        m.d.sync += valid.eq(previous)
    late = Signal(config.act_word_bits)
    m.d.comb += [port.addr.eq(dut.activation.addr), port.en.eq(dut.activation.en)]
    m.d.sync += late.eq(port.data)
    with m.If(valid):
        m.d.comb += dut.activation.data.eq(late)
    with m.Else():
        m.d.comb += dut.activation.data.eq(~0)
    results = []

    async def bench(ctx):
        ctx.set(dut.base, BASE)
        sampled = [getattr(dut.axi, n) for n in WRITE_CHANNEL] + [dut.done, dut.error, dut.beat, dut.stall]
        t = 0
        for source, destination, count in stores:
            instruction = isa.STORE.const({"source": source, "destination": destination, "words": count})
            ctx.set(dut.instruction, instruction.as_value().value)
            ctx.set(dut.start, 1)
            start, errors, beats, stalls = t, 0, 0, 0
            while True:
                assert t < start + 20000, "the store does not end"
                memory.present_write(ctx, dut.axi, t)
                _, _, *values = await ctx.tick().sample(*sampled)
                ctx.set(dut.start, 0)
                ctx.set(dut.instruction, 0)
                channel = settle(WRITE_CHANNEL, values[: len(WRITE_CHANNEL)])
                channel["awaddr"] -= BASE * channel["awvalid"]
                memory.observe_write(channel, t)
                done, error, beat, stall = values[-4:]
                errors += error
                beats += beat
                stalls += stall
                t += 1
                if done:
                    break
            results.append((start, t - 1, errors, beats, stalls))
            assert not memory.writes and not memory.responses and not memory.queued_beats
        for _ in range(3):
            _, _, *values = await ctx.tick().sample(dut.axi.awvalid, dut.axi.wvalid, dut.done, dut.stall)
            assert not any(values)

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return results


def random_stores(config, rng, count):
    stores = []
    for _ in range(count):
        destination = rng.choice(
            [rng.randrange(0, 12000, config.beat_bytes), 8192 - rng.randint(0, 9) * config.beat_bytes]
        )
        destination -= destination % config.beat_bytes
        words = rng.choice([1, 2, 3, rng.randint(1, 40)])
        stores.append((rng.randrange(config.act_depth), destination, words))
    return stores


def expected_memory(config, stores, contents, words):
    result = bytearray(contents)
    for source, destination, count in stores:
        for i in range(count):
            word = words[(source + i) % config.act_depth].to_bytes(config.act_word_bytes, "little")
            result[destination + i * len(word) : destination + (i + 1) * len(word)] = word
    return result


def make(config, rng, **more):
    words = [rng.getrandbits(config.act_word_bits) for _ in range(config.act_depth)]
    memory = Memory(
        bytearray(rng.randbytes(20480)), config.beat_bytes, config.burst_beats, config.outstanding, **more
    )
    return words, memory


@pytest.mark.parametrize("name, seed", [(n, s) for n in CONFIGS for s in range(1 if n in GEARS else 2)])
def test_random_stalls(name, seed):
    config, rng = CONFIGS[name], random.Random(seed)
    words, memory = make(config, rng, seed=seed)
    stores = random_stores(config, rng, 10)
    expected = expected_memory(config, stores, memory.contents, words)
    run_stores(config, stores, memory, words)
    assert memory.contents == expected


@pytest.mark.parametrize(
    "name, latency, interval",
    [(n, *m) for n in CONFIGS for m in MEMORIES if n not in GEARS]
    + [(n, *MEMORIES[k % len(MEMORIES)]) for k, n in enumerate(GEARS)],
)
def test_timing(name, latency, interval):
    config, rng = CONFIGS[name], random.Random(f"{name}{latency}{interval}")
    words, memory = make(config, rng, latency=latency, interval=interval)
    stores = random_stores(config, rng, 10)
    expected = expected_memory(config, stores, memory.contents, words)
    results = run_stores(config, stores, memory, words)
    assert memory.contents == expected
    timing = MemoryTiming(latency, interval)
    for (_, destination, count), (start, done, *_) in zip(stores, results, strict=True):
        assert done == store_timing(start, destination, count, config, timing), (destination, count)


def test_full_bandwidth():
    config = CONFIGS["equal"].replace(outstanding=4, burst_beats=16)
    words, memory = make(config, random.Random(0), latency=20)
    [(start, done, _, beats, stalls)] = run_stores(config, [(0, 0, 200)], memory, words)
    assert beats == 200
    assert done - start == 200 + 4 + 20 + 1
    assert stalls == 19  # all but the last cycle of the wait for the response


def test_error_is_reported_and_the_store_ends():
    config = CONFIGS["equal"]
    words, memory = make(config, random.Random(0), errors=frozenset([64, 1024]))
    results = run_stores(config, [(0, 0, 40), (5, 1024, 3), (5, 2048, 3)], memory, words)
    assert [(r[2], r[3]) for r in results] == [(1, 40), (1, 3), (0, 3)]
