# amaranth: UnusedElaboratable=no
"""The matrix unit against NumPy: every accumulator word, and the cycle formula."""

import itertools
import random
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from sateen.hw import isa
from sateen.hw.matrix.unit import CYCLES, MatrixUnit, matrix_cycles, pass_interval
from sateen.hw.ports import activation_latency
from sateen.machine.assembler import Instruction
from sateen.machine.config import DATAFLOWS, AcceleratorConfig
from sateen.machine.isa import LAYOUTS

BASE = AcceleratorConfig(
    rows=4,
    cols=4,
    lanes=2,
    group=2,
    act_banks=2,
    act_bank_depth=64,
    weight_depth=128,
    acc_depth=16,
    acc_bits=32,
)
LAYER = dict(
    opcode=isa.Opcode.MATRIX, base=0, step_x=1, step_y=8, step_kx=1, step_ky=8, x0=0, y0=0, in_w=8, in_h=8,
    stride_x=1, stride_y=1, dilation_x=1, dilation_y=1, kernel_w=1, kernel_h=1, channel_words=1, out_w=1,
    out_h=1, passes=1, weight_base=0, acc_base=0, accumulate=0, padding=0, index_bits=0, index_shift=0,
    output_stationary=0, last_steps=0, slide=0, shifted=0, gradient=0,
)  # fmt: skip
CONV3 = dict(kernel_w=3, kernel_h=3, x0=-1, y0=-1, base=-9, out_w=4, out_h=3)


def memories(config, seed):
    """Random activation codes (act_depth, elements), weight codes and indices (weight_depth, cols, lanes)."""
    rng = np.random.default_rng(seed)
    shape = (config.weight_depth, config.cols, config.lanes)
    indices = rng.integers(0, 1 << config.index_planes, shape)
    words = random_codes(config.activation, rng, (config.act_depth, config.elements))
    return words, random_codes(config.weight, rng, shape), indices


def random_codes(fmt, rng, shape):
    codes = np.arange(1 << fmt.bits, dtype=np.uint8)
    return rng.choice(codes[np.isfinite(fmt.decode(codes))], shape)


def ref_matrix(fields, config, memory, acc):
    """docs/isa.md, literally; acc is (2*acc_depth, cols) of Python integers."""
    f = fields
    words, weights, indices = memory
    acc = acc.copy()
    row = f["weight_base"]
    loops = itertools.product(*(range(f[k]) for k in ("kernel_h", "channel_words", "kernel_w", "passes")))
    for tile, (ky, c, kx, p) in enumerate(loops):
        tile_rows = (row + tile * config.rows + np.arange(config.rows)) % config.weight_depth
        if f["output_stationary"]:
            # a channel word's taps, a tap's groups, a group's passes; fewer groups in the last word
            full, last = f["passes"] * config.rows, f["last_steps"]
            here = last if c == f["channel_words"] - 1 else full
            step = f["kernel_w"] * (ky * ((f["channel_words"] - 1) * full + last) + c * full) + kx * here
            group = np.arange(config.rows) * f["passes"] + p
            there = group < here
            step = step + group
            tile_rows = (row + step) % config.weight_depth
        else:
            there = np.ones(config.rows, bool)
        w = (
            config.weight.fixed(weights[tile_rows]).astype(object) * there[:, None, None]
        )  # (rows, cols, lanes)
        for oy, ox in itertools.product(range(f["out_h"]), range(f["out_w"])):
            y = f["y0"] + oy * f["stride_y"] + ky * f["dilation_y"]
            x = f["x0"] + ox * f["stride_x"] + kx * f["dilation_x"]
            word = f["base"] + oy * f["step_y"] + ox * f["step_x"] + ky * f["step_ky"] + kx * f["step_kx"] + c
            inside = 0 <= y < f["in_h"] and 0 <= x < f["in_w"]
            codes = (
                words[word % config.act_depth] if inside else np.full(config.elements, f["padding"], np.uint8)
            )
            fmt = config.gradient if f["gradient"] else config.activation
            a = fmt.fixed(codes).reshape(config.rows, config.group).astype(object)
            number = p % config.dense_passes * config.lanes + np.arange(config.lanes)
            counted = (number << f["index_shift"]) % config.group
            index = (counted & -1 << f["index_bits"]) + indices[tile_rows] % (1 << f["index_bits"])
            picked = a[np.arange(config.rows)[:, None, None], index]  # (rows, cols, lanes)
            sums = (picked * w).sum((0, 2))
            address = f["acc_base"] + oy * f["out_w"] + ox
            kept = acc[address] if f["accumulate"] or tile else 0
            if f["shifted"] and f["accumulate"] and not tile:
                kept = kept << config.weight.bits
            acc[address] = sums + kept
    return acc


