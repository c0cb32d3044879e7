"""Softmax and normalization in integers against float64, and what their unit costs.

    python benchmarks/rows.py              steps that outputs of every 8-bit format differ by: docs/results/rows.md
    python benchmarks/rows.py --cost       LUT, FF, DSP and block RAM of the vector unit, by Yosys
    python benchmarks/rows.py --cycles     of a row, by length

Inputs are normal with three spreads, rounded to the format with a scale that covers them; outputs have a scale that
covers the real results. Factors and offsets are as the program has them, as weights are. A step is to the next value
of the format.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from sateen.compiler.quantize import ActivationPlan, quantize
from sateen.formats import Format
from sateen.formats.catalog import all_formats
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import synthesize
from sateen.hw.chip.verilog import convert
from sateen.hw.vector.row import row_cycles
from sateen.hw.vector.unit import VectorUnit
from sateen.ir.graph import Graph
from sateen.ir.nodes import Normalize, Softmax
from sateen.ir.ports import Output, Port
from sateen.ir.quant import Quant
from sateen.ir.quantized import Normalize as QuantizedNormalize
from sateen.machine.config import AcceleratorConfig
from sateen.machine.presets import PRESETS
from sateen.sim import run_reference

LENGTHS = (3, 17, 64, 197, 768)
ROWS, SEEDS = 96, 3
EPSILON = 1e-5


def outcome(fmt: Format, kind: str, length: int, seed: int) -> np.ndarray:
    """Steps between the integers' codes and those of the real function of the same inputs, flat."""
    rng = np.random.default_rng((seed, length))
    x = rng.normal(size=(1, ROWS, 1, length)) * rng.choice([0.3, 1.0, 3.0], size=(1, ROWS, 1, 1))
    source = Quant(fmt, float(np.abs(x).max()) / fmt.max)
    codes = source.quantize(x)
    real = source.dequantize(codes)
    scale, offset = rng.normal(size=length), 0.3 * rng.normal(size=length)
    if kind == "softmax":
        power = np.exp(real - real.max(axis=-1, keepdims=True))
        wanted = power / power.sum(axis=-1, keepdims=True)
    else:
        mean = real.mean(axis=-1, keepdims=True) if kind == "layer" else 0.0
        square = ((real - mean) ** 2).mean(axis=-1, keepdims=True)
        unit = (real - mean) / np.sqrt(square + EPSILON)
        wanted = unit * scale + offset
    target = Quant(fmt, float(np.abs(wanted).max()) / fmt.max)
    shape = (ROWS, 1, length)
    node: Softmax | Normalize = Softmax("op", "x", "y")
    if kind != "softmax":
        node = Normalize("op", "x", "y", scale, offset, EPSILON, centred=kind == "layer")
    ports = [Port(name, shape, shape) for name in ("x", "y")]
    graph = Graph("row", (ports[0],), (Output(ports[1], "y"),), (node,), {"x": shape, "y": shape})
    plan = ActivationPlan({"x": source, "y": target}, {})
    quantized = quantize(graph, None, weight_format="int8", activation_format=fmt, plan=plan)
    (op,) = quantized.ops
    if isinstance(op, QuantizedNormalize):
        step = target.scale * 2.0**fmt.lsb_exponent
        scale = op.multiplier * np.ldexp(1.0, op.fraction - op.shift) * step
        wanted = unit * scale + op.bias * np.ldexp(np.abs(scale), -op.fraction)
    found = target.quantize(run_reference(quantized, {"x": real})["y"])
    rank = np.unique(fmt.fixed(fmt.codes), return_inverse=True)[1].astype(int)
    return np.abs(rank[found] - rank[target.quantize(wanted)]).ravel()


def accuracy() -> None:
    print(
        "| format | function | elements | equal | 1 step | more | mean steps |\n|---|---|--:|--:|--:|--:|--:|"
    )
    for fmt in (f for f in all_formats() if f.bits == 8):
        for kind, name in (
            ("softmax", "softmax"),
            ("layer", "LayerNormalization"),
            ("rms", "RMSNormalization"),
        ):
            steps = np.concatenate([outcome(fmt, kind, n, s) for n in LENGTHS for s in range(SEEDS)])
            count = np.bincount(np.minimum(steps, 2), minlength=3)
            print(
                f"| {fmt.name} | {name} | {len(steps):,} | {count[0]:,} | {count[1]:,} | {count[2]:,} | "
                f"{steps.mean():.5f} |",
                flush=True,
            )


def machines() -> dict[str, AcceleratorConfig]:
    """A small and a large machine, of int8 and e4m3."""
    found = {}
    for name, more in (("int8", 0), ("e4m3", 24)):
        for preset, acc in (("tiny", 24 + more), ("mac256", 26 + more)):
            found[f"{preset}, {name}"] = PRESETS[preset].replace(
                weight_format=name, activation_format=name, acc_bits=acc, table=False
            )
    return found


def cost() -> None:
    print("| family | machine | unit | LUT | FF | DSP | block RAM |\n|---|---|---|--:|--:|--:|--:|")
    for name, config in machines().items():
        for family in (FAMILIES["ecp5"], FAMILIES["xcup"]):
            for unit, options in (
                ("without", {}),
                ("softmax", {"softmax": True}),
                ("normalize", {"normalize": True}),
                ("both", {"softmax": True, "normalize": True}),
            ):
                verilog = convert(VectorUnit(config=config.replace(**options)), "dut")
                found = resources(synthesize(verilog, family, top="dut").cells, family)
                counts = " | ".join(f"{found[k]:,}" for k in ("lut", "ff", "dsp", "bram"))
                print(
                    f"| {family.title} | {name}, {config.vector_lanes} lanes | {unit} | {counts} |",
                    flush=True,
                )


def cycles() -> None:
    print("| machine | row of | softmax | normalization |\n|---|--:|--:|--:|")
    for name, config in machines().items():
        config = config.replace(softmax=True, normalize=True)
        for length in (64, 197, 768):
            words = -(-length // config.elements)
            fields = {"out_h": 1, "row_w": 1, "row_h": 1, "channel_words": words}
            rows = [
                row_cycles(fields | {"out_w": 101, "normalize": n}, config)
                - row_cycles(fields | {"out_w": 1, "normalize": n}, config)
                for n in (0, 1)
            ]
            print(f"| {name} | {length} | {rows[0] / 100:.0f} | {rows[1] / 100:.0f} |")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--cycles", action="store_true")
    given = parser.parse_args()
    (cost if given.cost else cycles if given.cycles else accuracy)()
    return 0


if __name__ == "__main__":
    sys.exit(main())
