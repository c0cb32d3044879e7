"""MLPs at batch 1, 16 and 64, ResNet-18 at 1 and 4: cycles by the exact model, and in RTL, samples per second.

    python benchmarks/batches.py                            the table of docs/results/batches.md
    python benchmarks/batches.py --only jet_tagger --rtl    the outputs and cycles of 2 N samples, in RTL
    python benchmarks/batches.py --only small_cnn --rtl

Weights are random: the point is cycles and bits. Utilization is all multiplications over cycles times multipliers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import onnx

import sateen
from sateen.machine.config import AcceleratorConfig
from sateen.models.architectures import ARCHITECTURES
from sateen.models.network_builder import NetworkBuilder

SIZES = {
    "autoencoder": (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640),
    "jet_tagger": (16, 64, 32, 32, 5),
    "rl_policy": (17, 256, 256, 6),
    "digits_tfc": (784, 64, 64, 64, 10),
    "click_model": (13, 512, 256, 64, 1),
}
"""Features of each layer: MLPerf Tiny's anomaly detection; hls4ml's jets; soft actor-critic on HalfCheetah; FINN's TFC;
DLRM's bottom MLP with an output."""
NETWORKS = (*SIZES, "resnet18", "small_cnn")
BATCHES = (1, 16, 64)
BUSES = (64, 256)
CLOCK_HZ = 100e6
MAC256 = sateen.preset("mac256")
MAC1024 = sateen.preset("mac1024")
SMALL = sateen.preset("tiny").replace(name="tiny", act_bank_depth=1024)


def mlp(name: str, sizes: tuple[int, ...]) -> onnx.ModelProto:
    b = NetworkBuilder(np.random.default_rng(0))
    x = b.input("input", sizes[0])
    for n, size in enumerate(sizes[1:], 1):
        x = b.linear(f"dense{n}", x, size)
        if n < len(sizes) - 1:
            x = b.relu(f"relu{n}", x)
    return b.model(name, x)


def small_cnn(seed: int) -> onnx.ModelProto:
    """A residual block at 12 × 12, a pool and a dense layer, for RTL."""
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.relu("stem.relu", b.conv("stem", b.input("input", 3, 12, 12), 8, 3))
    y = b.conv("conv2", b.relu("relu1", b.conv("conv1", x, 8, 3)), 8, 3)
    x = b.relu("relu3", b.conv("conv3", b.relu("relu2", b.add("add", x, y)), 16, 3, 2))
    b.linear("logits", b.global_pool("avgpool", x), 10)
    return b.model("small_cnn", "logits")


Case = tuple[onnx.ModelProto, tuple[int, ...], int, tuple[AcceleratorConfig, ...], tuple[int, ...]]
"""The network, its input's shape, samples to calibrate with, machines, batches."""


def case(name: str) -> Case:
    if name == "resnet18":
        return ARCHITECTURES[name](0), (3, 224, 224), 2, (MAC256, MAC1024), (1, 4)
    if name == "small_cnn":
        return small_cnn(0), (3, 12, 12), 16, (SMALL,), (1, 4)
    return mlp(name, SIZES[name]), SIZES[name][:1], 64, (MAC256,), BATCHES


def measure(name: str, rtl: bool) -> None:
    model, shape, samples, machines, batches = case(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        rng = np.random.default_rng(1)
        quantized = sateen.load(path).quantize(
            calibration={"input": rng.normal(0, 1, (samples, *shape)).astype(np.float32)}
        )
        for machine, bus in product(machines, BUSES):
            config = machine.replace(name=f"{machine.name}, {bus}-bit bus", bus_bits=bus)
            for batch in batches:
                mapped = quantized.map(config, batch=batch)
                totals, cycles = mapped.schedule["totals"], mapped.cycles
                print(
                    f"| {name} | {machine.name} | {bus} | {batch} | {cycles:,} | {cycles / batch:,.0f} | "
                    f"{CLOCK_HZ * batch / cycles:,.0f} | {totals['utilization']:.1%} |",
                    flush=True,
                )
                if rtl:
                    build = mapped.write(Path(folder) / f"build{bus}_{batch}")
                    x = {"input": rng.normal(0, 1, (2 * batch, *shape)).astype(np.float32)}
                    wanted, found = build.run(x, "reference"), build.run(x, "rtl")
                    same = all(v.tobytes() == found.outputs[k].tobytes() for k, v in wanted.outputs.items())
                    assert same and found.cycles == 2 * cycles, f"{name}, batch {batch}: RTL differs"
                    print(f"RTL: {found.cycles:,} cycles for two runs, outputs equal", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument(
        "--rtl", action="store_true", help="run two runs of samples in RTL, against the reference"
    )
    options = parser.parse_args()
    print("| network | machine | bus | N | cycles of a run | a sample | samples/s at 100 MHz | busy |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for name in options.only:
        measure(name, options.rtl)
    return 0


if __name__ == "__main__":
    sys.exit(main())
