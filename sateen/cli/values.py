"""Values of options, as argparse reads them."""

from __future__ import annotations

import argparse


def at_least_1(text: str, most: int = 1 << 20) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {most}")
    return number


def baud(text: str) -> int:
    return at_least_1(text, 100_000_000)


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """An input's name may hold "=" and ",": the sizes are what follows the last "="."""
    name, equals, sizes = text.rpartition("=")
    try:
        if not (name and equals):
            raise ValueError
        return name, tuple(int(s) for s in sizes.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form input=1,3,320,320") from None


def value(text: str) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    try:
        if not (name and equals):
            raise ValueError
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form input=16000") from None
