"""Gradients and updates against definitions written once more, in Python integers, pixel by pixel."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from sateen.formats import SparsityPattern, parse_format
from sateen.formats.sparsity import DENSE
from sateen.ir.gradients import ComputedConv, Gate, PoolGate, Update, WeightGradient
from sateen.ir.operation import Window
from sateen.ir.quantized import Port, Quant, QuantizedGraph, Tensor
from sateen.ir.verify import broken
from sateen.sim import gradients
from sateen.sim.reference import reference_codes
from sateen.sim.sore import select

WINDOWS = [
    Window((1, 1)),
    Window((3, 3), pads=(1, 1, 1, 1)),
    Window((3, 3), (2, 2), (1, 1), (1, 1, 0, 0)),
    Window((2, 3), (2, 1), (1, 2), (0, 2, 1, 1)),
    Window((2, 2), (3, 3)),
    Window((2, 2), pads=(-1, 0, 0, -1)),
]


def pixels(window: Window, plane, reads):
    """Output pixel, tap and input pixel of every product."""
    rows, columns = window.plane(*plane)
    for y, x, i, j in product(range(rows), range(columns), range(window.kernel[0]), range(window.kernel[1])):
        at = (
            y * window.stride[0] + i * window.dilation[0] - window.pads[0],
            x * window.stride[1] + j * window.dilation[1] - window.pads[1],
        )
        if 0 <= at[0] < plane[0] and 0 <= at[1] < plane[1] and reads(at):
            yield (y, x), i * window.kernel[1] + j, at


def visible(window, plane):
    """Pixels that negative pads leave in the plane."""
    crop = [max(-p, 0) for p in window.pads]
    return lambda at: crop[0] <= at[0] < plane[0] - crop[2] and crop[1] <= at[1] < plane[1] - crop[3]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("size", [5, 1 << 20, 1 << 33], ids=["small", "wide", "very wide"])
def test_three_passes_are_sums_over_the_same_products(window, size):
    rng = np.random.default_rng(7)
    plane = (6, 5)
    x = rng.integers(-size, size, (2, *plane, 3))
    w = rng.integers(-size, size, (int(np.prod(window.kernel)), 3, 2))
    dy = rng.integers(-size, size, (2, *window.plane(*plane), 2))
    y, dx, dw = (np.zeros(s, object) for s in (dy.shape, x.shape, w.shape))
    for n in range(2):
        for out, tap, at in pixels(window, plane, visible(window, plane)):
            for i, o in product(range(3), range(2)):
                y[n, *out, o] += int(x[n, *at, i]) * int(w[tap, i, o])
                dx[n, *at, i] += int(dy[n, *out, o]) * int(w[tap, i, o])
                dw[tap, i, o] += int(dy[n, *out, o]) * int(x[n, *at, i])
    floats = [a.astype(np.float64) for a in (x, w, dy)]
    assert (gradients.forward(floats[0], floats[1], window).integers().astype(object) == y).all()
    assert (gradients.backward(floats[2], floats[1], window, plane).integers().astype(object) == dx).all()
    assert (gradients.weight_gradient(floats[0], floats[2], window).integers().astype(object) == dw).all()
    assert (gradients.bias_gradient(dy) == dy.sum(axis=(0, 1, 2))).all()


def test_sums_that_no_integer_of_64_bits_holds():
    x, w = np.full((1, 1, 1, 8), 2.0**32), np.full((1, 8, 1), 2.0**32)
    assert gradients.forward(x, w, Window()).integers()[0, 0, 0, 0] == 8 << 64


@pytest.mark.parametrize("pattern", [SparsityPattern(2, 4), SparsityPattern(2, 8), DENSE], ids=str)
@pytest.mark.parametrize("name", ["int8", "e4m3fn", "e2m1"])
def test_selection_is_that_of_sore(pattern, name):
    fmt = parse_format(name)
    codes = fmt.encode(np.random.default_rng(3).normal(0, fmt.max / 4, (5, 16)))
    fixed = fmt.fixed(codes)
    mask = gradients.selected(fixed, pattern, 1)
    picked, at = select(codes, pattern, fmt)
    wanted = np.zeros((5, 16 // pattern.m, pattern.m), bool)
    np.put_along_axis(wanted, at.astype(np.int64), True, -1)
    assert (mask == wanted.reshape(5, 16)).all()
    assert picked.size == mask.sum()


def test_a_last_group_that_is_shorter_keeps_as_many():
    mask = gradients.selected(np.array([[1, 3, 2, 0, 5, 0, 7]]), SparsityPattern(2, 4), 1)
    assert mask.tolist() == [[False, True, True, False, True, False, True]]


def test_max_pool_gives_the_gradient_to_all_that_tie():
    window = Window((2, 2), (2, 2))
    x = np.array([[1, 4, 2, 2], [4, 0, 2, 1]], float).reshape(1, 2, 4, 1)
    pooled = np.array([4, 2], float).reshape(1, 1, 2, 1)
    dy = np.array([10, 20], float).reshape(1, 1, 2, 1)
    found = gradients.pool_gradient(dy, x, pooled, window)
    assert found.reshape(2, 4).tolist() == [[0, 10, 20, 20], [10, 0, 20, 0]]


def test_windows_of_a_max_pool_that_overlap_add_up():
    window = Window((3, 3), (2, 2), (1, 1), (1, 1, 1, 1))
    x = np.zeros((1, 4, 4, 1))
    x[0, 1, 1] = 9
    pooled = np.full((1, 2, 2, 1), 9.0)
    found = gradients.pool_gradient(np.arange(1.0, 5).reshape(1, 2, 2, 1), x, pooled, window)
    assert found[0, 1, 1, 0] == 1 + 2 + 3 + 4
    assert np.count_nonzero(found) == 1


def test_a_gate_is_open_between_its_ends():
    dy = np.array([1.0, 2, 3, 4])
    assert gradients.gate(dy, np.array([0, 1, 5, 6]), 0, 6).tolist() == [0, 2, 3, 0]


def half_even(value: Fraction) -> int:
    return round(value)


RULES = [
    Update((29491, 15), (52429, 40), (33000, 30), 33000, -7),
    Update((29491, 15), (65535, 3), (0, 32), 41000, -9),
    Update((0, 0), (1, 0), (65535, 61), 1, -6),
    Update((29491, 15), (52429, 40), (40000, 22), 60000, -7),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("wide", [20, 45, 70])
def test_update_rounds_one_exact_sum(rule, wide):
    rng = np.random.default_rng(wide)
    shape = (2, 8, 4)
    master = rng.integers(-(1 << 24), 1 << 24, shape).astype(np.int32)
    velocity = rng.integers(-(1 << 31), 1 << 31, shape).astype(np.int32)
    gradient = np.array(
        [int(v) << max(wide - 40, 0) for v in rng.integers(-(1 << min(wide, 40)), 1 << min(wide, 40), 64)],
        object,
    ).reshape(shape)
    gradient = gradient if wide > 62 else gradient.astype(np.int64)
    fmt, pattern = parse_format("int8"), SparsityPattern(2, 4)
    w, v, codes = gradients.update(rule, master, velocity, gradient, fmt, pattern)

    def real(factor, x):
        return Fraction(factor[0] * int(x), 1 << factor[1])

    old = np.abs(fmt.fixed(gradients.encoded(master, rule.scale, fmt)))
    for at in np.ndindex(shape):
        tap, i, o = at
        group = old[tap, i // 4 * 4 :, o][:4]
        ahead = sum(a > old[at] or (a == old[at] and k < i % 4) for k, a in enumerate(group))
        decay = (rule.decay[0] if ahead < 2 else rule.pruned, rule.decay[1])
        exact = real(rule.momentum, velocity[at]) + real(rule.rate, gradient[at]) + real(decay, master[at])
        wanted = max(-(1 << 31), min((1 << 31) - 1, half_even(exact)))
        assert v[at] == wanted
        after = max(-(1 << 31), min((1 << 31) - 1, int(master[at]) - half_even(Fraction(wanted, 64))))
        assert w[at] == after
    assert (codes == gradients.encoded(w, rule.scale, fmt)).all()


def test_update_decays_what_the_forward_pass_prunes():
    """By a sixteenth, in the velocity: 2**6 of its units are one of a master weight's."""
    rule = Update((0, 0), (0, 0), (0, 0), 4, -7)
    master = (np.array([1, 2, 3, 4]) << 20).reshape(1, 4, 1).astype(np.int32)
    w, v, _ = gradients.update(
        rule,
        master,
        np.zeros_like(master),
        np.zeros_like(master),
        parse_format("int8"),
        SparsityPattern(2, 4),
    )
    assert v.ravel().tolist() == [1 << 22, 1 << 23, 0, 0]
    assert w.ravel().tolist() == [15 << 16, 15 << 17, 3 << 20, 4 << 20]


