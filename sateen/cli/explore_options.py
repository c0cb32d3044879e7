"""The options of `sateen explore`."""

from __future__ import annotations

import argparse

SAMPLERS = ("auto", "tpe", "nsga2", "random", "exhaustive")
PER_LAYER_BY = ("evolve", "sensitivity", "trace")
METHODS = ("sparsegpt", "wanda", "magnitude")


def add_explore(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "source",
        metavar="MODEL.onnx|STUDY",
        help="a network to explore, or a study to look at or to pick from",
    )
    p.add_argument(
        "-o", "--output", metavar="STUDY|BUILD", help="the study's folder, which goes on if it is there; with --pick "
        "the build folder to write",
    )  # fmt: skip
    p.add_argument("--pick", type=int, metavar="I", help="compile member I of the study's front")
    p.add_argument("--device", default="ecp5", metavar="DEV", help="ecp5 (the default), xcup, or a board")
    p.add_argument("--calibration", metavar="X.npz", help="real samples to quantize with")
    p.add_argument(
        "--data",
        metavar="X.npz",
        help="samples that accuracy is counted on (default: those of --calibration)",
    )
    p.add_argument(
        "--labels", metavar="L.npz", help="classes of the samples; without them accuracy is agreement with float"
    )  # fmt: skip
    p.add_argument(
        "--limit", action="append", metavar="NAME=N", help="what must be kept, such as lut=50000, dsp=156, drop=1.0, "
        "fps=1000; once for each",
    )  # fmt: skip
    p.add_argument(
        "--objectives", metavar="A,B,…", help="what is sought, the first first (default fps,lut,accuracy)"
    )
    p.add_argument("--space", metavar="F.toml", help="what is chosen from: a list of values for each axis")
    p.add_argument(
        "--budget", metavar="TIME", help="how long, such as 90s or 20m (default 10m, if no --trials)"
    )
    p.add_argument("--trials", type=int, metavar="N", help="candidates of the study in all")
    p.add_argument("--clock", type=float, metavar="MHZ", help="of every machine (default: estimated)")
    p.add_argument(
        "--sampler",
        choices=SAMPLERS,
        default="auto",
        help="default auto: screens many machines for each that it measures",
    )
    p.add_argument(
        "--sparsity-method",
        choices=METHODS,
        default="sparsegpt",
        help="how weights are pruned (default sparsegpt)",
    )
    p.add_argument(
        "--per-layer", type=int, default=0, metavar="N",
        help="then give the first N members with N:M weights a pattern for each layer, at the same cycles",
    )  # fmt: skip
    p.add_argument(
        "--per-layer-by", choices=PER_LAYER_BY, default="evolve",
        help="what looks for them: predictions (the default), or losses of single layers, measured or from the Hessian",
    )  # fmt: skip
    p.add_argument(
        "--synthesize", type=int, default=0, metavar="N",
        help="then build and synthesize the first N members, on a board place them: counts beside the estimates",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of random choices (default 0)")
    p.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, by Dask (default 1: this one)"
    )
    p.add_argument("--scheduler", metavar="ADDRESS", help="a Dask cluster that runs already")
    p.add_argument(
        "--storage", metavar="URL", help="an SQL database for the trials (default: a journal in STUDY)"
    )
