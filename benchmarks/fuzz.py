"""Random networks on random machines: are all four engines equal, whatever the network, the machine and the memory?

    python benchmarks/fuzz.py --minutes 60 --journal fuzz.jsonl       goes on where that journal ends
    python benchmarks/fuzz.py --replay fuzz-failures/17

A case has a network (`sateen.models.random_network`, or `layout_graphs.py` with `--kind layout`), a machine (any that
the configuration allows, small arrays and buffers first, any two formats), a pattern, a dataflow, scales, inputs of any
size, and a memory. It is imported and compared with ONNX Runtime, compiled, and run: the outputs of reference, program
and RTL are equal bit for bit, the cycles of model and RTL are equal, or it is a failure, as is anything but a refusal
in one line. `--machines` cases share a machine, so that it is generated and built once; `--rtl` is the share of the
machines that are simulated.

`--kind training` is of training steps instead, see `fuzz_training.py`, and keeps no journal.

A failure is made smaller and saved in a folder of its own, with model.onnx, config.toml, inputs.npz and case.json.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnx

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_case import KINDS, Case, draw, load, save
from fuzz_check import Outcome, check, kind
from fuzz_shrink import shrink
from fuzz_training import fuzz as fuzz_training

from sateen.compiler.warn import quiet


def journal_of(path: Path) -> list[dict[str, Any]]:
    """The lines so far; a case that was begun and never ended has ended the process."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {line["seed"]: line for line in lines}
    for line in done.values():
        if line["kind"] == "begun":
            line["kind"] = "the process died"
    return list(done.values())


def minimized(
    case: Case, model: onnx.ModelProto, outcome: Outcome, seconds: float
) -> tuple[Case, onnx.ModelProto]:
    return shrink(case, model, lambda c, m: check(c, m).kind == outcome.kind, seconds)


def fuzz(args: argparse.Namespace) -> list[dict[str, Any]]:
    lines = journal_of(args.journal)
    seed = max((line["seed"] for line in lines), default=args.first - 1) + 1
    end = time.monotonic() + 60 * args.minutes
    seen = collections.Counter(line["kind"] for line in lines)
    with args.journal.open("a") as journal:

        def note(values: dict[str, Any]) -> None:
            journal.write(json.dumps(values) + "\n")
            journal.flush()

        while time.monotonic() < end and (args.count is None or len(lines) < args.count):
            note({"seed": seed, "kind": "begun"})
            case, model = draw(seed, args.machines, args.rtl, args.kind)
            outcome = check(case, model)
            line = {
                "seed": seed, "kind": outcome.kind, "message": outcome.message, "cycles": outcome.cycles,
                "instructions": outcome.instructions, "rtl": case.rtl, "nodes": len(model.graph.node),
            }  # fmt: skip
            note(line)
            lines.append(line)
            if outcome.bad:
                print(f"case {seed}: {outcome.kind}: {outcome.message.splitlines()[-1][:200]}", flush=True)
                if seen[outcome.kind] < args.each:
                    small = minimized(case, model, outcome, 60 * args.shrink)
                    text = f"{outcome.kind}\n{outcome.message}\n\nfound as case {seed}; before it was made smaller:"
                    save(args.failures / str(seed), *small, f"{text} {len(model.graph.node)} nodes")
                seen[outcome.kind] += 1
            seed += 1
    return lines


def summary(lines: Sequence[dict[str, Any]]) -> str:
    kinds = collections.Counter(line["kind"] for line in lines)
    simulated = sum(line["kind"] == "equal" and line["rtl"] for line in lines)
    refusals = collections.Counter(kind(line["message"]) for line in lines if line["kind"] == "refused")
    return "\n".join(
        [
            f"{len(lines)} cases: {', '.join(f'{n} {k}' for k, n in kinds.most_common())}",
            f"{simulated} of the equal ones in RTL too",
            *(f"  refused {n} times: {text}" for text, n in refusals.most_common()),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=(*KINDS, "training"), default=KINDS[0], help="of network")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--count", type=int, help="cases in the journal at which to end")
    parser.add_argument("--first", type=int, default=0, help="seed of the first case of a new journal")
    parser.add_argument("--machines", type=int, default=25, help="cases that share one")
    parser.add_argument("--rtl", type=float, default=0.5, help="share of the machines that is simulated")
    parser.add_argument("--journal", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--shrink", type=float, default=3, help="minutes for one failure")
    parser.add_argument(
        "--each", type=int, default=3, help="failures of one kind that are made smaller and saved"
    )
    parser.add_argument("--replay", type=Path, help="folder of a failure: run it again")
    args = parser.parse_args(arguments)
    if args.replay:
        with quiet():
            outcome = check(*load(args.replay))
        print(f"{outcome.kind}: {outcome.message}")
        return int(outcome.bad)
    # The simulators are of machines that nobody else will ask for.
    with (
        quiet(),
        tempfile.TemporaryDirectory(prefix="sateen-fuzz-") as cache,
        patch.dict(os.environ, SATEEN_CACHE=cache),
    ):
        if args.kind == "training":
            return fuzz_training(args)
        lines = fuzz(args)
    print(summary(lines))
    return int(any(line["kind"] not in ("equal", "refused") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
