"""The `model` engine: the cycles of a program, exactly, without simulating any.

Nothing in the accelerator arbitrates, so the time of every event follows from the recurrences of docs/isa.md,
"Tokens and time": an instruction's start from its push, its unit and its tokens; its end from its duration.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from sateen.errors import BuildError
from sateen.hw.matrix.unit import CYCLES as MATRIX_CYCLES
from sateen.hw.memory.move import move_cycles
from sateen.hw.vector.unit import PARTS as VECTOR_PARTS
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import CHUNK, INSTRUCTION_BITS, Opcode, Target, Unit
from sateen.sim.memory_timing import MemoryTiming, load_timing, store_timing
from sateen.sim.proof import walk

HANDED = -1
"""`Event.blocker` of an instruction that started as soon as it was handed over."""


@dataclass(frozen=True, slots=True)
class Event:
    """One executed instruction: `ready` when it is at its idle unit's head, `start` when its tokens are there too.

    `blocker` is the position of the event whose end it waited for last, or HANDED.
    """

    instruction: Instruction
    ready: int
    start: int
    done: int
    blocker: int = HANDED


class Gate(enum.Enum):
    """What the handing over of an instruction waited for last."""

    PREVIOUS = enum.auto()  # the instruction before
    FETCH = enum.auto()  # its own beats: the instruction fetch at `position`, -1 being the first of all
    QUEUE = enum.auto()  # room in its queue: the start of the event at `position`


@dataclass(frozen=True, slots=True)
class Handover:
    gate: Gate
    position: int = -1


@dataclass(slots=True)
class Timeline:
    """`cycles` is what the CYCLES counter shows; times count from the cycle in which the start takes effect."""

    cycles: int = 0
    events: list[Event] = field(default_factory=list)
    handovers: list[Handover] = field(default_factory=list)  # one for each event, then END's
    boot: tuple[int, int] = (0, -1)
    """First and last cycle of the fetch of the first chunk, which no instruction asks for: the load unit is busy."""

    def counters(self) -> dict[str, dict[str, int]]:
        """What BUSY, WAIT and IDLE show after the run, by unit, as docs/isa.md defines them."""
        busy, wait = ({u.label: 0 for u in Unit} for _ in range(2))
        busy[Unit.LOAD.label] = self.boot[1] - self.boot[0] + 1
        for e in self.events:
            busy[e.instruction.unit.label] += e.done - e.start + 1
            wait[e.instruction.unit.label] += e.start - e.ready
        idle = {name: max(0, self.cycles - n - wait[name]) for name, n in busy.items()}
        return {"busy": busy, "wait": wait, "idle": idle}

    def moved(self, layers: int) -> list[int]:
        """Cycles by which each layer moves the end, of events whose instructions know theirs."""
        done = [0] * layers
        for event in self.events:
            if 0 <= (layer := event.instruction.layer) < layers:
                done[layer] = max(done[layer], event.done + 1)
        ends = [*accumulate(done, max)]
        if ends:
            ends[-1] = self.cycles
        return [end - before for before, end in zip([0, *ends], ends, strict=False)]


BOOT = 1  # from the start taking effect to the load unit starting the fetch of the first chunk
DISPATCH_LATENCY = 2  # from a beat's arrival to its being handed to a queue


def predict(program: bytes, program_offset: int, config: AcceleratorConfig, memory: MemoryTiming) -> Timeline:
    """Times of every instruction of the program in memory at `program_offset`; BuildError if it cannot end.

    Of several arrays, what lies behind the program is each array's own.
    """
    instructions = walk(program, program_offset)
    data = program_offset + len(program)
    beats = INSTRUCTION_BITS // config.bus_bits
    timeline = Timeline()
    events = timeline.events
    unit_free = dict.fromkeys(Unit, 0)  # first cycle in which it can start
    # positions in `events`
    queued: dict[Unit, list[int]] = {u: [] for u in Unit}
    tokens: dict[tuple[Unit, Unit], deque[int]] = {(a, b): deque() for a in Unit for b in Unit}

    boot = load_timing(BOOT, program_offset, CHUNK, Target.INSTRUCTION, config, memory)
    timeline.boot = BOOT, boot.done
    arrivals, fetch = list(boot.arrivals), -1
    unit_free[Unit.LOAD] = boot.done + 1
    handed = 0  # the cycle in which the last beat was handed over
    for first_of_chunk in range(0, len(instructions), CHUNK):
        following = None
        for slot, instruction in enumerate(instructions[first_of_chunk : first_of_chunk + CHUNK]):
            position = len(events)
            arrived = arrivals[slot * beats : (slot + 1) * beats]
            gate = Handover(Gate.PREVIOUS)
            if (first := arrived[0] + DISPATCH_LATENCY) > handed + 1:
                gate = Handover(Gate.FETCH, fetch)
            first = max(first, handed + 1)
            if instruction.opcode == Opcode.END:
                timeline.handovers.append(gate)
                timeline.cycles = max([first, boot.done + 1, *(e.done + 1 for e in events)])
                _count_tokens(timeline, config)
                return timeline
            unit = instruction.unit
            if len(queued[unit]) >= config.queue_depth:
                ahead = queued[unit][-config.queue_depth]
                if events[ahead].start + 1 > first:
                    first, gate = events[ahead].start + 1, Handover(Gate.QUEUE, ahead)
            handed = first
            for beat in arrived[1:]:
                if beat + DISPATCH_LATENCY > handed + 1:
                    gate = Handover(Gate.FETCH, fetch)
                handed = max(handed + 1, beat + DISPATCH_LATENCY)
            timeline.handovers.append(gate)
            ready, blocker = handed + 1, HANDED
            if unit_free[unit] >= ready:
                ready, blocker = unit_free[unit], queued[unit][-1] if queued[unit] else HANDED
            start = ready
            for giver in Unit:
                if instruction.wait >> giver & 1:
                    if not tokens[giver, unit]:
                        raise BuildError(
                            f"program.bin: instruction {position} ({instruction.opcode.name}) waits for a token that "
                            f"the {giver.label} unit never gives; compile again"
                        )
                    given = tokens[giver, unit].popleft()
                    if events[given].done + 1 > start:
                        start, blocker = events[given].done + 1, given
            done = start + DURATION[instruction.opcode](instruction, start, config, memory, data)
            if instruction.opcode == Opcode.LOAD and instruction.target == Target.INSTRUCTION:
                timing = load_timing(start, instruction.source, CHUNK, Target.INSTRUCTION, config, memory)
                done, following = timing.done, (list(timing.arrivals), position)
            for taker in Unit:
                if instruction.signal >> taker & 1:
                    tokens[unit, taker].append(position)
            queued[unit].append(position)
            unit_free[unit] = done + 1
            events.append(Event(instruction, ready, start, done, blocker))
        if following is not None:  # or END is next
            arrivals, fetch = following
    raise AssertionError("walk() ends with END")


def _count_tokens(timeline: Timeline, config: AcceleratorConfig) -> None:
    """Raises BuildError where a counter is full and given one more, as the accelerator would end.

    One that is given and taken in the same cycle stays as it is.
    """
    given: dict[tuple[Unit, Unit], list[int]] = {}
    taken: dict[tuple[Unit, Unit], list[int]] = {}
    for e in timeline.events:
        i = e.instruction
        for other in Unit:
            if i.signal >> other & 1:
                given.setdefault((i.unit, other), []).append(e.done)
            if i.wait >> other & 1:
                taken.setdefault((other, i.unit), []).append(e.start)
    most = (1 << config.token_bits) - 1
    for (giver, taker), times in given.items():
        starts = taken.get((giver, taker), [])
        for count, time in enumerate(times, 1):
            if count > most and count - bisect_right(starts, time) > most:
                raise BuildError(
                    f"the accelerator would end with status TOKEN_OVERFLOW after {time + 1} cycles: {most + 1} tokens "
                    f"from the {giver.label} to the {taker.label} unit, and token_bits = "
                    f"{config.token_bits}; compile again"
                )


Duration = Callable[[Instruction, int, AcceleratorConfig, MemoryTiming, int], int]
"""The last argument: where the data begin that are an array's own."""


