"""Bitstreams of the digits CNN for every board: size, clock, samples per second, and the time each takes.

    python benchmarks/bitstreams.py                                 all boards
    python benchmarks/bitstreams.py --board ulx3s-85f --record      one; and keep its size for error messages

One command each, from a clean clone: `make bench-bitstreams ARGS="--board ulx3s-85f"`. Builds go to build/boards/BOARD,
with a report each. Cycles are those of the exact model on the chip's memory; accuracy is the reference's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

import sateen
from sateen.cli.io import emit, guarded, progress
from sateen.errors import LimitError
from sateen.fpga.boards.catalog import BOARDS
from sateen.models.data import CALIBRATION, digits_split
from sateen.reporting.labels import score
from sateen.sim import Build

SIZES = Path(__file__).parents[1] / "fpga" / "flow" / "presets.json"
COLUMNS = {
    "LUT": ("TRELLIS_COMB", "ICESTORM_LC", "LUT4"),
    "FF": ("TRELLIS_FF", "DFF"),
    "DSP": ("MULT18X18D", "ICESTORM_DSP", "MULT18X18", "MULT9X9"),
    "block RAM": ("DP16KD", "ICESTORM_RAM", "BSRAM"),
}
"""nextpnr's names; of an iCE40 a logic cell is a LUT and a flip-flop."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--board", action="append", choices=BOARDS, help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clock", type=float, metavar="MHZ", help="default: the board's")
    parser.add_argument("--out", type=Path, default=Path("build/boards"))
    parser.add_argument("--record", action="store_true", help=f"write {SIZES.name}")
    args = parser.parse_args()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    data, failed = digits_split(), False
    emit(
        "| board | machine | multipliers | "
        + " | ".join(COLUMNS)
        + " | Fmax | clock | cycles | samples/s | accuracy | minutes |"
    )
    emit("|---|---|" + "--:|" * (len(COLUMNS) + 7))
    for name in args.board or BOARDS:
        folder = args.out / name
        started = time.monotonic()
        with as_file(files("sateen.models") / "digits_cnn.onnx") as model:
            sateen.compile(model, folder, board=name, calibration={"input": data.x_train[:CALIBRATION]})
        result = sateen.run(folder, {"input": data.x_test}, "reference")
        scored = score(Build(folder), result, np.asarray(data.y_test))
        right = f"{100 * scored['correct'] / scored['samples']:.1f} %"
        try:
            with progress(name) as report:
                found = sateen.bitstream(folder, seed=args.seed, clock=args.clock, progress=report)
        except LimitError as e:
            emit(f"| {name} | {e} |")
            failed = True
            continue
        sateen.report(folder)
        minutes = (time.monotonic() - started) / 60
        emit(
            f"| {name} | {found['config']} | {found['multipliers']} | "
            + " | ".join(share(found, names) for names in COLUMNS.values())
            + f" | {found['fmax_mhz']:.1f} | {found['clock_mhz']:g} | {found['cycles']:,} | "
            f"{found['samples_per_second']:,.0f} | {right} | {minutes:.1f} |"
        )
        if args.record:
            record(found)
    return 1 if failed else 0


def share(found: dict[str, Any], names: tuple[str, ...]) -> str:
    """Used of what there is; Gowin's multipliers of two sizes take each other's places, so both are named."""
    there = {name: n for name in names if (n := found["available"].get(name))}
    used = [name for name in there if found["used"][name]] or list(there)[:1]
    sizes = len(used) > 1
    return ", ".join(f"{found['used'][n]:,} of {there[n]:,}{f' {n}' if sizes else ''}" for n in used)


def record(found: dict[str, Any]) -> None:
    sizes = json.loads(SIZES.read_text(encoding="utf-8"))
    entry = sizes.setdefault(found["config"], {"multipliers": found["multipliers"], "boards": {}})
    entry["boards"][found["board"]] = {
        "architecture": found["architecture"],
        "speed": found["speed"],
        "used": {name: n for name, n in found["used"].items() if n},
        "fmax_mhz": found["fmax_mhz"],
    }
    SIZES.write_text(json.dumps(sizes, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
