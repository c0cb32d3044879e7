"""What N:M sparsity costs and gains at equal multipliers: array and whole machine, dense, with 2:4, with 2:8.

    python benchmarks/sparsity_cost.py [--flat] [--output docs/results/sparsity_cost.md]

Writes the tables as markdown. Each module is synthesized by itself (a few minutes a machine, and it shows where the
LUTs are); --flat synthesizes each machine as one, as place and route gets it, which takes many times as long. Syntheses
are cached. Cycles are those of the cycle model, which the RTL takes exactly.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from utilization import convolution

import sateen
from sateen.fpga.boards.devices import FAMILIES, Family
from sateen.fpga.flow.cost import instances_in, modules, resources
from sateen.fpga.flow.synthesis import Netlist, synthesize, tool_version
from sateen.hw.chip.verilog import emit_verilog
from sateen.machine.config import AcceleratorConfig
from sateen.machine.presets import preset
from sateen.models.resnet18 import resnet18

OUTPUT = Path(__file__).resolve().parents[1] / "docs/results/sparsity_cost.md"
TOP, ARRAY = "accelerator", "accelerator_matrix_array"
PARTS = {
    "elements of the array": (),
    "edge of the array": (),
    "accumulators": ("matrix_accumulator",),
    "rest of the matrix unit": (),
    "activation buffer": ("activations",),
    "weight, index, parameter buffers": ("weights", "indices", "parameters"),
    "load, store": ("load", "store"),
    "vector": ("vector",),
    "control, registers": ("control", "registers"),
    "between them": (),
}
"""Rows of the breakdown, with the modules that they are; the others are differences."""


@dataclass(frozen=True)
class Machine:
    title: str
    fastest: str
    """The pattern that it runs fastest."""
    config: AcceleratorConfig

    def verilog(self) -> str:
        return _emit(self.config)


_emit = functools.cache(emit_verilog)


def machines() -> list[Machine]:
    """The same multipliers, bus, and bits of buffer; the activation word grows with the group."""
    dense = preset("mac256").replace(bus_bits=256)
    found = []
    for group, patterns in ((2, ("dense",)), (4, ("dense", "2:4")), (8, ("dense", "2:4", "2:8"))):
        config = dense.replace(
            name=f"group{group}",
            group=group,
            patterns=patterns,
            act_bank_depth=dense.act_bank_depth * 2 // group,
        )
        found.append(Machine(f"8×16×2, group {group}: {', '.join(patterns)}", patterns[-1], config))
    own = found[-1].config.replace(name="split8", split_groups=True, patterns=("dense", "1:4"))
    found.append(Machine("8×16×2, group 8 split: dense, 1:4", "1:4", own))
    found.append(Machine("`sat256`, 4×32×2, group 8: all patterns", "2:8", preset("sat256")))
    return found


# -- cycles --------------------------------------------------------------------------------------------------


def networks() -> dict[str, Any]:
    """Title to (model by pattern, shape of an input)."""
    return {
        "3×3 64→64 at 56×56": (lambda pattern: convolution(64, 56, pattern), (64, 56, 56)),
        "ResNet-18": (lambda pattern: resnet18(), (3, 224, 224)),
    }


def cycles(network: str, machine: Machine, pattern: str) -> int:
    model, shape = networks()[network]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model(pattern), path)
        name = onnx.load(path).graph.input[0].name
        x = np.random.default_rng(0).normal(0, 1, (1, *shape)).astype(np.float32)
        manifest = sateen.compile(
            path, Path(folder) / "build", calibration={name: x}, config=machine.config,
            sparsity=pattern, sparsity_method="magnitude",
        )  # fmt: skip
    return int(manifest["cycles"])


# -- resources -----------------------------------------------------------------------------------------------


def synthesized(machine: Machine, family: Family, flat: bool) -> tuple[Netlist, Netlist | None]:
    verilog = machine.verilog()
    return synthesize(verilog, family, hierarchy=True), synthesize(verilog, family) if flat else None


def array_of(netlist: Netlist) -> dict[str, int]:
    return netlist.modules[ARRAY]


def _n(value: float) -> str:
    return f"{value:,}".replace(",", " ")


def _counts(cells: dict[str, int], family: Family, *keys: str) -> str:
    found = resources(cells, family)
    return " | ".join(_n(found[k]) for k in keys)


def tables(flat: bool) -> list[str]:
    all_machines = machines()
    speed: dict[tuple[str, str], int] = {}
    out = [
        "## Cycles",
        "",
        "| machine | network | weights | cycles | faster than dense on the dense machine |",
    ]
    out.append("|---|---|---|--:|--:|")
    for network in networks():
        base = 0
        for machine in all_machines:
            for pattern in dict.fromkeys(("dense", machine.fastest)):
                taken = cycles(network, machine, pattern)
                base = base or taken
                speed[network, machine.title] = taken  # of the fastest, which comes last
                out.append(f"| {machine.title} | {network} | {pattern} | {_n(taken)} | {base / taken:.2f}× |")
    for family in FAMILIES.values():
        netlists = {m.title: synthesized(m, family, flat) for m in all_machines}
        out += ["", f"## {family.title}", ""]
        whole = "machine in one: LUT | FF | DSP | BRAM |" if flat else ""
        out.append(f"| machine | array: LUT | FF | DSP | machine: LUT | FF | DSP | BRAM |{whole}")
        out.append("|---|" + "--:|" * (11 if flat else 7))
        for title, (parts, one) in netlists.items():
            cells = [_counts(array_of(parts), family, "lut", "ff", "dsp")]
            cells += [_counts(n.cells, family, "lut", "ff", "dsp", "bram") for n in (parts, one) if n]
            out.append(f"| {title} | {' | '.join(cells)} |")
        out += ["", *throughput(all_machines, netlists, speed, family), ""]
        out += breakdown(all_machines, netlists, family)
    return out


def throughput(
    all_machines: list[Machine],
    netlists: dict[str, tuple[Netlist, Netlist | None]],
    speed: dict[tuple[str, str], int],
    family: Family,
) -> list[str]:
    """Of the fastest pattern, against the dense machine."""
    out = ["Throughput per LUT at the fastest pattern, dense on the dense machine = 1:", ""]
    out += ["| machine | weights | network | array | machine |", "|---|---|---|--:|--:|"]
    base = all_machines[0].title
    for network in networks():
        for machine in all_machines[1:]:
            faster = speed[network, base] / speed[network, machine.title]
            ratios = []
            for cells_of in (array_of, lambda n: n.cells):
                lut = {t: resources(cells_of(netlists[t][0]), family)["lut"] for t in (base, machine.title)}
                ratios.append(f"{faster * lut[base] / lut[machine.title]:.2f}×")
            out.append(f"| {machine.title} | {machine.fastest} | {network} | {' | '.join(ratios)} |")
    return out


def breakdown(
    all_machines: list[Machine], netlists: dict[str, tuple[Netlist, Netlist | None]], family: Family
) -> list[str]:
    """LUTs by part."""
    columns = []
    for machine in all_machines:
        cells = netlists[machine.title][0].modules
        verilog = modules(machine.verilog())
        lut = {name: resources(c, family)["lut"] for name, c in cells.items()}
        column = {part: sum(lut.get(f"{TOP}_{m}", 0) for m in names) for part, names in PARTS.items()}
        elements = sum(lut[m] for m in instances_in(verilog[ARRAY], verilog).values())
        column["elements of the array"] = elements
        column["edge of the array"] = lut[ARRAY] - elements
        column["rest of the matrix unit"] = lut[f"{TOP}_matrix"] - lut[ARRAY] - column["accumulators"]
        column["between them"] = lut[TOP] - sum(column.values())
        columns.append(column)
    out = ["LUTs by part:", "", f"| part | {' | '.join(m.title for m in all_machines)} |"]
    out.append("|---|" + "--:|" * len(all_machines))
    out += [f"| {part} | {' | '.join(_n(c[part]) for c in columns)} |" for part in PARTS]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flat", action="store_true")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    begin = time.monotonic()
    lines = tables(args.flat)
    head = (
        "# Cost of sparsity",
        "",
        "Written by `python benchmarks/sparsity_cost.py`. 256 int8 multipliers, a 256-bit bus, the same bits of buffer",
        "but for the indices. Cycles by the cycle model, which the RTL takes exactly. LUT, FF, DSP, block RAM (DP16KD,",
        f"RAMB36E2) counted by {tool_version()}, before packing, each module by itself.",
        "",
    )
    args.output.write_text("\n".join((*head, *lines)) + "\n", encoding="utf-8")
    print(f"{args.output}: {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
