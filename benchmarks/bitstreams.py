"""Bitstreams of five networks for every board: size, clock, seed, samples per second, and the time each takes.

    python benchmarks/bitstreams.py                                         all boards, all networks: hours
    python benchmarks/bitstreams.py --board ulx3s-85f --network mlp --record      one, kept for estimates and advice
    python benchmarks/bitstreams.py --table                                       what is kept, into its page

One command each, from a clean clone: `make bench-bitstreams ARGS="--board ulx3s-85f"`. Builds go to
build/boards/BOARD/NETWORK, with a report each; what was placed before comes from the cache. Cycles are those of the
exact model on the chip's memory. Weights of `mlp` and `keyword` are random, and so are all calibrations: they change
no cycle and no resource.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from generated import update

import sateen
from sateen.cli.io import emit, guarded, progress
from sateen.errors import ConfigError, LimitError
from sateen.explorer.target import Target
from sateen.fpga.boards.capacity import TITLES, capacity_of, placed_counts
from sateen.fpga.boards.catalog import BOARDS
from sateen.models.network_builder import NetworkBuilder

SIZES = Path(__file__).parents[1] / "fpga" / "flow" / "presets.json"


def shipped(name: str) -> Callable[[], onnx.ModelProto]:
    return lambda: onnx.load_from_string((files("sateen.models") / f"{name}.onnx").read_bytes())


def mlp() -> onnx.ModelProto:
    """Two hidden layers of 128 and 64 on 64 pixels."""
    b = NetworkBuilder(np.random.default_rng(0))
    x = b.input("input", 64)
    for n, width in enumerate((128, 64), 1):
        x = b.relu(f"relu{n}", b.linear(f"hidden{n}", x, width))
    b.linear("logits", x, 10)
    return b.model("mlp", "logits")


def mlp_small() -> onnx.ModelProto:
    """A hidden layer of 24 on 64 pixels."""
    b = NetworkBuilder(np.random.default_rng(0))
    b.linear("logits", b.relu("relu", b.linear("hidden", b.input("input", 64), 24)), 10)
    return b.model("mlp_small", "logits")


def autoencoder() -> onnx.ModelProto:
    """64 pixels through 8 numbers."""
    b = NetworkBuilder(np.random.default_rng(0))
    x = b.input("input", 64)
    for n, width in enumerate((32, 8, 32), 1):
        x = b.relu(f"relu{n}", b.linear(f"hidden{n}", x, width))
    b.linear("output", x, 64)
    return b.model("autoencoder", "output")


def lenet() -> onnx.ModelProto:
    """Two convolutions, each before a pool, and two dense layers, on 8 x 8 pixels. Ref: LeCun et al., 1998."""
    b = NetworkBuilder(np.random.default_rng(0))
    x = b.input("input", 1, 8, 8)
    for n, channels in enumerate((6, 16), 1):
        x = b.max_pool(f"pool{n}", b.relu(f"relu{n}", b.conv(f"conv{n}", x, channels, 3)), 2, 2)
    x = b.relu("relu3", b.linear("hidden", b.flatten("flat", x), 32))
    b.linear("logits", x, 10)
    return b.model("lenet", "logits")


def depthwise() -> onnx.ModelProto:
    """A stem and two depthwise-separable blocks of 16 channels on 8 x 8 pixels."""
    b = NetworkBuilder(np.random.default_rng(0))
    x = b.relu("stem.relu", b.conv("stem", b.input("input", 1, 8, 8), 16, 3))
    for n in (1, 2):
        x = b.relu(f"block{n}.relu1", b.depthwise(f"block{n}.depthwise", x, 3, n))
        x = b.relu(f"block{n}.relu2", b.conv(f"block{n}.pointwise", x, 16, 1))
    b.linear("logits", b.global_pool("pool", x), 10)
    return b.model("depthwise", "logits")


def keyword() -> onnx.ModelProto:
    """The keyword spotter of MLPerf Tiny. Ref: Zhang et al., arXiv 1711.07128 (DS-CNN, small)."""
    b = NetworkBuilder(np.random.default_rng(0))
    x = b.relu("stem.relu", b.conv("stem", b.input("mfcc", 1, 49, 10), 64, (10, 4), 2, pads=(4, 1, 5, 1)))
    for n in range(1, 5):
        x = b.relu(f"block{n}.relu1", b.depthwise(f"block{n}.depthwise", x, 3))
        x = b.relu(f"block{n}.relu2", b.conv(f"block{n}.pointwise", x, 64, 1))
    b.linear("logits", b.global_pool("pool", x), 12)
    return b.model("keyword", "logits")


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    **{name: shipped(name) for name in ("digits_cnn", "digits_resnet", "digits_dscnn")},
    "mlp": mlp,
    "keyword": keyword,
    "lenet": lenet,
    "depthwise": depthwise,
    "autoencoder": autoencoder,
    "mlp_small": mlp_small,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--board", action="append", choices=BOARDS, help="default: all")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="default: all")
    parser.add_argument("--preset", help="default: the board's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attempts", type=int, default=3)
    parser.add_argument("--clock", type=float, metavar="MHZ", help="default: what is reached")
    parser.add_argument("--out", type=Path, default=Path("build/boards"))
    parser.add_argument(
        "--estimate", action="store_true", help="only what is estimated before synthesis: minutes"
    )
    parser.add_argument("--record", action="store_true", help=f"write {SIZES.name}")
    parser.add_argument("--table", action="store_true", help="of what is recorded, into the page")
    args = parser.parse_args()
    if args.table:
        return update("docs/results/bitstreams.md", "placed", table())
    return guarded(lambda: estimate(args) if args.estimate else run(args))


def estimate(args: argparse.Namespace) -> int:
    """Percentages of each board's part, the whole chip with its memory, for every network."""
    emit(f"| board | network | memory | {' | '.join(TITLES.values())} |")
    emit("|---|---|--:|" + "--:|" * len(TITLES))
    for network in args.network or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(NETWORKS[network](), model := Path(folder) / "network.onnx")
            loaded = sateen.load(model)
        for name in args.board or BOARDS:
            try:
                mapped = mapped_to(loaded, args.preset or name)
            except (LimitError, ConfigError) as e:
                emit(f"| {name} | {network} | {e} |")
                continue
            memory = mapped.memory["data_offset"] + mapped.memory["data_size"]
            chip = Target(name, "ecp5", BOARDS[name]).estimate(mapped.config, memory)
            there = capacity_of(BOARDS[name]).available
            cells = (f"{100 * chip[k] / there[k]:.0f} %" for k in TITLES)
            emit(f"| {name} | {network} | {memory // 1024} KiB | {' | '.join(cells)} |")
    return 0


