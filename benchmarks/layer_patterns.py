"""A pattern for each layer against one for all at equal cycles: accuracy of the bit-exact integers, exact cycles.

    python benchmarks/layer_patterns.py --model resnet8.onnx --data FOLDER [--images 1000] [--generations 20]

CIFAR-10 in FOLDER. On preset `sat256`, int8, SparseGPT without training. The budget is what 2:4, or 2:8, takes in all
layers but the first and the last. `evolve` searches by the divergence of the prediction on calibration samples,
starting from that; `by_sensitivity` adds up the divergences of single layers.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

from cifar10 import accuracy, cifar10

import sateen
from sateen.explorer.layers import Map, by_sensitivity, evolve, levels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=64, help="calibration images")
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--preset", default="sat256")
    args = parser.parse_args()
    calibration, images, labels = cifar10(args.data, args.samples, args.images)
    network = sateen.load(args.model)
    assert network.graph is not None
    port, output = network.graph.inputs[0].name, network.graph.outputs[0].port.name
    samples = {port: calibration}
    made = levels(network.graph, ("1:2", "2:4", "4:8", "1:4", "2:8", "1:8"), samples)
    names = list(made.names)

    @functools.cache
    def cycles(chosen: Map) -> int:
        """Of the program; weights' values change nothing, so the quickest way to prune does."""
        quantized = network.quantize(
            calibration={port: calibration[:8]}, ptq="fast", scales="minmax", sparsity_method="magnitude",
            sparsity_map=dict(zip(names, chosen, strict=True)),
        )  # fmt: skip
        return quantized.map(args.preset).cycles

    def row(title: str, chosen: Map) -> None:
        quantized = network.quantize(
            calibration=samples, ptq="fast", sparsity_map=dict(zip(names, chosen, strict=True))
        )
        found = quantized.run({port: images})[output]
        right, exact = accuracy(found, labels), quantized.map(args.preset).cycles
        line = {"maps": title, "cycles": exact, "accuracy": right, "divergence": made.divergence(chosen)}
        print(json.dumps(line | {"patterns": chosen}), flush=True)

    row("dense", ("dense",) * len(names))
    for pattern in ("2:4", "2:8"):
        uniform = tuple("dense" if i in (0, len(names) - 1) else pattern for i in range(len(names)))
        budget = cycles(uniform)
        row(f"{pattern} in all but first and last", uniform)
        row(f"cycles of {pattern}, sensitivity", by_sensitivity(made, cycles, budget))
        row(
            f"cycles of {pattern}, evolved",
            evolve(made, uniform, cycles, budget, generations=args.generations),
        )


if __name__ == "__main__":
    main()
