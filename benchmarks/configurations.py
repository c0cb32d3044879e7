"""Walks the space of legal configurations: each is emitted, some linted by Verilator, some run in all four engines.

python benchmarks/configurations.py --kind emit --seconds 240      # random machines: Verilog is written
python benchmarks/configurations.py --kind rtl --seconds 240       # … and a tiny network runs in all engines
python benchmarks/configurations.py --kind extremes --seconds 240  # each field's least and most

Configuration number i depends on i alone. A run goes on where the last one with the same --state ended. What fails
is printed with its configuration, and kept in the state, one JSON object a line.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))
from four_engines import check
from random_config import extreme_configs, random_config, tiny_network

from sateen.errors import ConfigError, DataError, FormatError, ModelError
from sateen.files import cache_dir
from sateen.hw.chip.verilog import TOP, emit_verilog
from sateen.machine.config import AcceleratorConfig
from sateen.sim import verilator

LINTED = 7
"""Of so many random configurations one is read by Verilator."""
MOST, FEW = 16, 4
"""Multipliers of every other random machine, and of those between: what they are made of does not depend on it, the
time does."""


def lint(text: str) -> str:
    """What Verilator says of it; nothing if it is right."""
    root, _ = verilator.installed()
    flags = ["--lint-only", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-SYMRSVDWORD", "--top-module", TOP]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.v"
        path.write_text(text)
        environment = os.environ | {"VERILATOR_ROOT": str(root)}
        command = [str(root / "bin" / "verilator_bin"), *flags, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.stderr if done.returncode or "%Warning" in done.stderr else ""


def emits(config: AcceleratorConfig, linted: bool) -> str:
    """What is wrong with the configuration's Verilog."""
    text = emit_verilog(config)
    if "[-1:0]" in text:
        return "a signal without bits"
    return lint(text) if linted else ""


def runs(config: AcceleratorConfig, number: int) -> str:
    """ "refused" where the machine is too small for the network, and says so."""
    model, samples = tiny_network(random.Random(number))
    timing = {"latency": 1 + number % 40, "interval": 1 + number % 3}
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(model, samples, config, Path(folder), **timing)
        except (ConfigError, DataError, FormatError, ModelError) as e:
            return f"refused: {e}"
    return ""


def jobs(kind: str, first: int) -> Iterator[tuple[str, AcceleratorConfig]]:
    if kind == "extremes":
        yield from extreme_configs()
        return
    number = first
    while True:
        rtl = kind == "rtl"
        most = MOST // 2 if rtl else FEW if number % 2 else MOST
        yield str(number), random_config(random.Random(number), most, roomy=rtl)
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=("emit", "rtl", "extremes"), default="emit")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--first", type=int, default=0, help="number of the first random configuration")
    parser.add_argument("--count", type=int, help="random configurations in all")
    parser.add_argument("--state", type=Path, help="by default in the cache folder")
    args = parser.parse_args()
    state = args.state or cache_dir() / f"configurations-{args.kind}.jsonl"
    state.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in state.read_text().splitlines()] if state.exists() else []
    done = {entry["name"]: entry["result"] for entry in known}
    until = time.monotonic() + args.seconds
    for i, (name, config) in enumerate(jobs(args.kind, args.first)):
        if time.monotonic() > until or (args.count is not None and i >= args.count):
            break
        if name in done:
            continue
        try:
            wrong = (
                runs(config, i)
                if args.kind == "rtl"
                else emits(config, args.kind != "emit" or i % LINTED == 0)
            )
        except Exception as e:  # whatever it is, it is what is looked for
            wrong = f"{type(e).__name__}: {e}"
        result = "ok" if not wrong else "refused" if wrong.startswith("refused") else "failed"
        done[name] = result
        entry = {"name": name, "result": result, "said": wrong, "config": config.to_dict()}
        with state.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if result == "failed":
            print(f"{args.kind} {name}: {wrong}\n  {config.to_dict()}", flush=True)
    counts = collections.Counter(done.values())
    print(f"{args.kind}: {len(done)} configurations, {counts['ok']} right, {counts['refused']} refused, "
          f"{counts['failed']} failed")  # fmt: skip
    sys.exit(1 if counts["failed"] else 0)


if __name__ == "__main__":
    main()