def rtl_matrix(programs, config, memory):
    """Run instructions one after the other; return the accumulators after each, and each one's cycles."""
    words, weights, indices = memory
    word_of = [pack(w, config.activation.bits) for w in words]
    row_of = [pack(e.reshape(-1), config.weight.bits) for e in weights]
    planes = np.arange(config.index_planes)[:, None]
    indices_of = [pack((e.reshape(-1) >> planes & 1).reshape(-1), 1) for e in indices]
    unit = MatrixUnit(config=config)
    results = []

    async def buffers(ctx):
        a, w = unit.act_read, unit.weight_read
        index = unit.index_read if config.indexed else w
        # words on their way; -1 is not a word
        answers = deque([-1] * (activation_latency(config) - 1))
        rows, planes = (deque([-1] * (config.memory_latency - 1)) for _ in range(2))
        sampled = [s for port in (a, w, index) for s in (port.en, port.addr)]
        async for _, _, a_en, a_addr, w_en, w_addr, i_en, i_addr in ctx.tick().sample(*sampled):
            answers.append(word_of[a_addr] if a_en else -1)
            ctx.set(a.data, answers.popleft())
            rows.append(row_of[w_addr] if w_en else -1)
            ctx.set(w.data, rows.popleft())
            if config.indexed:
                planes.append(indices_of[i_addr] if i_en else -1)
                ctx.set(index.data, planes.popleft())

    async def bench(ctx):
        rng = random.Random(0)
        await ctx.tick().repeat(2)
        for fields in programs:
            known = {f.name for f in LAYOUTS[fields["opcode"]].fields}
            values = {k: v % (1 << 24) if k == "base" else v for k, v in fields.items() if k in known}
            bits = int.from_bytes(Instruction(fields["opcode"], values).encode(), "little")
            ctx.set(unit.instruction, bits)
            ctx.set(unit.start, 1)
            await ctx.tick()
            ctx.set(unit.start, 0)
            # what an empty queue shows: an instruction of before, or the zeros of a memory not yet written
            ctx.set(unit.instruction, rng.getrandbits(isa.INSTRUCTION_BITS) * rng.randrange(2))
            cycles = 1
            while not ctx.get(unit.done):
                await ctx.tick()
                cycles += 1
                assert cycles <= CYCLES[fields["opcode"]](fields, config), "done is late"
            acc, late = [], config.memory_latency
            for address in range(2 * config.acc_depth + late):
                await ctx.tick()  # the first read is in the cycle after done
                ctx.set(unit.acc_read.en, address < 2 * config.acc_depth)
                ctx.set(unit.acc_read.addr, address % (2 * config.acc_depth))
                if address >= late:
                    acc.append(unpack(ctx.get(unit.acc_read.data), config))
            results.append((np.array(acc, object), cycles))

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_process(buffers)
    simulator.add_testbench(bench)
    simulator.run()
    return results


def pack(codes, bits):
    return sum(int(c) << (k * bits) for k, c in enumerate(codes))


def unpack(word, config):
    fields = ((word >> (c * config.acc_bits)) & ((1 << config.acc_bits) - 1) for c in range(config.cols))
    return [v - (1 << config.acc_bits) if v >> (config.acc_bits - 1) else v for v in fields]


def check(config, programs, seed=0):
    programs = [LAYER | p for p in programs]
    memory = memories(config, seed)
    acc = np.zeros((2 * config.acc_depth, config.cols), object)
    for fields, (got, cycles) in zip(programs, rtl_matrix(programs, config, memory), strict=True):
        acc = ref_matrix(fields, config, memory, acc)
        np.testing.assert_array_equal(got, acc)
        assert cycles == matrix_cycles(fields, config)


PROGRAMS = {
    "one word, one pass": [dict()],
    "one word, many passes": [dict(channel_words=5, passes=2)],
    "fewer words than rows": [dict(channel_words=4, out_w=3)],
    "3x3 with padding": [CONV3 | dict(padding=1)],
    "stride and dilation": [
        CONV3
        | dict(stride_x=2, stride_y=3, dilation_x=2, dilation_y=2, step_x=2, step_y=24, step_kx=2, step_ky=16)
    ],
    "other bank, accumulate": [
        dict(acc_base=16, out_w=5),
        dict(acc_base=16, out_w=5, accumulate=1, weight_base=9),
    ],
    "addresses wrap": [dict(weight_base=126, base=127, out_w=8, out_h=2, channel_words=3, passes=2)],
}


