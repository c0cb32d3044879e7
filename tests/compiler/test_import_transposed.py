"""Channels and pixels that change places: as a product with an identity, beside ONNX Runtime, and code by code."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_nets import Net, compare, samples
from transposed_nets import NETS, channel_attention, mixer

from sateen.compiler.importer import import_model
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.network import quantize
from sateen.ir.nodes import Arrange, Concat, MatMul, Stored
from sateen.sim.reference import reference_codes


@pytest.mark.parametrize("name", NETS)
def test_a_product_with_an_identity(name):
    graph = compare(NETS[name]())
    stored = {n.output: n.values for n in graph.nodes if isinstance(n, Stored)}
    made = [n for n in graph.nodes if isinstance(n, MatMul) and n.input_a in stored]
    assert made
    for node in made:
        eyes = stored[node.input_a]
        assert (eyes == np.eye(eyes.shape[1])).all()
    assert len(graph.nodes) < 60


def test_few_moves_stay_moves():
    graph = compare(mixer(channels=24))
    assert not any(isinstance(n, MatMul) for n in graph.nodes)


def test_a_kernel_over_channels_moves_nothing():
    graph = compare(channel_attention(between=0))
    assert not any(isinstance(n, MatMul | Arrange | Concat) for n in graph.nodes)


@pytest.mark.parametrize(
    "attributes", [{"strides": [2]}, {"dilations": [3], "pads": [2, 0]}, {"pads": [0, 4]}]
)
def test_windows_over_channels(attributes):
    net = Net()
    pooled = net("GlobalAveragePool", net.conv(net.input("N", 3, 4, 4), 3, 10, 1, 1))
    y = net("Conv", net("Reshape", pooled, net.constant([0, 1, 10])), net.random(1, 1, 3), net.random(1),
            **attributes)  # fmt: skip
    graph = compare(net.output(net("Relu", y)))
    assert not any(isinstance(n, Arrange | Concat) for n in graph.nodes)


@pytest.mark.parametrize("name", ["int8", "int4", "e4m3", "e2m1"])
@pytest.mark.parametrize(
    ("method", "power_of_two"), [("mse", False), ("percentile", False), ("entropy", False), ("mse", True)]
)
def test_codes_stay_what_they_are(name, method, power_of_two):
    model = mixer().model()
    graph, given = import_model(model), samples(model, batch=8)
    qgraph = quantize(
        graph, calibrate(graph, given), weight_format=name, activation_format=name, scale_method=method,
        power_of_two=power_of_two,
    )  # fmt: skip
    codes = reference_codes(qgraph, given)
    product = next(n for n in graph.nodes if isinstance(n, MatMul))
    source, made = (codes[t] for t in (product.input_b, product.output))
    assert len(np.unique(source)) > 3
    np.testing.assert_array_equal(made, source.swapaxes(2, 3).reshape(made.shape))
