"""Multiplier utilisation of a dense and N:M 3×3 64→64 convolution at 56×56, measured in RTL.

    python benchmarks/utilization.py                       all rows below
    python benchmarks/utilization.py --channels 128 --size 28

`roofline` is the larger of computing on all multipliers and moving input, weights and output over the bus once, reads
and writes side by side; `of roofline` is that over the cycles taken.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import sateen
from sateen.compiler.prune import keep_largest
from sateen.formats import parse_sparsity
from sateen.machine.presets import preset


def convolution(channels: int, size: int, pattern: str) -> onnx.ModelProto:
    """Conv and Relu with random weights, pruned by magnitude in groups of input channels."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, (channels * 9) ** -0.5, (channels, 3, 3, channels)).astype(np.float32)
    sparsity = parse_sparsity(pattern)
    if not sparsity.dense:
        weight = np.where(keep_largest(np.abs(weight), weight, sparsity), weight, 0).astype(np.float32)
    tensor = numpy_helper.from_array(np.ascontiguousarray(weight.transpose(0, 3, 1, 2)), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, channels, size, size]) for n in "xy"]
    graph = helper.make_graph(nodes, f"conv{size}", info[:1], info[1:], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=56)
    parser.add_argument("--engine", choices=("rtl", "model"), default="rtl")
    args = parser.parse_args()
    rows = [
        ("mac256", 512, "dense"),
        ("mac256", 64, "dense"),
        ("sat256", 512, "dense"),
        ("sat256", 512, "2:4"),
        ("sat256", 512, "2:8"),
    ]
    print(
        "| machine | bus | weights | cycles | utilisation | of roofline | against dense | simulated cycles/s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    dense: dict[tuple[str, int], int] = {}
    for name, bus, pattern in rows:
        config = preset(name).replace(
            bus_bits=bus, burst_beats=min(preset(name).burst_beats, 4096 * 8 // bus)
        )
        with tempfile.TemporaryDirectory() as folder:
            model, build = Path(folder) / "model.onnx", Path(folder) / "build"
            onnx.save(convolution(args.channels, args.size, pattern), model)
            x = (
                np.random.default_rng(1)
                .normal(0, 1, (4, args.channels, args.size, args.size))
                .astype(np.float32)
            )
            manifest = sateen.compile(model, build, calibration={"x": x}, config=config)
            if args.engine == "rtl":
                reference = sateen.run(build, {"x": x[:1]}, "reference")
            result = sateen.run(build, {"x": x[:1]}, args.engine)
        if args.engine == "rtl":
            assert result.outputs["y"].tobytes() == reference.outputs["y"].tobytes()
            assert result.cycles == manifest["cycles"]
        region = manifest["memory"]["inputs"][0]["size"], manifest["memory"]["outputs"][0]["size"]
        read = (region[0] + manifest["memory"]["constants_size"]) * 8 / bus
        roofline = max(result.macs / config.multipliers, read, region[1] * 8 / bus)
        if pattern == "dense":
            dense[name, bus] = result.cycles
        ratio = dense[name, bus] / result.cycles
        speed = f"{result.cycles_per_second:,.0f}" if result.cycles_per_second else ""
        print(
            f"| {name} | {bus} | {pattern} | {result.cycles:,} | {100 * result.utilization:.1f} % | "
            f"{100 * roofline / result.cycles:.1f} % | {ratio:.2f}× | {speed} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
