"""The update of a step of training as a program of its own: a chunk of weights is loaded while another is updated and a
third is stored.

Master weights and velocities are in memory as codes are, 32 bits for each: in 32/activation.bits words for each word of
codes, what fills channels and rows up included. Sums of gradients are digits, as raw results are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sateen.compiler.schedule.emitter import PAGE, Step
from sateen.compiler.schedule.order import cut_chunks, hoist
from sateen.compiler.schedule.tokens import add_tokens
from sateen.errors import ConfigError
from sateen.formats import SparsityPattern
from sateen.formats.sparsity import DENSE
from sateen.hw.vector.update import FRACTION, digits
from sateen.ir.gradients import MASTER_EXPONENT, Update
from sateen.machine.assembler import Instruction
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import INSTRUCTION_BYTES, Opcode, Target
from sateen.machine.packing import pack_activations, pack_integers, row_words, unpack_integers
from sateen.sim.host import Region
from sateen.sim.image import Image
from sateen.sim.memory_timing import NOMINAL, MemoryTiming
from sateen.sim.model import Timeline, predict
from sateen.sim.proof import Extent, prove, prove_tokens

MULTIPLIER_MAX = (1 << 16) - 1
SHIFT_MAX = 127


@dataclass(frozen=True, slots=True)
class Weights:
    """A layer's, (taps, I, O), and what a step does with them."""

    name: str
    shape: tuple[int, int, int]
    rule: Update
    pattern: SparsityPattern = DENSE
    """Of the forward selection."""

    @property
    def selects(self) -> bool:
        """Whether what the pattern leaves out decays by another factor."""
        return not self.pattern.dense and self.rule.pruned != self.rule.decay[0]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a layer's tensors are in memory, in bytes from the base."""

    velocity: int
    master: int
    gradient: Region
    codes: Region


