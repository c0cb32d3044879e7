"""Integer graphs through all four engines: codes in, codes out, weights of more than 8 bits, a rounded Softmax."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from four_engines import check, machine
from integer_nets import asymmetric, coded, feeds_of
from onnx_nets import runtime

import sateen


@pytest.mark.rtl
@pytest.mark.parametrize("network", [coded, asymmetric])
def test_an_integer_network_runs_bit_exact(network, tmp_path: Path):
    model = network()
    feeds = feeds_of(model, 3)
    found = check(model, feeds["x"], machine("int8", "int8"), tmp_path)
    want = next(iter(runtime(model, feeds).values()))[:2]
    got = next(iter(found["rtl"].outputs.values()))
    assert got.dtype == want.dtype and len(np.unique(got)) > 2
    steps = np.abs(got.astype(int) - want)
    assert steps.max() <= 2 and np.mean(steps > 0) < 0.05
    exported = next(iter(runtime(onnx.load(tmp_path / "build" / "model.onnx"), feeds).values()))[:2]
    assert exported.dtype == want.dtype
    assert np.abs(exported.astype(int) - got).max() <= 2


def test_the_manifest_and_the_command_line_take_codes(tmp_path: Path):
    onnx.save(coded(), tmp_path / "net.onnx")
    manifest = sateen.compile(tmp_path / "net.onnx", tmp_path / "build", preset="tiny")
    [port] = manifest["inputs"]
    assert (port["type"], port["zero_point"]) == ("int8", 11)
    assert manifest["outputs"][0]["type"] == "int8"
    x = feeds_of(coded(), 2)
    np.savez(tmp_path / "x.npz", **x)
    files = [str(tmp_path / n) for n in ("build", "x.npz", "y.npz")]
    from sateen.cli.main import main

    assert main(["run", files[0], "--inputs", files[1], "--outputs", files[2]]) == 0
    y = next(iter(np.load(files[2]).values()))
    assert y.dtype == np.int8
    np.testing.assert_array_equal(y, next(iter(sateen.run(files[0], x).outputs.values())))
    np.savez(files[1], x=x["x"].astype(np.float32))
    assert main(["run", files[0], "--inputs", files[1]]) == 2
