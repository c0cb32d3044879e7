"""How far a machine counts: what each instruction needs, and programs that a narrower machine could not run."""

import pytest
from random_graph import random_graph

from sateen.compiler.schedule.backend import generate
from sateen.compiler.schedule.narrow import most_tokens, narrowed, needed_bits, token_pairs
from sateen.errors import ConfigError
from sateen.formats import parse_format
from sateen.hw.isa import LAYOUT
from sateen.hw.window import Widths
from sateen.machine.assembler import Instruction
from sateen.machine.isa import LIMITS, Opcode, Unit
from sateen.machine.presets import preset
from sateen.sim.memory_timing import MemoryTiming

WINDOW = {
    "in_w": 8, "in_h": 7, "out_w": 8, "out_h": 8, "x0": -1, "y0": -1, "kernel_w": 3, "kernel_h": 3,
    "stride_x": 1, "stride_y": 1, "dilation_x": 1, "dilation_y": 1, "channel_words": 16,
}  # fmt: skip


def window(opcode=Opcode.MATRIX, **changes):
    return Instruction(opcode, WINDOW | changes)


@pytest.mark.parametrize(
    "instruction, bits",
    [
        (window(), {"plane_bits": 4, "position_bits": 5, "kernel_bits": 2, "channel_bits": 5}),
        (window(), {"stride_bits": 1, "dilation_bits": 1}),
        (window(out_w=9), {"plane_bits": 4, "position_bits": 5}),  # up to -1 + 8 + 2
        (window(out_w=9, stride_x=2), {"stride_bits": 2, "position_bits": 6}),  # up to -1 + 16 + 2
        (window(x0=-17), {"position_bits": 6}),
        (window(x0=-16), {"position_bits": 5}),
        (window(in_h=15), {"plane_bits": 4}),
        (window(in_h=16), {"plane_bits": 5}),
        (window(Opcode.POOL, kernel_h=4, dilation_y=5), {"kernel_bits": 3, "dilation_bits": 3}),
        (Instruction(Opcode.DRAIN, {"out_w": 3, "out_h": 12}), {"plane_bits": 4}),
        (Instruction(Opcode.LOAD, {"words": 1000}), {"word_bits": 10}),
    ],
)
def test_needed_bits(instruction, bits):
    found = needed_bits(instruction)
    assert {name: found.get(name) for name in bits} == bits


def test_the_machine_counts_no_further():
    config = preset("tiny").replace(narrow=True)
    program = [window(), window(Opcode.POOL, x0=0, y0=0, kernel_w=2, kernel_h=2), Instruction(Opcode.DRAIN)]
    found = narrowed(config, program, 49152)
    assert (found.plane_bits, found.position_bits, found.kernel_bits, found.memory_bits) == (4, 5, 2, 16)
    assert not found.residual and found.bus_address_bits == 16 and found.output_bits == 4
    program.append(Instruction(Opcode.DRAIN, {"residual": 1}))
    assert narrowed(config, program, 65537).residual and narrowed(config, program, 65537).memory_bits == 17
    assert narrowed(found.replace(specialize=False, residual=True), program, 49152).plane_bits == 4


def test_a_machine_that_is_not_to_be_narrow_stays_as_it_is():
    config = preset("tiny")
    assert narrowed(config, [window()], 1 << 20) is config
    assert config.bus_address_bits == 64 and config.output_bits == 12 and config.passes_bits == 6
    assert Widths.of(config) == Widths()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"plane_bits": 3}, "plane_bits = 3, and the model's program needs 4"),
        ({"memory_bits": 15}, "memory_bits = 15, and the model's program needs 16"),
        ({"residual": False}, "residual = false, and the model adds a residual"),
    ],
)
def test_a_machine_too_narrow_for_the_program(changes, message):
    config = preset("tiny").replace(specialize=False, **changes)
    with pytest.raises(ConfigError, match=message):
        narrowed(config, [window(), Instruction(Opcode.DRAIN, {"residual": 1})], 49152)


def test_limits_are_those_of_the_instructions():
    fields = {name: f.shape for name, f in LAYOUT[Opcode.MATRIX]}
    for name, field in {"plane": "in_w", "kernel": "kernel_w", "channel": "channel_words"}.items():
        most = {limit: high for limit, _, high in LIMITS}[f"{name}_bits"]
        assert most == fields[field].width
    with pytest.raises(ConfigError, match=r"position_bits = 10; it must be above plane_bits = 14"):
        preset("tiny").replace(position_bits=10)
    with pytest.raises(ConfigError, match=r"kernel_bits = 10; it must be from 1 to 9"):
        preset("tiny").replace(kernel_bits=10)


def test_tokens_at_once():
    def load(**header):
        return Instruction(Opcode.LOAD, {"words": 1}, **header)

    def matrix(**header):
        return Instruction(Opcode.MATRIX, dict(WINDOW), **header)

    to_matrix, from_load = 1 << Unit.MATRIX, 1 << Unit.LOAD
    pair = [load(signal=to_matrix), matrix(wait=from_load)]
    # One at work, and as many in the queue as it holds.
    assert [most_tokens(pair * 20, depth) for depth in (1, 2, 4)] == [2, 3, 5]
    assert most_tokens([load(signal=to_matrix)] * 5 + [matrix(wait=from_load)] * 5, 1) == 5
    assert most_tokens([load(), matrix()], 2) == 0
    assert token_pairs(pair) == 1 << (4 * Unit.LOAD + Unit.MATRIX)
    with pytest.raises(ConfigError, match="token_pairs = 1, and the model's program needs 0x2 too"):
        narrowed(preset("tiny").replace(token_pairs=1), pair, 4096)


@pytest.mark.parametrize("seed", range(4))
def test_no_program_has_more_tokens_than_the_bound(seed):
    """Tokens there at any moment of a predicted run, at two latencies."""
    config = preset("tiny").replace(narrow=True, queue_depth=1)
    program = generate(random_graph(seed, parse_format("int8"), parse_format("int8")), config)
    bound = most_tokens(program.instructions, config.queue_depth)
    assert program.config.token_bits == bound.bit_length() < 6
    for latency in (1, 200):
        events = program.predict(MemoryTiming(latency=latency)).events
        most, changes = 0, []
        for e in events:
            for other in Unit:
                if e.instruction.signal >> other & 1:
                    changes.append((e.done, 1, (e.instruction.unit, other)))
                if e.instruction.wait >> other & 1:
                    changes.append((e.start, -1, (other, e.instruction.unit)))
        there: dict[tuple[int, int], int] = {}
        for _, change, pair in sorted(changes, key=lambda c: (c[0], c[1])):
            there[pair] = there.get(pair, 0) + change
            most = max(most, there[pair])
        assert 0 < most <= bound
