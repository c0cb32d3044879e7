"""Files of integer networks beside ONNX Runtime: output codes, every layer's codes alone, and why some differ.

python benchmarks/integer_agreement.py FILE... [--inputs X.npz] [--samples 64] [--rtl] [--preset mac256]

What the columns `ties`, `float32` and `constants` count is in `sateen.compiler.export.Differences`. Inputs are random
where none are given.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import sateen
from sateen.compiler.export import compare_with_file, run_file
from sateen.compiler.importer import load_model
from sateen.ir.graph import Graph


def random_inputs(graph: Graph, n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """All codes evenly, or normal numbers, by the file's names."""
    rng = np.random.default_rng(seed)
    found = {}
    for port in graph.inputs:
        shape = (n, *port.shape)
        if port.codes is None:
            found[port.source] = rng.normal(0, 1, shape).astype(np.float32)
        else:
            low, high = port.codes.format.min_fixed, port.codes.format.max_fixed
            found[port.source] = rng.integers(low, high + 1, shape).astype(port.kind)
    return found


def measure(path: Path, args: argparse.Namespace) -> str:
    """A row of the table."""
    network = sateen.load(path)
    if network.graph is None:
        return f"| {path.stem} | not supported: see `sateen check` |"
    model = load_model(path)
    feeds = dict(np.load(args.inputs)) if args.inputs else random_inputs(network.graph, args.samples)
    quantized = network.quantize(calibration=feeds)
    theirs, fused = run_file(model, feeds), run_file(model, feeds, fused=True)
    outputs = []
    for name, y in quantized.run(feeds).items():
        want, other = theirs[name].reshape(y.shape), fused[name].reshape(y.shape)
        outputs.append(f"{_apart(y, want)}; with itself {_apart(other, want)}")
    found = compare_with_file(model, network.graph, quantized.graph, feeds)
    share = 100 * found.differ / max(found.codes, 1)
    row = [path.stem, ", ".join(outputs), f"{found.codes:,}", f"{share:.3f} %, {found.steps} steps"]
    row += [f"{found.ties}", f"{found.float32}", f"{found.constants}", *_machine(quantized, feeds, args)]
    return f"| {' | '.join(row)} |"


def _apart(a: np.ndarray, b: np.ndarray) -> str:
    if a.dtype.kind == "f":
        return f"cosine {float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)):.6f}"
    steps = np.abs(a.astype(int) - b)
    return f"{np.count_nonzero(steps)} of {steps.size}, {steps.max()} steps"


def _machine(
    quantized: sateen.QuantizedNetwork, feeds: dict[str, np.ndarray], args: argparse.Namespace
) -> list[str]:
    """Cycles, utilisation, and whether the RTL gives the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        build = quantized.map(args.preset).write(folder)
        some = {k: v[:1] for k, v in feeds.items()}
        found = build.run(some, "rtl" if args.rtl else "model")
        equal = "not run"
        if args.rtl:
            want = build.run(some).outputs or {}
            same = all((v == (found.outputs or {})[k]).all() for k, v in want.items())
            equal = "equal" if same and found.cycles == build.cycles else "DIFFERENT"
        return [f"{build.cycles:,}", f"{100 * (found.utilization or 0):.1f} %", equal]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--inputs", type=Path, help="one array per input; default: random")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--preset", default="mac256")
    parser.add_argument("--rtl", action="store_true")
    args = parser.parse_args()
    print(
        "| file | outputs that differ | codes of layers | of those differ | ties | float32 | constants | cycles | "
        "utilisation | RTL |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path in args.files:
        print(measure(path, args), flush=True)


if __name__ == "__main__":
    main()
