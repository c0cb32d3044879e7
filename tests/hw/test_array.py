# amaranth: UnusedElaboratable=no
"""The array against an integer matrix product for each tile, at full rate and with gaps."""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from sateen.hw.matrix.array import SystolicArray, array_latency
from sateen.machine.config import AcceleratorConfig

CONFIGS = {
    "dense int8": dict(rows=4, cols=4, lanes=2, group=2),
    "one element": dict(rows=1, cols=1, lanes=1, group=1),
    "one row": dict(rows=1, cols=4, lanes=1, group=4),
    "one row, indexed": dict(rows=1, cols=4, lanes=1, group=4, patterns=("dense", "1:4")),
    "flat, group above lanes": dict(rows=2, cols=8, lanes=2, group=8, weight_format="int4"),
    "flat, upper bits counted": dict(rows=2, cols=4, lanes=1, group=8, patterns=("dense", "1:2", "2:4")),
    "flat, indexed": dict(rows=2, cols=8, lanes=2, group=8, patterns=("dense", "2:8"), weight_format="int4"),
    "e3m2 fixed": dict(rows=4, cols=2, weight_format="e3m2", activation_format="e3m2"),
    "e4m3fn shift": dict(
        rows=2, cols=2, group=4, weight_format="e4m3fn", activation_format="e4m3fn", multiplier="shift",
        acc_bits=50, patterns=("dense", "2:4"),
    ),
    "mixed shift": dict(
        rows=4, cols=2, weight_format="e2m1", activation_format="uint8", multiplier="shift", acc_bits=24
    ),
}  # fmt: skip


def random_codes(fmt, rng, shape):
    codes = np.arange(1 << fmt.bits, dtype=np.uint8)
    return rng.choice(codes[np.isfinite(fmt.decode(codes))], shape)


def ref_array(tile, words, config):
    """Sums (n, cols) for a tile of codes (rows, cols, lanes) and words (n, rows, group)."""
    codes, stored, number, bits, shift = tile
    counted = (number * config.lanes + np.arange(config.lanes)) << shift
    indices = (counted % config.group & -1 << bits) + stored % (1 << bits)
    a = config.activation.fixed(words).astype(object)
    w = config.weight.fixed(codes).astype(object)
    sums = np.zeros((len(words), config.cols), object)
    for r, c, lane in np.ndindex(codes.shape):
        sums[:, c] += a[:, r, indices[r, c, lane]] * w[r, c, lane]
    return sums


def pack(values, bits):
    return sum(int(v) << (k * bits) for k, v in enumerate(np.ravel(values)))


def rtl_array(passes, config, gap, seed=0):
    """All sums, in order, of passes (tile, words): as dense as the interface allows, or with random gaps."""
    rng = random.Random(seed)
    array = SystolicArray(config=config)
    schedule = {}  # cycle -> {port: value}
    expected_at = []
    cycle = 1
    for (codes, stored, number, bits, shift), words in passes:
        for r in range(config.rows):
            event = schedule.setdefault(cycle + r, {})
            event |= {"weight": pack(codes[r], config.weight.bits), "load": r == 0}
            planes = [stored[r] >> b & 1 for b in range(config.index_planes)]
            event |= {"pass": number, "index": pack(planes, 1), "bits": bits, "shift": shift}
        at = cycle
        for word in words:
            at += 1
            while rng.random() < gap:
                at += 1
            schedule.setdefault(at, {}).update(activation=pack(word, config.activation.bits), valid=1)
            expected_at.append(at + array.latency)
        cycle = max(cycle + config.rows, at)
    result = []

    async def bench(ctx):
        for now in range(expected_at[-1] + 1):
            event = schedule.get(now, {})
            ctx.set(array.i_valid, event.get("valid", 0))
            ctx.set(array.i_load, event.get("load", 0))
            ctx.set(array.i_activation, event.get("activation", rng.getrandbits(config.act_word_bits)))
            ctx.set(array.i_weight, event.get("weight", rng.getrandbits(config.weight_word_bits)))
            if config.dense_passes > 1:
                ctx.set(array.i_pass, event.get("pass", rng.randrange(config.dense_passes)))
            if config.indexed:
                ctx.set(array.i_index, event.get("index", rng.getrandbits(config.index_row_bits)))
                ctx.set(array.i_index_bits, event.get("bits", rng.randrange(config.index_planes + 1)))
                ctx.set(array.i_index_shift, event.get("shift", rng.randrange(config.index_planes + 1)))
            if expected_at[len(result)] == now:
                result.append([ctx.get(array.o_psum[c]) for c in range(config.cols)])
            await ctx.tick()

    simulator = Simulator(array)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(result, object)


@pytest.mark.parametrize("gap", [0, 0.3])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_passes(changes, gap):
    config = AcceleratorConfig(**{"vector_lanes": 1} | changes)
    rng = np.random.default_rng(3)
    passes = []
    for count in (1, 7, 1, 2, config.rows, config.rows + 1, 1, 1):
        shape = (config.rows, config.cols, config.lanes)
        number = int(rng.integers(0, config.dense_passes))
        bits = int(rng.integers(0, config.index_planes + 1))
        stored = rng.integers(0, 1 << config.index_planes, shape)
        codes = random_codes(config.weight, rng, shape)
        words = random_codes(config.activation, rng, (count, config.rows, config.group))
        passes.append(((codes, stored, number, bits, int(rng.integers(0, bits + 1))), words))
    want = np.concatenate([ref_array(tile, words, config) for tile, words in passes])
    np.testing.assert_array_equal(rtl_array(passes, config, gap), want)


def test_latency():
    config = AcceleratorConfig(rows=8)
    assert SystolicArray(config=config).latency == array_latency(config) == 11
