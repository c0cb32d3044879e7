"""Memories that are several block RAMs deep, on ECP5: in shapes, and with multiplexers, that take fewer LUTs.

A DP16KD holds 2 048 words of 9 bits, or 16 384 of one: Yosys counts block RAMs first, and so takes the ninth bit and
a multiplexer. Two steps amid its synthesis, both in deep_memories.v, for designs that have such a memory:

- before it chooses block RAMs, a memory is split into columns. As many bits as the same number of block RAMs can
  hold in a narrower shape get one, deep enough to need fewer multiplexers or none.
- the multiplexers that are left are made of the slices' own (PFUMX, L6MUX21) with two data inputs for each LUT.
"""

from __future__ import annotations

import re

COMMAND = "synth_ecp5"
FILE = "deep_memories.v"
_BLOCK, _WIDE, _ROWS = 16_384, 9, 2_048
"""Bits of a block RAM without the ninth of each byte; its widest shape that a memory with one port is split from."""


def deepened(command: str, design: str) -> str:
    """A synthesis command for a design, Verilog or RTLIL, with the two steps, if it is ECP5's and has such a memory."""
    name, _, arguments = command.partition(" ")
    if name != COMMAND or not any(multiplexed(width, depth) for width, depth in memories(design)):
        return command
    run = re.search(r" ?-run begin:(\w*)", arguments)
    last = run[1] if run else ""
    arguments = arguments.replace(run[0], "") if run else arguments
    first = re.sub(r" ?-json \S+", "", arguments)
    return (
        f"{COMMAND} {first} -run begin:map_ram; techmap -D COLUMNS -map {FILE}; opt_clean; "
        f"{COMMAND} {first} -run map_ram:map_ffram; techmap -map {FILE}; {COMMAND} {arguments} -run map_ffram:{last}"
    )


def memories(design: str) -> set[tuple[int, int]]:
    """Width and depth of each kind of memory in a design's text."""
    verilog = re.findall(r"^\s*reg (?:\[(\d+):0\] )?\s*(?:\\\S+|\w+) +\[(\d+):0\];", design, re.M)
    found = {(int(high or 0) + 1, int(last) + 1) for high, last in verilog}
    rtlil = re.findall(r"^\s*memory (.*)$", design, re.M)
    for line in rtlil:
        width, size = (re.search(rf"\b{word} (\d+)", line) for word in ("width", "size"))
        found.add((int(width[1]) if width else 1, int(size[1]) if size else 0))
    return found


def multiplexed(width: int, depth: int) -> bool:
    """Whether Yosys makes such a memory of block RAMs of 9 bits with a multiplexer."""
    return _ways(depth) > 1 and _narrow(width, depth) > _ways(depth) * -(-width // _WIDE)


def columns(width: int, depth: int) -> tuple[int, int]:
    """Bits that stay in block RAMs of 9 bits, and block RAMs of those that do not.

    Parameters are those of a memory with one write enable, one read port and one write port, that is multiplexed.
    """
    most = -(-width // _WIDE)
    for kept in range(most):
        rest = _narrow(width - _WIDE * kept, depth)
        if _ways(depth) * kept + rest <= _ways(depth) * most:
            return _WIDE * kept, rest
    return width, 0


def narrow_bits(depth: int) -> int:
    """Bits of a word in a block RAM of the narrower shape."""
    ways = _ways(depth)
    return 1 if ways > 4 else 2 if ways > 2 else 4


def _narrow(width: int, depth: int) -> int:
    return -(-depth // (_BLOCK // narrow_bits(depth))) * -(-width // narrow_bits(depth))


def _ways(depth: int) -> int:
    return -(-depth // _ROWS)
