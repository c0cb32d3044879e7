"""Gradients of weights and biases as outer products, in all engines: windows, batches, machines, chunks; and gates."""

import numpy as np
import pytest
from four_engines import machine
from graph_engines import check_graph

from sateen.compiler.quantize.bounds import accumulator_bits
from sateen.compiler.schedule.backend import generate, specialise
from sateen.compiler.schedule.gradients import bounds
from sateen.errors import ConfigError
from sateen.formats import parse_format
from sateen.ir.gradients import BiasGradient, Gate, PoolGate, WeightGradient
from sateen.ir.operation import Window
from sateen.ir.ports import Output, Port
from sateen.ir.quantized import Quant, QuantizedGraph, Tensor
from sateen.ir.verify import verify
from sateen.machine.config import DATAFLOWS
from sateen.machine.isa import Opcode

TINY = machine(
    "int8", "int8", rows=2, cols=2, lanes=1, group=4, outer_products=True, gates=True, act_bank_depth=256
)
OTHERS = {
    "e4m3": machine(
        "e4m3", "e4m3", rows=4, cols=4, lanes=1, group=2, outer_products=True, gates=True, act_bank_depth=1024
    ),
    "int4": machine("int4", "int4", rows=2, cols=4, lanes=1, group=4, outer_products=True, gates=True),
    "both dataflows": TINY.replace(dataflows=DATAFLOWS, depthwise=True),
    "short weights": TINY.replace(weight_depth=256),
    "few accumulators": TINY.replace(acc_depth=16),
    "through memory": TINY.replace(act_banks=2, act_bank_depth=128, weight_depth=256),
    "wide bus": TINY.replace(bus_bits=128),
}
CASES = {
    "3x3": Window((3, 3), pads=(1, 1, 1, 1)),
    "1x1": Window(),
    "stride 2": Window((3, 3), (2, 2), pads=(1, 1, 0, 0)),
    "odd": Window((2, 3), (2, 1), (1, 2), (0, 2, 1, 1)),
    "cropped": Window((2, 2), pads=(-1, 0, 0, -1)),
}


def network(fmt, ops, shapes, outputs):
    """A graph whose inputs are what no op writes."""
    quant = Quant(parse_format(fmt), 1.0)
    written = {op.output for op in ops}
    ports = tuple(Port(t, s, s) for t, s in shapes.items() if t not in written)
    outs = tuple(Output(Port(t, shapes[t], shapes[t]), t) for t in outputs)
    tensors = {t: Tensor(t, s, quant) for t, s in shapes.items()}
    return verify(QuantizedGraph("net", ports, outs, tuple(ops), tensors), after="test")


def gradients(fmt="int8", window=CASES["3x3"], plane=(5, 6), inputs=10, outputs=7, gate=False, fold=False):
    """Both gradients of a layer; perhaps of what a Relu gave. With `fold` nothing else reads what the layer read."""
    out = window.plane(*plane)
    pixels = out[0] * out[1]
    dy = "gated" if gate else "dy"
    ops = [
        WeightGradient(
            "dw", "x", dy, "dw", window.kernel, pixels, window.stride, window.dilation, window.pads
        ),
        BiasGradient("db", dy, "db", pixels),
    ]
    shapes = {"x": (*plane, inputs), "dy": (*out, outputs)}
    shapes |= {"dw": (window.kernel[0] * window.kernel[1], inputs, outputs), "db": (1, 1, outputs)}
    if gate:
        shapes |= {"y": (*out, outputs), "gated": (*out, outputs)}
        ops.insert(0, Gate("gate", "dy", "y", "gated", 0, parse_format(fmt).max_fixed))
    if not fold:
        shapes["again"] = shapes["x"]
        ops.append(Gate("again", "x", "x", "again", 0, 5))
    return network(fmt, ops, shapes, [*(["gated"] if gate else []), "dw", "db", *([] if fold else ["again"])])


def random_inputs(graph, samples, seed=0):
    rng = np.random.default_rng(seed)
    fmt = next(iter(graph.tensors.values())).quant.format
    return {
        p.name: np.clip(rng.normal(0, fmt.max / 2, (samples, *p.shape)), fmt.min, fmt.max)
        for p in graph.inputs
    }


def check(graph, config, samples=2, batch=1, rtl=False, inputs=None):
    """Sums are of all samples of a run."""
    inputs = inputs or random_inputs(graph, samples)
    summed = {op.output for op in graph.ops if isinstance(op, WeightGradient | BiasGradient)}
    return check_graph(graph, config, inputs, batch=batch, rtl=rtl, summed=summed)


@pytest.mark.parametrize("case", CASES)
def test_windows(case):
    check(gradients(window=CASES[case]), TINY)


@pytest.mark.parametrize("case", ["3x3", "stride 2"])
def test_batches(case):
    check(gradients(window=CASES[case], gate=True), TINY, samples=6, batch=3)


