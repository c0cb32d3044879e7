"""A machine whose elements are instances of one module: the same bits in the same cycles as one elaborated whole."""

import re

import numpy as np
import onnx
import pytest

import sateen
from sateen.hw.chip.top import Accelerator
from sateen.hw.chip.verilog import ELABORATED, PREFIXES, TOP, convert, emit_verilog
from sateen.hw.shared import Shared
from sateen.machine.presets import PRESETS, preset
from sateen.models.network_builder import NetworkBuilder
from sateen.sim.engines import Build, run_build

SMALL = preset("tiny").replace(act_bank_depth=512, weight_depth=256, vector_lanes=2)


@pytest.fixture(scope="module")
def shared() -> str:
    return convert(Accelerator(config=SMALL), TOP, PREFIXES, Shared(TOP))


def bodies(verilog: str) -> dict[str, str]:
    return dict(re.findall(r"^module (\w+)(\(.*?)^endmodule", verilog, re.M | re.S))


def test_each_part_is_one_module(shared):
    found = bodies(shared)
    assert [name for name in found if "_pe" in name] == [f"{TOP}_pe"]
    assert len(re.findall(rf"^  {TOP}_pe ", found[f"{TOP}_matrix_array"], re.M)) == SMALL.rows * SMALL.cols
    lanes = re.findall(rf"^  {TOP}_requantizer ", found[f"{TOP}_vector_drain_requantizer"], re.M)
    assert len(lanes) == SMALL.vector_lanes


def test_an_error_clears_the_parts_too(shared):
    """They are reset by the chip's reset or by `clear`, as what is elaborated in the units is."""
    for module, part in (("matrix_array", "pe"), ("vector_drain_requantizer", "requantizer")):
        body = bodies(shared)[f"{TOP}_{module}"]
        instances = re.findall(rf"^  {TOP}_{part} .*?\);", body, re.M | re.S)
        resets = {re.search(r"\.rst\((.*?)\)", text)[1].strip() for text in instances}
        for net in resets:
            (sources,) = re.findall(rf"assign {re.escape(net)} += (.*);", body)
            assert set(re.findall(r"\w+", sources)) == {"rst", "clear"}


def test_only_large_machines_are_shared():
    for config in PRESETS.values():
        if config.rows * config.cols <= ELABORATED and config.name in ("tiny", "icebreaker"):
            assert emit_verilog(config).split("\n", 1)[1] == convert(
                Accelerator(config=config), TOP, PREFIXES
            )
    large = emit_verilog(preset("mac1024"))
    assert len(re.findall(rf"^  {TOP}_pe ", large, re.M)) == 512


@pytest.mark.rtl
def test_bits_and_cycles(tmp_path):
    rng = np.random.default_rng(3)
    b = NetworkBuilder(rng)
    x = b.relu("relu1", b.conv("conv1", b.input("x", 3, 7, 7), 5, 3))
    y = b.conv("conv2", x, 5, 3)
    b.linear("y", b.global_pool("pool", b.relu("relu2", b.add("add", x, y))), 4)
    path = tmp_path / "model.onnx"
    onnx.save(b.model("model", "y"), path)
    samples = {"x": rng.normal(0, 1, (3, 3, 7, 7)).astype(np.float32)}
    sateen.compile(path, tmp_path / "build", calibration=samples, config=SMALL)
    build = Build(tmp_path / "build")
    wanted, cycles = run_build(build, samples, "reference"), run_build(build, samples, "model").cycles
    verilog = convert(Accelerator(config=build.config), TOP, PREFIXES, Shared(TOP))
    found = run_build(build, samples, "rtl", verilog=verilog)
    assert found.outputs["y"].tobytes() == wanted.outputs["y"].tobytes() and found.cycles == cycles
