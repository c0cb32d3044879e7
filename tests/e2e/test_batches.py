"""Samples that share a run, as pixels: bits as one by one, weights read once, in all four engines and on a board."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from four_engines import machine
from onnx_nets import Net

import sateen
from sateen.board import run_on_board
from sateen.errors import ConfigError
from sateen.machine.config import DATAFLOWS
from sateen.sim.board import SimulatedBoard
from sateen.sim.engines import Build

TINY = machine("int8", "int8", act_bank_depth=1024)
ROWS = machine("int8", "int8", softmax=True, normalize=True)
BOTH = machine("e3m2", "int8", rows=4, cols=4, lanes=1, group=2, dataflows=DATAFLOWS, act_bank_depth=1024)


def mlp(inputs: int = 11) -> Net:
    """Dense layers, a residual, a table, two outputs, of which one is not rounded."""
    net = Net()
    x = net("Relu", net("Gemm", net.input(1, inputs), net.random(inputs, 9), net.random(9)))
    y = net("Tanh", net("MatMul", x, net.random(9, 9)))
    z = net("Add", x, net("Gemm", y, net.random(9, 9), net.random(9)))
    return net.output(net("Gemm", z, net.random(9, 3), net.random(3)), y)


def pixels() -> Net:
    """1×1 convolutions of planes, and a constant that differs from pixel to pixel."""
    net = Net()
    x = net("Relu", net.conv(net.input(1, 3, 4, 5), 3, 6, 1, 1))
    y = net("Add", net.conv(x, 6, 6, 1, 1), net.random(1, 6, 4, 5))
    return net.output(net("Add", x, y))


def normalized(kind: str) -> Net:
    """1×1 convolutions, normalized by pixel or by plane; the softmax of a layer's channels behind."""
    net = Net()
    x = net.conv(net.input(1, 3, 4, 5), 3, 8, 1, 1)
    if kind == "LayerNormalization":
        x = net("Transpose", x, perm=[0, 2, 3, 1])
        x = net(kind, x, net.random(8), net.random(8), axis=-1)
        x = net("Transpose", x, perm=[0, 3, 1, 2])
    else:
        x = net(kind, x, net.random(8), net.random(8))
    return net.output(net.conv(net("Softmax", x, axis=1), 8, 4, 1, 1))


def samples(model: onnx.ModelProto, n: int) -> np.ndarray:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return np.random.default_rng(0).normal(0, 1, (n, *shape)).astype(np.float32)


def compiled(model: onnx.ModelProto, tmp_path, config, batch: int):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    x = samples(model, 21)
    quantized = sateen.load(path).quantize(calibration={"x": x})
    build = quantized.map(config, batch=batch).write(tmp_path / f"build{batch}")
    return quantized, build, x


@pytest.mark.parametrize("config", (TINY, BOTH), ids=("tiny", "with output-stationary"))
@pytest.mark.parametrize("net", (mlp, pixels), ids=("dense", "pixels"))
@pytest.mark.parametrize("batch", (2, 5, 16, 48))
def test_program_gives_the_bits_of_single_samples(net, batch, config, tmp_path):
    """21 samples: whole runs, and a last one that is filled up with zeros."""
    quantized, build, x = compiled(net().model(), tmp_path, config, batch)
    wanted = build.run({"x": x}, "reference")
    found = build.run({"x": x}, "program")
    for name, y in wanted.outputs.items():
        assert y.shape[0] == 21 and y.tobytes() == found.outputs[name].tobytes(), name
    runs = -(-21 // batch)
    model = build.run({"x": x}, "model")
    assert model.cycles == runs * build.cycles and model.batch == 21
    assert model.macs == found.macs == wanted.macs == 21 * quantized.map(config).schedule["totals"]["macs"]


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize("net", (mlp, pixels), ids=("dense", "pixels"))
def test_rtl(net, tmp_path):
    """One machine for both networks, and for runs of one sample, and of eight."""
    for batch in (1, 8):
        _, build, x = compiled(net().model(), tmp_path, TINY, batch)
        wanted, found = build.run({"x": x}, "reference"), build.run({"x": x}, "rtl")
        assert all(y.tobytes() == found.outputs[k].tobytes() for k, y in wanted.outputs.items())
        assert found.cycles == build.run({"x": x}, "model").cycles


def test_rows_of_channels_share_a_run(tmp_path):
    _, build, x = compiled(normalized("LayerNormalization").model(), tmp_path, ROWS, 8)
    wanted, found = build.run({"x": x}, "reference"), build.run({"x": x}, "program")
    assert all(y.tobytes() == found.outputs[k].tobytes() for k, y in wanted.outputs.items())


def test_weights_are_read_once(tmp_path):
    quantized, _, _ = compiled(mlp(200).model(), tmp_path, TINY, 16)
    one, many = quantized.map(TINY), quantized.map(TINY, batch=16)
    moved = [m.schedule["totals"]["bytes"]["weights"] for m in (one, many)]
    assert moved[0] == moved[1]
    assert many.cycles < 8 * one.cycles
    assert many.schedule["totals"]["macs"] == 16 * one.schedule["totals"]["macs"]


def test_a_number_of_samples_out_of_range_is_refused(tmp_path):
    for batch in (0, -1, 5000):
        with pytest.raises(ConfigError, match=rf"batch {batch}: a run takes 1 to 4096 samples"):
            compiled(mlp().model(), tmp_path, TINY, batch)


@pytest.mark.rtl
@pytest.mark.slow
def test_on_a_board(tmp_path):
    """Three samples in runs of two, over the chip's serial line."""
    _, build, x = compiled(mlp().model(), tmp_path, TINY, 2)
    wanted = build.run({"x": x[:3]}, "reference")
    opened = Build(tmp_path / "build2")
    with SimulatedBoard(tmp_path / "build2") as board:
        found = run_on_board(opened, {"x": x[:3]}, board.port, baud=board.baud)
    assert all(y.tobytes() == found.outputs[k].tobytes() for k, y in wanted.outputs.items())
    assert found.batch == 3
