"""Biases of files with weights of few bits, as batch normalization leaves them: finer than a step of the sum."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from onnx_nets import runtime, samples
from test_import_quantized import Brevitas, Qdq, in_qonnx

from sateen.compiler.export.model import export_onnx
from sateen.compiler.importer import import_model
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.quantize.given import activation_format, conform, weight_format
from sateen.compiler.quantize.given_weights import room_for_biases
from sateen.compiler.quantize.network import quantize
from sateen.formats import parse_format
from sateen.ir.serialize import from_bytes, to_bytes
from sateen.sim.reference import run_reference


def mlp(seed, bits=3, sizes=(40, 32, 32, 12)):
    """Weights and activations of a few bits, scales that are no powers of two: as QONNX's MLP for keywords."""
    net = Brevitas(seed=seed)
    x = net.quant(net.input(8, sizes[0]), 0.0173, 8)
    for i, (rows, columns) in enumerate(pairwise(sizes)):
        weight = net.quant(net.random(columns, rows, scale=0.2), 0.11 + 0.02 * i, bits, narrow=1)
        x = net("MatMul", x, net("Transpose", weight, perm=[1, 0]))
        if i < len(sizes) - 2:
            x = net.quant(net("Relu", net.batch_norm(x, columns)), 0.21, bits, signed=0)
    x = net("Add", net("Mul", x, net.constant(0.0437, np.float32)), net.random(sizes[-1]))
    return net.output(x).model()


def quantized(model, weights=None):
    graph = import_model(model)
    fmt = activation_format(graph)
    weights = weights or room_for_biases(fuse(graph), weight_format(graph))
    return quantize(conform(graph, fmt), None, weight_format=weights, activation_format=fmt)


@pytest.mark.parametrize("bits, wide", [(2, "int7"), (3, "int8"), (5, "int8")])
def test_a_network_of_few_bits_is_that_of_qonnx(bits, wide, monkeypatch, caplog):
    model = mlp(bits, bits)
    feeds = samples(model)
    (want,) = in_qonnx(model, feeds, monkeypatch).values()
    qgraph = quantized(model)
    assert qgraph.metadata["weight_format"] == wide
    assert f"weights are {wide}: at the file's int{bits}n the bias of Conv" in caplog.text
    (got,) = run_reference(qgraph, feeds).values()
    np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max())
    (again,) = run_reference(from_bytes(to_bytes(qgraph)), feeds).values()
    assert (again == got).all()
    (exported,) = in_qonnx(export_onnx(qgraph, 8), feeds, monkeypatch).values()
    np.testing.assert_allclose(exported, want, atol=1e-6 * np.abs(want).max())


def test_the_file_s_own_bits_on_demand(caplog):
    model = mlp(3)
    assert quantized(model, parse_format("int3n")).metadata["weight_format"] == "int3n"
    assert "biases become whole steps of the sum" in caplog.text


def test_biases_that_are_whole_steps_need_no_room():
    net = Brevitas()
    x = net.quant(net.input(1, 8), 2**-3, 4)
    weight = net.quant(net.random(8, 4), 2**-2, 3)
    y = net.quant(net("Add", net("MatMul", x, weight), net.constant(np.arange(4) / 32, np.float32)), 0.25, 4)
    graph = import_model(net.output(y).model())
    assert room_for_biases(fuse(graph), weight_format(graph)).name == "int3"


def test_what_a_bias_loses_is_added_to_outputs_that_the_host_reads():
    net = Qdq(opset=21)
    x = net.qdq(net.input(1, 3, 6, 6), 2**-5)
    weight = net.constant(net.rng.integers(-127, 128, (4, 3, 3, 3)), np.int8)
    weight = net("DequantizeLinear", weight, net.constant(2**-3, np.float32))
    model = net.output(net("Conv", x, weight, net.random(4, scale=0.01))).model()
    feeds = samples(model)
    (want,) = runtime(model, feeds).values()
    qgraph = quantized(model)
    (got,) = run_reference(qgraph, feeds).values()
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    (exported,) = runtime(export_onnx(qgraph), feeds).values()
    np.testing.assert_allclose(exported, want, rtol=1e-6, atol=1e-6)


def test_an_input_that_the_file_does_not_round_is_not_given_the_few_bits_of_the_rest(monkeypatch):
    net = Brevitas(seed=2)
    weight = net.quant(net.random(16, 8), 0.25, 2, narrow=1)
    y = net("Add", net("MatMul", net.input(8, 16), weight), net.random(8))
    model = net.output(net.quant(net("Relu", y), 1.0, 2, signed=0)).model()
    feeds = samples(model)
    want = in_qonnx(model, feeds, monkeypatch)
    graph = import_model(model)
    graph = conform(graph, parse_format("uint2"))
    qgraph = quantize(graph, calibrate(graph, feeds), weight_format="int8", activation_format="uint2")
    assert qgraph.metadata["input_terms"] == {"x": 4}
    got = run_reference(qgraph, feeds)
    steps = np.abs(got[model.graph.output[0].name] - want[model.graph.output[0].name])
    assert np.count_nonzero(steps) <= 0.05 * steps.size


def test_a_channel_that_batch_normalization_has_turned_off(monkeypatch):
    """Its factor of 1e-50 makes its bias 1e50 steps of the sum: it is a constant."""
    net = Brevitas(seed=1)
    x = net.quant(net.input(4, 20), 0.0173, 8)
    x = net(
        "MatMul", x, net("Transpose", net.quant(net.random(6, 20, scale=0.2), 0.01, 8, narrow=1), perm=[1, 0])
    )
    scale = net.rng.uniform(0.5, 1.5, 6)
    scale[2] = 1e-38
    constants = [
        net.constant(v, np.float32) for v in (scale, net.rng.normal(0, 1, 6), np.zeros(6), np.ones(6))
    ]
    y = net.quant(net("Relu", net("BatchNormalization", x, *constants)), 0.02, 8, signed=0)
    model = net.output(y).model()
    feeds = samples(model)
    (want,) = in_qonnx(model, feeds, monkeypatch).values()
    qgraph = quantized(model)
    assert max(abs(int(b)) for op in qgraph.ops for b in op.bias) < 1 << 24
    (got,) = run_reference(qgraph, feeds).values()
    assert np.abs(got - want).max() <= 0.0201
    assert np.ptp(got[:, 2]) == 0
