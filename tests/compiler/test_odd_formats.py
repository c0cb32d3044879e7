"""Recipes × formats of one bit to five exponent bits × degenerate networks: reference and program agree, or an error
says what the format lacks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx_nets import Net

import sateen
from sateen.compiler.export.model import export_onnx
from sateen.errors import FormatError
from sateen.mapped import MappedNetwork
from sateen.sim.program import Interpreter
from sateen.sim.reference import finish_outputs, quantize_inputs

FORMATS = ("int1", "uint1", "int2n", "e1m1", "e2m0", "e5m0", "e5m2", "e3m2b20", "uint8")
DATA: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "constant": lambda rng, shape: np.full(shape, 0.4),
    "zero": lambda rng, shape: np.zeros(shape),
}


def one_channel(n: Net) -> Net:
    x = n.input(1, 1, 3, 3)
    return n.output(n.conv(n("Relu", n.conv(x, 1, 1, 3, 3)), 1, 1, 1, 1))


def one_pixel(n: Net) -> Net:
    return n.output(n("Gemm", n("Relu", n("Gemm", n.input(1, 6), n.random(6, 5))), n.random(5, 1)))


def zero_weights(n: Net) -> Net:
    zeros = n.constant(np.zeros((3, 3, 1, 1), np.float32))
    y = n("Relu", n("Conv", n.input(1, 3, 3, 3), zeros, n.random(3)))
    return n.output(n("Conv", y, zeros, n.random(3)))


def duplicated(n: Net) -> Net:
    y = n.conv(n.input(1, 3, 3, 3), 3, 3, 1, 1)
    return n.output(n.conv(n("Concat", y, y, axis=1), 6, 2, 1, 1), n("Add", y, y))


def several(n: Net) -> Net:
    a, b = n.conv(n.input(1, 3, 3, 3), 3, 3, 1, 1), n.conv(n.input(1, 3, 3, 3, name="y"), 3, 3, 1, 1)
    total = n("Add", a, b)
    return n.output(n("Sigmoid", total), n.conv(total, 3, 2, 3, 3), b)


def dead(n: Net) -> Net:
    y = n("Conv", n.input(1, 3, 3, 3), n.random(4, 3, 1, 1), n.constant(np.full(4, -50, np.float32)))
    return n.output(n.conv(n("GlobalAveragePool", n("Relu", y)), 4, 2, 1, 1))


NETWORKS = (one_channel, one_pixel, zero_weights, duplicated, several, dead)
ALL = list(itertools.product(NETWORKS, FORMATS, FORMATS, DATA, ("fast", "balanced", "best")))
CHOSEN = [ALL[i] for i in np.random.default_rng(0).permutation(len(ALL))[:36]]


def run_program(mapped: MappedNetwork, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    graph, p = mapped.quantized.graph, mapped.program
    codes = quantize_inputs(graph, inputs)
    data = np.zeros((len(next(iter(inputs.values()))), p.data_size), np.uint8)
    for r in p.inputs:
        start = r.offset - p.data_offset
        data[:, start : start + r.size] = r.pack(codes[r.tensor], p.config)
    Interpreter(p.config, p.constants, p.code, p.program_offset, data, p.data_offset).run(lambda part: None)
    found = {}
    for r in p.outputs:
        start = r.offset - p.data_offset
        found[r.tensor] = r.unpack(data[:, start : start + r.size], p.config)
    return finish_outputs(graph, found)


@pytest.mark.parametrize(("network", "weights", "activations", "data", "recipe"), CHOSEN)
def test_any_format_on_any_network(tmp_path, network, weights, activations, data, recipe):
    model = network(Net()).model()
    onnx.save(model, tmp_path / "m.onnx")
    rng = np.random.default_rng(1)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim][1:] for i in model.graph.input}
    samples = {k: DATA[data](rng, (9, *shape)) for k, shape in shapes.items()}
    try:
        quantized = sateen.load(tmp_path / "m.onnx").quantize(
            weights=weights, activations=activations, calibration=samples, ptq=recipe
        )
    except FormatError as e:
        assert weights in ("int1", "uint1", "uint8")
        assert "has no negative values" in str(e) or "has no positive value" in str(e)
        return
    mapped = quantized.map("tiny")
    inputs = {k: rng.normal(0, 1, (2, *shape)) for k, shape in shapes.items()}
    expected, found = quantized.run(inputs), run_program(mapped, inputs)
    for name, y in expected.items():
        assert np.isfinite(y).all() and y.tobytes() == found[name].tobytes(), name
    onnx.checker.check_model(export_onnx(quantized.graph))
    assert mapped.predict(latency=7, interval=2) > 0
