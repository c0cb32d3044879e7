"""The load unit: what arrives, and when."""

import random

import pytest
from amaranth.hdl import Const
from amaranth.sim import Simulator
from axi_memory import READ_CHANNEL, Memory, settle

from sateen.hw import isa
from sateen.hw.memory.load import LoadUnit, targets, word_bytes
from sateen.hw.memory.requests import log2
from sateen.machine.config import AcceleratorConfig
from sateen.sim.memory_timing import MemoryTiming, load_timing

BASE = 0x3_0000_0000

CONFIGS = {
    # words: activation 4 bytes, weight 4, parameter 8
    "narrow": AcceleratorConfig(
        rows=2, cols=2, lanes=2, group=2, vector_lanes=1, act_bank_depth=64, weight_depth=64, bus_bits=32,
        burst_beats=4, outstanding=2,
    ),
    # activation 14 bytes, weight 5, parameter 32, on beats of 8
    "gather": AcceleratorConfig(
        rows=8, cols=4, lanes=2, group=2, weight_format="int5", activation_format="uint7", act_bank_depth=64,
        weight_depth=64, burst_beats=8, outstanding=3,
    ),
    # everything is split: activation 8 bytes on 64-byte beats, weight 8, parameter 32
    "split": AcceleratorConfig(
        rows=4, cols=4, act_bank_depth=64, weight_depth=64, bus_bits=512, burst_beats=64, outstanding=4,
    ),
    "single": AcceleratorConfig(
        rows=8, cols=4, act_bank_depth=64, weight_depth=64, bus_bits=32, burst_beats=1, outstanding=1,
        acc_bits=20,
    ),
    # values and indices apart; activation 24 bytes, weight 12, index 8, on beats of 16
    "indexed": AcceleratorConfig(
        rows=4, cols=8, lanes=2, group=8, patterns=("dense", "2:8"), weight_format="e3m2",
        activation_format="e3m2", act_bank_depth=64, weight_depth=64, bus_bits=128, burst_beats=8, outstanding=3,
        vector_lanes=2,
    ),
}  # fmt: skip
# Words of `bits` units, elements of 3 to 8 bits, against beats of every width: longer, shorter, equal.
GEARS = {
    f"{bits} bits on {bus}": AcceleratorConfig(
        rows=rows, cols=4, lanes=2, group=2, weight_format=f"int{bits}", activation_format=f"uint{bits}",
        act_bank_depth=64, weight_depth=64, bus_bits=bus, burst_beats=8, outstanding=2, vector_lanes=1,
    )
    for bits in range(3, 9) for bus in (32, 64, 128, 256, 512) for rows in ((2, 16) if bus <= 128 else (4,))
}  # fmt: skip
NARROW_WORDS = AcceleratorConfig(  # of 10 bits, filled up to 2 bytes, and of 20, to 3
    rows=1, cols=2, lanes=2, group=2, weight_format="int5", activation_format="uint5", act_bank_depth=64,
    weight_depth=64, bus_bits=64, burst_beats=8, outstanding=2, vector_lanes=1,
)  # fmt: skip
# Index words that are a beat, less than a byte, and more than a beat, of one to four planes.
INDICES = {
    f"indices {pattern}, {rows}x{cols} on {bus}": AcceleratorConfig(
        rows=rows, cols=cols, lanes=2, group=16, patterns=("dense", pattern), act_bank_depth=64, weight_depth=64 * rows,
        bus_bits=bus, burst_beats=8, outstanding=2, vector_lanes=1,
    )
    for pattern, rows, cols, bus in (("2:16", 4, 8, 64), ("1:2", 1, 2, 64), ("2:8", 2, 32, 32))
}  # fmt: skip
CONFIGS |= GEARS | INDICES | {"filled up": NARROW_WORDS}


MEMORIES = [(1, 1), (5, 1), (2, 3), (20, 1), (1, 9), (40, 2), (3, 2)]
"""(latency, interval). Their number and that of the gears' bus widths have no common divisor."""


