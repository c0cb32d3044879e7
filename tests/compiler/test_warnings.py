"""What a compilation warns of: on standard error once, and in the manifest."""

import itertools
import logging

import numpy as np
import onnx
import pytest
from onnx_nets import Net

import sateen
from sateen.compiler.importer import import_model
from sateen.compiler.pipeline import quantize_graph
from sateen.compiler.warn import collected
from sateen.formats import parse_sparsity
from sateen.machine.presets import preset

X = {"x": np.random.default_rng(0).uniform(0.5, 1, (8, 3, 4, 4)).astype(np.float32)}


def branches(ratio: float) -> onnx.ModelProto:
    net = Net()
    x = net.input("N", 3, 4, 4)
    near, far = net("Relu", x), net("Sigmoid", x)
    far = net("Mul", far, net.constant(ratio, np.float32))
    return net.output(net("Concat", near, far, axis=1)).model()


def two_layers(middle: int) -> onnx.ModelProto:
    net = Net()
    x = net.input("N", 3, 4, 4)
    channels = [3, *[16] * (middle + 1), 2]
    for low, high in itertools.pairwise(channels):
        x = net("Relu", net.conv(x, low, high, 1, 1))
    return net.output(x).model()


def warnings_of(model, tmp_path, activations="int8", **options):
    onnx.save(model, tmp_path / "m.onnx")
    config = preset("sat256").replace(weight_format="int8", activation_format=activations)
    graph = import_model(tmp_path / "m.onnx")
    return quantize_graph(graph, "m.onnx", config=config, calibration=X, **options).warnings


@pytest.mark.parametrize(
    ("ratio", "activations", "warned"),
    [
        (1, "int8", 0),
        (100, "int8", 1),
        (1e4, "int8", 1),
        (0.01, "int8", 1),
        (100, "e4m3fn", 0),
        (1e6, "e4m3fn", 1),
    ],
)
def test_parts_of_a_concat(ratio, activations, warned, tmp_path, caplog):
    found = warnings_of(branches(ratio), tmp_path, activations)
    assert len(found) == warned == len(caplog.records)
    if warned:
        assert "Concat 'Concat3': " in found[0] and "relu0" in found[0] and "are left for" in found[0]


@pytest.mark.parametrize("middle", [0, 1])
def test_sparsity_that_prunes_nothing(middle, tmp_path, caplog):
    found = warnings_of(two_layers(middle), tmp_path, sparsity=parse_sparsity("2:4"))
    assert [w.startswith("sparsity 2:4 prunes nothing") for w in found] == [True] * (middle == 0)
    assert middle or ("(first layer)" in found[0] and "(last layer)" in found[0])


def test_manifest(tmp_path):
    onnx.save(branches(100), tmp_path / "m.onnx")
    manifest = sateen.compile(tmp_path / "m.onnx", tmp_path / "b", calibration=X, preset="tiny")
    assert len(manifest["warnings"]) == 1


def test_each_is_said_once(caplog):
    logger = logging.getLogger("sateen")
    with collected() as found:
        for n in (1, 2, 1):
            logger.warning("number %d", n)
            logger.info("not kept")
    assert found == ["number 1", "number 2"]
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == found


def test_a_logger_that_another_library_turned_off(monkeypatch):
    logger = logging.getLogger("sateen")
    monkeypatch.setattr(logger, "disabled", True)
    with collected() as found:
        logger.warning("heard")
    assert found == ["heard"] and logger.disabled
