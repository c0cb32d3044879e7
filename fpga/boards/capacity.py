"""What a board's part has, and what a whole chip on it takes, from the estimate of its machine.

There is a resource model for ECP5 and UltraScale+ alone. A LUT of iCE40 and Gowin has four inputs as ECP5's has, and so
their chips are taken as ECP5's times a factor, with an iCE40's own memories. Factors are those of the chips that were
placed (presets.json), few for each family, so they are rough. `benchmarks/board_chips.py` has both side by side.
An iCE40's are of six chips of 5 200 to 7 800 cells, arrays of 1 to 4 multipliers with queues of 1 to 4 instructions and
buses of 32 and 64 bits, within 6 %: there a flip-flop whose input is no LUT takes a cell, and queues are such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sateen.fpga.boards.catalog import Board


@dataclass(frozen=True, slots=True)
class Capacity:
    """A part.

    Attributes
    ----------
    available : mapping
        What the part has, in the words of the estimates: LUTs, flip-flops, DSPs, block RAMs.
    lut, ff : float
        LUTs and flip-flops of a chip for each of the estimated machine's.
    chip_lut, chip_ff, chip_bram : int
        Those of what is beside the machine: memory's ports, serial link, reset.
    ff_lut : float
        LUTs that a flip-flop of the estimated machine costs, where the two share a cell.
    bus_bit : int
        LUTs, and as many flip-flops, of memory's ports for each bit of the bus.
    slack : float
        So much more than the part has, an estimate of block RAM or DSPs may say, and the chip may fit all the same.
    technology : str
        The family whose counts of the machine are taken, a key of `technology.TECHNOLOGIES`.
    memory_bytes : int
        The most that the chip's memory can have in RAM of another kind; 0 where it takes block RAM.
    """

    available: Mapping[str, int]
    lut: float
    ff: float
    chip_lut: int
    chip_ff: int
    chip_bram: int
    slack: float = 0.0
    technology: str = "ecp5"
    memory_bytes: int = 0
    ff_lut: float = 0.0
    bus_bit: int = 0

    def chip(self, machine: Mapping[str, float], memory_bytes: int, bus_bits: int) -> dict[str, float]:
        """Estimated counts of the chip with a machine, estimated in `technology`, and a memory of so many bytes."""
        if self.memory_bytes:
            memory = 0 if memory_bytes <= self.memory_bytes else self.available["bram"] + 1  # it does not fit
        else:
            memory = math.ceil(memory_bytes / 2048)
        return {
            "lut": round(
                self.lut * machine["lut"]
                + self.ff_lut * machine["ff"]
                + self.chip_lut
                + self.bus_bit * bus_bits
            ),
            "ff": round(self.ff * machine["ff"] + self.chip_ff + self.bus_bit * bus_bits),
            "dsp": machine["dsp"],
            "bram": math.ceil(machine["bram"]) + memory + self.chip_bram,
        }


def _part(lut: int, ff: int, dsp: int, bram: int) -> Mapping[str, int]:
    return MappingProxyType({"lut": lut, "ff": ff, "dsp": dsp, "bram": bram})


def _ecp5(lut: int, dsp: int, bram: int) -> Capacity:
    return Capacity(_part(lut, lut, dsp, bram), 1.19, 1.03, 290, 318, 1)


def _gowin(lut: int, ff: int, dsp: int, bram: int) -> Capacity:
    # 38 block RAMs were estimated where 35 were placed
    return Capacity(_part(lut, ff, dsp, bram), 1.5, 1.03, 1150, 540, 0, slack=0.1)


# Ref: Lattice FPGA-DS-02012 (ECP5), FPGA-DS-02008 (iCE40 UltraPlus); Gowin DS117 (GW1NR), DS226 (GW2AR).
CAPACITIES: dict[tuple[str, str], Capacity] = {
    ("ecp5", "85k"): _ecp5(83_640, 156, 208),
    ("ecp5", "um5g-85k"): _ecp5(83_640, 156, 208),
    ("ecp5", "25k"): _ecp5(24_288, 28, 56),
    ("ice40", "up5k"): Capacity(
        _part(5_280, 5_280, 8, 30),
        lut=1.0,
        ff=0.96,
        chip_lut=-390,
        chip_ff=460,
        chip_bram=1,
        technology="ice40",
        memory_bytes=1 << 17,
        ff_lut=1.17,
        bus_bit=2,
    ),
    ("gowin", "GW1NR-LV9QN88PC6/I5"): _gowin(8_640, 6_480, 20, 26),
    ("gowin", "GW2AR-LV18QN88C8/I7"): _gowin(20_736, 15_552, 48, 46),
}
"""By architecture and device, as `Part` names them."""


# Ref: AMD DS891 (Zynq UltraScale+), DS890 (UltraScale+), product tables: LUTs, flip-flops, DSPs, block RAMs of 36 Kbit.
VENDOR_PARTS: dict[str, Mapping[str, int]] = {
    "zcu104": _part(230_400, 460_800, 1_728, 312),
    "zcu102": _part(274_080, 548_160, 2_520, 912),
    "vcu1525": _part(1_182_240, 2_364_480, 6_840, 2_160),
    "alveo-u250": _part(1_728_000, 3_456_000, 12_288, 2_688),
}
"""What UltraScale+ parts of boards for Vivado have; their UltraRAM is not counted. There is no model of others."""


def capacity_of(board: Board) -> Capacity:
    """Of the board's part."""
    return CAPACITIES[board.part.architecture, board.part.device]


LOGIC_SLACK = 0.1
"""As `Capacity.slack`, of LUTs and flip-flops."""
TITLES = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram": "block RAM"}
"""Before and after synthesis."""

PLACED: dict[str, dict[str, dict[str, float]]] = {
    "ecp5": {
        "lut": {"TRELLIS_COMB": 1},
        "ff": {"TRELLIS_FF": 1},
        "dsp": {"MULT18X18D": 1},
        "bram": {"DP16KD": 1},
    },
    "ice40": {"lut": {"ICESTORM_LC": 1}, "dsp": {"ICESTORM_DSP": 1}, "bram": {"ICESTORM_RAM": 1}},
    "gowin": {
        "lut": {"LUT4": 1, "ALU": 1, "RAM16SDP4": 4},
        "ff": {"DFF": 1},
        "dsp": {"MULT9X9": 0.5, "MULT18X18": 1},
        "bram": {"BSRAM": 1},
    },
}
"""What a primitive of nextpnr's table takes, in the words of the estimates; an iCE40's cell has LUT and flip-flop."""


def placed_counts(used: Mapping[str, int], architecture: str) -> dict[str, float]:
    """Resources of a placed chip."""
    return {
        name: sum(units * used.get(cell, 0) for cell, units in table.items())
        for name, table in PLACED[architecture].items()
    }
