"""Weight tiles: what the array holds at once, for every kind of op, and how a reduction is cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sateen.config import AcceleratorConfig
from sateen.errors import ConfigError, ModelError
from sateen.hw.packing import index_words, tile_words
from sateen.ir.quantized import Concat, Linear, QuantizedGraph


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of one output tile's reduction: kernel rows [ky0, ky1), columns [kx0, kx1), channel words [c0, c1)."""

    input: str
    ky0: int
    ky1: int
    kx0: int
    kx1: int
    c0: int
    c1: int
    passes: int
    words: np.ndarray  # (rows_of_tiles, weight_word_bytes) bytes
    indices: np.ndarray | None  # (rows_of_tiles, index_word_bytes) bytes, if the layer has them

    @property
    def size(self) -> int:
        return len(self.words)


@dataclass(frozen=True, slots=True)
class Packed:
    """All weights of one output tile: bytes (KH, KW, words, passes * rows, ...)."""

    words: np.ndarray  # ... weight_word_bytes
    indices: np.ndarray | None  # ... index_word_bytes; None where the passes take the elements in order

    @property
    def size(self) -> int:
        """In words of the weight buffer."""
        return self.words.size // self.words.shape[-1]


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


def linear_tile(op: Linear, tile: int, config: AcceleratorConfig) -> tuple[np.ndarray, int]:
    """Output tile `tile` as (KH, KW, words * elements, cols) codes, and the first channel word it reads."""
    o, kh, kw, per_group = op.weight.shape
    low, high = tile * config.cols, min((tile + 1) * config.cols, o)
    out_per_group = o // op.groups
    first = low // out_per_group * per_group
    last = ((high - 1) // out_per_group + 1) * per_group
    word0, word1 = first // config.elements, -(-last // config.elements)
    dense = np.full(
        (kh, kw, (word1 - word0) * config.elements, config.cols), config.weight.zero_code, np.uint8
    )
    if op.groups == 1:
        dense[:, :, :per_group, : high - low] = op.weight[low:high].transpose(1, 2, 3, 0)
        return dense, word0
    for out in range(low, high):
        start = out // out_per_group * per_group - word0 * config.elements
        dense[:, :, start : start + per_group, out - low] = op.weight[out]
    return dense, word0


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
            dense = np.full(
                (1, 1, (word1 - word0) * config.elements, config.cols), config.weight.zero_code, np.uint8
            )
            c = np.arange(low, high)
            dense[0, 0, c - offset - word0 * config.elements, c - tile * config.cols] = one
            out.append((part, dense, word0))
        offset += channels
    return out


def pack_tile(dense: np.ndarray, config: AcceleratorConfig) -> Packed:
    """Pack (KH, KW, words * elements, cols) codes.

    With indices, each group keeps its nonzeros alone: pass p holds the p-th run of `lanes` of them. The fullest group
    sets the passes, so that an N:M pattern with n * group/m <= lanes takes one. Where the elements in order, up to
    the last one that is used, take no more passes, there are no indices.
    """
    kh, kw, elements, cols = dense.shape
    words = elements // config.elements
    split = dense.reshape(kh, kw, words, config.rows, config.group, cols)
    nonzero = config.weight.fixed(split) != 0
    used = np.flatnonzero(nonzero.any((0, 1, 2, 3, 5)))
    passes = max(1, -(-int(used.max(initial=-1) + 1) // config.lanes))
    fullest = max(1, -(-int(nonzero.sum(4).max(initial=0)) // config.lanes))
    indices = None
    if config.indexed and fullest < passes:
        passes = fullest
        indices = np.argsort(~nonzero, axis=4, kind="stable")[:, :, :, :, : passes * config.lanes]
        split = np.take_along_axis(split, indices, axis=4)
    else:
        split = split[:, :, :, :, : passes * config.lanes]

    def arrange(fields: np.ndarray) -> np.ndarray:
        """To (kh, kw, word, pass, row, col, lane), as the array takes them."""
        parts = fields.reshape(kh, kw, words, config.rows, passes, config.lanes, cols)
        return parts.transpose(0, 1, 2, 4, 3, 6, 5)

    shape = (kh, kw, words, passes * config.rows, -1)
    codes = tile_words(arrange(split), config).reshape(shape)
    if indices is None:
        return Packed(codes, None)
    return Packed(codes, index_words(arrange(indices.astype(np.uint8)), config).reshape(shape))


def chunks(input: str, packed: Packed, word0: int, limit: int, config: AcceleratorConfig) -> list[Chunk]:
    """Cut one output tile's weights into chunks of at most `limit` words: by kernel rows, then columns, then words."""
    kh, kw, words, rows, _ = packed.words.shape
    if rows > limit:
        raise ConfigError(
            f"weight buffer: one tile takes {rows} words, half the buffer has {limit}; raise weight_depth"
        )

    def chunk(ky0: int, ky1: int, kx0: int, kx1: int, c0: int, c1: int) -> Chunk:
        def part(tiles: np.ndarray) -> np.ndarray:
            return tiles[ky0:ky1, kx0:kx1, c0:c1].reshape(-1, tiles.shape[-1])

        indices = None if packed.indices is None else part(packed.indices)
        passes = rows // config.rows
        return Chunk(input, ky0, ky1, kx0, kx1, word0 + c0, word0 + c1, passes, part(packed.words), indices)

    out = []
    if kw * words * rows <= limit:
        step = limit // (kw * words * rows)
        step = -(-kh // -(-kh // step))  # even chunks
        out = [chunk(y, min(y + step, kh), 0, kw, 0, words) for y in range(0, kh, step)]
    elif words * rows <= limit:
        step = limit // (words * rows)
        step = -(-kw // -(-kw // step))
        out = [chunk(y, y + 1, x, min(x + step, kw), 0, words) for y in range(kh) for x in range(0, kw, step)]
    else:
        step = limit // rows
        step = -(-words // -(-words // step))
        out = [
            chunk(y, y + 1, x, x + 1, c, min(c + step, words))
            for y in range(kh)
            for x in range(kw)
            for c in range(0, words, step)
        ]
    return out
