"""MOVE: the weight words that it writes and its cycles, against the interpreter and the formula."""

import random

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, Value
from amaranth.lib.memory import Memory as Ram
from amaranth.sim import Simulator

from sateen.formats import parse_format
from sateen.formats.digits import two_digits
from sateen.hw import isa
from sateen.hw.memory.move import Move, digit_of, move_cycles
from sateen.hw.memory.select import SelectingMove, shift_of
from sateen.hw.ports import STORE_READ_LATENCY
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode
from sateen.machine.packing import pack
from sateen.sim.program import Interpreter


def config_of(
    rows: int,
    cols: int,
    lanes: int,
    group: int,
    transpose_words: int,
    fmt: str = "int8",
    weights: str = "",
    **more,
):
    return AcceleratorConfig(
        rows=rows, cols=cols, lanes=lanes, group=group, transpose_words=transpose_words, computed_weights=True,
        weight_format=weights or fmt, activation_format=fmt, act_bank_depth=64, act_banks=2, weight_depth=128,
        vector_lanes=1, **more,
    )  # fmt: skip


CONFIGS = {
    "smallest": config_of(1, 1, 1, 1, 1),
    "2x2": config_of(2, 2, 1, 1, 1),
    "2x2, two lanes": config_of(2, 2, 2, 2, 2),
    "4x2, two words": config_of(4, 2, 1, 1, 2, "e4m3"),
    "4x2, passes": config_of(4, 2, 2, 4, 2),
    "4x4, many passes": config_of(4, 4, 1, 4, 4, "int4"),
    "one word a column": config_of(2, 4, 1, 2, 1, "e2m1"),
    "all words": config_of(8, 4, 2, 2, 8, "e5m2"),
    "digits": config_of(2, 2, 2, 2, 1, "int8", "int4"),
    "digits of 3 bits, two words": config_of(4, 2, 1, 2, 2, "int5", "int3"),
    "digits of 7 bits": config_of(2, 4, 1, 4, 1, "int8", "int7"),
    "sparse": config_of(2, 4, 2, 4, 1, patterns=("dense", "2:4")),
    "2:4": config_of(2, 4, 1, 4, 1, patterns=("dense", "2:4"), computed_patterns=True),
    "1:2, a word": config_of(1, 2, 1, 2, 1, "int4", patterns=("dense", "1:2"), computed_patterns=True),
    "three patterns, e4m3": config_of(
        4, 4, 1, 8, 4, "e4m3", patterns=("dense", "2:8", "4:8", "1:4"), computed_patterns=True
    ),
    "2:16, e2m1": config_of(2, 8, 1, 16, 2, "e2m1", patterns=("dense", "2:16"), computed_patterns=True),
}


def rtl(config, instructions, words):
    """(weight words by address, index words, cycles) after each of the instructions, which run in turn."""
    selects = config.computed_patterns
    dut = (SelectingMove if selects else Move)(config=config)
    m = Module()
    m.submodules.dut = dut
    m.submodules.ram = ram = Ram(shape=config.act_word_bits, depth=config.act_depth, init=words)
    port = ram.read_port()
    valid = dut.activation.en  # data is valid in one cycle only: anything else reads as ones
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
    found, buffer, indices = [], {}, {}

    async def bench(ctx):
        for i in instructions:
            fields = int.from_bytes(i.encode(), "little") & (1 << isa.layout_of(Opcode.MOVE, config).size) - 1
            ctx.set(dut.instruction.as_value(), fields)
            ctx.set(dut.start, 1)
            cycles = 0
            while True:
                sampled = (dut.done, dut.weight.en, dut.weight.addr, dut.weight.data)
                sampled += (dut.index.en, dut.index.addr, dut.index.data) if selects else (0, 0, 0)
                _, _, done, en, address, data, *index = await ctx.tick().sample(*map(Value.cast, sampled))
                ctx.set(dut.start, 0)
                ctx.set(dut.instruction.as_value(), 0)
                if en:
                    buffer[address] = data
                if index[0]:
                    assert en and index[1] == address
                    indices[address] = index[2]
                if done:
                    break
                cycles += 1
                assert cycles < 20000, "the MOVE does not end"
            found.append((dict(buffer), dict(indices), cycles))
        for _ in range(4):
            _, _, *strobes = await ctx.tick().sample(dut.done, dut.weight.en, dut.activation.en)
            assert not any(strobes)

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return found


