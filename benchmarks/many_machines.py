"""One quantized network mapped to many machines in one process, beside compiling it anew for each.

    python benchmarks/many_machines.py --model F.onnx [--machines 100] [--compiled 5]

Samples are random: the time and the cycles are the point. Mapping gives exact cycles, layer by layer; Verilog is
written by `write` alone, so compiling, which writes it, is timed with and without it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np

import sateen

ROOT = Path(__file__).resolve().parents[1]


SPACE = {
    "rows": (2, 4, 8), "cols": (4, 8, 16), "act_bank_depth": (1024, 4096, 16384), "weight_depth": (1024, 4096),
    "acc_depth": (64, 256), "bus_bits": (32, 64, 128), "queue_depth": (2, 4, 8),
}  # fmt: skip


def machines(count: int) -> list[sateen.AcceleratorConfig]:
    """Random ones, around the presets."""
    rng = random.Random(0)
    bases = [sateen.preset(rng.choice(("tiny", "mac256", "sat256", "ulx3s-85f"))) for _ in range(count)]
    return [
        sateen.random_machine(rng, SPACE, base=base.replace(name=f"machine{n}"))
        for n, base in enumerate(bases)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, default=ROOT / "models/digits_resnet.onnx", help="with one input"
    )
    parser.add_argument("--machines", type=int, default=100)
    parser.add_argument("--compiled", type=int, default=5, help="machines that are compiled too")
    args = parser.parse_args()
    network = sateen.load(args.model)
    assert network.graph is not None
    rng = np.random.default_rng(0)
    x = {p.name: rng.random((32, *p.shape)).astype(np.float32) for p in network.graph.inputs}
    configs = machines(args.machines)

    began = time.perf_counter()
    quantized = network.quantize(calibration=x)
    ready = time.perf_counter()
    cycles = [quantized.map(c).cycles for c in configs]
    mapped = time.perf_counter()
    print(f"{args.model.name}: quantized in {ready - began:.1f} s")
    print(
        f"mapped to {len(configs)} machines in {mapped - ready:.1f} s, {min(cycles):,} to {max(cycles):,} cycles"
    )

    with tempfile.TemporaryDirectory() as folder:
        began, equal = time.perf_counter(), True
        for c, predicted in list(zip(configs, cycles, strict=True))[: args.compiled]:
            manifest = sateen.compile(args.model, Path(folder) / "build", calibration=x, config=c)
            equal = equal and manifest["cycles"] == predicted
        each = (time.perf_counter() - began) / max(1, args.compiled)
    per = (mapped - ready) / len(configs)
    print(
        f"compiled, with Verilog: {each:.2f} s each of {args.compiled}, {each / per:.0f} times as long as mapping, "
        f"cycles {'equal' if equal else 'DIFFER'}"
    )
    raise SystemExit(not equal)


if __name__ == "__main__":
    main()
