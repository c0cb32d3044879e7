"""Tokens: conflicts stay in program order, and no counter is ever full, whatever the timing."""

import random
from collections import deque

import numpy as np
import pytest

from sateen.compiler.schedule.emitter import Step
from sateen.compiler.schedule.tokens import NEVER, Latest, add_tokens
from sateen.errors import BuildError
from sateen.machine.assembler import Instruction
from sateen.machine.isa import CHUNK, INSTRUCTION_BYTES, Opcode, Unit
from sateen.machine.presets import preset
from sateen.sim.memory_timing import MemoryTiming
from sateen.sim.model import predict
from sateen.sim.program import Interpreter
from sateen.sim.proof import Unproved, prove_tokens, token_bounds

OPCODES = (Opcode.LOAD, Opcode.MATRIX, Opcode.DRAIN, Opcode.STORE)
WINDOW = {"kernel_h": 1, "kernel_w": 1, "channel_words": 1, "passes": 1, "out_h": 1, "out_w": 1}


def test_the_last_access_of_a_range():
    rng = random.Random(1)
    latest, plain = Latest(), [NEVER] * 60
    for number in range(400):
        low = rng.randrange(59)
        high = rng.randint(low + 1, 60)
        assert latest.within(low, high) == max(plain[low:high])
        if rng.random() < 0.6:
            latest.put(low, high, number)
            plain[low:high] = [number] * (high - low)
    assert latest.lows == sorted(latest.lows) and len(latest.lows) <= 60


def random_steps(rng: random.Random, count: int) -> list[Step]:
    """Mostly far-reaching conflicts, in long runs of one unit, which is what piles up tokens."""
    steps, unit = [], 0
    for _ in range(count):
        if rng.random() < 0.3:
            unit = rng.randrange(4)
        accesses = [("data", a, a + rng.randint(1, 3)) for a in rng.sample(range(200), 2)]
        steps.append(Step(Instruction(OPCODES[unit], dict(WINDOW)), accesses[:1], accesses[1:]))
    return steps


def run(steps: list[Step], queue_depth: int, rng: random.Random) -> tuple[list[tuple[int, int]], int]:
    """(start, done) of each step with random durations, and the most tokens there at once from one unit to another.

    Raises AssertionError where the program stops for ever.
    """
    queues: list[deque[int]] = [deque() for _ in Unit]
    tokens: dict[tuple[int, int], int] = {}
    ends: dict[int, int] = {}  # of what executes, by unit
    times = [(-1, -1)] * len(steps)
    current = dict.fromkeys(Unit, -1)
    pace = [rng.choice((1, 3, 40)) for _ in Unit]
    handed, most, now = 0, 0, 0
    while handed < len(steps) or any(queues) or ends:
        moved = False
        for u in [u for u, end in ends.items() if end <= now]:
            del ends[u]
            moved = True
            for taker in Unit:
                if steps[current[u]].instruction.signal >> taker & 1:
                    tokens[u, taker] = tokens.get((u, taker), 0) + 1
                    most = max(most, tokens[u, taker])
        for u in Unit:
            if u in ends or not queues[u]:
                continue
            givers = [g for g in Unit if steps[queues[u][0]].instruction.wait >> g & 1]
            if all(tokens.get((g, u), 0) for g in givers):
                for g in givers:
                    tokens[g, u] -= 1
                current[u] = queues[u].popleft()
                ends[u] = now + rng.randint(1, pace[u])
                times[current[u]] = now, ends[u]
                moved = True
        if handed < len(steps) and len(queues[steps[handed].instruction.unit]) < queue_depth:
            queues[steps[handed].instruction.unit].append(handed)
            handed += 1
            moved = True
        assert moved or ends, "the program stops"
        now = now + 1 if moved or not ends else max(now + 1, min(ends.values()))
    return times, most


