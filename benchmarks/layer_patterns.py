"""A pattern for each layer against one for all at equal cycles: accuracy of the bit-exact integers, exact cycles.

    python benchmarks/layer_patterns.py --model resnet8.onnx --data FOLDER [--images 1000] [--generations 20]

CIFAR-10 in FOLDER. On preset `sat256`, int8, SparseGPT without training. The budget is what 2:4, or 2:8, takes in all
layers but the first and the last. "sensitivity" adds up the divergences of single layers, "trace" those that the traces
of their Hessians let expect. "evolved" is a search by the divergence of the prediction on calibration samples, starting
from the best of these and the uniform map. All add up cycles of layers, counted once for each pattern; those that are
printed are the whole program's, within the budget.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path

from cifar10 import accuracy, cifar10

import sateen
from sateen.explorer.layers import Map, evolve, guided, levels, measured_losses, trace_losses


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

    def mapped(chosen: Map) -> sateen.MappedNetwork:
        """Weights' values change no cycle, so the quickest way to prune does."""
        quantized = network.quantize(
            calibration={port: calibration[:8]}, ptq="fast", scales="minmax", sparsity_method="magnitude",
            sparsity_map=dict(zip(names, chosen, strict=True)),
        )  # fmt: skip
        return quantized.map(args.preset)

    by_layer = {p: {r["name"]: r["cycles"] for r in mapped((p,) * len(names)).layers} for p in made.patterns}
    others = sum(n for name, n in by_layer["dense"].items() if name not in names)

    def cycles(chosen: Map) -> int:
        return others + sum(by_layer[p][name] for name, p in zip(names, chosen, strict=True))

    def within(search: Callable[[int], Map], uniform: Map) -> Map:
        """What a search finds whose whole program takes no more cycles than the uniform one."""
        budget, most = cycles(uniform), mapped(uniform).cycles
        while mapped(found := search(budget)).cycles > most:
            budget -= budget // 200
        return found

    def row(title: str, chosen: Map) -> None:
        quantized = network.quantize(
            calibration=samples, ptq="fast", sparsity_map=dict(zip(names, chosen, strict=True))
        )
        found = quantized.run({port: images})[output]
        right, exact = accuracy(found, labels), quantized.map(args.preset).cycles
        line = {"maps": title, "cycles": exact, "accuracy": right, "divergence": made.divergence(chosen)}
        print(json.dumps(line | {"patterns": chosen}), flush=True)

    by = {"sensitivity": measured_losses(made), "trace": trace_losses(made)}
    row("dense", ("dense",) * len(names))
    for pattern in ("2:4", "2:8"):
        uniform = tuple("dense" if i in (0, len(names) - 1) else pattern for i in range(len(names)))
        row(f"{pattern} in all but first and last", uniform)

        def evolved(budget: int, uniform: Map = uniform) -> Map:
            starts = [uniform, *(guided(made, losses, cycles, budget) for losses in by.values())]
            starts = [m for m in starts if cycles(m) <= budget]
            start = min(starts, key=made.divergence)
            return evolve(made, start, cycles, budget, generations=args.generations)

        for title, losses in by.items():
            found = within(functools.partial(guided, made, losses, cycles), uniform)
            row(f"cycles of {pattern}, {title}", found)
        row(f"cycles of {pattern}, evolved", within(evolved, uniform))


if __name__ == "__main__":
    main()
