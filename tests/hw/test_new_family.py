# amaranth: UnusedElaboratable=no
"""Families of number formats that exist here alone go the whole way: a place that knows only the built-in ones shows.

What they need is what any family needs: a Format with a row in FAMILIES, and circuits with a row in CIRCUITS.
"""

import random
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from amaranth.hdl import Cat, Mux, Signal, signed
from amaranth.sim import Simulator
from test_decode import rtl_decode
from test_requantize import cases, reference, simulate
from test_vector import BASE, check, drains, pools

import sateen
from sateen.compiler.export.model import export_onnx
from sateen.errors import FormatError
from sateen.formats import Minifloat, all_formats, catalog, parse_format
from sateen.formats.base import Format, QonnxForm, as_integers, as_values, code_dtype, in_chunks
from sateen.formats.requantize import requantize
from sateen.fpga.estimate.resource_model import estimate
from sateen.hw.formats import CIRCUITS, Circuits, Operand, circuits, decoder_term
from sateen.hw.formats.minifloat import MinifloatCircuits
from sateen.hw.memory.sore import SORE
from sateen.ir.quant import Quant
from sateen.ir.quantized import Constant, Linear
from sateen.machine.config import AcceleratorConfig
from sateen.machine.presets import preset
from sateen.sim.program import Interpreter
from sateen.sim.reference import finish_outputs, quantize_inputs
from sateen.sim.requantizer import Requantizer


@dataclass(frozen=True)
class SignMagnitude(Format):
    """smN: integers as a sign and a magnitude of N - 1 bits, so there are two zeros and no lowest value."""

    family: ClassVar[str] = "sign-magnitude integer"
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"sm(\d{1,2})")
    names: ClassVar[str] = "sm2 to sm16"
    uniform: ClassVar[bool] = True
    signed: ClassVar[bool] = True
    mantissa_bits: ClassVar[None] = None
    lsb_exponent: ClassVar[int] = 0

    bits: int

    @classmethod
    def of_match(cls, match):
        return cls(int(match[1]))

    @classmethod
    def members(cls):
        return tuple(map(cls, (3, 4, 8)))

    @property
    def name(self):
        return f"sm{self.bits}"

    @property
    def max_fixed(self):
        return (1 << self.bits - 1) - 1

    @property
    def min_fixed(self):
        return -self.max_fixed

    @property
    def qonnx(self):
        return QonnxForm("Quant", (("bits", self.bits),), {"signed": 1, "narrow": 1}, zero_point=True)

    @property
    def grid(self):
        return ("uniform", 0)

    def step_exponent(self, top):
        return 0 * top

    def has_odd_code(self, steps, exponent):
        return bool(steps & 1)

    def round_fixed(self, t):
        return np.rint(t)

    def _fixed(self):
        magnitudes = range(1 << self.bits - 1)
        return [*magnitudes, *(-m for m in magnitudes)]

    def encode(self, values):
        def codes(x):
            if np.isnan(x).any():
                raise FormatError(f"{self.name}: cannot encode NaN")
            return self._codes(np.rint(x), np.signbit(x))

        return in_chunks(codes, as_values(values, self.name), self.code_dtype)

    def from_fixed(self, fixed):
        fixed = as_integers(fixed, self.name)
        return self._codes(fixed, fixed < 0)

    def _codes(self, whole, negative):
        magnitude = np.minimum(np.abs(whole), self.max_fixed).astype(np.int64)
        return (magnitude | negative.astype(np.int64) << self.bits - 1).astype(self.code_dtype)


