"""How fast the RTL simulation is with other options of Verilator and of the C++ compiler, against sim/verilator.py's.

    python benchmarks/verilator_options.py [--presets mac256 sat256] [--only TEXT] [--rounds N]

The same run of a 3×3 64→64 convolution at 56×56, 512-bit bus, with each build, one after the other, in several rounds.
A ratio is the median over the rounds of (time as it is / time with the options), so above 1 is faster. "processor" is
the time of all threads together, "clock" the time that passes. Profiles come from another layer, at 28×28. Outputs and
cycles must be those of the reference and of the cycle model.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from utilization import convolution

import sateen
from sateen.machine.presets import preset
from sateen.sim import verilator

FAST = ("OPT_FAST", "OPT_GLOBAL")
"""The make variables with the options of what runs in every cycle, and of Verilator's run-time library."""


@dataclass(frozen=True)
class Options:
    title: str
    compiler: str = ""
    """Of C++, in the place of those of `OPT_FAST` and `OPT_GLOBAL`."""
    verilator: dict[str, str] = field(default_factory=dict)
    """Options to add, or to set otherwise; with their value, or ''."""
    profile: bool = False
    cxx: str = ""
    blocks: tuple[str, ...] = ()
    """Modules that are Verilated by themselves."""


NATIVE = "-O3 -march=native"
OPTIONS = (
    Options("as it is"),
    Options("C++ -O3", compiler="-O3"),
    Options("C++ -O2 -march=native", compiler="-O2 -march=native"),
    Options("C++ -O3 -march=native", compiler=NATIVE),
    Options("C++ profile-guided", profile=True),
    Options("C++ profile-guided, -O3 -march=native", compiler=NATIVE, profile=True),
    Options("--threads 2", verilator={"--threads": "2"}),
    Options("--flatten", verilator={"--flatten": ""}),
    Options("one C++ file", verilator={"--output-split": "0"}),
    Options("clang++ -O2", cxx="clang++"),
    Options("--hierarchical, a unit a block", blocks=("load", "matrix", "vector", "store")),
)


@contextmanager
def applied(options: Options, extra: str = "") -> Iterator[None]:
    """`verilator.build` with other options; they are part of its cache's keys."""
    flags, variables, cxx = verilator.VERILATOR_FLAGS, verilator.MAKE_VARIABLES, os.environ.get("CXX")
    words = iter(flags)
    changed: list[str] = []
    for word in words:
        if word in options.verilator:
            next(words)  # its value
        else:
            changed.append(word)
    for name, value in options.verilator.items():
        changed += [name, value] if value else [name]
    verilator.VERILATOR_FLAGS = tuple(changed)
    compiler = {k: f"{options.compiler or variables[k]} {extra}".strip() for k in FAST}
    verilator.MAKE_VARIABLES = variables | compiler
    if "-fprofile-generate" in extra:
        verilator.MAKE_VARIABLES["LDLIBS"] += " -lgcov"
    if options.cxx:
        os.environ["CXX"] = options.cxx
    build = verilator.build
    if options.blocks:
        verilator.build = lambda verilog, **_: hierarchical(verilog, options.blocks)
    try:
        yield
    finally:
        verilator.build = build
        verilator.VERILATOR_FLAGS, verilator.MAKE_VARIABLES = flags, variables
        if options.cxx:
            os.environ.pop("CXX")
            if cxx is not None:
                os.environ["CXX"] = cxx


