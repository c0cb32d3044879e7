# amaranth: UnusedElaboratable=no
"""Multiply-accumulate units of every circuit against sums of the formats' integers."""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from sateen.formats import parse_format
from sateen.hw.library.mac import IMPLEMENTATIONS, MAC, why_not
from sateen.hw.library.mac_datapath import exact_bits

K = 4096


def wrap(value, bits):
    return (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def integers(fmt, codes):
    return [int(v) for v in fmt.fixed(np.array(codes, np.uint8))]


def ref_mac(steps, a, w, bits):
    """psum of each step (a codes, w codes, psum of before)."""
    return [
        wrap(psum + sum(p * q for p, q in zip(integers(a, x), integers(w, y), strict=True)), bits)
        for x, y, psum in steps
    ]


def rtl_mac(mac, steps, stall=0.0, seed=0):
    rng = random.Random(seed)
    result = []

    async def bench(ctx):
        before = None
        for step in [*steps, None]:
            while rng.random() < stall:
                ctx.set(mac.enable, 0)
                ctx.set(mac.i_psum, rng.getrandbits(10))
                for n in range(mac.lanes):
                    ctx.set(mac.a[n], rng.getrandbits(len(mac.a[n])))
                await ctx.tick()
            ctx.set(mac.enable, 1)
            if step is not None:
                for n in range(mac.lanes):
                    ctx.set(mac.a[n], step[0][n])
                    ctx.set(mac.w[n], step[1][n])
            if before is not None:
                ctx.set(mac.i_psum, before[2])
            await ctx.tick()
            if before is not None:
                result.append(ctx.get(mac.psum))
            before = step

    simulator = Simulator(mac)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return result


def check(a, w, implementation, lanes, codes, **stalls):
    """`codes`: (a codes, w codes) of each step; random sums are given with them."""
    a, w = parse_format(a), parse_format(w)
    mac = MAC(a=a, w=w, lanes=lanes, k=K, implementation=implementation)
    assert (mac.latency, mac.initiation_interval) == (2, 1)  # rtl_mac reads psum two ticks after the codes
    rng = random.Random(len(codes))
    steps = [(x, y, wrap(rng.getrandbits(mac.acc_bits), mac.acc_bits)) for x, y in codes]
    assert rtl_mac(mac, steps, **stalls) == ref_mac(steps, a, w, mac.acc_bits)


def random_codes(a, w, lanes, count, seed=0):
    """Random codes, with the largest and the least of each format often."""
    rng = random.Random(seed)

    def codes(fmt):
        edges = [
            int(np.argmax(fmt.fixed(np.arange(1 << fmt.bits)))),
            int(np.argmin(fmt.fixed(np.arange(1 << fmt.bits)))),
        ]
        return [
            rng.choice(edges) if rng.random() < 0.2 else rng.randrange(1 << fmt.bits) for _ in range(lanes)
        ]

    a, w = parse_format(a), parse_format(w)
    return [(codes(a), codes(w)) for _ in range(count)]


def exists(a, w, lanes=1):
    a, w = parse_format(a), parse_format(w)
    return [i for i in IMPLEMENTATIONS if not why_not(i, a, w, lanes)]


SMALL = ["int2", "int3", "uint3", "int4", "e1m1", "e2m0", "e1m2", "e2m1", "e3m0"]
SPLITS = {5: ["e2m2", "e4m0"], 6: ["e2m3", "e3m2", "e5m0"], 7: ["e4m2"], 8: ["e3m4", "e4m3fn", "e5m2"]}
WIDE = ["int5", "int8", "uint8", "int7n", *(f for formats in SPLITS.values() for f in formats)]


@pytest.mark.parametrize("name,implementation", [(n, i) for n in SMALL for i in exists(n, n)])
def test_every_pair_of_codes(name, implementation):
    codes = range(1 << parse_format(name).bits)
    check(name, name, implementation, 1, [([x], [y]) for x in codes for y in codes])


@pytest.mark.parametrize("name,implementation", [(n, i) for n in WIDE for i in exists(n, n)])
def test_wide_formats(name, implementation):
    """All codes by the largest ones and random ones."""
    every = [
        ([c], y) for c in range(1 << parse_format(name).bits) for _, y in random_codes(name, name, 1, 1, c)
    ]
    swapped = [(y, x) for x, y in every]
    check(name, name, implementation, 1, every + swapped)


@pytest.mark.parametrize("lanes", [2, 3, 8])
@pytest.mark.parametrize("name", ["int3", "int5", "e1m2", "e2m1", "e3m2", "e4m3"])
def test_lanes(name, lanes):
    for implementation in exists(name, name, lanes):
        if (lanes, implementation) != (8, "lut"):  # slow to simulate
            check(name, name, implementation, lanes, random_codes(name, name, lanes, 30), stall=0.2)


@pytest.mark.parametrize(
    "a,w", [("uint4", "int4"), ("uint8", "int3"), ("int3", "int8"), ("e2m1", "e3m2"), ("e4m1", "e1m2")]
)
def test_unlike_formats(a, w):
    for implementation in exists(a, w, 2):
        check(a, w, implementation, 2, random_codes(a, w, 2, 60))


@pytest.mark.parametrize("name", ["int4", "uint3", "int4n", "e2m1", "e4m3fn", "e5m2"])
def test_the_accumulator_is_exact_and_no_wider(name):
    fmt = parse_format(name)
    fixed = [int(v) for v in fmt.fixed(np.arange(1 << fmt.bits))]
    products = [x * y for x in (min(fixed), max(fixed)) for y in (min(fixed), max(fixed))]
    bits = exact_bits(fmt, fmt, K)
    sums = [K * max(products), K * min(products)]
    assert all(-(1 << bits - 1) <= s < 1 << bits - 1 for s in sums)
    assert not all(-(1 << bits - 2) <= s < 1 << bits - 2 for s in sums)


@pytest.mark.parametrize(
    "kwargs,message",
    [
        ({"implementation": "fast"}, "implementation must be one of .*, not 'fast'"),
        ({"implementation": "shift"}, "int4 x int4, 1 lanes, 'shift': integers have no exponent"),
        ({"implementation": "packed"}, "lanes are packed in pairs"),
        (
            {"implementation": "late", "a": parse_format("e2m1"), "w": parse_format("e2m1")},
            "there is one coarse bit already, as in 'shift'",
        ),
        ({"implementation": "table"}, "a product depends on 8 bits, a LUT on 6"),
        ({"implementation": "lut", "lanes": 9}, "lanes must be 1 to 8, not 9"),
        ({"implementation": "lut", "lanes": 8, "k": 4}, "k must be at least lanes = 8, not 4"),
        (
            {"implementation": "dsp", "w": parse_format("e2m1")},
            "both formats must be integers or both minifloats",
        ),
        (
            {"implementation": "packed", "a": parse_format("int8"), "w": parse_format("int8"), "lanes": 2},
            "two fields of 17 bits do not fit an operand of 18 bits",
        ),
    ],
)
def test_units_that_do_not_exist(kwargs, message):
    int4 = parse_format("int4")
    with pytest.raises(ValueError, match=message):
        MAC(**{"a": int4, "w": int4, "k": K} | kwargs)
