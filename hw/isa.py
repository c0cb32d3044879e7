"""The layouts of instructions and parameters for Amaranth; what they hold is `sateen.machine.isa`'s."""

from collections.abc import Callable, Mapping
from types import new_class

from amaranth.hdl import Shape, ShapeLike, signed, unsigned
from amaranth.lib import data, enum

from sateen.machine import isa
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import CHUNK, INSTRUCTION_BITS, INSTRUCTION_BYTES, Opcode, Target, Unit

__all__ = ["CHUNK", "INSTRUCTION_BITS", "INSTRUCTION_BYTES", "Opcode", "Target", "Unit"]


def _shape(field: isa.Field) -> ShapeLike:
    """An enumeration's names are kept: they are what waveforms show."""
    choices = field.enum
    if choices is None:
        return Shape(field.bits, field.signed)

    def members(namespace: dict[str, int]) -> None:
        for member in choices:
            if not member.optional:
                namespace[member.name] = member.value

    return new_class(choices.__name__, (enum.IntEnum,), {"shape": unsigned(field.bits)}, members)


def _layout(fields: tuple[isa.Field, ...]) -> data.StructLayout:
    return data.StructLayout({f.name: _shape(f) for f in fields})


HEADER = _layout(isa.HEADER)
LAYOUT = {opcode: _layout(layout.all_fields) for opcode, layout in isa.LAYOUTS.items()}
LOAD, STORE, MATRIX, FIR, OUTER, DRAIN, POOL, GATE, ROW = (
    LAYOUT[o]
    for o in (
        Opcode.LOAD,
        Opcode.STORE,
        Opcode.MATRIX,
        Opcode.FIR,
        Opcode.OUTER,
        Opcode.DRAIN,
        Opcode.POOL,
        Opcode.GATE,
        Opcode.ROW,
    )
)


def layout_of(opcode: Opcode, config: AcceleratorConfig) -> data.StructLayout:
    """As far as the machine is made with it."""
    return _layout(isa.LAYOUTS[opcode].fields_of(config))


def getter(fields: object) -> Callable[[str], int]:
    """Reads an instruction's fields, given as a mapping or as attributes, as integers."""
    if isinstance(fields, Mapping):
        return lambda name: int(fields[name])
    return lambda name: int(getattr(fields, name))


def parameter_layout(acc_bits: int) -> data.StructLayout:
    """One output channel's requantization: (acc + bias) * multiplier * 2**-shift."""
    return data.StructLayout({"bias": signed(acc_bits), "multiplier": unsigned(16), "shift": unsigned(7)})
