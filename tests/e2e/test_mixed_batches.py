"""Samples that share a run where layers read windows: one by one up to a cut, on planes of all behind it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from four_engines import machine
from onnx_nets import Net

import sateen
from sateen.compiler.schedule import backend
from sateen.machine.config import DATAFLOWS

sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))
from attention_nets import fused, windows

SMALL = machine("int8", "int8", act_bank_depth=1024)
TIGHT = machine("int8", "int8", weight_depth=128, act_bank_depth=128)
FILTERS = machine(
    "int8", "int8", rows=4, cols=4, lanes=1, group=1, dataflows=DATAFLOWS, depthwise=True, product=True,
    act_bank_depth=1024,
)  # fmt: skip
ROWS = machine("int8", "int8", softmax=True, normalize=True, computed_weights=True, act_bank_depth=512)


def residual() -> Net:
    """A stem with stride, a residual block, a pool, a dense head, and a plane as a second output."""
    net = Net()
    x = net("Relu", net.conv(net.input(1, 3, 10, 9), 3, 6, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1]))
    x = net("MaxPool", x, kernel_shape=[2, 2], strides=[1, 1])
    y = net("Relu", net.conv(x, 6, 6, 3, 3, pads=[1, 1, 1, 1]))
    y = net("Relu", net("Add", x, net.conv(y, 6, 6, 3, 3, pads=[1, 1, 1, 1])))
    z = net("Flatten", net("GlobalAveragePool", y), axis=1)
    return net.output(net("Gemm", z, net.random(6, 5), net.random(5)), y)


def gated() -> Net:
    """Depthwise windows of 3 × 3 and of stride 2, and channels that are multiplied by what a plane's average says."""
    net = Net()
    x = net("Relu", net.conv(net.input(1, 3, 8, 8), 3, 8, 3, 3, pads=[1, 1, 1, 1]))
    x = net("Conv", x, net.random(8, 1, 3, 3), net.random(8), group=8, pads=[1, 1, 1, 1])
    gate = net("Sigmoid", net.conv(net("GlobalAveragePool", x), 8, 8, 1, 1))
    x = net("Mul", x, gate)
    x = net("Conv", x, net.random(8, 1, 3, 3), net.random(8), group=8, pads=[1, 1, 1, 1], strides=[2, 2])
    return net.output(net.conv(x, 8, 4, 1, 1))


def rearranged() -> Net:
    """Pixels that move, a constant plane, a concatenation, a plane that is normalized."""
    net = Net()
    x = net.conv(net.input(1, 3, 6, 5), 3, 4, 3, 3)
    y = net("Add", net("Transpose", net.conv(x, 4, 4, 1, 1), perm=[0, 1, 3, 2]), net.random(1, 4, 3, 4))
    y = net("InstanceNormalization", y, net.random(4), net.random(4))
    z = net("Concat", y, net("Transpose", x, perm=[0, 1, 3, 2]), axis=1)
    return net.output(net.conv(z, 8, 3, 2, 2))


NETS = {"residual": (residual, SMALL), "streamed": (residual, TIGHT), "gated": (gated, FILTERS)}
NETS |= {"rearranged": (rearranged, ROWS), "attention": (fused, ROWS), "windows": (windows, ROWS)}


def compiled(model: onnx.ModelProto, tmp_path, config):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    x = np.random.default_rng(0).normal(0, 1, (7, *shape)).astype(np.float32)
    return sateen.load(path).quantize(calibration={"x": x}).map, x


def same(build, x: np.ndarray, engine: str) -> sateen.RunResult:
    wanted, found = build.run({"x": x}, "reference"), build.run({"x": x}, engine)
    for key, y in wanted.outputs.items():
        assert y.shape[0] == len(x) and y.tobytes() == found.outputs[key].tobytes(), key
    return found


@pytest.mark.parametrize("batch", (2, 3))
@pytest.mark.parametrize("name", NETS)
def test_bits_of_single_samples_wherever_it_is_cut(name, batch, tmp_path, monkeypatch):
    net, config = NETS[name]
    mapping, x = compiled(net().model(), tmp_path, config)
    single = mapping(config)
    for at in range(len(single.program.graph.ops) + 1):
        monkeypatch.setattr(backend, "cuts", lambda *_, at=at: [at])
        mapped = mapping(config, batch=batch)
        assert mapped.program.graph.cut == at
        same(mapped.write(tmp_path / f"build{at}"), x, "program")
        assert mapped.schedule["totals"]["macs"] == batch * single.schedule["totals"]["macs"]
        assert mapped.schedule["totals"]["weights"]["count"] == single.schedule["totals"]["weights"]["count"]


@pytest.mark.parametrize("name", NETS)
def test_no_slower_than_single_samples(name, tmp_path):
    net, config = NETS[name]
    mapping, _ = compiled(net().model(), tmp_path, config)
    single = mapping(config).cycles
    for batch in (2, 3):
        assert mapping(config, batch=batch).cycles <= batch * single


def test_weights_are_read_once_and_kept_once(tmp_path, monkeypatch):
    """On planes of all samples, though no buffer holds a layer's weights; one by one, they are in memory once, too."""
    mapping, _ = compiled(residual().model(), tmp_path, TIGHT.replace(act_bank_depth=1024))
    config = TIGHT.replace(act_bank_depth=1024)
    single = mapping(config)
    bytes_moved, memory = single.schedule["totals"]["bytes"]["weights"], single.memory["constants_size"]
    # where samples share constants, two chunks of one layer that are alike are 128 bytes and one LOAD
    for at, times, alike in ((0, 1, 0), (len(single.program.graph.ops), 3, 128)):
        monkeypatch.setattr(backend, "cuts", lambda *_, at=at: [at])
        mapped = mapping(config, batch=3)
        assert mapped.schedule["totals"]["bytes"]["weights"] == times * (bytes_moved - alike)
        assert mapped.memory["constants_size"] <= memory


def test_planes_of_all_where_the_bus_limits(tmp_path):
    config, net = sateen.preset("mac256"), Net()
    x = net.conv(net.input(1, 8, 5, 5), 8, 64, 3, 3)
    mapping, _ = compiled(net.output(net.conv(x, 64, 64, 3, 3)).model(), tmp_path, config)
    mapped = mapping(config, batch=4)
    assert mapped.program.graph.cut == 0
    assert 2 * mapped.cycles < 4 * mapping(config).cycles


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize(("name", "batch", "at"), (("residual", 2, 3), ("residual", 3, 0), ("gated", 3, 2)))
def test_rtl(name, batch, at, tmp_path, monkeypatch):
    """Part one by one, part on planes of all, and all of it on such planes."""
    net, config = NETS[name]
    mapping, x = compiled(net().model(), tmp_path, config)
    monkeypatch.setattr(backend, "cuts", lambda *_: [at])
    build = mapping(config, batch=batch).write(tmp_path / "build")
    assert same(build, x[:5], "rtl").cycles == build.run({"x": x[:5]}, "model").cycles
