"""What only carries numbers from one place to another multiplies nothing, and is exported as what it is."""

import numpy as np
import pytest
from onnx_nets import Net, samples

from sateen.compiler.export.compare import compare_with_onnxruntime
from sateen.compiler.importer import import_model
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.network import quantize


def identity(net, x):
    return net("Identity", x)


def pad(net, x):
    return net("Pad", x, net.constant([0, 0, 1, 2, 0, 0, 0, 1]))


def pad_of_channels(net, x):
    return net("Pad", x, net.constant([0, 1, 0, 0, 0, 2, 0, 0]))


def slice_of_channels(net, x):
    return net("Slice", x, *(net.constant([v]) for v in (1, 3, 1)))


def every_second_pixel(net, x):
    return net("MaxPool", x, kernel_shape=[1, 1], strides=[2, 2])


def average_of_one(net, x):
    return net("Relu", net("AveragePool", x, kernel_shape=[1, 1], strides=[2, 2]))


def with_offset(net, x):
    return net("Add", x, net.constant(np.float32([[[1]], [[2]], [[3]], [[4]]])))


@pytest.mark.parametrize("formats", [("int8", "int8"), ("int8", "uint8")])
@pytest.mark.parametrize(
    "build",
    [identity, pad, pad_of_channels, slice_of_channels, every_second_pixel, average_of_one, with_offset],
)
def test_no_multiplications(build, formats):
    net = Net()
    model = net.output(build(net, net.input(1, 4, 6, 6))).model()
    graph = import_model(model)
    rng = np.random.default_rng(0)
    x = {"x": rng.normal(0, 1, (16, 4, 6, 6)).astype(np.float32)}
    qgraph = quantize(graph, calibrate(graph, x), weight_format=formats[0], activation_format=formats[1])
    shapes = [qgraph.tensors[op.output].shape for op in qgraph.ops]
    found = [(op.dense_macs(s), op.needed_macs(s)) for op, s in zip(qgraph.ops, shapes, strict=True)]
    assert set(found) == {(0, 0)}
    result = compare_with_onnxruntime(qgraph, x)
    assert not result["skipped"] and result["end_to_end_max_steps"] <= 1


def test_a_scale_multiplies():
    net = Net()
    x = net.input(1, 4, 6, 6)
    model = net.output(net("Mul", x, net.constant(np.float32([[[1]], [[2]], [[3]], [[4]]])))).model()
    graph = import_model(model)
    qgraph = quantize(graph, calibrate(graph, samples(model)), weight_format="int8", activation_format="int8")
    assert sum(op.dense_macs(qgraph.tensors[op.output].shape) for op in qgraph.ops) == 4 * 36
