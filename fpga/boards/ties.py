"""Bits of a placed chip that can still be chosen: LUTs without inputs, whose contents are the bit.

A clock that is chosen after placement leaves everything where it is: only the PLL's dividers and these bits change,
from which the link has its rate, its silence, and the clock that it tells the host (`sateen.hw.chip.link.Pace`).
"""

from __future__ import annotations

import re
from typing import Any

from amaranth.hdl import Cat, Const, Instance, Module, Signal

from sateen.hw.chip.link import Pace
from sateen.hw.chip.uart import divisor_of

STEP = 16
"""The clock is told in steps of 2**STEP Hz."""
_SILENCE = 10
"""A silence is as many 2**_SILENCE cycles as there are steps in the clock: 16 ms."""
LOWEST_BAUD = 1920
"""Below it a silence has less than `sateen.hw.chip.link.MIN_SILENCE_BITS`."""
_COMMON_BAUD = 115200
"""Chips of this rate and of higher ones differ in the contents of ties only."""
HIGHEST_HZ = {"ecp5": 200e6, "gowin": 200e6, "ice40": 50e6}
"""A clock that is chosen after placement is no higher: so many bits there are."""

# primitive, parameter, output, inputs
_LUTS = {
    "ecp5": ("LUT4", "INIT", "Z", "ABCD"),
    "ice40": ("SB_LUT4", "LUT_INIT", "O", ("I0", "I1", "I2", "I3")),
    "gowin": ("LUT4", "INIT", "F", ("I0", "I1", "I2", "I3")),
}
_NAME = re.compile(r"\btie_(clock|divisor)_(\d+)(?:_LC)?$")
_CONTENTS = ("INITVAL", "LUT_INIT", "INIT")
"""What nextpnr calls them."""


class Ties:
    """The bits of one chip.

    Parameters
    ----------
    architecture : str
    clock_hz, baud : int
        What they say for now.

    Attributes
    ----------
    pace : Pace
    """

    def __init__(self, architecture: str, clock_hz: int, baud: int) -> None:
        self.architecture = architecture
        self.values = tied(clock_hz, baud)
        highest = round(HIGHEST_HZ[architecture])
        bits = {
            "clock": (highest >> STEP).bit_length(),
            "divisor": round(highest / min(baud, _COMMON_BAUD)).bit_length(),
        }
        self._signals = {name: Signal(n, name=name) for name, n in bits.items()}
        clock = self._signals["clock"]
        self.pace = Pace(Cat(Const(0, STEP), clock), self._signals["divisor"], Cat(Const(0, _SILENCE), clock))

    def add_to(self, m: Module) -> None:
        """The cells that drive them."""
        primitive, contents, output, inputs = _LUTS[self.architecture]
        for name, signal in self._signals.items():
            for n, bit in enumerate(signal):
                m.submodules[f"tie_{name}_{n}"] = Instance(
                    primitive,
                    a_keep=1,
                    **{f"p_{contents}": Const(0xFFFF * (self.values[name] >> n & 1), 16), f"o_{output}": bit},
                    **{f"i_{pin}": Const(0) for pin in inputs},
                )


def tied(clock_hz: int, baud: int) -> dict[str, int]:
    """The values of the ties. Raises ValueError where the rate cannot be made."""
    divisor = divisor_of(clock_hz, baud)
    if baud < LOWEST_BAUD:
        raise ValueError(f"baud must be at least {LOWEST_BAUD}, not {baud!r}")
    return {"clock": clock_hz >> STEP, "divisor": divisor}


def retie(cells: dict[str, Any], values: dict[str, int]) -> None:
    """Change a placed design, the cells of the JSON that nextpnr writes, to have other values."""
    left = {(name, n) for name in values for n in range(values[name].bit_length())}
    for cell, what in cells.items():
        if not (match := _NAME.search(cell)) or not (contents := set(_CONTENTS) & what["parameters"].keys()):
            continue
        name, n = match[1], int(match[2])
        for key in contents:
            what["parameters"][key] = str(values[name] >> n & 1) * len(what["parameters"][key])
        left.discard((name, n))
    if left:
        name, n = min(left)
        raise ValueError(f"bit {n} of {name} = {values[name]} is not in the design")
