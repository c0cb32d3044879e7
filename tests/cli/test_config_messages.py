"""What a user reads who sets one field of a configuration that does not go with the others."""

import pytest

from sateen.errors import ConfigError, FormatError
from sateen.machine.config import AcceleratorConfig
from sateen.machine.presets import preset


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cols = 2",
            "vector_lanes = 4 (the default); it must be a divisor of cols = 2; set vector_lanes too, or change cols",
        ),
        (
            "rows = 1",
            "cols = 4 (the default); it must be a divisor of rows*group = 2; set cols too, or change rows",
        ),
        (
            "rows = 3\ncols = 2\nvector_lanes = 2",
            "rows = 3; it must be such that rows*group = 6 is a power of two; group = 2: the default",
        ),
        (
            'patterns = ["dense", "2:8"]',
            "group = 2 (the default); it must be above lanes = 2 and a multiple of 8, for 2:8 of patterns; set "
            "group too, or change patterns",
        ),
        (
            "rows = 64\nlanes = 1\ngroup = 16\ncols = 256\nvector_lanes = 8",
            "weight_depth = 1024 (the default); it must be from 2048 (two weight tiles of rows*group/lanes words) to "
            "2**23; set weight_depth too, or change rows or lanes or group",
        ),
        (
            "rows = 64\ncols = 128\nparameter_depth = 32",
            "parameter_depth = 32; it must be at least 2*cols/vector_lanes = 64; vector_lanes = 4: the default",
        ),
        (
            "burst_beats = 128\nbus_bits = 512",
            "burst_beats = 128; it must be at most 64, 4096 bytes with bus_bits = 512",
        ),
        ("burst_beats = 256\nbus_bits = 256", "burst_beats = 256; it must be at most 128"),
        ("acc_bits = 200", "acc_bits = 200; it must be 8 to 127"),
        ("queue_depth = 512", "queue_depth = 512; it must be at most 256"),
        (
            "rows = 1\ncols = 2\nvector_lanes = 2\nlanes = 1\ngroup = 64",
            "group = 64; it must be at most 32*lanes = 32",
        ),
        (
            'dataflows = [["output_stationary"], "weight_stationary"]',
            "dataflows = (['output_stationary'], 'weight_stationary'); it must be a list with",
        ),
    ],
)
def test_one_field(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as e:
        AcceleratorConfig.load(path)
    assert str(e.value).startswith(f"configuration 'mine': {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('weight_format = "int9"', "weight_format: unknown format 'int9'"),
        ('activation_format = "e6m1"', "activation_format: unknown format 'e6m1'"),
        ('patterns = ["dense", "3:4"]', "patterns: unknown sparsity '3:4'"),
        ('patterns = ["dense", 2]', "patterns: unknown sparsity 2"),
    ],
)
def test_a_name_that_is_none(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(FormatError) as e:
        AcceleratorConfig.load(path)
    assert str(e.value).startswith(f"configuration 'mine': {message}")


def test_a_change_to_a_preset():
    with pytest.raises(ConfigError) as e:
        preset("mac256").replace(cols=4)
    assert str(e.value) == (
        "configuration 'mac256': vector_lanes = 8 (of 'mac256'); it must be a divisor of cols = 4; set "
        "vector_lanes too, or change cols"
    )
    with pytest.raises(ConfigError, match=r"rows = 5; .* rows\*group = 10 .*group = 2: of 'mac256'"):
        preset("mac256").replace(rows=5, cols=2, vector_lanes=2)


def test_built_in_python():
    with pytest.raises(ConfigError, match=r"vector_lanes = 4 \(the default\).*change cols"):
        AcceleratorConfig(cols=2)
