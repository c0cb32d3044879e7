"""What weights on the machine take, by Yosys: MOVE with patterns and without, UPDATE; each by itself.

python benchmarks/weights_cost.py [FORMAT ...]
"""

import sys

from amaranth.back import verilog
from amaranth.lib import wiring

from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import synthesize
from sateen.hw.memory.move import Move
from sateen.hw.memory.select import SelectingMove
from sateen.hw.vector.update import UpdateUnit
from sateen.machine.config import AcceleratorConfig

SUMS = {"int8": 32, "e4m3": 57, "e5m2": 80}
"""Bits of the sums of gradients."""
PATTERNS = (("dense",), ("dense", "2:8"), ("dense", "2:4", "2:8"))


def machine(fmt: str, transpose_words: int, patterns: tuple[str, ...]) -> AcceleratorConfig:
    """8 × 32 elements with groups of 8."""
    return AcceleratorConfig(
        rows=8, cols=32, lanes=1, group=8, weight_format=fmt, activation_format=fmt, bus_bits=256, act_bank_depth=4096,
        weight_depth=4096, vector_lanes=16, parameter_depth=1024, computed_weights=True,
        transpose_words=transpose_words, patterns=patterns, computed_patterns=len(patterns) > 1,
    )  # fmt: skip


def main(formats: list[str]) -> None:
    print("| format | words at a time | patterns | family | LUT | FF |")
    print("|---|--:|---|---|--:|--:|")
    for fmt in formats:
        for words in (1, 8):
            for patterns in PATTERNS:
                config = machine(fmt, words, patterns)
                block = (SelectingMove if config.computed_patterns else Move)(config=config)
                count(block, fmt, words, " ".join(patterns))
    print("\n| format | lanes | decay of what these leave out | bits of sums | family | LUT | FF | DSP |")
    print("|---|--:|---|--:|---|--:|--:|--:|")
    for fmt in formats:
        for lanes in (1, 4):
            for patterns in PATTERNS:
                config = machine(fmt, 1, patterns).replace(
                    update=True, update_lanes=lanes, acc_bits=SUMS[fmt], computed_weights=False,
                    computed_patterns=False, pruned_decay=len(patterns) > 1,
                )  # fmt: skip
                count(UpdateUnit(config=config), fmt, lanes, " ".join(patterns[1:]), SUMS[fmt])


def count(block: wiring.Component, *about: object) -> None:
    """A line for each family."""
    text = verilog.convert(block, name="block")
    for family in (FAMILIES["ecp5"], FAMILIES["xcup"]):
        n = resources(synthesize(text, family, top="block").cells, family)
        counts = [n["lut"], n["ff"], *([n["dsp"]] if isinstance(block, UpdateUnit) else [])]
        print(f"| {' | '.join(map(str, (*about, family.title, *counts)))} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["int8", "e4m3"])
