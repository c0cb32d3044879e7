"""Pixels that move: from a lattice of one plane to a lattice of another, all channels together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

Pair = tuple[int, int]
"""(rows, columns)."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """Pixels of a plane: `origin` + i * `outer` + j * `inner`, each (rows, columns); steps may be negative or 0."""

    origin: Pair
    outer: Pair
    inner: Pair

    def pixels(self, counts: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns, int64 (counts[0], counts[1]) each."""
        i, j = np.arange(counts[0])[:, None], np.arange(counts[1])[None, :]
        rows, columns = (
            o + a * i + b * j for o, a, b in zip(self.origin, self.outer, self.inner, strict=True)
        )
        return rows, columns

    def shifted(self, begin: Pair) -> Lattice:
        """From pixel `begin` on."""
        y, x = (
            o + begin[0] * a + begin[1] * b
            for o, a, b in zip(self.origin, self.outer, self.inner, strict=True)
        )
        return Lattice((y, x), self.outer, self.inner)

    def rows(self, counts: Pair) -> tuple[int, int]:
        """The rows [low, high) that its pixels lie in."""
        return self._span(0, counts)

    def columns(self, counts: Pair) -> tuple[int, int]:
        """The columns [low, high) that its pixels lie in."""
        return self._span(1, counts)

    def _span(self, axis: int, counts: Pair) -> tuple[int, int]:
        ends = [
            self.origin[axis] + i * self.outer[axis] + j * self.inner[axis]
            for i in (0, counts[0] - 1)
            for j in (0, counts[1] - 1)
        ]
        return min(ends), max(ends) + 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Pixels (i, j) below `counts` of part number `part`, from `source` to `target`.

    A step of i moves the target along rows or along columns, never both, and so does one of j.
    """

    part: int
    counts: Pair
    source: Lattice
    target: Lattice

    def within(self, low: int, high: int) -> Piece | None:
        """What of it lies in rows [low, high) of the target; None if nothing does."""
        begin, end = (0, 0), self.counts
        for k, step in enumerate((self.target.outer[0], self.target.inner[0])):
            if step:
                at = self.target.origin[0] + step * np.arange(self.counts[k])
                inside = np.flatnonzero((at >= low) & (at < high))
                if len(inside) == 0:
                    return None
                found = (int(inside[0]), int(inside[-1]) + 1)
                begin = (found[0], begin[1]) if k == 0 else (begin[0], found[0])
                end = (found[1], end[1]) if k == 0 else (end[0], found[1])
        if not self.target.outer[0] and not self.target.inner[0] and not low <= self.target.origin[0] < high:
            return None
        return self.part_of(begin, end)

    def part_of(self, begin: Pair, end: Pair) -> Piece:
        """Pixels (i, j) from `begin` up to `end`."""
        counts = (end[0] - begin[0], end[1] - begin[1])
        return Piece(self.part, counts, self.source.shifted(begin), self.target.shifted(begin))

    def cut(self, most: int) -> Iterator[Piece]:
        """Pieces of at most `most` pixels either way."""
        for i in range(0, self.counts[0], most):
            for j in range(0, self.counts[1], most):
                yield self.part_of((i, j), (min(i + most, self.counts[0]), min(j + most, self.counts[1])))


def moved(parts: list[np.ndarray], pieces: tuple[Piece, ...]) -> np.ndarray:
    """(N, H, W, C) arrays put together as one."""
    n, _, _, c = parts[0].shape
    out = np.zeros((n, *plane_of(pieces), c), parts[0].dtype)
    for p in pieces:
        rows, columns = p.source.pixels(p.counts)
        to_rows, to_columns = p.target.pixels(p.counts)
        out[:, to_rows, to_columns] = parts[p.part][:, rows, columns]
    return out


def plane_of(pieces: tuple[Piece, ...]) -> Pair:
    """Rows and columns of the smallest target that holds them."""
    return max(p.target.rows(p.counts)[1] for p in pieces), max(p.target.columns(p.counts)[1] for p in pieces)


def covered(pieces: tuple[Piece, ...], plane: Pair) -> bool:
    """Whether every pixel of the target is written, once."""
    count = np.zeros(plane, np.int64)
    for p in pieces:
        rows, columns = p.target.pixels(p.counts)
        inside = (rows >= 0) & (rows < plane[0]) & (columns >= 0) & (columns < plane[1])
        if not inside.all():
            return False
        np.add.at(count, (rows, columns), 1)
    return bool((count == 1).all())


Map = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of each pixel (H, W) of a target its part, and the row and column there."""


