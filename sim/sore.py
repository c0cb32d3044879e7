"""The model of SORE: the n elements of greatest magnitude in each group of m (the RTL is `sateen.hw.memory.sore`)."""

from __future__ import annotations

import numpy as np

from sateen.errors import DataError
from sateen.formats import Format, SparsityPattern


def select(codes: np.ndarray, pattern: SparsityPattern, fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """Codes (..., K) to the codes and the indices of the selected elements, (..., K/m, n).

    In each group of m the n first in descending |fixed(code)|, ties to the lower index, and of those the
    indices ascending. Zeros are selected, lowest index first, just where fewer than n elements are nonzero.

    Raises DataError when K is not a multiple of m.
    """
    n, m = pattern.n, pattern.m
    codes = np.asarray(codes)
    if codes.ndim == 0 or codes.shape[-1] % m:
        size = codes.shape[-1] if codes.ndim else 1
        raise DataError(
            f"selection {n}:{m}: {size} elements are not a multiple of {m}; pad with zeros to {-(-size // m) * m}"
        )
    groups = codes.reshape(*codes.shape[:-1], -1, m)
    order = np.argsort(-np.abs(fmt.fixed(groups)), axis=-1, kind="stable")[..., :n]
    indices = np.sort(order, axis=-1)
    return np.take_along_axis(groups, indices, -1).astype(fmt.code_dtype), indices.astype(np.uint8)


def entries(codes: np.ndarray, indices: np.ndarray, fmt: Format) -> np.ndarray:
    """Selected codes and indices as stored, uint32 of the same shape: the code, above it the index."""
    return codes.astype(np.uint32) | indices.astype(np.uint32) << fmt.bits
