"""The whole accelerator in the Amaranth simulator: a hand-written layer against NumPy, its time, and errors."""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator
from axi_memory import READ_CHANNEL, WRITE_CHANNEL, Memory, settle

from sateen.hw.chip.top import Accelerator
from sateen.hw.control.registers import SLOTS
from sateen.hw.control.unit import Error
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import CHUNK, Opcode, Target, Unit
from sateen.machine.packing import pack_activations, pack_parameters, tile_words, unpack_activations
from sateen.machine.registers import COUNTED, COUNTERS, Register
from sateen.sim.memory_timing import MemoryTiming
from sateen.sim.model import predict

CONFIG = AcceleratorConfig(
    name="top", rows=2, cols=2, lanes=2, group=2, act_banks=2, act_bank_depth=32, weight_depth=32, acc_depth=16,
    parameter_depth=8, vector_lanes=1, bus_bits=32, queue_depth=2, burst_beats=8, outstanding=2,
)  # fmt: skip
H, W, KERNEL = 3, 4, 3  # a row is whole beats on the buses used here
PROGRAM, INPUT, WEIGHTS, PARAMETERS, OUTPUT, SIZE = 0, 0x1000, 0x1200, 0x1600, 0x1800, 0x2000
BASE = 0x7_0000_0000


def on(*units: Unit) -> int:
    return sum(1 << u for u in units)


