"""Several arrays in lock-step on one memory: bits of one array, cycles of the model, in RTL."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from four_engines import machine
from onnx_nets import Net

import sateen
from sateen.board import run_on_board
from sateen.errors import ConfigError
from sateen.hw.chip.verilog import emit_verilog
from sateen.sim import verilator
from sateen.sim.board import SimulatedBoard
from sateen.sim.engines import Build
from sateen.sim.image import Image, places
from sateen.sim.memory_timing import ON_CHIP
from sateen.sim.reference import quantize_inputs

SMALL = machine("int8", "int8", act_bank_depth=64, act_banks=2, burst_beats=4, outstanding=2, arrays=2)
"""Its buffer is too small for the tensors of `net`, which go through memory."""


def net() -> Net:
    """Convolutions, a constant that is read as activations, a residual and a dense layer."""
    net = Net()
    x = net("Relu", net.conv(net.input(1, 3, 6, 7), 3, 6, 3, 3, pads=[1, 1, 1, 1]))
    y = net("Add", net.conv(x, 6, 6, 1, 1), net.random(1, 6, 6, 7))
    z = net("Add", x, y)
    return net.output(net.conv(z, 6, 4, 3, 3), z)


def compiled(tmp_path, config, batch: int = 1):
    path = tmp_path / "model.onnx"
    onnx.save(net().model(), path)
    x = np.random.default_rng(0).normal(0, 1, (5, 3, 6, 7)).astype(np.float32)
    quantized = sateen.load(path).quantize(calibration={"x": x})
    mapped = quantized.map(config, batch=batch)
    return quantized, mapped, mapped.write(tmp_path / "build"), x


def test_a_batch_of_samples_on_each_array(tmp_path):
    """Three arrays with two samples each: five samples are one run, on a machine of any number of arrays."""
    config = SMALL.replace(arrays=3, act_bank_depth=256)
    _, mapped, build, x = compiled(tmp_path, config, batch=2)
    wanted, found, model = (build.run({"x": x}, engine) for engine in ("reference", "program", "model"))
    for name, y in wanted.outputs.items():
        assert y.tobytes() == found.outputs[name].tobytes(), name
    assert model.cycles == mapped.cycles and model.cycles_per_sample == mapped.cycles // 5
    image = mapped.program.image
    assert image.size == image.data_offset + 3 * image.data_size == mapped.program.memory_bytes


def test_runs_are_dealt_to_arrays_in_turn():
    runs = np.arange(7)[:, None]
    image = Image(SMALL.replace(arrays=3), b"", b"", 0, 4096, 8192)
    offsets, parts = zip(*image.dealt([(5, runs)]), strict=True)
    assert [p[:, 0].tolist() for p in parts] == [[0, 3, 6], [1, 4, 0], [2, 5, 0]]
    assert offsets == (5, 8197, 16389)
    (found,) = image.collected(parts, 7)
    assert (found == runs).all()


@pytest.mark.parametrize(
    ("value", "limit"),
    ((3.5, "an integer above 0"), (0, "an integer above 0"), (9, "at most 8"), ("2", "an integer above 0")),
)
def test_a_wrong_number_of_arrays_is_refused(value, limit):
    with pytest.raises(ConfigError, match=f"arrays = {value!r}; it must be {limit}"):
        SMALL.replace(arrays=value)


def test_training_has_one_array():
    with pytest.raises(ConfigError, match=r"arrays = 2 .*; it must be 1, as update = true"):
        SMALL.replace(update=True, outer_products=True, lanes=1)


def check(build, x, **memory):
    """RTL has the reference's bits and the model's cycles; both results."""
    wanted = build.run({"x": x}, "reference")
    model, found = (build.run({"x": x}, engine, **memory) for engine in ("model", "rtl"))
    for name, y in wanted.outputs.items():
        assert y.tobytes() == found.outputs[name].tobytes(), name
    assert found.cycles == model.cycles
    assert found.counters["busy"] == model.counters["busy"]
    return model, found


@pytest.mark.rtl
def test_two_arrays_have_the_bits_and_the_cycles(tmp_path):
    """Of 5 samples the last is alone; memories that are faster and slower than the machine."""
    quantized, mapped, build, x = compiled(tmp_path, SMALL)
    single = quantized.map(SMALL.replace(arrays=1))
    for latency, interval in ((32, 1), (1, 1), (1, 2), (2, 5), (7, 3), (100, 2)):
        model, found = check(build, x, latency=latency, interval=interval)
        assert model.cycles == 3 * mapped.predict(latency, interval)
    assert single.cycles < mapped.cycles < 2 * single.cycles
    assert found.macs == 5 * single.schedule["totals"]["macs"]
    totals = mapped.schedule["totals"]
    once, own = totals["bytes"], totals["own_bytes"]
    assert own["weights"] == own["instructions"] == 0 < own["activations_read"] < once["activations_read"]
    assert found.moved_bytes["total"] == 3 * (once["total"] + own["total"])

    # nothing depends on when memory answers, and every channel may stall
    opened, executable = Build(build.folder), verilator.build(emit_verilog(mapped.config))
    graph, image = opened.graph(), opened.image
    given, regions = opened.pack(quantize_inputs(graph, {"x": x})), places(opened.outputs)
    wanted = image.interpret(given, regions, runs=5)
    for seed in range(4):
        stalled = image.simulate(executable, given, regions, runs=5, seed=seed)
        assert all(run.done and not run.error for run in stalled.samples)
        assert all((a == b).all() for a, b in zip(stalled.outputs, wanted, strict=True)), seed


@pytest.mark.rtl
def test_a_board_with_two_arrays(tmp_path):
    """The host deals samples to arrays, and the chip's memory holds the data of both."""
    _, mapped, build, x = compiled(tmp_path, SMALL)
    with SimulatedBoard(build.folder) as board:
        found = run_on_board(Build(build.folder), {"x": x[:3]}, board.port, baud=board.baud)
    wanted = build.run({"x": x[:3]}, "reference")
    for name, y in wanted.outputs.items():
        assert y.tobytes() == found.outputs[name].tobytes(), name
    assert found.cycles == 2 * mapped.program.predict(ON_CHIP).cycles
