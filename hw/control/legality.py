"""Instructions that a unit would never end, and how far it counts, from the table of instructions."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Mux, Value
from amaranth.lib import data

from sateen.hw import isa
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Layout, Unit, instructions_of


def is_illegal(unit: Unit, instruction: Value, config: AcceleratorConfig) -> Value:
    """A `checked` field is 0 or names what the machine lacks, or one that has a bound in the machine is not `below`."""
    layouts = instructions_of(unit, config)
    found: list[Value] = []
    for layout in layouts:
        view = data.View(isa.layout_of(layout.opcode, config), instruction[: layout.bits_of(config)])
        wrong = _wrong(layout, view, config)
        found += wrong if len(layouts) == 1 else [w & (view.opcode == layout.opcode) for w in wrong]
    return reduce(or_, found) if found else Const(0)


def _wrong(layout: Layout, view: data.View, config: AcceleratorConfig) -> list[Value]:
    checked = [f for f in layout.fields if f.checked]
    wrong = [view[f.name] == 0 for f in checked if f.count]
    for f in checked:
        if f.enum is not None:
            there = [m for m in f.enum if not m.only or getattr(config, m.only)]
            wrong.append(~Cat(view[f.name] == m for m in there).any())
    for f in layout.fields:
        if f.below:
            fits = view[f.name] < getattr(config, f.below)
            if f.where is not None:
                other, value = f.where
                fits = (view[other] != value) | fits
            wrong.append(~fits)
    return wrong


def counted(unit: Unit, instruction: Value, config: AcceleratorConfig) -> Value:
    """The instruction without the bits of its `checked` counts that the machine does not count with."""
    layouts = instructions_of(unit, config)
    for layout in layouts:
        for f in layout.fields:
            if f.checked and f.counted:
                begin = layout.offset(f.name)
                kept, end = begin + getattr(config, f.counted), begin + f.bits
                cut = Cat(instruction[:kept], Const(0, end - kept), instruction[end:])
                mine = data.View(isa.HEADER, instruction[: isa.HEADER.size]).opcode == layout.opcode
                instruction = cut if len(layouts) == 1 else Mux(mine, cut, instruction)
    return instruction
