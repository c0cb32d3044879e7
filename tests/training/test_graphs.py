"""Whole steps on the machine: forward and backward graphs and updates give what the reference gives, bit for bit."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sateen.compiler.importer import read_model
from sateen.compiler.training import (
    Settings,
    Trainer,
    cycles,
    differences,
    fitting,
    initial,
    make_plan,
    record,
)
from sateen.models.network_builder import NetworkBuilder

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
from four_engines import machine

RATE = 0.05
MODELS = Path(__file__).parents[2] / "models"
OPTIONS = dict(
    computed_weights=True,
    computed_patterns=True,
    outer_products=True,
    gates=True,
    update=True,
    pruned_decay=True,
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


def check_steps(model, config, x, labels, *, steps=1, rate=RATE, rtl=False, **options):
    """From the file's weights, scales of the first step found in it. Cycles of the last."""
    name = config.activation_format
    settings = Settings(weights=name, activations=name, gradients=name, batch=len(x), **options)
    graph, _ = read_model(model)
    plan = make_plan(graph, settings)
    begin = initial(plan, settings)
    begin.scales[plan.input] = fitting(float(np.abs(x).max()), config.activation)
    trainer = Trainer(plan, settings, begin)
    for _ in range(steps):
        step = record(trainer, x, labels, rate, config)
        assert set(step.graphs.kept) <= {layer.output for layer in plan.layers} | {plan.input}
        assert differences(step, "program")["differences"] == {}
        if rtl:
            found = differences(step, "rtl")
            assert found == {"differences": {}, "cycles": cycles(step)["total"]}
    return cycles(step)


def some(count, shape, classes, seed=1):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    patterns = np.random.default_rng(0).normal(0, 1, (classes, *shape))
    return patterns[labels] + rng.normal(0, 0.3, (count, *shape)), labels


@pytest.mark.parametrize("name", MACHINES)
def test_steps(name):
    x, labels = some(4, (8, 8, 3), 3)
    check_steps(network(), MACHINES[name], x, labels, steps=2, sparsity="2:4")


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet"])
def test_a_step_of_the_digits_networks(name):
    """As the file has them, four samples."""
    x, labels = some(4, (8, 8, 1), 10)
    check_steps(MODELS / f"{name}.onnx", SMALL, x, labels, sparsity="2:8")


def test_logits_of_several_words():
    """Their gradient has its place on chip behind the ops that read it from memory."""
    b = NetworkBuilder(np.random.default_rng(0))
    x = b.relu("relu", b.conv("conv", b.input("input", 3, 2, 2), 8, 1))
    b.linear("logits", b.global_pool("average", x), 40)
    x, labels = some(4, (2, 2, 3), 40)
    check_steps(b.model("wide", "logits"), SMALL, x, labels, sparsity="2:4")


@pytest.mark.rtl
def test_a_step_in_rtl():
    """Forward, backward and update of the digits CNN, four samples: bits and cycles."""
    x, labels = some(4, (8, 8, 1), 10)
    check_steps(MODELS / "digits_cnn.onnx", SMALL, x, labels, rtl=True, sparsity="2:8")
