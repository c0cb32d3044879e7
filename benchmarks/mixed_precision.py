"""Whether a format of its own for each layer's weights would pay: accuracy by bytes, beside one format for all.

python benchmarks/mixed_precision.py --model resnet8.onnx --data FOLDER [--output mixed.json]

With --output what is there already is kept, so that an interrupted run goes on where it was.

A layer of fewer bits runs on a machine of more: its codes are among the machine's. Sensitivities are measured, an
integer program chooses, and the accuracy of what it chooses is that of the bit-exact integers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cifar10 import accuracy as percent
from cifar10 import cifar10
from scipy.optimize import Bounds, LinearConstraint, milp

import sateen
from sateen.compiler.ptq import Gptq, moments, rewrite_quantized, round_layer
from sateen.compiler.quantize import Options, calibrate, fuse, plan_activations, quantize, weight_scales
from sateen.formats import parse_format
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv
from sateen.ir.quantized import QuantizedGraph
from sateen.sim import run_reference

FORMATS = ("int8", "int6", "int5", "int4", "int3")
"""Of weights; the first is the machine's."""

PROBES = 128
"""Samples that sensitivities are measured on."""

PRESETS = ("tiny", "mac256")


class Network:
    """The float network, its samples, and what is the same for all choices of weight formats."""

    def __init__(self, graph: Graph, samples: np.ndarray, activations: str) -> None:
        self.graph, self.activations = graph, activations
        self.samples = {graph.inputs[0].name: samples}
        self.statistics = calibrate(graph, self.samples)
        formats = parse_format(FORMATS[0]), parse_format(activations)
        self.plan = plan_activations(fuse(graph), self.statistics, Options(*formats, input_terms=0))
        self.layers = {n.name: n.weight.size for n in graph.nodes if isinstance(n, Conv)}

    def quantized(self, formats: Mapping[str, str], learned: bool = True) -> QuantizedGraph:
        """Each layer's weights on its own format's grid, by GPTQ or to nearest, as codes of the machine's."""
        scales: dict[str, np.ndarray] = {}

        def nearest(conv: Conv) -> Conv:
            fmt = parse_format(formats[conv.name])
            scale = scales[conv.name] = weight_scales(conv.weight, fmt)
            steps = scale[:, None, None, None]
            return replace(conv, weight=fmt.decode(fmt.encode(conv.weight / steps)) * steps)

        def rewrite(conv: Conv, x: np.ndarray, real: np.ndarray) -> Conv:
            fmt = parse_format(formats[conv.name])
            scale = scales[conv.name] = weight_scales(conv.weight, fmt)
            weight, bias = np.empty_like(conv.weight), conv.bias.copy()
            wide = len(weight) // conv.groups
            for g in range(conv.groups):
                rows = slice(g * wide, (g + 1) * wide)
                seen, flat = moments(conv, x, real, g), conv.weight[rows].reshape(wide, -1)
                new = round_layer(flat, seen, fmt, scale[rows], Gptq())
                weight[rows] = new.reshape(weight[rows].shape)
                bias[rows] += flat @ seen.float_mean - new @ seen.mean
            return replace(conv, weight=weight, bias=bias)

        if learned:
            rounded = rewrite_quantized(self.graph, self.samples, self.plan, rewrite)
        else:
            nodes = (nearest(n) if isinstance(n, Conv) else n for n in self.graph.nodes)
            rounded = replace(self.graph, nodes=tuple(nodes))
        return quantize(
            rounded,
            self.statistics,
            weight_format=FORMATS[0],
            activation_format=self.activations,
            plan=self.plan,
            weight_scales=scales,
        )

    def outputs(self, quantized: QuantizedGraph, images: np.ndarray) -> np.ndarray:
        found = run_reference(quantized, {self.graph.inputs[0].name: images})
        return found[self.graph.outputs[0].port.name].reshape(len(images), -1)

    def kilobytes(self, formats: Mapping[str, str]) -> float:
        """Of all weights, each layer packed in its own format."""
        bits = sum(size * parse_format(formats[name]).bits for name, size in self.layers.items())
        return bits / 8192

    def sensitivity(self, name: str) -> dict[str, float]:
        """By format: how far the logits move, in squares, once this layer alone has it, rounded to nearest."""
        images = next(iter(self.samples.values()))[:PROBES]
        all_wide = dict.fromkeys(self.layers, FORMATS[0])
        base = self.outputs(self.quantized(all_wide, False), images)
        found = {FORMATS[0]: 0.0}
        for fmt in FORMATS[1:]:
            moved = self.outputs(self.quantized(all_wide | {name: fmt}, False), images) - base
            found[fmt] = float((moved**2).mean())
        return found


