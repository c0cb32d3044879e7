"""Number formats and sparsity patterns: from them derive codec, RTL decoder, ONNX type and cost.

`requantize` and `round_shift` live in `sateen.formats.requantize`; docs/formats.md defines everything here.
"""

from sateen.formats.base import Format
from sateen.formats.catalog import accumulator_bits, all_formats, parse_format, table
from sateen.formats.integer import Integer
from sateen.formats.minifloat import Minifloat
from sateen.formats.sparsity import PATTERNS, SparsityPattern, parse_sparsity

__all__ = [
    "PATTERNS",
    "Format",
    "Integer",
    "Minifloat",
    "SparsityPattern",
    "accumulator_bits",
    "all_formats",
    "parse_format",
    "parse_sparsity",
    "table",
]
