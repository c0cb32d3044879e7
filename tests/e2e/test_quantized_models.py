"""Files that are quantized already, through all four engines."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import sateen

DOMAIN = "onnx.brevitas"


def binary_network(seed=0):
    """Ternary weights between bipolar activations, as a QONNX model without calibration data."""
    rng = np.random.default_rng(seed)
    constants, nodes = [], []

    def constant(value):
        constants.append(numpy_helper.from_array(np.asarray(value, np.float32), f"c{len(constants)}"))
        return constants[-1].name

    def node(op, *inputs, domain="", **attributes):
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], domain=domain, **attributes))
        return nodes[-1].output[0]

    def quant(x, scale, bits, **attributes):
        inputs = constant(scale), constant(0), constant(bits)
        return node("Quant", x, *inputs, domain=DOMAIN, **{"signed": 1, "narrow": 1} | attributes)

    def bipolar(x, scale):
        return node("BipolarQuant", x, constant(scale), domain=DOMAIN)

    x = quant("x", 0.5, 2)
    y = node("Conv", x, bipolar(constant(rng.normal(size=(8, 4, 3, 3))), 0.25), pads=[1, 1, 1, 1])
    x = bipolar(y, 1.0)
    weight = quant(constant(rng.normal(size=(8, 8, 3, 3))), 0.5, 2)
    x = bipolar(node("Conv", x, weight, constant(rng.normal(size=8))), 0.5)
    y = node("Conv", x, quant(constant(rng.normal(size=(5, 8, 4, 4))), 0.5, 2))
    graph = helper.make_graph(
        nodes,
        "binary",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 6, 6))],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
        constants,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.rtl
def test_a_binary_network_runs_bit_exact(tmp_path):
    onnx.save(binary_network(), tmp_path / "model.onnx")
    manifest = sateen.compile(tmp_path / "model.onnx", tmp_path / "build", preset="tiny")
    config = manifest["config"]
    assert (config["weight_format"], config["activation_format"]) == ("int2n", "int2n")
    x = {"x": np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype(np.float32)}
    found = {e: sateen.run(tmp_path / "build", x, e) for e in ("reference", "program", "model", "rtl")}
    wanted = found["reference"].outputs
    for engine in ("program", "rtl"):
        for name, y in wanted.items():
            assert y.tobytes() == found[engine].outputs[name].tobytes(), f"{engine} differs on {name}"
            assert np.ptp(y) > 0
    assert found["model"].cycles == found["rtl"].cycles


@pytest.mark.rtl
def test_a_file_of_brevitas_runs_bit_exact(tmp_path):
    """Residual addition, the truncated sum of an average pool; the outputs are those of Brevitas."""
    data = Path(__file__).parents[1] / "compiler/data/brevitas"
    cases = np.load(data / "cases.npz")
    manifest = sateen.compile(data / "trunc_round.onnx", tmp_path / "build", preset="tiny")
    assert (manifest["config"]["weight_format"], manifest["config"]["activation_format"]) == ("int4n", "int6")
    x = {manifest["inputs"][0]["name"]: cases["x"][:2]}
    for engine in ("reference", "program", "rtl"):
        found = next(iter(sateen.run(tmp_path / "build", x, engine).outputs.values()))
        np.testing.assert_array_equal(found.reshape(2, -1), cases["trunc_round"][:2])


@pytest.mark.rtl
def test_an_input_in_two_steps_runs_bit_exact(tmp_path):
    """The host gives its codes twice; the output is that of ONNX Runtime."""
    rng = np.random.default_rng(3)
    nodes, constants = [], []

    def constant(value, kind=np.float32):
        constants.append(numpy_helper.from_array(np.asarray(value, kind), f"c{len(constants)}"))
        return constants[-1].name

    def node(operator, *inputs, **attributes):
        nodes.append(helper.make_node(operator, list(inputs), [f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def qdq(x, scale):
        steps = constant(scale), constant(0, np.int8)
        return node("DequantizeLinear", node("QuantizeLinear", x, *steps), *steps)

    def conv(x):
        codes = constant(rng.integers(-127, 128, (4, 3, 3, 3)), np.int8)
        return node("Conv", x, node("DequantizeLinear", codes, constant(2**-8)), pads=[1] * 4)

    sums = [qdq(conv(qdq("x", scale)), 2**-4) for scale in (2**-7, 2**-4)]
    y = qdq(node("Add", *sums), 2**-3)
    ports = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)]
        for n, s in (("x", ("N", 3, 6, 6)), (y, None))
    ]
    graph = helper.make_graph(nodes, "twice", *ports, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    manifest = sateen.compile(tmp_path / "model.onnx", tmp_path / "build", preset="tiny")
    assert [i["name"] for i in manifest["inputs"]] == ["x"] and len(manifest["memory"]["inputs"]) == 2
    x = {"x": rng.uniform(-2, 2, (2, 3, 6, 6)).astype(np.float32)}
    (want,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, x)
    found = {e: sateen.run(tmp_path / "build", x, e) for e in ("reference", "program", "model", "rtl")}
    for engine in ("reference", "program", "rtl"):
        np.testing.assert_array_equal(found[engine].outputs[y], want)
    assert found["model"].cycles == found["rtl"].cycles
