"""Synthesis of many small designs in few Yosys processes; cached by content, design by design.

Reading the cell library and mapping arithmetic to it takes seconds in a process, and a module of a few dozen
LUTs milliseconds more. The designs stand side by side in one and keep their top modules, so that each gets the
netlist that it gets by itself.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path

from sateen.errors import BuildError
from sateen.files import cache_entry, load_entry, store_entry
from sateen.fpga.boards.devices import FAMILIES, Family
from sateen.fpga.flow.deep_memories import deepened
from sateen.fpga.flow.synthesis import (
    counted,
    error_in,
    finish,
    primitives,
    rules,
    run_yosys,
    tool_version,
)

SIZE = 16
"""Designs in a process."""


def synthesize_many(
    designs: Sequence[str],
    family: Family,
    *,
    top: str,
    options: str = "",
    delay_ps: int | None = None,
    workers: int = 2,
    pool: Executor | None = None,
) -> Iterator[tuple[int, dict[str, int]]]:
    """Position and primitives of each RTLIL text as they come in.

    The top module of each is called `top`, and those below it `top` and something more; black boxes among them are
    not counted. A text may occur more than once. `delay_ps` is what logic between registers may take, and Yosys saves
    area within it; by default the least delay comes first. `pool` runs the processes, by default `workers` threads;
    one that is given may be on other machines, where the tool must be the same. Raises BuildError.
    """
    aim = "" if delay_ps is None else f"scratchpad -set abc9.D {delay_ps}; "
    command = f"{family.synth.format(top='all_of_them')} {options}".rstrip()

    def script_of(design: str) -> str:
        return f"read_rtlil design.il; {aim}{deepened(command, design)}; {finish(family)}"

    positions: dict[str, list[int]] = {}
    for n, design in enumerate(designs):
        positions.setdefault(design, []).append(n)
    scripts = {v: script_of(v) for v in positions}
    paths = {
        v: cache_entry("batch", tool_version(), s, top, v, *rules(s).values()) for v, s in scripts.items()
    }
    missing: dict[str, list[str]] = {}
    for design, where in positions.items():
        if (known := load_entry(paths[design])) is None:
            missing.setdefault(scripts[design], []).append(design)
        else:
            cells = json.loads(known)
            yield from ((n, cells) for n in where)
    batches = [(s, v[i : i + SIZE]) for s, v in missing.items() for i in range(0, len(v), SIZE)]
    with ExitStack() as stack:
        chosen = pool or stack.enter_context(ThreadPoolExecutor(workers))
        futures = {chosen.submit(_run, batch, script, top, family.name): batch for script, batch in batches}
        for future in as_completed(futures):
            for design, cells in zip(futures[future], future.result(), strict=True):
                store_entry(paths[design], json.dumps(cells).encode())
                yield from ((n, cells) for n in positions[design])


def side_by_side(designs: Sequence[str], top: str) -> str:
    """One design, `all_of_them`, with every port of every top module a port of its own."""
    modules, wires, cells, port = [], [], [], 0
    for n, design in enumerate(designs):
        names = re.findall(r"^module \\(\S+)$", design, re.MULTILINE)
        body = re.search(rf"^module \\{top}\n(.*?)^end$", design, re.MULTILINE | re.DOTALL)
        if body is None or not all(name.startswith(top) for name in names):
            raise BuildError(
                f"a batch takes texts with a module '{top}', and others called so and something more"
            )
        renamed = re.sub(
            rf"^(module|  cell) \\{top}(\w*)", rf"\1 \\{top}_{n}\2", design, flags=re.MULTILINE
        ).replace("attribute \\top 1\n", "")
        start = f"module \\{top}_{n}\n"
        modules.append(renamed.replace(start, "attribute \\keep_hierarchy 1\n" + start))
        cells.append(f"  cell \\{top}_{n} \\i{n}\n")
        for wire, name in re.findall(
            r"^  wire (.*\b(?:input|output) \d+\b.*?) +(\\\S+)$", body[1], flags=re.MULTILINE
        ):
            outside = f"\\p{n}_{name[1:]}"
            numbered = re.sub(r"(input|output) \d+", rf"\1 {port}", wire)
            wires.append(f"  wire {numbered} {outside}\n")
            cells.append(f"    connect {name} {outside}\n")
            port += 1
        cells.append("  end\n")
    return "".join([*modules, "attribute \\top 1\nmodule \\all_of_them\n", *wires, *cells, "end\n"])


def _run(designs: list[str], script: str, top: str, name: str) -> list[dict[str, int]]:
    family = FAMILIES[name]
    with tempfile.TemporaryDirectory(prefix="sateen-batch-") as path:
        folder = Path(path)
        (folder / "design.il").write_text(side_by_side(designs, top), encoding="utf-8")
        code, tail = run_yosys(script, folder)
        if code != 0 or not (folder / "stat.json").is_file():
            raise BuildError(f"Yosys failed for {family.title} with exit code {code}: {error_in(tail)}")
        cells = counted(folder, family)
    return [
        {cell: k for cell, k in primitives(cells[f"{top}_{n}"]).items() if not cell.startswith(f"{top}_")}
        for n in range(len(designs))
    ]
