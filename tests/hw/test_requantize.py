"""The requantizer against sateen.formats.requantize, for every kind of format."""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from sateen.formats import parse_format
from sateen.formats.requantize import requantize
from sateen.hw.vector.requantize import Requantizer, residual_shift_limit
from sateen.machine.config import AcceleratorConfig

CASES = {
    "int8": 32, "uint8": 28, "int4": 16, "int8n": 32, "uint1": 12, "int2": 8, "e2m1": 14, "e3m2": 30,
    "e3m0": 20, "e1m2": 14, "e2m0": 10, "e4m3": 48, "e4m3fn": 48, "e5m0": 74, "e5m2": 80, "e2m5": 120,
}  # fmt: skip


PRODUCTS = {"int8": 32, "uint8": 28, "int4": 16, "int2": 8, "uint1": 12, "e2m1": 14, "e4m3": 48, "e5m2": 80}


GRADIENTS = [("int8", "e4m3fn", 48), ("e4m3fn", "e5m2", 80), ("e5m2", "int8", 64), ("int4", "e2m1", 16)]


def config_of(name: str, acc_bits: int, product: bool = False, gradient: str = "") -> AcceleratorConfig:
    more = {"gradient_format": gradient, "outer_products": True, "lanes": 1} if gradient else {}
    return AcceleratorConfig(
        activation_format=name, weight_format=name, acc_bits=acc_bits, product=product, **more
    )


def format_of(config: AcceleratorConfig, control: dict):
    return config.gradient if control.get("gradient") else config.activation


def bound(fixed: int, fmt) -> int:
    """A clamp bound as `control` takes it."""
    if fmt.uniform:
        return fixed
    code, sign = int(fmt.from_fixed(fixed)), 1 << fmt.bits - 1
    return ~(code & ~sign) if code & sign else code


def integer(rng: random.Random, bits: int) -> int:
    """Signed, of any magnitude, edges often."""
    edge = rng.random()
    if edge < 0.05:
        return rng.choice([-(1 << bits - 1), (1 << bits - 1) - 1, 0, -1, 1])
    size = rng.randint(0, bits - 1)
    value = rng.getrandbits(size) if size else 0
    if edge < 0.3:
        value = min(1 << size, (1 << bits - 1) - 1)
    return -value if rng.random() < 0.5 else value


