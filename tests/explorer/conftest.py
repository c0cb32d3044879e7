import pytest

from sateen.models.data import write_digits_npz


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Paths of calibration, test samples and labels."""
    return write_digits_npz(tmp_path_factory.mktemp("digits"))
