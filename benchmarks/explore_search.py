"""A small space searched in full, and the share of its front that each sampler finds with 10 % of the trials.

    python benchmarks/explore_search.py [--seeds 5] [--share 0.1] [--output F.json]

A network of one convolution and one dense layer, with random weights, so that a candidate takes milliseconds; accuracy
is agreement with the float network. The full search measures every point once; samplers then look up what it found,
each in the number of distinct machines that it is given. Minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sateen.explorer import workers
from sateen.explorer.evaluate import Outcome
from sateen.explorer.goals import dominates
from sateen.explorer.run import explore
from sateen.explorer.search import Options

SPACE = {
    "preset": "ulx3s-85f",
    "weight_format": ["int3", "int4", "int5", "int6", "int8", "e2m2"],
    "activation_format": ["int3", "int4", "int6", "int8", "e2m2"],
    "rows": [1, 2, 4],
    "cols": [2, 4, 8],
    "lanes": [1, 2],
    "group": [2],
    "bus_bits": [32, 64],
    "weight_depth": [128, 512],
    "act_bank_depth": [512],
}
"""2 160 points."""
SAMPLERS = ("auto", "tpe", "nsga2", "random")


def network(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The file, and samples of it."""
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.normal(size=(8, 3, 3, 3)) / 5,
        "b": rng.normal(size=8) / 5,
        "v": rng.normal(size=(8, 10)) / 3,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "v"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items()],
    )
    path = folder / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path, {"x": rng.normal(size=(128, 3, 8, 8)).astype(np.float32)}


def searched(model: Path, samples: dict[str, np.ndarray], folder: Path, options: Options) -> Any:
    study, _, _ = explore(
        model, folder, calibration=samples, data=None, labels=None, device="ecp5", objectives="fps,lut,agreement",
        limits=None, space=SPACE, clock=None, method="magnitude", shapes=None, options=options,
        progress=lambda stage, fraction: None,
    )  # fmt: skip
    return study


def gains(study: Any) -> set[tuple[float, ...]]:
    return {study.goals.gains(t.metrics) for t in study.front()}


def found_share(true: set[tuple[float, ...]], mine: set[tuple[float, ...]]) -> float:
    assert not any(dominates(m, t) for m in mine for t in true), "the full search missed something"
    return len(true & mine) / len(true)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, samples = network(folder)
        began = time.perf_counter()
        whole = searched(model, samples, folder / "whole", Options(sampler="exhaustive"))
        seconds = time.perf_counter() - began
        table = {
            t.candidate.key: Outcome(t.state, dict(t.metrics), t.reason, t.seconds) for t in whole.trials
        }
        measured = {k: o for k, o in table.items() if o.state == "measured"}
        true = gains(whole)
        trials = round(args.share * len(table))
        print(
            f"{len(table)} machines in {seconds:.0f} s, {len(measured)} measured to the end, {len(true)} on the front; "
            f"{trials} trials for each search"
        )
        workers.checked_measure = lambda evaluator, candidate, front: table[candidate.key]
        rows: dict[str, list[float]] = {}
        for sampler in SAMPLERS:
            for seed in range(args.seeds):
                study = searched(
                    model,
                    samples,
                    folder / f"{sampler}{seed}",
                    Options(trials=trials, sampler=sampler, seed=seed),
                )
                rows.setdefault(sampler, []).append(found_share(true, gains(study)))
            shares = rows[sampler]
            print(
                f"{sampler}: {100 * np.mean(shares):.0f} % of the front (each seed: "
                f"{', '.join(f'{100 * s:.0f}' for s in shares)})",
                flush=True,
            )
    if args.output:
        args.output.write_text(json.dumps({"machines": len(table), "trials": trials, "shares": rows}) + "\n")


if __name__ == "__main__":
    main()
