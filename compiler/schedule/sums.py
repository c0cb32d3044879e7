"""How sums over pixels are cut: pixels to chunks that the weight buffer holds, sums to pieces that leave together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd

from sateen.compiler.schedule.samples import SampledGraph
from sateen.compiler.schedule.tiles import even, output_tiles
from sateen.errors import ConfigError
from sateen.ir.quantized import BiasGradient, WeightGradient
from sateen.machine.config import AcceleratorConfig
from sateen.machine.isa import Opcode, bits_of
from sateen.machine.packing import row_words

MOST_SAMPLES = (1 << bits_of("kernel_w", Opcode.OUTER)) - 1
"""Of a chunk."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows [y0, y1) of a sample's plane of gradients, in samples [first, last)."""

    first: int
    last: int
    y0: int
    y1: int


def chunk_rows(
    op: WeightGradient | BiasGradient, graph: SampledGraph, config: AcceleratorConfig
) -> list[int]:
    """How many rows of gradients, of all samples, the weight buffer may hold at once: the most first."""
    height, width, channels = graph.tensors[op.gradient].shape
    n = graph.samples.get(op.gradient, 1)
    own = height // n
    words = row_words(width, channels, config) * config.slices  # of a row
    most = config.weight_depth // words
    found = [height] if most >= height and n <= MOST_SAMPLES else []
    most //= 2  # one chunk is loaded while another is used
    samples = min(most // own, n - 1, MOST_SAMPLES)
    while samples > 0:
        found.append(even(n, samples) * own)
        samples = found[-1] // own - 1
    rows = min(most, own - 1)
    while rows > 0:
        found.append(even(own, rows))
        rows = found[-1] - 1
    if not found:
        raise ConfigError(
            f"{type(op).__name__} '{op.name}': two rows of its gradients take {2 * words} words of the weight buffer, "
            f"which has {config.weight_depth}; raise weight_depth"
        )
    return found


def chunks(op: WeightGradient | BiasGradient, graph: SampledGraph, rows: int) -> list[Chunk]:
    n = graph.samples.get(op.gradient, 1)
    own = graph.tensors[op.gradient].shape[0] // n
    if rows >= own:
        k = rows // own
        return [Chunk(s, min(s + k, n), 0, own) for s in range(0, n, k)]
    return [Chunk(s, s + 1, y, min(y + rows, own)) for s in range(n) for y in range(0, own, rows)]


def input_rows(op: WeightGradient, graph: SampledGraph, c: Chunk) -> tuple[int, int]:
    """Rows of what the layer read that a chunk needs, at least one."""
    own = graph.tensors[op.input].shape[0] // graph.samples.get(op.gradient, 1)
    if c.last - c.first > 1:
        return c.first * own, c.last * own
    low, high = op.window.rows(c.y0, c.y1, own)
    low = min(low, own - 1)
    return c.first * own + low, c.first * own + max(high, low + 1)


@dataclass(frozen=True, slots=True)
class Piece:
    """Sums of a tap's channels of channel words [c0, c1), which leave together; of a bias, there is one."""

    tap: int
    c0: int
    c1: int


@dataclass(frozen=True, slots=True)
class Shape:
    """How an op's sums fill accumulators and slots."""

    tiles: int
    """Of output channels."""
    words: int
    """Activation words of these."""
    elements: int
    """Of a group that are multiplied."""
    short: int
    """log2 of by how much a row's part of a word is smaller than a group."""
    pieces: tuple[Piece, ...]
    sums: int
    """Accumulators of a piece and a tile."""
    plane: int
    """Words of a digit of a piece."""
    digits: int

    @property
    def slot(self) -> int:
        """Words of the activation buffer."""
        return self.plane * self.digits


def shape_of(op: WeightGradient | BiasGradient, graph: SampledGraph, config: AcceleratorConfig) -> Shape:
    """ConfigError where a bank has no room for the sums of a tile."""
    taps, inputs, outputs = graph.tensors[op.output].shape
    words = -(-outputs // config.elements)
    fill = config.beat_bytes // gcd(config.beat_bytes, config.act_word_bytes)  # up to a whole beat
    digits = -(-config.acc_bits // config.activation.bits)
    if isinstance(op, BiasGradient):
        shape = Shape(
            output_tiles(outputs, config), words, 1, 0, (Piece(0, 0, 1),), config.rows, words + fill, digits
        )
    else:
        short = 0
        while config.short_groups and config.rows * (config.group >> short + 1) >= inputs:
            short += 1  # as few elements as all rows need together
        elements = min(config.group >> short, inputs)
        of_word = config.elements * words * config.act_word_bytes
        step = config.beat_bytes // gcd(config.beat_bytes, of_word)  # pieces begin with a beat
        n = -(-inputs // config.elements)
        pieces = tuple(Piece(t, c, min(c + step, n)) for t in range(taps) for c in range(0, n, step))
        step = min(step, n)
        shape = Shape(
            output_tiles(outputs, config), words, elements, short, pieces, elements * step * config.rows,
            step * config.elements * words + fill, digits,
        )  # fmt: skip
    if shape.sums > config.acc_depth:
        raise ConfigError(
            f"{type(op).__name__} '{op.name}': {shape.sums} sums leave the array together, and acc_depth = "
            f"{config.acc_depth}; raise it"
        )
    if config.cols * config.activation.bits % 8:
        raise ConfigError(
            f"{type(op).__name__} '{op.name}': gradients are read as weight words of {config.cols} codes of "
            f"{config.activation.bits} bits, which must be whole bytes; choose other cols"
        )
    return shape


def pixel_slots(
    op: WeightGradient | BiasGradient, graph: SampledGraph, config: AcceleratorConfig, streamed: bool
) -> Iterator[tuple[int, Sequence[tuple[str, int, int]]]]:
    """For each way to cut the pixels: rows of gradients, and (tensor, words, slots) that it wants in the buffer."""
    shape = shape_of(op, graph, config)
    for rows in chunk_rows(op, graph, config):
        parts = chunks(op, graph, rows)
        wanted = [(op.output, shape.slot, 2 if len(shape.pieces) > 1 else 1)]
        if streamed and isinstance(op, WeightGradient):
            _, width, channels = graph.tensors[op.input].shape
            most = max(last - first for first, last in (input_rows(op, graph, c) for c in parts))
            wanted.append((op.input, most * row_words(width, channels, config), 2 if len(parts) > 1 else 1))
        yield rows, wanted
        yield rows, [(t, words, 1) for t, words, _ in wanted]
