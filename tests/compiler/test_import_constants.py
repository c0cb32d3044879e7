"""Large constants beside the model: which are taken out, and how much memory a file costs."""

import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_nets import Net, compare

from sateen.compiler.importer import check_model, import_model
from sateen.compiler.importer.constants import LARGE, as_inputs, lightened, sketch
from sateen.errors import ModelError


def constant_node(net: Net, array: np.ndarray) -> str:
    return net("Constant", value=numpy_helper.from_array(array))


def test_only_what_no_folding_needs_is_taken_out():
    """Weights of a Gemm, as initializer and as node; not what a Transpose of constants or an output reads."""
    net = Net()
    rng = np.random.default_rng(0)
    first, second, third = (
        rng.normal(0, 0.05, (LARGE // 8, LARGE // 8)).astype(np.float32) for _ in range(3)
    )
    x = net.input("N", LARGE // 8)
    a = net.constant(first)
    x = net("MatMul", x, a)
    b = constant_node(net, second)
    x = net("Relu", net("MatMul", x, b))
    c = net.constant(third)
    x = net("MatMul", x, net("Transpose", c, perm=[1, 0]))
    model = net.output(x).model()
    light = lightened(model)
    assert set(light.arrays) == {a, b}
    assert [t.name for t in light.model.graph.initializer] == [c]
    assert [n.op_type for n in light.model.graph.node] == ["MatMul", "MatMul", "Relu", "Transpose", "MatMul"]
    onnx.shape_inference.infer_shapes(as_inputs(light), strict_mode=True)
    onnx.checker.check_model(sketch(onnx.shape_inference.infer_shapes(model)))
    assert sketch(model).ByteSize() < 2000
    compare(model)


def test_names_by_position_count_constants_that_are_taken_out():
    net = Net()
    x = net.input("N", 64)
    w = constant_node(net, np.ones((64, 64), np.float32))
    model = net.output(net("MatMul", x, w)).model()
    for node in model.graph.node:
        node.ClearField("name")
    assert [(f.node, f.supported) for f in check_model(model)] == [("Constant_0", True), ("MatMul_1", True)]
    assert import_model(model).nodes[0].name == "MatMul_1"


def test_initializers_listed_as_inputs():
    net = Net(9)
    w = net.constant(np.ones((64, 64), np.float32))
    model = net.output(net("MatMul", net.input("N", 64), w)).model()
    model.graph.input.append(helper.make_tensor_value_info(w, onnx.TensorProto.FLOAT, [64, 64]))
    assert [p.name for p in compare(model).inputs] == ["x"]


@pytest.mark.parametrize("size", [4, 64])
def test_wrong_size_of_an_initializer(size):
    net = Net()
    w = net.constant(np.ones((size, size), np.float32))
    model = net.output(net("MatMul", net.input("N", size), w)).model()
    model.graph.initializer[0].raw_data += b"1234"
    for read in (import_model, check_model):
        with pytest.raises(ModelError, match=rf"'{w}'.*\[{size}, {size}\].*the file is damaged"):
            read(model)


def test_memory():
    """Of two million weights: as they are, and in double precision."""
    net = Net()
    x = net.input("N", 1000)
    for _ in range(2):
        x = net("Gemm", x, net.random(1000, 1000))
    model = net.output(x).model()
    tracemalloc.start()
    try:
        check_model(model)
        assert tracemalloc.get_traced_memory()[1] < 5 * 4 * 2_000_000
    finally:
        tracemalloc.stop()
