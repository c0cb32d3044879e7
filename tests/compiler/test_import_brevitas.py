"""Files that Brevitas itself wrote, and what it computed: data/brevitas/generate.py makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_nets import runtime
from test_import_quantized import compiled

from sateen.compiler.importer import check_model, import_model, load_model
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.given import activation_format, conform, weight_format
from sateen.compiler.quantize.network import quantize
from sateen.errors import DataError
from sateen.formats import parse_format
from sateen.sim.reference import run_reference

FILES = Path(__file__).parent / "data/brevitas"
CASES = np.load(FILES / "cases.npz")

EXACT = {
    "int8": "int8n/int8",
    "int8_channels_bias": "int8n/int8",
    "int8_pot": "int8n/int8",
    "int8_residual": "int8n/int8",
    "int4_pot_residual": "int4n/int4",
    "shifted": "int8n/uint8",
    "shifted_weights": "int8/int8",
    "trunc_floor": "int8n/int8",
    "trunc_round": "int4n/int6",
    "binary": "int2n/int8",
    "e2m1": "e2m1/e2m1",
    "e3m2": "e3m2/e3m2",
    "e3m2_channels": "e3m2/e3m2",
    "e4m3fn": "e4m3fn/e4m3fn",
    "qcdq_int8": "int8n/int8",
    "qcdq_bias": "int8n/int8",
    "qcdq_int4_bias": "int4n/int4",
    "qcdq_pot_residual": "int6n/int6",
    "qcdq_shifted": "int8n/uint8",
    "qcdq_e4m3fn": "e4m3fn/e4m3fn",
}
"""Codes are Brevitas' own; formats of weights and activations, as the file gives them."""

ONE_TIE = {"shifted", "qcdq_shifted", "qcdq_int4_bias"}
"""Of these, scales no powers of two, some samples have a code that is next to a tie, and one step beside Brevitas'."""

COARSE = {"int3": 0.13, "int4_channels": 0.07, "qcdq_int4_channels": 0.07, "ternary": 0.41}
"""Float biases (of batch normalization too) that few bits of weights keep in coarse steps: the greatest difference."""


def reference(name, weights=None):
    qgraph = compiled(load_model(FILES / f"{name}.onnx"), weights and parse_format(weights))
    y = CASES[name]
    got = next(iter(run_reference(qgraph, {qgraph.inputs[0].name: CASES["x"]}).values()))
    return qgraph, got.reshape(y.shape), y


@pytest.mark.parametrize("name", EXACT)
def test_codes_are_those_of_brevitas(name):
    """Outputs without a quantizer are sums in float32 there, with a bias of float32."""
    qgraph, got, want = reference(name)
    assert np.ptp(want) > 0.2, "the case excites nothing"
    same = np.isclose(got, want, rtol=1e-5, atol=2e-5).all(axis=1)
    assert same.mean() >= (0.85 if name in ONE_TIE else 1)
    assert np.abs(got - want).max() < 0.02 * np.ptp(want)
    found = qgraph.metadata["weight_format"], qgraph.metadata["activation_format"]
    assert "/".join(found) == EXACT[name]
    assert all(f.supported for f in check_model(load_model(FILES / f"{name}.onnx")))


@pytest.mark.parametrize("name", COARSE)
def test_float_biases_at_few_bits_are_warned_of(name, caplog):
    _, got, want = reference(name)
    assert np.abs(got - want).max() < COARSE[name]
    assert "biases become whole steps of the sum" in caplog.text


@pytest.mark.parametrize(
    ("name", "weights", "most"), [("ternary", "int8", 1e-6), ("int4_channels", "int8", 2e-4)]
)
def test_wider_weights_keep_biases_finer(name, weights, most, caplog):
    _, got, want = reference(name, weights)
    assert np.abs(got - want).max() < most
    assert "biases" not in caplog.text


def test_brevitas_writes_a_truncation_as_a_rounding_in_qcdq():
    """So the file is not the network; what is imported is the file."""
    _, got, want = reference("qcdq_trunc")
    model = load_model(FILES / "qcdq_trunc.onnx")
    name = model.graph.input[0].name
    files = [next(iter(runtime(model, {name: x[None]}).values())) for x in CASES["x"]]
    np.testing.assert_allclose(got, np.concatenate(files), rtol=1e-5, atol=1e-5)
    assert np.abs(got - want).max() > 0.05


def test_activations_whose_input_is_not_rounded_need_samples():
    model = load_model(FILES / "functions.onnx")
    with pytest.raises(
        DataError, match=r"the model says of .*Conv_output_0.* not how it is rounded; give --calib"
    ):
        reference("functions")
    graph = import_model(model)
    weights, activations = weight_format(graph), activation_format(graph)
    graph = conform(graph, activations)
    x = {graph.inputs[0].name: CASES["x"]}
    formats = {"weight_format": weights, "activation_format": activations}
    got = next(iter(run_reference(quantize(graph, calibrate(graph, x), **formats), x).values()))
    want = CASES["functions"]
    assert np.abs(got.reshape(want.shape) - want).max() < 0.05 * np.ptp(want)
