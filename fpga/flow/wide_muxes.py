"""Multiplexers of four and eight made of what is behind a slice's LUTs, which Yosys' mapping to LUTs takes LUTs for.

A bit of an eight-way multiplexer is four LUTs of ECP5 with PFUMX and L6MUX21, two of UltraScale+ with MUXF7; mapped as
logic it is six and three. `covered` puts two steps before that mapping: Yosys' `muxcover`, which finds the trees, and
wide_muxes.v. What is beside such a multiplexer is no longer merged with it.
"""

from __future__ import annotations

import re

WIDE = {"ecp5": "-mux4 -mux8", "xcup": "-mux8"}
"""Family to the multiplexers that `muxcover` may use: a LUT of UltraScale+ is one of four by itself."""
FILE = "wide_muxes.v"


def covered(command: str, family: str) -> str:
    """A family's synthesis command with the steps before its last part maps to LUTs."""
    head, last = re.fullmatch(r"(.*; )?([^;]+)", command, re.DOTALL).groups(default="")  # type: ignore[union-attr]
    name, begin, end = re.fullmatch(r"(.*?) -run (\w+):(\w*)", last).groups()  # type: ignore[union-attr]
    cover = f"muxcover {WIDE[family]}; techmap -D {family.upper()} -map {FILE}; opt_clean -purge"
    return f"{head}{name} -run {begin}:map_luts; {cover}; {name} -run map_luts:{end}"
