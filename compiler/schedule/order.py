"""From a correct sequence to four units at work: hoist loads, cut into chunks. See also `tokens`."""

from __future__ import annotations

from sateen.compiler.schedule.emitter import Access, Step
from sateen.machine.assembler import Instruction
from sateen.machine.isa import CHUNK, INSTRUCTION_BYTES, Opcode, Target


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