def run(args: argparse.Namespace) -> int:
    failed = False
    columns = (
        "board",
        "network",
        "multipliers",
        *TITLES.values(),
        "MHz by seed",
        "clock",
        "cycles",
        "samples/s",
        "min",
    )
    emit(f"| {' | '.join(columns)} |")
    emit("|---|---|" + "--:|" * (len(columns) - 2))
    for name in args.board or BOARDS:
        for network in args.network or NETWORKS:
            folder = args.out / name / network
            folder.mkdir(parents=True, exist_ok=True)
            model = folder / "network.onnx"
            onnx.save(NETWORKS[network](), model)
            try:
                mapped = mapped_to(sateen.load(model), args.preset or name)
                build = mapped.write(folder / "build", board=name)
                with progress(f"{name} {network}", each_stage=True) as report:
                    found = build.bitstream(
                        seed=args.seed, attempts=args.attempts, clock=args.clock, progress=report
                    )
            except LimitError as e:
                emit(f"| {name} | {network} | {e} |")
                failed = True
                continue
            build.report()
            emit(row(found, network))
            if args.record:
                record(found, network)
    return 1 if failed else 0


def mapped_to(network: sateen.Network, preset: str) -> sateen.MappedNetwork:
    """In the preset's formats."""
    machine = sateen.preset(preset)
    formats = {"weights": machine.weight_format, "activations": machine.activation_format}
    return network.quantize(calibration="random", **formats).map(machine)


def row(found: dict[str, Any], network: str) -> str:
    counts = [
        f"{found['used'][k]:,g} ({100 * found['share'][k]:.0f} %)" if k in found["used"] else ""
        for k in TITLES
    ]
    reached = ", ".join(f"{mhz:.1f} ({seed})" for seed, mhz in found["reached_mhz"].items())
    numbers = (f"{found['clock_mhz']:.1f}", f"{found['cycles']:,}", f"{found['samples_per_second']:,.0f}")
    minutes = f"{sum(found['seconds'].values()) / 60:.1f}"
    cells = (found["board"], network, str(found["multipliers"]), *counts, reached, *numbers, minutes)
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """Every chip that is recorded with its cycles, in Markdown."""
    columns = "LUT | DSP | block RAM | nextpnr's MHz | seed | board's | machine's | cycles | samples/s | min"
    lines = [f"| board | network | {columns} |", "|---|---|" + "--:|" * 10]
    sizes = json.loads(SIZES.read_text(encoding="utf-8"))
    places = [(name, config) for name in BOARDS for config in sizes if name in sizes[config]["boards"]]
    for name, config in places:
        networks, board = sizes[config]["boards"][name]["networks"], BOARDS[name]
        there = capacity_of(board).available
        for network in (n for n in NETWORKS if "cycles" in networks.get(n, ())):
            found = networks[network]
            counts = placed_counts(found["used"], board.part.architecture)
            used = [f"{counts[k]:,g} ({100 * counts[k] / there[k]:.0f} %)" for k in ("lut", "dsp", "bram")]
            clocks = [f"{found['fmax_mhz']:.1f}", str(found["seed"]), f"{board.clock_hz / 1e6:g}"]
            rate = 1e6 * found["clock_mhz"] / found["cycles"]
            taken = [f"{found['cycles']:,}", f"{rate:,.0f}", f"{sum(found['seconds'].values()) / 60:.1f}"]
            title = network if config == name else f"{network}, `{config}`"
            cells = (f"`{name}`", title, *used, *clocks, f"{found['clock_mhz']:.1f}", *taken)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def record(found: dict[str, Any], network: str) -> None:
    sizes = json.loads(SIZES.read_text(encoding="utf-8"))
    entry = sizes.setdefault(found["config"], {"multipliers": found["multipliers"], "boards": {}})
    place = entry["boards"].setdefault(found["board"], {"networks": {}})
    place |= {"architecture": found["architecture"], "speed": found["speed"]}
    place["networks"][network] = {
        "used": {name: n for name, (n, _) in found["primitives"].items()},
        "fmax_mhz": found["fmax_mhz"],
        "seed": found["seed"],
        "clock_mhz": found["clock_mhz"],
        "cycles": found["cycles"],
        "seconds": found["seconds"],
    }
    SIZES.write_text(json.dumps(sizes, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
