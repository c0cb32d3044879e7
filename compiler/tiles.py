"""Weight tiles: what the array holds at once, for every kind of op, and how a reduction is cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sateen.config import AcceleratorConfig
from sateen.errors import ConfigError, ModelError
from sateen.hw.packing import tile_words
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

    @property
    def size(self) -> int:
        return len(self.words)


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
    dense = np.full((kh, kw, (word1 - word0) * config.elements, config.cols), config.weight.zero_code, np.uint8)
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
            dense = np.full((1, 1, (word1 - word0) * config.elements, config.cols), config.weight.zero_code, np.uint8)
            c = np.arange(low, high)
            dense[0, 0, c - offset - word0 * config.elements, c - tile * config.cols] = one
            out.append((part, dense, word0))
        offset += channels
    return out


def pack_tile(dense: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
    """(KH, KW, words * elements, cols) codes to (KH, KW, words, passes * rows, weight_word_bytes) bytes, dense.

    Lane l in pass p takes element p*lanes + l of its row's group.
    """
    kh, kw, elements, cols = dense.shape
    words, passes = elements // config.elements, config.dense_passes
    split = dense.reshape(kh, kw, words, config.rows, passes, config.lanes, cols)
    tiles = split.transpose(0, 1, 2, 4, 3, 6, 5)  # kh, kw, word, pass, row, col, lane
    index = (np.arange(passes)[:, None] * config.lanes + np.arange(config.lanes)).astype(np.uint8)
    indices = np.broadcast_to(index[:, None, None, :], tiles.shape)
    packed = tile_words(tiles, indices, config)
    return packed.reshape(kh, kw, words, passes * config.rows, -1)


def chunks(input: str, packed: np.ndarray, word0: int, limit: int, config: AcceleratorConfig) -> list[Chunk]:
    """Cut one output tile's weights into chunks of at most `limit` words: by kernel rows, then columns, then words."""
    kh, kw, words, rows, _ = packed.shape
    if rows > limit:
        raise ConfigError(
            f"weight buffer: one tile takes {rows} words, half the buffer has {limit}; raise weight_depth"
        )

    def chunk(ky0: int, ky1: int, kx0: int, kx1: int, c0: int, c1: int) -> Chunk:
        part = packed[ky0:ky1, kx0:kx1, c0:c1].reshape(-1, packed.shape[-1])
        return Chunk(input, ky0, ky1, kx0, kx1, word0 + c0, word0 + c1, rows // config.rows, part)

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
