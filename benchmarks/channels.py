"""Channels removed beside N:M patterns: cycles against accuracy of the bit-exact integers, before and after training.

    python benchmarks/channels.py                                              (digits ResNet, also trained)
    python benchmarks/channels.py --model resnet8.onnx --data FOLDER           (CIFAR-10, without training)

int8, recipe "fast", on 16 multipliers whose words are 8 channels: preset `ulx3s-85f-sparse` with 2 rows and 8 columns.
Patterns by SparseGPT. Trained: as in sparse_accuracy.py, SR-STE for patterns, from the weights that are left.
"""

# extras: train

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cifar10 import accuracy
from sparse_accuracy import Network, fine_tuned, networks

import sateen
from sateen.formats import PATTERNS
from sateen.ir.graph import Graph

KEPT = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
PRUNED = ("1:2", "2:4", "1:4")
BOTH = (("1:2", 0.8), ("2:4", 0.8), ("2:4", 0.6))


def machine() -> sateen.AcceleratorConfig:
    return sateen.preset("ulx3s-85f-sparse").replace(name="narrow-words", rows=2, cols=8)


def loaded(path: Path, graph: Graph) -> sateen.Network:
    return replace(sateen.load(path), graph=graph)


def row(path: Path, network: Network, graph: Graph, sparsity: str, trained: bool) -> dict[str, float | int]:
    port, output = graph.inputs[0].name, graph.outputs[0].port.name
    calibration = {port: network.calibration}
    images, labels = network.test
    quantized = loaded(path, graph).quantize(
        calibration=calibration,
        ptq="fast",
        sparsity=sparsity,
        sparsity_method="keep" if trained else "sparsegpt",
    )
    found = quantized.run({port: images})[output]
    return {"cycles": quantized.map(machine()).cycles, "accuracy": accuracy(found, labels)}


def rows(path: Path, network: Network) -> Iterator[dict[str, object]]:
    calibration = {network.graph.inputs[0].name: network.calibration}
    choices = [("dense", 1.0), *((p, 1.0) for p in PRUNED), *(("dense", k) for k in KEPT), *BOTH]
    for sparsity, keep in choices:
        whole = loaded(path, network.graph)
        smaller = (
            whole if keep == 1 else whole.without_channels(keep, calibration=calibration, machine=machine())
        )
        assert smaller.graph is not None
        line = {"network": network.name, "sparsity": sparsity, "channels": keep}
        yield line | row(path, network, smaller.graph, sparsity, False)
        if network.epochs > 0:
            trained = fine_tuned(replace(network, graph=smaller.graph), PATTERNS[sparsity], "sr-ste")
            yield line | {"trained": True} | row(path, network, trained, sparsity, True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    if (args.model is None) != (args.data is None):
        parser.error("--model and --data go together")
    path = args.model or Path(__file__).parent.parent / "models" / "digits_resnet.onnx"
    args.networks, args.rate, args.train_images = ["digits_resnet"], None, 512
    for network in networks(args):
        if args.data is not None:
            network = replace(network, epochs=0)
        for line in rows(path, network):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
