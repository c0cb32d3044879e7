"""How far a program makes the machine count, and the configuration that counts no further."""

from __future__ import annotations

from collections.abc import Sequence

from sateen.errors import ConfigError
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import LIMITS, Opcode
from sateen.sim.proof import needed_bits, token_bounds, token_pairs


def most_tokens(instructions: Sequence[Instruction], queue_depth: int) -> int:
    """More tokens from one unit to another are never there at once, whatever the timing."""
    return max(token_bounds(instructions, queue_depth).values(), default=0)


def _needed(instructions: list[Instruction], memory_bytes: int, config: AcceleratorConfig) -> dict[str, int]:
    least = {name: low for name, low, _ in LIMITS}
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
    for name, n in bits.items():
        if getattr(config, name) < n:
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
