"""The vector unit with real buffers against the program interpreter: results and cycles of all its instructions."""

import random

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from sateen.formats.rows import exponentials, fraction_bits
from sateen.hw.memory.buffers import ActivationBuffer, Buffer
from sateen.hw.ports import STORE_READ_LATENCY
from sateen.hw.vector.drain import drain_latency
from sateen.hw.vector.requantize import residual_shift_limit
from sateen.hw.vector.unit import PARTS, VectorUnit, drain_cycles
from sateen.hw.vector.update import digits
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode
from sateen.machine.packing import pack, unpack
from sateen.sim.program import EXECUTE, Interpreter

BASE = AcceleratorConfig(
    rows=2, cols=4, lanes=2, group=2, act_banks=4, act_bank_depth=32, weight_depth=16, acc_depth=16,
    parameter_depth=16, vector_lanes=2,
)  # fmt: skip
CONFIGS = {
    "int8": BASE,
    "int8-whole-words": BASE.replace(vector_lanes=4),
    "uint8-one-lane": BASE.replace(activation_format="uint8", vector_lanes=1, table=False),
    "e3m2-slices": BASE.replace(activation_format="e3m2", rows=4, group=4, vector_lanes=4),
    "int4-slices": BASE.replace(activation_format="int4", rows=4, group=4, vector_lanes=2, acc_bits=20),
    "e4m3fn": BASE.replace(activation_format="e4m3fn", acc_bits=48, group=4),
    "e5m2-one-column": BASE.replace(activation_format="e5m2", acc_bits=80, cols=1, vector_lanes=1),
    "e2m1": BASE.replace(activation_format="e2m1", acc_bits=14, table=False),
    "e4m3fn-e5m2-gradients": BASE.replace(
        lanes=1,
        weight_format="e4m3fn",
        activation_format="e4m3fn",
        gradient_format="e5m2",
        acc_bits=80,
        outer_products=True,
    ),
    "int8-e4m3-gradients": BASE.replace(lanes=1, gradient_format="e4m3", acc_bits=48, outer_products=True),
    "int8-product": BASE.replace(product=True),
    "e4m3fn-product": BASE.replace(
        activation_format="e4m3fn", acc_bits=48, group=4, product=True, table=False
    ),
    "int8-registers": BASE.replace(memory_registers=True, product=True),
    "e3m2-slices-registers": BASE.replace(
        activation_format="e3m2", rows=4, group=4, vector_lanes=4, memory_registers=True
    ),
}
ROWS = {"softmax": True, "normalize": True}
ROW_CONFIGS = {
    "int8": BASE.replace(**ROWS),
    "int8-softmax": BASE.replace(softmax=True, vector_lanes=4),
    "int8-normalize": BASE.replace(normalize=True, vector_lanes=1, table=False),
    "uint8-slices": BASE.replace(**ROWS, activation_format="uint8", rows=4, group=4, vector_lanes=2),
    "e4m3": BASE.replace(**ROWS, activation_format="e4m3", acc_bits=48, group=4),
    "e5m2-one-lane": BASE.replace(**ROWS, activation_format="e5m2", acc_bits=80, vector_lanes=1),
    "e3m4-slices": BASE.replace(**ROWS, activation_format="e3m4", rows=4, group=4, vector_lanes=4),
    "int4": BASE.replace(**ROWS, activation_format="int4", acc_bits=28),
    "int8-registers": BASE.replace(**ROWS, memory_registers=True),
    "e4m3-registers": BASE.replace(
        **ROWS, activation_format="e4m3", acc_bits=48, group=4, memory_registers=True
    ),
}
GATE_CONFIGS = {
    name: BASE.replace(activation_format=fmt, acc_bits=bits, gates=True, **changes)
    for name, fmt, bits, changes in (
        ("int8", "int8", 32, {}),
        ("uint8-slices", "uint8", 32, dict(rows=4, group=4)),
        ("e4m3", "e4m3", 48, dict(group=4)),
        ("e5m2-one-column", "e5m2", 80, dict(cols=1, vector_lanes=1)),
        ("e2m1", "e2m1", 14, {}),
        ("int8-registers", "int8", 32, dict(memory_registers=True)),
    )
}
UPDATES = {
    "int8": BASE.replace(update=True),
    "int8-registers": BASE.replace(update=True, memory_registers=True),
    "int8-lanes": BASE.replace(update=True, rows=4, group=4, update_lanes=2, act_bank_depth=64),
    "int8-all-lanes": BASE.replace(
        update=True, rows=4, group=8, update_lanes=8, acc_bits=29, act_bank_depth=64, weight_depth=64
    ),
    "int8-patterns": BASE.replace(
        update=True,
        pruned_decay=True,
        patterns=("dense", "1:2", "2:4", "2:8", "4:8"),
        rows=4,
        group=8,
        update_lanes=2,
        act_bank_depth=256,
        weight_depth=64,
    ),
    "e4m3-pattern": BASE.replace(
        update=True,
        pruned_decay=True,
        patterns=("dense", "2:4"),
        activation_format="e4m3",
        rows=4,
        group=4,
        acc_bits=57,
        act_bank_depth=128,
        weight_depth=32,
    ),
    "int4-pattern": BASE.replace(
        update=True,
        pruned_decay=True,
        patterns=("dense", "1:2"),
        activation_format="int4",
        rows=4,
        group=4,
        acc_bits=8,
        update_lanes=2,
        act_bank_depth=128,
        weight_depth=32,
    ),
    "int4": BASE.replace(update=True, activation_format="int4", rows=4, group=4, acc_bits=20, update_lanes=2),
    "e4m3": BASE.replace(
        update=True, activation_format="e4m3", rows=4, group=2, acc_bits=57, act_bank_depth=64
    ),
    "e5m2": BASE.replace(
        update=True, activation_format="e5m2", rows=4, group=2, acc_bits=72, act_bank_depth=64
    ),
}
UPDATES |= {
    f"{name}-registers": UPDATES[name].replace(memory_registers=True)
    for name in ("int8-lanes", "int8-all-lanes")
}
UPDATES |= {
    f"{name}-registers": config.replace(memory_registers=True)
    for name, config in UPDATES.items()
    if config.pruned_decay and name != "int8-patterns"
}
HALF = BASE.act_depth // 2  # results go to the upper half, inputs come from the lower


