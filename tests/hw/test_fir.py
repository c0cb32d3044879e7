# amaranth: UnusedElaboratable=no
"""FIR in the matrix unit against NumPy: every accumulator word, and the cycle formula; MATRIX before and after it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_matrix import BASE, CONFIGS, CONV3, LAYER, SMALL, memories, ref_matrix, rtl_matrix

from sateen.hw import isa
from sateen.hw.matrix.unit import CYCLES, fir_cycles, pass_interval
from sateen.machine.config import DATAFLOWS, AcceleratorConfig

FIR = LAYER | dict(opcode=isa.Opcode.FIR, slice=0, line=1, lines=1)


def ref_fir(fields, config, memory, acc):
    """docs/isa.md, literally: the words of all passes, one a cycle, and what each window finds in them."""
    f = fields
    words, weights, _ = memory
    acc = acc.copy()
    padding = np.full(config.elements, f["padding"], np.uint8)
    interval = pass_interval(f["line"] * f["lines"], config)
    stream = []
    for ky in range(f["kernel_h"]):
        for kx in range(f["kernel_w"]):
            for y in range(f["lines"]):
                for x in range(f["line"]):
                    at_y = f["y0"] + y * f["stride_y"] + ky * f["dilation_y"]
                    at_x = f["x0"] + x * f["stride_x"] + kx * f["dilation_x"]
                    word = (
                        f["base"] + y * f["step_y"] + x * f["step_x"] + ky * f["step_ky"] + kx * f["step_kx"]
                    )
                    inside = 0 <= at_y < f["in_h"] and 0 <= at_x < f["in_w"]
                    stream.append(words[word % config.act_depth] if inside else padding)
            stream += [padding] * (interval - f["line"] * f["lines"])
    stream += [padding] * config.rows
    values = config.activation.fixed(np.array(stream)).astype(object)
    values = values[:, f["slice"] * config.cols :][:, : config.cols]
    for tile in range(f["kernel_h"] * f["kernel_w"]):
        rows = (f["weight_base"] + tile * config.rows + np.arange(config.rows)) % config.weight_depth
        taps = config.weight.fixed(weights[rows, :, 0]).astype(object)
        for oy in range(f["out_h"]):
            for ox in range(f["out_w"]):
                first = tile * interval + oy * f["line"] + ox
                address = f["acc_base"] + oy * f["out_w"] + ox
                sums = (values[first : first + config.rows] * taps).sum(0)
                acc[address] = sums + (acc[address] if f["accumulate"] or tile else 0)
    return acc


def check(config, programs, seed=0):
    programs = [(LAYER if "line" not in p else FIR) | p for p in programs]
    words, weights, indices = memories(config, seed)
    weights[:, :, 1:] = config.weight.zero_code  # lane 0 alone has taps
    acc = np.zeros((2 * config.acc_depth, config.cols), object)
    memory = words, weights, indices
    for fields, (got, cycles) in zip(programs, rtl_matrix(programs, config, memory), strict=True):
        model = ref_fir if fields["opcode"] == isa.Opcode.FIR else ref_matrix
        acc = model(fields, config, memory, acc)
        np.testing.assert_array_equal(got, acc)
        assert cycles == CYCLES[fields["opcode"]](fields, config)


@pytest.mark.parametrize(
    "dataflows", (DATAFLOWS[:1], DATAFLOWS), ids=("one dataflow", "with output-stationary")
)
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_configurations(changes, dataflows):
    """Taps in a row of the kernel, and in all; shared padding; another slice; MATRIX in turn."""
    config = AcceleratorConfig(**SMALL | changes | dict(dataflows=dataflows, depthwise=True))
    padding = dict(padding=config.activation.zero_code)
    check(
        config,
        [
            CONV3 | padding | dict(kernel_w=1, line=6, lines=3),
            CONV3 | padding | dict(kernel_h=1, kernel_w=1, line=5, lines=4, slice=config.slices - 1),
            CONV3 | dict(acc_base=1, accumulate=1),
            dict(line=1, acc_base=20, out_w=1),
            padding
            | dict(
                line=2, lines=1, kernel_h=2, kernel_w=2, acc_base=20, out_w=2, accumulate=1, weight_base=9
            ),
            dict(channel_words=3, acc_base=20, out_w=2, weight_base=7, index_bits=config.index_planes),
        ],
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_random_fields(data):
    """Any window, any number of words against `rows`, beside MATRIX in either dataflow."""

    def number(low, high):
        return data.draw(st.integers(low, high))

    config = BASE.replace(
        dataflows=DATAFLOWS[: number(1, 2)], group=data.draw(st.sampled_from((2, 4))), depthwise=True
    )
    programs = []
    for _ in range(3):
        out_w = number(1, 5)
        out_h = number(1, 15 // out_w)
        program = dict(out_w=out_w, out_h=out_h, acc_base=16 * number(0, 1))
        for name, low, high in (
            ("kernel_w", 1, 3), ("kernel_h", 1, 3), ("x0", -9, 3), ("y0", -9, 3), ("in_w", 1, 9), ("in_h", 1, 9),
            ("stride_x", 0, 63), ("stride_y", 0, 3), ("dilation_x", 0, 3), ("dilation_y", 0, 255),
            ("base", -(1 << 23), 1 << 23), ("step_x", 0, 40), ("step_y", 0, (1 << 24) - 1), ("step_kx", 0, 40),
            ("step_ky", 0, 40), ("weight_base", 0, 1 << 20), ("accumulate", 0, 1), ("padding", 0, 255),
        ):  # fmt: skip
            program[name] = number(low, high)
        if number(0, 2):
            program |= dict(
                line=out_w + number(0, 3), lines=out_h + number(0, 3), slice=number(0, config.slices - 1)
            )
        programs.append(program)
    check(config, programs)


def test_cycle_formula():
    """A pass reads its plane once; the next waits until its weights are there."""
    config = BASE.replace(depthwise=True)
    conv = FIR | dict(out_w=10, out_h=5, kernel_h=3, line=12, lines=5)
    assert fir_cycles(conv, config) == 3 * 60 + config.rows + 6
    assert fir_cycles(FIR | dict(kernel_h=3), config) == 2 * config.rows + 1 + config.rows + 6