@dataclass(frozen=True, slots=True)
class UpdateProgram:
    """As `backend.Program`, without constants."""

    config: AcceleratorConfig
    instructions: list[Instruction]
    data_offset: int
    data_size: int
    layers: tuple[Weights, ...]
    places: tuple[Places, ...]

    program_offset = 0

    @property
    def code(self) -> bytes:
        return b"".join(i.encode() for i in self.instructions)

    @property
    def image(self) -> Image:
        return Image(self.config, b"", self.code, self.program_offset, self.data_offset, self.data_size)

    def predict(self, memory: MemoryTiming) -> Timeline:
        """The program's timeline, each instruction with its layer."""
        timeline = predict(self.code, self.program_offset, self.config, memory)
        for event, instruction in zip(timeline.events, self.instructions, strict=False):
            event.instruction.layer = instruction.layer
        return timeline

    def layer_cycles(self) -> dict[str, int]:
        """By which each layer moves the end of the program."""
        moved = self.predict(NOMINAL).moved(len(self.layers))
        return {layer.name: n for layer, n in zip(self.layers, moved, strict=True)}

    def pack(
        self, values: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    ) -> list[tuple[int, np.ndarray]]:
        """Master weights, velocities, exact sums, of any type that holds integers, and codes (taps, I, O) of each
        layer, as they are in memory: where, and (1, size) bytes."""
        config = self.config
        bits = config.activation.bits
        found = []
        for place, (master, velocity, sums, codes) in zip(self.places, values, strict=True):
            sums = sums if sums.dtype == object else sums.astype(np.int64)
            planes = [
                pack_activations(
                    (sums[None] >> bits * n & (1 << bits) - 1).astype(config.activation.code_dtype), config
                )
                for n in range(digits(config))
            ]
            found += [
                (place.velocity, pack_integers(velocity[None], config)),
                (place.master, pack_integers(master[None], config)),
                (place.gradient.offset, np.concatenate(planes, axis=1)),
                (place.codes.offset, pack_activations(codes[None], config)),
            ]
        return found

    @property
    def results(self) -> list[tuple[int, int]]:
        """Where each layer's master weights, velocities and codes are after a run, and how many bytes."""
        wide = 32 // self.config.activation.bits
        return [
            (at, size)
            for p in self.places
            for at, size in (
                (p.master, p.codes.size * wide), (p.velocity, p.codes.size * wide), (p.codes.offset, p.codes.size)
            )
        ]  # fmt: skip

    def unpack(self, found: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(1, size) bytes of `results` to master weights, velocities and codes (taps, I, O) of each layer."""
        values = []
        for n, (layer, place) in enumerate(zip(self.layers, self.places, strict=True)):
            master, velocity, codes = found[3 * n : 3 * n + 3]
            integers = [unpack_integers(x, layer.shape, self.config)[0] for x in (master, velocity)]
            values.append((*integers, place.codes.unpack(codes, self.config)[0]))
        return values


def generate_updates(layers: Sequence[Weights], config: AcceleratorConfig) -> UpdateProgram:
    """The program, which updates one layer after the other in place. ConfigError for a machine that cannot."""
    if not config.update:
        raise ConfigError(
            f"configuration '{config.name}': update = false, and weights are to be updated on it; set update = true"
        )
    per_word, planes, word = 32 // config.activation.bits, digits(config), config.act_word_bytes
    slot = config.act_bank_depth if config.act_banks > 1 else config.act_depth
    unit = _least(config)
    most = slot // (2 * per_word + planes + 1)
    if most < unit:
        raise ConfigError(
            f"configuration '{config.name}': {unit} words of weights take {unit * (2 * per_word + planes + 1)} "
            f"words of a bank of the activation buffer, which has {slot}; raise act_bank_depth"
        )
    at, places = 0, []

    def take(size: int) -> int:
        nonlocal at
        first = at
        at += -(-size // PAGE) * PAGE
        return first

    for layer in layers:
        _check(layer, config)
        size = layer.shape[0] * row_words(*layer.shape[1:], config) * word
        places.append(
            Places(
                take(size * per_word),
                take(size * per_word),
                Region(layer.name, take(size * planes), size * planes, layer.shape, planes),
                Region(layer.name, take(size), size, layer.shape),
            )
        )
    steps: list[Step] = []
    chunks = 0
    for k, (layer, place) in enumerate(zip(layers, places, strict=True)):
        for first, n in _cuts(layer, most, config):
            base = chunks % config.act_banks * slot % config.act_depth
            steps += _chunk(k, layer, place, base, first, n, config)
            chunks += 1
    steps = hoist(steps, lookahead=2 * config.queue_depth)
    add_tokens(steps, config)
    instructions = cut_chunks([s.instruction for s in steps])
    data_offset = -(-len(instructions) * INSTRUCTION_BYTES // PAGE) * PAGE
    for step in steps:
        if step.instruction.opcode == Opcode.LOAD:
            step.instruction.fields["source"] += data_offset
        elif step.instruction.opcode == Opcode.STORE:
            step.instruction.fields["destination"] += data_offset
    prove(instructions, config, Extent(data_offset, data_offset + at))
    prove_tokens(instructions, config)
    moved = tuple(
        Places(
            p.velocity + data_offset, p.master + data_offset,
            *(Region(r.tensor, r.offset + data_offset, r.size, r.shape, r.planes) for r in (p.gradient, p.codes)),
        )
        for p in places
    )  # fmt: skip
    return UpdateProgram(config, instructions, data_offset, at, tuple(layers), moved)


def _least(config: AcceleratorConfig) -> int:
    """Words of codes that begin where a beat does."""
    size = config.beat_bytes
    while size % config.act_word_bytes:
        size += config.beat_bytes
    return size // config.act_word_bytes


def _check(layer: Weights, config: AcceleratorConfig) -> None:
    rule = layer.rule
    for name in ("momentum", "rate", "decay"):
        factor, shift = getattr(rule, name)
        if not (0 <= factor < 1 << 16 and 0 <= shift <= FRACTION):
            raise ConfigError(
                f"update of '{layer.name}': {name} = {factor} * 2**-{shift}; it must be 0 to 65535 times 2**0 to "
                f"2**-{FRACTION}"
            )
    if layer.selects and not config.pruned_decay:
        raise ConfigError(
            f"configuration '{config.name}': pruned_decay = false, and the update of '{layer.name}' decays pruned "
            "weights by a factor of their own; set pruned_decay = true, or --pruned-decay 0"
        )
    if layer.selects and layer.pattern not in config.sparse_patterns:
        raise ConfigError(
            f"update of '{layer.name}': decays what {layer.pattern} leaves out; patterns = {list(config.patterns)} "
            "must have it"
        )
    multiplier, shift = scaling(rule, config)
    if not (1 <= multiplier <= MULTIPLIER_MAX and shift <= SHIFT_MAX):
        raise ConfigError(
            f"update of '{layer.name}': a scale of 2**{rule.scale} is out of the requantizer's reach"
        )


def scaling(rule: Update, config: AcceleratorConfig) -> tuple[int, int]:
    """Multiplier and shift from a master weight to fixed-point units of its code."""
    down = rule.scale + config.activation.lsb_exponent - MASTER_EXPONENT
    return (1, down) if down >= 0 else (1 << -down, 0)


def _cuts(layer: Weights, most: int, config: AcceleratorConfig) -> list[tuple[int, int]]:
    """Chunks (first word, words) of a layer's codes, of at most `most` words: whole beats, whole groups of a pattern.

    ConfigError where none is so small.
    """
    taps, inputs, outputs = layer.shape
    unit, row = _least(config), row_words(inputs, outputs, config)
    if not layer.selects:
        size = most // unit * unit
        return [(first, min(size, taps * row - first)) for first in range(0, taps * row, size)]
    group = layer.pattern.m * -(-outputs // config.elements)
    starts = [t * row + at for t in range(taps) for at in range(0, row, group) if at % unit == 0]
    found, first = [], 0
    while first < taps * row:
        end = max((s for s in (*starts, taps * row) if first < s <= first + most), default=0)
        if not end:
            raise ConfigError(
                f"configuration '{config.name}': update of '{layer.name}': {layer.pattern.m} pixels of {outputs} "
                f"channels are more than the {most} words that a bank of the activation buffer takes; raise "
                "act_bank_depth"
            )
        found.append((first, end - first))
        first = end
    return found


def _columns(layer: Weights, first: int, n: int, config: AcceleratorConfig) -> list[tuple[int, int, int]]:
    """(first word, words, step) of the UPDATEs of a chunk: of a word of each pixel of a tap, where a pattern counts."""
    if not layer.selects:
        return [(first, n, 1)]
    _, inputs, outputs = layer.shape
    row, wide = row_words(inputs, outputs, config), -(-outputs // config.elements)
    found = []
    for tap in range(first // row, -(-(first + n) // row)):
        low, high = max(first, tap * row), min(first + n, tap * row + inputs * wide)
        found += [(low + k, (high - low) // wide, wide) for k in range(wide) if high > low]
    return found


def _chunk(
    index: int, layer: Weights, place: Places, base: int, first: int, n: int, config: AcceleratorConfig
) -> list[Step]:
    """Words [first, first + n) of a layer's codes."""
    per_word, planes, word = 32 // config.activation.bits, digits(config), config.act_word_bytes
    rule, total = layer.rule, place.codes.size // word
    velocity, master = base, base + n * per_word
    gradient = master + n * per_word
    codes = gradient + n * planes

    def load(offset: int, destination: int, words: int) -> Step:
        fields = {"target": Target.ACTIVATION, "destination": destination, "source": offset, "words": words}
        data = ("data", offset, offset + words * word)
        return Step(
            Instruction(Opcode.LOAD, fields, index), [data], [("act", destination, destination + words)]
        )

    def store(source: int, offset: int, words: int) -> Step:
        fields = {"source": source, "destination": offset, "words": words}
        data = ("data", offset, offset + words * word)
        return Step(Instruction(Opcode.STORE, fields, index), [("act", source, source + words)], [data])

    integers = [(place.velocity, velocity), (place.master, master)]
    loads = [load(at + first * per_word * word, to, n * per_word) for at, to in integers]
    loads += [
        load(place.gradient.offset + (k * total + first) * word, gradient + k * n, n) for k in range(planes)
    ]
    if layer.selects:
        loads.append(load(place.codes.offset + first * word, codes, n))
    multiplier, shift = scaling(rule, config)
    common = {"plane": n, "multiplier": multiplier, "shift": shift}
    for name in ("momentum", "decay", "rate"):
        common[name], common[f"{name}_shift"] = getattr(rule, name)
    if layer.selects:
        bits, density = layer.pattern.index_bits, layer.pattern.m // layer.pattern.n
        common |= {"index_bits": bits, "index_shift": density.bit_length() - 1, "pruned": rule.pruned}
    updates = []
    for start, words, step in _columns(layer, first, n, config):
        at = start - first
        fields = common | {
            "velocity": velocity + at * per_word, "master": master + at * per_word, "gradient": gradient + at,
            "codes": codes + at, "words": words,
        }  # fmt: skip
        if config.pruned_decay:
            fields["step"] = step
        updates.append(
            Step(
                Instruction(Opcode.UPDATE, fields, index), [("act", velocity, codes + n)],
                [("act", velocity, gradient), ("act", codes, codes + n)],
            )
        )  # fmt: skip
    stores = [store(to, at + first * per_word * word, n * per_word) for at, to in integers]
    return [*loads, *updates, *stores, store(codes, place.codes.offset + first * word, n)]
