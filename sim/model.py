"""The `model` engine: the cycles of a program, exactly, without simulating any.

Nothing in the accelerator arbitrates, so the time of every event follows from the recurrences of docs/isa.md,
"Tokens and time": an instruction's start from its push, its engine and its tokens; its end from its duration.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sateen.config import AcceleratorConfig
from sateen.errors import BuildError
from sateen.hw.assembler import Instruction, decode
from sateen.hw.isa import CHUNK, INSTRUCTION_BITS, INSTRUCTION_BYTES, Engine, Opcode, Target
from sateen.hw.matrix import matrix_cycles
from sateen.hw.vector import drain_cycles, pool_cycles
from sateen.sim.memory_timing import MemoryTiming, load_timing, store_timing


@dataclass(frozen=True, slots=True)
class Event:
    """One executed instruction: `ready` when it is at its idle engine's head, `start` when its tokens are there too."""

    instruction: Instruction
    ready: int
    start: int
    done: int


@dataclass(slots=True)
class Timeline:
    """`cycles` is what the CYCLES counter shows; times count from the cycle in which the start takes effect."""

    cycles: int = 0
    events: list[Event] = field(default_factory=list)

    def busy(self, engine: Engine) -> int:
        return sum(e.done - e.start for e in self.events if e.instruction.engine == engine)


BOOT = 1  # from the start taking effect to the load engine starting the fetch of the first chunk
DISPATCH_LATENCY = 2  # from a beat's arrival to its being handed to a queue


def predict(program: bytes, program_offset: int, config: AcceleratorConfig, memory: MemoryTiming) -> Timeline:
    """Times of every instruction of the program in memory at `program_offset`; BuildError if it cannot end."""
    beats = INSTRUCTION_BITS // config.bus_bits
    timeline = Timeline()
    engine_free = dict.fromkeys(Engine, 0)  # first cycle in which it can start
    starts: dict[Engine, list[int]] = {e: [] for e in Engine}
    tokens: dict[tuple[Engine, Engine], deque[int]] = {(a, b): deque() for a in Engine for b in Engine}

    boot = load_timing(BOOT, program_offset, CHUNK, Target.INSTRUCTION, config, memory)
    arrivals = list(boot.arrivals)
    engine_free[Engine.LOAD] = boot.done + 1
    chunk = program_offset
    handed = 0  # the cycle in which the last beat was handed over
    position = 0
    while True:
        following = None
        for slot in range(CHUNK):
            at = chunk - program_offset + slot * INSTRUCTION_BYTES
            try:
                instruction = decode(program[at : at + INSTRUCTION_BYTES])
            except ValueError as e:
                raise BuildError(f"program.bin: illegal instruction ({e}); compile again") from None
            arrived = arrivals[slot * beats : (slot + 1) * beats]
            first = max(handed + 1, arrived[0] + DISPATCH_LATENCY)
            if instruction.opcode == Opcode.END:
                timeline.cycles = max([first, boot.done + 1, *(e.done + 1 for e in timeline.events)])
                return timeline
            engine = instruction.engine
            if len(starts[engine]) >= config.queue_depth:
                first = max(first, starts[engine][-config.queue_depth] + 1)
            handed = first
            for beat in arrived[1:]:
                handed = max(handed + 1, beat + DISPATCH_LATENCY)
            start = ready = max(handed + 1, engine_free[engine])
            for giver in Engine:
                if instruction.wait >> giver & 1:
                    if not tokens[giver, engine]:
                        raise BuildError(
                            f"program.bin: instruction {position} ({instruction.opcode.name}) waits for a token that "
                            f"the {giver.name.lower()} engine never gives; compile again"
                        )
                    start = max(start, tokens[giver, engine].popleft() + 1)
            done = start + _duration(instruction, start, config, memory)
            if instruction.opcode == Opcode.LOAD and instruction.target == Target.INSTRUCTION:
                timing = load_timing(start, instruction.source, CHUNK, Target.INSTRUCTION, config, memory)
                done, following = timing.done, (instruction.source, list(timing.arrivals))
            for taker in Engine:
                if instruction.signal >> taker & 1:
                    tokens[engine, taker].append(done)
            starts[engine].append(start)
            engine_free[engine] = done + 1
            timeline.events.append(Event(instruction, ready, start, done))
            position += 1
        if following is None:
            raise BuildError("program.bin: ends without END; compile again")
        chunk, arrivals = following


def _duration(i: Instruction, start: int, config: AcceleratorConfig, memory: MemoryTiming) -> int:
    if i.opcode == Opcode.MATRIX:
        return matrix_cycles(i, config)
    if i.opcode == Opcode.DRAIN:
        return drain_cycles(i, config)
    if i.opcode == Opcode.POOL:
        return pool_cycles(i, config)
    if i.opcode == Opcode.STORE:
        return store_timing(start, i.destination, i.words, config, memory) - start
    return load_timing(start, i.source, i.words, i.target, config, memory).done - start