def cases(config: AcceleratorConfig, controls: int, channels: int):
    """(control, channels): random, with many ties, extremes and shifts around the interesting ones."""
    a, rng = config.acc_bits, random.Random(config.activation_format)
    limit = residual_shift_limit(config)
    for i in range(controls):
        own = {"gradient": i // 2 % 2} if config.own_gradients else {}
        fmt = format_of(config, own)
        low, high = sorted(int(fmt.fixed(rng.randrange(1 << fmt.bits))) for _ in range(2))
        if i % 2 == 0:
            low, high = fmt.min_fixed, fmt.max_fixed
        low, high = max(low, fmt.min_fixed), min(high, fmt.max_fixed)
        raw = i % 5 == 4
        control = {
            "residual": int(i % 3 == 1 and not raw),
            "residual_multiplier": rng.choice([1, 0, 65535, rng.getrandbits(16)]),
            "residual_shift": rng.randint(0, 127 - limit),
            "residual_zero": rng.randint(-512, 511) if fmt.uniform and i % 4 else 0,
            "zero_point": rng.randint(-512, 511) if fmt.uniform and not raw and i % 4 > 1 else 0,
            "low": low,
            "high": high,
            "raw": int(raw),
            "raw_shift": rng.randint(0, 127),
        }
        if own.get("gradient"):
            control |= {"residual_zero": 0, "zero_point": 0}
        control |= own
        if config.product:
            control["product"] = int(not raw and not control["residual"] and i % 3 == 2)
        rows = []
        for _ in range(channels):
            multiplier = rng.choice([1, 2, 0, 65535, 1 << rng.randint(0, 15), rng.getrandbits(16)])
            shift = rng.randint(0, rng.choice([20, a, 127]))
            if control["residual"]:
                shift = control["residual_shift"] + rng.randint(0, limit)
            acc, bias = integer(rng, a), rng.choice([0, integer(rng, a)])
            rows.append((acc, bias, multiplier, shift, rng.randrange(1 << fmt.bits)))
        yield control, rows


def reference(config: AcceleratorConfig, control: dict, rows: list[tuple]) -> list[int]:
    fmt, c = format_of(config, control), control
    columns = [np.array(column, object) for column in zip(*rows, strict=True)]
    acc, bias, multiplier, shift, residual = columns
    v = acc + bias
    if c["raw"]:
        return [int(x) >> c["raw_shift"] & (1 << fmt.bits) - 1 for x in v]
    addend = 0
    difference = fmt.fixed(residual.astype(fmt.code_dtype)).astype(object) - c["residual_zero"]
    if c.get("product"):
        v = v * difference
    if c["residual"]:
        distance = np.array([int(s) - c["residual_shift"] for s in shift], object)
        addend = difference * c["residual_multiplier"] * 2**distance
    return requantize(v, multiplier, shift, fmt, c["zero_point"], c["low"], c["high"], addend).tolist()


def simulate(config: AcceleratorConfig, batches: list[tuple]) -> list[list[int]]:
    dut, results = Requantizer(config=config), []
    assert dut.initiation_interval == 1
    rng = random.Random(1)

    async def testbench(ctx):
        for control, rows in batches:
            prefix = "gradient_" if control.get("gradient") else ""
            bounds = {prefix + k: bound(control[k], format_of(config, control)) for k in ("low", "high")}
            rest = {k: v for k, v in control.items() if k not in ("low", "high")}
            ctx.set(dut.control, rest | bounds)
            out, expected_valid, pending, sent = [], [0] * dut.latency, list(rows), 0
            while len(out) < len(rows):
                send = bool(pending) and rng.random() < 0.8
                ctx.set(dut.i_valid, send)
                acc, bias, multiplier, shift, residual = pending.pop(0) if send else (0, 0, 0, 0, 0)
                ctx.set(dut.i_acc[0], acc)
                ctx.set(dut.i_parameter[0], {"bias": bias, "multiplier": multiplier, "shift": shift})
                ctx.set(dut.i_residual[0], residual)
                sent += send
                _, _, valid, code = await ctx.tick().sample(dut.o_valid, dut.o_code[0])
                assert valid == expected_valid.pop(0)  # the latency is exact
                expected_valid.append(send)
                if valid:
                    out.append(code)
            ctx.set(dut.i_valid, 0)
            await ctx.tick().repeat(dut.latency)
            results.append(out)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
    return results


@pytest.mark.parametrize(
    ("name", "gradient", "acc_bits", "product"),
    [
        *((n, "", b, False) for n, b in CASES.items()),
        *((n, "", b, True) for n, b in PRODUCTS.items()),
        *((*case, False) for case in GRADIENTS),
    ],
)
def test_matches_the_reference(name, gradient, acc_bits, product):
    """Products with sums, raw outputs and plain ones before and after them; of either format, if there are two."""
    config = config_of(name, acc_bits, product, gradient)
    batches = list(cases(config, 24, 80))
    for (control, rows), got in zip(batches, simulate(config, batches), strict=True):
        want = reference(config, control, rows)
        for row, w, g in zip(rows, want, got, strict=True):
            assert g == w, f"{name}: {control} {row}: {g:#x}, not {w:#x}"


@pytest.mark.parametrize("name", ["int4", "uint4", "e2m1", "e3m2"])
def test_every_factor(name):
    """All codes, with all zero points that are values, times small sums: ties, carries, saturation."""
    config, fmt = config_of(name, 16, product=True), parse_format(name)
    zeros = [int(fmt.fixed(code)) for code in range(1 << fmt.bits)] if fmt.uniform else [0]
    batches = []
    for zero in zeros:
        control = {
            "residual": 0, "residual_multiplier": 0, "residual_shift": 0, "residual_zero": zero, "zero_point": 0,
            "low": fmt.min_fixed, "high": fmt.max_fixed, "raw": 0, "raw_shift": 0, "product": 1,
        }  # fmt: skip
        rows = [
            (n, 1, m, shift, code)
            for code in range(1 << fmt.bits)
            for n in range(-9, 10)
            for m, shift in ((1, 0), (1, 1), (3, 3))
        ]
        batches.append((control, rows))
    got = simulate(config, batches)
    assert got == [reference(config, control, rows) for control, rows in batches]


@pytest.mark.parametrize("name", ["int4", "uint4", "e2m1", "e3m2", "e3m0", "e2m3"])
def test_every_small_number_and_shift(name):
    """All numbers around the range with every small shift: each tie, each rounding carry, saturation."""
    config, fmt = config_of(name, 16), parse_format(name)
    control = {
        "residual": 0, "residual_multiplier": 0, "residual_shift": 0, "residual_zero": 0, "zero_point": 0,
        "low": fmt.min_fixed, "high": fmt.max_fixed, "raw": 0, "raw_shift": 0,
    }  # fmt: skip
    limit = min(2 * fmt.max_fixed + 4, 300)
    rows = [
        (n, 0, 1, shift, 0)
        for shift in range(4)
        for n in range(-limit << min(shift, 2), limit << min(shift, 2))
    ]
    assert simulate(config, [(control, rows)])[0] == reference(config, control, rows)
