"""Chips on boards: what `sateen explore` estimates beside what was placed (`fpga/flow/presets.json`).

    python benchmarks/board_chips.py

Presets of boards with the digits CNN at int8, as `benchmarks/bitstreams.py --record` placed them. Seconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import sateen
from sateen.explorer.target import Target
from sateen.fpga.boards.capacity import placed_counts
from sateen.fpga.boards.catalog import BOARDS
from sateen.fpga.flow.bitstream import measured
from sateen.models.data import write_digits_npz

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        samples = write_digits_npz(folder)[0]
        quantized = sateen.load(ROOT / "models/digits_cnn.onnx").quantize(calibration=samples)
    print("| board | | LUT | FF | DSP | block RAM |\n|---|---|--:|--:|--:|--:|")
    for preset, record in measured().items():
        mapped = quantized.map(preset)
        memory = mapped.memory["data_offset"] + mapped.memory["data_size"]
        for name, placed in record["boards"].items():
            board = BOARDS[name]
            rows = {
                "estimated": Target(name, "ecp5", board).estimate(mapped.config, memory),
                "placed": placed_counts(placed["networks"]["digits_cnn"]["used"], board.part.architecture),
            }
            for source, values in rows.items():
                cells = (f"{values[k]:,.0f}" if k in values else "" for k in ("lut", "ff", "dsp", "bram"))
                print(f"| `{name}` | {source} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
