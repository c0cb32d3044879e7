"""Whole steps on the machine: forward and backward graphs and updates give what the reference gives, bit for bit."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sateen.compiler.importer import read_model
from sateen.compiler.quantize.bounds import accumulator_bits
from sateen.compiler.schedule.backend import generate
from sateen.compiler.schedule.update import Weights, generate_updates
from sateen.compiler.training.graphs import bias_gradient_name, step_graphs, weight_gradient_name
from sateen.compiler.training.plan import make_plan
from sateen.compiler.training.scales import fitting
from sateen.compiler.training.settings import Settings
from sateen.compiler.training.state import initial, weights_name
from sateen.compiler.training.step import Trainer, cross_entropy, update_rule
from sateen.hw.chip.verilog import emit_verilog
from sateen.machine.packing import unpack_integers
from sateen.sim import verilator
from sateen.sim.program import Interpreter

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
from four_engines import machine
from graph_engines import MEMORY, in_rtl, interpreted

RATE = 0.05
MODELS = Path(__file__).parents[2] / "models"
OPTIONS = dict(
    computed_weights=True,
    computed_patterns=True,
    outer_products=True,
    gates=True,
    update=True,
    act_bank_depth=1024,
)
SMALL = machine("int8", "int8", rows=2, cols=4, lanes=1, group=8, patterns=("dense", "2:4", "2:8"), **OPTIONS)
MACHINES = {
    "int8": SMALL,
    "e4m3": machine("e4m3", "e4m3", rows=4, cols=8, lanes=1, group=4, patterns=("dense", "2:4"), **OPTIONS),
}


def network() -> onnx.ModelProto:
    """4 × 4 × 3: Conv, Relu, MaxPool; a residual block; AveragePool, Gemm."""
    rng = np.random.default_rng(5)
    values = {
        "w1": rng.normal(0, 0.4, (12, 3, 3, 3)), "b1": rng.normal(0, 0.1, 12),
        "w2": rng.normal(0, 0.2, (12, 12, 3, 3)), "b2": rng.normal(0, 0.1, 12),
        "w3": rng.normal(0, 0.2, (20, 12, 3, 3)), "b3": rng.normal(0, 0.1, 20),
        "w4": rng.normal(0, 0.3, (3, 20)), "b4": np.zeros(3),
    }  # fmt: skip
    same = {"pads": [1] * 4, "kernel_shape": [3, 3]}
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", **same),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("MaxPool", ["r1"], ["p1"], "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2", "b2"], ["c2"], "conv2", **same),
        node("Add", ["c2", "p1"], ["a2"], "add2"),
        node("Relu", ["a2"], ["r2"], "relu2"),
        node("Conv", ["r2", "w3", "b3"], ["c3"], "conv3", strides=[2, 2], **same),
        node("Relu", ["c3"], ["r3"], "relu3"),
        node("AveragePool", ["r3"], ["v"], "average", kernel_shape=[2, 2]),
        node("Flatten", ["v"], ["f"], "flatten"),
        node("Gemm", ["f", "w4", "b4"], ["y"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def codes_of(values, fmt):
    return fmt.from_fixed(np.asarray(values).astype(np.int64))


def check_steps(model, config, x, labels, *, steps=1, rtl=False, **options):
    """Steps behind a first one on the reference, whose scales they take. Cycles of forward and backward passes."""
    name = config.activation_format
    settings = Settings(weights=name, activations=name, gradients=name, batch=len(x), **options)
    graph, _ = read_model(model)
    plan = make_plan(graph, settings)
    begin = initial(plan, settings)
    begin.scales[plan.input] = fitting(float(np.abs(x).max()), config.activation)
    trainer = Trainer(plan, settings, begin)
    trainer.step(x, labels, RATE)
    fmt, batch, cycles = config.activation, len(x), []

    def run(qgraph, codes):
        assert accumulator_bits(qgraph, batch) <= config.acc_bits
        program = generate(qgraph, config, batch=batch)
        cycles.append(program.predict(MEMORY).cycles)
        given = {p.name: codes[p.name] for p in qgraph.inputs}
        found = interpreted(qgraph, program, given, batch)
        if rtl:
            there, took = in_rtl(qgraph, program, given, batch)
            assert took == cycles[-1:]
            assert all((there[t] == v).all() for t, v in found.items())
        return found

    for _ in range(steps):
        state = trainer.state
        passes = trainer.passes()
        codes = {plan.input: codes_of(passes.of_input(x).data, fmt)}
        for layer in plan.trainable:
            weight = codes_of(trainer.codes[layer.name], fmt)
            codes[f"w {layer.name}"] = np.broadcast_to(weight, (batch, *weight.shape))
        graphs = step_graphs(plan, settings, state, config.acc_bits)
        forward = run(graphs.forward, codes)
        result = trainer.step(x, labels, RATE)
        for t, value in forward.items():
            want = result.tensors[t].data
            assert (value == (want if t == plan.logits else codes_of(want, fmt))).all(), t

        scale = graphs.forward.tensors[plan.logits].quant.scale
        _, gradient = cross_entropy((forward[plan.logits] * scale).reshape(batch, -1).astype(float), labels)
        start = passes.of_loss(gradient[:, None, None])
        codes |= forward | {f"d {plan.logits}": codes_of(start.data, fmt)}
        graphs = step_graphs(plan, settings, state, config.acc_bits, start.exponent - fmt.lsb_exponent)
        assert set(graphs.kept) <= set(forward) | {plan.input}
        backward = run(graphs.backward, codes)
        for layer in plan.trainable:
            want = result.gradients[layer.name]
            assert (backward[weight_gradient_name(layer)][0] == want.weight).all(), layer.name
            assert (backward[bias_gradient_name(layer)].ravel() == want.bias).all(), layer.name
        rules = [
            Weights(
                layer.name, layer.shape,
                update_rule(
                    settings, layer, RATE / batch, RATE, result.gradients[layer.name].exponent,
                    state.scales[weights_name(layer)],
                ),
            )
            for layer in plan.trainable
        ]  # fmt: skip
        if not config.update:
            continue
        cycles.append(_updated(generate_updates(rules, config), state, trainer.state, backward, rtl))
    return cycles


def _updated(program, old, new, backward, rtl):
    """Runs the updates with the sums that the backward graph gave; the cycles."""
    data = np.zeros(program.data_size, np.uint8)
    for k, layer in enumerate(program.layers):
        before, sums = old.layers[layer.name], backward[f"dw {layer.name}"][0]
        for at, held in program.pack(k, before.master, before.velocity, sums).items():
            data[at - program.data_offset :][: len(held)] = np.frombuffer(held, np.uint8)
    cycles = program.predict(MEMORY).cycles
    if rtl:
        found = verilator.simulate(
            verilator.build(emit_verilog(program.config)), program.code.ljust(program.data_offset, b"\0"),
            inputs=[(program.data_offset, data[None])], outputs=[(program.data_offset, program.data_size)], batch=1,
            memory=MEMORY, memory_bytes=program.data_offset + program.data_size, program=0,
        )  # fmt: skip
        assert [(r.done, r.error, r.cycles) for r in found.samples] == [(True, 0, cycles)]
        data = found.outputs[0][0].copy()
    else:
        Interpreter(program.config, b"", program.code, 0, data[None], program.data_offset).run()
    for layer, place in zip(program.layers, program.places, strict=True):
        size = place.codes.size * 32 // program.config.activation.bits
        after = new.layers[layer.name]
        for wanted, at in ((after.master, place.master), (after.velocity, place.velocity)):
            at -= program.data_offset
            found = unpack_integers(data[None, at : at + size], layer.shape, program.config)[0]
            assert (found == wanted).all(), layer.name
    return cycles


def some(count, shape, classes, seed=1):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    patterns = np.random.default_rng(0).normal(0, 1, (classes, *shape))
    return patterns[labels] + rng.normal(0, 0.3, (count, *shape)), labels


@pytest.mark.parametrize("name", MACHINES)
def test_steps(name):
    x, labels = some(4, (8, 8, 3), 3)
    check_steps(network(), MACHINES[name], x, labels, steps=2, sparsity="2:4", pruned_decay=0.0)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet"])
def test_a_step_of_the_digits_networks(name):
    """As the file has them, four samples."""
    x, labels = some(4, (8, 8, 1), 10)
    check_steps(MODELS / f"{name}.onnx", SMALL, x, labels, sparsity="2:8", pruned_decay=0.0)


@pytest.mark.rtl
def test_a_step_in_rtl():
    """Forward, backward and update of the digits CNN, four samples: bits and cycles."""
    x, labels = some(4, (8, 8, 1), 10)
    cycles = check_steps(
        MODELS / "digits_cnn.onnx", SMALL, x, labels, rtl=True, sparsity="2:8", pruned_decay=0.0
    )
    assert len(cycles) == 3
