"""Instructions to bytes and back, by the tables of `sateen.machine.isa`."""

from dataclasses import dataclass, field
from functools import cache

from sateen.machine import isa


@cache
def _fields(opcode: isa.Opcode) -> tuple[tuple[str, int, int, bool], ...]:
    """(name, offset, width, signed) of each field of an opcode."""
    layout = isa.LAYOUTS[opcode]
    return tuple((f.name, layout.offset(f.name), f.bits, f.signed) for f in layout.all_fields)


@dataclass(slots=True)
class Instruction:
    """One instruction: `fields` holds all but the header, missing ones are 0."""

    opcode: isa.Opcode
    fields: dict[str, int] = field(default_factory=dict)
    layer: int = -1
    wait: int = 0
    signal: int = 0

    def __getattr__(self, name: str) -> int:
        try:
            return self.fields[name]
        except KeyError:
            if any(name == f[0] for f in _fields(self.opcode)):
                return 0
            raise AttributeError(f"{self.opcode.name} has no field '{name}'") from None

    @property
    def unit(self) -> isa.Unit:
        unit = isa.LAYOUTS[self.opcode].unit
        assert unit is not None, "END is the dispatcher's"
        return unit

    def encode(self) -> bytes:
        """64 bytes. A value that its field cannot hold is a bug of the caller: ValueError."""
        word = 0
        values = self.fields | {"opcode": int(self.opcode), "wait": self.wait, "signal": self.signal}
        for name, offset, width, signed in _fields(self.opcode):
            value = int(values.pop(name, 0))
            low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
            if not low <= value <= high:
                raise ValueError(f"{self.opcode.name}.{name} = {value} is outside {low} to {high}")
            word |= (value & ((1 << width) - 1)) << offset
        if values:
            raise ValueError(f"{self.opcode.name} has no field '{next(iter(values))}'")
        return word.to_bytes(isa.INSTRUCTION_BYTES, "little")


@cache
def _counts(opcode: isa.Opcode) -> tuple[str, ...]:
    return tuple(f.name for f in isa.LAYOUTS[opcode].fields if f.count)


def decode(data: bytes) -> Instruction:
    """The inverse of `encode`; ValueError for an unknown opcode, or a count of 0, for which no unit is defined."""
    word = int.from_bytes(data, "little")
    opcode = isa.Opcode(word & (1 << isa.HEADER[0].bits) - 1)
    values = {}
    for name, offset, width, signed in _fields(opcode):
        value = word >> offset & ((1 << width) - 1)
        values[name] = value - (1 << width) if signed and value >> (width - 1) else value
    values.pop("opcode")
    for name in _counts(opcode):
        if not values[name]:
            raise ValueError(f"{opcode.name}.{name} = 0")
    wait, signal = values.pop("wait"), values.pop("signal")
    return Instruction(opcode, values, wait=wait, signal=signal)


def disassemble(program: bytes) -> list[Instruction]:
    n = isa.INSTRUCTION_BYTES
    return [decode(program[i : i + n]) for i in range(0, len(program), n)]
