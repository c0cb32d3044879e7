"""Softmax inside and normalization by statistics of the sample, as operators and decomposed, beside ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_nets import Net, compare, kinds, samples

from sateen.compiler.float_executor import float_outputs, run_float
from sateen.compiler.importer import check_model, import_model
from sateen.ir.nodes import Normalize, Softmax


def tokens(net: Net, channels: int = 6) -> str:
    """(N, 5, channels), computed."""
    return net("MatMul", net.input("N", 5, 4), net.random(4, channels))


def image(net: Net, channels: int = 8) -> str:
    return net.conv(net.input("N", 3, 4, 6), 3, channels, 1, 1)


def mean(net: Net, x: str, *axes: int, operator: str = "ReduceMean") -> str:
    if net.opset < 18:
        return net(operator, x, axes=list(axes), keepdims=1)
    return net(operator, x, net.constant(axes, np.int64), keepdims=1)


def number(net: Net, value: float) -> str:
    return net.constant(value, np.float32)


def after(net: Net, y: str, channels: int) -> Net:
    return net.output(net("MatMul", y, net.random(channels, 3)))


def only(graph, kind):
    (node,) = [n for n in graph.nodes if isinstance(n, kind)]
    return node


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("axis", [2, 1])
def test_softmax(opset, axis):
    """Over the channels, or over the pixels, which become channels; opset 9 is over all that follow."""
    net = Net(opset)
    x = tokens(net)
    if axis == 1 and opset == 9:
        x = net("Reshape", x, net.constant([-1, 30], np.int64))
        graph = compare(after(net, net("Softmax", x, axis=1), 30))
    else:
        graph = compare(after(net, net("Softmax", x, axis=axis), 6))
    assert len([n for n in graph.nodes if isinstance(n, Softmax)]) == 1


def test_a_logarithm_of_softmax_that_something_follows():
    net = Net(17)
    graph = compare(after(net, net("LogSoftmax", tokens(net), axis=-1), 6))
    assert {"Softmax", "Activation"} <= set(kinds(graph))


def test_softmax_of_heads():
    """Scores (N, heads, queries, keys)."""
    net = Net(17)
    x = net("MatMul", net.input("N", 2, 4, 3), net.random(3, 5))
    compare(net.output(net("Relu", net("Softmax", x, axis=-1))))


def test_the_last_softmax_stays_on_the_host():
    net = Net(17)
    graph = compare(net.output(net("Softmax", tokens(net), axis=-1)))
    assert "Softmax" not in kinds(graph) and graph.outputs[0].host


@pytest.mark.parametrize("others", [(), ("MatMul", "MatMul"), ("Relu",)])
def test_layer_normalization(others):
    """Its factors go into the convolutions that read it, or stay where something else does, too."""
    net = Net(17)
    y = net("LayerNormalization", tokens(net), net.random(6), net.random(6), axis=-1, epsilon=1e-3)
    readers = ("MatMul", *others)
    outputs = [net(op, y, *([net.random(6, 3)] if op == "MatMul" else [])) for op in readers]
    graph = compare(net.output(*outputs))
    node = only(graph, Normalize)
    assert bool((node.scale == 1).all()) == ("Relu" not in others)
    assert len(graph.nodes) == 2 + len(readers)
    assert node.centred and not node.plane and node.epsilon == pytest.approx(1e-3)


@pytest.mark.parametrize("shape", [(8, 4, 6), (4, 6), (6,)])
def test_over_several_dimensions(shape):
    """Whole planes, each plane, and a row's pixels, which become channels; factors differ from pixel to pixel."""
    net = Net(17)
    scale = net.random(*shape) if len(shape) == 1 else net.constant(np.full(shape, 1.5, np.float32))
    y = net("LayerNormalization", image(net), scale, axis=-len(shape))
    compare(net.output(net.conv(net("Relu", y), 8, 3, 1, 1)))


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_group_normalization(groups):
    net = Net(21)
    y = net("GroupNormalization", image(net), net.random(8), net.random(8), num_groups=groups)
    node = only(compare(net.output(net.conv(net("Relu", y), 8, 3, 1, 1))), Normalize)
    assert node.plane and node.groups == groups


