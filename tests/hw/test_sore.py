# amaranth: UnusedElaboratable=no
"""SORE against its NumPy model, and the model against the definition."""

import itertools
import random

import numpy as np
import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from sateen.errors import DataError
from sateen.formats import PATTERNS, SparsityPattern, all_formats, parse_format
from sateen.hw.memory.sore import SORE
from sateen.machine.config import AcceleratorConfig
from sateen.machine.packing import index_words, pack, tile_words
from sateen.sim.sore import entries, select

CATALOGUE = tuple(p for p in PATTERNS.values() if not p.dense)


def ref_sore(groups, fmt, n):
    """What `o` transfers, as integers: a group is (pattern, codes (lanes, m)), n the entries of the unit."""
    return [
        [
            [*map(int, entries(*(x[0] for x in select(lane, pattern, fmt)), fmt))] + [0] * (n - pattern.n)
            for lane in codes
        ]
        for pattern, codes in groups
    ]


def rtl_sore(groups, fmt, patterns, *, gap=0.0, stall=0.0, seed=0):
    """The same from the RTL, and for each group the cycles of its last element and of its output."""
    lanes = len(groups[0][1])
    dut = SORE(fmt=fmt, patterns=patterns, lanes=lanes)
    rng = random.Random(seed)
    width = len(Value.cast(dut.o.payload)) // lanes // dut.n
    cycle, taken, given, result = 0, [], [], []

    limit = 1000 + sum(c.shape[1] + 4 for _, c in groups) * 20

    async def clock(ctx):
        nonlocal cycle
        while cycle < limit:
            await ctx.tick()
            cycle += 1
        pytest.fail(f"{len(result)} of {len(groups)} groups after {cycle} cycles, seed {seed}")

    async def feed(ctx):
        payload = Value.cast(dut.i.payload)
        for pattern, codes in groups:
            for x, element in enumerate(codes.T):
                ctx.set(dut.i.valid, 0)
                ctx.set(payload, rng.getrandbits(len(payload)))
                while rng.random() < gap:
                    await ctx.tick()
                ctx.set(dut.i.valid, 1)
                ctx.set(payload, sum(int(c) << lane * fmt.bits for lane, c in enumerate(element)))
                if len(patterns) > 1:  # only the first element's counts
                    choice = patterns.index(pattern) if x == 0 else rng.randrange(len(patterns))
                    ctx.set(dut.pattern, choice)
                await ctx.tick().until(dut.i.ready)
            taken.append(cycle)
        ctx.set(dut.i.valid, 0)

    async def drain(ctx):
        while len(result) < len(groups):
            ctx.set(dut.o.ready, 0)
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(dut.o.ready, 1)
            (word,) = await ctx.tick().sample(Value.cast(dut.o.payload)).until(dut.o.valid)
            given.append(cycle)
            fields = [word >> k * width & (1 << width) - 1 for k in range(lanes * dut.n)]
            result.append([fields[k * dut.n : (k + 1) * dut.n] for k in range(lanes)])
        for _ in range(2 * dut.m + 4):  # nothing may follow
            assert (await ctx.tick().sample(dut.o.valid))[-1] == 0

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(clock, background=True)
    simulator.add_testbench(feed, background=True)
    simulator.add_testbench(drain)
    simulator.run()
    return result, taken, given


def check(groups, fmt, patterns, seed=0):
    got, _, _ = rtl_sore(groups, fmt, patterns, gap=0.2, stall=0.3, seed=seed)
    assert got == ref_sore(groups, fmt, max(p.n for p in patterns)), f"seed {seed}"


def random_codes(rng, fmt, *shape):
    """Any codes; in some groups of few values, so that magnitudes tie."""
    few = np.array([fmt.zero_code, *(rng.randrange(1 << fmt.bits) for _ in range(3))], np.uint8)
    pool = few if rng.random() < 0.5 else np.arange(1 << fmt.bits, dtype=np.uint8)
    return np.array([rng.choice(pool) for _ in range(int(np.prod(shape)))], np.uint8).reshape(shape)


