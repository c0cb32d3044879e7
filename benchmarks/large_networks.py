"""Standard networks at full size through all engines: every output bit, and every cycle.

    python benchmarks/large_networks.py                               all of them, the table on standard output
    python benchmarks/large_networks.py --only vgg16 --preset sat256 --sparsity 2:8 --seconds 600

The reference's outputs must be the program's and, where one sample takes less than `--seconds` there, the RTL's; the
cycles of the model must be the RTL's. The compiler itself proves that a program stays within every counter of the
machine, or refuses it, so that a network without RTL is held by its proof. Weights are random (`sateen.models
.architectures`): the point is cycles and bits.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx

import sateen
from sateen.errors import SateenError
from sateen.models.architectures import ARCHITECTURES
from sateen.options import ENGINES

HOPELESS = 2_000_000
"""Cycles a second that no simulation of these machines reaches."""


@dataclass(frozen=True, slots=True)
class Options:
    preset: str
    sparsity: str
    weights: str | None
    activations: str | None
    engines: tuple[str, ...]
    seconds: float
    latency: int
    bus: int | None
    samples: int
    seed: int


@dataclass(slots=True)
class Outcome:
    """`differences` is empty where all is equal; `refused` is the error that ended it."""

    network: str
    input: str = ""
    parameters: int = 0
    macs: int = 0
    cycles: int = 0
    utilization: float = 0.0
    moved_bytes: int = 0
    weight_bytes: int = 0
    instructions: int = 0
    compared: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    refused: str = ""

    @property
    def good(self) -> bool:
        return not self.differences and not self.refused


class _TooSlow(Exception):
    """The RTL took longer than it may."""


def measure(name: str, options: Options) -> Outcome:
    model = ARCHITECTURES[name](options.seed)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim][1:] for i in model.graph.input}
    outcome = Outcome(name, ", ".join("×".join(map(str, s)) for s in shapes.values()))
    outcome.parameters = sum(int(np.prod(w.dims)) for w in model.graph.initializer)
    rng = np.random.default_rng(options.seed)
    samples = {k: rng.standard_normal((options.samples, *s), np.float32) for k, s in shapes.items()}
    try:
        with tempfile.TemporaryDirectory() as folder:
            path, build = Path(folder) / "model.onnx", Path(folder) / "build"
            onnx.save(model, path)
            del model
            _compile(path, build, samples, options, outcome)
            _compare(build, {k: x[:1] for k, x in samples.items()}, options, outcome)
    except SateenError as e:
        outcome.refused = f"{type(e).__name__}: {e}"
    return outcome


def _compile(
    path: Path, build: Path, samples: dict[str, np.ndarray], options: Options, outcome: Outcome
) -> None:
    config = sateen.preset(options.preset)
    if options.bus is not None:
        beats = min(config.burst_beats, 4096 * 8 // options.bus)
        config = config.replace(bus_bits=options.bus, burst_beats=beats)
    started = time.perf_counter()
    manifest = sateen.compile(
        path,
        build,
        calibration=samples,
        config=config,
        weights=options.weights,
        activations=options.activations,
        sparsity=options.sparsity,
        sparsity_method="magnitude",  # random weights
    )
    _say(f"{outcome.network}: compiled in {time.perf_counter() - started:.0f} s")
    outcome.macs, outcome.instructions = manifest["dense_macs"], manifest["instructions"]
    kinds = manifest["totals"]["bytes"]
    outcome.moved_bytes, outcome.weight_bytes = kinds["total"], kinds.get("weights", 0)


def _compare(build: Path, inputs: dict[str, np.ndarray], options: Options, outcome: Outcome) -> None:
    """Runs the engines asked for and notes where they differ."""

    def run(engine: str, seconds: float = float("inf")) -> sateen.RunResult:
        started = time.perf_counter()

        def progress(_stage: str, _fraction: float) -> None:
            if time.perf_counter() - started > seconds:
                raise _TooSlow

        result = sateen.run(build, inputs, engine, latency=options.latency, progress=progress)
        _say(f"{outcome.network}: {engine} took {time.perf_counter() - started:.0f} s")
        outcome.compared.append(engine)
        return result

    predicted = run("model")
    assert predicted.cycles and predicted.utilization
    outcome.cycles, outcome.utilization = predicted.cycles, predicted.utilization
    wanted = run("reference").outputs if {"program", "rtl"} & set(options.engines) else None
    found = {"program": run("program")} if "program" in options.engines else {}
    if "rtl" in options.engines and predicted.cycles < HOPELESS * options.seconds:
        try:
            found["rtl"] = run("rtl", options.seconds)
        except _TooSlow:
            _say(f"{outcome.network}: rtl ended after {options.seconds:.0f} s")
    for engine, result in found.items():
        assert wanted is not None and result.outputs is not None
        outcome.differences += [
            f"output '{k}' of {engine}"
            for k, v in wanted.items()
            if v.tobytes() != result.outputs[k].tobytes()
        ]
        if result.cycles not in (None, predicted.cycles):
            outcome.differences.append(f"cycles of {engine}: {result.cycles} for {predicted.cycles}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


HEAD = (
    "| network | input | parameters | multiplications | cycles | utilisation | bytes moved | instructions "
    "| bits | cycles in RTL |\n|---|---|---|---|---|---|---|---|---|---|"
)


def row(o: Outcome) -> str:
    if o.refused:
        return f"| {o.network} | {o.input} | {o.parameters:,} | {o.macs:,} | {o.cycles:,} | | | | {o.refused} | |"
    bits = "; ".join(o.differences) or "equal: " + ", ".join(e for e in o.compared if e != "model")
    cycles = ("equal" if o.good else "") if "rtl" in o.compared else "not run"
    return (
        f"| {o.network} | {o.input} | {o.parameters:,} | {o.macs:,} | {o.cycles:,} | {100 * o.utilization:.1f} % | "
        f"{o.moved_bytes:,} | {o.instructions:,} | {bits} | {cycles} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", action="append", choices=ARCHITECTURES, metavar="NAME", help="may be repeated"
    )
    parser.add_argument("--engines", default=",".join(ENGINES), help="of reference, program, model and rtl")
    parser.add_argument("--preset", default="mac256")
    parser.add_argument("--sparsity", default="dense")
    parser.add_argument("--weights")
    parser.add_argument("--activations")
    parser.add_argument("--seconds", type=float, default=180, help="that the RTL may take for one sample")
    parser.add_argument("--latency", type=int, default=32)
    parser.add_argument("--bus", type=int, help="bits, in the place of the preset's")
    parser.add_argument("--samples", type=int, default=2, help="for calibration")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one object, in the place of the table")
    args = parser.parse_args(arguments)
    engines = tuple(args.engines.split(","))
    if unknown := set(engines) - set(ENGINES):
        parser.error(f"unknown engine '{min(unknown)}'; choose from {', '.join(ENGINES)}")
    options = Options(
        args.preset, args.sparsity, args.weights, args.activations, engines, args.seconds, args.latency, args.bus,
        args.samples, args.seed,
    )  # fmt: skip
    if not args.json:
        print(HEAD, flush=True)
    outcomes = []
    for name in args.only or ARCHITECTURES:
        outcomes.append(measure(name, options))
        if not args.json:
            print(row(outcomes[-1]), flush=True)
    if args.json:
        print(json.dumps({"options": asdict(options), "networks": [asdict(o) for o in outcomes]}, indent=1))
    return 0 if all(o.good for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
