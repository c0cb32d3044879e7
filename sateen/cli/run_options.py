"""The options of `sateen run`."""

from __future__ import annotations

import argparse

from sateen.cli.samples import add_image_options
from sateen.cli.values import at_least_1, baud
from sateen.options import BOARD, DEFAULT_BAUD, ENGINES, FLOAT


def add_run(p: argparse.ArgumentParser) -> None:
    p.add_argument("build", metavar="BUILD")
    add_image_options(p)
    p.add_argument("--inputs", required=True, metavar="X", help="samples, as --calibration of compile")
    p.add_argument(
        "--engine", choices=(*ENGINES, FLOAT, BOARD), default="reference", help="default reference"
    )
    p.add_argument(
        "--host",
        action="store_true",
        help="also run what follows where the model was cut, with ONNX Runtime: outputs are the file's own",
    )
    p.add_argument(
        "--values", action="store_true", help="with --json: list the outputs' values, up to 65536 of each"
    )
    p.add_argument("--outputs", metavar="Y.npz", help="write one array per graph output")
    p.add_argument(
        "--labels",
        metavar="L.npz",
        help="one array with each sample's class: count how many are right, in float, too",
    )
    p.add_argument(
        "--compare", action="store_true", help="compare with the reference; exit 1 on any difference"
    )
    p.add_argument(
        "--latency", type=at_least_1, default=32, metavar="CYCLES", help="memory latency (default 32)"
    )
    p.add_argument(
        "--interval", type=at_least_1, default=1, metavar="CYCLES", help="cycles per memory beat (default 1)"
    )
    p.add_argument(
        "--trace",
        metavar="F.fst",
        help="write a waveform of the run, and layouts for viewers (engine rtl)",
    )
    p.add_argument(
        "--port", metavar="DEV", help="serial device of the board (engine board), or sim: it is simulated"
    )
    p.add_argument(
        "--baud",
        type=baud,
        metavar="N",
        help="bits per second that the board's bitstream is made for (default: what the build's says, else "
        f"{DEFAULT_BAUD})",
    )
