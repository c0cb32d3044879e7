"""What one multiply-accumulate costs in each format: the committed table, and the circuit that it measures."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from sateen.formats import Format
from sateen.hw.chip.verilog import convert
from sateen.hw.matrix.pe import PE

K = 4096
"""Products in a sum: the accumulator holds so many of the largest ones."""

TABLE = "mac_cost.json"
"""Format to family to {"lut", "ff", "dsp", "carry", "lut_without_dsp", "multiplier"}; see benchmarks/mac_cost.py."""


def measured() -> dict[str, dict[str, dict[str, Any]]]:
    """The committed measurements; empty where there are none."""
    path = files("sateen.fpga.library") / TABLE
    if not path.is_file():
        return {}
    table: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))["formats"]
    return table


def accumulator_bits(fmt: Format) -> int:
    """fixed_bits(a) + fixed_bits(w) + ceil(log2 K) bits: every sum of K products fits."""
    return 2 * fmt.fixed_bits + (K - 1).bit_length()


def mac_verilog(fmt: Format, multiplier: str) -> str:
    """A processing element with one lane, for activations and weights of a format.

    Operands come decoded, as decoders stand at the edge of the array and not in each element.
    """
    pe = PE(
        lanes=1, group=1, activation=fmt, weight=fmt, multiplier=multiplier, acc_bits=accumulator_bits(fmt)
    )
    return convert(pe, "mac")
