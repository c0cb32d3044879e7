"""What a network is quantized to, and how its scales are found."""

from __future__ import annotations

from dataclasses import dataclass

from sateen.compiler.quantize.scales import METHODS
from sateen.errors import DataError
from sateen.formats import Format, parse_format


@dataclass(frozen=True, slots=True)
class Options:
    """scale_method : "mse" searches the scale of the least squared error, "minmax" covers the range seen,
        "percentile" nearly all of it, "entropy" keeps most of the histogram's information (weights, and tensors with
        few values, as with "mse")
    power_of_two : all scales are powers of two, so that requantization is a shift
    input_terms : codes that each value of an input is given as, where a Conv reads it and nothing else does; 0 takes
        as many as are needed for the precision of eight bits, at most `MOST_TERMS`

    Raises DataError for an unknown method.
    """

    weight_format: Format
    activation_format: Format
    scale_method: str = "mse"
    power_of_two: bool = False
    input_terms: int = 1

    def __post_init__(self) -> None:
        if self.scale_method not in METHODS:
            raise DataError(f"scale method '{self.scale_method}' is unknown; it must be {', '.join(METHODS)}")


def as_format(f: str | Format) -> Format:
    return f if isinstance(f, Format) else parse_format(f)
