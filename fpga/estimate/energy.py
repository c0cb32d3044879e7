"""An estimate of the energy of a sample, from published energies of single operations.

Ref: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9: 45 nm, 0.9 V.
These are of an ASIC's operations; an FPGA's take several times as much, and clock, wires, control and leakage are not
in them. They compare formats, patterns and traffic on one network, not chips.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from sateen.hw.formats import circuits
from sateen.machine.config import AcceleratorConfig

SOURCE = "estimated from energies per operation of a 45 nm ASIC (Horowitz, ISSCC 2014)"

ADD_PJ = {8: 0.03, 16: 0.05, 32: 0.1}
"""Integer addition, by bits."""
MULTIPLY_PJ = {8: 0.2, 32: 3.1}
"""Integer multiplication of two operands, by the bits of each."""
SRAM_PJ = {8 << 10: 10.0, 32 << 10: 20.0, 1 << 20: 100.0}
"""A 64-bit access, by bytes of the memory."""
DRAM_PJ = (1300.0, 2600.0)
"""A 64-bit access, least and most."""


def energy(totals: dict[str, Any], config: AcceleratorConfig, batch: int = 1) -> dict[str, Any]:
    """Energy of one sample, in microjoules.

    `totals` are those of a run of `batch` samples, from schedule.json: multiplications, cycles of the matrix unit,
    bytes moved. The result is {"source", "uj": {"multiply", "add", "on_chip", "memory_low", "memory_high", "total_low",
    "total_high"}}.
    """
    macs, cycles = int(totals["macs"]), int(totals["matrix_cycles"])
    a, w = (
        circuits(f).operand(config.multiplier).significand_bits for f in (config.activation, config.weight)
    )
    multiply = macs * _between(MULTIPLY_PJ, math.sqrt(a * w))
    add = macs * _between(ADD_PJ, config.acc_bits)
    # In a cycle of the matrix unit an activation word is read, and a word of sums is read and written. Weights are
    # written and read once each time that they are loaded.
    activations = cycles * config.act_word_bits * _bit(config.act_bank_depth * config.act_word_bits)
    acc_word = config.cols * config.acc_bits
    sums = cycles * 2 * acc_word * _bit(config.acc_depth * acc_word)
    moved = totals["bytes"]
    # what is not an array's own is moved once for all of them
    own = totals.get("own_bytes", moved)["total"]
    total = (moved["total"] + (config.arrays - 1) * own) / config.arrays
    loaded = 8 * (moved["weights"] + moved["indices"])
    weights = 2 * loaded * _bit(config.weight_depth * config.weight_word_bits)
    on_chip = activations + sums + weights
    low, high = (total / 8 * pj for pj in DRAM_PJ)
    inside = multiply + add + on_chip
    picojoules = {
        "multiply": multiply,
        "add": add,
        "on_chip": on_chip,
        "memory_low": low,
        "memory_high": high,
        "total_low": inside + low,
        "total_high": inside + high,
    }
    return {"source": SOURCE, "uj": {name: pj * 1e-6 / batch for name, pj in picojoules.items()}}


def _bit(size_bits: float) -> float:
    """Picojoules of a bit of an access to an on-chip memory of so many bits."""
    return _between(SRAM_PJ, size_bits / 8) / 64


def _between(table: dict[int, float], x: float) -> float:
    """A straight line in the logarithms between the neighbours in the table, or on from the two at its end."""
    points = sorted((math.log(k), math.log(v)) for k, v in table.items())
    x = math.log(max(x, 1e-9))
    (x0, y0), (x1, y1) = next((pair for pair in pairwise(points) if x <= pair[1][0]), points[-2:])
    return math.exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
