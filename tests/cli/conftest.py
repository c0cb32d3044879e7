from importlib.resources import as_file, files

import numpy as np
import pytest

from sateen.cli.main import main
from sateen.models.data import digits_split


@pytest.fixture
def sateen(capsys):
    """Run a command in this process: (exit code, standard output, standard error)."""

    def run(*args):
        try:
            code = main([str(a) for a in args])
        except SystemExit as e:
            code = e.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def model():
    with as_file(files("sateen.models") / "digits_cnn.onnx") as path:
        yield path


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with calibration.npz (64 digits) and inputs.npz (3)."""
    folder = tmp_path_factory.mktemp("data")
    digits = digits_split()
    np.savez(folder / "calibration.npz", input=digits.x_train[:64])
    np.savez(folder / "inputs.npz", input=digits.x_test[:3])
    return folder


@pytest.fixture(scope="session")
def build(tmp_path_factory, model, data):
    path = tmp_path_factory.mktemp("builds") / "digits"
    command = ["compile", model, "-o", path, "--preset", "tiny", "--calibration", data / "calibration.npz"]
    assert main([str(a) for a in command]) == 0
    return path