class SignMagnitudeCircuits(Circuits):
    """Two's complement inside, from the decoder to the clamp."""

    sign_magnitude = True
    requantize_latency = 6

    @property
    def significand(self):
        return Operand(self.format.fixed_bits, 0)

    def decode_fixed(self, code):
        return Mux(code[-1], -code[:-1], code[:-1])[: self.format.bits].as_signed()

    def decode_parts(self, code):
        return self.decode_fixed(code)

    def greater(self, a, b):
        return self.decode_fixed(a) > self.decode_fixed(b)

    def magnitude_key(self, code):
        return code[:-1]

    @property
    def bound_shape(self):
        return signed(self.format.fixed_bits)

    def bound(self, m, value, name):
        return value[: self.format.fixed_bits].as_signed()

    def finish(self, lane, x, lost, over, negative):
        bits, control, reg = self.format.bits, lane.control, lane.register
        up = Signal(name=f"up_{lane.k}")
        with lane.m.If(lane.enable[4]):
            lane.m.d.comb += up.eq(~control.raw & x[0] & (lost | x[1]))
        y = reg(5, "y", x[1:].as_signed() + up + control.zero_point)
        over, negative = reg(5, "over", over), reg(5, "negative", negative)
        value = lane.clamp(y, over, negative).as_signed()
        code = Cat(Mux(value < 0, -value, value)[: bits - 1], value < 0)
        return reg(6, "code", Mux(control.raw, y[:bits], code)[:bits])

    def decode_terms(self, multiplier, count, t):
        t.add(**{decoder_term(self.format, multiplier): count})

    def decode_path(self, multiplier, d):
        return d.carry(self.format.bits)

    def bound_terms(self, t):
        pass

    def residual_terms(self, bits, t):
        t.add(zero=bits)

    def finish_terms(self, bits, zero_bits, t):
        t.add(rounded=bits + 1, clamp=2 * self.format.bits)
        t.add(ff=bits + 1 + self.format.bits)

    def finish_path(self, d):
        return d.carry(self.format.bits)


@dataclass(frozen=True)
class Logarithmic(Format):
    """logN: a sign and N - 1 bits that count powers of two from 1 up, 0 for zero: a minifloat without mantissa."""

    family: ClassVar[str] = "power of two"
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"log([345])")
    names: ClassVar[str] = "log3 to log5"
    uniform: ClassVar[bool] = False
    signed: ClassVar[bool] = True
    mantissa_bits: ClassVar[int] = 0
    lsb_exponent: ClassVar[int] = 0

    bits: int

    @classmethod
    def of_match(cls, match):
        return cls(int(match[1]))

    @classmethod
    def members(cls):
        return tuple(map(cls, (3, 4, 5)))

    @property
    def name(self):
        return f"log{self.bits}"

    @property
    def max_fixed(self):
        return 1 << (1 << self.bits - 1) - 2

    @property
    def min_fixed(self):
        return -self.max_fixed

    @property
    def qonnx(self):
        return self._same.qonnx

    @property
    def grid(self):
        return ("powers of two",)

    @property
    def _same(self):
        return Minifloat(self.bits - 1, 0, 1)

    def step_exponent(self, top):
        return np.maximum(top, 0)

    def has_odd_code(self, steps, exponent):
        return bool(steps + exponent & 1)

    def round_fixed(self, t):
        """The power below, or the one above from the middle on; in the middle the one with an even code."""
        magnitude = np.abs(t)
        top = np.floor(np.log2(np.maximum(magnitude, 0.5)))
        low = np.where(magnitude < 1, 0.0, np.exp2(top))
        high = np.where(magnitude < 1, 1.0, 2 * low)
        middle = (low + high) / 2
        up = (magnitude > middle) | (magnitude == middle) & (top % 2 == 0)
        return np.copysign(np.where(up, high, low), t)

    def _fixed(self):
        magnitudes = [0, *(1 << k for k in range((1 << self.bits - 1) - 1))]
        return magnitudes + [-m for m in magnitudes]

    def encode(self, values):
        def codes(x):
            if np.isnan(x).any():
                raise FormatError(f"{self.name}: cannot encode NaN")
            magnitude = np.abs(self.round_fixed(np.clip(x, self.min_fixed, self.max_fixed)))
            code = np.where(magnitude < 1, 0, np.log2(np.maximum(magnitude, 1)) + 1).astype(np.int64)
            return (code | np.signbit(x).astype(np.int64) << self.bits - 1).astype(self.code_dtype)

        return in_chunks(codes, as_values(values, self.name), self.code_dtype)

    def from_fixed(self, fixed):
        clipped = np.clip(as_integers(fixed, self.name), self.min_fixed, self.max_fixed)
        return self.encode(clipped.astype(np.float64))


NEW = {
    SignMagnitude: SignMagnitudeCircuits,
    Logarithmic: lambda fmt: MinifloatCircuits(Minifloat(fmt.bits - 1, 0, 1)),  # the same codes
}
NAMES = ("sm3", "sm4", "sm8", "sm12", "log4", "log5")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(catalog, "FAMILIES", (*catalog.FAMILIES, *NEW))
    for family, its_circuits in NEW.items():
        monkeypatch.setitem(CIRCUITS, family, its_circuits)
    parse_format.cache_clear()
    all_formats.cache_clear()
    yield
    parse_format.cache_clear()
    all_formats.cache_clear()


