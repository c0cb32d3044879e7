"""Pixels that become channels and channels that become pixels: the product of an identity and the tensor transposed.

A selection and an Arrange for each channel would do the same; there are as many as channels and pixels change places.
"""

from __future__ import annotations

import numpy as np

from sateen.compiler.importer.walk import Walk
from sateen.ir.heads import Batch
from sateen.ir.nodes import Arrange, MatMul, Stored
from sateen.ir.pieces import pieces_of
from sateen.ir.ports import Shape

MOST_MOVES = 128
"""Selections and Arranges that a move is made of, before it is a product: that needs a machine with computed weights,
and gives the tensor zero point 0."""
MOST_IDENTITY = 1 << 22
"""Elements of the identities of one product."""
MOST_PIECES = 4096
_BLOCK = 16
"""Channels that one identity is for: most words hold as many or fewer."""


def exchanged(
    walk: Walk, name: str, tensor: str, old: Shape, new: Shape, places: list[np.ndarray]
) -> str | None:
    """A tensor of shape `new`, whose element (y, x, k) is the source's at the sum of the three places, (3, n) each.

    None where few moves do it as well, a channel of the result is in part one of the source, or the file says how
    tensors are rounded: the identity is in no file.
    """
    rows, columns, channels = places
    pixels = len(np.unique(channels[:2], axis=1).T)
    picked = len(np.unique(rows[2][:, None] + columns[2]))
    if channels[2].any() or picked + pixels <= MOST_MOVES or walk.quantizers:
        return None
    # (g, P, C): for each group of pixels that a row of the result and a column of it begin at, those that it needs
    high, row = np.unique(rows[:2], axis=1, return_inverse=True)
    wide, column = np.unique(columns[:2], axis=1, return_inverse=True)
    a, b, p, c = high.shape[1], wide.shape[1], new[2], old[2]
    block = _block(c)
    if ((rows[2] % block)[:, None] + columns[2] % block >= block).any():
        block = c
    if a * b * c * block > MOST_IDENTITY:
        return None
    source = tensor
    if (a * b, p) != old[:2] or not _same(high, wide, channels, p):
        at = np.arange(a * b)
        pieces = pieces_of(
            0,
            np.stack([at, *(high[:, at // b] + wide[:, at % b])]),
            np.stack([np.arange(p), channels[0], channels[1]]),
        )
        if len(pieces) > MOST_PIECES:
            return None
        source = walk.fresh(f"{tensor}.grouped")
        walk.emit(Arrange(f"{name}.group", (tensor,), tuple(pieces), source), (a * b, p, c))
    made = transposed(walk, name, source, block)
    heads = c // block
    at_rows = np.stack([np.arange(new[0]), (row.ravel() * b * heads) + rows[2] // block, rows[2] % block])
    at_columns = np.stack(
        [np.arange(new[1]), column.ravel() * heads + columns[2] // block, columns[2] % block]
    )
    pieces = pieces_of(0, at_rows, at_columns)
    if walk.shapes[made] == new and all(piece.source == piece.target for piece in pieces):
        return made
    out = walk.fresh(f"{tensor}.exchanged")
    return walk.emit(Arrange(f"{name}.place", (made,), tuple(pieces), out), new)


def transposed(walk: Walk, name: str, source: str, block: int) -> str:
    """(H, W, C) as (H * C / block, block, W). It keeps the codes: an identity's 1 is exact, the scale is the same."""
    h, w, c = walk.shapes[source]
    heads = c // block
    identity, out = walk.fresh(f"{source}.identity"), walk.fresh(f"{source}.transposed")
    eyes = np.broadcast_to(np.eye(block), (h * heads, block, block))
    walk.emit(Stored(f"{name}.identity", identity, np.ascontiguousarray(eyes)), eyes.shape)
    walk.emit(
        MatMul(
            f"{name}.transpose", identity, source, out, Batch(heads, (False, heads > 1, False), True),
            np.ones(w), np.zeros(w),
        ),
        (h * heads, block, w),
    )  # fmt: skip
    walk.ties.append((source, out))
    return out


def _block(channels: int) -> int:
    """A divisor of the channels: a block of one word's, if there is one."""
    return next((b for b in range(_BLOCK, _BLOCK // 2 - 1, -1) if channels % b == 0), channels)


def _same(high: np.ndarray, wide: np.ndarray, channels: np.ndarray, p: int) -> bool:
    """Whether group g's pixel k is column k of row g already."""
    there = high[:, :, None, None] + wide[:, None, :, None] + channels[:2, None, None, :]
    groups = there.shape[1] * there.shape[2]
    wanted = np.stack(np.broadcast_arrays(np.arange(groups)[:, None], np.arange(p)))
    return bool((there.reshape(2, groups, p) == wanted).all())
