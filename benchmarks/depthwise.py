"""Depthwise layers as FIR filters against block-diagonal weights: cycles by the exact model, RTL, and the cost.

    python benchmarks/depthwise.py                              the table of docs/results/depthwise.md
    python benchmarks/depthwise.py --only mobilenet_v2 --layers
    python benchmarks/depthwise.py --only visual_wake_words --rtl
    python benchmarks/depthwise.py --file vww.onnx              a file with one input of zero mean
    python benchmarks/depthwise.py --cost                       LUT, FF and DSP of the array, by Yosys

Weights are random: the point is cycles and bits. Utilization is all multiplications of the network over cycles times
multipliers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

import sateen
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import synthesize
from sateen.hw.chip.verilog import convert
from sateen.hw.matrix.array import SystolicArray
from sateen.machine.config import AcceleratorConfig
from sateen.models.architectures import ARCHITECTURES
from sateen.models.network_builder import NetworkBuilder

V1_BLOCKS = (
    (16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *((128, 1),) * 5, (256, 2), (256, 1)
)  # fmt: skip
"""Of MobileNet V1 at a quarter of its width: channels and stride of each pair of layers."""


def visual_wake_words(seed: int) -> onnx.ModelProto:
    """MLPerf Tiny's: MobileNet V1 0.25 at 96 × 96."""
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.relu("stem.relu", b.conv("stem", b.input("input", 3, 96, 96), 8, 3, 2))
    for i, (channels, stride) in enumerate(V1_BLOCKS, 1):
        x = b.relu(f"block{i}.relu1", b.depthwise(f"block{i}.depthwise", x, 3, stride))
        x = b.relu(f"block{i}.relu2", b.conv(f"block{i}.pointwise", x, channels, 1))
    b.linear("logits", b.global_pool("avgpool", x), 2)
    return b.model("visual_wake_words", "logits")


def keyword_spotting(seed: int) -> onnx.ModelProto:
    """MLPerf Tiny's DS-CNN on 49 × 10 spectrogram coefficients."""
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.relu("stem.relu", b.conv("stem", b.input("input", 1, 49, 10), 64, (10, 4), 2))
    for i in range(1, 5):
        x = b.relu(f"block{i}.relu1", b.depthwise(f"block{i}.depthwise", x, 3))
        x = b.relu(f"block{i}.relu2", b.conv(f"block{i}.pointwise", x, 64, 1))
    b.linear("logits", b.global_pool("avgpool", x), 12)
    return b.model("keyword_spotting", "logits")


def convnext_block(seed: int) -> onnx.ModelProto:
    """Of ConvNeXt-T's second stage, without its normalization: 7 × 7 depthwise, expansion by 4, at 28 × 28."""
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.input("input", 192, 28, 28)
    y = b.conv("expand", b.depthwise("depthwise", x, 7), 768, 1)
    b.add("add", x, b.conv("project", b.relu("relu", y), 192, 1))
    return b.model("convnext_block", "add")


OWN = {f.__name__: f for f in (visual_wake_words, keyword_spotting, convnext_block)}
STANDARD = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v4_conv_small",
    "efficientnet_lite0",
    "efficientnet_b0",
    "quartznet_5x5",
)
NETWORKS: dict[str, Callable[[int], onnx.ModelProto]] = OWN | {name: ARCHITECTURES[name] for name in STANDARD}

SQUARE = AcceleratorConfig(
    name="16x16", rows=16, cols=16, lanes=1, group=1, act_bank_depth=32768, weight_depth=8192, acc_depth=512,
    parameter_depth=512, vector_lanes=16, bus_bits=256, queue_depth=8, burst_beats=64, outstanding=8, depthwise=True,
)  # fmt: skip
MACHINES = {
    "16x16": SQUARE,
    "mac256": sateen.preset("mac256").replace(depthwise=True, vector_lanes=16, bus_bits=256),
}
"""Both of 256 multipliers: 16 rows of one lane, and 8 rows of two."""


def load(model: onnx.ModelProto) -> sateen.QuantizedNetwork:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        constants = {t.name for t in model.graph.initializer}
        port = next(i for i in model.graph.input if i.name not in constants)
        shape = [d.dim_value or 1 for d in port.type.tensor_type.shape.dim][1:]
        kind = onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
        samples = np.random.default_rng(0).normal(0, 1, (2, *shape))
        if kind.kind in "iu":
            samples = samples * 50 + (0 if kind.kind == "i" else 128)
        network = sateen.load(path)
        return network.quantize(calibration={port.name: samples.astype(kind)})


def measure(
    name: str, network: sateen.QuantizedNetwork, config: AcceleratorConfig, layers: bool, rtl: bool
) -> None:
    before = network.map(config.replace(depthwise=False))
    after = network.map(config)
    first, last = before.cycles, after.cycles
    macs = sum(row["macs"] for row in after.layers)
    busy = [macs / (n * config.multipliers) for n in (first, last)]
    print(
        f"| {name} | {config.name} | {macs / 1e6:,.1f} M | {first:,} | {busy[0]:.1%} | {last:,} | {busy[1]:.1%} | "
        f"{first / last:.2f} |",
        flush=True,
    )
    if layers:
        for old, new in zip(before.layers, after.layers, strict=True):
            if new["dataflow"] == "depthwise":
                print(f"| . {new['name']} | | | {old['cycles']:,} | | {new['cycles']:,} | | |")
    if rtl:
        with tempfile.TemporaryDirectory() as folder:
            build = after.write(Path(folder) / "build")
            rng = np.random.default_rng(1)
            inputs = {
                p.name: rng.normal(0, 1, (1, *p.shape)).astype(np.float32) for p in network.graph.inputs
            }
            wanted, found = build.run(inputs, "reference"), build.run(inputs, "rtl")
            same = all(v.tobytes() == found.outputs[k].tobytes() for k, v in wanted.outputs.items())
            print(
                f"{name}, RTL: {found.cycles:,} cycles, outputs {'equal' if same else 'DIFFER'}", flush=True
            )


def cost() -> None:
    """The arrays with 24-bit sums, with and without the option."""
    print("| array | device | LUT | FF | DSP |\n|---|---|--:|--:|--:|")
    for name, config in MACHINES.items():
        for family in FAMILIES.values():
            for depthwise in (False, True):
                array = SystolicArray(config=config.replace(depthwise=depthwise, acc_bits=24))
                found = resources(synthesize(convert(array, "array"), family, top="array").cells, family)
                title = f"{name}, depthwise" if depthwise else name
                print(
                    f"| {title} | {family.title} | {found['lut']:,} | {found['ff']:,} | {found['dsp']} |",
                    flush=True,
                )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=[], metavar="NAME")
    parser.add_argument("--file", type=Path, nargs="+", default=[])
    parser.add_argument("--machine", choices=MACHINES, nargs="+", default=list(MACHINES))
    parser.add_argument("--layers", action="store_true", help="a line for each depthwise layer, too")
    parser.add_argument("--rtl", action="store_true", help="run in RTL, too, against the reference")
    parser.add_argument("--cost", action="store_true", help="count the array's resources instead")
    options = parser.parse_args()
    if options.cost:
        cost()
        return 0
    names = options.only or ([] if options.file else list(NETWORKS))
    print("| network | machine | multiplications | block-diagonal | busy | FIR too | busy | faster |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    models = [(n, NETWORKS[n](0)) for n in names] + [(f.stem, onnx.load(f)) for f in options.file]
    for name, model in models:
        network = load(model)
        for machine in options.machine:
            measure(name, network, MACHINES[machine], options.layers, options.rtl)
    return 0


if __name__ == "__main__":
    sys.exit(main())
