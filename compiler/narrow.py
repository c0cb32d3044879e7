"""How far a program makes the machine count, and the configuration that counts no further."""

from __future__ import annotations

from collections.abc import Iterable

from sateen.config import FIELD_LIMITS, AcceleratorConfig
from sateen.errors import ConfigError
from sateen.hw.assembler import Instruction
from sateen.hw.isa import Engine, Opcode

_WINDOWS = (Opcode.MATRIX, Opcode.POOL)


def needed_bits(i: Instruction) -> dict[str, int]:
    """Fields of the configuration to the bits that the instruction needs; not of addresses in memory."""
    if i.opcode == Opcode.DRAIN:
        return {"plane_bits": max(i.out_w, i.out_h).bit_length()}
    if i.opcode in (Opcode.LOAD, Opcode.STORE):
        return {"word_bits": i.words.bit_length()}
    if i.opcode not in _WINDOWS:
        return {}
    ends = [i.x0, i.y0]
    for axis, size in (("x", "w"), ("y", "h")):
        steps = (getattr(i, f"out_{size}") - 1) * getattr(i, f"stride_{axis}")
        taps = (getattr(i, f"kernel_{size}") - 1) * getattr(i, f"dilation_{axis}")
        ends.append(getattr(i, f"{axis}0") + steps + taps)
    return {
        "plane_bits": max(i.in_w, i.in_h, i.out_w, i.out_h).bit_length(),
        "position_bits": 1 + max((~n if n < 0 else n).bit_length() for n in ends),
        "kernel_bits": max(i.kernel_w, i.kernel_h).bit_length(),
        "channel_bits": i.channel_words.bit_length(),
        "stride_bits": max(i.stride_x, i.stride_y).bit_length(),
        "dilation_bits": max(i.dilation_x, i.dilation_y).bit_length(),
    }


def most_tokens(instructions: Iterable[Instruction], queue_depth: int) -> int:
    """More tokens from one engine to another are never there at once, whatever the timing.

    Instructions reach their queues in order. So when one is done, those before it are in their queues or have started,
    and of an engine's all but the last `queue_depth` have.
    """
    n = len(Engine)
    given = [[0] * n for _ in range(n)]
    waits: list[list[int]] = [[] for _ in range(n)]  # of each engine's instructions so far
    most = 0
    for i in instructions:
        if i.opcode == Opcode.END:
            continue
        for taker in range(n):
            if i.signal >> taker & 1:
                given[i.engine][taker] += 1
                started = waits[taker][: max(0, len(waits[taker]) - queue_depth)]
                taken = sum(wait >> i.engine & 1 for wait in started)
                most = max(most, given[i.engine][taker] - taken)
        waits[i.engine].append(i.wait)
    return most


def token_pairs(instructions: Iterable[Instruction]) -> int:
    """Which engines give tokens to which: bit 4*giver + taker."""
    n, pairs = len(Engine), 0
    for i in instructions:
        if i.opcode != Opcode.END:
            pairs |= sum(1 << (n * i.engine + t) for t in range(n) if i.signal >> t & 1)
            pairs |= sum(1 << (n * g + i.engine) for g in range(n) if i.wait >> g & 1)
    return max(1, pairs)


def _needed(instructions: list[Instruction], memory_bytes: int, config: AcceleratorConfig) -> dict[str, int]:
    least = {name: low for name, low, _ in FIELD_LIMITS}
    bits = least | {
        "memory_bits": max(least["memory_bits"], (memory_bytes - 1).bit_length()),
        "token_bits": max(1, most_tokens(instructions, config.queue_depth).bit_length()),
    }
    for i in instructions:
        for name, n in needed_bits(i).items():
            bits[name] = max(bits[name], n)
    # a position outside is told by its top bit
    bits["position_bits"] = max(bits["position_bits"], bits["plane_bits"] + 1)
    return bits


def narrowed(
    config: AcceleratorConfig, instructions: list[Instruction], memory_bytes: int
) -> AcceleratorConfig:
    """The machine that counts as far as a program in a memory of `memory_bytes` does; itself if not to be narrow.

    Raises ConfigError where the machine is narrower than that.
    """
    bits = _needed(instructions, memory_bytes, config)
    pairs = token_pairs(instructions)
    if config.specialize and config.narrow:
        adds = any(i.opcode == Opcode.DRAIN and i.residual for i in instructions)
        return config.replace(residual=adds, token_pairs=pairs, **bits)
    most = {name: high for name, _, high in FIELD_LIMITS}
    for name, n in bits.items():
        # With all bits there are, instructions and control see to it themselves.
        if getattr(config, name) < min(n, most[name]):
            raise ConfigError(
                f"configuration '{config.name}': {name} = {getattr(config, name)}, and the model's program needs {n}"
            )
    if missing := pairs & ~config.token_pairs:
        raise ConfigError(
            f"configuration '{config.name}': token_pairs = {config.token_pairs}, and the model's program needs "
            f"{missing:#x} too"
        )
    if not config.residual and any(i.opcode == Opcode.DRAIN and i.residual for i in instructions):
        raise ConfigError(f"configuration '{config.name}': residual = false, and the model adds a residual")
    return config
