"""The buffers against a dictionary: latency, slices, read-during-write, and the conflict flag."""

import random

import pytest
from amaranth.sim import Simulator

from sateen.hw.memory.buffers import ActivationBuffer, Buffer, IndexBuffer
from sateen.machine.config import AcceleratorConfig

CONFIG = AcceleratorConfig(rows=2, cols=2, lanes=2, group=2, act_banks=4, act_bank_depth=4, vector_lanes=2)


def simulate(dut, testbench) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()


@pytest.mark.parametrize("latency", [1, 2])
def test_buffer(latency):
    dut, rng = Buffer(depth=8, width=10, registered=latency == 2), random.Random(1)

    async def testbench(ctx):
        words, expected = [0] * 8, None
        late = [None] * (latency - 1)
        for _ in range(300):
            read, write, a, b, value = (
                rng.random() < 0.7,
                rng.random() < 0.7,
                *(rng.randrange(8) for _ in "ab"),
                rng.getrandbits(10),
            )
            ctx.set(dut.read.en, read)
            ctx.set(dut.read.addr, a)
            ctx.set(dut.write.en, write)
            ctx.set(dut.write.addr, b)
            ctx.set(dut.write.data, value)
            if read:
                expected = words[a]  # in simulation the old value, if this cycle writes it
            if write:
                words[b] = value
            await ctx.tick()
            late.append(expected)
            if (now := late.pop(0)) is not None:
                assert ctx.get(dut.read.data) == now

    assert dut.latency == latency
    simulate(dut, testbench)


@pytest.mark.parametrize(
    "rows, cols, bus_bits, pattern, latency",
    [(4, 4, 32, "2:8", 1), (4, 8, 32, "2:4", 2), (1, 4, 64, "1:2", 1), (4, 32, 32, "1:8", 1)],
)
def test_index_buffer(rows, cols, bus_bits, pattern, latency):
    """Planes of several rows in, all planes of one row out."""
    patterns = ("dense", pattern)
    config = AcceleratorConfig(
        rows=rows, cols=cols, lanes=2, group=8, patterns=patterns, weight_depth=32, bus_bits=bus_bits,
        memory_registers=latency == 2,
    )  # fmt: skip
    dut, rng = IndexBuffer(config=config), random.Random(3)
    planes, block, row_bits = config.index_planes, config.index_rows, cols * 2
    assert block == min(rows, max(1, bus_bits // row_bits))

    async def testbench(ctx):
        bits, expected = [[0] * planes for _ in range(32)], None
        late = [None] * (latency - 1)
        for _ in range(500):
            read, write = rng.random() < 0.7, rng.random() < 0.7
            row, to = rng.randrange(32), rng.randrange(32 // block)
            mask, data = rng.randrange(1 << planes) if planes > 1 else 1, rng.getrandbits(len(dut.write.data))
            ctx.set(dut.read.en, read)
            ctx.set(dut.read.addr, row)
            ctx.set(dut.write.en, write)
            ctx.set(dut.write.addr, to)
            ctx.set(dut.write.data, data)
            if planes > 1:
                ctx.set(dut.write.mask, mask)
            if read:
                expected = sum(word << (b * row_bits) for b, word in enumerate(bits[row]))
            for b in range(planes):
                for k in range(block):
                    if write and mask >> b & 1:
                        word = data >> (b * block + k) * row_bits & (1 << row_bits) - 1
                        bits[to * block + k][b] = word
            await ctx.tick()
            late.append(expected)
            if (now := late.pop(0)) is not None:
                assert ctx.get(dut.read.data) == now

    assert dut.latency == latency
    simulate(dut, testbench)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        CONFIG.replace(cols=4),
        CONFIG.replace(act_banks=2),
        CONFIG.replace(memory_registers=True),
        CONFIG.replace(memory_registers=True, act_banks=8),
    ],
)
def test_activation_buffer(config):
    dut, rng = ActivationBuffer(config=config), random.Random(2)
    depth, bits, slices = config.act_depth, config.act_word_bits, config.slices
    reads = [dut.matrix_read, dut.vector_read, dut.store_read]

    def bank(address: int) -> int:
        return address // config.act_bank_depth

    async def testbench(ctx):
        words = [0] * depth
        pipeline = [[None] * dut.latency, [None] * dut.latency, [None] * dut.store_latency]
        conflicts = 0
        for _ in range(1500):
            enabled = [rng.random() < 0.4 for _ in range(5)]
            addresses = [rng.randrange(depth) for _ in range(5)]
            used = [(k > 2, bank(a)) for k, (e, a) in enumerate(zip(enabled, addresses, strict=True)) if e]
            conflict = len(set(used)) < len(used)
            mask, values = rng.randrange(1 << slices), [rng.getrandbits(bits) for _ in range(2)]
            for port, en, address in zip(
                [*reads, dut.load_write, dut.vector_write], enabled, addresses, strict=True
            ):
                ctx.set(port.en, en)
                ctx.set(port.addr, address)
            ctx.set(dut.load_write.data, values[0])
            ctx.set(dut.vector_write.data, values[1])
            if slices > 1:
                ctx.set(dut.vector_write.mask, mask)
            await ctx.delay(1e-8)
            assert ctx.get(dut.conflict) == conflict
            if conflict:  # and nothing is promised
                conflicts += 1
                for port in [*reads, dut.load_write, dut.vector_write]:
                    ctx.set(port.en, 0)
                enabled = [False] * 5
            for k, port in enumerate(reads):
                if pipeline[k][0] is not None:
                    assert ctx.get(port.data) == pipeline[k][0]
                stays = None if k == 2 and config.memory_registers else pipeline[k][-1]
                pipeline[k] = [*pipeline[k][1:], words[addresses[k]] if enabled[k] else stays]
            if enabled[3]:
                words[addresses[3]] = values[0]
            if enabled[4]:
                size = bits // slices
                chosen = sum(
                    ((1 << size) - 1) << size * s for s in range(slices) if slices == 1 or mask >> s & 1
                )
                words[addresses[4]] = words[addresses[4]] & ~chosen | values[1] & chosen
            await ctx.tick()
        assert conflicts > 100

    assert dut.store_latency == 2 and dut.latency == 2 + config.memory_registers
    simulate(dut, testbench)
