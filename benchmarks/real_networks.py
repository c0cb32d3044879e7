"""A folder of ONNX files: what is refused and why, cycles, and how near the outputs are to ONNX Runtime's.

    python benchmarks/real_networks.py                        the table of docs/results/real_networks.md
    python benchmarks/real_networks.py FOLDER --seconds 120   and the RTL of what takes less than that there
    python benchmarks/real_networks.py --shape tract:input=101,10

Inputs are random, normal numbers or all codes evenly, but for `NAME.npz` beside a file; half of the samples calibrate,
the others are compared: outputs of floating point with ONNX Runtime's by cosine, codes one by one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from integer_agreement import random_inputs

import sateen
from sateen.compiler.export import run_file
from sateen.compiler.importer import load_model
from sateen.errors import SateenError
from sateen.formats import parse_format
from sateen.formats.digits import two_digits

FOLDER = Path(__file__).resolve().parents[2] / "shared/cases/networks"
HALF = 0.5
"""Utilisation below which a row says why."""


@dataclass(frozen=True, slots=True)
class Options:
    preset: str
    samples: int
    seconds: float
    shapes: Mapping[str, dict[str, tuple[int, ...]]]


class _TooSlow(Exception):
    """The RTL took longer than it may."""


def measure(path: Path, options: Options) -> str:
    """A row of the table."""
    shapes = options.shapes.get(path.stem)
    try:
        network = sateen.load(path, shapes=shapes)
        refused = [f for f in network.findings if f.supported is False]
        if network.graph is None:
            return f"| {path.stem} | refused: {refused[0].op_type}: {refused[0].reason} | | | | | |"
        given = path.with_suffix(".npz")
        feeds = dict(np.load(given)) if given.exists() else random_inputs(network.graph, options.samples)
        half = max(1, len(next(iter(feeds.values()))) // 2)
        quantized = network.quantize(calibration={k: v[:half] for k, v in feeds.items()})
        tested = {k: v[-half:] for k, v in feeds.items()}
        mapped = quantized.map(options.preset)
        macs = sum(layer["macs"] for layer in mapped.layers)
        share = macs / (mapped.cycles * mapped.config.multipliers)
        near = _near(path, network, tested, quantized.run(tested))
        rtl = _rtl(quantized, tested, options)
    except SateenError as e:
        return f"| {path.stem} | refused: {e} | | | | | |"
    why = "" if share >= HALF else _why(mapped)
    return f"| {path.stem} | runs | {mapped.cycles:,} | {100 * share:.1f} % | {near} | {rtl} | {why} |"


def _near(
    path: Path, network: sateen.Network, feeds: dict[str, np.ndarray], ours: dict[str, np.ndarray]
) -> str:
    """Beside ONNX Runtime, or the imported network in float64 where that does not know the file's operators."""
    assert network.graph is not None
    n, beside = len(next(iter(feeds.values()))), ""
    try:
        model = load_model(path)
        whole = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in model.graph.input}
        alone = all(np.shape(v)[1:] == whole[k] or v.ndim > len(whole[k]) for k, v in feeds.items())
        theirs = [
            run_file(model, {k: v[i] if alone else v[i : i + 1] for k, v in feeds.items()}) for i in range(n)
        ]
    except SateenError:
        exact = network.run(feeds)
        theirs, beside = [{k: v[i : i + 1] for k, v in exact.items()} for i in range(n)], " (float64)"
    found = []
    for name, y in ours.items():
        want = np.stack([t[name].reshape(y.shape[1:]) for t in theirs])
        if y.dtype.kind == "f":
            a, b = y.ravel().astype(np.float64), want.ravel().astype(np.float64)
            found.append(f"{float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30)):.4f}")
        else:
            apart = np.abs(y.astype(int) - want.astype(int))
            found.append(f"{np.count_nonzero(apart)} of {apart.size} differ, {apart.max()} steps")
    floats = [f for f in found if "differ" not in f]
    if len(floats) == len(found) and len(found) > 2:
        return f"cosine {min(floats)} to {max(floats)}{beside}"
    return "; ".join(f"cosine {f}" if f in floats else f for f in found) + beside


def _rtl(quantized: sateen.QuantizedNetwork, feeds: dict[str, np.ndarray], options: Options) -> str:
    """On one machine for all networks of the same formats, so that its simulator is built once."""
    if not options.seconds:
        return "not run"
    weights, activations = quantized.formats
    config = sateen.preset(options.preset).replace(weight_format=weights, activation_format=activations)
    parts = {"table": True, "product": True, "softmax": True, "normalize": True}
    formats = (parse_format(f) for f in (activations, weights))
    parts["computed_weights"] = weights == activations or two_digits(*formats) is not None
    mapped = quantized.map(config.replace(specialize=False, acc_bits=48, **parts))
    some = {k: v[:1] for k, v in feeds.items()}
    started = time.perf_counter()

    def progress(_stage: str, _fraction: float) -> None:
        if time.perf_counter() - started > options.seconds:
            raise _TooSlow

    with tempfile.TemporaryDirectory() as folder:
        build = mapped.write(folder)
        want = build.run(some).outputs or {}
        try:
            found = build.run(some, "rtl", progress=progress)
        except _TooSlow:
            return "not run"
    same = all(v.tobytes() == (found.outputs or {})[k].tobytes() for k, v in want.items())
    return "equal" if same and found.cycles == build.cycles else "DIFFERENT"


def _why(mapped: sateen.MappedNetwork) -> str:
    """The layers in which multipliers idle longest, and what limits each."""
    multipliers = mapped.config.multipliers
    lost = [(layer["cycles"] - layer["macs"] / multipliers, layer) for layer in mapped.layers]
    total = sum(idle for idle, _ in lost)
    return "; ".join(
        f"{100 * idle / total:.0f} % of what is idle: `{layer['name'].split('/')[-1][-24:]}`, "
        f"{layer['output_shape']}, limited by {layer['limited_by']}"
        for idle, layer in sorted(lost, key=lambda e: -e[0])[:2]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--only", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--preset", default="mac256")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0, help="that the RTL may take for one sample")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME:INPUT=SIZES")
    args = parser.parse_args(arguments)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for text in args.shape:
        name, _, rest = text.partition(":")
        tensor, _, sizes = rest.partition("=")
        shapes.setdefault(name, {})[tensor] = tuple(int(s) for s in sizes.split(","))
    options = Options(args.preset, args.samples, args.seconds, shapes)
    print(
        "| file | verdict | cycles | utilisation | beside ONNX Runtime | RTL | why below half |\n"
        "|---|---|--:|--:|---|---|---|"
    )
    for path in sorted(args.folder.glob("*.onnx")):
        if not args.only or path.stem in args.only:
            print(measure(path, options), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
