"""Which bits of an instruction a machine uses: synthesis drops the registers of the others."""

from __future__ import annotations

from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import HEADER, Layout, Unit, instructions_of

TOKEN_MASKS = (1 << HEADER[1].bits + HEADER[2].bits) - 1 << HEADER[0].bits
"""The bits of `wait` and `signal`."""


def instruction_mask(unit: Unit, c: AcceleratorConfig) -> int:
    """The bits of a unit's instructions that reach something in the machine, the masks of tokens left out."""
    layouts = instructions_of(unit, c)
    found = 0
    for layout in layouts:
        found |= _mask(layout, c, opcode=len(layouts) > 1)
    return found


def _mask(layout: Layout, c: AcceleratorConfig, opcode: bool) -> int:
    """Of one instruction; the opcode if it has to tell the unit's instructions apart."""
    found = 0
    if opcode:
        field = layout.all_fields[0]
        found |= (1 << field.bits) - 1 << layout.offset(field.name)
    for field in layout.fields:
        offset = layout.offset(field.name)
        reach = field.reach or field.counted or field.bits
        bits = min(field.bits, getattr(c, reach) if isinstance(reach, str) else reach)
        if not bits or (field.only and not getattr(c, field.only)):
            continue
        found |= (1 << bits) - 1 << offset
        if field.top:
            found |= 1 << offset + field.bits - 1
    return found
