# amaranth: UnusedElaboratable=no
"""OUTER in the matrix unit against NumPy and the interpreter: every sum, and the cycle formula; others in turn."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fir import FIR, ref_fir
from test_matrix import CONFIGS, CONV3, LAYER, SMALL, memories, ref_matrix, rtl_matrix

from sateen.errors import ConfigError
from sateen.hw import isa
from sateen.hw.matrix.unit import CYCLES, outer_cycles
from sateen.machine.assembler import Instruction
from sateen.machine.config import DATAFLOWS, AcceleratorConfig
from sateen.sim.program import Interpreter
from sateen.sim.proof import Extent, Unproved, prove

OUTER = LAYER | dict(opcode=isa.Opcode.OUTER, weight_step=1, short=0)
BASE = AcceleratorConfig(
    rows=4, cols=4, lanes=1, group=2, act_banks=2, act_bank_depth=64, weight_depth=128, acc_depth=64, acc_bits=32,
    outer_products=True,
)  # fmt: skip
VARIANTS = {
    "alone": {},
    "with output-stationary": dict(dataflows=DATAFLOWS),
    "with filters": dict(depthwise=True),
    "with both": dict(dataflows=DATAFLOWS, depthwise=True),
}
FORMATS = {
    name: changes | dict(lanes=1, group=max(2, changes.get("group", 2)), acc_depth=64, outer_products=True)
    for name, changes in CONFIGS.items()
    if changes.get("weight_format", "int8") == changes.get("activation_format", "int8")
}


def ref_outer(fields, config, memory, acc):
    """docs/isa.md, literally."""
    f = fields
    words, weights, _ = memory
    acc = acc.copy()
    for n, (ky, c) in enumerate(itertools.product(range(f["kernel_h"]), range(f["channel_words"]))):
        sums = np.zeros((config.rows, config.cols), object)
        pixels = itertools.product(range(f["kernel_w"]), range(f["out_h"]), range(f["out_w"]))
        for k, (kx, oy, ox) in enumerate(pixels):
            y = f["y0"] + oy * f["stride_y"] + ky * f["dilation_y"]
            x = f["x0"] + ox * f["stride_x"] + kx * f["dilation_x"]
            word = f["base"] + oy * f["step_y"] + ox * f["step_x"] + ky * f["step_ky"] + kx * f["step_kx"] + c
            inside = 0 <= y < f["in_h"] and 0 <= x < f["in_w"]
            codes = (
                words[word % config.act_depth] if inside else np.full(config.elements, f["padding"], np.uint8)
            )
            size = config.group >> f["short"]
            a = config.activation.fixed(codes).astype(object)[: config.rows * size].reshape(config.rows, size)
            w = config.gradient.fixed(
                weights[(f["weight_base"] + k * f["weight_step"]) % config.weight_depth, :, 0]
            )
            sums += a[:, ky, None] * w.astype(object)
        rows = slice(f["acc_base"] + n * config.rows, f["acc_base"] + (n + 1) * config.rows)
        acc[rows] = sums + (acc[rows] if f["accumulate"] else 0)
    return acc


def interpreted(fields, config, memory, acc):
    """The same by the `program` engine."""
    interpreter = Interpreter(config, b"", b"", 0, np.zeros((1, 64), np.uint8), 0)
    interpreter.act[0], interpreter.weight_codes[:] = memory[0], memory[1]
    interpreter.acc[0] = acc
    interpreter.outer(Instruction(isa.Opcode.OUTER, fields))
    return interpreter.acc[0]


def check(config, programs, seed=0):
    programs = [p if "opcode" in p else (OUTER if "weight_step" in p else LAYER) | p for p in programs]
    memory = memories(config, seed)
    acc = np.zeros((2 * config.acc_depth, config.cols), object)
    for fields, (got, cycles) in zip(programs, rtl_matrix(programs, config, memory), strict=True):
        if fields["opcode"] == isa.Opcode.OUTER:
            before, acc = acc, ref_outer(fields, config, memory, acc)
            if fields["weight_base"] + len(memory[1]) // 2 < config.weight_depth:  # it does not wrap
                np.testing.assert_array_equal(interpreted(fields, config, memory, before), acc)
        else:
            model = ref_fir if fields["opcode"] == isa.Opcode.FIR else ref_matrix
            acc = model(fields, config, memory, acc)
        np.testing.assert_array_equal(got, acc)
        assert cycles == CYCLES[fields["opcode"]](fields, config)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("changes", FORMATS.values(), ids=FORMATS.keys())
def test_configurations(changes, variant):
    """Padded images, one pixel, strides of weights, sums that are kept and added to; MATRIX and FIR in turn."""
    config = AcceleratorConfig(**SMALL | changes | variant)
    padding = dict(padding=config.activation.zero_code)
    pixels = dict(
        weight_step=1, out_w=3, out_h=2, kernel_w=2, step_kx=17, dilation_x=0, dilation_y=0, step_ky=0
    )
    programs = [
        pixels | padding | dict(kernel_h=config.group, channel_words=2 * (config.elements <= 16) or 1),
        pixels | dict(x0=-1, y0=-1, base=-9, padding=3, kernel_h=2, acc_base=64, accumulate=1, weight_base=9),
        CONV3 | dict(acc_base=1, accumulate=1),
        dict(weight_step=5, kernel_h=1, acc_base=64 + 7),
        dict(weight_step=0, kernel_h=2, channel_words=2, accumulate=1, acc_base=3),
    ]
    if config.output_stationary:
        programs.append(dict(output_stationary=1, last_steps=1, out_w=3, kernel_w=2, slide=1, acc_base=64))
        programs.append(pixels | dict(acc_base=64))
    if config.depthwise:
        programs.append(FIR | padding | CONV3 | dict(kernel_w=1, line=6, lines=3))
        programs.append(pixels | padding | dict(kernel_h=2))
    check(config, programs)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_short_groups(variant):
    """Rows' parts of each size, other instructions in turn."""
    config = BASE.replace(rows=4, group=4, short_groups=True, **variant)
    pixels = dict(
        weight_step=1, out_w=3, out_h=2, kernel_w=2, step_kx=17, dilation_x=0, dilation_y=0, step_ky=0
    )
    programs = [
        pixels | dict(kernel_h=2, short=1, padding=3, x0=-1),
        CONV3 | dict(passes=4),
        pixels | dict(kernel_h=1, short=2, channel_words=2, acc_base=64),
        pixels | dict(kernel_h=4, accumulate=1),
        pixels | dict(kernel_h=1, short=1, accumulate=1),
    ]
    if config.depthwise:
        programs.append(FIR | CONV3 | dict(kernel_w=1, line=6, lines=3))
    check(config, programs)