@pytest.mark.parametrize("token_bits", [1, 2, 3, 6])
@pytest.mark.parametrize("queue_depth", [1, 4, 64])
def test_no_counter_is_ever_full(token_bits, queue_depth):
    config = preset("tiny").replace(token_bits=token_bits, queue_depth=queue_depth)
    for seed in range(3):
        rng = random.Random(f"{seed} {token_bits} {queue_depth}")
        steps = random_steps(rng, 300)
        add_tokens(steps, config)
        instructions = [s.instruction for s in steps]
        prove_tokens(instructions, config)
        bound = max(token_bounds(instructions, queue_depth).values())
        assert 0 < bound < 1 << token_bits
        for _ in range(4):
            times, most = run(steps, queue_depth, rng)
            assert most <= bound
            for i, (step, (start, _)) in enumerate(zip(steps, times, strict=True)):
                for other, (_, done) in zip(
                    steps[max(0, i - 60) : i], times[max(0, i - 60) : i], strict=True
                ):
                    if overlaps(other.writes, step.reads + step.writes) or overlaps(other.reads, step.writes):
                        assert done <= start


def overlaps(a, b) -> bool:
    return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)


def test_tokens_that_a_counter_holds_are_left_as_they_are():
    """Each LOAD's token is taken by its MATRIX, 40 LOADs later."""
    steps = [Step(Instruction(Opcode.LOAD, {"words": 1}), [], [("weight", i, i + 1)]) for i in range(40)]
    steps += [Step(Instruction(Opcode.MATRIX, dict(WINDOW)), [("weight", i, i + 1)], []) for i in range(40)]
    add_tokens(steps, preset("tiny"))
    assert all(s.instruction.signal == 1 << Unit.MATRIX for s in steps[:40])
    assert all(s.instruction.wait == 1 << Unit.LOAD for s in steps[40:])
    for s in steps:
        s.instruction.signal = s.instruction.wait = 0
    add_tokens(steps, preset("tiny").replace(token_bits=3))
    assert sum(s.instruction.signal != 0 for s in steps) <= 7


def program(gives: int, takes: int) -> list[Instruction]:
    # a LOAD of one word of parameters is over long before the first MATRIX takes the token
    first = Instruction(Opcode.MATRIX, WINDOW | {"out_h": 60, "passes": 2, "kernel_h": 9})
    loads = [
        Instruction(Opcode.LOAD, {"words": 1, "target": 2}, signal=1 << Unit.MATRIX) for _ in range(gives)
    ]
    return [
        first,
        *loads,
        *(Instruction(Opcode.MATRIX, dict(WINDOW), wait=1 << Unit.LOAD) for _ in range(takes)),
    ]


def code(instructions: list[Instruction]) -> bytes:
    padded = [*instructions, *[Instruction(Opcode.END)] * (CHUNK - len(instructions))]
    return b"".join(i.encode() for i in padded)


def test_the_model_ends_where_a_counter_overflows():
    config = preset("tiny").replace(token_bits=2)
    assert len(code(program(3, 3))) == CHUNK * INSTRUCTION_BYTES
    assert predict(code(program(3, 3)), 0, config, MemoryTiming()).cycles > 0
    with pytest.raises(
        BuildError, match=r"TOKEN_OVERFLOW after .* 4 tokens from the load to the matrix unit"
    ):
        predict(code(program(4, 4)), 0, config, MemoryTiming())
    with pytest.raises(
        Unproved, match=r"TOKEN_OVERFLOW: from here on up to 4 tokens .* token_bits = 2 holds 3"
    ):
        prove_tokens(program(4, 4), config)
    with pytest.raises(BuildError, match="waits for a token that the load unit never gives"):
        predict(code(program(1, 2)), 0, config, MemoryTiming())


def test_a_damaged_instruction_that_reads_without_end_is_refused():
    pool = Instruction(Opcode.POOL, WINDOW | {"kernel_h": 511, "kernel_w": 511, "out_h": 4095, "out_w": 4095})
    del pool.fields["passes"]
    machine = Interpreter(preset("tiny"), b"", code([pool]), 0, np.zeros((1, 4096), np.uint8), 4096)
    with pytest.raises(
        BuildError, match="POOL reads 511 x 511 x 1 x 4095 x 4095 words, more than 67,108,864"
    ):
        machine.run()
