"""The circuits of number formats, a file for each family: decoding, comparing and rounding."""

from sateen.errors import FormatError
from sateen.formats import Format, Integer, Minifloat
from sateen.hw.formats.circuits import MULTIPLIERS, Circuits, Lane, Operand, decoder_term
from sateen.hw.formats.either import Either
from sateen.hw.formats.integer import IntegerCircuits
from sateen.hw.formats.minifloat import MinifloatCircuits

__all__ = [
    "CIRCUITS", "MULTIPLIERS", "Circuits", "Either", "Lane", "Operand", "circuits", "decoder_term", "either",
]  # fmt: skip

CIRCUITS: dict[type[Format], type[Circuits]] = {Integer: IntegerCircuits, Minifloat: MinifloatCircuits}
"""By family, one for each of sateen.formats.catalog.FAMILIES."""


def circuits(fmt: Format) -> Circuits:
    """Those of a format. Raises FormatError if its family has none."""
    if type(fmt) not in CIRCUITS:
        raise FormatError(
            f"format {fmt}: its family '{fmt.family}' has no circuits; add them to sateen.hw.formats"
        )
    return CIRCUITS[type(fmt)](fmt)


def either(multiplier: str, *formats: Format) -> Either:
    """The decoding of codes of one or two formats."""
    return Either(multiplier, *(circuits(fmt) for fmt in dict.fromkeys(formats)))