def random_move(config, rng):
    tile = config.dense_passes * config.rows
    words = rng.randint(1, min(3, config.weight_depth // tile))
    fields = {
        "base": rng.randrange(config.act_depth),
        "step": rng.choice([1, 2, 3, rng.randrange(config.act_depth)]),
        "destination": rng.randint(0, config.weight_depth - words * tile),
        "words": words,
        "reduction": rng.randint((words - 1) * config.elements + 1, words * config.elements),
    }
    if rng.random() < 0.5:
        fields |= {"transposed": 1, "columns": rng.randint(1, config.cols)}
    else:
        fields |= {"slice": rng.randrange(config.slices)}
    if config.digits:
        fields["high"] = rng.randrange(2)
    if config.computed_patterns and rng.random() < 0.75:
        pattern = rng.choice(config.sparse_patterns)
        fields |= {"index_bits": pattern.index_bits, "index_shift": shift_of(pattern)}
    return Instruction(Opcode.MOVE, fields)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_and_cycles(name):
    config = CONFIGS[name]
    rng, random_codes = random.Random(name), np.random.default_rng(len(name))
    instructions = [random_move(config, rng) for _ in range(12)]
    ref = Interpreter(config, b"", b"", 0, np.zeros((1, 0), np.uint8), 0)
    ref.act[:] = random_codes.integers(0, 1 << config.activation.bits, ref.act.shape)
    packed = pack(ref.act[0], config.activation.bits, config.act_word_bytes)
    words = [int.from_bytes(w.tobytes(), "little") for w in packed]
    wanted, places = {}, {}  # what lies in the buffers, and the indices of patterns
    for i, (buffer, indices, cycles) in zip(instructions, rtl(config, instructions, words), strict=True):
        ref.move(i)
        assert cycles == move_cycles(i, config), i
        passes = config.dense_passes >> i.index_shift
        span = range(i.destination, i.destination + i.words * passes * config.rows)
        assert set(np.flatnonzero(ref.moved)) == {*wanted, *span}
        weights = pack(
            ref.moved_codes[0].reshape(config.weight_depth, -1), config.weight.bits, config.weight_word_bytes
        )
        wanted |= {n: int.from_bytes(weights[n].tobytes(), "little") for n in span}
        assert buffer == wanted, i
        if i.index_bits:
            bits = ref.moved_indices[0, span, None] >> np.arange(config.index_planes)[:, None, None] & 1
            flat = bits.reshape(len(span), -1)
            places |= {
                n: sum(int(b) << k for k, b in enumerate(row)) for n, row in zip(span, flat, strict=True)
            }
        assert indices == places, i


@pytest.mark.parametrize(
    ("whole", "digit"), [("int8", f"int{b}") for b in range(4, 8)] + [("int6", "int3"), ("int3", "int2")]
)
def test_the_circuit_of_a_digit(whole, digit):
    """Every code."""
    digits = two_digits(parse_format(whole), parse_format(digit))
    m = Module()
    code, high, found = Signal(digits.whole.bits), Signal(), Signal(digits.bits)
    m.d.comb += found.eq(digit_of(code, high, digits))

    async def bench(ctx):
        for n in range(2):
            ctx.set(high, n)
            for v, wanted in zip(digits.whole.codes, digits.split(digits.whole.codes, bool(n)), strict=True):
                ctx.set(code, int(v))
                assert ctx.get(found) == wanted, (n, v)

    sim = Simulator(m)
    sim.add_testbench(bench)
    sim.run()


def test_straight_and_transposed_by_hand():
    """Two lanes of a row hold two neighbours of the reduction: tokens if straight, channels if transposed."""
    config = config_of(2, 2, 2, 2, 1)
    ref = Interpreter(config, b"", b"", 0, np.zeros((1, 0), np.uint8), 0)
    ref.act[0, :4] = 10 * np.arange(4)[:, None] + np.arange(4)  # token t, channel c: 10 t + c
    shared = {"base": 0, "step": 1, "words": 1}
    ref.move(Instruction(Opcode.MOVE, shared | {"reduction": 3, "slice": 1}))
    assert ref.moved_codes[0, :2].tolist() == [[[2, 12], [3, 13]], [[22, 0], [23, 0]]]  # (row, column, lane)
    ref.move(Instruction(Opcode.MOVE, shared | {"reduction": 3, "transposed": 1, "columns": 2}))
    assert ref.moved_codes[0, :2].tolist() == [[[0, 1], [10, 11]], [[2, 0], [12, 0]]]


def test_pattern_by_hand():
    """1:2 of channels: the larger of each two, with its index; of equals the first; zeros beyond the reduction."""
    config = config_of(1, 2, 1, 4, 1, patterns=("dense", "1:2"), computed_patterns=True)
    ref = Interpreter(config, b"", b"", 0, np.zeros((1, 0), np.uint8), 0)
    ref.act[0, :2] = np.array([[3, -7, 2, 9], [-5, 5, -1, 8]]).astype(np.uint8)
    fields = {
        "words": 1,
        "reduction": 3,
        "transposed": 1,
        "columns": 2,
        "step": 1,
        "index_bits": 1,
        "index_shift": 1,
    }
    ref.move(Instruction(Opcode.MOVE, fields))
    codes, indices = (x[0, :2, :, 0].astype(np.int8).tolist() for x in (ref.moved_codes, ref.moved_indices))
    assert codes == [[-7, -5], [2, -1]]  # (place, column)
    assert indices == [[1, 0], [0, 0]]
