"""Samples as people have them: one array, a folder of images, random numbers that are marked as such."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sateen
from sateen.errors import BuildError, DataError
from sateen.ir.ports import Port
from sateen.samples import Images, Spec, load_samples, random_samples

ROOT = Path(__file__).resolve().parents[1]
CNN = ROOT / "models/digits_cnn.onnx"
RGB = Port("x", (3, 4, 6), (3, 4, 6), (1, 2, 0))
"""Channels first, four rows of six pixels."""


def ports(*given):
    return lambda: given


@pytest.fixture
def folder(tmp_path):
    """Two images whose channels are constant, in the order of their names, and a text file."""
    for name, colour in (("b/two.png", (0, 51, 255)), ("a/one.jpg", (255, 255, 255))):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (30, 10), colour).save(path)
    (tmp_path / "photos/read.me").write_text("no image")
    return tmp_path / "photos"


def test_images_by_mean_and_deviation(folder):
    """The JPEG of the folder a comes first; white is 1 before the mean is subtracted."""
    x = load_samples(Images(folder, mean=(0.5, 0.2, 0), std=(0.5, 0.1, 2)), ports(RGB), "data")["x"]
    assert x.shape == (2, 3, 4, 6) and x.dtype == np.float32
    np.testing.assert_allclose(x[0].mean((1, 2)), [1, 8, 0.5], atol=1e-2)
    np.testing.assert_allclose(x[1].mean((1, 2)), [-1, 0, 0.5], atol=1e-6)
    last = Port("x", (4, 6, 3), (4, 6, 3))
    raw = load_samples(Images(str(folder), white=255.0), ports(last), "data")["x"]
    assert raw.shape == (2, 4, 6, 3) and raw[1, 0, 0].tolist() == [0, 51, 255]


def test_the_middle_is_cut_out(tmp_path):
    """12 by 8 pixels, a column of each brightness; the shorter side becomes 4, so every second one is left, 6 by 4."""
    (tmp_path / "in").mkdir()
    Image.fromarray(np.tile(np.arange(12, dtype=np.uint8) * 20, (8, 1))).save(tmp_path / "in/g.png")
    grey = Port("x", (1, 4, 4), (1, 4, 4), (1, 2, 0))
    x = load_samples(Images(tmp_path / "in", size=4, white=255.0), ports(grey), "data")["x"]
    assert x.shape == (1, 1, 4, 4)
    np.testing.assert_allclose(x[0, 0, 1], [50, 90, 130, 170], atol=1)


def test_one_array_is_for_the_one_input(tmp_path):
    x = np.random.default_rng(0).random((5, 3, 4, 6))
    np.save(tmp_path / "x.npy", x)
    found = load_samples(tmp_path / "x.npy", ports(RGB), "data")
    assert list(found) == ["x"] and (found["x"] == x).all()
    with pytest.raises(DataError, match=r"x\.npy: an \.npy file is for networks with one input, .*'x', 'y'"):
        load_samples(tmp_path / "x.npy", ports(RGB, Port("y", (1,), (1, 1, 1))), "data")
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"data .*x\.npy: is no array; write it with numpy\.save"):
        load_samples(tmp_path / "x.npy", ports(RGB), "data")


@pytest.mark.parametrize(
    ("options", "port", "message"),
    [
        ({"size": 3}, RGB, "size 3; the input needs 4 by 6 pixels"),
        ({"mean": (1, 2)}, RGB, "mean has 2 values; give one, or one for each of 3"),
        ({"std": (1, 0, 1)}, RGB, "std 1, 0, 1; each must be positive"),
        ({}, Port("x", (5, 4, 6), (5, 4, 6)), "input 'x' of shape 5×4×6 takes no images"),
    ],
)
def test_images_that_do_not_fit(folder, options, port, message):
    with pytest.raises(DataError, match=message):
        load_samples(Images(folder, **options), ports(port), "data")


def test_folders_without_images(folder, monkeypatch):
    (folder / "a/one.jpg").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"one\.jpg cannot be read"):
        load_samples(str(folder), ports(RGB), "data")
    for path in (folder / "a/one.jpg", folder / "b/two.png"):
        path.unlink()
    with pytest.raises(DataError, match="no image in the folder"):
        load_samples(str(folder), ports(RGB), "data")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(
        BuildError, match=r"Pillow.* is missing; install it with: pip install 'sateen\[images\]'"
    ):
        load_samples(str(folder), ports(RGB), "data")


def test_random_numbers_are_the_same_in_every_run():
    found = random_samples([Spec("x", (2, 3)), Spec("codes", (64,), "int8", (-4, 3))], 50)
    assert found["x"].shape == (50, 2, 3) and found["x"].dtype == np.float32
    assert set(np.unique(found["codes"])) == set(range(-4, 4)) and found["codes"].dtype == np.int8
    assert (random_samples([Spec("x", (2, 3))], 50)["x"] == found["x"]).all()


@pytest.fixture(scope="module")
def random_build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random") / "build"
    return folder, sateen.compile(CNN, folder, calibration="random", preset="tiny")


def test_random_calibration_is_marked_and_has_no_accuracy(random_build):
    folder, manifest = random_build
    assert manifest["ptq"]["calibration"] == "random" and "errors" not in manifest
    assert any("random numbers" in w for w in manifest["warnings"])
    text = sateen.report(folder).read_text()
    assert "Calibrated with random numbers" in text and "Not measured" in text
    x = np.zeros((2, 1, 8, 8), np.float32)
    with pytest.raises(DataError, match="calibration is random"):
        sateen.run(folder, {"input": x}, labels=np.zeros(2, int))
    assert json.loads((folder / "manifest.json").read_text())["ptq"]["calibration"] == "random"


def test_random_inputs_are_the_same_for_all_engines(random_build):
    a, b = (
        sateen.run(random_build[0], "random", engine).outputs["logits"] for engine in ("reference", "program")
    )
    assert a.shape == (16, 10) and (a == b).all()


def test_cycles_do_not_depend_on_samples(random_build, tmp_path):
    data = {"input": np.random.default_rng(1).random((8, 1, 8, 8)).astype(np.float32)}
    assert (
        sateen.compile(CNN, tmp_path / "b", calibration=data, preset="tiny")["cycles"]
        == random_build[1]["cycles"]
    )
    staged = sateen.load(CNN).quantize(calibration="random")
    assert staged.record["calibration"] == "random"