TOLD_APART = {"hw/formats/__init__.py", "hw/library/mac.py", "fpga/library/mac_units.py"}
"""Tables by family, and a paper's formula for each."""


def test_formats_are_asked_and_not_told_apart():
    """Another family would take the wrong way at a test of the class."""
    root = Path(__file__).resolve().parents[2]
    test = re.compile(
        r"isinstance\([^)]*\b(Integer|Minifloat)\b|case (Integer|Minifloat)\b|\{(Integer|Minifloat):"
    )
    found = {
        str(path.relative_to(root))
        for folder in ("sateen", "hw", "sim", "compiler", "fpga")
        for path in (root / folder).rglob("*.py")
        if test.search(path.read_text(encoding="utf-8"))
    }
    assert found == TOLD_APART


def test_names():
    assert parse_format("sm4") == SignMagnitude(4) and {f.name for f in all_formats()} >= {"sm4", "log4"}
    with pytest.raises(
        FormatError, match=r"did you mean 'sm4'\? Formats are int1 .*, sm2 to sm16, log3 to log5"
    ):
        parse_format("sm4x")


def test_every_family_has_circuits():
    assert set(CIRCUITS) == set(catalog.FAMILIES)

    class Unknown(SignMagnitude):
        pass

    with pytest.raises(FormatError, match=r"sm4: its family 'sign-magnitude integer' has no circuits"):
        circuits(Unknown(4))


@pytest.mark.parametrize("name", NAMES)
def test_codec(name):
    fmt = parse_format(name)
    assert fmt.code_dtype == code_dtype(fmt.bits) == (np.uint16 if fmt.bits > 8 else np.uint8)
    assert np.array_equal(fmt.codes, np.arange(1 << fmt.bits)) and fmt.codes.dtype == fmt.code_dtype
    again = fmt.encode(fmt.decode(fmt.codes))
    assert again.dtype == fmt.code_dtype
    assert np.array_equal(fmt.decode(again), fmt.decode(fmt.codes))
    positive = fmt.positive_zero(fmt.codes)
    assert np.array_equal(fmt.fixed(positive), fmt.fixed(fmt.codes)) and 1 << fmt.bits - 1 not in positive


def nearest(t: Fraction, fmt: Format) -> int:
    """The code of the nearest value, ties to the even code, zero as +0."""
    values = {int(v): c for c, v in reversed(list(enumerate(fmt.fixed(fmt.codes))))}
    return min(values.items(), key=lambda v: (abs(v[0] - t), v[1] & 1))[1]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_requantization(name, large):
    """The definition against fractions, and what looks it up against the definition."""
    fmt, rng = parse_format(name), np.random.default_rng(len(name))
    zero = 2 if fmt.uniform else 0
    scale = 1 << 60 if large else 1
    acc = rng.integers(-12 * fmt.max_fixed, 12 * fmt.max_fixed, (1, 6, 6, 4))
    multiplier, shift = np.array([1, 3, 40000, 65535]), np.array([2, 3, 17, 18])
    shift = shift + scale.bit_length() - 1
    wide = acc.astype(object) * scale
    found = requantize(wide, multiplier, shift, fmt, zero)
    assert found.dtype == fmt.code_dtype
    for at in np.ndindex(acc.shape):
        t = Fraction(int(wide[at]) * int(multiplier[at[-1]]), 1 << int(shift[at[-1]]))
        if fmt.uniform:
            assert found[at] == nearest(Fraction(round(t) + zero), fmt)
        else:
            assert found[at] == nearest(t, fmt)
    bias = np.zeros(4, object if large else np.int64)
    weight = np.zeros((4, 1, 1, 1), fmt.code_dtype)
    op = Linear(
        "op", "x", "y", Constant(weight, fmt), bias, multiplier, shift, Quant(fmt, 1.0, zero),
        fmt.min_fixed, fmt.max_fixed,
    )  # fmt: skip
    fast = Requantizer(op, 12 * fmt.max_fixed * scale)(wide if large else acc.astype(np.float64))
    assert np.array_equal(fast, found)