# -- as ops of a quantized graph ---------------------------------------------------------------------------


def graph_of(ops, inputs, shapes, fmt="int8"):
    quant = Quant(parse_format(fmt), 1.0)
    tensors = {name: Tensor(name, shape, quant) for name, shape in shapes.items()}
    ports = tuple(Port(name, shapes[name], shapes[name]) for name in inputs)
    return QuantizedGraph("step", ports, (), tuple(ops), tensors)


def computed(transposed=False, **more):
    channels = 4 if transposed else 6
    one = np.ones(channels, np.int64)
    return ComputedConv(
        "c", "a", "w", "y", (3, 3), np.arange(channels), one, 4 * one, Quant(parse_format("int8"), 1.0), -128, 127,
        pattern=SparsityPattern(2, 4), stride=(2, 2), pads=(1, 1, 1, 1), transposed=transposed,
        plane=(7, 5) if transposed else (0, 0), reduction=6 if transposed else 4, **more,
    )  # fmt: skip


@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "backward"])
def test_a_computed_convolution_is_the_function_rounded(transposed):
    op = computed(transposed)
    shapes = {"a": (4, 3, 6) if transposed else (7, 5, 4), "w": (9, 4, 6)}
    shapes["y"] = (7, 5, 4) if transposed else (4, 3, 6)
    graph = graph_of([op], ["a", "w"], shapes)
    assert broken(graph) is None
    rng = np.random.default_rng(1)
    values = {n: rng.integers(-128, 128, (3, *shapes[n])).astype(float) for n in ("a", "w")}
    y = reference_codes(graph, values)["y"].view(np.int8)
    for n in range(3):
        w = values["w"][n]
        w = w * gradients.selected(w, op.pattern, 2 if transposed else 1)
        a = values["a"][n : n + 1]
        sums = (
            gradients.backward(a, w, op.window, op.plane).integers()
            if transposed
            else gradients.forward(a, w, op.window).integers()
        )
        assert (y[n] == np.clip(np.rint((sums[0] + op.bias) / 16), -128, 127)).all()