GRADIENTS = {
    "e5m2 beside e4m3fn": dict(
        weight_format="e4m3fn", gradient_format="e5m2", acc_bits=80, multiplier="shift"
    ),
    "the same, fixed": dict(weight_format="e4m3fn", gradient_format="e5m2", acc_bits=80),
    "int8 beside e4m3": dict(weight_format="e4m3", gradient_format="int8", acc_bits=48, multiplier="shift"),
    "e3m2 beside int6, indexed": dict(
        weight_format="int6", gradient_format="e3m2", cols=8, group=4, patterns=("dense", "2:4")
    ),
    "with output-stationary": dict(gradient_format="e4m3fn", acc_bits=48, dataflows=DATAFLOWS),
}


@pytest.mark.parametrize("changes", GRADIENTS.values(), ids=GRADIENTS.keys())
def test_gradients_have_their_own_format(changes):
    """Weights of OUTER always, words of MATRIX where it says so; instructions of both kinds in turn."""
    config = BASE.replace(**changes, activation_format=changes.get("weight_format", "int8"))
    pixels = dict(weight_step=1, out_w=3, out_h=2, kernel_w=2, step_kx=17)
    conv = CONV3 | dict(gradient=1, passes=config.dense_passes, padding=config.activation.zero_code)
    programs = [
        pixels | dict(kernel_h=2, padding=3),
        conv,
        pixels | dict(accumulate=1, x0=-1, padding=3),
        conv | dict(gradient=0, accumulate=1, padding=5),
        conv | dict(acc_base=64, padding=5),
    ]
    if config.indexed:
        programs.append(dict(gradient=1, channel_words=2, passes=2, index_bits=2, index_shift=1, out_w=5))
    if config.output_stationary:
        programs.append(dict(gradient=1, output_stationary=1, last_steps=1, out_w=3, kernel_w=2, slide=1))
    check(config, programs)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_random_fields(data):
    """Any window, one instruction after another, in every use of the array."""

    def number(low, high):
        return data.draw(st.integers(low, high))

    group = data.draw(st.sampled_from((1, 2, 4)))
    config = BASE.replace(
        dataflows=DATAFLOWS[: number(1, 2)], depthwise=bool(number(0, 1)), group=group, cols=2, vector_lanes=1
    )
    programs = []
    for _ in range(3):
        outer = number(0, 2)
        out_w = number(1, 5)
        program = dict(out_w=out_w, out_h=number(1, 15 // out_w), acc_base=64 * number(0, 1))
        for name, low, high in (
            ("kernel_w", 1, 3), ("kernel_h", 1, group if outer else 3), ("channel_words", 1, 3), ("x0", -9, 3),
            ("y0", -9, 3), ("in_w", 1, 9), ("in_h", 1, 9), ("stride_x", 0, 63), ("stride_y", 0, 3),
            ("dilation_x", 0, 3), ("dilation_y", 0, 255), ("base", -(1 << 23), 1 << 23), ("step_x", 0, 40),
            ("step_y", 0, (1 << 24) - 1), ("step_kx", 0, 40), ("step_ky", 0, 40), ("accumulate", 0, 1),
            ("padding", 0, 255),
        ):  # fmt: skip
            program[name] = number(low, high)
        if outer:
            program |= dict(weight_step=number(0, 2), weight_base=number(0, 20))
        else:
            program["output_stationary"] = number(0, config.output_stationary)
            program |= dict(passes=number(1, config.dense_passes), weight_base=number(0, 1 << 20))
            program["last_steps"] = number(1, config.rows * program["passes"])
        programs.append(program)
    check(config, programs)


def test_cycle_formula():
    """A pass takes its words, and the sums of its rows leave before the next begins."""
    many = OUTER | dict(kernel_h=2, channel_words=3, kernel_w=4, out_w=7, out_h=5)
    assert outer_cycles(many, BASE) == 5 * (140 + BASE.rows - 1) + 140 + BASE.rows + 5


@pytest.mark.parametrize(
    "changes, reason",
    (
        (dict(kernel_h=3), "elements of a row's part 0 to 2 are beyond the 2"),
        (
            dict(short=1),
            r"takes parts of words 2\*\*1 times shorter than groups, and the machine is not built",
        ),
        (dict(channel_words=17), "accumulators 0 to 67 are beyond the 64"),
        (dict(out_w=65, weight_step=2), "weight words 0 to 128 are beyond the 128"),
        (dict(passes=2), "more than an element of each group"),
    ),
)
def test_what_is_not_proved(changes, reason):
    with pytest.raises(Unproved, match=reason):
        prove([Instruction(isa.Opcode.OUTER, OUTER | changes)], BASE, Extent(0, 1 << 20))


def test_short_groups_have_an_element_at_least():
    with pytest.raises(Unproved, match=r"parts of words 2\*\*2 times shorter"):
        config = BASE.replace(short_groups=True)
        prove([Instruction(isa.Opcode.OUTER, OUTER | dict(short=2))], config, Extent(0, 1 << 20))
    with pytest.raises(ConfigError, match=r"short_groups = True.*false without outer_products"):
        AcceleratorConfig(short_groups=True)


def test_a_machine_without_it():
    with pytest.raises(Unproved, match="not built with outer_products"):
        prove([Instruction(isa.Opcode.OUTER, OUTER)], BASE.replace(outer_products=False), Extent(0, 1 << 20))
    with pytest.raises(ConfigError, match="lanes = 2; it must be 1, as outer_products = True"):
        BASE.replace(lanes=2)
    with pytest.raises(ConfigError, match=r"outer_products = True.*as weight_format = 'int4'"):
        BASE.replace(weight_format="int4")
