"""Two computed tensors, which broadcast, against ONNX Runtime; products that stay a table; divisors near zero."""

from itertools import product

import numpy as np
import onnx
import pytest
from onnx_nets import Net, compare, kinds

import sateen
from sateen.errors import DataError
from sateen.ir.nodes import Activation, Maximum, Mul

OPERATORS = ("Add", "Sub", "Mul", "Max", "Min")


def reduced(net, x, axes):
    return net("ReduceMean", x, axes=list(axes), keepdims=1) if axes else x


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("axes", [(), (1,), (2,), (3,), (1, 2), (2, 3), (1, 2, 3)])
def test_images(op, axes):
    """Either operand has one index where the other has several."""
    for swapped in (False, True):
        net = Net()
        x = net.conv(net.input("N", 3, 4, 5), 3, 6, 1, 1)
        y = reduced(net, net.conv("x", 3, 6, 3, 3, pads=[1] * 4), axes)
        compare(net.output(net(op, y, x) if swapped else net(op, x, y)))


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(
    ("a", "b"),
    [((2,), (3,)), ((1,), (2,)), ((1,), (2, 3)), ((3,), (1, 2)), ((1, 3), (2,)), ((1, 2), (1, 3))],
)
def test_neither_is_whole(op, a, b):
    net = Net()
    x = net.conv(net.input("N", 3, 4, 5), 3, 6, 1, 1)
    compare(net.output(net(op, reduced(net, x, a), reduced(net, net.conv("x", 3, 6, 1, 1), b))))


@pytest.mark.parametrize("shape", [(6,), (5, 6), (1, 6), (5, 1), (1, 5, 1), (1, 1, 1)])
def test_sequences(shape):
    """Rows of a matrix product, and an operand of fewer dimensions."""
    net = Net()
    x = net("MatMul", net.input(1, 5, 3), net.random(3, 6))
    y = net("MatMul", "x", net.random(3, 6))
    for axis, size in zip((2, 1), (*reversed(shape), 1), strict=False):
        y = net("ReduceMean", y, axes=[axis], keepdims=1) if size == 1 else y
    if len(shape) < 2 or shape[-2] == 1:
        y = net("ReduceMax", y, axes=[1], keepdims=1)
    y = net("Reshape", y, net.constant(np.array(shape, np.int64)))
    compare(net.output(net("Mul", x, y)))


def test_inputs_whose_layout_is_open():
    for a, b in product([(1, 4, 3, 5), (1, 4, 1, 1), (1, 1, 3, 5)], repeat=2):
        net = Net()
        net.input(*a, name="a"), net.input(*b, name="b")
        compare(net.output(net("Mul", "a", "b")))


def test_any_number_of_extremes():
    for op in ("Max", "Min"):
        net = Net()
        x = net.conv(net.input("N", 3, 4, 5), 3, 6, 1, 1)
        y = net(op, x, net.constant(np.float32(0.1)), net.conv("x", 3, 6, 1, 1), net.random(6, 1, 1))
        compare(net.output(net(op, y)))


def test_a_quotient():
    net = Net()
    x = net.conv(net.input("N", 3, 4, 5), 3, 6, 1, 1)
    y = net("Add", net("Sigmoid", net.conv("x", 3, 1, 1, 1)), net.constant(np.float32(0.5)))
    compare(net.output(net("Div", x, y)))


def test_functions_of_one_tensor_stay_a_table():
    net = Net()
    x = net.conv(net.input("N", 3, 4, 5), 3, 6, 1, 1)
    found = kinds(compare(net.output(net("Mul", x, net("Sigmoid", x)))))
    assert Activation.__name__ in found and Mul.__name__ not in found and Maximum.__name__ not in found


@pytest.mark.parametrize(("offset", "refused"), [(0.5, False), (0.0, True), (-0.5, True)])
def test_a_divisor_near_zero_is_refused(offset, refused, tmp_path):
    net = Net()
    x = net.conv(net.input(1, 3, 4, 5), 3, 6, 1, 1)
    y = net("Relu", net.conv("x", 3, 6, 1, 1))
    y = net("Add", y, net.constant(np.float32(offset)))
    onnx.save(net.output(net("Div", x, y)).model(), tmp_path / "m.onnx")
    samples = np.random.default_rng(0).normal(0, 1, (8, 3, 4, 5)).astype(np.float32)

    def build():
        return sateen.compile(tmp_path / "m.onnx", tmp_path / "b", calibration={"x": samples})

    if refused:
        with pytest.raises(
            DataError, match=r"'\w+': the divisor of a Div is .* to .* on the calibration samples"
        ):
            build()
    else:
        build()


CONSTANTS = [
    (6, 4, 5),
    (1, 4, 5),
    (4, 5),
    (6, 4, 1),
    (4, 1),
    (6, 1, 5),
    (1, 1, 5),
    (1, 6, 4, 5),
    (6, 1, 1),
    (1,),
]


@pytest.mark.parametrize("op", ("Add", "Sub", "Mul", "Div"))
@pytest.mark.parametrize("shape", CONSTANTS)
def test_constants_of_any_shape(op, shape):
    net = Net()
    x = net.conv(net.input("N", 3, 4, 5), 3, 6, 1, 1)
    y = net(op, x, net.random(*shape, low=0.5))
    compare(net.output(net(op, net("Relu", y), net.random(*shape, low=0.5))))


@pytest.mark.parametrize("op", ("Add", "Mul"))
def test_constants_that_enlarge(op):
    for shape in ((6, 4, 5), (1, 4, 5), (4, 1), (1, 5)):
        net = Net()
        x = net("GlobalAveragePool", net.conv(net.input("N", 3, 4, 5), 3, 6, 1, 1))
        compare(net.output(net(op, x, net.random(*shape, low=0.5))))


def test_a_position_embedding():
    net = Net()
    x = net("MatMul", net.input(1, 5, 3), net.random(3, 6))
    y = net("Add", x, net.random(1, 5, 6))
    compare(net.output(net("MatMul", net("Mul", y, net.random(5, 6)), net.random(6, 4))))
