"""The public names explain themselves: each docstring stands alone in a tooltip, and its example runs."""

import inspect
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import sateen

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = {name: getattr(sateen, name) for name in sateen.__all__}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if callable(value) and not inspect.isclass(value)}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
METHODS = {
    f"{name}.{method}": function
    for name in ("Network", "QuantizedNetwork", "MappedNetwork")
    for method, function in inspect.getmembers(CLASSES[name], inspect.isfunction)
    if not method.startswith("_") and method != "to_dict"
}
SLOW = ("cost", "bitstream")
"""Examples that synthesize: what they show is measured elsewhere."""


def example(of) -> list[str]:
    return re.findall(r"^ *>>> (.+)$", inspect.getdoc(of), re.MULTILINE)


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_a_docstring_stands_alone(name):
    function = (FUNCTIONS | METHODS)[name]
    text = inspect.getdoc(function)
    first, _, rest = text.partition("\n")
    assert first.endswith((".", ":")) and len(first) < 120 and not first.startswith("Of ")
    for parameter in inspect.signature(function).parameters:
        assert parameter == "self" or re.search(rf"^(\w+, )*{parameter}(, \w+)* : ", rest, re.MULTILINE), (
            parameter
        )
    for heading in ("Returns", "Raises", "Examples"):
        assert f"\n{heading}\n{'-' * len(heading)}\n" in rest, heading
    assert len(example(function)) == 2


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_says_what_it_is(name):
    text = inspect.getdoc(CLASSES[name])
    assert text and text != inspect.getdoc(CLASSES[name].__mro__[1])
    if name not in ("SateenError", "Format"):
        assert len(example(CLASSES[name])) == 2
    for attribute, value in vars(CLASSES[name]).items():
        if isinstance(value, property) and not attribute.startswith("_") and name in METHODS_OF:
            assert inspect.getdoc(value), attribute


METHODS_OF = {name.partition(".")[0] for name in METHODS} | {"Build"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copy(ROOT / "models/digits_cnn.onnx", folder / "net.onnx")
    images = np.random.default_rng(0).random((16, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "samples.npz", input=images)
    network = sateen.load(folder / "net.onnx")
    quantized = network.quantize(calibration=folder / "samples.npz")
    mapped = quantized.map("tiny")
    build = mapped.write(folder / "build")
    return folder, {
        "sateen": sateen, "images": images, "labels": np.arange(16) % 10,
        "network": network, "quantized": quantized, "mapped": mapped, "build": build
    }  # fmt: skip


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS, *CLASSES])
def test_its_example_runs(name, place, monkeypatch):
    folder, names = place
    lines = example((FUNCTIONS | METHODS | CLASSES)[name])
    monkeypatch.chdir(folder)
    names = dict(names)
    for line in lines[:-1]:
        code = compile(line, name, "exec")
        if name not in SLOW:
            exec(code, names)
    if lines and name not in SLOW:
        assert eval(lines[-1], names) is not None


def test_results_become_plain_values(place):
    _, names = place
    result = names["build"].run({"input": names["images"]}, "program")
    for value in (
        names["network"],
        names["quantized"],
        names["mapped"],
        names["build"],
        result,
        sateen.preset("tiny"),
    ):
        assert json.loads(json.dumps(value.to_dict()))
    assert [f.to_dict()["state"] for f in names["network"].findings] == ["supported"] * len(
        names["network"].findings
    )
    rows = names["build"].layers
    assert {tuple(row) for row in rows} == {tuple(rows[0])}  # one set of columns, and no nested values
    assert all(v is None or isinstance(v, str | int | float) for row in rows for v in row.values())


def test_the_schedule_is_made_once(place, monkeypatch, tmp_path):
    from sateen.compiler import pipeline

    made = []
    original = pipeline.schedule
    monkeypatch.setattr(pipeline, "schedule", lambda *args: made.append(1) or original(*args))
    mapped = place[1]["quantized"].map("tiny")
    layers = mapped.layers
    written = mapped.write(tmp_path / "build").layers
    assert [row["cycles"] for row in written] == [row["cycles"] for row in layers] and made == [1]


def test_the_float_network_runs(place):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, names = place
    session = onnxruntime.InferenceSession(folder / "net.onnx", providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"input": x[None]})[0] for x in names["images"]])
    (found,) = names["network"].run({"input": names["images"]}).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