def some_codes(rng, fmt, shape) -> np.ndarray:
    """Every code but NaN and infinity."""
    codes = np.arange(1 << fmt.bits)
    return rng.choice(codes[np.isfinite(fmt.decode(codes))], shape).astype(fmt.code_dtype)


def state(config: AcceleratorConfig, seed: int) -> Interpreter:
    """An interpreter with random buffers."""
    rng, fmt = np.random.default_rng(seed), config.activation
    s = Interpreter(config, b"", b"", 0, np.zeros((1, 0), np.uint8), 0)
    s.act[...] = some_codes(rng, fmt, s.act.shape)
    s.table[...] = some_codes(rng, fmt, s.table.shape)
    values = fmt.fixed(fmt.codes) / max(abs(fmt.min_fixed), fmt.max_fixed)
    s.exponentials[...] = exponentials(values * 10 ** rng.uniform(-1, 2)).words
    half = 1 << config.acc_bits - 2  # acc + bias fits acc_bits, as programs see to
    python = random.Random(seed)

    def numbers(shape) -> np.ndarray:
        values = [
            python.randint(-half, half - 1) >> python.randrange(config.acc_bits)
            for _ in range(np.prod(shape))
        ]
        return np.array(values, object).reshape(shape)

    s.acc[...] = numbers(s.acc.shape)
    s.bias[...] = numbers(s.bias.shape)
    s.multiplier[...] = rng.integers(0, 1 << 16, s.multiplier.shape)
    s.shift[...] = rng.integers(30, 30 + residual_shift_limit(config) // 2 + 1, s.shift.shape)
    return s


def drains(config: AcceleratorConfig, rng: random.Random):
    fmt = config.activation
    yield Instruction(
        Opcode.DRAIN,
        {"out_w": 1, "out_h": 1, "base": HALF, "low": fmt.min_fixed, "high": fmt.max_fixed, "raw": 1},
    )
    for i in range(12):
        out_w, out_h = rng.randint(1, 5), rng.randint(1, 3)
        raw, residual = int(i % 6 == 5), int(i % 2)
        fmt = config.gradient if (gradient := int(i % 4 < 2 and config.own_gradients)) else config.activation
        low, high = sorted(max(int(fmt.fixed(rng.randrange(1 << fmt.bits))), fmt.min_fixed) for _ in range(2))
        fields = {
            "acc_base": rng.choice([0, config.acc_depth]) + rng.randint(0, config.acc_depth - out_w * out_h),
            "out_w": out_w,
            "out_h": out_h,
            "parameter_base": rng.randint(0, config.parameter_depth - config.cols // config.vector_lanes),
            "base": HALF + rng.randint(0, 6),
            "step_x": rng.choice([1, 2, 3]),
            "step_y": rng.choice([16, 18]),
            "slice": rng.randrange(config.slices),
            "low": fmt.min_fixed if i < 6 else low,
            "high": fmt.max_fixed if i < 6 else high,
            "zero_point": rng.randint(-20, 20) if fmt.uniform and not gradient else 0,
            "gradient": gradient,
            "table": rng.randrange(2) if config.table else 0,
            "raw": raw,
            "raw_shift": rng.randint(0, config.acc_bits),
        }
        if residual:
            fields |= {
                "residual": 1,
                "residual_base": rng.randint(0, 9),
                "residual_step_x": rng.choice([1, 2, (1 << 24) - 1]),
                "residual_step_y": rng.choice([7, 18]),
                "residual_multiplier": 0 if config.product and i % 4 == 1 else 1 + rng.getrandbits(15),
                "residual_shift": 30 - residual_shift_limit(config) // 2,
                "residual_zero": rng.randint(-20, 20) if fmt.uniform and not gradient else 0,
            }
            if i == 3:  # in place
                fields |= {f"residual_{k}": fields[k] for k in ("base", "step_x", "step_y")}
        yield Instruction(Opcode.DRAIN, fields)


def pools(config: AcceleratorConfig, rng: random.Random):
    for _ in range(8):
        words, in_w, in_h = rng.randint(1, 3), rng.randint(1, 5), rng.randint(1, 4)
        stride_x, stride_y = rng.randint(1, 3), rng.randint(1, 3)
        dilation_x, dilation_y = rng.randint(1, 2), rng.randint(1, 2)
        x0, y0 = -rng.randint(0, 2), -rng.randint(0, 3)
        out_w, out_h = rng.randint(1, 3), rng.randint(1, 3)
        row, wrap = in_w * words, 1 << 24
        fields = {
            "base": (y0 * row + x0 * words) % wrap,
            "step_x": stride_x * words,
            "step_y": stride_y * row,
            "step_kx": dilation_x * words,
            "step_ky": dilation_y * row,
            "x0": x0,
            "y0": y0,
            "in_w": in_w,
            "in_h": in_h,
            "stride_x": stride_x,
            "stride_y": stride_y,
            "dilation_x": dilation_x,
            "dilation_y": dilation_y,
            "kernel_w": rng.randint(1, 3),
            "kernel_h": rng.randint(1, 3),
            "channel_words": words,
            "out_w": out_w,
            "out_h": out_h,
            "out_base": HALF + rng.randint(0, 3),
            "out_step_x": words + rng.randint(0, 1),
            "out_step_y": 18,
        }
        yield Instruction(Opcode.POOL, fields)


def gates(config: AcceleratorConfig, rng: random.Random):
    """As pools, with a second tensor and perhaps a third; bounds on both sides, on one, and on none."""
    for n, pool in enumerate(pools(config, rng)):
        fields = pool.fields | dict(kernel_h=1, kernel_w=1, equal=n % 2)
        fields |= dict(
            second_base=rng.randint(0, 9), second_step_x=rng.choice([1, 2, (1 << 24) - 1]),
            second_step_y=rng.choice([7, 18]), distance=rng.randint(0, 9), above=rng.randrange(2),
            below=rng.randrange(2), low=rng.randrange(1 << config.activation.bits) & 0x77,
            high=rng.randrange(1 << config.activation.bits) & 0x77,
        )  # fmt: skip
        if n == 3:  # an element equals itself
            same = {f"second_{k}": fields[k] for k in ("base", "step_x", "step_y")}
            fields |= same | dict(base=3, second_base=3, x0=0, y0=0, in_w=99, in_h=99, out_w=2, out_h=2)
        yield Instruction(Opcode.GATE, fields)


def row_instructions(config: AcceleratorConfig, rng: random.Random):
    """Of rows of a pixel and of several, in other words and in place, that share words with others."""
    fmt = config.activation
    kinds = [name for name in ROWS if getattr(config, name)]
    for n in range(12):
        normalize = kinds[n % len(kinds)] == "normalize"
        words, row_w, row_h = rng.randint(1, 3), *((1, 1) if n % 4 < 2 else (rng.randint(1, 2), 2))
        out_w, out_h = (rng.randint(1, 3), rng.randint(1, 2)) if row_h == 1 else (1, 1)
        first = rng.randrange(config.elements)
        last = rng.randint(first + 1, words * config.elements)
        count = (last - first) * row_w * row_h
        pixels = row_w * row_h * out_w * out_h
        norm = normalize and rng.random() < 0.2
        base = rng.randint(0, 4)
        fields = {
            "base": base,
            "step_x": words,
            "step_y": out_w * words,
            "out_w": out_w,
            "out_h": out_h,
            "step_kx": words,
            "step_ky": row_w * words,
            "row_w": row_w,
            "row_h": row_h,
            "channel_words": words,
            "first": first,
            "last": last,
            "distance": 0 if n % 3 == 0 else HALF + rng.randint(-3, 3),
            "parameter_base": rng.randint(0, 3),
            "per_channel": int(words * config.elements // config.vector_lanes <= config.parameter_depth - 3)
            * rng.randrange(2),
            "zero_point": rng.randint(-20, 20) if fmt.uniform else 0,
            "low": fmt.min_fixed,
            "high": fmt.max_fixed,
        }
        assert pixels * words + base < HALF - 3
        if normalize:
            fields |= {
                "normalize": 1,
                "centred": int(not norm and n % 5 > 0),
                "count": 1 if norm else count,
                "zero": int(fmt.fixed(rng.randrange(1 << fmt.bits))),
                "epsilon": rng.getrandbits(rng.randrange(1, 24)),
            }
        yield Instruction(Opcode.ROW, fields)


def updates(config: AcceleratorConfig, rng: random.Random):
    """With factors of any size: most saturate, many tie, and some do neither."""
    bits = config.activation.bits
    per_word, planes = 32 // bits, digits(config)
    for n in range(8 + 4 * len(config.sparse_patterns) * config.pruned_decay):
        step = rng.randint(1, 3) if config.pruned_decay else 1
        words = rng.randint(1, max(1, config.act_depth // (step * (2 * per_word + planes + 3))))
        spread = words * step
        velocity = rng.randrange(config.act_depth)
        at = [velocity, velocity + spread * per_word, velocity + 2 * spread * per_word]
        plane = spread + rng.randrange(2)
        fields = {
            "velocity": at[0] % config.act_depth,
            "master": at[1] % config.act_depth,
            "gradient": at[2] % config.act_depth,
            "plane": plane,
            "codes": (at[2] + planes * plane) % config.act_depth,
            "words": words,
            "multiplier": 1 << rng.randrange(4),
            "shift": rng.randint(18, 26),
        }
        if config.pruned_decay:
            pattern = rng.choice([None, *config.sparse_patterns])
            fields |= {"step": step, "pruned": rng.getrandbits(16)}
            if pattern is not None:
                fields |= {
                    "index_bits": pattern.index_bits,
                    "index_shift": (pattern.m // pattern.n).bit_length() - 1,
                }
        for name, wide in (("momentum", 0), ("decay", 0), ("rate", bits * planes - 32)):
            factor = rng.choice([0, 1, 3, rng.getrandbits(16)]) if n else 1
            least = max(0, factor.bit_length() + wide) if rng.random() < 0.8 else 0
            fields |= {
                name: factor,
                f"{name}_shift": min(61, least + rng.choice([0, 1, 2, rng.randrange(20)])),
            }
        yield Instruction(Opcode.UPDATE, fields)


class Bench(wiring.Component):
    """The unit between its buffers; all memories are filled and read through ports."""

    def __init__(self, config: AcceleratorConfig):
        self.unit = VectorUnit(config=config)
        self.act = ActivationBuffer(config=config)
        self.parameter = Buffer(
            depth=config.parameter_depth,
            width=config.vector_lanes * config.parameter_bits,
            registered=config.memory_registers,
        )
        self.acc = Buffer(
            depth=2 * config.acc_depth,
            width=config.cols * config.acc_bits,
            registered=config.memory_registers,
        )
        super().__init__({})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.unit, m.submodules.act = self.unit, self.act
        m.submodules.parameter, m.submodules.acc = self.parameter, self.acc
        wiring.connect(m, self.unit.read, self.act.vector_read)
        wiring.connect(m, self.unit.write, self.act.vector_write)
        wiring.connect(m, self.unit.parameter, self.parameter.read)
        wiring.connect(m, self.unit.acc, self.acc.read)
        return m


def packed(values, bits: int) -> int:
    """Integers, the first lowest."""
    word = 0
    for i, value in enumerate(values):
        word |= (int(value) & (1 << bits) - 1) << i * bits
    return word


def check(config: AcceleratorConfig, program: list[Instruction], seed: int, rows: bool = False) -> None:
    s, bench = state(config, seed), Bench(config)
    if rows:  # results of the format's size, with factors of either sign
        rng, fraction = np.random.default_rng(seed), fraction_bits(config.activation)
        s.shift[...] = rng.integers(fraction + 4, fraction + 15, s.shift.shape)
        bound = 1 << fraction
        s.bias[...] = rng.integers(-bound, bound, s.bias.shape).astype(object)
    unit, fmt = bench.unit, config.activation

    async def fill(ctx, port, words):
        for address, word in enumerate(words):
            ctx.set(port.addr, address)
            ctx.set(port.data, word)
            ctx.set(port.en, 1)
            await ctx.tick()
        ctx.set(port.en, 0)

    def act_words() -> list[int]:
        rows = pack(s.act[0], fmt.bits, config.act_word_bytes)
        return [int.from_bytes(row.tobytes(), "little") for row in rows]

    async def testbench(ctx):
        await fill(ctx, bench.act.load_write, act_words())
        await fill(ctx, bench.acc.write, [packed(word, config.acc_bits) for word in s.acc[0]])
        parameters = zip(s.bias, s.multiplier, s.shift, strict=True)
        words = [
            packed(
                (
                    packed([b], config.acc_bits) | int(m) << config.acc_bits | int(k) << config.acc_bits + 16
                    for b, m, k in zip(*word, strict=True)
                ),
                config.parameter_bits,
            )
            for word in parameters
        ]
        await fill(ctx, bench.parameter.write, words)
        if config.table:
            await fill(ctx, unit.table, [int(code) for code in s.table])
        if config.softmax:
            await fill(ctx, unit.exponential, [int(word) for word in s.exponentials])
        for instruction in program:
            cycles = PARTS[instruction.opcode].cycles(instruction, config)
            ctx.set(unit.start, 1)
            ctx.set(unit.instruction, int.from_bytes(instruction.encode(), "little"))
            await ctx.tick()
            ctx.set(unit.start, 0)
            ctx.set(unit.instruction, 0)  # valid with start only
            for cycle in range(1, cycles + 1):
                assert ctx.get(unit.done) == (cycle == cycles), f"cycle {cycle} of {cycles}: {instruction}"
                assert not ctx.get(bench.act.conflict)
                await ctx.tick()
            EXECUTE[instruction.opcode](s, instruction)
            want = act_words()
            read = bench.act.store_read
            got = []
            for address in [*range(config.act_depth), *[0] * STORE_READ_LATENCY]:
                ctx.set(read.en, 1)
                ctx.set(read.addr, address)
                got.append(ctx.get(read.data))
                await ctx.tick()
            ctx.set(read.en, 0)
            got = got[STORE_READ_LATENCY:]
            codes = unpack(
                np.array([list(w.to_bytes(config.act_word_bytes, "little")) for w in got], np.uint8),
                fmt.bits,
                config.elements,
            )
            different = np.argwhere(codes != s.act[0])
            assert got == want, f"seed {seed}, {instruction}: word, element {different[:8].tolist()}"

    sim = Simulator(bench)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()


@pytest.mark.parametrize("name", CONFIGS)
def test_drain(name):
    check(CONFIGS[name], list(drains(CONFIGS[name], random.Random(name))), seed=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_pool(name):
    check(CONFIGS[name], list(pools(CONFIGS[name], random.Random(name))), seed=2)


@pytest.mark.parametrize("name", GATE_CONFIGS)
def test_gate(name):
    config, rng = GATE_CONFIGS[name], random.Random(name)
    program = list(gates(config, rng))
    check(config, [i for pair in zip(program, pools(config, rng), strict=True) for i in pair], seed=7)


@pytest.mark.parametrize("name", ROW_CONFIGS)
def test_row(name):
    config = ROW_CONFIGS[name]
    check(config, list(row_instructions(config, random.Random(name))), seed=5, rows=True)


@pytest.mark.parametrize("name", UPDATES)
def test_update(name):
    check(UPDATES[name], list(updates(UPDATES[name], random.Random(name))), seed=7)


def test_row_after_others():
    config, rng = ROW_CONFIGS["e3m4-slices"], random.Random(6)
    mixed = zip(drains(config, rng), row_instructions(config, rng), pools(config, rng), strict=False)
    check(config, [i for group in mixed for i in group], seed=6, rows=True)


def test_alternating():
    config, rng = CONFIGS["e3m2-slices"], random.Random(3)
    both = zip(drains(config, rng), pools(config, rng), strict=False)
    check(config, [i for pair in both for i in pair], seed=3)


def test_throughput():
    config = CONFIGS["int8-whole-words"]
    pixels = {"out_h": 4, "out_w": 4}
    one = drain_cycles(pixels | {"out_h": 1, "out_w": 1}, config)
    assert drain_cycles(pixels, config) - one == 15  # a pixel a cycle
    assert one <= drain_latency(config) + 1
