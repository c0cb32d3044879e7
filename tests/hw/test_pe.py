# amaranth: UnusedElaboratable=no
"""The processing element, decoders in front, against integer products of the formats' values."""

import random

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.sim import Simulator

from sateen.formats import parse_format
from sateen.hw.formats import circuits
from sateen.hw.matrix.pe import PE


def wrap(acc, bits):
    return (acc + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def ref_pe(steps, lanes, activation, weight, acc_bits):
    """psum after each step; a step is (activation codes, load codes and indices or None, psum_in)."""
    held = [(0, 0)] * lanes
    psums = []
    for codes, load, psum_in in steps:
        fixed = [int(activation.fixed(np.uint8(c))) for c in codes]
        psums.append(
            wrap(psum_in + sum(fixed[i] * int(weight.fixed(np.uint8(w))) for w, i in held), acc_bits)
        )
        held = load or held
    return psums


def rtl_pe(steps, lanes, group, activation, weight, multiplier, acc_bits, stall=0.0, seed=0, luts=False):
    """The same from the RTL: a step a cycle, with cycles in between in which nothing is enabled."""
    pe = PE(
        lanes=lanes,
        group=group,
        activation=activation,
        weight=weight,
        multiplier=multiplier,
        acc_bits=acc_bits,
        luts=luts,
    )
    m = Module()
    m.submodules.pe = pe
    a_codes = Signal(group * activation.bits)
    w_codes = Signal(lanes * weight.bits)
    operands = [
        circuits(activation).decode(multiplier, a_codes.word_select(k, activation.bits)) for k in range(group)
    ]
    for k, operand in enumerate(operands):
        m.d.comb += Value.cast(pe.activations[k]).eq(operand)
    for k in range(lanes):
        m.d.comb += Value.cast(pe.weights[k].operand).eq(
            circuits(weight).decode(multiplier, w_codes.word_select(k, weight.bits))
        )
    index_bits = pe.weights[0].index.shape().width
    indices = Signal(lanes * index_bits)
    m.d.comb += Cat(pe.weights[k].index for k in range(lanes)).eq(indices)
    rng = random.Random(seed)
    result = []

    async def bench(ctx):
        schedule = []  # gaps between steps, of cycles in which nothing is loaded or taken
        for step in steps:
            while rng.random() < stall:
                schedule.append(None)
            schedule.append(step)
        depth = pe.latency - 1
        for step, last in zip([*schedule, *[None] * depth], [*[None] * depth, *schedule], strict=True):
            ctx.set(a_codes, rng.getrandbits(len(a_codes)))
            ctx.set(w_codes, rng.getrandbits(len(w_codes)))
            ctx.set(pe.load, step is not None and step[1] is not None)
            ctx.set(pe.accumulate, last is not None)
            if step is not None:
                ctx.set(a_codes, sum(c << k * activation.bits for k, c in enumerate(step[0])))
                if step[1] is not None:
                    ctx.set(w_codes, sum(c << k * weight.bits for k, (c, _) in enumerate(step[1])))
                    ctx.set(indices, sum(i << k * index_bits for k, (_, i) in enumerate(step[1])))
            if last is not None:
                ctx.set(pe.psum_in, last[2])
            await ctx.tick()
            if last is not None:
                result.append(ctx.get(pe.psum))

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return result


def check(steps, lanes, group, activation, weight, multiplier, acc_bits, **options):
    a, w = parse_format(activation), parse_format(weight)
    got = rtl_pe(steps, lanes, group, a, w, multiplier, acc_bits, **options)
    assert got == ref_pe(steps, lanes, a, w, acc_bits)


# 8-bit pairs in Python's simulator take seconds each, so two of them stand for all
EXHAUSTIVE = [
    ("int4", "int4", "fixed", 16),
    ("uint4", "int4", "fixed", 16),
    ("e2m1", "e2m1", "fixed", 16),
    ("e2m1", "e2m1", "shift", 16),
    ("e3m2", "e3m2", "fixed", 24),
    ("e3m2", "e3m2", "shift", 24),
    ("e3m0", "int3", "shift", 20),
    ("int4", "e3m2", "shift", 20),
    ("e4m1", "e4m1", "shift", 40),
    ("e5m0", "e4m1", "shift", 70),
    ("int8", "int8", "fixed", 32),
    ("e4m3fn", "e4m3fn", "shift", 48),
]


@pytest.mark.parametrize(
    "activation,weight,multiplier,acc_bits,luts",
    [(*case, False) for case in EXHAUSTIVE]
    + [(*case, True) for case in EXHAUSTIVE if "int8" not in case][:8],
)
def test_every_pair(activation, weight, multiplier, acc_bits, luts):
    """All pairs of codes meet in lane 0, all in another order in lane 1."""
    rng = random.Random(1)
    a_codes = list(range(1 << parse_format(activation).bits))
    w_codes = list(range(1 << parse_format(weight).bits))
    a_other, w_other = rng.sample(a_codes, len(a_codes)), rng.sample(w_codes, len(w_codes))
    steps = [((0, 0), ((0, 0), (0, 1)), 0)]  # weights are undefined before the first load
    steps[0] = ((parse_format(activation).zero_code,) * 2, ((0, 0), (0, 1)), 0)
    for w in w_codes:
        following = ((w, 0), (w_other[w], 1))
        steps.append(((0, 0), following, rng.randrange(-99, 99)))
        steps += [((a, a_other[a]), None, rng.randrange(-99, 99)) for a in a_codes]
    check(steps, 2, 2, activation, weight, multiplier, acc_bits, luts=luts)


@pytest.mark.parametrize("lanes,group", [(1, 1), (1, 4), (2, 8), (4, 4), (2, 6), (3, 3)])
@pytest.mark.parametrize("name,multiplier", [("int8", "fixed"), ("e3m2", "fixed"), ("e4m3fn", "shift")])
def test_lanes_pick_by_index(lanes, group, name, multiplier):
    """Random weights, indices, loads and stalls; a load does not touch the activation of its own cycle."""
    rng = random.Random(lanes * 100 + group)
    fmt = parse_format(name)

    def weights():
        return tuple(
            (rng.randrange(1 << fmt.bits), k if group == lanes else rng.randrange(group))
            for k in range(lanes)
        )

    zero = (fmt.zero_code,) * group
    steps = [(zero, weights(), 0)]
    for _ in range(200):
        codes = tuple(rng.randrange(1 << fmt.bits) for _ in range(group))
        steps.append((codes, weights() if rng.random() < 0.3 else None, rng.randrange(-(1 << 40), 1 << 40)))
    check(steps, lanes, group, name, name, multiplier, 48, stall=0.2)


def test_sums_wrap_at_acc_bits():
    """A partial sum above acc_bits does no harm when later ones bring it back."""
    steps = [((0,), ((100, 0),), 0), ((100,), None, 30000), ((256 - 100,), None, wrap(40000, 16))]
    assert ref_pe(steps, 1, parse_format("int8"), parse_format("int8"), 16)[1:] == [40000 - 65536, 30000]
    check(steps, 1, 1, "int8", "int8", "fixed", 16)


@pytest.mark.parametrize("lanes,cycles", [(1, 2), (2, 3), (4, 3)])
def test_latency(lanes, cycles):
    """Asserted in effect by rtl_pe, which puts its steps so far apart."""
    fmt = parse_format("int8")
    pe = PE(lanes=lanes, group=lanes, activation=fmt, weight=fmt, multiplier="fixed", acc_bits=32)
    assert pe.latency == cycles and pe.initiation_interval == 1


def test_group_is_a_multiple_of_lanes():
    fmt = parse_format("int8")
    with pytest.raises(ValueError, match="group must be a multiple of lanes = 2, not 3"):
        PE(lanes=2, group=3, activation=fmt, weight=fmt, multiplier="fixed", acc_bits=32)
