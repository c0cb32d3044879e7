"""Convolutions with computed weights, and the gradients of their inputs, in all engines: patterns, strides, batches."""

import random
from dataclasses import replace

import numpy as np
import pytest
from four_engines import machine
from graph_engines import MEMORY, check_graph

from sateen.compiler.schedule.backend import generate, specialise
from sateen.compiler.schedule.emitter import Step
from sateen.compiler.schedule.tokens import add_tokens
from sateen.errors import ConfigError
from sateen.formats import SparsityPattern, parse_format
from sateen.formats.sparsity import DENSE
from sateen.ir.operation import Window
from sateen.ir.ports import Output, Port
from sateen.ir.quantized import ComputedConv, Quant, QuantizedGraph, Residual, Tensor
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode, Target, Unit

TINY = machine(
    "int8", "int8", rows=2, cols=2, lanes=1, group=4, patterns=("dense", "1:2", "2:4"), computed_weights=True,
    computed_patterns=True, transpose_words=2, act_bank_depth=256,
)  # fmt: skip
OTHERS = {
    "e4m3": machine(
        "e4m3", "e4m3", rows=2, cols=4, lanes=1, group=8, patterns=("dense", "2:8", "2:4"), computed_weights=True,
        computed_patterns=True, act_bank_depth=256,
    ),
    "short weights": TINY.replace(weight_depth=32),
    "few accumulators": TINY.replace(acc_depth=16),
    "through memory": TINY.replace(act_banks=2, act_bank_depth=128),
}  # fmt: skip


def convolution(
    fmt: str = "int8", pattern: SparsityPattern = DENSE, kernel=(3, 3), stride=(1, 1), dilation=(1, 1),
    pads=(1, 1, 1, 1), plane=(5, 6), inputs=12, outputs=10, transposed=False, raw=False, residual=False, seed=0,
    samples=1,
):  # fmt: skip
    """A graph of one op, with its weights as an input, and samples."""
    rng = np.random.default_rng(seed)
    form, quant = parse_format(fmt), Quant(parse_format(fmt), 1.0)
    window = Window(kernel, stride, dilation, pads)
    out = window.plane(*plane)
    taps, channels = kernel[0] * kernel[1], inputs if transposed else outputs
    shapes = {
        "x": (*out, outputs) if transposed else (*plane, inputs),
        "w": (taps, inputs, outputs),
        "y": (*plane, inputs) if transposed else (*out, outputs),
    }
    if residual:
        shapes["r"] = shapes["y"]
    shift = 6 + 2 * (form.fixed_bits - 8)
    op = ComputedConv(
        "conv", "x", "w", "y", kernel,
        rng.integers(-500, 500, channels), rng.integers(100, 200, channels), np.full(channels, 7 + shift), quant,
        form.min_fixed, form.max_fixed, pattern, stride, dilation, pads, transposed,
        plane if transposed else (0, 0), Residual("r", 3, 2) if residual else None, outputs if transposed else inputs,
        raw=raw, raw_scale=np.ones(channels) if raw else None,
    )  # fmt: skip
    ports = tuple(Port(name, s, s) for name, s in shapes.items() if name != "y")
    tensors = {name: Tensor(name, s, quant) for name, s in shapes.items()}
    y = Port("y", shapes["y"], shapes["y"])
    graph = QuantizedGraph("net", ports, (Output(y, "y"),), (op,), tensors)
    reals = {p.name: rng.normal(0, form.max / 3, (samples, *shapes[p.name])) for p in ports}
    reals["w"][1:] = reals["w"][0]
    return graph, {name: np.clip(x, form.min, form.max) for name, x in reals.items()}


CASES = {
    "3x3": {},
    "3x3 2:4": {"pattern": SparsityPattern(2, 4)},
    "1x1 dense layer": {
        "kernel": (1, 1),
        "pads": (0, 0, 0, 0),
        "plane": (1, 1),
        "pattern": SparsityPattern(1, 2),
    },
    "stride 2": {"stride": (2, 2), "pattern": SparsityPattern(2, 4)},
    "1x1 stride 2": {"kernel": (1, 1), "stride": (2, 2), "pads": (0, 0, 0, 0)},
    "odd": {
        "kernel": (2, 3),
        "stride": (2, 1),
        "dilation": (1, 2),
        "pads": (0, 2, 1, 1),
        "outputs": 5,
        "inputs": 3,
    },
    "stride 3, dilation 2": {
        "kernel": (3, 3),
        "stride": (3, 2),
        "dilation": (2, 2),
        "pads": (2, 1, 2, 1),
        "raw": True,
    },
    "cropped": {"kernel": (2, 2), "pads": (-1, 0, 0, -1)},
    "residual": {"residual": True, "stride": (2, 1), "pattern": SparsityPattern(1, 2)},
}


@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("case", CASES)
def test_convolutions(case, transposed):
    graph, samples = convolution(**CASES[case], transposed=transposed)
    check_graph(graph, TINY, samples, rtl=False)


@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_machines(name, transposed):
    config = OTHERS[name]
    pattern = SparsityPattern(2, 8 if name == "e4m3" else 4)
    sizes = (
        {"inputs": 18, "outputs": 20}
        if name != "through memory"
        else {"inputs": 8, "outputs": 8, "plane": (14, 13)}
    )
    graph, samples = convolution(
        config.activation_format, pattern, **sizes, transposed=transposed, stride=(2, 1)
    )
    check_graph(graph, config, samples, rtl=False)


