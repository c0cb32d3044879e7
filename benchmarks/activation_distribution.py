"""Activations broadcast along a row, or handed on from segment to segment of columns through registers.

    python benchmarks/activation_distribution.py [--tables counts clocks cycles] [--seeds N]

`segment` is the number of columns that share a register: all of them is hw/matrix/array.py's broadcast, 1 is a
systolic row. A segmented array takes its weights and gives its sums later from segment to segment. Registers that
line the sums up again (`aligned`) keep the array's interface; without them the accumulators would have to be split
likewise. Every variant is compared with the broadcast array in simulation first.

The clock is nextpnr's, ECP5-85k, speed grade 6, the array between shift registers. The 85k has 156 multipliers, so it
is measured with 128. An hour on two cores; results are cached.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from amaranth.sim import Simulator

import sateen
from sateen.files import cache_dir
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.place_and_route import Part, Routed, few_pins, netlist, place_and_route, tool_version
from sateen.fpga.flow.synthesis import synthesize
from sateen.hw.chip.verilog import convert
from sateen.hw.matrix.array import SystolicArray, array_latency
from sateen.hw.matrix.pe import pe_latency
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode
from sateen.machine.presets import preset
from sateen.models.resnet18 import resnet18
from sateen.sim import model


def machine(rows: int, cols: int, group: int, patterns: Sequence[str] = ("dense",)) -> AcceleratorConfig:
    return AcceleratorConfig(rows=rows, cols=cols, lanes=2, group=group, patterns=tuple(patterns))


SPARSE = ("dense", "2:4", "4:8", "2:8")
COUNTED = {"8×16×2, group 2": machine(8, 16, 2), "4×16×2, group 8": machine(4, 16, 8, SPARSE)}
CLOCKED = {"8×8×2, group 2": machine(8, 8, 2), "4×16×2, group 8": machine(4, 16, 8, SPARSE)}


class SegmentedArray(SystolicArray):
    """`SystolicArray` with a register of each row's decoded group between segments of columns.

    Parameters
    ----------
    segment : int
        Columns, a divisor of cols.
    aligned : bool
        All columns' sums leave in the same cycle. If not, those of segment s leave s cycles after the first's.
    """

    def __init__(self, *, config: AcceleratorConfig, segment: int, aligned: bool = True):
        if segment < 1 or config.cols % segment:
            raise ValueError(f"segment must be a divisor of cols = {config.cols}, not {segment!r}")
        self.segment = segment
        self.segments = config.cols // segment
        self.aligned = aligned
        super().__init__(config=config)

    @property
    def latency(self) -> int:
        """Cycles from `i_activation` to the last column's sum."""
        return super().latency + self.segments - 1

    def late(self, col: int) -> int:
        """Cycles from column `col`'s sum to the last column's."""
        return 0 if self.aligned else self.segments - 1 - col // self.segment

    def elaborate(self, platform):
        m = Module()
        c, last = self.config, self.segments - 1
        valid = Cat(self.i_valid, _history(m, self.i_valid, c.rows + pe_latency(c.lanes) - 1 + last, "valid"))
        load = Cat(self.i_load, _history(m, self.i_load, c.rows + last, "load"))
        weights = self._weights(m, load)
        weights = [_delayed(m, weights[col], col // self.segment, f"weights_{col}") for col in range(c.cols)]
        groups = self._groups(m, valid)
        psums: list[Value] = [Const(0, signed(c.acc_bits))] * c.cols
        for row in range(c.rows):
            group = self._operands(m, row, groups[row], valid[row])
            for s in range(self.segments):
                if s:
                    group = _delayed(m, group, 1, f"activations_{row}_{s}")
                age = row + s
                for col in range(s * self.segment, (s + 1) * self.segment):
                    m.submodules[f"pe_{row}_{col}"] = pe = self._pe()
                    m.d.comb += [
                        Value.cast(pe.activations).eq(group),
                        Value.cast(pe.weights).eq(weights[col]),
                        pe.load.eq(load[age + 1]),
                        pe.accumulate.eq(valid[age + pe.latency]),
                        pe.psum_in.eq(psums[col]),
                    ]
                    psums[col] = pe.psum
        if self.aligned:
            psums = [
                _delayed(m, psums[col], last - col // self.segment, f"psum_{col}") for col in range(c.cols)
            ]
        m.d.comb += Value.cast(self.o_psum).eq(Cat(psums))
        return m


def _history(m: Module, source: Value, cycles: int, name: str) -> Signal:
    """A bit of the cycles before: bit k is k + 1 cycles old."""
    late = Signal(cycles, name=name)
    m.d.sync += late.eq(Cat(source, late))
    return late


def _delayed(m: Module, value: Value, cycles: int, name: str) -> Value:
    for k in range(cycles):
        late = Signal(len(value), name=f"{name}_late_{k}", reset_less=True)
        m.d.sync += late.eq(value)
        value = late
    return value


# -- the same function ---------------------------------------------------------------------------------------


class _Pair(wiring.Component):
    """Two arrays with the same inputs."""

    def __init__(self, one: SystolicArray, other: SystolicArray):
        self.arrays = {"one": one, "other": other}
        self.inputs = [n for n, member in one.signature.members.items() if member.flow is In]
        super().__init__({n: one.signature.members[n] for n in self.inputs})

    def elaborate(self, platform):
        m = Module()
        for name, array in self.arrays.items():
            m.submodules[name] = array
            m.d.comb += [getattr(array, n).eq(getattr(self, n)) for n in self.inputs]
        return m


def compare(variant: SegmentedArray, cycles: int = 120, seed: int = 0) -> int:
    """Sums compared with the broadcast array's, random words and tiles at random times; raises where one differs."""
    rng = random.Random(seed)
    config = variant.config
    broadcast = SystolicArray(config=config)
    pair = _Pair(broadcast, variant)
    seen: list[tuple[list[int], list[int]]] = []
    words = []

    async def bench(ctx):
        row = config.rows  # of the tile under way
        for now in range(cycles):
            for name in pair.inputs:
                port = getattr(pair, name)
                ctx.set(port, rng.getrandbits(len(port)))
            begin = now == 0 or (row >= config.rows and rng.random() < 0.3)
            row = 0 if begin else row + 1
            valid = now > 0 and rng.random() < 0.7
            ctx.set(pair.i_load, begin)
            ctx.set(pair.i_valid, valid)
            if valid:
                words.append(now)
            seen.append(
                tuple([ctx.get(a.o_psum[c]) for c in range(config.cols)] for a in (broadcast, variant))
            )
            await ctx.tick()

    simulator = Simulator(pair)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    compared = 0
    for at in words:
        if at + variant.latency >= cycles:
            break
        for col in range(config.cols):
            want = seen[at + broadcast.latency][0][col]
            got = seen[at + variant.latency - variant.late(col)][1][col]
            if want != got:
                raise AssertionError(f"word at {at}, column {col}: {got}, broadcast gives {want}")
            compared += want != 0
    return compared


# -- what it costs -------------------------------------------------------------------------------------------


PART = Part("ecp5", "85k", "CABGA756", "6")
FREQUENCY = 200.0
"""MHz that placement aims at: more than any of them reaches."""


def routed(array: SystolicArray, seeds: Sequence[int]) -> list[Routed]:
    """The array between shift registers, once for each seed; cached by content."""
    verilog = few_pins(convert(array, "array"))
    tools = [tool_version(f"yowasp-{name}") for name in ("yosys", "nextpnr-ecp5")]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        design = Path(folder) / "design.json"
        for seed in seeds:
            key = hashlib.sha256(repr((verilog, tools, PART, FREQUENCY, seed)).encode()).hexdigest()
            path = cache_dir() / "place_and_route" / f"{key}.json"
            if not path.is_file():
                if not design.is_file():
                    netlist(verilog, PART, design)
                result = place_and_route(design, PART, frequency=FREQUENCY, seed=seed)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(asdict(result)))
            found.append(Routed(**json.loads(path.read_text())))
    return found


def resnet18_cycles(name: str, sparsity: str, added: Sequence[int]) -> list[int]:
    """Cycles of ResNet-18 on a preset with every MATRIX so many cycles longer, from the exact cycle model."""
    network = resnet18()
    x = np.random.default_rng(0).normal(0, 1, (2, 3, 224, 224)).astype(np.float32)
    quantized = sateen.load(network).quantize(
        calibration={network.graph.input[0].name: x}, sparsity=sparsity, sparsity_method="magnitude"
    )
    mapped = quantized.map(name)
    found = []
    original = model.DURATION[Opcode.MATRIX]
    try:
        for cycles in added:
            model.DURATION[Opcode.MATRIX] = lambda *a, n=cycles: original(*a) + n
            found.append(mapped.predict())
    finally:
        model.DURATION[Opcode.MATRIX] = original
    return found


def variants(config: AcceleratorConfig) -> dict[str, SystolicArray]:
    """Title to array."""
    return {
        "broadcast": SystolicArray(config=config),
        **{f"segments of {n}": SegmentedArray(config=config, segment=n) for n in (8, 4)},
        "systolic": SegmentedArray(config=config, segment=1),
        "systolic, sums skewed": SegmentedArray(config=config, segment=1, aligned=False),
    }


def report_counts(name: str, config: AcceleratorConfig) -> None:
    print(f"\n**{name}**, int8, {config.multipliers} multipliers\n")
    print("| activations | cycles added | ECP5 LUT | FF | DSP | UltraScale+ LUT | FF | DSP |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    broadcast = array_latency(config)
    for title, array in variants(config).items():
        if isinstance(array, SegmentedArray):
            compare(array)
        verilog = convert(array, "array")
        found = [
            resources(synthesize(verilog, f, top="array", hierarchy=True).cells, f) for f in FAMILIES.values()
        ]
        counts = " | ".join(f"{r[k]:,}".replace(",", " ") for r in found for k in ("lut", "ff", "dsp"))
        print(f"| {title} | {array.latency - broadcast} | {counts} |", flush=True)


def report_clocks(name: str, config: AcceleratorConfig, seeds: Sequence[int]) -> None:
    print(f"\n**{name}**, ECP5-85k speed grade 6, {len(seeds)} placements\n")
    print("| activations | MHz, median | MHz, each | longest path of the median: ns of logic + of routing |")
    print("|---|--:|---|---|")
    for title, array in variants(config).items():
        if title == "segments of 8" or not getattr(array, "aligned", True):
            continue
        results = sorted(routed(array, seeds), key=lambda r: r.fmax)
        median = results[len(results) // 2]
        each = ", ".join(f"{r.fmax:.1f}" for r in results)
        start, end, gates, wires = median.longest
        print(
            f"| {title} | {median.fmax:.1f} | {each} | {start} → {end}: {gates:.1f} + {wires:.1f} |",
            flush=True,
        )


def report_cycles() -> None:
    print("\n**ResNet-18**, 224×224, int8, cycles by the exact cycle model\n")
    print("| machine | weights | broadcast | segments of 8 | segments of 4 | systolic |")
    print("|---|---|--:|--:|--:|--:|")
    for name, sparsity in (("mac256", "dense"), ("sat256", "dense"), ("sat256", "2:8")):
        cols = preset(name).cols
        base, *more = resnet18_cycles(name, sparsity, [0, *(cols // n - 1 for n in (8, 4, 1))])
        cells = " | ".join(f"+{100 * (n / base - 1):.2f} %" for n in more)
        print(f"| `{name}` | {sparsity} | {base:,} | {cells} |".replace(",", " "), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tables", nargs="+", choices=("counts", "clocks", "cycles"), default=["counts", "clocks", "cycles"]
    )
    parser.add_argument("--seeds", type=int, default=3, help="placements of each")
    args = parser.parse_args()
    if "counts" in args.tables:
        for name, config in COUNTED.items():
            report_counts(name, config)
    if "clocks" in args.tables:
        for name, config in CLOCKED.items():
            report_clocks(name, config, range(1, args.seeds + 1))
    if "cycles" in args.tables:
        report_cycles()


if __name__ == "__main__":
    main()
