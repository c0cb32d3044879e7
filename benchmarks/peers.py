"""Sateen beside tools that pip installs, on the same networks: size by the same Yosys, cycles, accuracy, time, speed.

    pip install -e ".[peers]"; apt install iverilog
    python benchmarks/peers.py [--only sateen nngen da4ml scalesim] [--samples N] [--no-size]

The networks are the digits CNN of `models/` and an MLP of 64, 32 and 10 features that scikit-learn trains here. A peer
whose package or simulator is missing is skipped, with the reason. Times are processor time, children included. On
standard output is the table of docs/results/peers.md.

- sateen: int8 on `tiny`, 8 multipliers, RTL by Verilator.
- nngen: int8, its defaults (a convolution of 3 × 3 has 9 multipliers), RTL by Icarus Verilog with its own memory model.
- da4ml: the MLP unrolled, weights of 8 bits and an exact power of two for a scale, RTL by Icarus Verilog.
- scalesim: SCALE-Sim v3, a model of cycles alone, an array of 4 × 2 whose weights stay; in an environment of its own.
"""

# extras: peers

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from peer_shared import NETWORKS, Network, Row, Skipped, networks, processor_time

import sateen
from sateen.errors import SateenError
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.flow.cost import resources
from sateen.fpga.flow.synthesis import synthesize

FAMILY = FAMILIES["ecp5"]


def ours(network: Network, samples: int, folder: Path) -> Row:
    row, times, name = Row("sateen, `tiny`", network.name), [], network.input
    build = folder / "build"
    with processor_time(times):
        sateen.compile(network.path, build, calibration={name: network.x_train[:200]}, preset="tiny")
    row.seconds = times[0]
    row.verilog, row.top = (build / "accelerator.v").read_text(encoding="utf-8"), "accelerator"
    x = {name: network.x_test}
    wanted = sateen.run(build, x, "reference").outputs
    logits = next(iter(wanted.values()))
    row.accuracy = float((logits.reshape(len(logits), -1).argmax(1) == network.y_test).mean())
    few = {name: network.x_test[:samples]}
    sateen.run(build, {name: network.x_test[:1]}, "rtl")  # builds the simulator
    with processor_time(times):
        found = sateen.run(build, few, "rtl")
    row.cycles, row.speed = found.cycles_per_inference, found.cycles / times[1]
    row.exact = next(iter(found.outputs.values())).tobytes() == logits[:samples].tobytes()
    return row


def nngen(network: Network, samples: int, folder: Path) -> Row:
    import peer_nngen

    return peer_nngen.measure(network, folder)


def da4ml(network: Network, samples: int, folder: Path) -> Row:
    if network.name != "mlp":
        raise Skipped(
            "converts no ONNX; unrolled by its layers here, which for this network would be 442 624 multiplications"
        )
    import peer_da4ml

    return peer_da4ml.measure(network, folder)


def scalesim(network: Network, samples: int, folder: Path) -> Row:
    import peer_scalesim

    return peer_scalesim.measure(network, folder)


PEERS: dict[str, Callable[[Network, int, Path], Row]] = {
    "sateen": ours,
    "nngen": nngen,
    "da4ml": da4ml,
    "scalesim": scalesim,
}
HEAD = (
    "| network | tool | LUT | FF | DSP | block RAM | cycles | accuracy | RTL exact | ONNX to Verilog | simulation |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|---|--:|--:|"
)


def line(row: Row, sized: bool) -> str:
    size: dict[str, Any] = {}
    if row.verilog and sized:
        try:
            size = resources(synthesize(row.verilog, FAMILY, top=row.top).cells, FAMILY)
        except SateenError as e:
            row.notes.append(f"not synthesized: {e}")

    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form).replace(",", " ")

    parts = [cell(size.get(name), ",") for name in ("lut", "ff", "dsp", "bram")]
    exact = "" if row.exact is None else "yes" if row.exact else "no"
    parts += [cell(row.cycles, ",.0f"), cell(row.accuracy, ".1%"), exact]
    parts += [cell(row.seconds, ".1f") + " s" * (row.seconds is not None)]
    parts += [cell(row.speed, ",.0f") + " cycles/s" * (row.speed is not None)]
    return f"| {row.network} | {row.tool} | {' | '.join(parts)} |" + "".join(
        f"\n<!-- {n} -->" for n in row.notes
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--samples", type=int, default=4, help="that Sateen's RTL runs")
    parser.add_argument("--no-size", dest="size", action="store_false", help="without synthesis")
    options = parser.parse_args()
    print(f"{FAMILY.title}, onnx {onnx.__version__}, numpy {np.__version__}\n\n{HEAD}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        for network in networks(Path(name), options.networks):
            for peer in options.only:
                folder = Path(name) / f"{network.name}_{peer}"
                folder.mkdir()
                try:
                    print(line(PEERS[peer](network, options.samples, folder), options.size), flush=True)
                except (Skipped, ImportError) as e:
                    print(f"{peer}, {network.name}: skipped: {e}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
