"""Patterns layer by layer: from the map to the program, on all engines."""

from pathlib import Path

import numpy as np
import pytest

import sateen
from sateen.errors import ConfigError, FormatError, ModelError
from sateen.formats import parse_sparsity
from sateen.models.data import write_digits_npz
from sateen.options import choose_patterns

MODEL = Path(__file__).resolve().parents[2] / "models/digits_cnn.onnx"
CONFIG = sateen.AcceleratorConfig(
    name="patterned", rows=2, cols=2, lanes=1, group=4, patterns=("dense", "1:2", "2:4", "1:4"), act_banks=2,
    act_bank_depth=1024, weight_depth=512, acc_depth=64, vector_lanes=1, bus_bits=32, queue_depth=2, narrow=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_digits_npz(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def names():
    from sateen.ir.nodes import Conv

    return [n.name for n in sateen.load(MODEL).graph.nodes if isinstance(n, Conv)]


def written(path, layers, default=None):
    lines = [f'default = "{default}"'] if default else []
    path.write_text("\n".join([*lines, "[layers]", *(f'"{k}" = "{v}"' for k, v in layers.items())]) + "\n")
    return path


@pytest.mark.rtl
def test_every_layer_has_its_pattern_on_every_engine(samples, names, tmp_path):
    patterns = dict(zip(names, ("1:4", "dense", "2:4", "1:2"), strict=False))
    manifest = sateen.compile(
        MODEL, tmp_path / "build", calibration=samples[0], config=CONFIG,
        sparsity_map=written(tmp_path / "map.toml", patterns, "1:2"),
    )  # fmt: skip
    build = sateen.open(tmp_path / "build")
    rows = [row["sparsity"] for row in build.layers if row["macs"] and row["kind"] != "Pool"]
    assert rows[: len(patterns)] == list(patterns.values())
    with np.load(samples[1]) as test:
        images = {"input": test["input"][:3]}
    expected = build.run(images, "reference").outputs
    for engine in ("program", "rtl"):
        found = build.run(images, engine)
        assert all(np.array_equal(found.outputs[k], expected[k]) for k in expected), engine
    assert found.cycles == 3 * manifest["cycles"] == build.run(images, "model").cycles


def test_a_map_of_one_pattern_is_that_pattern(samples, names):
    network = sateen.load(MODEL)
    uniform = network.quantize(calibration=samples[0], sparsity="2:4", sparsity_method="magnitude")
    mapped = network.quantize(
        calibration=samples[0], sparsity_map={"default": "2:4"}, sparsity_method="magnitude"
    )
    ends = network.quantize(
        calibration=samples[0], sparsity_map=dict.fromkeys(names, "2:4"), sparsity_method="magnitude"
    )
    nonzero = [
        sum(int((c.codes != 0).sum()) for op in q.graph.ops for c in op.constants)
        for q in (uniform, mapped, ends)
    ]
    assert nonzero[0] == nonzero[1] > nonzero[2]  # first and last where they are named
    assert uniform.map(CONFIG).cycles == mapped.map(CONFIG).cycles


def test_keep_marks_layers_and_refuses_what_breaks_them(samples, names):
    network = sateen.load(MODEL)
    with pytest.raises(ModelError, match=f"Conv '{names[1]}': .* prune it with another sparsity method"):
        network.quantize(calibration=samples[0], sparsity_map={names[1]: "1:4"}, sparsity_method="keep")
    kept = network.quantize(calibration=samples[0], sparsity_map={names[1]: "dense"}, sparsity_method="keep")
    assert kept.map("tiny").cycles == network.quantize(calibration=samples[0]).map("tiny").cycles


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            '[layers]\nnowhere = "2:4"\n',
            ModelError,
            "'nowhere' is no convolution or Gemm of the model; it has ",
        ),
        ('[layers]\na = "3:7"\n', FormatError, "sparsity map .*map.toml: a: unknown sparsity '3:7'"),
        ('default = "x"\n', FormatError, "map.toml: default: unknown sparsity 'x'"),
        ('layers = "2:4"\n', ConfigError, "layers = '2:4'; it must be a table"),
        ('conv1 = "2:4"\n', ConfigError, "unknown key 'conv1'; known are default and the table layers"),
        ('default = "1:8"\n', ConfigError, "sparsity 1:8: configuration 'patterned' is built for dense, 1:2"),
    ],
)
def test_what_is_refused(text, error, message, samples, tmp_path):
    (tmp_path / "map.toml").write_text(text)
    with pytest.raises(error, match=message):
        sateen.compile(
            MODEL, tmp_path / "b", calibration=samples[0], config=CONFIG, sparsity_map=tmp_path / "map.toml"
        )


def test_one_of_both_is_given():
    with pytest.raises(ConfigError, match="both sparsity 2:4 and a sparsity map"):
        choose_patterns("2:4", {"a": "1:2"})
    assert choose_patterns("2:4", None) == (parse_sparsity("2:4"), {})