def every_group(fmt, m, lanes):
    """All groups of m codes, dealt to the lanes: (transfers, lanes, m)."""
    codes = np.array([*itertools.product(range(1 << fmt.bits), repeat=m)], np.uint8)
    return codes.reshape(lanes, -1, m).swapaxes(0, 1)


def definition(group, n, fmt):
    """Selected codes and indices of one group, element by element from the values."""
    values = [abs(v) if np.isfinite(v) else fmt.max for v in map(float, fmt.decode(np.array(group)))]
    left, chosen = list(range(len(group))), []
    for _ in range(n):
        best = max(values[i] for i in left)
        chosen.append(next(i for i in left if values[i] == best))
        left.remove(chosen[-1])
    return [group[i] for i in sorted(chosen)], sorted(chosen)


@pytest.mark.parametrize("fmt", all_formats(), ids=str)
def test_model_is_the_definition(fmt):
    rng = random.Random(fmt.name)
    for n, m in [(1, 2), (2, 4), (3, 5), (2, 8), (4, 8), (2, 16), (4, 4)]:
        codes = np.concatenate([random_codes(rng, fmt, 20, m) for _ in range(3)])
        selected, indices = select(codes, SparsityPattern(n, m), fmt)
        assert selected.shape == indices.shape == (60, 1, n)
        for group, c, i in zip(codes.tolist(), selected[:, 0].tolist(), indices[:, 0].tolist(), strict=True):
            assert (c, i) == definition(group, n, fmt)


def test_zeros_ties_and_signs():
    """Fewer than n nonzeros: zeros fill up from the lowest index; -0 is a zero and keeps its code."""
    int8, e2m1 = parse_format("int8"), parse_format("e2m1")

    def one(group, fmt, n):
        codes, indices = select(np.array(group, np.uint8), SparsityPattern(n, len(group)), fmt)
        return codes[0].tolist(), indices[0].tolist()

    assert one([0, 0, 0, 5], int8, 2) == ([0, 5], [0, 3])
    assert one([0, 0, 0, 0], int8, 2) == ([0, 0], [0, 1])
    assert one([0x7F, 0x81, 0x80, 0x7F], int8, 2) == ([0x7F, 0x80], [0, 2])  # 127, -127, -128, 127
    assert one([8, 0, 1, 8], e2m1, 2) == ([8, 1], [0, 2])  # -0, +0, 0.5, -0


def test_model_takes_whole_groups():
    with pytest.raises(DataError, match=r"selection 2:4: 6 elements are not a multiple of 4; pad .* to 8"):
        select(np.zeros((3, 6), np.uint8), SparsityPattern(2, 4), parse_format("int8"))


@pytest.mark.parametrize(
    "name,n", [("int3", 1), ("int3", 2), ("int3", 3), ("uint3", 2), ("int3n", 2), ("e1m1", 2), ("e2m0", 2)]
)
def test_every_group_of_four(name, n):
    """All 4096 groups of 3-bit codes."""
    fmt, pattern = parse_format(name), SparsityPattern(n, 4)
    check([(pattern, codes) for codes in every_group(fmt, 4, 16)], fmt, (pattern,))


@pytest.mark.parametrize("fmt", [f for f in all_formats() if f.bits == 6], ids=str)
def test_every_pair(fmt):
    """All 4096 pairs of 6-bit codes: the comparison itself."""
    pattern = SparsityPattern(1, 2)
    check([(pattern, codes) for codes in every_group(fmt, 2, 16)], fmt, (pattern,))


@pytest.mark.parametrize("fmt", all_formats(), ids=str)
def test_patterns_at_run_time(fmt):
    """One unit, a pattern of the catalogue for each group."""
    rng = random.Random(fmt.name)
    patterns = [rng.choice(CATALOGUE) for _ in range(40)] + list(CATALOGUE)
    check([(p, random_codes(rng, fmt, 2, p.m)) for p in patterns], fmt, CATALOGUE, seed=fmt.bits)