def words_of(
    target: isa.Target, config: AcceleratorConfig, memory: bytes, source: int, words: int
) -> list[int]:
    """What a LOAD writes, word by word."""
    size = word_bytes(target, config)
    result = []
    for i in range(words):
        word = int.from_bytes(memory[source + i * size : source + (i + 1) * size], "little")
        if target is isa.Target.ACTIVATION:
            word &= (1 << config.act_word_bits) - 1
        elif target is isa.Target.WEIGHT:
            word &= (1 << config.weight_word_bits) - 1
        elif target is isa.Target.INDEX:
            word &= (1 << config.index_word_bits) - 1
        elif target is isa.Target.PARAMETER:
            mask = (1 << config.parameter_bits) - 1
            word = sum(
                (word >> (8 * config.parameter_bytes * c) & mask) << (config.parameter_bits * c)
                for c in range(config.vector_lanes)
            )
        result.append(word)
    return result


def run_loads(config, loads, memory):
    """Runs (target, source, destination, words, last plane) one after the other.

    Returns for each its start, done, writes as (cycle, address, word), and errors. An index word's address counts
    its planes too, as if each were an address.
    """
    dut = LoadUnit(config=config)
    ports = {
        isa.Target.ACTIVATION: dut.activation,
        isa.Target.WEIGHT: dut.weight,
        isa.Target.PARAMETER: dut.parameter,
        isa.Target.TABLE: dut.table,
    } | ({isa.Target.INDEX: dut.index} if config.indexed else {})
    results = []

    async def bench(ctx):
        ctx.set(dut.base, BASE)
        sampled = [getattr(dut.axi, n) for n in READ_CHANNEL]
        sampled += [s for p in ports.values() for s in (p.en, p.addr, p.data)]
        sampled += [dut.instruction_valid, dut.instruction_data, dut.done, dut.error, dut.beat, dut.stall]
        sampled.append(dut.index.mask if config.index_planes > 1 else Const(1))
        t = 0
        for target, source, destination, words, last_plane in loads:
            instruction = isa.LOAD.const(
                {
                    "target": target,
                    "source": source,
                    "destination": destination,
                    "words": words,
                    "last_plane": last_plane,
                }
            )
            ctx.set(dut.instruction, instruction.as_value().value)
            ctx.set(dut.start, 1)
            start, writes, errors, beats, stalls = t, [], 0, 0, 0
            while True:
                assert t < start + 20000, "the load does not end"
                memory.present_read(ctx, dut.axi, t)
                _, _, *values = await ctx.tick().sample(*sampled)
                ctx.set(dut.start, 0)
                ctx.set(dut.instruction, 0)
                *values, mask = values
                n = len(READ_CHANNEL)
                channel = settle(READ_CHANNEL, values[:n])
                channel["araddr"] -= BASE * channel["arvalid"]
                memory.observe_read(channel, t)
                for i, port_target in enumerate(ports):
                    en, addr, word = values[n + 3 * i : n + 3 * i + 3]
                    if en:
                        assert port_target is target
                        if target is isa.Target.INDEX:
                            plane = mask.bit_length() - 1
                            assert mask == 1 << plane
                            word = word >> plane * config.index_word_bits & (1 << config.index_word_bits) - 1
                            addr = addr * (last_plane + 1) + plane
                        writes.append((t, addr, word))
                valid, word, done, error, beat, stall = values[-6:]
                if valid:
                    assert target is isa.Target.INSTRUCTION
                    writes.append((t, 0, word))
                errors += error
                beats += beat
                stalls += stall
                t += 1
                if done:
                    break
            results.append((start, t - 1, writes, errors, beats, stalls))
        for _ in range(3):
            _, _, *values = await ctx.tick().sample(dut.axi.arvalid, dut.done, dut.stall)
            assert not any(values)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    assert not memory.reads, "bursts left open"
    return results


def random_loads(config, rng, count):
    loads = []
    for i in range(count):
        target = targets(config)[i % len(targets(config))]
        limit = {isa.Target.TABLE: 150, isa.Target.INSTRUCTION: 20}.get(target, 40)
        words = rng.choice([1, 2, 3, rng.randint(1, limit)])
        if target is isa.Target.INSTRUCTION:
            words = min(words, 6)
        near_boundary = 4096 * rng.randint(1, 3) - rng.randint(0, 9) * config.beat_bytes
        source = rng.choice([rng.randrange(0, 12000, config.beat_bytes), near_boundary])
        last_plane = rng.randrange(max(1, config.index_planes)) if target is isa.Target.INDEX else 0
        loads.append((target, source, rng.randrange(64), words, last_plane))
    return loads


