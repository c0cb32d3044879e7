"""Layouts of graph inputs: random graphs against ONNX Runtime, constants that raise the rank, planes of width 1."""

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx_nets import Net, compare

from sateen.compiler.importer import check_model, import_model
from sateen.errors import ModelError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from layout_graphs import layout_graph, verdict


@pytest.mark.parametrize("block", range(6))
def test_random_layouts(block):
    """Equal to ONNX Runtime, or refused with the node's name, by import and by check alike."""
    found = {s: verdict(layout_graph(np.random.default_rng(s))) for s in range(20 * block, 20 * block + 20)}
    assert {s: said for s, said in found.items() if said not in ("equal", "refused")} == {}
    assert "equal" in found.values()


# -- graphs that crashed or came out in another shape -------------------------------------------------------------


def rows_then_batch_normalization(net: Net) -> str:
    x = net("Reshape", net.input(1, 16, 8), net.constant([-1, 8], np.int64))
    x = net("BatchNormalization", x, *(net.random(8, low=0.5) for _ in range(4)))
    return net("Reshape", net("Gemm", x, net.random(8, 4)), net.constant([1, 16, 4], np.int64))


def rows_of_several_samples(net: Net) -> str:
    x = net("Reshape", net.input(3, 5, 8), net.constant([15, 8], np.int64))
    return net("Reshape", net("Gemm", x, net.random(8, 4)), net.constant([3, 5, 4], np.int64))


def time_major_scale(net: Net) -> str:
    x = net("Mul", net("Transpose", net.input(1, 4, 2), perm=[2, 0, 1]), net.random(1, 1, 4))
    return net("Transpose", x, perm=[1, 2, 0])


def groups_then_mean(net: Net) -> str:
    x = net("Reshape", net.input(1, 8, 6, 6), net.constant([1, 2, 4, 6, 6], np.int64))
    return net("ReduceMean", x, axes=[2, 3, 4])


@pytest.mark.parametrize(
    "build", [rows_then_batch_normalization, rows_of_several_samples, time_major_scale, groups_then_mean]
)
def test_an_input_seen_in_other_dimensions(build):
    net = Net()
    compare(net.output(build(net)))


def test_squeeze_without_axes_takes_a_batch_of_1_away():
    net = Net()
    compare(net.output(net("Squeeze", net.conv(net.input(1, 3, 4, 4), 3, 2, 4, 4))))
    net = Net()
    compare(net.output(net("Squeeze", net.conv(net.input("N", 3, 4, 4), 3, 2, 4, 4))))


# -- constants of higher rank ----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Sum"])
@pytest.mark.parametrize("first", [False, True])
def test_a_constant_raises_the_rank(op, first):
    """A later axis then means another dimension."""
    if first and op in ("PRelu", "Pow", "Div"):
        pytest.skip("another function, or none")
    net = Net(13)
    x = net("Sigmoid", net.conv(net.input(1, 3, 6, 6), 3, 4, 3, 3))
    one = op in ("Max", "Min", "Pow")
    k = net.random(*((1,) * 6 if one else (1, 1, 1, 4, 1, 1)), low=0.5)
    y = net(op, *((k, x) if first else (x, k)))
    compare(net.output(y, *([net("ReduceMean", y, axes=[4], keepdims=0)] if op != "PRelu" else [])))


def test_where_and_matmul_raise_the_rank():
    net = Net(13)
    x = net.conv(net.input(1, 3, 6, 6), 3, 4, 3, 3)
    compare(net.output(net("Where", net("Greater", x, net.random(1)), x, net.random(1, 1, 1, 1, 1))))
    net = Net(13)
    x = net.input(1, 3, 6)
    compare(net.output(net("MatMul", x, net.random(1, 1, 6, 4)), net("Add", x, net.random(1, 1, 1, 6))))


def test_a_batch_that_is_no_longer_first_is_refused():
    net = Net(13)
    net.output(net("Add", net.conv(net.input(2, 3, 6, 6), 3, 4, 3, 3), net.random(1, 1, 4, 1, 1)))
    with pytest.raises(ModelError, match="does not have the batch"):
        import_model(net.model())


# -- planes of width 1 -----------------------------------------------------------------------------------------


