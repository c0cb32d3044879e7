"""Axes and indices: the negative count from the end, those out of range are refused and never wrap round."""

import numpy as np
import pytest
from onnx_nets import Net, compare

from sateen.compiler.importer import check_model, import_model
from sateen.errors import ModelError

SHAPE = (2, 4, 3, 5)


def ints(net: Net, *values: int) -> str:
    return net.constant(list(values), np.int64)


NODES = {
    "Gather": lambda n, x, a: n("Gather", x, ints(n, 0), axis=a),
    "Slice": lambda n, x, a: n("Slice", x, ints(n, 0), ints(n, 1), ints(n, a)),
    "Split": lambda n, x, a: n("Split", x, ints(n, 1), axis=a),
    "Concat": lambda n, x, a: n("Concat", x, x, axis=a),
    "Flatten": lambda n, x, a: n("Flatten", x, axis=a),
    "Softmax": lambda n, x, a: n("Softmax", x, axis=a),
    "LogSoftmax": lambda n, x, a: n("LogSoftmax", x, axis=a),
    "Squeeze": lambda n, x, a: n("Squeeze", x, ints(n, a)),
    "Unsqueeze": lambda n, x, a: n("Unsqueeze", x, ints(n, a)),
    "ReduceMean": lambda n, x, a: n("ReduceMean", x, axes=[a]),
    "ReduceSum": lambda n, x, a: n("ReduceSum", x, ints(n, a)),
    "ReduceMax": lambda n, x, a: n("ReduceMax", x, axes=[a]),
}


@pytest.mark.parametrize("axis", [4, 6, 100, -6, -9])
@pytest.mark.parametrize("op", NODES)
def test_axis_out_of_range(op, axis):
    """Flatten and Unsqueeze have one axis more."""
    if op in ("Flatten", "Unsqueeze") and axis == 4:
        axis = 5
    net = Net()
    y = NODES[op](net, net.conv(net.input(*SHAPE), 4, 4, 1, 1), axis)
    model = net.output(y).model()
    with pytest.raises(ModelError, match=rf"^{op} '{op}1': ax(is|es) \[?{axis}\]? on [45] dimensions"):
        import_model(model)
    assert [f.supported for f in check_model(model) if f.op_type == op] == [False]


@pytest.mark.parametrize("index", [4, 9, -5, -100])
@pytest.mark.parametrize("scalar", [True, False])
def test_gather_index_out_of_range(index, scalar):
    net = Net()
    at = net.constant(index if scalar else [0, index], np.int64)
    model = net.output(net("Gather", net.conv(net.input(*SHAPE), 4, 4, 1, 1), at, axis=1)).model()
    words = f"picks index {index} of dimension 1, which has 4; use -4 to 3"
    with pytest.raises(ModelError, match=words):
        import_model(model)


def test_pad_axes_out_of_range():
    net = Net(18)
    y = net("Pad", net.conv(net.input(*SHAPE), 4, 4, 1, 1), ints(net, 1, 1), "", ints(net, 6))
    with pytest.raises(ModelError, match=r"axes \[6\] on 4 dimensions"):
        import_model(net.output(y).model())


ERASED = {
    "Transpose": (lambda n, x: n("Transpose", x, perm=[0, 1]), r"perm = \[0, 1\] on 4 dimensions"),
    "longer": (lambda n, x: n("Transpose", x, perm=[0, 1, 2, 3, 4]), r"perm = .* on 4 dimensions"),
    "Pad": (lambda n, x: n("Pad", x, ints(n, 0, 0)), "2 pads for 4 dimensions"),
    "Concat": (lambda n, x: n("Concat", x, axis=9), "axis 9 on 4 dimensions"),
    "Expand": (lambda n, x: n("Expand", x, ints(n, 3, 1, 1)), "are repeated"),
}


@pytest.mark.parametrize("case", ERASED)
def test_what_looks_as_if_it_did_nothing(case):
    """Simplification erases some of these without a look at the input."""
    net = Net()
    build, words = ERASED[case]
    model = net.output(net("Relu", build(net, net.conv(net.input(*SHAPE), 4, 4, 1, 1)))).model()
    with pytest.raises(ModelError, match=words):
        import_model(model)


@pytest.mark.parametrize("axis", [2, 9, -3])
def test_axis_of_scales_out_of_range(axis):
    net = Net()
    scale, zero = net.constant([0.1, 0.2], np.float32), net.constant([0, 0], np.int8)
    weight = net("DequantizeLinear", net.constant(np.ones((4, 2)), np.int8), scale, zero, axis=axis)
    model = net.output(net("Gemm", net.input("N", 4), weight)).model()
    with pytest.raises(ModelError, match=f"axis {axis} on 2 dimensions"):
        import_model(model)


@pytest.mark.parametrize("op", ["ReduceMean", "Squeeze", "Slice"])
def test_an_axis_named_twice(op):
    net = Net()
    x = net.conv(net.input(2, 4, *((3, 3) if op == "Slice" else (1, 1))), 4, 4, 1, 1)
    y = {
        "ReduceMean": lambda: net("ReduceMean", x, axes=[2, -2]),
        "Squeeze": lambda: net("Squeeze", x, ints(net, 2, -2)),
        "Slice": lambda: net("Slice", x, ints(net, 0, 0), ints(net, 1, 1), ints(net, 2, -2)),
    }[op]()
    with pytest.raises(ModelError, match="name a dimension twice"):
        import_model(net.output(y).model())


@pytest.mark.parametrize(
    ("axis", "start", "end", "step", "words"),
    [(1, 0, 2, 0, "use a positive step"), (1, 0, 2, -1, "take at least one")],
)
def test_slice_steps(axis, start, end, step, words):
    net = Net()
    x = net.conv(net.input(*SHAPE), 4, 4, 1, 1)
    y = net("Slice", x, ints(net, start), ints(net, end), ints(net, axis), ints(net, step))
    with pytest.raises(ModelError, match=words):
        import_model(net.output(y).model())


def test_limits_of_a_slice_are_cut_as_onnx_says():
    net = Net()
    x = net.conv(net.input(*SHAPE), 4, 4, 1, 1)
    compare(net.output(net("Slice", x, ints(net, -100), ints(net, 100), ints(net, -3))))


@pytest.mark.parametrize("axis", [-5, -2, 0, 2, 4])
def test_flatten_in_range(axis):
    net = Net()
    net.output(net("Flatten", net.conv(net.input(1, *SHAPE[1:]), 4, 4, 1, 1), axis=axis))
    if axis == -5:
        with pytest.raises(ModelError, match="axis -5 on 4 dimensions"):
            import_model(net.model())
    elif axis in (0, -2, 2, 4):
        try:
            compare(net)
        except ModelError as e:
            assert "which moves data" in str(e) or "batch" in str(e)
