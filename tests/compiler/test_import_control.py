"""If, Loop and Scan whose course the file fixes, beside ONNX Runtime; and those that it does not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_nets import Net, compare

from sateen.compiler.importer import check_model, import_model
from sateen.errors import ModelError


def body(nodes, inputs, outputs, initializers=()):
    def info(name, kind=TensorProto.FLOAT, shape=None):
        return helper.make_tensor_value_info(name, kind, shape)

    return helper.make_graph(
        nodes,
        "body",
        [info(*i) for i in inputs],
        [info(*(o if isinstance(o, tuple) else (o,))) for o in outputs],
        initializers,
    )


def condition():
    return [("number", TensorProto.INT64, ()), ("going", TensorProto.BOOL, ())]


@pytest.mark.parametrize("taken", [True, False])
def test_if(taken):
    net = Net(17)
    x = net.conv(net.input(1, 3, 5, 5), 3, 4, 3, 3)
    branches = {
        "then_branch": body([helper.make_node("Relu", [x], ["a"])], [], [("a",)]),
        "else_branch": body(
            [helper.make_node("Neg", [x], ["b"]), helper.make_node("Tanh", ["b"], ["c"])], [], [("c",)]
        ),
    }
    y = net("If", net.constant(taken, bool), **branches)
    compare(net.output(net.conv(y, 4, 2, 1, 1)))
    assert all(f.supported for f in check_model(net.model()))


@pytest.mark.parametrize("opset", [11, 17])
def test_loop(opset):
    """A carried value, a result of each step, weights of the body and of the graph around it, the step's number."""
    net = Net(opset)
    x = net.conv(net.input(1, 3, 4, 4), 3, 4, 1, 1)
    outer, own = net.random(4, 4, 1, 1), numpy_helper.from_array(np.full((4, 1, 1), 0.25, np.float32), "own")
    steps = body(
        [
            helper.make_node("Conv", ["h", outer], ["c"]),
            helper.make_node("Add", ["c", "own"], ["d"]),
            helper.make_node("Relu", ["d"], ["e"]),
            helper.make_node("Cast", ["number"], ["n"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["e", "n"], ["f"]),
            helper.make_node("Identity", ["going"], ["on"]),
        ],
        [*condition(), ("h",)],
        [("on", TensorProto.BOOL, ()), ("e",), ("f",)],
        [own],
    )
    net("Loop", net.constant(3, np.int64), net.constant(True, bool), x, outputs=2, body=steps)
    last, each = net.nodes[-1].output
    compare(net.output(net.conv(last, 4, 2, 1, 1), net("Flatten", each, axis=0)))


@pytest.mark.parametrize("backwards", [0, 1])
def test_scan(backwards):
    """A recurrence along a sequence."""
    net = Net(17)
    x = net("Transpose", net.conv(net.input(1, 3, 6), 3, 4, 1), perm=[2, 0, 1])
    w = net.random(4, 4)
    step = body(
        [
            helper.make_node("MatMul", ["h", w], ["a"]),
            helper.make_node("Add", ["a", "x"], ["b"]),
            helper.make_node("Tanh", ["b"], ["c"]),
            helper.make_node("Identity", ["c"], ["out"]),
        ],
        [("h", TensorProto.FLOAT, (1, 4)), ("x", TensorProto.FLOAT, (1, 4))],
        [("c", TensorProto.FLOAT, (1, 4)), ("out", TensorProto.FLOAT, (1, 4))],
    )
    start = net("ReduceMean", x, axes=[0], keepdims=0)
    net("Scan", start, x, outputs=2, body=step, num_scan_inputs=1, scan_input_directions=[backwards],
        scan_output_directions=[backwards])  # fmt: skip
    compare(net.output(*net.nodes[-1].output))


@pytest.mark.parametrize("kind", ["condition", "count"])
def test_what_is_computed_is_refused(kind):
    net = Net(17)
    x = net.input(1, 4)
    mean = net("ReduceMean", x, keepdims=0)
    if kind == "condition":
        branches = {b: body([helper.make_node(o, [x], [b])], [], [(b,)]) for b, o in
                    (("then_branch", "Relu"), ("else_branch", "Neg"))}  # fmt: skip
        y = net("If", net("Greater", mean, net.constant(0, np.float32)), **branches)
        words = "If 'If2': its condition is computed"
    else:
        steps = body(
            [helper.make_node("Relu", ["h"], ["e"]), helper.make_node("Identity", ["going"], ["on"])],
            [*condition(), ("h",)],
            [("on", TensorProto.BOOL, ()), ("e",)],
        )
        y = net("Loop", net("Cast", mean, to=TensorProto.INT64), "", x, body=steps)
        words = "Loop 'Loop2': how often it runs is computed"
    model = net.output(y).model()
    assert any(words in str(f) for f in check_model(model) if not f.supported)
    with pytest.raises(ModelError):
        import_model(model)
