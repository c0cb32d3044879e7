"""Cycles of a training step's three passes, layer by layer, by the exact model: dense and with an N:M pattern.

    python benchmarks/training_passes.py [--only NAME ...] [--batch N] [--pattern N:M] [--layers] [--machine PRESET]

Forward (FF), gradients of inputs (BP, none for the first layer) and of weights (WU) of every convolution and dense
layer are a program each, all samples of the batch together, with everything in memory before and after; first and last
layers are dense. So are attention's products, two in FF and four in BP, of which the two that sum over queries are
programs of a sample. Utilisation is the multiplications of the dense network over cycles times multipliers. Energy is
an estimate from those of single operations (`sateen.fpga.estimate.energy`). The updates of the weights, pools, gates,
softmax, normalization and GELU are not in it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import cache

import numpy as np

import sateen
from sateen.compiler.schedule.backend import generate
from sateen.compiler.schedule.traffic import moved
from sateen.formats import SparsityPattern, parse_sparsity
from sateen.formats.sparsity import DENSE
from sateen.fpga.estimate.energy import energy
from sateen.ir.gradients import ComputedConv, WeightGradient
from sateen.ir.heads import Batch
from sateen.ir.operation import Window
from sateen.ir.ports import Output, Port, Shape
from sateen.ir.quantized import MatMul, Op, Quant, QuantizedGraph, Tensor
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Unit
from sateen.sim import NOMINAL


@dataclass(frozen=True)
class Layer:
    """`count` convolutions alike: plane, a square or rows and columns, channels in and out, kernel, stride."""

    plane: int | tuple[int, int]
    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    count: int = 1

    @property
    def window(self) -> Window:
        pad = 0 if self.kernel == self.stride else (self.kernel - 1) // 2
        return Window((self.kernel,) * 2, (self.stride,) * 2, pads=(pad,) * 4)

    @property
    def shape(self) -> tuple[int, int]:
        return self.plane if isinstance(self.plane, tuple) else (self.plane, self.plane)

    @property
    def macs(self) -> int:
        rows, columns = self.window.plane(*self.shape)
        return rows * columns * self.kernel**2 * self.inputs * self.outputs


@dataclass(frozen=True)
class Attention:
    """`count` times the products of queries and keys, and of probabilities and values, and their gradients."""

    tokens: int
    width: int
    heads: int
    count: int = 1

    @property
    def macs(self) -> int:
        """Of one product."""
        return self.tokens**2 * self.width


def _vgg19() -> list[Layer | Attention]:
    found: list[Layer | Attention] = []
    inputs = 3
    for plane, channels, count in ((32, 64, 2), (16, 128, 2), (8, 256, 4), (4, 512, 4), (2, 512, 4)):
        found.append(Layer(plane, inputs, channels))
        if count > 1 and channels != inputs:
            found.append(Layer(plane, channels, channels, count=count - 1))
        elif channels == inputs:
            found[-1] = Layer(plane, channels, channels, count=count)
        inputs = channels
    return [*found, Layer(1, 512, 100, 1)]


def _resnet18() -> list[Layer | Attention]:
    found: list[Layer | Attention] = [Layer(224, 3, 64, 7, 2), Layer(56, 64, 64, count=4)]
    for plane, channels in ((28, 128), (14, 256), (7, 512)):
        half = channels // 2
        found += [
            Layer(2 * plane, half, channels, 3, 2),
            Layer(plane, channels, channels, count=3),
            Layer(2 * plane, half, channels, 1, 2),
        ]
    return [*found, Layer(1, 512, 1000, 1)]


def _resnet50() -> list[Layer | Attention]:
    found: list[Layer | Attention] = [Layer(224, 3, 64, 7, 2)]
    inputs = 64
    for plane, channels, blocks in ((56, 64, 3), (28, 128, 4), (14, 256, 6), (7, 512, 3)):
        stride = 1 if channels == 64 else 2
        found += [
            Layer(plane * stride, inputs, channels, 1),
            Layer(plane * stride, channels, channels, 3, stride),
            Layer(plane * stride, inputs, 4 * channels, 1, stride),
            Layer(plane, channels, 4 * channels, 1, count=blocks),
            Layer(plane, 4 * channels, channels, 1, count=blocks - 1),
            Layer(plane, channels, channels, count=blocks - 1),
        ]
        inputs = 4 * channels
    return [*found, Layer(1, 2048, 1000, 1)]


NETWORKS: dict[str, list[Layer | Attention]] = {
    "resnet9": [
        Layer(32, 3, 64), Layer(32, 64, 128), Layer(16, 128, 128, count=2), Layer(16, 128, 256), Layer(8, 256, 512),
        Layer(4, 512, 512, count=2), Layer(1, 512, 10, 1),
    ],
    "vgg19": _vgg19(),
    "resnet18": _resnet18(),
    "resnet50": _resnet50(),
    "vit": [
        Layer(224, 3, 768, 16, 16), Layer((197, 1), 768, 2304, 1, count=12), Layer((197, 1), 768, 768, 1, count=12),
        Layer((197, 1), 768, 3072, 1, count=12), Layer((197, 1), 3072, 768, 1, count=12),
        Attention(197, 768, 12, count=12), Layer(1, 768, 1000, 1),
    ],
}  # fmt: skip
"""The first two at 32 × 32, the others at 224 × 224. "vit" is ViT-B/16 without softmax, normalization and GELU."""
PASSES = ("FF", "BP", "WU")


def graph_of(layer: Layer, kind: str, pattern: SparsityPattern, config: AcceleratorConfig) -> QuantizedGraph:
    """One op."""
    fmt = config.activation
    quant = Quant(fmt, 1.0)
    k, i, o = layer.kernel, layer.inputs, layer.outputs
    window, plane = layer.window, layer.shape
    out = window.plane(*plane)
    shapes = {"x": (*plane, i), "w": (k * k, i, o), "y": (*out, o)}
    op: Op
    if kind == "WU":
        written, reads = "w", ("x", "y")
        op = WeightGradient("op", "x", "y", "w", (k, k), out[0] * out[1], window.stride, pads=window.pads)
    else:
        back = kind == "BP"
        read, written = ("y", "x") if back else ("x", "y")
        reads, channels = (read, "w"), i if back else o
        op = ComputedConv(
            "op", read, "w", written, (k, k), np.zeros(channels, np.int64), np.full(channels, 1 << 14),
            np.full(channels, 20), quant, fmt.min_fixed, fmt.max_fixed, pattern, window.stride, pads=window.pads,
            transposed=back, plane=plane if back else (0, 0), reduction=o if back else i,
        )  # fmt: skip
    return _graph((op,), shapes, quant, reads)


def products_of(
    layer: Attention, kind: str, config: AcceleratorConfig
) -> list[tuple[QuantizedGraph, int, bool]]:
    """Graphs of a pass, how often each is needed, and whether it takes all samples of a batch together.

    With queries Q, keys K, values V and probabilities P, FF has Q K^T and P V, and BP dO V^T and dS K, which are of the
    same shapes, and P^T dO and dS^T Q: outer products of tokens, for each head and sample, whose sums stay unrounded.
    """
    fmt, t, d, heads = config.activation, layer.tokens, layer.width, layer.heads
    quant = Quant(fmt, 1.0)

    def product(batch: Batch, a: Shape, b: Shape, reduction: int) -> QuantizedGraph:
        out = batch.shape(a, b)
        op = MatMul(
            "op", "a", "b", "c", batch, reduction, np.zeros(out[2], np.int64), np.full(out[2], 1 << 14),
            np.full(out[2], 20), quant, fmt.min_fixed, fmt.max_fixed,
        )  # fmt: skip
        return _graph((op,), {"a": a, "b": b, "c": out}, quant, ("a", "b"))

    scores = product(Batch(heads, (True, True, False), True), (1, t, d), (1, t, d), d // heads)
    mixed = product(Batch(heads, (False, True, True)), (heads, t, t), (1, t, d), t)
    if kind == "FF":
        return [(scores, 1, True), (mixed, 1, True)]
    ops: list[Op] = []
    shapes: dict[str, Shape] = {}
    for h in range(heads):
        shapes |= {f"x{h}": (1, t, t), f"y{h}": (1, t, d // heads), f"w{h}": (1, t, d // heads)}
        ops.append(WeightGradient(f"op{h}", f"x{h}", f"y{h}", f"w{h}", (1, 1), t))
    reads = tuple(t for t in shapes if not t.startswith("w"))
    return [(scores, 1, True), (mixed, 1, True), (_graph(tuple(ops), shapes, quant, reads), 2, False)]


def _graph(
    ops: tuple[Op, ...], shapes: dict[str, Shape], quant: Quant, reads: tuple[str, ...]
) -> QuantizedGraph:
    written = [op.output for op in ops]
    ports = {t: Port(t, s, s) for t, s in shapes.items()}
    return QuantizedGraph(
        "pass",
        tuple(ports[t] for t in reads),
        tuple(Output(ports[t], t) for t in written),
        ops,
        {t: Tensor(t, s, quant) for t, s in shapes.items()},
    )


@dataclass(frozen=True)
class Work:
    """Of a layer's pass, for a sample: cycles, those that the dense multiplications take at least, and microjoules,
    estimated, with the least and the most that the memory outside takes."""

    cycles: float = 0.0
    least: float = 0.0
    energy: tuple[float, float] = (0.0, 0.0)

    def more(self, other: Work, times: int) -> Work:
        low, high = (a + times * b for a, b in zip(self.energy, other.energy, strict=True))
        return Work(self.cycles + times * other.cycles, self.least + times * other.least, (low, high))


@cache
def work(
    layer: Layer | Attention, kind: str, pattern: SparsityPattern, config: AcceleratorConfig, batch: int
) -> Work:
    if isinstance(layer, Layer):
        return _run(graph_of(layer, kind, pattern, config), layer.macs, pattern, config, batch)
    total = Work()
    for graph, times, together in products_of(layer, kind, config):
        total = total.more(_run(graph, layer.macs, DENSE, config, batch if together else 1), times)
    return total


def _run(
    graph: QuantizedGraph, macs: int, pattern: SparsityPattern, config: AcceleratorConfig, batch: int
) -> Work:
    program = generate(graph, config, batch=batch)
    events = program.predict(NOMINAL).events
    matrix = sum(e.done - e.start + 1 for e in events if e.instruction.unit == Unit.MATRIX)
    totals = {
        "macs": macs * batch * (1.0 if pattern.dense else pattern.density),
        "matrix_cycles": matrix,
        "bytes": moved((e.instruction for e in events), config),
    }
    found = energy(totals, config, batch)["uj"]
    return Work(program.cycles / batch, macs / config.multipliers, (found["total_low"], found["total_high"]))


def measure(
    name: str, config: AcceleratorConfig, batch: int, pattern: SparsityPattern, each: bool
) -> dict[str, Work]:
    """What each pass takes."""
    layers = NETWORKS[name]
    total = {kind: Work() for kind in PASSES}
    for n, layer in enumerate(layers):
        for kind in PASSES:
            if (kind == "BP" and n == 0) or (kind == "WU" and isinstance(layer, Attention)):
                continue
            ends = n in (0, len(layers) - 1) or isinstance(layer, Attention)
            kept = DENSE if ends or kind == "WU" else pattern
            found = work(layer, kind, kept, config, batch)
            total[kind] = total[kind].more(found, layer.count)
            if each:
                print(
                    f"| . {layer} | {kind} | {kept} | {found.cycles:,.0f} | {found.least / found.cycles:.1%} |",
                    flush=True,
                )
    return total


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pattern", default="2:8")
    parser.add_argument("--machine", default="train256")
    parser.add_argument("--layers", action="store_true", help="a line for each layer and pass, too")
    options = parser.parse_args()
    config = sateen.preset(options.machine).replace(specialize=False, acc_bits=40)
    print(
        "| network | weights | FF | BP | WU | all | of the dense multiplications | faster | µJ, estimated | less |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in options.only:
        before: Work | None = None
        for pattern in (DENSE, parse_sparsity(options.pattern)):
            passes = measure(name, config, options.batch, pattern, options.layers)
            whole = Work()
            for own in passes.values():
                whole = whole.more(own, 1)
            before = before or whole
            parts = " | ".join(f"{w.cycles:,.0f} ({w.least / w.cycles:.0%})" for w in passes.values())
            (low, high), (most_low, most_high) = whole.energy, before.energy
            print(
                f"| {name} | {pattern} | {parts} | {whole.cycles:,.0f} | {whole.least / whole.cycles:.1%} | "
                f"{before.cycles / whole.cycles:.2f} | {low:,.0f} to {high:,.0f} | "
                f"{most_low / low:.2f} to {most_high / high:.2f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
