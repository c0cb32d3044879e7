"""From a correct sequence to four engines at work: hoist loads, order conflicts by tokens, cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass, field

from sateen.compiler.emitter import Access, Step
from sateen.config import AcceleratorConfig
from sateen.hw.assembler import Instruction
from sateen.hw.isa import CHUNK, INSTRUCTION_BYTES, Engine, Opcode, Target


def hoist_loads(steps: list[Step], lookahead: int) -> list[Step]:
    """Move each LOAD up, past at most `lookahead` other instructions, as far as nothing before it is in conflict.

    Loads keep their order. This is what overlaps loading a layer's weights with computing the one before.
    """
    out: list[Step] = []
    last_load = -1
    for step in steps:
        if step.instruction.opcode != Opcode.LOAD:
            out.append(step)
            continue
        position = len(out)
        while (
            position > last_load + 1
            and len(out) - position < lookahead
            and not _conflict(out[position - 1], step)
        ):
            position -= 1
        out.insert(position, step)
        last_load = position
    return out


def _overlap(a: list[Access], b: list[Access]) -> bool:
    return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)


def _conflict(a: Step, b: Step) -> bool:
    """Whether b, after a in program order, must wait for a: a read after a write, or the other way round."""
    return _overlap(a.writes, b.reads) or _overlap(a.writes, b.writes) or _overlap(a.reads, b.writes)


@dataclass(slots=True)
class _Port:
    """The banks of the activation buffer whose read or write port a step uses."""

    read: int = 0
    write: int = 0


def _ports(step: Step, config: AcceleratorConfig) -> _Port:
    def banks(accesses: list[Access]) -> int:
        mask = 0
        for space, low, high in accesses:
            if space == "act":
                first, last = low // config.act_bank_depth, (high - 1) // config.act_bank_depth
                mask |= (1 << (last + 1)) - (1 << first)
        return mask

    return _Port(banks(step.reads), banks(step.writes))


@dataclass(slots=True)
class _History:
    """What an engine has been given, by position in its own order."""

    steps: list[tuple[Step, _Port]] = field(default_factory=list)
    # clocks[i][f]: how many instructions of engine f are known done when this engine's i-th starts
    clocks: list[list[int]] = field(default_factory=list)


def add_tokens(steps: list[Step], config: AcceleratorConfig) -> None:
    """Set `wait` and `signal` so that every conflict between two engines, and every shared port, is in program order.

    A vector clock for each engine says what is already known to be done, so that no token is redundant. The k-th
    token from one engine to another is thus taken by the k-th instruction that waits for one.
    """
    history = {e: _History() for e in Engine}
    for step in steps:
        me = step.instruction.engine
        port = _ports(step, config)
        mine = history[me]
        clock = list(mine.clocks[-1]) if mine.clocks else [0] * len(Engine)
        clock[me] = len(mine.steps)
        for other in Engine:
            if other == me:
                continue
            theirs = history[other]
            for i in range(len(theirs.steps) - 1, clock[other] - 1, -1):
                earlier, ports = theirs.steps[i]
                shared = ports.read & port.read or ports.write & port.write
                if shared or _conflict(earlier, step):
                    earlier.instruction.signal |= 1 << me
                    step.instruction.wait |= 1 << other
                    clock[other] = i + 1
                    for e in Engine:
                        clock[e] = max(clock[e], theirs.clocks[i][e])
                    break
        clock[me] = len(mine.steps)
        mine.steps.append((step, port))
        mine.clocks.append(clock)


def cut_chunks(instructions: list[Instruction]) -> list[Instruction]:
    """Append END, put the LOAD of the next chunk first in every chunk, and fill up the last with ENDs.

    The LOADs' sources are relative to the program.
    """
    rest = [*instructions, Instruction(Opcode.END)]
    out: list[Instruction] = []
    while rest:
        if len(rest) <= CHUNK:
            out += rest
            out += [Instruction(Opcode.END)] * (CHUNK - len(rest))
            break
        source = (len(out) + CHUNK) * INSTRUCTION_BYTES
        fetch = {"target": Target.INSTRUCTION, "source": source, "words": CHUNK}
        out += [Instruction(Opcode.LOAD, fetch), *rest[: CHUNK - 1]]
        rest = rest[CHUNK - 1 :]
    return out