def test_group_normalization_as_torch_writes_it():
    net = Net(17)
    y = net("Reshape", image(net), net.constant([0, 2, -1], np.int64))
    y = net(
        "InstanceNormalization",
        y,
        net.constant(np.ones(2, np.float32)),
        net.constant(np.zeros(2, np.float32)),
    )
    y = net("Reshape", y, net.constant([0, 8, 4, 6], np.int64))
    y = net("Add", net("Mul", y, net.random(8, 1, 1)), net.random(8, 1, 1))
    node = only(compare(net.output(net("Relu", y))), Normalize)
    assert node.groups == 2 and (node.scale != 1).any()


def test_instance_and_lp_normalization():
    net = Net(17)
    y = net("InstanceNormalization", image(net), net.random(8), net.random(8))
    y = net("LpNormalization", net("Relu", y), axis=1, p=2)
    graph = compare(net.output(net.conv(y, 8, 3, 1, 1)))
    assert [(n.plane, n.centred, n.averaged) for n in graph.nodes if isinstance(n, Normalize)] == [
        (True, True, True),
        (False, False, False),
    ]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("square", ["pow", "mul", "twice"])
@pytest.mark.parametrize("root", ["div", "reciprocal", "one over", "power"])
def test_decomposed_layer_normalization(square, root, opset):
    net = Net(opset)
    x = tokens(net)
    d = net("Sub", x, mean(net, x, -1))
    other = net("Sub", x, mean(net, x, -1)) if square == "twice" else d
    s = net("Pow", other, number(net, 2)) if square == "pow" else net("Mul", other, d)
    v = net("Add", mean(net, s, -1), number(net, 1e-3))
    y = {
        "div": lambda: net("Div", d, net("Sqrt", v)),
        "reciprocal": lambda: net("Mul", d, net("Reciprocal", net("Sqrt", v))),
        "one over": lambda: net("Mul", net("Div", number(net, 1), net("Sqrt", v)), d),
        "power": lambda: net("Mul", net("Pow", v, number(net, -0.5)), d),
    }[root]()
    y = net("Add", net("Mul", y, net.random(6)), net.random(6))
    net = net.output(net("MatMul", y, net.random(6, 3)), net("Relu", y))
    node = only(compare(net), Normalize)
    assert node.centred and node.epsilon == pytest.approx(1e-3) and (node.scale != 1).any()
    assert all(f.supported for f in check_model(net.model()))


def test_decomposed_rms_normalization():
    net = Net(17)
    x = tokens(net)
    v = net("Add", mean(net, net("Pow", x, number(net, 2)), -1), number(net, 1e-5))
    y = net("Mul", net.random(6), net("Mul", x, net("Reciprocal", net("Sqrt", v))))
    node = only(compare(after(net, y, 6)), Normalize)
    assert not node.centred and node.averaged


def test_channels_first():
    """As ConvNeXt has it."""
    net = Net(17)
    x = image(net)
    d = net("Sub", x, mean(net, x, 1))
    y = net("Div", d, net("Sqrt", net("Add", mean(net, net("Mul", d, d), 1), number(net, 1e-6))))
    y = net("Add", net("Mul", net.random(8, 1, 1), y), net.random(8, 1, 1))
    assert not only(compare(net.output(net.conv(y, 8, 3, 1, 1))), Normalize).plane


def test_divided_by_the_norm():
    net = Net(17)
    x = tokens(net)
    norm = net("Clip", net("ReduceL2", x, axes=[-1], keepdims=1), number(net, 1e-12))
    node = only(compare(after(net, net("Div", x, norm), 6)), Normalize)
    assert not node.centred and not node.averaged


def test_what_only_looks_like_one_is_left():
    """The mean of another tensor, other axes, a sum that is used."""
    net = Net(17)
    x = tokens(net)
    d = net("Sub", x, mean(net, x, 1))
    v = net("Add", mean(net, net("Mul", d, d), -1), number(net, 1e-3))
    y = net("Div", d, net("Sqrt", v))
    node = only(compare(after(net, y, 6)), Normalize)
    assert not node.centred  # of d, whose mean along the other axis is not 0


@pytest.mark.parametrize("axes", [(0, 2, 3), (1,), (1, 2, 3)])
def test_mean_variance_normalization(axes):
    """Over the batch, too, where the file has one sample."""
    net = Net(13)
    x = net.conv(net.input(1, 3, 4, 6), 3, 8, 1, 1)
    given = {} if axes == (0, 2, 3) else {"axes": axes}
    y = net("MeanVarianceNormalization", x, **given)
    node = only(compare(net.output(net.conv(y, 8, 3, 1, 1))), Normalize)
    assert (node.plane, node.groups) == ((False, 1) if axes == (1,) else (True, 8 if axes[0] == 0 else 1))


