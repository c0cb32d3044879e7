"""Branches of a Concat with ranges 10 000 times apart, scaled, in all four engines and in the exported model."""

import numpy as np
import onnxruntime
import pytest
from four_engines import check, machine
from onnx import TensorProto, helper, numpy_helper


def network() -> tuple:
    """The input itself, up to 1e4, beside functions of it near 1, through a pool, into a convolution."""
    rng = np.random.default_rng(0)
    weights = {"small": rng.normal(0, 1e-4, (4, 3, 3, 3)), "last": rng.normal(0, 0.2, (5, 11, 3, 3))}
    weights["last"][:, :3] *= 1e-4
    nodes = [
        helper.make_node("Conv", ["x", "small"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["near"]),
        helper.make_node("Tanh", ["c"], ["other"]),
        helper.make_node("Concat", ["x", "near", "other"], ["all"], axis=1),
        helper.make_node("MaxPool", ["all"], ["pooled"], kernel_shape=[2, 2]),
        helper.make_node("Conv", ["pooled", "last"], ["y"], pads=[1] * 4),
    ]
    ports = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)]
        for n, s in (("x", [1, 3, 7, 6]), ("y", [1, 5, 6, 5]))
    ]
    constants = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "branches", *ports, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, rng.normal(0, 1e4, (16, 3, 7, 6)).astype(np.float32)


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize("formats", [("int8", "int8"), ("e3m2", "e3m2")])
def test_branches(formats, tmp_path):
    model, samples = network()
    found = check(model, samples, machine(*formats), tmp_path)["reference"].outputs["y"]
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": samples[:1]})[0]
    decibels = 10 * np.log10(np.mean(wanted**2) / np.mean((found[:1] - wanted) ** 2))
    assert decibels > (29 if formats[0] == "int8" else 18)
    if formats[0] == "int8":
        exported = onnxruntime.InferenceSession((tmp_path / "build" / "model.onnx").read_bytes())
        np.testing.assert_allclose(exported.run(None, {"x": samples[:1]})[0], found[:1], rtol=1e-5, atol=1e-5)