@functools.cache
def hierarchical(verilog: str, blocks: tuple[str, ...]) -> Path:
    """The simulator with each of these modules Verilated and compiled by itself; kept until the benchmark ends."""
    for name in blocks:
        module = rf"^(module accelerator_{name}\([^)]*\);)"
        verilog, n = re.subn(module, r"\1 /*verilator hier_block*/", verilog, flags=re.MULTILINE)
        if n != 1:
            raise SystemExit(f"the machine has no module accelerator_{name}")
    folder = Path(tempfile.mkdtemp(prefix="sateen-hierarchical-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    root, _ = verilator.installed()
    for path in (verilator.HARNESS, verilator.HARNESS.with_name("fst_compression.h")):
        shutil.copy(path, folder)
    for name in ("lz4.h", "zlib.h"):
        (folder / name).write_text('#include "fst_compression.h"\n')
    (folder / "accelerator.v").write_text(verilog)
    (folder / "verilator").symlink_to(root)
    top, variables = verilator.TOP, verilator.MAKE_VARIABLES | {"CXX": "g++", "LINK": "g++", "AR": "ar"}
    sources = ["accelerator.v", verilator.HARNESS.name]
    options = ["--cc", "--exe", "--hierarchical", "--prefix", top, "--Mdir", ".", *verilator.VERILATOR_FLAGS]
    for command in (
        [root / "bin" / "verilator_bin", *options, *sources],
        ["make", "-j2", "-f", f"{top}_hier.mk", "hier_build", f"PYTHON3={sys.executable}"]
        + [f"{k}={v}" for k, v in variables.items()],
    ):
        environment = os.environ | {"VERILATOR_ROOT": str(folder / "verilator")}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder / top


@dataclass(frozen=True)
class Layer:
    build: Path
    x: np.ndarray

    @classmethod
    def compile(cls, folder: Path, name: str, size: int, samples: int) -> Layer:
        config = preset(name).replace(bus_bits=512, burst_beats=64)
        model, build = folder / f"{size}.onnx", folder / f"build{size}"
        onnx.save(convolution(64, size, "dense"), model)
        x = np.random.default_rng(1).normal(0, 1, (samples, 64, size, size)).astype(np.float32)
        sateen.compile(model, build, calibration={"x": x}, config=config)
        return cls(build, x)

    def verilog(self) -> str:
        return (self.build / "accelerator.v").read_text()

    def run(self, options: Options, extra: str = "") -> tuple[float, float, int, bytes]:
        """Seconds that passed, seconds of processor time, cycles, outputs."""
        with applied(options, extra):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            result = sateen.run(self.build, {"x": self.x}, "rtl")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return result.wall_s, processor, result.cycles or 0, result.outputs["y"].tobytes()


def prepare(options: Options, layer: Layer, training: Layer, folder: Path) -> tuple[str, float]:
    """Build, and train where there is a profile: the options to run with, and the seconds that it took."""
    begin = time.monotonic()
    extra = ""
    if options.profile:
        # objects are named after the folder in which make runs, which is another one in each build
        base = f"{folder} -fprofile-prefix-path=$(CURDIR) -Wno-missing-profile"
        training.run(options, f"-fprofile-generate={base}")
        extra = f"-fprofile-use={base}"
    with applied(options, extra):
        verilator.build(layer.verilog())
    return extra, time.monotonic() - begin


def measure(name: str, options: list[Options], rounds: int) -> None:
    print(f"\n**`{name}`**, {rounds} rounds\n")
    print("| options | built in | processor | clock | cycles/s |\n|---|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        layer, training = Layer.compile(folder, name, 56, 2), Layer.compile(folder, name, 28, 1)
        if layer.verilog() != training.verilog():
            raise SystemExit(f"{name}: the two layers make different machines, and a profile is of one")
        extras: dict[str, str] = {}
        seconds: dict[str, float] = {}
        for o in options:
            profile = folder / f"profile{len(extras)}"
            extras[o.title], seconds[o.title] = prepare(o, layer, training, profile)
        reference, model = (sateen.run(layer.build, {"x": layer.x}, e) for e in ("reference", "model"))
        expected = model.cycles, reference.outputs["y"].tobytes()
        times: dict[str, list[tuple[float, float]]] = {o.title: [] for o in options}
        for _ in range(rounds):
            for o in options:
                clock, processor, cycles, outputs = layer.run(o, extras[o.title])
                times[o.title].append((clock, processor))
                if (cycles, outputs) != expected:
                    raise SystemExit(
                        f"{name}, {o.title}: outputs or cycles differ from the reference's and the model's"
                    )
        base = times[options[0].title]
        for o in options:
            ratios = [
                statistics.median(b[k] / t[k] for b, t in zip(base, times[o.title], strict=True))
                for k in (1, 0)
            ]
            speed = f"{expected[0] / min(clock for clock, _ in times[o.title]):,.0f}".replace(",", " ")
            cells = f"{seconds[o.title]:.0f} s | {ratios[0]:.2f}× | {ratios[1]:.2f}× | {speed}"
            print(f"| {o.title} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=["mac256", "sat256"])
    parser.add_argument("--only", default="", help="those whose title this regular expression matches")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    chosen = [
        o
        for o in OPTIONS
        if o is OPTIONS[0] or (re.search(args.only, o.title) and (not o.cxx or shutil.which(o.cxx)))
    ]
    for name in args.presets:
        measure(name, chosen, args.rounds)


if __name__ == "__main__":
    main()