def test_gates_and_weight_gradients_as_ops():
    ops = (
        Gate("g", "dy", "y", "dz", 0, 100),
        PoolGate("p", "dz", "x", "y", "dp", (1, 0), (2, 2)),
        WeightGradient("d", "x", "dp", "dw", (2, 2), 6, (2, 2)),
    )
    shapes = {
        "x": (4, 6, 3),
        "y": (2, 3, 3),
        "dy": (2, 3, 3),
        "dz": (2, 3, 3),
        "dp": (2, 3, 3),
        "dw": (4, 3, 3),
    }
    graph = graph_of(ops, ["x", "y", "dy"], shapes)
    assert broken(graph) is None
    rng = np.random.default_rng(2)
    x, dy = rng.integers(-9, 9, (2, 4, 6, 3)), rng.integers(-9, 9, (2, 2, 3, 3))
    y = x.reshape(2, 2, 2, 3, 2, 3).max(axis=(2, 4))
    found = reference_codes(graph, {"x": x.astype(float), "y": y.astype(float), "dy": dy.astype(float)})
    dz = dy * (y > 0)
    dp = dz * (x[:, 1::2, ::2] == y)
    assert (found["dz"].view(np.int8) == dz).all()
    assert (found["dp"].view(np.int8) == dp).all()
    assert (
        found["dw"].sum(axis=0) == gradients.weight_gradient(x, dp, Window((2, 2), (2, 2))).integers()
    ).all()


def test_rules_of_gradients():
    shapes = {"a": (7, 5, 4), "w": (9, 4, 5), "y": (4, 3, 5)}
    found = broken(graph_of([computed()], ["a", "w"], shapes))
    assert found is not None
    assert found[0].name in ("per channel", "trained weight")
    found = broken(
        graph_of(
            [Gate("g", "a", "r", "y", 0, 9)], ["a", "r"], {"a": (2, 2, 1), "r": (1, 2, 1), "y": (2, 2, 1)}
        )
    )
    assert found is not None
    assert found[0].name == "gate"
