"""A small space searched in full, and the share of its front that each sampler finds with 10 % of the trials.

    python benchmarks/explore_search.py [--seeds 5] [--share 0.1] [--table F.json] [--output F.json]

A network of one convolution and one dense layer, with random weights, so that a candidate takes milliseconds; accuracy
is agreement with the float network. The full search measures every machine once; samplers then look up what it found,
each in the number of distinct machines that it is given to measure. "front" is the share of the true front, "volume"
that of what the true front dominates, frames a second and LUTs as logarithms. `auto` screens as well: it knows frames a
second and LUTs of so many more machines, and no accuracy of them. Minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.progress import track

from sateen.explorer import workers
from sateen.explorer.evaluate import Evaluator, Outcome, Task, checked_measure
from sateen.explorer.goals import METRICS, dominates, front
from sateen.explorer.run import explore
from sateen.explorer.search import Options, Search
from sateen.explorer.study import Study

SPACE = {
    "preset": "ulx3s-85f",
    "weight_format": ["int3", "int4", "e2m1", "int5", "e2m2", "int6", "int8"],
    "activation_format": ["int3", "int4", "e2m1", "int5", "e2m2", "int6", "int8"],
    "rows": [1, 2, 4],
    "cols": [2, 4, 8],
    "lanes": [1, 2],
    "group": [2],
    "bus_bits": [32, 64],
    "weight_depth": [128, 512],
    "act_bank_depth": [512],
}
"""3 528 points."""
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


def searched(
    model: Path, samples: dict[str, np.ndarray], folder: Path, options: Options
) -> tuple[Study, Search, Task]:
    return explore(
        model, folder, calibration=samples, data=None, labels=None, device="ecp5", objectives="fps,lut,agreement",
        limits=None, space=SPACE, clock=None, method="magnitude", shapes=None, options=options,
        progress=lambda stage, fraction: None,
    )  # fmt: skip


def whole(search: Search, task: Task) -> dict[str, Outcome]:
    """Every machine of the space measured, by its key."""
    evaluator = Evaluator(task)
    found: dict[str, Outcome] = {}
    for point in track(search.space.points(), total=search.space.size, description="full search"):
        candidate = search.space.candidate(point)
        if candidate.key not in found:
            found[candidate.key] = checked_measure(evaluator, candidate, ())
    return found


def looked_up(outcome: Outcome, screened: bool) -> Outcome:
    """What the full search measured; of what is only screened no accuracy."""
    if not screened or outcome.state != "measured":
        return outcome
    cheap = {k: v for k, v in outcome.metrics.items() if k not in METRICS or not METRICS[k].dear}
    return Outcome("screened", cheap)


def volume(points: set[tuple[float, ...]], low: np.ndarray, high: np.ndarray) -> float:
    """What three objectives dominate of the box from the worst to the best, frames a second and LUTs as logarithms."""
    places = np.array(sorted(points))
    scaled = np.clip((_places(places) - low) / (high - low), 0.0, 1.0)
    total = 0.0
    order = scaled[np.argsort(-scaled[:, 0])]
    for i, (x, _, _) in enumerate(order):  # slabs along the first objective
        below = order[i + 1][0] if i + 1 < len(order) else 0.0
        total += (x - below) * _area(order[: i + 1, 1:])
    return total


def _places(points: np.ndarray) -> np.ndarray:
    fps, lut, right = points.T
    return np.array([np.log(fps), -np.log(-lut), right]).T


def _area(points: np.ndarray) -> float:
    total, reached = 0.0, 0.0
    for x, y in points[np.argsort(-points[:, 0])]:
        total += x * max(0.0, y - reached)
        reached = max(reached, y)
    return total


def found_share(true: set[tuple[float, ...]], mine: set[tuple[float, ...]]) -> float:
    assert not any(dominates(m, t) for m in mine for t in true), "the full search missed something"
    return len(true & mine) / len(true)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--table", type=Path, help="what the full search found; written if it is not there")
    parser.add_argument("--samplers", nargs="*", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, samples = network(folder)
        began = time.perf_counter()
        study, search, task = searched(model, samples, folder / "whole", Options(trials=1))
        if args.table and args.table.exists():
            table = {k: Outcome(*v) for k, v in json.loads(args.table.read_text()).items()}
        else:
            table = whole(search, task)
        if args.table:
            text = json.dumps({k: [o.state, o.metrics, o.reason, o.seconds] for k, o in table.items()})
            args.table.write_text(text)
        goals, measured = study.goals, [o.metrics for o in table.values() if o.state == "measured"]
        true = {goals.gains(measured[i]) for i in front(goals, measured)}
        trials = round(args.share * len(table))
        print(
            f"{search.space.size} points, {len(table)} machines in {time.perf_counter() - began:.0f} s, "
            f"{len(measured)} measured to the end, {len(true)} on the front; {trials} trials for each search"
        )
        every = _places(np.array([goals.gains(m) for m in measured]))
        low, high = every.min(0), every.max(0)
        full = volume(true, low, high)
        workers.checked_measure = lambda evaluator, candidate, front: looked_up(
            table[candidate.key], front is None
        )
        rows: dict[str, dict[str, list[float]]] = {}
        for sampler in args.samplers:
            for seed in range(args.seeds):
                options = Options(trials=trials, sampler=sampler, seed=seed)
                study, search, _ = searched(model, samples, folder / f"{sampler}{seed}", options)
                mine = {goals.gains(t.metrics) for t in study.front()}
                row = rows.setdefault(sampler, {"front": [], "volume": [], "screened": []})
                row["front"].append(found_share(true, mine))
                row["volume"].append(volume(mine, low, high) / full)
                row["screened"].append(search.screened)
            shares = ", ".join(
                f"{name} {100 * np.mean(row[name]):.1f} % (each seed: {', '.join(f'{100 * s:.1f}' for s in row[name])})"
                for name in ("front", "volume")
            )
            print(f"{sampler}: {shares}; screened {np.mean(row['screened']):.0f}", flush=True)
    if args.output:
        args.output.write_text(json.dumps({"machines": len(table), "trials": trials, "shares": rows}) + "\n")


if __name__ == "__main__":
    main()
