"""`sateen compare`: builds side by side, estimates apart from counts."""

import json
from pathlib import Path

import numpy as np
import pytest

import sateen
from sateen.cli.main import main

MODEL = Path(__file__).resolve().parents[2] / "models/digits_cnn.onnx"


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("builds")
    x = np.random.default_rng(0).random((16, 1, 8, 8)).astype(np.float32)
    quantized = sateen.load(MODEL).quantize(calibration={"input": x}, ptq="fast")
    config = sateen.preset("tiny").replace(narrow=True)
    for name, machine in (("a", config), ("b", config.replace(cols=4, name="wide"))):
        quantized.map(machine).write(folder / name)
    return folder


def test_cycles_of_layers_resources_and_what_was_counted(builds, capsys):
    a, b = str(builds / "a"), str(builds / "b")
    manifest = json.loads((builds / "a/manifest.json").read_text())
    kept = {"lut": 11, "ff": 12, "dsp": 13, "bram": 14}
    cost = {
        "verilog_sha256": manifest["files"]["accelerator.v"],
        "devices": {"ecp5": {"total": kept | {"carry": 1}}},
    }
    (builds / "a/cost.json").write_text(json.dumps(cost))
    assert main(["compare", a, b, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [x["cycles"] for x in found["builds"]] == [sateen.open(p).cycles for p in (a, b)]
    assert [x["measured"] for x in found["builds"]] == [kept, None]
    estimated = sateen.estimate(a, "ecp5")["devices"]["ecp5"]["total"]
    assert found["builds"][0]["estimated"] == {k: estimated[k] for k in kept}
    for i, path in enumerate((a, b)):
        assert sum(row["cycles"][i] for row in found["layers"]) == sum(
            r["cycles"] for r in sateen.open(path).layers
        )
    assert main(["compare", a, b]) == 0
    shown = capsys.readouterr().out
    assert (
        "LUT, estimated, ecp5" in shown and "LUT, measured, ecp5" in shown and "wide, 16 multipliers" in shown
    )


def test_what_is_refused(builds, capsys):
    assert main(["compare", str(builds / "a")]) == 2
    assert "one build is nothing to compare" in capsys.readouterr().err
    assert main(["compare", str(builds / "a"), str(builds / "nowhere")]) == 2
    assert main(["compare", str(builds / "a"), str(builds / "b"), "--device", "zynq"]) == 2
    assert "unknown device 'zynq'" in capsys.readouterr().err