@pytest.mark.parametrize("m", range(1, 17))
def test_any_n_of_m(m):
    """Every n for m up to 8, a few above; few codes, so that most comparisons are ties."""
    rng = random.Random(m)
    for n in range(1, m + 1) if m <= 8 else {1, 2, m // 2, m - 1, m}:
        fmt = parse_format(rng.choice(["e2m1", "int4", "uint2", "int8", "e4m3fn"]))
        pattern = SparsityPattern(n, m)
        check(
            [(pattern, random_codes(rng, fmt, 2 if m <= 8 else 1, m)) for _ in range(10)],
            fmt,
            (pattern,),
            seed=n,
        )


def test_odd_patterns_at_run_time():
    """Not powers of two, n = m among them."""
    patterns = tuple(SparsityPattern(n, m) for n, m in [(3, 5), (1, 1), (5, 7), (2, 2), (3, 3), (1, 16)])
    rng, fmt = random.Random(0), parse_format("int4")
    chosen = [rng.choice(patterns) for _ in range(200)]
    check([(p, random_codes(rng, fmt, 1, p.m)) for p in chosen], fmt, patterns)


def test_latency_and_interval():
    """One element per lane a cycle, no bubble between groups, of whatever patterns."""
    rng, fmt = random.Random(0), parse_format("int8")
    for patterns in (*((p,) for p in CATALOGUE), (SparsityPattern(1, 1),), CATALOGUE):
        chosen = [rng.choice(patterns) for _ in range(30)]
        groups = [(p, random_codes(rng, fmt, 1, p.m)) for p in chosen]
        _, taken, given = rtl_sore(groups, fmt, patterns)
        assert np.diff([0, *taken]).tolist() == [p.m for p in chosen]
        assert {g - t for g, t in zip(given, taken, strict=True)} == {SORE.latency}
    assert SORE(fmt=fmt, patterns=CATALOGUE).initiation_interval == 16


def test_output_is_a_weight_word_and_its_index_planes():
    """A lane for each column, n = the array's lanes: `o` carries a weight word and its planes, both in order."""
    config = AcceleratorConfig(rows=2, cols=4, lanes=2, group=8, weight_format="e3m2")
    rng, fmt, pattern = random.Random(0), config.weight, SparsityPattern(config.lanes, config.group)
    dense = random_codes(rng, fmt, 20, config.cols, config.group)
    got, _, _ = rtl_sore([(pattern, codes) for codes in dense], fmt, (pattern,))
    entries = np.array(got).reshape(len(got), -1)
    codes, indices = (
        x[:, :, 0].reshape(-1, config.rows, config.cols, config.lanes) for x in select(dense, pattern, fmt)
    )
    np.testing.assert_array_equal(
        pack(entries & 2**fmt.bits - 1, fmt.bits, config.weight_word_bytes), tile_words(codes, config)
    )
    planes = [  # the same bit of the indices of all rows in a block
        entries.reshape(-1, config.index_rows, entries.shape[-1]) >> fmt.bits + b & 1
        for b in range(pattern.index_bits)
    ]
    np.testing.assert_array_equal(
        pack(np.stack(planes, 1).reshape(-1, config.index_word_bits), 1, config.index_word_bytes),
        index_words(indices, pattern.index_bits, config),
    )


def test_parameters_are_checked():
    fmt = parse_format("int8")
    with pytest.raises(ValueError, match="patterns must have at least one SparsityPattern"):
        SORE(fmt=fmt, patterns=())
    with pytest.raises(ValueError, match="m of at most 16, not 2:32"):
        SORE(fmt=fmt, patterns=(SparsityPattern(2, 32),))
    with pytest.raises(ValueError, match="lanes must be at least 1, not 0"):
        SORE(fmt=fmt, patterns=CATALOGUE, lanes=0)
