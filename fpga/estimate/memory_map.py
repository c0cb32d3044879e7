"""Which cells Yosys makes a memory of: block RAM, LUTs, or flip-flops, and how many.

Ref: Yosys, passes/memory/memory_libmap.cc, whose costs these are; the memories are those of its techlibs
lattice/brams_16kd.txt, lattice/lutrams_trellis.txt, ice40/brams.txt, xilinx/brams_xc4v.txt and xilinx/lutrams_xcu.txt.
On ECP5 deep ones are first split into columns (fpga/flow/deep_memories.py).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from sateen.fpga.flow.deep_memories import columns, multiplexed, narrow_bits
from sateen.hw.terms import MemoryCells

_MUX = _DEMUX = 0.5  # of a bit that is selected outside the memory's cells
_PORT = 2  # for a read port of its own


@dataclass(frozen=True, slots=True)
class _Cell:
    """A memory cell in one of its shapes: `widths[i]` bits at 2**(address_bits - i) addresses."""

    kind: str
    """block or lut"""
    address_bits: int
    widths: tuple[int, ...]
    cost: int
    units: int
    """Half block RAMs, or LUTs, of one."""
    byte: int = 0
    """Bits of a write enable; 0: a whole word."""
    write: int = 0
    """Position in `widths` of the narrowest write port."""
    scaled: bool = False
    """A part of the cell costs a part."""


_BLOCK = (1, 2, 4, 9, 18, 36, 72)
_CELLS = {
    "ecp5": (
        _Cell("lut", 4, (4,), 4, 6),
        _Cell("block", 14, _BLOCK[:5], 128, 2, byte=9),
        _Cell("block", 14, _BLOCK[:6], 128, 2, byte=9, write=5),
    ),
    "ice40": (_Cell("block", 11, (2, 4, 8), 64, 2), _Cell("block", 8, (16,), 64, 2, byte=1)),
    "xcup": (
        _Cell("lut", 5, (14,), 16, 8, scaled=True),
        _Cell("lut", 6, (7,), 16, 8, scaled=True),
        _Cell("lut", 7, (2,), 16, 8, scaled=True),
        _Cell("lut", 8, (1,), 16, 8, scaled=True),
        _Cell("block", 14, _BLOCK[:6], 129, 1, byte=9),
        _Cell("block", 15, _BLOCK[:7], 257, 2, byte=9),
    ),
}


@functools.cache
def memory(
    family: str, width: int, depth: int, *, slices: int = 1, rows: int = 1, synchronous: bool = True
) -> MemoryCells:
    """The memory of `depth` words of `width` bits, with one read and one write port.

    A write enable is common to width/slices bits; a write is of `rows` words that lie side by side. Block RAM takes
    a read that is `synchronous`.
    """
    best = MemoryCells("ff", 0, width * depth, 1)
    least = float(width * depth)
    for cell in _CELLS[family]:
        if cell.kind == "block" and not synchronous:
            continue
        cost, found = _geometry(cell, width, depth, slices, rows)
        if cost < least:
            least, best = cost, found
    one_port = slices == rows == 1
    if family == "ecp5" and one_port and best.kind == "block" and multiplexed(width, depth):
        return _in_columns(best, width, depth)
    return best


def _in_columns(found: MemoryCells, width: int, depth: int) -> MemoryCells:
    """A memory as `fpga.flow.deep_memories` splits it."""
    wide, narrow = columns(width, depth)
    cells = found.ways * wide // 9 + narrow if narrow else found.cells
    ways = -(-depth * narrow_bits(depth) // 16_384)  # of the narrow columns
    direct = (width - wide) * (1 - (ways if ways > 1 else 0) / found.ways) if narrow else 0.0
    return MemoryCells("block", cells, 2 * cells, found.ways, found.unit, direct)


def _geometry(cell: _Cell, width: int, depth: int, slices: int, rows: int) -> tuple[float, MemoryCells]:
    """The cheapest way to build a memory of one kind of cell."""
    wide = (rows - 1).bit_length()
    byte_position = max(
        (i for i, w in enumerate(cell.widths) if cell.byte >= w), default=len(cell.widths) - 1
    )
    best: tuple[float, MemoryCells] | None = None
    for base, unit in enumerate(cell.widths):
        byte = min(cell.byte or unit, unit)
        bits = slices * -(-width // slices // byte) * byte
        for hard in range(wide + 1):
            if base + hard < min(cell.write, byte_position):
                continue  # more is written at once than there are enables for
            if hard and base + hard >= len(cell.widths):
                break
            soft = wide - hard
            ways = -(-depth // (1 << cell.address_bits - base + soft))
            cells = -(-(ways << soft) * bits // unit)
            cost = float(cell.cost * cells)
            if cell.scaled:
                cost = cell.cost * (ways << soft) * width / unit
            cost += _MUX * ((ways << soft) - 1) * width + _PORT
            if ways > 1:
                cost += _DEMUX * ways * slices
            if best is None or cost < int(best[0]):
                best = cost, MemoryCells(cell.kind, cells, cells * cell.units, ways << soft, unit)
    assert best is not None
    return best