class Layer:
    """A 3×3 convolution with padding 1 on (H, W, elements) with `elements` output channels, int8."""

    def __init__(self, config: AcceleratorConfig, seed: int):
        self.config = config
        rng = np.random.default_rng(seed)
        channels = config.elements
        self.x = rng.integers(-128, 128, (H, W, channels))
        self.w = rng.integers(-128, 128, (KERNEL, KERNEL, channels, channels))
        self.bias = [int(b) for b in rng.integers(-5000, 5000, channels)]
        self.multiplier = [int(b) for b in rng.integers(20000, 60000, channels)]
        self.shift = [int(b) for b in rng.integers(22, 25, channels)]

    def expected(self) -> np.ndarray:
        x = np.pad(self.x, ((1, 1), (1, 1), (0, 0)))
        acc = np.zeros(self.x.shape, np.int64)
        for ky in range(KERNEL):
            for kx in range(KERNEL):
                acc += x[ky : ky + H, kx : kx + W] @ self.w[ky, kx]
        out = (acc + self.bias) * np.array(self.multiplier) / 2.0 ** np.array(self.shift)  # exact below 2**53
        return np.clip(np.rint(out), -128, 127).astype(np.int64)

    def tile_bytes(self) -> int:
        """Of the weights of one output tile, filled up to whole beats."""
        c = self.config
        size = KERNEL * KERNEL * c.rows * c.dense_passes * c.weight_word_bytes
        return -(-size // c.beat_bytes) * c.beat_bytes

    def program(self) -> list[Instruction]:
        c = self.config
        half = c.act_bank_depth  # the output goes to the second half of the buffer
        pixels = H * W
        rows = KERNEL * KERNEL * c.rows * c.dense_passes
        body = [
            Instruction(
                Opcode.LOAD, {"target": Target.ACTIVATION, "destination": 0, "source": INPUT, "words": pixels}
            ),
            Instruction(
                Opcode.LOAD,
                {"target": Target.PARAMETER, "source": PARAMETERS, "words": c.elements // c.vector_lanes},
                signal=on(Unit.VECTOR),
            ),
        ]
        for tile in range(c.slices):
            to = on(Unit.MATRIX) if tile < c.slices - 2 else on(Unit.STORE) if tile == c.slices - 1 else 0
            body += [
                Instruction(
                    Opcode.LOAD,
                    {"target": Target.WEIGHT, "source": WEIGHTS + tile * self.tile_bytes(), "words": rows},
                    wait=on(Unit.MATRIX) if tile else 0,
                    signal=on(Unit.MATRIX),
                ),
                Instruction(
                    Opcode.MATRIX,
                    {
                        "base": -(W + 1) % (1 << 24), "step_x": 1, "step_y": W, "step_kx": 1, "step_ky": W,
                        "x0": -1, "y0": -1, "in_w": W, "in_h": H, "stride_x": 1, "stride_y": 1,
                        "dilation_x": 1, "dilation_y": 1, "kernel_w": KERNEL, "kernel_h": KERNEL,
                        "channel_words": 1, "out_w": W, "out_h": H, "passes": c.dense_passes,
                        "weight_base": 0, "acc_base": tile % 2 * c.acc_depth,
                    },
                    wait=on(Unit.LOAD) | (on(Unit.VECTOR) if tile > 1 else 0),
                    signal=on(Unit.VECTOR) | (on(Unit.LOAD) if tile < c.slices - 1 else 0),
                ),
                Instruction(
                    Opcode.DRAIN,
                    {
                        "acc_base": tile % 2 * c.acc_depth, "out_w": W, "out_h": H,
                        "parameter_base": tile * c.cols // c.vector_lanes, "base": half, "step_x": 1, "step_y": W,
                        "slice": tile, "low": -128, "high": 127,
                    },
                    wait=on(Unit.MATRIX) | (0 if tile else on(Unit.LOAD)),
                    signal=to,
                ),
            ]  # fmt: skip
        body.append(
            Instruction(
                Opcode.STORE, {"source": half, "destination": OUTPUT, "words": pixels}, wait=on(Unit.VECTOR)
            )
        )
        return [*body, Instruction(Opcode.END)]

    def image(self) -> bytearray:
        c = self.config
        image = bytearray(random.Random(0).randbytes(SIZE))
        program = b"".join(i.encode() for i in self.program())
        assert len(program) <= CHUNK * 64
        codes = (self.x & 0xFF).astype(np.uint8)
        tiles = []  # (slice, ky, kx, pass) of (rows, cols, lanes)
        for tile in range(c.slices):
            columns = slice(tile * c.cols, (tile + 1) * c.cols)
            for ky in range(KERNEL):
                for kx in range(KERNEL):
                    taps = self.w[ky, kx][:, columns].reshape(c.rows, c.dense_passes, c.lanes, c.cols)
                    tiles += [taps[:, p].transpose(0, 2, 1) for p in range(c.dense_passes)]
        weights = (np.stack(tiles) & 0xFF).astype(np.uint8)
        for offset, data in (
            (PROGRAM, program),
            (INPUT, pack_activations(codes[None], c)[0].tobytes()),
            *(
                (WEIGHTS + k * self.tile_bytes(), tile_words(w, c).tobytes())
                for k, w in enumerate(np.split(weights, c.slices))
            ),
            (PARAMETERS, pack_parameters(self.bias, self.multiplier, self.shift, c)),
        ):
            image[offset : offset + len(data)] = data
        return image

    def result(self, image: bytearray) -> np.ndarray:
        data = np.frombuffer(bytes(image[OUTPUT : OUTPUT + H * W * self.config.act_word_bytes]), np.uint8)
        codes = unpack_activations(data[None], (H, W, self.config.elements), self.config)[0]
        return codes.view(np.int8).astype(np.int64)


class System:
    """The accelerator with the memory of docs/isa.md; register accesses without delays."""

    def __init__(self, config: AcceleratorConfig, image: bytearray, **memory):
        self.dut = Accelerator(config=config)
        self.memory = Memory(image, config.beat_bytes, config.burst_beats, config.outstanding, **memory)
        self.cycle = 0

    def simulate(self, host) -> None:
        dut, memory = self.dut, self.memory
        reads = [getattr(dut.bus, name) for name in READ_CHANNEL]
        writes = [getattr(dut.bus, name) for name in WRITE_CHANNEL]

        def offsets(v: dict[str, int]) -> dict[str, int]:
            return v | {name: v[name] - BASE for name in ("araddr", "awaddr") if name in v}

        async def serve(ctx):
            while True:
                t = self.cycle
                memory.present_read(ctx, dut.bus, t)
                memory.present_write(ctx, dut.bus, t)
                _, _, *values = await ctx.tick().sample(*reads, *writes)
                memory.observe_read(offsets(settle(READ_CHANNEL, values[: len(reads)])), t)
                memory.observe_write(offsets(settle(WRITE_CHANNEL, values[len(reads) :])), t)
                self.cycle += 1

        async def drive(ctx):
            self.ctx = ctx
            await self.write(Register.BASE_HIGH, BASE >> 32)
            await self.write(Register.BASE_LOW, BASE & 0xFFFFFFFF)
            await self.write(Register.INTERRUPT, 1)
            await host(self)

        sim = Simulator(dut)
        sim.add_clock(1e-6)
        sim.add_testbench(serve, background=True)
        sim.add_testbench(drive)
        sim.run()

    async def write(self, register: int, value: int) -> None:
        ctx, bus = self.ctx, self.dut.control
        ctx.set(bus.awaddr, int(register))
        ctx.set(bus.wdata, value)
        ctx.set(bus.wstrb, 15)
        ctx.set(bus.awvalid, 1)
        ctx.set(bus.wvalid, 1)
        ctx.set(bus.bready, 1)
        await ctx.tick()
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
        await ctx.tick()
        assert ctx.get(bus.bvalid) and not ctx.get(bus.bresp)
        await ctx.tick()

    async def read(self, register: int) -> int:
        ctx, bus = self.ctx, self.dut.control
        ctx.set(bus.araddr, int(register))
        ctx.set(bus.arvalid, 1)
        ctx.set(bus.rready, 1)
        await ctx.tick()
        ctx.set(bus.arvalid, 0)
        await ctx.tick()
        for _ in range(SLOTS):  # of a counter: until its turn comes
            if ctx.get(bus.rvalid):
                break
            await ctx.tick()
        assert ctx.get(bus.rvalid) and not ctx.get(bus.rresp)
        value = ctx.get(bus.rdata)
        await ctx.tick()
        return value

    async def run(self, program: int = PROGRAM) -> Error:
        await self.write(Register.PROGRAM, program)
        await self.write(Register.CTRL, 1)
        for _ in range(20000):
            if self.ctx.get(self.dut.interrupt):
                break
            await self.ctx.tick()
        status = await self.read(Register.STATUS)
        assert status & 0b111 == 0b110
        await self.write(Register.INTERRUPT, 3)
        memory = self.memory
        assert not (memory.reads or memory.writes or memory.responses or memory.queued_beats)
        return Error(status >> 8)


@pytest.mark.parametrize("seed, latency, interval", [(0, 1, 1), (1, 20, 1), (2, 7, 3)])
@pytest.mark.parametrize("bus_bits, lanes", [(32, 2), (128, 1)])
def test_a_layer(bus_bits, lanes, seed, latency, interval):
    """Equal to NumPy, and CYCLES equal to the cycle model."""
    config = CONFIG.replace(bus_bits=bus_bits, lanes=lanes, weight_depth=64)
    layer = Layer(config, seed)
    system = System(config, layer.image(), latency=latency, interval=interval)
    program = b"".join(i.encode() for i in layer.program())
    timing = predict(program, PROGRAM, config, MemoryTiming(latency, interval))

    async def host(s):
        for _ in range(2):
            s.memory.contents[OUTPUT:] = bytes(SIZE - OUTPUT)
            assert await s.run() is Error.NONE
            np.testing.assert_array_equal(layer.result(s.memory.contents), layer.expected())
            assert await s.read(Register.CYCLES_LOW) == timing.cycles
            for u in Unit:
                busy, wait, idle, stall = [await s.read(COUNTERS[name, u]) for name in COUNTED]
                assert busy + wait + idle == timing.cycles
                assert stall <= busy and (stall == 0 or u in (Unit.LOAD, Unit.STORE))
                if u is not Unit.LOAD:  # the fetch of the first chunk is no event
                    mine = [x for x in timing.events if x.instruction.unit is u]
                    assert busy == sum(x.done - x.start + 1 for x in mine)

    system.simulate(host)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_layer_on_a_memory_that_stalls(seed):
    print(f"{seed=}")
    layer = Layer(CONFIG, seed)
    system = System(CONFIG, layer.image(), seed=seed)

    async def host(s):
        assert await s.run() is Error.NONE
        np.testing.assert_array_equal(layer.result(s.memory.contents), layer.expected())

    system.simulate(host)


@pytest.mark.parametrize(
    "address, error",
    [
        (PROGRAM + 64, Error.READ_ERROR),
        (INPUT, Error.READ_ERROR),
        (WEIGHTS + 20, Error.READ_ERROR),
        (OUTPUT, Error.WRITE_ERROR),
    ],
)
def test_bus_error_then_a_good_run(address, error):
    layer = Layer(CONFIG, 3)
    system = System(CONFIG, layer.image(), seed=4)

    async def host(s):
        s.memory.errors = frozenset([address])
        assert await s.run() is error
        s.memory.errors = frozenset()
        assert await s.run() is Error.NONE
        np.testing.assert_array_equal(layer.result(s.memory.contents), layer.expected())

    system.simulate(host)


def test_bank_conflict():
    layer = Layer(CONFIG, 5)
    load = {"target": Target.ACTIVATION, "source": INPUT, "words": 12}
    store = {"source": 0, "destination": OUTPUT, "words": 12}
    pool = {
        "step_x": 1, "in_w": 12, "in_h": 1, "stride_x": 1, "stride_y": 1, "dilation_x": 1, "dilation_y": 1,
        "kernel_w": 1, "kernel_h": 1, "channel_words": 1, "out_w": 12, "out_h": 1, "out_base": 16, "out_step_x": 1,
    }  # fmt: skip
    program = [
        Instruction(Opcode.LOAD, load, signal=on(Unit.VECTOR, Unit.STORE)),
        Instruction(Opcode.POOL, pool, wait=on(Unit.LOAD)),
        Instruction(Opcode.STORE, store, wait=on(Unit.LOAD)),
        Instruction(Opcode.END),
    ]
    bad = b"".join(i.encode() for i in program)
    system = System(CONFIG, layer.image())

    async def host(s):
        good = bytes(s.memory.contents[PROGRAM : PROGRAM + len(bad)])
        s.memory.contents[PROGRAM : PROGRAM + len(bad)] = bad
        assert await s.run() is Error.BANK_CONFLICT
        s.memory.contents[PROGRAM : PROGRAM + len(bad)] = good
        assert await s.run() is Error.NONE
        np.testing.assert_array_equal(layer.result(s.memory.contents), layer.expected())

    system.simulate(host)