def choose(network: Network, cost: np.ndarray, budget: float) -> dict[str, str]:
    """The formats of least summed cost (layers, formats) within `budget` KB. Ref: Hubara et al., arXiv 2006.10518."""
    layers, count = list(network.layers), len(FORMATS)
    sizes = np.array([[network.layers[n] * parse_format(f).bits / 8192 for f in FORMATS] for n in layers])
    one_each = np.kron(np.eye(len(layers)), np.ones(count))
    found = milp(
        cost.ravel(),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(sizes.ravel(), 0, budget * (1 + 1e-9)),
        ],
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
    )
    if found.x is None:
        raise SystemExit(f"no choice of formats fits {budget:.1f} KB")
    picked = found.x.reshape(len(layers), count).argmax(axis=1)
    return {n: FORMATS[k] for n, k in zip(layers, picked, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--calibration", type=int, default=256, help="training images")
    parser.add_argument("--activations", default="int8", help="of the machine")
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    calibration, images, labels = cifar10(args.data, args.calibration, args.images)
    whole = sateen.load(args.model)
    assert whole.graph is not None, "sateen check says why"
    network = Network(whole.graph, calibration, args.activations)
    settings = {"images": args.images, "samples": args.calibration, "activations": args.activations}
    record: dict[str, Any] = settings | {"sensitivities": {}, "rows": [], "cycles": {}}
    if args.output and args.output.exists():
        old = json.loads(args.output.read_text())
        record = old if settings.items() <= old.items() else record

    def keep() -> None:
        if args.output:
            args.output.write_text(json.dumps(record, indent=1) + "\n")

    def accuracy(formats: Mapping[str, str]) -> float:
        found = network.outputs(network.quantized(formats), images)
        return percent(found, labels)

    for name in network.layers:
        if name not in record["sensitivities"]:
            record["sensitivities"][name] = network.sensitivity(name)
            keep()
    cost = np.array([[record["sensitivities"][n][f] for f in FORMATS] for n in network.layers])
    for fmt in FORMATS[-2:0:-1]:
        uniform = dict.fromkeys(network.layers, fmt)
        budget = network.kilobytes(uniform)
        if any(r["format"] == fmt for r in record["rows"]):
            continue
        mixed = choose(network, cost, budget)
        row: dict[str, Any] = {
            "format": fmt,
            "kilobytes": [budget, network.kilobytes(mixed)],
            "formats": mixed,
        }
        row |= {"uniform": accuracy(uniform), "mixed": accuracy(mixed)}
        print(json.dumps(row), flush=True)
        record["rows"].append(row)
        keep()
    record["cycles"] = record["cycles"] or cycles(whole, args.activations)
    print(json.dumps(record["cycles"]))
    keep()


def cycles(network: sateen.Network, activations: str) -> dict[str, dict[str, int]]:
    """Of machines with each weight format for all layers, by the exact model: all that packing could ever save."""
    rng = np.random.default_rng(0)
    assert network.graph is not None
    samples = {p.name: rng.uniform(0, 255, (8, *p.shape)).astype(np.float32) for p in network.graph.inputs}
    found: dict[str, dict[str, int]] = {}
    for fmt in FORMATS:
        quantized = network.quantize(weights=fmt, activations=activations, calibration=samples)
        for name in PRESETS:
            found.setdefault(name, {})[fmt] = quantized.map(name).cycles
    return found


if __name__ == "__main__":
    main()