def beside_a_convolution(net: Net, h: int, w: int) -> str:
    a, b = net.input("N", 3, h, w, name="a"), net.input("N", 2, h, w, name="b")
    return net("Concat", a, net.conv(b, 2, 2, 3, 3, pads=[1, 1, 1, 1]), axis=1)


def normalized_beside_a_convolution(net: Net, h: int, w: int) -> str:
    a, b = net.input("N", 3, h, w, name="a"), net.input("N", 2, h, w, name="b")
    a = net("BatchNormalization", a, *(net.random(3, low=0.5) for _ in range(4)))
    return net("Concat", a, net.conv(b, 2, 2, 3, 3, pads=[1, 1, 1, 1]), axis=1)


def sequence_beside_a_plane(net: Net, h: int, w: int) -> str:
    a, b = net.input("N", 3, h * w, name="a"), net.input("N", 2, h, w, name="b")
    a = net("Unsqueeze", net.conv(a, 3, 3, 1), net.constant([3 if w == 1 else 2], np.int64))
    return net("Concat", a, net.conv(b, 2, 2, 3, 3, pads=[1, 1, 1, 1]), axis=1)


def three_inputs(net: Net, h: int, w: int) -> str:
    a, b, c = (net.input("N", 2, h, w, name=n) for n in "abc")
    y = net("Concat", a, net("Add", b, c), axis=1)
    return net("Concat", net("MaxPool", y, kernel_shape=[1, 1]), net("Mul", c, net.random(2, 1, 1)), axis=1)


def channels_last(net: Net, h: int, w: int) -> str:
    a, b = net.input("N", h, w, 3, name="a"), net.input("N", h, w, 2, name="b")
    b = net("Transpose", net.conv(net("Transpose", b, perm=[0, 3, 1, 2]), 2, 2, 1, 1), perm=[0, 2, 3, 1])
    return net("Concat", a, b, axis=3)


@pytest.mark.parametrize("size", [(6, 1), (1, 6), (6, 2), (1, 1)])
@pytest.mark.parametrize(
    "build",
    [
        beside_a_convolution,
        normalized_beside_a_convolution,
        sequence_beside_a_plane,
        three_inputs,
        channels_last,
    ],
)
def test_planes_of_width_1(build, size):
    if build is sequence_beside_a_plane and 1 not in size:
        pytest.skip("a sequence is one row")
    net = Net()
    net.output(build(net, *size))
    compare(net)
    assert all(f.supported for f in check_model(net.model()))


def turned(net: Net, x: str, how: str) -> str:
    """The tensor (1, 6, 6, 6) in another order of its elements."""
    match how:
        case "shuffled":
            y = net("Reshape", x, net.constant([1, 2, 3, 6, 6], np.int64))
            y = net("Transpose", y, perm=[0, 2, 1, 3, 4])
        case "channels split":  # twice: 3 of 2 of 6
            y = net("Transpose", net("Reshape", x, net.constant([1, 3, 2, 36], np.int64)), perm=[0, 2, 1, 3])
        case _:
            return net(
                "Transpose",
                x,
                perm={"rows and columns": [0, 1, 3, 2], "rows and channels": [0, 2, 1, 3]}[how],
            )
    return net("Reshape", y, net.constant([1, 6, 6, 6], np.int64))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("how", ["shuffled", "channels split"])
def test_an_add_of_channels_in_another_order(how, flat):
    """A selection of channels puts one operand right, whatever shape both have been given since."""
    net = Net()
    x = net.conv(net.input(1, 3, 6, 6), 3, 6, 1, 1)
    a, b = x, turned(net, net("Tanh", x), how)
    a, b = (net("Flatten", t) for t in (a, b)) if flat else (a, b)
    compare(net.output(net("Add", a, b), net("Mul", net("Add", b, a), net.constant(np.float32(2)))))


@pytest.mark.parametrize("how", ["rows and columns", "rows and channels"])
def test_an_add_that_turns_a_plane(how):
    """Pixels and channels of one operand are moved where the other's are."""
    net = Net()
    x = net.conv(net.input(1, 3, 6, 6), 3, 6, 1, 1)
    compare(net.output(net("Add", x, turned(net, net("Tanh", x), how))))
