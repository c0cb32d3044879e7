"""Choices of the host at outputs, and constants beside computed tensors: as ONNX Runtime, and written out again."""

import numpy as np
import pytest
from onnx import TensorProto
from onnx_nets import Net, compare, runtime, samples

import sateen
from sateen.compiler.export import export_onnx
from sateen.ir.chosen import Chosen


def test_of_equals():
    x = np.array([[3.0, 1.0, 3.0, 2.0, 1.0]])
    assert Chosen("indices", 2).apply(x).tolist() == [[0, 2]]
    assert Chosen("indices", last=True, keep=False).apply(x).tolist() == [2]
    assert Chosen("values", 3, largest=False).apply(x).tolist() == [[1.0, 1.0, 2.0]]
    assert Chosen("indices", 2, axis=-2).shape((4, 5, 6)) == (4, 2, 6)
    assert Chosen("indices", axis=-3, keep=False).shape((4, 5, 6)) == (5, 6)


def chosen(op, *constants, outputs=1, **attributes):
    """The choice among the 5 features of 3 tokens."""
    net = Net()
    y = net("MatMul", net.input("N", 3, 4), net.random(4, 5))
    net(op, y, *(net.constant(c) for c in constants), outputs=outputs, **attributes)
    net.output(*net.nodes[-1].output)
    for info, kind in zip(net.outputs[-2:][::-1], (TensorProto.INT64, TensorProto.FLOAT), strict=False):
        info.type.tensor_type.elem_type = kind
    return net.model()


CHOICES = {
    "TopK": lambda: chosen("TopK", [2], outputs=2, axis=2),
    "smallest": lambda: chosen("TopK", [3], outputs=2, axis=1, largest=0),
    "ArgMax": lambda: chosen("ArgMax", axis=-1),
    "ArgMin": lambda: chosen("ArgMin", axis=1, keepdims=0),
    "last": lambda: chosen("ArgMax", axis=2, keepdims=0, select_last_index=1),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_choices_of_the_host(choice):
    model = CHOICES[choice]()
    compare(model)
    feeds = samples(model)
    quantized = sateen.load(model).quantize(calibration=feeds)
    ours, exported = quantized.run(feeds), runtime(export_onnx(quantized.graph), feeds)
    assert list(ours) == list(exported)
    for name, y in ours.items():
        assert y.dtype == exported[name].dtype
        np.testing.assert_allclose(y, exported[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("axis", "first"), [(1, True), (1, False), (2, False), (3, True)])
def test_a_constant_is_joined(axis, first):
    net = Net()
    shape = [1, 4, 5, 6]
    shape[axis] = 2
    parts = [net.conv(net.input(1, 4, 5, 6), 4, 4, 1, 1), net.random(*shape)]
    net.output(
        net.conv(net("Concat", *(parts[::-1] if first else parts), axis=axis), 6 if axis == 1 else 4, 3, 1, 1)
    )
    compare(net)
