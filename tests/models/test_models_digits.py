"""The committed digits networks, and the data that comes with them."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import onnx
import onnxruntime
import pytest

from sateen.models.data import CALIBRATION, digits_split, write_digits_npz

NETWORKS = ["digits_cnn", "digits_resnet"]
ACCURACY = {"digits_cnn": 0.994, "digits_resnet": 0.994}
"""Of the float networks on the 500 test scans, as the training command printed it."""


def committed(name: str) -> bytes:
    return files("sateen.models").joinpath(f"{name}.onnx").read_bytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_accuracy(name):
    content = committed(name)
    assert len(content) < 300_000
    session = onnxruntime.InferenceSession(content)
    (port,) = session.get_inputs()
    assert (port.name, port.shape, port.type) == ("input", [1, 1, 8, 8], "tensor(float)")
    digits = digits_split()
    guesses = [session.run(["logits"], {"input": x[None]})[0].argmax() for x in digits.x_test]
    assert np.mean(guesses == digits.y_test) == pytest.approx(ACCURACY[name], abs=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_is_valid_onnx(name):
    model = onnx.load_from_string(committed(name))
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 17
    used = {n.op_type for n in model.graph.node}
    assert {"Conv", "BatchNormalization", "Relu", "Gemm"} <= used
    assert ("Add" in used and "GlobalAveragePool" in used) == (name == "digits_resnet")


def test_split():
    digits = digits_split()
    assert digits.x_train.shape == (1297, 1, 8, 8) and digits.x_test.shape == (500, 1, 8, 8)
    assert digits.x_train.dtype == np.float32 and digits.x_train.min() == 0 and digits.x_train.max() == 1
    assert set(digits.y_train) == set(digits.y_test) == set(range(10))
    again = digits_split()
    assert all(np.array_equal(a, b) for a, b in zip(digits, again, strict=True))
    train = {x.tobytes() for x in digits.x_train}
    assert not any(x.tobytes() in train for x in digits.x_test)


def test_npz(tmp_path):
    calibration, test, labels = write_digits_npz(tmp_path / "new")
    digits = digits_split()
    assert np.array_equal(np.load(calibration)["input"], digits.x_train[:CALIBRATION])
    assert np.array_equal(np.load(test)["input"], digits.x_test)
    assert np.array_equal(np.load(labels)["labels"], digits.y_test)


def test_training_code():
    """The architecture that is trained is the one committed; one epoch learns something."""
    torch = pytest.importorskip("torch", reason="needs the train extra")
    from sateen.models import digits as training

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = training.DigitsCnn()
    assert training.train(model, epochs=1) > 0.2  # chance is 0.1
    for name, make in training.MODELS.items():
        shapes = sorted(tuple(p.shape) for p in make().parameters())
        weights = onnx.load_from_string(committed(name)).graph
        stored = [i for i in weights.initializer if not i.name.endswith(("running_mean", "running_var"))]
        copies = [n for n in weights.node if n.op_type == "Identity"]  # equal tensors are stored once
        assert len(stored) + len(copies) == len(shapes)
        assert {tuple(i.dims) for i in stored} == set(shapes)


def test_export(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the train extra")
    from sateen.models import digits as training

    torch.manual_seed(0)
    model = training.DigitsResnet().eval()
    path = tmp_path / "net.onnx"
    training.export(model, path)
    x = digits_split().x_test[:1]
    (want,) = model(torch.from_numpy(x)).detach().numpy()
    (got,) = onnxruntime.InferenceSession(path).run(None, {"input": x})[0]
    assert got == pytest.approx(want, abs=1e-5)