@pytest.mark.parametrize("memory_registers", [False, True], ids=["plain", "registers"])
@pytest.mark.parametrize("programs", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_programs(programs, memory_registers):
    check(BASE.replace(memory_registers=memory_registers), programs)


SMALL = dict(act_banks=2, act_bank_depth=32, weight_depth=64, acc_depth=16, vector_lanes=1)
CONFIGS = {
    "one row": dict(rows=1, cols=2, lanes=1, group=2),
    "two rows": dict(rows=2, cols=2, lanes=2, group=2),
    "eight rows": dict(rows=8, cols=4, lanes=2, group=2),
    "int4": dict(weight_format="int4", activation_format="uint4", acc_bits=20),
    "e3m2": dict(weight_format="e3m2", activation_format="e3m2", acc_bits=26),
    "e3m2 shift": dict(weight_format="e3m2", activation_format="e3m2", acc_bits=26, multiplier="shift"),
    "e4m3fn shift": dict(weight_format="e4m3fn", activation_format="e4m3fn", acc_bits=45, multiplier="shift"),
    "int4 weights, e4m3fn activations": dict(weight_format="int4", activation_format="e4m3fn"),
    "group of 8 on 2 lanes": dict(rows=2, cols=8, lanes=2, group=8),
    "group of 8 on 2 lanes, shift": dict(
        rows=2, cols=4, group=8, weight_format="e2m1", activation_format="e4m3fn", multiplier="shift"
    ),
    "indexed": dict(rows=2, cols=8, lanes=2, group=8, patterns=("dense", "2:8")),
    "indexed, upper bits counted": dict(rows=2, cols=4, lanes=2, group=8, patterns=("dense", "2:4")),
    "groups of 16": dict(rows=2, cols=4, lanes=2, group=16, patterns=("dense", "2:4", "2:16")),
    "indexed, one lane": dict(
        rows=4, cols=4, lanes=1, group=4, patterns=("dense", "1:4"), weight_format="int3"
    ),
    "memory registers": dict(rows=1, cols=2, lanes=1, group=2, memory_registers=True),
    "memory registers, indexed": dict(
        rows=4, cols=4, lanes=2, group=8, patterns=("dense", "2:4"), memory_registers=True
    ),
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_configurations(changes):
    config = AcceleratorConfig(**SMALL | changes)
    check(
        config,
        [
            CONV3 | dict(padding=config.activation.zero_code, passes=config.dense_passes % 6),
            dict(channel_words=3, acc_base=20, out_w=2, weight_base=7, index_bits=config.index_planes),
            dict(channel_words=2, passes=config.dense_passes, acc_base=20, out_w=2, accumulate=1),
            dict(channel_words=2, passes=2, acc_base=20, out_w=5, index_bits=config.index_planes),
            dict(channel_words=2, passes=3, out_w=2, index_bits=config.index_planes // 2)
            | dict(index_shift=config.indexed),
        ],
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_random_fields(data):
    """Any window, any number of words against `rows`, one instruction after another, in either dataflow."""

    def number(low, high):
        return data.draw(st.integers(low, high))

    config = BASE.replace(
        dataflows=DATAFLOWS,
        group=data.draw(st.sampled_from((2, 4))),
        memory_registers=data.draw(st.booleans()),
    )
    programs = []
    for _ in range(2):
        out_w = number(1, 5)
        program = dict(out_w=out_w, out_h=number(1, 15 // out_w), acc_base=16 * number(0, 1))
        for name, low, high in (
            ("kernel_w", 1, 3), ("kernel_h", 1, 3), ("channel_words", 1, 3), ("passes", 1, 2), ("x0", -9, 3),
            ("y0", -9, 3), ("in_w", 1, 9), ("in_h", 1, 9), ("stride_x", 0, 63), ("stride_y", 0, 3),
            ("dilation_x", 0, 3), ("dilation_y", 0, 255), ("base", -(1 << 23), 1 << 23), ("step_x", 0, 40),
            ("step_y", 0, (1 << 24) - 1), ("step_kx", 0, 40), ("step_ky", 0, 40), ("weight_base", 0, 1 << 20),
            ("accumulate", 0, 1), ("padding", 0, 255),
        ):  # fmt: skip
            program[name] = number(low, high)
        program["output_stationary"] = number(0, 1)
        program["last_steps"] = number(1, config.rows * program["passes"])
        if program["output_stationary"] and number(0, 1):
            program |= dict(slide=1, dilation_x=program["stride_x"], step_kx=program["step_x"])
        programs.append(program)
    check(config, programs)


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_output_stationary(changes):
    """Whole and short runs of pixels, taps, last words of any number of groups, and the dataflows in turn."""
    config = AcceleratorConfig(**SMALL | changes | dict(dataflows=DATAFLOWS))
    stationary = dict(output_stationary=1)
    passes = config.dense_passes
    check(
        config,
        [
            stationary | dict(last_steps=1, out_w=3, kernel_w=2, slide=1),
            stationary | CONV3 | dict(padding=config.activation.zero_code, passes=passes, last_steps=passes),
            stationary
            | dict(last_steps=config.rows, out_w=7, out_h=2, acc_base=18, index_bits=config.index_planes),
            CONV3 | dict(acc_base=1, accumulate=1),
            stationary
            | dict(channel_words=2, passes=passes, last_steps=passes * config.rows, acc_base=20, out_w=2)
            | dict(accumulate=1, weight_base=60, kernel_w=2),
            dict(channel_words=2, passes=2, acc_base=20, out_w=5, index_bits=config.index_planes),
            stationary | dict(last_steps=1, acc_base=5),
            stationary
            | dict(channel_words=2, passes=3, last_steps=3, out_w=2, index_bits=config.index_planes // 2)
            | dict(index_shift=config.indexed),
            stationary | CONV3 | dict(slide=1, passes=passes, last_steps=1, out_w=5, channel_words=2),
            stationary | CONV3 | dict(slide=1, passes=passes, last_steps=passes * config.rows, accumulate=1),
        ],
    )


@pytest.mark.parametrize(
    "more",
    [{}, dict(dataflows=DATAFLOWS, depthwise=True, memory_registers=True)],
    ids=["plain", "all ways, registers"],
)
def test_sums_of_high_digits(more):
    """What the first tile adds to counts 2**weight.bits times; that of other instructions as it is."""
    config = AcceleratorConfig(**SMALL | dict(rows=4, cols=4, lanes=1, group=2, weight_format="int3") | more
                               | dict(activation_format="int5", computed_weights=True))  # fmt: skip
    low = dict(accumulate=1, shifted=1)
    check(
        config,
        [
            dict(channel_words=3, out_w=6),
            dict(channel_words=2, out_w=6, weight_base=5, accumulate=1),
            dict(channel_words=3, out_w=6, passes=2, weight_base=9) | low,
            dict(channel_words=2, out_w=2, acc_base=17),
            dict(channel_words=2, out_w=2, acc_base=17) | low,
            dict(out_w=2, acc_base=17) | low,
            dict(out_w=2, shifted=1),
            dict(out_w=2, accumulate=1),
        ],
    )


def test_cycle_formula():
    config = BASE  # four rows
    assert pass_interval(1, config) == 4 and pass_interval(5, config) == 5
    assert pass_interval(1, AcceleratorConfig(rows=1, cols=1, vector_lanes=1)) == 4
    many = LAYER | dict(out_w=10, out_h=5, kernel_w=3, kernel_h=3, channel_words=2)
    assert matrix_cycles(many, config) == 18 * 50 + config.rows + 6
    assert matrix_cycles(SimpleNamespace(**many), config) == matrix_cycles(many, config)
    assert MatrixUnit(config=config).latency == matrix_cycles(LAYER, config) == config.rows + 7
    registers = config.replace(memory_registers=True)
    assert pass_interval(1, registers) == 5
    assert matrix_cycles(many, registers) == matrix_cycles(many, config) + 1


def test_conflict_is_reported():
    """A read of the bank that a pass adds to is a fault of the program; of the other bank it is normal."""
    unit = MatrixUnit(config=BASE)
    seen = {0: [], 16: []}

    async def bench(ctx):
        for address in seen:
            ctx.set(unit.instruction, isa.MATRIX.const(LAYER | dict(accumulate=1)).as_bits())
            ctx.set(unit.acc_read.en, 1)
            ctx.set(unit.acc_read.addr, address)
            for cycle in range(matrix_cycles(LAYER, BASE) + 1):
                ctx.set(unit.start, cycle == 0)
                seen[address].append(ctx.get(unit.acc_conflict))
                await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert sum(seen[0]) == 1 and sum(seen[16]) == 0
