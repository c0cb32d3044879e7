"""What a user says of inputs: sizes by one name, values that are always the same; and inputs of one number."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_nets import Net, compare

from sateen.compiler.check import check_model
from sateen.compiler.float_executor import float_outputs, run_float
from sateen.compiler.importer import import_model
from sateen.errors import ModelError


def stream(*, rate: bool = True) -> Net:
    """A frame, a state whose batch is not first, and a rate that chooses between two layers."""
    net = Net()
    x, h = net.input("batch", "samples", name="x"), net.input(2, "batch", 6, name="h")
    features = net("Unsqueeze", net("MatMul", x, net.random(8, 5)), net.constant([0], np.int64))
    gates = [net.random(2, 18, 5), net.random(2, 18, 6), net.random(2, 36)]
    y = net("GRU", features, *gates, "", h, outputs=2, hidden_size=6, direction="bidirectional")
    if rate:
        rate_of = net.input(name="rate", kind=TensorProto.INT64)
        condition = net("Equal", rate_of, net.constant(16000, np.int64))
        branches = {
            f"{kind}_branch": helper.make_graph(
                [helper.make_node(kind_of, [f"{y}_1"], [kind])],
                kind,
                [],
                [helper.make_tensor_value_info(kind, TensorProto.FLOAT, None)],
            )
            for kind, kind_of in (("then", "Neg"), ("else", "Abs"))
        }
        return net.output(net("If", condition, **branches))
    return net.output(f"{y}_1")


def test_an_open_size_has_one_value_wherever_its_name_is():
    """The batch of one input is a later dimension of another: what the file calls its inputs is one sample."""
    graph = import_model(stream(rate=False).model(), shapes={"x": (1, 8)})
    assert {p.name: p.shape for p in graph.inputs} == {"x": (1, 8), "h": (2, 1, 6)}
    assert graph.outputs[0].shape == (2, 1, 6)


def test_a_value_resolves_the_branch():
    model = stream().model()
    shapes = {"x": (1, 8)}
    (problem,) = [f for f in check_model(model, shapes=shapes) if f.supported is False and f.op_type == "If"]
    assert "--value rate=1" in problem.remedy
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(size=(1, 1, 8)), "h": rng.normal(size=(1, 2, 1, 6))}
    found = []
    for rate in (16000, 8000):
        graph = import_model(model, shapes=shapes, values={"rate": rate})
        (y,) = float_outputs(graph, run_float(graph, feeds)).values()
        found.append(y)
    assert (found[0] != found[1]).any()
    np.testing.assert_array_equal(np.abs(found[0]), found[1])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"y": 1}, "value of 'y': the model has no such input; it has x"),
        ({"x": np.zeros((2, 2))}, r"value of 'x': it has shape \(2, 2\); the input has \(1, 4\)"),
        ({"x": 1e300}, "value of 'x': 1e\\+300 is no float32"),
    ],
)
def test_values_that_do_not_fit(values, words):
    net = Net()
    with pytest.raises(ModelError, match=words), np.errstate(over="ignore"):
        import_model(net.output(net("Relu", net.input(1, 4))).model(), values=values)


def test_an_input_of_one_number():
    net = Net()
    scale = net.input(name="scale")
    compare(net.output(net("Mul", net.conv(net.input(1, 3, 4, 4), 3, 4, 1, 1), scale)))


def test_an_input_times_nothing_is_none():
    """As exporters keep an input that the graph does not need."""
    net = Net()
    rate = net.input(name="rate", kind=TensorProto.INT64)
    nothing = net("Cast", net("Mul", rate, net.constant(0, np.int64)), to=TensorProto.FLOAT)
    graph = import_model(net.output(net("Add", net("Tanh", net.input(1, 3)), nothing)).model())
    assert [p.name for p in graph.inputs] == ["x"]


def test_an_output_of_one_number():
    net = Net()
    y = net("Gemm", net("Flatten", net("Relu", net.input("N", 3, 4, 4))), net.random(48, 1))
    graph = import_model(net.output(net("Reshape", y, net.constant(np.zeros(0), np.int64))).model())
    assert graph.outputs[0].shape == ()
    x = np.random.default_rng(0).normal(size=(3, 3, 4, 4))
    assert next(iter(float_outputs(graph, run_float(graph, {"x": x})).values())).shape == (3,)


def test_a_loop_as_often_as_a_shape_says():
    net = Net()
    x = net("Relu", net.input(1, 3, 4, 5))
    count = net("Gather", net("Shape", x), net.constant(1, np.int64), axis=0)
    nodes = [helper.make_node("Mul", ["h", "half"], ["y"]), helper.make_node("Identity", ["go"], ["on"])]
    kinds = {"n": TensorProto.INT64, "go": TensorProto.BOOL, "on": TensorProto.BOOL}
    ports = {
        name: helper.make_tensor_value_info(
            name, kinds.get(name, TensorProto.FLOAT), () if name in kinds else None
        )
        for name in ("n", "go", "h", "on", "y")
    }
    half = numpy_helper.from_array(np.float32(0.5), "half")
    body = helper.make_graph(
        nodes, "body", [ports[n] for n in ("n", "go", "h")], [ports[n] for n in ("on", "y")], [half]
    )
    compare(net.output(net("Loop", count, "", x, body=body)))
