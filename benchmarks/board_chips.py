"""Chips on boards: what `sateen explore` estimates beside what was placed (`fpga/flow/presets.json`).

    python benchmarks/board_chips.py

Presets of boards with the digits CNN at int8, as `benchmarks/bitstreams.py --record` placed them. Seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import sateen
from sateen.fpga.boards.capacity import capacity_of
from sateen.fpga.boards.catalog import BOARDS
from sateen.fpga.flow.bitstream import measured
from sateen.models.data import write_digits_npz

ROOT = Path(__file__).resolve().parents[1]
UNITS: dict[str, dict[str, dict[str, float]]] = {
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


def counted(used: Mapping[str, int], architecture: str) -> dict[str, float]:
    """Resources of a placed chip."""
    return {
        name: sum(units * used.get(cell, 0) for cell, units in table.items())
        for name, table in UNITS[architecture].items()
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        samples = write_digits_npz(folder)[0]
        quantized = sateen.load(ROOT / "models/digits_cnn.onnx").quantize(calibration=samples)
    print("| board | | LUT | FF | DSP | block RAM |\n|---|---|--:|--:|--:|--:|")
    for preset, record in measured().items():
        mapped = quantized.map(preset)
        machine = mapped.estimate("ecp5")["devices"]["ecp5"]["total"]
        memory = mapped.memory["data_offset"] + mapped.memory["data_size"]
        for name, placed in record["boards"].items():
            board = BOARDS[name]
            rows = {
                "estimated": capacity_of(board).chip(mapped.config, machine, memory),
                "placed": counted(placed["used"], board.part.architecture),
            }
            for source, values in rows.items():
                cells = (f"{values[k]:,.0f}" if k in values else "" for k in ("lut", "ff", "dsp", "bram"))
                print(f"| `{name}` | {source} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
