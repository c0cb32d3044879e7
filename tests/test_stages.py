"""The staged interface: the same builds as `sateen.compile`, and each stage by itself."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import sateen
from sateen.errors import BuildError, ConfigError, DataError, FormatError, ModelError
from sateen.machine.config import DATAFLOWS
from sateen.machine.presets import preset

ROOT = Path(__file__).resolve().parents[1]
CNN = ROOT / "models/digits_cnn.onnx"
X = {"input": np.random.default_rng(0).random((16, 1, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def quantized():
    return sateen.load(CNN).quantize(weights="int8", activations="int8", calibration=X)


def test_load_finds_what_check_finds(tmp_path):
    network = sateen.load(CNN)
    assert network.supported and list(network.findings) == sateen.check(CNN)
    found = json.loads(json.dumps(network.to_dict()))
    assert found["supported"] and {n["state"] for n in found["nodes"]} == {"supported"}
    with pytest.raises(ModelError, match="no such file"):
        sateen.load(tmp_path / "none.onnx")


def test_a_network_that_is_refused_can_be_looked_at(tmp_path):
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 3]), ("y", [1])))
    model = helper.make_model(helper.make_graph([helper.make_node("Det", ["x"], ["y"])], "g", [x], [y]))
    onnx.save(model, tmp_path / "model.onnx")
    network = sateen.load(tmp_path / "model.onnx")
    assert not network.supported and network.graph is None
    with pytest.raises(ModelError, match="in all: see findings"):
        network.quantize(calibration=X)


@pytest.mark.parametrize("machine, sparsity", [("tiny", None), ("sat256", "2:8"), ("2:16", "2:16")])
def test_a_build_is_that_of_compile(quantized, tmp_path, machine, sparsity):
    config = preset("tiny").replace(
        rows=2, cols=4, lanes=2, group=16, patterns=("dense", "2:16"), dataflows=DATAFLOWS
    )
    options = {"config": config} if machine == "2:16" else {"preset": machine}
    sateen.compile(
        CNN,
        tmp_path / "whole",
        calibration=X,
        weights="int8",
        activations="int8",
        sparsity=sparsity or "dense",
        **options,
    )
    mapped = quantized.map(config if machine == "2:16" else machine, sparsity=sparsity)
    build = mapped.write(tmp_path / "staged")
    for path in (tmp_path / "whole").iterdir():
        if path.name != "times.json":
            assert path.read_bytes() == (tmp_path / "staged" / path.name).read_bytes(), path.name
    assert build.cycles == mapped.cycles == sateen.open(build.folder).cycles
    columns = mapped.layers[0]
    assert [{k: row[k] for k in columns} for row in build.layers] == mapped.layers


def test_a_pattern_that_was_asked_for_when_quantizing_holds_for_every_machine():
    sparse = sateen.load(CNN).quantize(calibration=X, sparsity="2:16", sparsity_method="magnitude")
    config = preset("tiny").replace(rows=1, cols=4, lanes=1, group=16, patterns=("dense", "2:16"))
    assert {layer["sparsity"] for layer in sparse.map(config).layers} == {"dense", "2:16"}
    with pytest.raises(ConfigError, match="sparsity 2:16: configuration 'tiny' is built for dense"):
        sparse.map("tiny")


def test_stages(quantized, tmp_path):
    assert quantized.formats == ("int8", "int8")
    outputs = quantized.run({"input": X["input"][:3]})
    assert [a.shape[0] for a in outputs.values()] == [3]
    mapped = quantized.map(preset("tiny").replace(bus_bits=64))
    assert (
        mapped.predict(latency=1)
        < mapped.cycles
        == mapped.predict()
        < mapped.predict(latency=200, interval=4)
    )
    rows = mapped.layers
    assert sum(r["cycles"] for r in rows) <= mapped.cycles and rows[0]["output_shape"].count("×") == 2
    assert all(isinstance(v, str | int | float | None) for r in rows for v in r.values())
    memory = mapped.memory
    assert memory["constants_size"] <= memory["program_offset"] < memory["data_offset"]
    assert json.loads(json.dumps(mapped.to_dict()))["cycles"] == mapped.cycles
    assert set(mapped.estimate("ecp5")["devices"]) == {"ecp5"}
    build = mapped.write(tmp_path / "build")
    result = build.run({"input": X["input"][:3]}, "program")
    assert all(result.outputs[k].tobytes() == a.tobytes() for k, a in outputs.items())


def test_bad_input(quantized, tmp_path):
    network = sateen.load(CNN)
    with pytest.raises(FormatError, match="e9m9"):
        network.quantize(weights="e9m9", calibration=X)
    with pytest.raises(DataError, match="no calibration data"):
        network.quantize()
    with pytest.raises(ConfigError, match="unknown preset 'huge'"):
        quantized.map("huge")
    with pytest.raises(DataError, match="input"):
        quantized.run({"x": X["input"]})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BuildError, match="not empty and not a build"):
        quantized.map("tiny").write(tmp_path)
    with pytest.raises(BuildError, match="not a build folder"):
        sateen.open(tmp_path)
