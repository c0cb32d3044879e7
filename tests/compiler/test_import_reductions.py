"""Reductions over a part of what lies along rows, columns or channels, against ONNX Runtime."""

import numpy as np
import pytest
from onnx_nets import Net, compare, kinds

from sateen.compiler.export.compare import compare_with_onnxruntime
from sateen.compiler.importer import import_model
from sateen.compiler.quantize import calibrate, quantize

PARTS = {  # a plane of 12 × 10 and 24 channels, seen with its dimensions cut
    "rows": (24, 3, 2, 2, 10),
    "columns": (24, 12, 5, 2),
    "channels": (4, 3, 2, 12, 10),
    "all": (4, 6, 3, 4, 2, 5),
}


def reduced(net: Net, x: str, kind: str, axes: list[int], keep: int) -> str:
    if kind == "ReduceSum":
        return net(kind, x, net.constant(axes, np.int64), keepdims=keep)
    return net(kind, x, axes=axes, keepdims=keep)


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum", "ReduceMax"])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize(
    ("part", "axes"),
    [(p, [a]) for p, shape in PARTS.items() for a in range(1, 1 + len(shape))]
    + [("rows", [2, 4]), ("rows", [3, 5]), ("channels", [1, 3]), ("all", [1, 4, 5]), ("all", [2, 3, 6])],
)
def test_a_part(kind, keep, part, axes):
    net = Net()
    y = net("Relu", net.conv(net.input(1, 3, 12, 10), 3, 24, 1, 1))
    y = net("Reshape", y, net.constant([1, *PARTS[part]], np.int64))
    compare(net.output(reduced(net, y, kind, axes, keep)))


@pytest.mark.parametrize(
    ("shape", "axis", "made"),
    [
        ((24, 3, 4, 10), 2, ["Conv", "Pool"]),
        ((24, 3, 4, 10), 3, ["Conv", "Pool"]),
        ((24, 12, 5, 2), 3, ["Conv", "Pool"]),
        ((4, 6, 12, 10), 1, ["Conv", "Conv"]),
        ((4, 6, 12, 10), 2, ["Conv", "Conv"]),
        ((24, 3, 2, 2, 10), 3, ["Arrange", "Conv", "Pool"]),
    ],
)
def test_what_it_is_made_of(shape, axis, made):
    """Neighbours and what lies equally far apart are windows; channels that lie apart are read by a convolution."""
    net = Net()
    y = net("Reshape", net.conv(net.input(1, 3, 12, 10), 3, 24, 1, 1), net.constant([1, *shape], np.int64))
    graph = compare(net.output(net("ReduceMean", y, axes=[axis], keepdims=0)))
    assert kinds(graph)[:-1] == made or kinds(graph) == made


def test_windows_that_lie_apart_are_exported():
    net = Net()
    y = net("Reshape", net.conv(net.input("N", 3, 6, 4), 3, 4, 1, 1), net.constant([0, 4, 2, 3, 4], np.int64))
    outputs = [net(kind, y, axes=[2], keepdims=0) for kind in ("ReduceMean", "ReduceMax")]
    graph = import_model(net.output(*outputs).model())
    x = {"x": np.random.default_rng(0).normal(0, 1, (8, 3, 6, 4))}
    quantized = quantize(
        graph, calibrate(graph, x), weight_format="int8", activation_format="int8", power_of_two=True
    )
    found = compare_with_onnxruntime(quantized, x)
    assert found["codes"] > 0 and found["differing"] == 0 and found["skipped"] == ""
