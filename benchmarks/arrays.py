"""Several arrays that share a memory: speed-up of 2 and 4 by the exact model, and in RTL.

    python benchmarks/arrays.py [--only digits_cnn resnet8] [--rtl]      the table of docs/results/arrays.md

`--rtl` also runs the networks of digits, whose outputs must be those of one sample after the other and whose cycles
those of the model. The speed-up is that of samples a second over one array. Beside it stand two other ways to use as
many multipliers: whole machines that run on their own, each with its slots of the memory's beats (a beat every N
cycles), and one array of N times the rows, the columns, or both, which works on one sample. Weights are random where
there is no file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

import sateen
from sateen.errors import ConfigError
from sateen.machine.config import AcceleratorConfig
from sateen.models.resnets import resnet8, resnet18

FILES = {name: Path("models") / f"{name}.onnx" for name in ("digits_cnn", "digits_resnet")}
MADE = {"resnet8": resnet8, "resnet18": resnet18}
BUSES = (64, 256)
COUNTS = (1, 2, 4)
LATENCY = 32
CALIBRATION = {"resnet18": 2}
"""Samples, where few are enough for cycles."""


def model_of(name: str) -> onnx.ModelProto:
    return onnx.load(FILES[name]) if name in FILES else MADE[name](0)


def shape_of(model: onnx.ModelProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]


def larger(quantized: sateen.QuantizedNetwork, machine: AcceleratorConfig, times: int) -> int | None:
    """Fewest cycles on one array of so many times the rows, columns, or both; None if there is none."""
    found = []
    for rows in (n for n in COUNTS if n <= times):
        try:
            grown = machine.replace(rows=machine.rows * rows, cols=machine.cols * (times // rows))
            found.append(quantized.map(grown).cycles)
        except ConfigError:  # an activation word shorter than the columns
            continue
    return min(found, default=None)


def measure(name: str, rtl: bool) -> None:
    model = model_of(name)
    shape, source = shape_of(model), model.graph.input[0].name
    rng = np.random.default_rng(1)

    def samples(n: int) -> dict[str, np.ndarray]:
        return {source: rng.normal(0, 1, (n, *shape)).astype(np.float32)}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        quantized = sateen.load(path).quantize(calibration=samples(CALIBRATION.get(name, 16)))
        base = sateen.preset("tiny" if name in FILES else "mac256")
        for bus in BUSES:
            one = quantized.map(base.replace(bus_bits=bus))
            for n in COUNTS:
                machine = base.replace(bus_bits=bus, arrays=n)
                mapped = one if n == 1 else quantized.map(machine)
                moved = mapped.schedule["totals"]
                bytes_each = (
                    moved["bytes"]["total"] + (n - 1) * moved.get("own_bytes", moved["bytes"])["total"]
                ) / n
                slots = n * one.cycles / one.predict(LATENCY, n)
                cycles = larger(quantized, base.replace(bus_bits=bus), n) if n > 1 else one.cycles
                whole = f"{one.cycles / cycles:.2f}" if cycles else "-"
                print(
                    f"| {name} | {base.name} | {bus} | {n} | {mapped.cycles:,} | {mapped.cycles / n:,.0f} | "
                    f"{bytes_each:,.0f} | {n * one.cycles / mapped.cycles:.2f} | {slots:.2f} | {whole} |",
                    flush=True,
                )
                if rtl and name in FILES:
                    build = mapped.write(Path(folder) / f"build{bus}_{n}")
                    x = samples(2 * n)
                    wanted, found = build.run(x, "reference"), build.run(x, "rtl")
                    same = all(v.tobytes() == found.outputs[k].tobytes() for k, v in wanted.outputs.items())
                    assert same and found.cycles == 2 * mapped.cycles, f"{name}, {n} arrays: RTL differs"
                    print(f"RTL: {found.cycles:,} cycles for {2 * n} samples, outputs equal", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = (*FILES, *MADE)
    parser.add_argument("--only", nargs="+", choices=names, default=list(names), metavar="NAME")
    parser.add_argument("--rtl", action="store_true", help="run the networks of digits in RTL, too")
    options = parser.parse_args()
    print(
        "| network | machine | bus | arrays | cycles of a run | a sample | bytes a sample | speed-up | "
        "time slots | one larger array |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in options.only:
        measure(name, options.rtl)
    return 0


if __name__ == "__main__":
    sys.exit(main())
