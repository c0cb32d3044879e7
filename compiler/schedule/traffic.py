"""Bytes of a program: what its LOADs and STOREs move, and what its weights take in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sateen.hw.memory.load import word_bytes
from sateen.ir.quantized import Op
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import BUS, CHUNK, INSTRUCTION_BYTES, LAYOUTS, Opcode, Target

__all__ = ["FIRST_FETCH_BYTES", "WRITTEN", "added", "moved", "stored", "weight_counts"]

LOADED = {
    Target.WEIGHT: "weights",
    Target.INDEX: "indices",
    Target.PARAMETER: "parameters",
    Target.TABLE: "tables",
    Target.EXPONENTIAL: "tables",
    Target.ACTIVATION: "activations_read",
    Target.INSTRUCTION: "instructions",
}
WRITTEN = "activations_written"
KINDS = (*dict.fromkeys(LOADED.values()), WRITTEN)

FIRST_FETCH_BYTES = CHUNK * INSTRUCTION_BYTES
"""The first instructions, which no instruction loads."""


MOVED: dict[Opcode, Callable[[Instruction, AcceleratorConfig], tuple[str, int]]] = {
    Opcode.LOAD: lambda i, c: (LOADED[Target(i.target)], i.words * word_bytes(Target(i.target), c)),
    Opcode.STORE: lambda i, c: (WRITTEN, i.words * c.act_word_bytes),
    Opcode.MOVE: lambda i, c: (WRITTEN, 0),
}
"""What an instruction of a unit on the bus moves, and how many bytes."""


def moved(instructions: Iterable[Instruction], config: AcceleratorConfig) -> dict[str, int]:
    """Bytes over the bus by kind, and their "total"; what fills up the last beat of a transfer is not counted."""
    found = dict.fromkeys(KINDS, 0)
    for i in instructions:
        if LAYOUTS[i.opcode].unit in BUS:
            kind, size = MOVED[i.opcode](i, config)
            found[kind] += size
    return found | {"total": sum(found.values())}


def stored(instructions: Iterable[Instruction], config: AcceleratorConfig) -> dict[str, int]:
    """Bytes that weights and their indices take in memory, each place counted once however often it is loaded."""
    places: dict[str, dict[int, int]] = {"weights": {}, "indices": {}}
    for i in instructions:
        if i.opcode == Opcode.LOAD and (kind := LOADED[Target(i.target)]) in places:
            places[kind][i.source] = i.words * word_bytes(Target(i.target), config)
    return {kind: sum(sizes.values()) for kind, sizes in places.items()}


def weight_counts(op: Op) -> dict[str, int]:
    """Weights of an op, those that are not zero, and the bytes of all without the machine's filling up of words."""
    return {
        "count": sum(int(c.codes.size) for c in op.constants),
        "nonzero": sum(c.nonzero for c in op.constants),
        "packed_bytes": sum(c.packed_bytes for c in op.constants),
    }


def added(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Sums, key by key."""
    total: dict[str, int] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return total