@pytest.mark.parametrize("size", [1, 3, 5, 21])
def test_local_response(size):
    net = Net(13)
    y = net("LRN", image(net), size=size, alpha=0.3, beta=0.6, bias=1.5)
    assert kinds(compare(net.output(net("Relu", y)))).count("Mul") == 1


@pytest.mark.parametrize("size", [2, 4])
def test_local_response_of_an_even_size(size):
    """Which ONNX Runtime refuses; by ONNX's formula one channel more above than below."""
    net = Net(13)
    model = net.output(net("LRN", net.input("N", 8, 3, 4), size=size, alpha=0.3)).model()
    x = samples(model)["x"]
    near = [x[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1] for c in range(8)]
    total = np.stack([(n**2).sum(axis=1) for n in near], axis=1)
    want = x / (1 + 0.3 / size * total) ** 0.75
    graph = import_model(model)
    (got,) = float_outputs(graph, run_float(graph, {"x": x})).values()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("others", ["", "offset", "offset bias", "bias"])
def test_normalized_sum_of_onnx_runtime(others):
    """The sum is an output, too, as the next layer's residual branch reads it."""
    net = Net(17)
    x = tokens(net)
    given = [net.random(6) if name in others else "" for name in ("offset", "bias")]
    y = net(
        "SkipLayerNormalization", x, net("Relu", x), net.random(6), *given, outputs=4, epsilon=1e-3,
        domain="com.microsoft",
    )  # fmt: skip
    net.nodes[-1].output[1] = net.nodes[-1].output[2] = ""
    node = only(compare(after(net, net("Add", y, f"{y}_3"), 6)), Normalize)
    assert node.centred and node.epsilon == pytest.approx(1e-3)


@pytest.mark.parametrize("bias", [False, True])
def test_simplified_normalization_of_onnx_runtime(bias):
    """RMSNormalization by another name, and of a sum."""
    net = Net(17)
    x = net("SimplifiedLayerNormalization", tokens(net), net.random(6), axis=-1, epsilon=1e-3)
    given = [net.random(6)] if bias else []
    y = net(
        "SkipSimplifiedLayerNormalization", x, net("Relu", x), net.random(6), *given,
        domain="com.microsoft",
    )  # fmt: skip
    nodes = [n for n in compare(after(net, y, 6)).nodes if isinstance(n, Normalize)]
    assert [n.centred for n in nodes] == [False, False]


@pytest.mark.parametrize("operator", ["Gelu", "BiasGelu", "FastGelu", "QuickGelu"])
def test_gelu_of_onnx_runtime(operator):
    net = Net(17)
    bias = [net.random(6)] if operator in ("BiasGelu", "FastGelu") else []
    y = net(operator, tokens(net), *bias, domain="com.microsoft")
    assert kinds(compare(after(net, y, 6))).count("Activation") == 1


BAD = {
    "neighbours": (lambda n: n("LRN", image(n), size=3, bias=-1.0), "size = 3, alpha = 0.0001, bias = -1"),
    "mean of the batch": (lambda n: n("MeanVarianceNormalization", image(n)), "over the batch"),
    "a skip's statistics": (
        lambda n: n(
            "SkipLayerNormalization", *[tokens(n)] * 2, n.random(6), outputs=2, domain="com.microsoft"
        ),
        "its statistics are outputs",
    ),
    "batch": (lambda n: n("LpNormalization", tokens(n), axis=0), "over the batch"),
    "statistics": (
        lambda n: n("Add", n("LayerNormalization", tokens(n), n.random(6), outputs=2), "layernormalization1_1"),
        "its statistics are used",
    ),
    "groups": (
        lambda n: n("GroupNormalization", image(n), n.random(8), n.random(8), num_groups=3), "num_groups = 3 of 8",
    ),
    "epsilon": (lambda n: n("LayerNormalization", tokens(n), n.random(6), epsilon=-1.0), "epsilon = -1 is negative"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    build, words = BAD[name]
    net = Net(21)
    net.output(net("Relu", build(net)))
    found = [f for f in check_model(net.model()) if f.supported is False]
    assert any(words in str(f) for f in found), found
    assert all("\n" not in str(f) for f in found)