def _of_fields(cycles: Callable[[Instruction, AcceleratorConfig], int]) -> Duration:
    """Of an instruction whose time depends on nothing else."""
    return lambda i, start, c, m, data: cycles(i, c)


def is_own(i: Instruction, data: int) -> bool:
    """Whether an instruction moves what each of several arrays has for itself, in memory from `data` on."""
    return i.opcode == Opcode.STORE or (i.opcode == Opcode.LOAD and i.source >= data)


def _load(i: Instruction, start: int, c: AcceleratorConfig, m: MemoryTiming, data: int) -> int:
    copies = c.arrays if is_own(i, data) else 1
    return load_timing(start, i.source, i.words, i.target, c, m, copies).done - start


def _store(i: Instruction, start: int, c: AcceleratorConfig, m: MemoryTiming, data: int) -> int:
    return store_timing(start, i.destination, i.words, c, m, c.arrays) - start


DURATION: dict[Opcode, Duration] = {
    Opcode.LOAD: _load,
    **{opcode: _of_fields(cycles) for opcode, cycles in MATRIX_CYCLES.items()},
    **{opcode: _of_fields(part.cycles) for opcode, part in VECTOR_PARTS.items()},
    Opcode.STORE: _store,
    Opcode.MOVE: _of_fields(move_cycles),
}
"""Cycles from the start of an instruction to its end."""
