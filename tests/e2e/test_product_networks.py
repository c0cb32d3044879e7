"""Networks that multiply, divide and compare computed tensors, in all four engines, and exported."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from four_engines import check, machine
from test_moving_networks import Nodes

from sateen.compiler.export import compare_with_onnxruntime
from sateen.compiler.importer import import_model
from sateen.compiler.quantize import calibrate, quantize


def squeeze_and_excite() -> onnx.ModelProto:
    """A gate for each channel, of a depthwise convolution whose output the gate is made of; a gate that is added."""
    n = Nodes(1, 3, 6, 6)
    y = n("HardSwish", n.conv("x", 3, 6, 3))
    y = n(
        "Relu",
        n("Conv", y, n.constant(n.rng.normal(0, 0.3, (6, 1, 3, 3)), np.float32), pads=[1] * 4, group=6),
    )
    squeezed = n("Relu", n.conv(n("GlobalAveragePool", y), 6, 3))
    gated = n("Mul", y, n("HardSigmoid", n.conv(squeezed, 3, 6)))
    return n.model(n.conv(n("Add", n.conv(squeezed, 3, 6), gated), 6, 2))


def gates() -> onnx.ModelProto:
    """GLU of a Split, and by a convolution that the product takes up, with a function after it; one of a row, one of a
    column, both; one of all channels; a product of a product."""
    n = Nodes(1, 3, 6, 5)
    first = n.conv("x", 3, 8, 3)
    n.nodes.append(onnx.helper.make_node("Split", [first], ["left", "right"], "Split", axis=1, num_outputs=2))
    y = n("Mul", "left", n("Sigmoid", "right"))
    y = n("Tanh", n("Mul", n.conv("x", 3, 4), y))
    rows = n("Sigmoid", n("ReduceMean", y, n.constant([3]), keepdims=1))
    columns = n("Sigmoid", n("ReduceMean", y, n.constant([2]), keepdims=1))
    y = n("Mul", y, n("Mul", rows, columns))
    y = n("Mul", n("Sigmoid", n.conv(y, 4, 1)), y)
    return n.model(n("Mul", y, n("Sigmoid", n.conv("x", 3, 1))), y)


def extremes() -> onnx.ModelProto:
    """The larger and the smaller of tensors, one that broadcasts among them, with bounds for each channel; quotients,
    one by a sum over the channels."""
    n = Nodes(1, 3, 6, 5)
    a, b = n("Relu", n.conv("x", 3, 4)), n.conv("x", 3, 4, 3)
    y = n("Max", a, b, n("GlobalAveragePool", b), n.constant(n.rng.normal(0, 0.3, (4, 1, 1)), np.float32))
    y = n("Min", n("Div", y, n("Add", n("Exp", b), n.constant(0.5, np.float32))), a)
    e = n("Exp", n("Tanh", n.conv(y, 4, 4)))
    return n.model(n("Div", e, n("ReduceSum", e, n.constant([1]), keepdims=1)))


def constants() -> onnx.ModelProto:
    """Position embeddings, anchors and a grid that enlarges: tensors that are in memory from the start."""
    n = Nodes(1, 3, 6, 5)

    def numbers(*shape: int) -> str:
        return n.constant(n.rng.uniform(0.5, 1.5, shape), np.float32)

    y = n("Mul", n("Add", n.conv("x", 3, 4), numbers(4, 6, 5)), numbers(1, 4, 6, 5))
    z = n("Add", n("GlobalAveragePool", y), numbers(6, 1))
    return n.model(n.conv(n("Mul", y, z), 4, 3), n("Max", z, n("ReduceMean", y, n.constant([3]), keepdims=1)))


def neighbours() -> onnx.ModelProto:
    """Channels divided by a power of their neighbours' squares, as AlexNet has them."""
    n = Nodes(1, 3, 6, 5)
    y = n("LRN", n("Relu", n.conv("x", 3, 8)), size=5, alpha=0.5, beta=0.75)
    return n.model(n.conv(y, 8, 4))


NETWORKS = {
    "neighbours": neighbours,
    "squeeze": squeeze_and_excite,
    "gates": gates,
    "extremes": extremes,
    "constants": constants,
}


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("activations", "depth"), [("int8", 1024), ("int8", 64), ("e4m3", 1024)])
def test_products(network, activations, depth, tmp_path):
    """With the smaller buffer most tensors go through memory, in stripes."""
    model = NETWORKS[network]()
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    samples = np.random.default_rng(1).normal(0, 1, (8, *shape[1:])).astype(np.float32)
    config = machine("int8", activations, act_bank_depth=depth, product=True)
    check(model, samples, config, tmp_path)


@pytest.mark.parametrize("network", NETWORKS)
def test_exported(network):
    """The model in standard operators gives the reference's codes in ONNX Runtime, but for ties in float32."""
    model = NETWORKS[network]()
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    samples = {"x": np.random.default_rng(1).normal(0, 1, (8, *shape[1:])).astype(np.float32)}
    graph = import_model(model)
    qgraph = quantize(graph, calibrate(graph, samples), weight_format="int8", activation_format="int8")
    found = compare_with_onnxruntime(qgraph, samples)
    assert not found["skipped"] and found["codes"] > 1000
    assert found["max_steps"] <= 1 and found["differing"] <= found["codes"] // 1000