def map_of(pieces: Iterable[Piece], plane: Pair) -> Map:
    """Where the pixels of a plane come from."""
    part, row, column = (np.zeros(plane, np.int64) for _ in range(3))
    for p in pieces:
        at = p.target.pixels(p.counts)
        part[at] = p.part
        row[at], column[at] = p.source.pixels(p.counts)
    return part, row, column


def collected(part: np.ndarray, row: np.ndarray, column: np.ndarray, most: int) -> list[Piece] | None:
    """Few pieces that are the map (`Map`); None if runs of pixels in a row are more than 16 times `most`."""
    alike: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    count = 0
    for y, values in enumerate(np.stack([part, row, column], axis=1)):
        x = 0
        in_row: list[Run] = []
        _progressions(values, in_row, values.shape[1])
        for n, first, step in in_row:
            # of two parts side by side no progression
            lengths = [1] * n if step[0] else [n]
            for k, length in enumerate(lengths):
                source = first + k * step
                move = (0, 0) if length == 1 else (int(step[1]), int(step[2]))
                key = (length, int(source[0]), *move)
                alike.setdefault(key, []).append((y, x, int(source[1]), int(source[2])))
                x += length
                count += 1
        if count > 16 * most:
            return None
    found = []
    for (length, of, dy, dx), places in alike.items():
        for n, first, step in runs(np.array(places, np.int64).T):
            # a step of a piece goes along rows or along columns
            for k in range(n) if step[0] and step[1] else (0,):
                at = first + k * step
                rows = 1 if step[0] and step[1] else n
                outer = (0, 0) if rows == 1 else (int(step[0]), int(step[1]))
                moves = (0, 0) if rows == 1 else (int(step[2]), int(step[3]))
                source = Lattice((int(at[2]), int(at[3])), moves, (dy, dx))
                target = Lattice((int(at[0]), int(at[1])), outer, (0, 1))
                found.append(Piece(of, (rows, length), source, target))
    return found


Run = tuple[int, np.ndarray, np.ndarray]
"""How many, the values of the first, and what each next one adds."""


def runs(values: np.ndarray) -> list[Run]:
    """(K, n) integers as few arithmetic progressions of columns, in any order."""
    best: list[Run] | None = None
    for period in range(1, min(values.shape[1], 64) + 1):
        found: list[Run] = []
        for k in range(period):
            _progressions(values[:, k::period], found, len(best) if best is not None else values.shape[1])
        if best is None or len(found) < len(best):
            best = found
        if len(best) <= period:  # a longer period gives at least as many as itself
            break
    assert best is not None
    return best


def _progressions(values: np.ndarray, found: list[Run], most: int) -> None:
    """Add those of the columns to what is found, as long as these are fewer than `most`."""
    at, n = 0, values.shape[1]
    steps = np.diff(values, axis=1)
    changes = np.flatnonzero((steps[:, 1:] != steps[:, :-1]).any(axis=0)) + 1
    ends = np.append(changes, steps.shape[1])[np.searchsorted(changes, np.arange(steps.shape[1]), "right")]
    still = np.zeros(len(values), np.int64)
    while at < n and len(found) <= most:
        end = int(ends[at]) + 1 if at + 1 < n else at + 1
        found.append((end - at, values[:, at], steps[:, at] if at + 1 < n else still))
        at = end


def pieces_of(part: int, rows: np.ndarray, columns: np.ndarray) -> list[Piece]:
    """Every pair of a row and a column that move.

    Parameters
    ----------
    rows, columns : (3, n), of each the target's row or column, and the source's row and column that it adds
    """
    found = []
    for n, first, step in runs(rows):
        for m, start, move in runs(columns):
            source = Lattice(
                (int(first[1] + start[1]), int(first[2] + start[2])),
                (int(step[1]), int(step[2])),
                (int(move[1]), int(move[2])),
            )
            target = Lattice((int(first[0]), int(start[0])), (int(step[0]), 0), (0, int(move[0])))
            found.append(Piece(part, (n, m), source, target))
    return found