@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("case", ["3x3 2:4", "1x1 dense layer", "odd", "residual"])
def test_batches_share_their_weights(case, transposed):
    graph, samples = convolution(**CASES[case], transposed=transposed, samples=4)
    check_graph(graph, TINY, samples, batch=4, rtl=False)


@pytest.mark.rtl
@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("case", ["3x3 2:4", "stride 2", "odd", "residual"])
def test_in_rtl(case, transposed):
    graph, samples = convolution(**CASES[case], transposed=transposed, samples=2)
    check_graph(graph, TINY, samples, batch=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"computed_patterns": False}, "computed_patterns = false, and ComputedConv 'conv' of model 'net' needs"),
        ({"patterns": ("dense", "1:2")}, r"keeps 2:4 of computed weights; patterns = .* must have it"),
        (
            {"weight_format": "int4", "computed_weights": False, "computed_patterns": False},
            "weight_format = int4 must be activation_format = int8",
        ),
    ],
)  # fmt: skip
def test_a_machine_that_cannot_says_so(changes, message):
    graph, _ = convolution(pattern=SparsityPattern(2, 4))
    with pytest.raises(ConfigError, match=message):
        specialise(TINY.replace(**changes), graph, 30)


def test_a_machine_for_one_network_has_what_it_needs():
    graph, _ = convolution(pattern=SparsityPattern(2, 4))
    dense, _ = convolution()
    config = TINY.replace(specialize=True)
    assert specialise(config, graph, 30).computed_patterns
    assert not specialise(config, dense, 30).computed_patterns


@pytest.mark.parametrize("seed", range(16))
def test_random_convolutions(seed):
    """Of any size, on machines with little of everything."""
    rng = random.Random(seed)
    minifloat = seed % 4 == 0
    config = (OTHERS["e4m3"] if minifloat else TINY).replace(
        weight_depth=rng.choice([64, 128, 256]), acc_depth=rng.choice([16, 32, 64]), act_bank_depth=512,
        transpose_words=rng.choice([1, 2]),
    )  # fmt: skip
    kernel, plane = (rng.randint(1, 4), rng.randint(1, 4)), (7, rng.randint(7, 8))
    pattern = rng.choice(
        [DENSE, SparsityPattern(2, 4), SparsityPattern(2, 8) if minifloat else SparsityPattern(1, 2)]
    )
    samples = rng.randint(1, 4)
    raw = rng.random() < 0.2
    graph, inputs = convolution(
        config.activation_format, pattern, kernel, (rng.randint(1, 3), rng.randint(1, 3)),
        (rng.randint(1, 2), rng.randint(1, 2)), tuple(rng.randint(0, 2) for _ in range(4)), plane,
        rng.randint(1, 30), rng.randint(1, 30), rng.random() < 0.5, raw, not raw and rng.random() < 0.3, seed, samples,
    )  # fmt: skip
    check_graph(graph, config, inputs, batch=samples, rtl=False)


def test_weights_are_made_and_loaded_while_the_array_works():
    """Three layers of a batch, every result stored: by the exact model the array multiplies most of the time."""
    config = AcceleratorConfig(
        rows=8, cols=32, lanes=1, group=8, bus_bits=256, act_bank_depth=4096, act_banks=8, weight_depth=4096,
        vector_lanes=16, parameter_depth=1024, patterns=("dense", "2:8"), computed_weights=True, acc_depth=512,
        computed_patterns=True, transpose_words=8,
    )  # fmt: skip
    one, _ = convolution(pattern=SparsityPattern(2, 8), plane=(28, 28), inputs=64, outputs=64)
    (op,), x, w = one.ops, one.tensors["x"], one.tensors["w"]
    names = ["x", "y0", "y1", "y2"]
    ops = [
        replace(op, name=f"conv{n}", input=names[n], weight=f"w{n}", output=names[n + 1]) for n in range(3)
    ]
    tensors = {t: replace(x, name=t) for t in names} | {f"w{n}": replace(w, name=f"w{n}") for n in range(3)}
    ports = [Port(t, tensors[t].shape, tensors[t].shape) for t in ("x", "w0", "w1", "w2")]
    outputs = tuple(Output(Port(t, x.shape, x.shape), t) for t in names[1:])
    timeline = generate(
        QuantizedGraph("net", tuple(ports), outputs, tuple(ops), tensors), config, batch=4, cut=0
    ).predict(MEMORY)
    busy = sum(e.done - e.start + 1 for e in timeline.events if e.instruction.opcode == Opcode.MATRIX)
    assert busy > 0.97 * timeline.cycles


def test_moves_and_loads_of_indices_take_turns():
    """One port writes the index buffer, though the words are others."""
    move = Step(Instruction(Opcode.MOVE), [("act", 0, 8)], [("weight", 0, 8), ("index", 0, 8)])
    load = Step(Instruction(Opcode.LOAD, {"target": Target.INDEX}), [], [("index", 64, 72)])
    other = Step(Instruction(Opcode.LOAD, {"target": Target.PARAMETER}), [], [("param", 0, 8)])
    add_tokens([move, other, load], TINY)
    assert (move.instruction.signal, other.instruction.wait, load.instruction.wait) == (
        1 << Unit.LOAD, 0, 1 << Unit.STORE,
    )  # fmt: skip
