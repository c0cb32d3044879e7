"""Options of samples that are images."""

from __future__ import annotations

import argparse
from pathlib import Path

from sateen.errors import DataError
from sateen.samples import Given, Images

_OPTIONS = ("size", "mean", "std", "white")


def add_image_options(sub: argparse.ArgumentParser) -> None:
    """For a folder in the place of a file."""
    group = sub.add_argument_group("images", "of a folder of images (needs the extra images)")
    group.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="pixels of the shorter side; the middle is cut out (default: the input's)",
    )
    group.add_argument("--mean", type=_numbers, metavar="M[,M,M]", help="subtracted, by channel (default 0)")
    group.add_argument(
        "--std", type=_numbers, metavar="S[,S,S]", help="then divided by, by channel (default 1)"
    )
    group.add_argument(
        "--white", type=float, metavar="W", help="the value of white, before mean and std (default 1)"
    )


def images(args: argparse.Namespace, given: str) -> Given:
    """The path, or the images that its options make of it. Raises DataError for options that have nothing to do."""
    options = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    if not Path(given).is_dir():
        if options:
            raise DataError(
                f"--{next(iter(options))} is for a folder of images, and {given} is none; leave it out"
            )
        return given
    return Images(given, **options)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 0.5 or 0.485,0.456,0.406") from None