@pytest.mark.parametrize("name", OTHERS)
def test_other_machines(name):
    config = OTHERS[name]
    graph = gradients(config.activation_format, inputs=19, outputs=21, gate=True)
    program = check(graph, config, samples=4, batch=2)
    pieces = any(i.opcode == Opcode.OUTER and i.accumulate for i in program.instructions)
    assert pieces == (name in ("short weights", "through memory"))


@pytest.mark.parametrize("case", ["3x3", "stride 2", "odd"])
@pytest.mark.parametrize("inputs", [1, 3, 5])
def test_taps_of_the_first_layer_fold(case, inputs):
    """Few channels: the host brings taps as channels, and the gradient lies as it did."""
    graph = gradients(window=CASES[case], inputs=inputs, fold=True)
    program = check(graph, TINY, samples=4, batch=2)
    assert program.graph.tensors["dw"].shape[0] < graph.tensors["dw"].shape[0]


def test_acc_bits_are_those_of_a_batch():
    graph = gradients()
    assert [accumulator_bits(graph, n) for n in (1, 2, 32)] == [20, 21, 25]


POOLS = {
    "2x2": Window((2, 2), (2, 2)),
    "3x3 stride 2": Window((3, 3), (2, 2), pads=(1, 1, 1, 1)),
    "dilated": Window((2, 2), (1, 2), (2, 1), (0, 1, 1, 0)),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", ["tiny", "e4m3", "through memory"])
def test_gates_of_pools(pool, name):
    """Of few values, so that elements tie; every tap of the window."""
    config, window = {"tiny": TINY, **OTHERS}[name], POOLS[pool]
    plane, channels = (6, 5), 9
    out = (*window.plane(*plane), channels)
    taps = [(y, x) for y in range(window.kernel[0]) for x in range(window.kernel[1])]
    ops = [
        PoolGate(f"g{n}", "dy", "x", "y", f"g{n}", tap, window.stride, window.dilation, window.pads)
        for n, tap in enumerate(taps)
    ]
    shapes = {"x": (*plane, channels), "y": out, "dy": out} | {op.output: out for op in ops}
    graph = network(config.activation_format, ops, shapes, [op.output for op in ops])
    inputs = {t: np.clip(v.round() % 3, 0, 2) for t, v in random_inputs(graph, 4).items()}
    check(graph, config, samples=4, batch=2, inputs=inputs)


def test_bounds_of_a_gate():
    """Codes for bounds that are no values of the format, and none where nothing is beyond."""
    fmt = parse_format("e2m1")
    for low in range(-14, 14):
        for high in range(low + 1, 14):
            f, value = bounds(fmt, low, high), fmt.fixed(fmt.codes)
            kept = np.ones(16, bool)
            if f["above"]:
                kept &= value > fmt.fixed(f["low"])
            if f["below"]:
                kept &= value < fmt.fixed(f["high"])
            assert (kept == (value > low) & (value < high)).all()


@pytest.mark.rtl
def test_in_rtl():
    """A gate, both gradients over a batch, and all taps of a pool, on one machine."""
    check(gradients(window=CASES["stride 2"], gate=True), TINY, samples=4, batch=2, rtl=True)
    check(gradients(window=CASES["odd"], inputs=17, outputs=5), TINY, rtl=True)
    out = (3, 3, 5)
    gate = PoolGate("g", "dy", "x", "y", "g", (1, 1), (2, 2), (1, 1), (1, 1, 1, 1))
    check(network("int8", [gate], {"x": (6, 5, 5), "y": out, "dy": out, "g": out}, ["g"]), TINY, rtl=True)


@pytest.mark.rtl
def test_a_machine_that_counts_no_further():
    graph = gradients(window=CASES["stride 2"], gate=True)
    config = specialise(TINY.replace(narrow=True, specialize=True), graph, accumulator_bits(graph, 2))
    program = check(graph, config, samples=4, batch=2, rtl=True)
    assert program.config.kernel_bits < TINY.kernel_bits and program.config.acc_bits == 19


def test_the_machine_is_made_for_it():
    graph = gradients(gate=True)
    config = TINY.replace(outer_products=False, gates=False)
    made = specialise(config.replace(specialize=True), graph, 24)
    assert made.outer_products and made.gates
    with pytest.raises(ConfigError, match="outer_products = false, and WeightGradient 'dw'"):
        specialise(config, graph, 24)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(acc_bits=20), r"sums over 60 pixels take 21 bits, and acc_bits = 20"),
        (
            dict(weight_depth=128),
            "two rows of its gradients take 192 words of the weight buffer, which has 128",
        ),
        (dict(rows=4, group=16), "64 sums leave the array together, and acc_depth = 32"),
    ],
)
def test_machines_that_are_too_small(changes, reason):
    config = TINY.replace(acc_depth=32).replace(**changes)
    with pytest.raises(ConfigError, match=reason):
        generate(gradients(inputs=70, outputs=30), config, batch=2)
