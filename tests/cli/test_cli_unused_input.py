"""An input that the file declares and nothing uses: given with the others or not, the outputs are the same."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx

import sateen

sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))
from onnx_nets import Net


def test_declared_and_never_read(tmp_path):
    net = Net()
    y = net.conv(net.input("N", 3, 6, 6), 3, 4, 3, 3)
    net.input("N", 2, name="spare")
    onnx.save(net.output(y).model(), tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(0, 1, (4, 3, 6, 6)).astype(np.float32)
    both = {"x": x, "spare": np.ones((4, 2), np.float32)}
    sateen.compile(tmp_path / "m.onnx", tmp_path / "b", calibration=both, preset="tiny")
    listed = json.loads((tmp_path / "b" / "manifest.json").read_text())["inputs"]
    assert [p["name"] for p in listed] == ["x", "spare"]
    assert listed[1] == {"name": "spare", "shape": [2], "used": False}
    want = sateen.run(tmp_path / "b", {"x": x}).outputs[y]
    for engine in ("reference", "program"):
        assert (sateen.run(tmp_path / "b", both, engine).outputs[y] == want).all()
    network = sateen.load(tmp_path / "m.onnx")
    assert (network.run(both)[y] == network.run({"x": x})[y]).all()
    assert (network.quantize(calibration=both).run(both)[y] == want).all()