def check(config, loads, memory, results):
    sizes = {
        isa.Target.ACTIVATION: config.act_depth,
        isa.Target.WEIGHT: config.weight_depth,
        isa.Target.PARAMETER: config.parameter_depth,
        isa.Target.TABLE: 1 << config.activation.bits,
        isa.Target.INDEX: config.weight_depth // config.index_rows,
    }
    for (target, source, destination, words, last), (_, done, writes, *_) in zip(loads, results, strict=True):
        if target is isa.Target.INSTRUCTION:
            size = config.beat_bytes
            got = b"".join(int(w).to_bytes(size, "little") for _, _, w in writes)
            assert got == memory.contents[source : source + words * isa.INSTRUCTION_BYTES]
        else:
            assert [w for _, _, w in writes] == words_of(target, config, memory.contents, source, words)
            planes = last + 1 if target is isa.Target.INDEX else 1
            wanted = [(destination * planes + i) % (sizes[target] * planes) for i in range(words)]
            assert [a for _, a, _ in writes] == wanted
        assert writes[-1][0] == done, "done comes with the last write"


@pytest.mark.parametrize("name, seed", [(n, s) for n in CONFIGS for s in range(1 if n in GEARS else 2)])
def test_random_stalls(name, seed):
    config, rng = CONFIGS[name], random.Random(seed)
    memory = Memory(
        bytearray(rng.randbytes(32768)), config.beat_bytes, config.burst_beats, config.outstanding, seed=seed
    )
    loads = random_loads(config, rng, 15)
    check(config, loads, memory, run_loads(config, loads, memory))


@pytest.mark.parametrize(
    "name, latency, interval",
    [(n, *m) for n in CONFIGS for m in MEMORIES if n not in GEARS]
    + [(n, *MEMORIES[k % len(MEMORIES)]) for k, n in enumerate(GEARS)],
)
def test_timing(name, latency, interval):
    config, rng = CONFIGS[name], random.Random(f"{name}{latency}{interval}")
    memory = Memory(
        bytearray(rng.randbytes(32768)),
        config.beat_bytes,
        config.burst_beats,
        config.outstanding,
        latency,
        interval,
    )
    loads = random_loads(config, rng, 20)
    results = run_loads(config, loads, memory)
    check(config, loads, memory, results)
    timing = MemoryTiming(latency, interval)
    for (target, source, _, words, _), (start, done, writes, *_) in zip(loads, results, strict=True):
        expected = load_timing(start, source, words, target, config, timing)
        assert done == expected.done, (target, source, words)
        if target is isa.Target.INSTRUCTION:
            assert [t for t, _, _ in writes] == list(expected.arrivals)
        else:
            assert expected.arrivals == ()


def test_full_bandwidth():
    """With enough bursts open, a long load takes one cycle a beat, also of words that begin anywhere in a beat."""
    config = CONFIGS["gather"].replace(outstanding=4, burst_beats=16)
    memory = Memory(bytearray(8192), 8, 16, 4, latency=20)
    [(start, done, *_, beats, stalls)] = run_loads(config, [(isa.Target.ACTIVATION, 0, 0, 252, 0)], memory)
    assert beats == 252 * 14 / 8
    assert done - start == beats + 2 + 20
    assert stalls == 21  # everything but the beats and the last write
    assert memory.most_open > 1


def test_indices_take_a_cycle_a_beat():
    """Whatever the number of planes: words that share a beat would take one each."""
    config = CONFIGS["indices 2:16, 4x8 on 64"]
    assert config.index_word_bits == config.bus_bits
    for planes in range(1, 5):
        memory = Memory(bytearray(8192), 8, 8, 2, latency=1)
        [(start, done, *_)] = run_loads(config, [(isa.Target.INDEX, 0, 0, 8 * planes, planes - 1)], memory)
        assert done - start == 8 * planes + 2 + 1


def test_error_is_reported_and_the_load_ends():
    config = CONFIGS["gather"]
    memory = Memory(bytearray(8192), 8, 8, 3, errors=frozenset([64, 128]))
    results = run_loads(
        config, [(isa.Target.ACTIVATION, 0, 0, 20, 0), (isa.Target.ACTIVATION, 1024, 0, 5, 0)], memory
    )
    assert [(r[3], len(r[2])) for r in results] == [(2, 20), (0, 5)]


def test_eleven_megabytes_are_modelled_quickly():
    config = CONFIGS["narrow"]
    words = 11_000_000 // config.weight_word_bytes
    done, _ = load_timing(0, 0, words, isa.Target.WEIGHT, config, MemoryTiming(3, 1))
    assert done >= words
    assert log2(config.burst_beats) == 2
