"""What rounding costs: the float network in the build, errors by layer, and warnings about calibration."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sateen
from sateen.compiler.importer import import_model
from sateen.compiler.pipeline import evenly
from sateen.errors import BuildError, DataError
from sateen.ir.graph import Graph
from sateen.ir.serialize import float_from_bytes, from_bytes, to_bytes

VERSION = {"ir_version": 10, "opset_imports": [helper.make_opsetid("", 20)]}
RNG = np.random.default_rng(0)


def network(path, functions=("Relu",), weight=None):
    """A convolution of 4 channels, functions, and a dense layer of 3 outputs."""
    weight = RNG.normal(0, 0.3, (4, 2, 3, 3)) if weight is None else weight
    dense = RNG.normal(0, 0.3, (4 * 36, 3))
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1])]
    for n, f in enumerate(functions):
        nodes.append(helper.make_node(f, [nodes[-1].output[0]], [f"f{n}"], f"f{n}"))
    nodes.append(helper.make_node("Flatten", [nodes[-1].output[0]], ["flat"], "flatten"))
    nodes.append(helper.make_node("MatMul", ["flat", "d"], ["y"], "dense"))
    constants = [numpy_helper.from_array(a.astype(np.float32), n) for a, n in ((weight, "w"), (dense, "d"))]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", (1, 2, 6, 6)), ("y", (1, 3)))
    ]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], constants), **VERSION), path
    )
    return path


def samples(n=16):
    return {"x": RNG.normal(0, 1, (n, 2, 6, 6)).astype(np.float32)}


def test_the_float_graph_is_kept(tmp_path):
    """As it was imported, in float32: nodes, ports, functions that are composed of others, and quantizers."""
    for functions in (("Relu",), ("Mish", "Neg", "Sigmoid")):
        graph = import_model(network(tmp_path / "n.onnx", functions))
        found = float_from_bytes(to_bytes(graph))
        assert isinstance(found, Graph) and to_bytes(found) == to_bytes(graph)
        assert [type(n) for n in found.nodes] == [type(n) for n in graph.nodes]
        assert found.inputs == graph.inputs and found.outputs == graph.outputs
    with pytest.raises(BuildError, match="not a quantized graph"):
        from_bytes(to_bytes(graph))
    with pytest.raises(BuildError, match="not a float graph"):
        float_from_bytes(b"PK")


def test_a_quantized_file_is_kept_with_its_roundings():
    from pathlib import Path

    path = Path(__file__).parent / "data/brevitas/qcdq_int8.onnx"
    graph = import_model(path)
    assert graph.quantizers and float_from_bytes(to_bytes(graph)).quantizers == graph.quantizers


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    data = samples()
    model = network(folder / "n.onnx")
    manifest = sateen.compile(
        model, folder / "build", calibration=data, preset="tiny", weights="int4", activations="int4"
    )
    return folder / "build", model, data, manifest


def test_the_engine_is_the_network_that_was_imported(build):
    folder, model, data, _ = build
    result = sateen.run(folder, data, "float")
    expected = sateen.load(model).run(data)["y"]
    np.testing.assert_allclose(result.outputs["y"], expected, rtol=1e-5, atol=1e-5)
    assert result.cycles is None and result.outputs["y"].dtype == np.float32
    ort = pytest.importorskip("onnxruntime").InferenceSession(model)
    one = np.concatenate([ort.run(None, {"x": x[None]})[0] for x in data["x"]])
    np.testing.assert_allclose(result.outputs["y"], one, rtol=1e-4, atol=1e-4)


def test_errors_are_those_between_the_engines(build):
    folder, _, data, manifest = build
    real = np.float64(sateen.run(folder, data, "float").outputs["y"])
    found = np.float64(sateen.run(folder, data).outputs["y"])
    snr = 10 * np.log10((real**2).sum() / ((found - real) ** 2).sum())
    (output,) = manifest["errors"]["outputs"]
    assert output["name"] == "y" and output["snr_db"] == pytest.approx(snr, abs=0.06)
    assert output["largest_error"] == pytest.approx(np.abs(found - real).max() / np.abs(real).max(), rel=1e-3)
    errors = sateen.open(folder).errors
    assert output["pruned_db"] is None and output["pruned_agree"] is None
    assert output["agree"] == (real.argmax(axis=1) == found.argmax(axis=1)).sum() > 0
    first, last = errors["layers"]
    assert last["range"] is None and last["snr_db"] == pytest.approx(snr, abs=0.06)
    assert sum(first["activations"]) == pytest.approx(1 - first["clipped"], abs=1e-3)
    assert sum(first["weights"]) == pytest.approx(1, abs=1e-3) and len(first["weights"]) == 16
    rows = sateen.open(folder).layers
    assert [row["snr_db"] for row in rows] == [first["snr_db"], last["snr_db"]]


def test_pruning_counts_as_error_of_the_outputs_alone(tmp_path):
    """Layers are judged by the network that was rounded, outputs by the file."""
    weight = RNG.normal(0, 0.3, (8, 8, 3, 3))
    path = tmp_path / "deep.onnx"
    nodes = [
        helper.make_node("Conv", [i, w], [o], o, pads=[1, 1, 1, 1])
        for i, w, o in (("x", "w0", "a"), ("a", "w1", "b"), ("b", "w2", "y"))
    ]
    constants = [
        numpy_helper.from_array(w.astype(np.float32), n)
        for w, n in ((weight[:, :2], "w0"), (weight, "w1"), (weight[:2], "w2"))
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 2, 6, 6)) for n in "xy"]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], constants), **VERSION), path
    )
    data = samples()
    sateen.compile(
        path,
        tmp_path / "build",
        calibration=data,
        preset="sat256",
        sparsity="2:8",
        sparsity_method="magnitude",
    )
    errors = sateen.open(tmp_path / "build").errors
    pruned = errors["outputs"][0]["pruned_db"]
    assert errors["outputs"][0]["agree"] is None  # a plane has no class
    assert abs(pruned - errors["outputs"][0]["snr_db"]) < 2
    warnings = sateen.open(tmp_path / "build").manifest["warnings"]
    assert sum(f"output 'y' {pruned:.1f} dB" in w for w in warnings) == (pruned < 20) == 1
    assert errors["outputs"][0]["snr_db"] < 20 < min(e["snr_db"] for e in errors["layers"])


def test_labels_from_python(build):
    folder, _, data, _ = build
    labels = sateen.run(folder, data, "float").outputs["y"].argmax(1)
    labels[0] = (labels[0] + 1) % 3
    found = sateen.run(folder, data, labels=labels).accuracy
    own = sateen.run(folder, data).outputs["y"].argmax(1) == labels
    assert found["float_correct"] == 15 and found["correct"] == own.sum()
    assert found["only_float"] - found["only_build"] == 15 - own.sum()
    assert json.loads((folder / "accuracy.json").read_text()) == found
    with pytest.raises(DataError, match=r"labels: float64 \(16,\)"):
        sateen.run(folder, data, labels=labels * 1.0)
    with pytest.raises(DataError, match="engine 'model' counts cycles"):
        sateen.run(folder, data, "model", labels=labels)


@pytest.mark.parametrize(
    ("data", "warning"),
    [
        ({"x": np.ones((16, 2, 6, 6), np.float32)}, "is 1 everywhere"),
        ({"x": np.repeat(samples(1)["x"], 16, axis=0)}, "all 16 samples of input 'x' are equal"),
        (samples(3), "3 samples; ranges of so few"),
        (samples(16), None),
    ],
)
def test_samples_that_say_little_are_warned_of(tmp_path, data, warning):
    quantized = sateen.load(network(tmp_path / "n.onnx")).quantize(calibration=data)
    made = next(iter(quantized._made.values()))
    assert len(made.warnings) == (warning is not None)
    assert warning is None or warning in made.warnings[0]


@pytest.mark.parametrize(("count", "most", "kept"), [(3, 8, [0, 1, 2]), (9, 3, [0, 4, 8]), (1, 4, [0])])
def test_measured_samples_are_spread(count, most, kept):
    assert evenly({"x": np.arange(count)}, most)["x"].tolist() == kept
    assert evenly(None, most) == {}