@pytest.mark.parametrize("multiplier", ["fixed", "shift"])
@pytest.mark.parametrize("name", NAMES)
def test_decoder(name, multiplier):
    fmt = parse_format(name)
    assert [value for value, _, _ in rtl_decode(fmt, multiplier)] == fmt.fixed(fmt.codes).tolist()


@pytest.mark.parametrize(("name", "acc_bits"), [("sm4", 16), ("sm8", 28), ("sm12", 32), ("log4", 20)])
def test_requantizer(name, acc_bits):
    config = AcceleratorConfig(activation_format=name, acc_bits=acc_bits)
    batches = list(cases(config, 12, 40))
    for (control, rows), got in zip(batches, simulate(config, batches), strict=True):
        assert got == reference(config, control, rows), control


@pytest.mark.parametrize("name", ["sm4", "sm12", "log4"])
def test_vector_unit(name):
    config, rng = BASE.replace(activation_format=name, acc_bits=32), random.Random(name)
    if config.activation.bits > 8:  # the machine's table holds bytes
        config = config.replace(table=False)
    program = [i for pair in zip(drains(config, rng), pools(config, rng), strict=False) for i in pair]
    check(config, program[:8], seed=3)


@pytest.mark.parametrize("name", ["sm4", "log4"])
def test_magnitudes(name):
    fmt = parse_format(name)
    keys = []

    async def bench(ctx):
        for code in range(1 << fmt.bits):
            keys.append(ctx.get(circuits(fmt).magnitude_key(Signal(fmt.bits, init=code))))

    simulator = Simulator(SORE(fmt=fmt, patterns=[sateen.formats.PATTERNS["2:4"]]))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    magnitude = np.abs(fmt.fixed(fmt.codes))
    order = np.argsort(keys, kind="stable")
    assert (np.diff(magnitude[order]) >= 0).all() and [k == 0 for k in keys] == (magnitude == 0).tolist()


@pytest.mark.parametrize("name", ["sm4", "log4"])
def test_estimate(name):
    """No term was fitted to the family, so its widths count, and the estimate says so."""
    family = parse_format(name).family
    found = estimate(preset("tiny").replace(weight_format=name, activation_format=name))
    assert any(f"fitted to no {family}" in text for text in found["outside"])
    assert all(device["total"]["lut"] > 300 for device in found["devices"].values())


@pytest.mark.parametrize(("weights", "activations"), [("sm4", "sm4"), ("log4", "sm8"), ("sm4", "log4")])
def test_a_network(weights, activations, tmp_path):
    """Quantized, mapped, exported: the program gives what the reference does."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(0, 0.5, (6, 3, 3, 3)), "b": rng.normal(0, 0.2, 6), "v": rng.normal(0, 0.5, (5, 6, 1, 1)),
    }  # fmt: skip
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "v"], ["c"]),
        node("Conv", ["c", "u"], ["d"]),
        node("Add", ["c", "d"], ["e"]),
        node("Sigmoid", ["e"], ["y"]),
    ]
    constants["u"] = rng.normal(0, 0.5, (5, 5, 1, 1))
    graph = onnx.helper.make_graph(
        nodes, "g", [info("x", 1, [1, 3, 6, 6])], [info("y", 1, [1, 5, 3, 3])],
        [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )  # fmt: skip
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "m.onnx"
    )
    samples = {"x": rng.normal(0, 1, (16, 3, 6, 6))}
    quantized = sateen.load(tmp_path / "m.onnx").quantize(
        weights=weights, activations=activations, calibration=samples
    )
    mapped = quantized.map("tiny")
    qgraph, p = mapped.quantized.graph, mapped.program
    inputs = {"x": rng.normal(0, 1, (3, 3, 6, 6))}
    codes = quantize_inputs(qgraph, inputs)
    data = np.zeros((3, p.data_size), np.uint8)
    for r in p.inputs:
        start = r.offset - p.data_offset
        data[:, start : start + r.size] = r.pack(codes[r.tensor], p.config)
    Interpreter(p.config, p.constants, p.code, p.program_offset, data, p.data_offset).run()
    found = {}
    for r in p.outputs:
        start = r.offset - p.data_offset
        found[r.tensor] = r.unpack(data[:, start : start + r.size], p.config)
    expected = quantized.run(inputs)["y"]
    assert expected.tobytes() == finish_outputs(qgraph, found)["y"].tobytes() and np.ptp(expected) > 0
    onnx.checker.check_model(export_onnx(qgraph))
