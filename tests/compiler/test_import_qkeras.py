"""QKeras networks as the qonnx package writes them, and what QKeras computed: data/qkeras/generate.py makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from test_import_quantized import compiled

from sateen.compiler.importer import check_model, import_model, load_model
from sateen.compiler.quantize.given import activation_format, weight_format
from sateen.formats import parse_format
from sateen.sim.reference import run_reference

FILES = Path(__file__).parent / "data/qkeras"
CASES = np.load(FILES / "cases.npz")

EXACT = {
    "dense_8": "int8n/uint8",
    "dense_4": "int4n/uint8",
    "dense_2": "int2n/uint8",
    "dense_wide": "int8n/uint6",
    "conv_8": "int8n/uint8",
    "conv_4": "int4n/uint8",
    "residual": "int4n/int8",
    "binary": "int2n/int8",
    "activations": "int6n/int8",
    "activations_bias": "int6n/int8",
}
"""Outputs are QKeras' own; formats of weights and activations, as the file gives them."""

COARSE = {"conv_2": 0.17, "conv_normalized": 0.01}
"""Biases finer than sums of few bits of weights: the greatest difference, as a part of the outputs' range."""


def reference(name, weights=None):
    qgraph = compiled(load_model(FILES / f"{name}.onnx"), weights and parse_format(weights))
    port, want = qgraph.inputs[0], CASES[name]
    x = CASES["x" if len(port.shape) == 3 else "x_flat"]
    got = next(iter(run_reference(qgraph, {port.name: x}).values()))
    return qgraph, got.reshape(want.shape), want


@pytest.mark.parametrize("name", EXACT)
def test_outputs_are_those_of_qkeras(name):
    qgraph, got, want = reference(name)
    assert np.ptp(want) > 1, "the case excites nothing"
    np.testing.assert_array_equal(got, want)
    found = qgraph.metadata["weight_format"], qgraph.metadata["activation_format"]
    assert "/".join(found) == EXACT[name]
    assert all(f.supported for f in check_model(load_model(FILES / f"{name}.onnx")))


@pytest.mark.parametrize("name", COARSE)
def test_biases_finer_than_sums_are_warned_of(name, caplog):
    _, got, want = reference(name)
    assert 0 < np.abs(got - want).max() < COARSE[name] * np.ptp(want)
    assert "biases become whole steps of the sum" in caplog.text


def test_wider_weights_hold_such_biases(caplog):
    _, got, want = reference("conv_2", "int8")
    np.testing.assert_array_equal(got, want)
    assert "biases" not in caplog.text


def test_ternary_rounds_a_half_to_zero_in_the_file():
    """QKeras rounds it away from zero, so the file is not the network; what is imported is the file."""
    _, got, want = reference("ternary")
    same = got == want
    assert 0.5 < same.mean() < 1
    assert np.abs(got - want).max() <= 1


@pytest.mark.parametrize(("name", "absent"), [("dense_auto_po2", "weights"), ("signed_input", "activations")])
def test_the_converter_leaves_quantizers_out(name, absent):
    """Of weights with scales other than 1, and of an input that is signed: it has to be chosen here."""
    graph = import_model(load_model(FILES / f"{name}.onnx"))
    assert (weight_format(graph) is None) == (absent == "weights")
    assert (activation_format(graph) is None) == (absent == "activations")


def test_files_name_a_domain_that_they_do_not_import():
    model = onnx.load(FILES / "conv_4.onnx")
    domains = {n.domain for n in model.graph.node} - {o.domain for o in model.opset_import}
    assert domains == {"qonnx.custom_op.general"}
    assert load_model(FILES / "conv_4.onnx").opset_import == model.opset_import, "the file stays as it is"
