"""Depthwise layers as FIR filters: every way to cut every kernel, and networks of them in all four engines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from four_engines import check, machine
from onnx_nets import Net

from sateen.compiler.schedule import dataflow, linear
from sateen.machine.config import DATAFLOWS, DEPTHWISE, AcceleratorConfig

ROOM = {"act_bank_depth": 512, "weight_depth": 2048, "depthwise": True}
MACHINES = {
    "2x2, two slices": machine("int8", "int8", rows=2, cols=2, lanes=1, group=2, **ROOM),
    "4x4, two lanes": machine("e4m3", "e4m3", rows=4, cols=4, lanes=2, group=2, **ROOM),
    "16x4, indexed, output-stationary": machine(
        "int8", "uint8", rows=16, cols=4, lanes=1, group=2, patterns=("dense", "1:2"), dataflows=DATAFLOWS, **ROOM
    ),
}  # fmt: skip
KERNELS = {
    "3x3": dict(kernel=(3, 3), pads=(1, 1, 1, 1)),
    "3x3, stride 2": dict(kernel=(3, 3), strides=(2, 2), pads=(0, 0, 1, 1)),
    "3x3, stride 2, pads 1": dict(kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    "3x3, dilation 2": dict(kernel=(3, 3), dilations=(2, 2), pads=(2, 2, 2, 2)),
    "3x3, stride 3, dilation 2": dict(kernel=(3, 3), strides=(3, 3), dilations=(2, 2)),
    "3x3, much padding": dict(kernel=(3, 3), pads=(3, 4, 2, 5)),
    "5x5": dict(kernel=(5, 5), pads=(2, 2, 2, 2)),
    "5x5, stride 2": dict(kernel=(5, 5), strides=(2, 2), pads=(2, 2, 2, 2)),
    "7x7": dict(kernel=(7, 7), pads=(3, 3, 3, 3)),
    "1x9": dict(kernel=(1, 9), pads=(0, 4, 0, 4)),
    "9x1, stride 2 and 4": dict(kernel=(9, 1), strides=(2, 4), pads=(4, 0, 4, 0)),
    "2x3": dict(kernel=(2, 3)),
}


def layer(net: Net, x: str, channels: int, kernel: tuple[int, int], **attributes: object) -> str:
    return net.conv(x, channels, channels, *kernel, group=channels, **attributes)


def samples(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (4, *shape)).astype(np.float32)


def dataflows(folder: Path) -> list[str]:
    layers = json.loads((folder / "build/schedule.json").read_text())["layers"]
    return [row["dataflow"] for row in layers]


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_every_cut_gives_the_same_bits(kernel, tmp_path, monkeypatch):
    """Whatever the machine, each geometry that the scheduler may choose from."""
    wanted = dataflow.geometries

    def slow(*arguments: object) -> dataflow.Plan:
        return dataclasses.replace(dataflow.plan(*arguments), time=1 << 60)

    monkeypatch.setattr(linear, "plan", slow)
    net = Net()
    model = net.output(layer(net, net.input(1, 5, 11, 10), 5, **kernel)).model()
    ways = []
    for config in MACHINES.values():
        tried = count = 0
        while tried <= count:

            def one(*arguments: object, number: int = tried) -> list[object]:
                nonlocal count
                found = list(wanted(*arguments))
                count = len(found) - 1
                return found[number : number + 1]

            monkeypatch.setattr(dataflow, "geometries", one)
            check(model, samples(5, 11, 10), config, tmp_path, rtl=False)
            assert dataflows(tmp_path) == [DEPTHWISE]
            tried += 1
        ways.append(tried)
    assert ways[0] <= ways[1] < ways[2]  # two, four and sixteen rows


@pytest.mark.parametrize("config", MACHINES.values(), ids=MACHINES.keys())
def test_stripes_and_small_accumulators(config, tmp_path):
    """A plane that is spilled, read stripe by stripe, and wider than the accumulators."""
    small = config.replace(act_bank_depth=32, acc_depth=16, weight_depth=128)
    net = Net()
    x = net.input(1, 3, 21, 19)
    y = layer(net, x, 3, (3, 3), pads=(1, 1, 1, 1))
    y = net("Relu", layer(net, y, 3, (5, 5), strides=(2, 2), pads=(2, 2, 2, 2)))
    check(net.output(y).model(), samples(3, 21, 19), small, tmp_path, rtl=False)
    assert DEPTHWISE in dataflows(tmp_path)


@pytest.mark.rtl
@pytest.mark.parametrize("name", MACHINES)
def test_kernels_larger_than_the_weight_buffer(name, tmp_path):
    """A few lines of the kernel at a time, whose sums are added up: averages of planes, and a kernel with padding."""
    config = MACHINES[name].replace(weight_depth=64)
    net = Net()
    x = net.input(1, 3, 13, 12)
    y = layer(net, x, 3, (11, 5), pads=(5, 2, 4, 2), strides=(2, 1))
    y = net.output(net("GlobalAveragePool", net("Relu", y)), net("GlobalAveragePool", x))
    check(y.model(), samples(3, 13, 12), config, tmp_path, rtl=name.startswith("2x2"))
    assert dataflows(tmp_path) == [DEPTHWISE] * 3
    layers = json.loads((tmp_path / "build/schedule.json").read_text())["timeline"]
    assert sum(event["opcode"] == "FIR" for event in layers) > 6


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize("config", MACHINES.values(), ids=MACHINES.keys())
def test_networks(config, tmp_path):
    """Kernels one after the other, a residual, a table, pooling and dense layers between them; all four engines."""
    net = Net()
    x = net("Relu", net.conv(net.input(1, 3, 13, 12), 3, 6, 1, 1))
    y = net("Relu", layer(net, x, 6, (3, 3), pads=(1, 1, 1, 1)))
    y = net("Add", x, layer(net, y, 6, (5, 5), pads=(2, 2, 2, 2)))
    y = net("Sigmoid", layer(net, y, 6, (3, 3), strides=(2, 2), pads=(0, 0, 1, 1)))
    y = net("Relu", net.conv(y, 6, 9, 1, 1))
    y = layer(net, y, 9, (3, 3), dilations=(2, 2), pads=(2, 2, 2, 2))
    y = layer(net, y, 9, (1, 7), strides=(1, 2), pads=(0, 3, 0, 3))
    y = net("Flatten", net("GlobalAveragePool", y))
    y = net("Gemm", y, net.random(9, 4), net.random(4))
    model = net.output(y).model()
    check(model, samples(3, 13, 12), config, tmp_path)
    assert dataflows(tmp_path).count(DEPTHWISE) >= 5


def test_a_machine_without_filters_says_nothing_of_them(tmp_path):
    net = Net()
    model = net.output(layer(net, net.input(1, 5, 6, 6), 5, (3, 3))).model()
    plain: AcceleratorConfig = MACHINES["2x2, two slices"].replace(depthwise=False)
    check(model, samples(5, 6, 6), plain, tmp_path, rtl=False)
    rows = json.loads((tmp_path / "build/schedule.json").read_text())["layers"]
    assert [list(row["dataflow_cycles"]) for row in rows] == [["weight_stationary"]]
