"""Candidates a second with 1 and 2 local workers, and a study on 4 of which one is killed while it measures.

    python benchmarks/explore_workers.py [--workers 1 2] [--killed 4]
    python benchmarks/explore_workers.py --model resnet8.onnx --calibration X.npz --data X.npz --labels L.npz --killed 0

24 pairs of formats on two machines: 48 candidates, each pair quantized by whoever comes first; of the digits CNN, which
are cheap, and of a network that is given, which may be dearer. Rates are from the first candidate that is done to the
last, so that the start of processes does not count. A process has one thread, with one worker too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is there
import sateen
from sateen.models.data import write_digits_npz

SPACE = {
    "preset": "tiny",
    "weight_format": ["int3", "int4", "int5", "int6", "int7", "int8"],
    "activation_format": ["int4", "int5", "int6", "int8"],
    "cols": [2, 4],
    "act_bank_depth": 1024,
}
CANDIDATES = 48


def study(
    folder: Path, model: Path, data: tuple[Path, ...], on_trial: Callable[[], None], **options: Any
) -> Any:
    calibration, samples, labels = data

    def progress(stage: str, fraction: float) -> None:
        if fraction:
            on_trial()

    return sateen.explore(
        model, folder, calibration=calibration, data=samples, labels=labels, space=SPACE, sampler="exhaustive",
        trials=CANDIDATES, progress=progress, **options,
    )  # fmt: skip


def rate(folder: Path, model: Path, data: tuple[Path, ...], workers: int) -> float:
    times: list[float] = []
    study(folder, model, data, lambda: times.append(time.monotonic()), workers=workers)
    return (len(times) - 1) / (times[-1] - times[0])


def with_a_loss(folder: Path, model: Path, data: tuple[Path, ...], workers: int) -> dict[str, int]:
    """What became of the candidates of a study of which one busy worker was killed after the sixth."""
    done: list[float] = []
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):

        def on_trial() -> None:
            done.append(time.monotonic())
            if len(done) == 6:
                pids = client.run(os.getpid)
                busy = next(w for w, tasks in client.processing().items() if tasks)
                os.kill(pids[busy], signal.SIGKILL)

        found = study(folder, model, data, on_trial, scheduler=cluster.scheduler_address)
    return dict(found["states"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument(
        "--killed", type=int, default=4, help="workers of which one is killed; 0: no such study"
    )
    parser.add_argument(
        "--model", type=Path, help="in the place of the digits CNN, with its samples and labels"
    )
    for name in ("calibration", "data", "labels"):
        parser.add_argument(f"--{name}", type=Path)
    args = parser.parse_args()
    model_file = args.model or files("sateen.models") / "digits_cnn.onnx"
    with tempfile.TemporaryDirectory() as name, as_file(model_file) as model:
        data = (args.calibration, args.data, args.labels) if args.model else write_digits_npz(name)
        for workers in args.workers:
            found = rate(Path(name) / f"workers{workers}", model, data, workers)
            print(json.dumps({"workers": workers, "candidates_per_s": round(found, 2)}), flush=True)
        if args.killed:
            states = with_a_loss(Path(name) / "killed", model, data, args.killed)
            print(json.dumps({"workers": args.killed, "killed": 1, "states": states}), flush=True)


if __name__ == "__main__":
    main()
