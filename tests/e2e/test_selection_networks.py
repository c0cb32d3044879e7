"""Selections in all four engines."""

import numpy as np
import pytest
from four_engines import check, machine
from onnx import TensorProto, helper, numpy_helper


@pytest.mark.rtl
@pytest.mark.slow
def test_selections(tmp_path):
    """Channels in another order, repeated and left out; a part of the rows and of the columns."""

    def ints(name, *values):
        return numpy_helper.from_array(np.array(values, np.int64), name)

    nodes = [
        helper.make_node("Gather", ["x", "order"], ["mixed"], axis=1),
        helper.make_node("Slice", ["mixed", "starts", "ends", "axes", "steps"], ["part"]),
        helper.make_node("Sigmoid", ["part"], ["y"]),
    ]
    constants = [ints("order", *((7 * k) % 18 for k in range(18)), 3, 3), ints("starts", 1, 2)]
    constants += [ints("ends", 7, 6), ints("axes", 2, 3), ints("steps", 2, 1)]
    ports = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)]
        for n, s in (("x", [1, 18, 8, 7]), ("y", None))
    ]
    graph = helper.make_graph(nodes, "selections", *ports, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    samples = np.random.default_rng(0).normal(0, 1, (4, 18, 8, 7)).astype(np.float32)
    check(model, samples, machine("int8", "int8"), tmp_path)
