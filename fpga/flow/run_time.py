"""How long a bitstream will take, from those that were made: seconds of processor time for each LUT of the chip."""

from __future__ import annotations

import math
from statistics import median

from sateen.fpga.boards.capacity import placed_counts
from sateen.fpga.flow.bitstream import measured
from sateen.processors import processors

_EARLIER = {"ecp5": {"synthesis": 99 / 11_242, "placement": 225 / 9_856}}
"""Seconds for a LUT where no record has them: an ULX3S chip of 11 242 LUTs took 99 to synthesize, and of one of 9 856
the 5.2 minutes of all stages (docs/boards.md) leave 225 for the rest."""


def expected_seconds(architecture: str, lut: float) -> dict[str, float] | None:
    """ "synthesis" and one "placement" of a chip of so many LUTs, estimated; None where none was made of that kind.

    It is the median of the chips in presets.json, each of which is taken to grow with its LUTs.
    """
    rates: dict[str, list[float]] = {"synthesis": [], "placement": []}
    for preset in measured().values():
        for place in preset["boards"].values():
            for record in place["networks"].values():
                if place["architecture"] == architecture and "seconds" in record:
                    each = placed_counts(record["used"], architecture)["lut"]
                    for stage, found in rates.items():
                        found.append(record["seconds"][stage] / each)
    each_lut = {stage: median(found) for stage, found in rates.items() if found} or _EARLIER.get(architecture)
    return None if each_lut is None else {stage: lut * seconds for stage, seconds in each_lut.items()}


def expected_time(architecture: str, lut: float, attempts: int) -> str:
    """The same as text that follows "synthesis"; empty where nothing is known."""
    if (seconds := expected_seconds(architecture, lut)) is None:
        return ""
    synthesis, placement = (_duration(seconds[stage]) for stage in ("synthesis", "placement"))
    at_once = min(attempts, processors())
    several = f"up to {attempts} placements of {placement}, {at_once} at once"
    return f" (estimated from earlier chips, if the processors are free: {synthesis}, then {several})"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{math.ceil(seconds / 10) * 10} s"
