"""`sateen train`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sateen.cli.io import emit, emit_json, progress
from sateen.errors import DataError
from sateen.training import train as run_training


def train(args: argparse.Namespace) -> int:
    if (args.test_data is None) != (args.test_labels is None):
        raise DataError("--test-data and --test-labels go together; give both, or leave both out")

    def line(row: dict[str, Any]) -> None:
        if row["end"]:
            tested = f", test {100 * row['test']:.2f} %" if "test" in row else ""
            print(
                f"epoch {row['epoch']}: loss {row['loss']:.4f}, accuracy {100 * row['accuracy']:.2f} %{tested}",
                file=sys.stderr,
                flush=True,
            )

    with progress("train") as report:
        result = run_training(
            args.model,
            args.output,
            args.data,
            args.labels,
            sparsity=args.sparsity,
            method=args.method,
            weights=args.weights,
            activations=args.activations,
            gradients=args.gradients,
            epochs=args.epochs,
            batch=args.batch,
            rate=args.rate,
            momentum=args.momentum,
            weight_decay=args.weight_decay,
            pruned_decay=args.pruned_decay,
            scratch=args.from_scratch,
            seed=args.seed,
            test=None if args.test_data is None else (args.test_data, args.test_labels),
            preset=args.preset,
            shapes=dict(args.shape or ()),
            machine=args.machine,
            engine=args.engine,
            steps=args.steps,
            trace=args.trace,
            report=line,
            progress=report,
        )
    if args.json:
        emit_json({"run": args.output, **result})
    elif "equal" in result:
        wrong: dict[str, int] = next((d for d in result["differences"] if d), {})
        said = "equal to the reference" if result["equal"] else f"{wrong} elements differ"
        emit(f"{args.engine}: {args.steps} steps, {said}; {result['cycles']['total']:,} cycles a step")
    else:
        tested = f", test {100 * result['test']:.2f} %" if "test" in result else ""
        emit(
            f"{args.output}: {result['steps']} steps, loss {result['loss']:.4f}, accuracy "
            f"{100 * result['accuracy']:.2f} %{tested}; {result['trained']}, {result['build']}"
        )
    return 0 if result.get("equal", True) else 1
