"""The options of `sateen train`, but the model's."""

from __future__ import annotations

import argparse

from sateen.cli.values import at_least_1
from sateen.options import TRAINING_METHODS


def add_train(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "-o", "--output", required=True, metavar="RUN", help="the run's folder; a run in it goes on"
    )
    p.add_argument("--data", required=True, metavar="X.npz", help="training samples, one array, batch first")
    p.add_argument("--labels", required=True, metavar="L.npz", help="one array with each sample's class")
    p.add_argument("--test-data", metavar="X.npz", help="samples that each epoch is tested on")
    p.add_argument("--test-labels", metavar="L.npz", help="their classes")
    p.add_argument(
        "--sparsity",
        default="2:8",
        metavar="N:M",
        help="of all layers but the first and the last (default 2:8)",
    )
    p.add_argument(
        "--method",
        choices=TRAINING_METHODS,
        default="bdwp",
        help="bdwp (the default) selects forward along input and backward along output channels, sr-ste forward alone",
    )
    for name in ("weights", "activations", "gradients"):
        p.add_argument(
            f"--{name}", default="int8", metavar="FMT", help=f"format of the {name} (default int8)"
        )
    p.add_argument(
        "--epochs", type=at_least_1, default=10, metavar="N", help="passes over the samples (default 10)"
    )
    p.add_argument("--batch", type=at_least_1, default=32, metavar="N", help="samples of a step (default 32)")
    p.add_argument(
        "--rate", type=float, default=0.02, metavar="R", help="greatest learning rate (default 0.02)"
    )
    p.add_argument("--momentum", type=float, default=0.9, metavar="M", help="of the velocities (default 0.9)")
    p.add_argument(
        "--weight-decay", type=float, default=5e-4, metavar="D", help="of all weights (default 5e-4)"
    )
    p.add_argument(
        "--pruned-decay",
        type=float,
        default=2e-4,
        metavar="D",
        help="of weights that are left out (default 2e-4)",
    )
    p.add_argument(
        "--engine",
        choices=("reference", "program", "rtl"),
        default="reference",
        help="reference (default) trains; program and rtl do --steps steps, compare each, and exit 1 on a difference",
    )
    p.add_argument("--steps", type=at_least_1, default=1, metavar="K", help="of program or rtl (default 1)")
    p.add_argument(
        "--machine",
        default="train256",
        metavar="NAME",
        help="preset or TOML file that steps run on (default train256)",
    )
    p.add_argument(
        "--trace", metavar="F.json", help="write each instruction's time in a step for Perfetto or Chrome"
    )
    p.add_argument("--from-scratch", action="store_true", help="begin at random weights, not at the file's")
    p.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of random weights and of the samples' order"
    )
    p.add_argument("--preset", metavar="NAME", help="the machine of RUN/build (default: for the pattern)")
