"""What patterns gain against a machine without them: a machine that is as large, a program of its own, clear words."""

import logging

import numpy as np
import pytest
from onnx_nets import Net

import sateen
from sateen.compiler import dense_machine
from sateen.compiler.dense_machine import against_dense, better, warn, without_patterns
from sateen.fpga.estimate.resource_model import luts
from sateen.machine.presets import PRESETS, preset

SMALL = preset("sat256").replace(
    rows=2, cols=8, lanes=2, group=8, act_bank_depth=2048, weight_depth=1024, acc_depth=64, bus_bits=64
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SATEEN_CACHE", str(tmp_path / "cache"))


def quantized(channels, pattern="2:8", size=6):
    """Three 3×3 convolutions, of which the one in the middle is pruned."""
    net = Net()
    x = net.input("N", 8, size, size)
    for low, high in ((8, channels), (channels, channels), (channels, 8)):
        x = net("Relu", net.conv(x, low, high, 3, 3, pads=[1, 1, 1, 1]))
    samples = np.random.default_rng(0).uniform(0, 1, (8, 8, size, size)).astype(np.float32)
    network = sateen.load(net.output(x).model())
    return network.quantize(calibration={"x": samples}, sparsity=pattern, sparsity_method="magnitude")


@pytest.mark.parametrize("name", [name for name, p in PRESETS.items() if p.sparse_patterns])
def test_the_machine_is_as_large(name):
    config = PRESETS[name]
    dense = without_patterns(config)
    assert dense.multipliers == config.multipliers and dense.patterns == ("dense",)
    assert dense.group == dense.lanes and dense.elements in (dense.cols, 2 * dense.cols)
    for depth, word in (("act_bank_depth", "act_word_bits"), ("weight_depth", "weight_word_bits")):
        assert getattr(dense, depth) * getattr(dense, word) == getattr(config, depth) * getattr(config, word)


def test_cycles_are_those_of_a_program_of_its_own():
    pruned = quantized(32)
    mapped = pruned.map(SMALL)
    found = against_dense(mapped.quantized.graph, mapped.program, luts)
    alone = quantized(32, "dense").map(without_patterns(SMALL))
    assert found["cycles"] == alone.cycles == sum(found["layers"].values())
    assert found["layers"] == {row["name"]: row["cycles"] for row in alone.layers}
    assert found["faster"] == round(alone.cycles / mapped.cycles, 4) > 1
    here, dense = (luts(c)["ecp5"] for c in (mapped.config, alone.config))
    assert found["faster_per_lut"]["ecp5"] == pytest.approx(found["faster"] * dense / here, abs=1e-3)


def test_it_is_predicted_once(monkeypatch):
    mapped = quantized(32).map(SMALL)
    first = against_dense(mapped.quantized.graph, mapped.program)
    monkeypatch.setattr(dense_machine, "generate", None)
    assert against_dense(mapped.quantized.graph, mapped.program) == first


def test_a_machine_without_patterns_has_nothing_to_be_compared_with():
    mapped = quantized(8, "dense").map("tiny")
    assert against_dense(mapped.quantized.graph, mapped.program, luts) is None


def warnings_of(mapped, caplog):
    caplog.clear()
    found = against_dense(mapped.quantized.graph, mapped.program, luts)
    with caplog.at_level(logging.WARNING, "sateen"):
        warn(found, mapped.program)
    return found, caplog.messages


def test_a_dense_network_is_sent_to_a_dense_machine(caplog):
    found, messages = warnings_of(quantized(16, "dense").map(SMALL), caplog)
    assert better(found) and found["filled"] is None
    assert len(messages) == 1 and "no layer has a pattern" in messages[0]
    assert "with a configuration with rows = 4, cols = 4, lanes = 2, group = 2" in messages[0]
    found, messages = warnings_of(quantized(16, "dense").map("sat256"), caplog)
    assert found["preset"] == "mac256" and messages[0].endswith("compile with --preset mac256")


def test_filling_up_is_warned_of_where_it_eats_the_gain(caplog):
    found, messages = warnings_of(quantized(8).map(SMALL, dataflow="weight_stationary"), caplog)
    assert found["filled"] == {
        "here": 2.0,
        "dense": 1.0,
        "layer": found["filled"]["layer"],
        "channels": [8, 8],
    }
    assert any("rows × group = 16 channels and 8 columns are filled up" in m for m in messages)
    found, messages = warnings_of(quantized(32).map(SMALL), caplog)
    assert found["filled"]["here"] == found["filled"]["dense"] == 1
    assert not any("filled up" in m for m in messages)


def test_a_gain_is_not_warned_of(caplog):
    found, messages = warnings_of(quantized(64, size=10).map(SMALL), caplog)
    assert found["faster"] > 1.5 and min(found["faster_per_lut"].values()) > 1
    assert not messages


def test_a_build_says_it(tmp_path):
    build = quantized(16).map(SMALL).write(tmp_path / "build")
    found = build.manifest["dense_machine"]
    assert found["cycles"] > 0 and set(found["lut"]) == {"ecp5", "xcup"}
    assert any("a dense machine is better here" in w for w in build.manifest["warnings"]) == better(found)
    page = build.report().read_text()
    assert "Against a dense machine" in page and "every weight, on the dense machine" in page
