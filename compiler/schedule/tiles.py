"""Weight tiles: what the array holds at once, for every kind of op, and how a reduction is cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sateen.errors import ConfigError, ModelError
from sateen.ir.quantized import Concat, Linear, QuantizedGraph
from sateen.machine.config import OUTPUT_STATIONARY, AcceleratorConfig
from sateen.machine.packing import tile_words

Packed = tuple[np.ndarray, np.ndarray | None]
"""(KH, KW, tap_rows, ...): bytes of the weight words, and the indices (..., cols * lanes) if any are stored."""


@dataclass(frozen=True, order=True, slots=True)
class Packing:
    """How a group's elements fill the places of its passes: each run of 2**index_bits has 2**slot_bits of them.

    An element's index in its run is stored; which run it is in, its place tells. Order is preference: fewer passes,
    then fewer bytes. No bits at all is every element in order.
    """

    passes: int
    index_bits: int
    slot_bits: int

    @property
    def index_shift(self) -> int:
        return self.index_bits - self.slot_bits


@dataclass(frozen=True, slots=True)
class Shape:
    """What one output tile's weights take: (kh, kw, words) array tiles of `passes`, in either dataflow."""

    kh: int
    kw: int
    words: int
    packing: Packing
    last_groups: int
    """Groups of the last channel word that hold any weight; output-stationary leaves the others out."""

    @property
    def passes(self) -> int:
        return self.packing.passes

    def word_rows(self, config: AcceleratorConfig) -> int:
        """Weight words of a tap's channel word."""
        return config.rows * self.passes

    def tap_rows(self, config: AcceleratorConfig, dataflow: str) -> int:
        """Weight words of a tap."""
        spare = config.rows - self.last_groups if dataflow == OUTPUT_STATIONARY else 0
        return self.words * self.word_rows(config) - spare * self.passes

    def size(self, config: AcceleratorConfig, dataflow: str) -> int:
        """Words of the weight buffer."""
        return self.kh * self.kw * self.tap_rows(config, dataflow)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of one output tile's reduction: kernel rows [ky0, ky1), columns [kx0, kx1), channel words [c0, c1)."""

    source: int
    """Which of the inputs that reach into the output tile, and its name."""
    input: str
    ky0: int
    ky1: int
    kx0: int
    kx1: int
    c0: int
    c1: int
    tap: slice
    """Of a tap's weight words."""
    rows: int
    """Of a channel word."""
    shape: Shape
    dataflow: str

    @property
    def size(self) -> int:
        """Words of the weight buffer."""
        return (self.ky1 - self.ky0) * (self.kx1 - self.kx0) * (self.tap.stop - self.tap.start)

    def space(self, config: AcceleratorConfig) -> int:
        """As `size`, up to the end of the last block of indices."""
        return -(-self.size // config.index_rows) * config.index_rows

    def fields(self, out_h: int, out_w: int, slide: bool) -> dict[str, int]:
        """Those fields of its MATRIX that set the time it takes."""
        stationary = self.dataflow == OUTPUT_STATIONARY
        words = self.c1 - self.c0
        last = self.tap.stop - self.tap.start - (words - 1) * self.rows
        return {
            "kernel_h": self.ky1 - self.ky0,
            "kernel_w": self.kx1 - self.kx0,
            "channel_words": words,
            "passes": self.shape.passes,
            "out_h": out_h,
            "out_w": out_w,
            "output_stationary": int(stationary),
            "slide": int(slide and stationary),
            "last_steps": last if stationary else 0,
        }

    def part(self, words: np.ndarray) -> np.ndarray:
        """Its own of an output tile's (KH, KW, tap_rows, n), as (size, n) by kernel row, channel word, tap."""
        box = words[self.ky0 : self.ky1, self.kx0 : self.kx1, self.tap]
        kh, kw, rows, size = box.shape
        whole = (self.c1 - self.c0 - (rows % self.rows > 0)) * self.rows
        full = box[:, :, :whole].reshape(kh, kw, -1, self.rows * size).swapaxes(1, 2).reshape(kh, -1)
        return np.concatenate([full, box[:, :, whole:].reshape(kh, -1)], axis=1).reshape(-1, size)


def identity_code(config: AcceleratorConfig) -> int:
    """The weight code whose fixed-point value is 1."""
    codes = np.arange(2**config.weight.bits)
    found = np.flatnonzero(config.weight.fixed(codes) == 1)
    if not len(found):
        raise ModelError(
            f"Concat: weight format {config.weight.name} has no code for 1, which copying needs; "
            "use a weight format of at least 2 bits"
        )
    return int(found[0])


def output_tiles(channels: int, config: AcceleratorConfig) -> int:
    return -(-channels // config.cols)


def zero_weights(shape: tuple[int, ...], config: AcceleratorConfig) -> np.ndarray:
    """Codes of weights that are 0."""
    return np.full(shape, config.weight.zero_code, config.weight.code_dtype)


def linear_tile(op: Linear, tile: int, config: AcceleratorConfig) -> tuple[np.ndarray, int]:
    """Output tile `tile` as (KH, KW, words * elements, cols) codes, and the first channel word it reads."""
    o, kh, kw, per_group = op.weight.shape
    low, high = tile * config.cols, min((tile + 1) * config.cols, o)
    out_per_group = o // op.groups
    first = low // out_per_group * per_group
    last = ((high - 1) // out_per_group + 1) * per_group
    word0, word1 = first // config.elements, -(-last // config.elements)
    dense = zero_weights((kh, kw, (word1 - word0) * config.elements, config.cols), config)
    if op.groups == 1:
        dense[:, :, :per_group, : high - low] = op.weight.codes[low:high].transpose(1, 2, 3, 0)
        return dense, word0
    for out in range(low, high):
        start = out // out_per_group * per_group - word0 * config.elements
        dense[:, :, start : start + per_group, out - low] = op.weight.codes[out]
    return dense, word0


def gathered_tile(
    op: Linear, tile: int, pixels: int, config: AcceleratorConfig
) -> list[tuple[np.ndarray, int]]:
    """As `linear_tile`, of an op with `channels`, for each run of channel words that the tile reads.

    Words between are read too, for nothing, where that takes less than a MATRIX of its own does beside its passes.
    """
    assert op.channels is not None
    weight = op.weight.codes[tile * config.cols : (tile + 1) * config.cols]
    channels = op.channels[tile * config.cols : (tile + 1) * config.cols]
    read = (config.weight.fixed(weight) != 0).any(axis=(1, 2))  # (cols, I / groups)
    words = channels // config.elements
    needed = np.unique(words[read]) if read.any() else np.zeros(1, np.int64)
    found = []
    spare = (config.rows + 12) // max(pixels, config.rows)
    for run in np.split(needed, np.flatnonzero(np.diff(needed) > 1 + spare) + 1):
        word0, word1 = int(run[0]), int(run[-1]) + 1
        shape = (*weight.shape[1:3], (word1 - word0) * config.elements, config.cols)
        dense = zero_weights(shape, config)
        column, k = np.nonzero(read & (words >= word0) & (words < word1))
        dense[:, :, channels[column, k] - word0 * config.elements, column] = weight[
            column, :, :, k
        ].transpose(1, 2, 0)
        found.append((dense, word0))
    return found


def concat_tile(
    op: Concat, graph: QuantizedGraph, tile: int, config: AcceleratorConfig
) -> list[tuple[str, np.ndarray, int]]:
    """For each part that reaches into the tile: (part, (1, 1, words * elements, cols) codes, first word)."""
    one = identity_code(config)
    out = []
    offset = 0
    for part in op.parts:
        channels = graph.tensors[part].shape[2]
        low = max(tile * config.cols, offset)
        high = min((tile + 1) * config.cols, offset + channels)
        if low < high:
            word0, word1 = (low - offset) // config.elements, -(-(high - offset) // config.elements)
            dense = zero_weights((1, 1, (word1 - word0) * config.elements, config.cols), config)
            c = np.arange(low, high)
            dense[0, 0, c - offset - word0 * config.elements, c - tile * config.cols] = one
            out.append((part, dense, word0))
        offset += channels
    return out


def tile_shape(dense: np.ndarray, config: AcceleratorConfig) -> Shape:
    """What (KH, KW, words * elements, cols) codes take, with the best `Packing` for all of them."""
    nonzero = _grouped(dense, config)
    kh, kw, words, *_ = nonzero.shape
    last = np.flatnonzero(nonzero[:, :, -1].any((0, 1, 3, 4)))
    rows = int(last.max(initial=0)) // (config.lanes // config.sharing_lanes) + 1
    return Shape(kh, kw, words, min(packings(nonzero, config)), rows)


def packings(nonzero: np.ndarray, config: AcceleratorConfig) -> list[Packing]:
    """Those that hold `nonzero` (KH, KW, words, rows or more, choice, cols), the best for each number of index bits."""
    found = []
    count = nonzero.astype(np.uint8)
    for bits in range(config.index_planes + 1):
        if bits:
            count = count[:, :, :, :, ::2] + count[:, :, :, :, 1::2]
        most = count.max((0, 1, 2, 3, 5), initial=0)  # nonzeros in each run of a group, of all groups
        last = int(np.flatnonzero(most).max(initial=0))
        # places of a run: a power of two, and as many as it takes for a group to fill a pass
        slots = max(int(most.max()), config.sharing_lanes // len(most), 1)
        slot_bits = (slots - 1).bit_length()
        places = (last << slot_bits) + int(most[last])
        found.append(Packing(max(1, -(-places // config.sharing_lanes)), bits, slot_bits))
    return found


def pack_tile(dense: np.ndarray, shape: Shape, config: AcceleratorConfig, dataflow: str) -> Packed:
    """Weight words and indices of (KH, KW, words * elements, cols) codes."""
    nonzero = _grouped(dense, config)
    split = dense.reshape(nonzero.shape)
    indices = None
    if shape.packing.index_bits:
        runs = nonzero.reshape(*nonzero.shape[:4], -1, 1 << shape.packing.index_bits, config.cols)
        # of each run its nonzeros, then zeros up to its places
        first = np.argsort(~runs, axis=5, kind="stable")[..., : 1 << shape.packing.slot_bits, :]
        split = np.take_along_axis(split.reshape(runs.shape), first, axis=5)
        split = split.reshape(*nonzero.shape[:4], -1, config.cols)
        indices = first.astype(np.uint8).reshape(split.shape)

    def arrange(fields: np.ndarray) -> np.ndarray:
        """To (kh * kw, weight words of a tap, col, lane), as the array takes them."""
        sharing = config.sharing_lanes
        parts = fields[:, :, :, :, : shape.passes * sharing]
        parts = parts.reshape(
            -1, shape.words, config.rows, config.lanes // sharing, shape.passes, sharing, config.cols
        )
        order = (0, 1, 2, 4, 6, 3, 5) if dataflow == OUTPUT_STATIONARY else (0, 1, 4, 2, 6, 3, 5)
        rows = parts.transpose(order).reshape(len(parts), -1, config.cols, config.lanes)
        return rows[:, : shape.tap_rows(config, dataflow)]

    lead = (shape.kh, shape.kw, shape.tap_rows(config, dataflow), -1)
    codes = tile_words(arrange(split), config).reshape(lead)
    return codes, None if indices is None else arrange(indices).reshape(lead)


def _grouped(dense: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
    """Which codes are not zero, as (KH, KW, words, rows or parts of them, choice, cols)."""
    kh, kw, elements, cols = dense.shape
    shape = (kh, kw, elements // config.elements, -1, config.choice, cols)
    return (config.weight.fixed(dense) != 0).reshape(shape)


def chunks(
    source: int, input: str, shape: Shape, word0: int, limit: int, config: AcceleratorConfig, dataflow: str
) -> list[Chunk]:
    """Cut one output tile's weights on one input into chunks of at most `limit` words.

    By kernel rows if that is enough, else by columns, else by channel words.
    """
    kh, kw, words = shape.kh, shape.kw, shape.words
    rows, tap = shape.word_rows(config), shape.tap_rows(config, dataflow)
    if rows > limit:
        raise ConfigError(
            f"weight buffer: one tile takes {rows} words, half the buffer has {limit}; raise weight_depth"
        )

    def chunk(ky0: int, ky1: int, kx0: int, kx1: int, c0: int, c1: int) -> Chunk:
        part = slice(c0 * rows, min(c1 * rows, tap))
        return Chunk(source, input, ky0, ky1, kx0, kx1, word0 + c0, word0 + c1, part, rows, shape, dataflow)

    if kw * tap <= limit:
        step = even(kh, limit // (kw * tap))
        return [chunk(y, min(y + step, kh), 0, kw, 0, words) for y in range(0, kh, step)]
    if tap <= limit:
        step = even(kw, limit // tap)
        return [
            chunk(y, y + 1, x, min(x + step, kw), 0, words) for y in range(kh) for x in range(0, kw, step)
        ]
    step = even(words, limit // rows)
    return [
        chunk(y, y + 1, x, x + 1, c, min(c + step, words))
        for y in range(kh)
        for x in range(kw)
        for c in range(0, words, step)
    ]


def even(n: int, most: int) -> int:
    """The size of chunks of n, as few as `most` allows and then as even."""
    return -(-n // -(-n // most))
