"""Whole training steps as programs: cycles of each pass by the exact model, and bits and cycles in an engine.

    python benchmarks/training_steps.py --cycles                      (ResNet8, 32 samples: dense and 2:8)
    python benchmarks/training_steps.py                               (digits CNN and ResNet8 in RTL, 4 samples)
    python benchmarks/training_steps.py --networks resnet18 --engine program

Each step begins at random weights, with random samples. In an engine every result of a layer, gradient, master weight,
velocity and code is compared with the reference's, and the RTL's cycles with the model's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

import sateen
from sateen.compiler.importer import import_model
from sateen.compiler.training import (
    PASSES,
    Settings,
    Trainer,
    cycles,
    differences,
    fitting,
    initial,
    make_plan,
    record,
)
from sateen.models.resnets import resnet8, resnet18

ROOT = Path(__file__).parent.parent
HEAD = "| network | samples | weights | ff | bp | wu | update | all | utilisation |"
"""Utilisation: multiplications of the dense network, all three passes, over cycles times multipliers."""


def _file(name: str) -> Callable[[], onnx.ModelProto]:
    return lambda: onnx.load(ROOT / "models" / f"{name}.onnx")


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "digits_cnn": _file("digits_cnn"),
    "digits_resnet": _file("digits_resnet"),
    "resnet8": resnet8,
    "resnet18": resnet18,
}


def trainer_of(name: str, args: argparse.Namespace, method: str) -> tuple[Trainer, np.ndarray, np.ndarray]:
    """With samples (N, H, W, C) and their classes."""
    fmt = args.format
    settings = Settings(args.sparsity, method, fmt, fmt, fmt, batch=args.batch, scratch=True)
    plan = make_plan(import_model(NETWORKS[name]()), settings)
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.5, (args.batch, *plan.graph.shapes[plan.input])).astype(np.float32)
    state = initial(plan, settings)
    state.scales[plan.input] = fitting(float(np.abs(x).max()), settings.formats[1])
    return Trainer(plan, settings, state), x, rng.integers(0, plan.classes, args.batch)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, metavar="NAME")
    parser.add_argument("--cycles", action="store_true", help="count dense and sparse steps, run none")
    parser.add_argument("--engine", choices=("program", "rtl"), default="rtl")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--sparsity", default="2:8", metavar="N:M")
    parser.add_argument("--format", default="int8")
    parser.add_argument("--machine", default="train256")
    parser.add_argument("--layers", action="store_true", help="a line for each layer, too")
    args = parser.parse_args()
    args.batch = args.batch or (32 if args.cycles else 4)
    machine = sateen.preset(args.machine)
    failed = False
    print(HEAD + ("" if args.cycles else " engine |"))
    print("|---|--:|---" + "|--:" * 6 + ("|" if args.cycles else "|---|"))
    for name in args.networks or (["resnet8"] if args.cycles else ["digits_cnn", "resnet8"]):
        for method in ("dense", "bdwp") if args.cycles else ("bdwp",):
            trainer, x, labels = trainer_of(name, args, method)
            step = record(trainer, x, labels, 0.01, machine)
            found, plan = cycles(step), trainer.plan
            trained = plan.trainable
            dense = args.batch * sum(plan.macs(layer) * (2 + (layer is not trained[0])) for layer in trained)
            row = [name, f"{args.batch}", f"{trainer.settings.pattern}"]
            row += [f"{found[kind]:,}" for kind in (*PASSES, "total")]
            row += [f"{dense / found['total'] / machine.multipliers:.0%}"]
            if not args.cycles:
                began = time.process_time()
                compared = differences(step, args.engine)
                wrong = compared["differences"]
                failed |= bool(wrong)
                same = "equal" if not wrong else f"different: {wrong}"
                counted = f", {compared['cycles']:,} cycles" if compared["cycles"] else ""
                row.append(f"{args.engine}: {same}{counted}")
                print(f"{time.process_time() - began:.0f} s", file=sys.stderr)
            print(f"| {' | '.join(row)} |", flush=True)
            if args.layers:
                for kind in PASSES:
                    for layer, count in found["layers"][kind].items():
                        print(f"| . {layer} | | {kind} | {count:,} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
