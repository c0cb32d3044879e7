"""From a correct sequence to four units at work: merge, defer and hoist loads, cut into chunks. See also `tokens`."""

from __future__ import annotations

from sateen.compiler.schedule.emitter import Access, Step
from sateen.hw.matrix.unit import CYCLES
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import CHUNK, INSTRUCTION_BYTES, Opcode, Target
from sateen.sim.memory_timing import NOMINAL, load_timing, word_bytes

MERGED_SHARE = 4
"""A merged LOAD fills at most one of so many parts of the weight buffer: the next one comes while it is used."""


def merged(steps: list[Step], config: AcceleratorConfig) -> list[Step] | None:
    """LOADs of a layer's tiles that follow one another in memory and on chip as one, where the array waits for them.

    Each LOAD waits for the memory's latency: with one pixel a tile is used for fewer cycles than that. None if there
    are none.
    """
    unit = word_bytes(Target.WEIGHT, config)
    out: list[Step] = []
    last = -1  # the LOAD of weights before, in `out`
    used = 0  # cycles of the array since
    for step in steps:
        i = step.instruction
        if i.opcode in CYCLES:
            used += CYCLES[i.opcode](i, config)
        if i.opcode != Opcode.LOAD or i.target != Target.WEIGHT:
            out.append(step)
            continue
        first = out[last].instruction if last >= 0 else i
        joins = (
            last >= 0
            and i.layer == first.layer
            and i.destination == first.destination + first.words
            and i.source == first.source + first.words * unit
            and (first.words + i.words) * MERGED_SHARE <= config.weight_depth
            and used < load_timing(0, i.source, i.words, i.target, config, NOMINAL).done
            and not any(conflict(other, step) for other in out[last + 1 :])
        )
        used = 0
        if not joins:
            last = len(out)
            out.append(step)
            continue
        before = out[last]
        fields = first.fields | {"words": first.words + i.words}
        out[last] = Step(
            Instruction(Opcode.LOAD, fields, first.layer),
            before.reads + step.reads,
            before.writes + step.writes,
        )
    return out if len(out) < len(steps) else None


def tables_late(steps: list[Step]) -> list[Step] | None:
    """LOADs of tables behind what their layer loads before its first result. None if that moves none.

    A table waits for the last DRAIN that reads the one before it, and LOADs keep their order: weights behind it wait.
    """
    out: list[Step] = []
    held: list[Step] = []
    for step in steps:
        i = step.instruction
        if i.opcode == Opcode.LOAD and i.target in (Target.TABLE, Target.EXPONENTIAL):
            held.append(step)
            continue
        if any(conflict(table, step) for table in held):
            out += held
            held = []
        out.append(step)
    out += held
    return out if any(a is not b for a, b in zip(out, steps, strict=True)) else None


def hoist(steps: list[Step], lookahead: int, opcode: Opcode = Opcode.LOAD) -> list[Step]:
    """Move each LOAD up, past at most `lookahead` other instructions, as far as nothing before it is in conflict.

    Loads keep their order. This is what overlaps loading a layer's weights with computing the one before. So do MOVEs,
    which STOREs of that layer's results are not to hold up.
    """
    out: list[Step] = []
    last_load = -1
    for step in steps:
        if step.instruction.opcode != opcode:
            out.append(step)
            continue
        position = len(out)
        while (
            position > last_load + 1
            and len(out) - position < lookahead
            and not conflict(out[position - 1], step)
        ):
            position -= 1
        out.insert(position, step)
        last_load = position
    return out


def _overlap(a: list[Access], b: list[Access]) -> bool:
    return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)


def conflict(a: Step, b: Step) -> bool:
    """Whether b, after a in program order, must wait for a: a read after a write, or the other way round."""
    return _overlap(a.writes, b.reads) or _overlap(a.writes, b.writes) or _overlap(a.reads, b.writes)


def cut_chunks(instructions: list[Instruction]) -> list[Instruction]:
    """Append END, put the LOAD of the next chunk first in every chunk, and fill up the last with ENDs.

    The LOADs' sources are relative to the program.
    """
    rest = [*instructions, Instruction(Opcode.END)]
    out: list[Instruction] = []
    done = 0
    while len(rest) - done > CHUNK:
        source = (len(out) + CHUNK) * INSTRUCTION_BYTES
        fetch = {"target": Target.INSTRUCTION, "source": source, "words": CHUNK}
        out += [Instruction(Opcode.LOAD, fetch), *rest[done : done + CHUNK - 1]]
        done += CHUNK - 1
    out += rest[done:]
    out += [Instruction(Opcode.END)] * (-len(out) % CHUNK)
    return out
