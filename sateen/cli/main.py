"""The `sateen` command: options, exit codes and what a user sees when something is wrong.

Exit codes: 0 done, 1 the run found a difference or missed a limit, 2 the input or the options are wrong,
130 interrupted.

Libraries are imported inside functions: loading them takes a while, in which Ctrl-C must end quietly too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from sateen.version import __version__

Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """One line for a wrong option, as for every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"sateen: error: {' '.join(message.split())}; see {self.prog} --help\n")


def _megahertz(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of MHz from 0.1 to 1000")
    return value


def _clock(text: str) -> float | None:
    return None if text == "auto" else _megahertz(text)


def _command(name: str) -> Command:
    """The function `name` of its module, imported when the command is run, so that --help is quick."""

    def call(args: argparse.Namespace) -> int:
        import importlib

        module = importlib.import_module(_HOME[name])
        command: Command = getattr(module, name)
        return command(args)

    return call


_HOME = {
    "check": "sateen.cli.compile",
    "compile": "sateen.cli.compile",
    "run": "sateen.cli.run",
    "layers": "sateen.cli.layers",
    "train": "sateen.cli.train",
    "cost": "sateen.cli.cost",
    "report": "sateen.cli.cost",
    "bitstream": "sateen.cli.cost",
    "formats": "sateen.cli.formats",
    "boards": "sateen.cli.machines",
    "presets": "sateen.cli.machines",
    "cache": "sateen.cli.machines",
    "completion": "sateen.cli.completion",
    "explore": "sateen.cli.explore",
    "compare": "sateen.cli.compare",
}


def build_parser() -> argparse.ArgumentParser:
    """All commands and options (docs/usage.md)."""
    from sateen.cli.explore_options import add_explore
    from sateen.cli.run_options import add_run
    from sateen.cli.samples import add_image_options
    from sateen.cli.train_options import add_train
    from sateen.cli.values import at_least_1, baud, shape, value
    from sateen.machine.config import DATAFLOWS
    from sateen.machine.presets import PRESETS
    from sateen.options import (
        DEFAULT_ATTEMPTS,
        DEFAULT_BAUD,
        DEFAULT_PRESET,
        DEFAULT_PTQ,
        SCALES,
        SPARSITY_METHODS,
    )

    parser = _Parser(prog="sateen", description="ONNX networks to bit-exact FPGA accelerators.")
    parser.add_argument("--version", action="version", version=f"sateen {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, help: str, json: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(function=_command(name), json=False)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if json:
            sub.add_argument("--json", action="store_true", help="print one JSON object on standard output")
        return sub

    def add_model(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("model", metavar="MODEL.onnx")
        add_shape(sub)

    def add_shape(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--shape",
            action="append",
            type=shape,
            metavar="INPUT=1,3,320,320",
            help="the sizes of an input that the file leaves open, the batch first; once for each such input",
        )
        sub.add_argument(
            "--value",
            action="append",
            type=value,
            metavar="INPUT=16000",
            help="the number that an input is for every sample; once for each such input",
        )

    def add_until(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--until",
            action="append",
            metavar="TENSOR",
            help="cut the model at this tensor, and leave what follows to the host (run --host); may be repeated",
        )

    p = add("check", "say for each node of the model whether it is supported and, if not, why")
    add_model(p)
    add_until(p)
    p.add_argument(
        "--fix",
        metavar="OUT.onnx",
        help="write the model as it is imported: for one sample, every size fixed, constants folded",
    )

    p = add("compile", "quantize, schedule and emit a build folder: program, weights and Verilog")
    add_model(p)
    add_until(p)
    p.add_argument("-o", "--output", required=True, metavar="BUILD", help="the build folder to write")
    machine = p.add_mutually_exclusive_group()
    machine.add_argument("--config", metavar="F.toml", help="accelerator configuration")
    machine.add_argument(
        "--preset", metavar="NAME", help=f"one of {', '.join(PRESETS)} (default {DEFAULT_PRESET})"
    )
    p.add_argument(
        "--board",
        metavar="BOARD",
        help="take its preset, unless another machine is named, for sateen bitstream",
    )
    p.add_argument("--weights", metavar="FMT", help="format of the weights, such as int8, e3m2, int4")
    p.add_argument("--activations", metavar="FMT", help="format of the activations, such as uint8, e4m3fn")
    p.add_argument(
        "--sparsity",
        default="dense",
        metavar="N:M|dense",
        help="prune all layers but the first and the last; dense (the default) keeps patterns that the file has",
    )
    p.add_argument(
        "--sparsity-method",
        choices=SPARSITY_METHODS,
        default="sparsegpt",
        help="how weights are chosen (default sparsegpt; magnitude is the quickest); keep prunes nothing and refuses "
        "weights that break the pattern",
    )
    add_image_options(p)
    p.add_argument(
        "--sparsity-map",
        metavar="F.toml",
        help="patterns of single layers, in the place of --sparsity: a table layers of name = N:M; default = N:M for "
        "the others but the first and the last",
    )
    p.add_argument(
        "--channels",
        type=float,
        default=1.0,
        metavar="PART",
        help="remove whole channels, those that matter the least, until at most this part of the array's work is left "
        "(default 1: none)",
    )
    p.add_argument(
        "--calibration",
        metavar="X",
        help="real samples, batch first: an .npz file with an array for each input; for one input an .npy file or a "
        "folder of images; random, for cycles and cost alone; a quantized model needs none",
    )
    p.add_argument(
        "--ptq",
        default=DEFAULT_PTQ,
        metavar="RECIPE",
        help="fast, balanced, best, learned (with PyTorch), auto, or a TOML file of passes "
        f"(default {DEFAULT_PTQ}: fast at integers of 8 bits, else balanced)",
    )
    p.add_argument(
        "--scales", choices=SCALES, help="how scales of activations are found (default: the recipe's, mse)"
    )
    p.add_argument(
        "--power-of-two", action="store_true", help="powers of two as scales: requantization only shifts"
    )

    p.add_argument(
        "--dataflow",
        choices=("auto", *DATAFLOWS),
        default="auto",
        help="of all layers; auto (the default) chooses the faster one that the machine has for each layer",
    )
    p.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="samples that a run computes together, so that weights are read once for all where that is faster",
    )

    p = add("run", "run a build with one of the four engines, or on a board")
    add_run(p)

    p = add(
        "layers", "list a build's layers: cycles, utilization, what limits them, what rounding costs them"
    )
    p.add_argument("build", metavar="BUILD")
    p.add_argument("--csv", metavar="F.csv", help="write them as comma-separated values")
    p.add_argument("--trace", metavar="F.json", help="write each instruction's time for Perfetto or Chrome")

    p = add("train", "train a network with N:M sparse weights on the numbers of the array")
    add_model(p)
    add_train(p)

    p = add("cost", "count LUT, FF, DSP and block RAM of the generated Verilog with Yosys, or estimate them")
    p.add_argument(
        "build", nargs="?", metavar="BUILD", help="a build; with --estimate a configuration's TOML file, too"
    )
    p.add_argument(
        "--device",
        metavar="DEV",
        help="ecp5 or xcup (default: both); with --estimate a board, too, open or of Vivado's",
    )
    p.add_argument(
        "--estimate",
        action="store_true",
        help="by the resource model, in no time, without synthesis; its error is given with it",
    )
    p.add_argument("--preset", metavar="NAME", help="with --estimate: this machine, in the place of BUILD")
    p.add_argument(
        "--dsp-sums",
        action="store_true",
        help="xcup: with sums of products and their registers in the DSPs, which Yosys leaves outside",
    )
    p.add_argument(
        "--wide-muxes",
        action="store_true",
        help="with multiplexers of four and eight in the slices, where Yosys takes LUTs for them",
    )

    p = add("report", "write one self-contained HTML page about a build")
    p.add_argument("build", metavar="BUILD")
    p.add_argument("-o", "--output", metavar="F.html", help="default BUILD/report.html")
    p.add_argument(
        "--sweep", metavar="F.json", help="accuracy by format, from benchmarks/format_sweep.py, to show"
    )

    p = add("bitstream", "synthesize, place and route a build for a board, and pack the bitstream")
    p.add_argument("build", metavar="BUILD")
    p.add_argument("--board", metavar="BOARD", help="default: the one that the build was compiled for")
    p.add_argument(
        "--clock",
        type=_clock,
        default="auto",
        metavar="MHZ",
        help="of the machine; one that is missed is an error (default: auto, the highest that is reached)",
    )
    p.add_argument(
        "--baud",
        type=baud,
        default=DEFAULT_BAUD,
        metavar="N",
        help=f"bits per second of the serial line (default {DEFAULT_BAUD})",
    )
    p.add_argument(
        "--seed",
        type=at_least_1,
        default=1,
        metavar="N",
        help="of the first placement (default 1): another may be faster",
    )
    p.add_argument(
        "--attempts",
        type=at_least_1,
        default=DEFAULT_ATTEMPTS,
        metavar="N",
        help=f"placements at most, each with the next seed, until one reaches the clock (default {DEFAULT_ATTEMPTS})",
    )
    p.add_argument("-o", "--output", metavar="FILE", help="default BUILD/bitstream/BOARD.bit, .bin or .fs")

    p = add(
        "compare", "show two or more builds side by side: cycles by layer, resources, accuracy, bytes, energy"
    )
    p.add_argument("builds", nargs="+", metavar="BUILD")
    p.add_argument("--device", default="ecp5", metavar="DEV", help="ecp5 (the default) or xcup")

    p = add("explore", "search for the machine, formats and sparsity that serve a network best")
    add_explore(p)
    add_shape(p)

    add("formats", "list the number formats with range, precision and MAC cost")

    add("boards", "list the boards that bitstreams are made for: part, what it has, preset")

    p = add("presets", "list the machines that are there by name, or print one as TOML")
    p.add_argument("name", nargs="?", metavar="NAME", help="the preset to print")

    p = add("cache", "say what is kept of simulators, syntheses and learned layers, or remove it")
    p.add_argument("--clean", action="store_true", help="remove it")
    p.add_argument(
        "--limit", type=at_least_1, metavar="MIB", help="with --clean: so much stays, what was used last"
    )

    p = add("completion", "print what a shell needs to complete commands and options", json=False)
    p.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """End at once when interrupted, without a traceback; for what leaves nothing behind to clean up."""

    def end(*_: object) -> NoReturn:
        os.write(2, b"sateen: error: interrupted\n")
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread and before is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
    else:  # ignored, or the caller's own
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; only --help, --version and wrong options raise SystemExit."""
    with _interruptible():
        from sateen.cli.io import guarded

        args = build_parser().parse_args(argv)
    return guarded(lambda: args.function(args), debug=args.debug)


if __name__ == "__main__":
    sys.exit(main())
