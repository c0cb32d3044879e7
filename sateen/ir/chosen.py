"""Choices that the host makes at a graph output: the largest or smallest along an axis, or where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, slots=True)
class Chosen:
    """`count` of the largest, or smallest, along `axis`, the best first; of equals the first, or the last.

    `axis` is negative: it counts from the last dimension. ONNX's TopK has `values` and `indices`, ArgMax and ArgMin
    "indices" of one, without the dimension where not `keep`.
    """

    gives: Literal["values", "indices"]
    count: int = 1
    axis: int = -1
    largest: bool = True
    last: bool = False
    keep: bool = True

    def apply(self, x: np.ndarray) -> np.ndarray:
        """(N, …) with `count` along the axis: float64, or int64 indices."""
        wanted = np.asarray(x, np.float64)
        keys = -wanted if self.largest else wanted
        if self.last:
            order = (
                wanted.shape[self.axis] - 1 - np.argsort(np.flip(keys, self.axis), self.axis, kind="stable")
            )
        else:
            order = np.argsort(keys, axis=self.axis, kind="stable")
        order = np.take(order, np.arange(self.count), axis=self.axis)
        found = order if self.gives == "indices" else np.take_along_axis(wanted, order, axis=self.axis)
        return np.asarray(found if self.keep else found.squeeze(self.axis))

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the result, for one sample's."""
        axis = len(shape) + self.axis
        return (*shape[:axis], *([self.count] if self.keep else []), *shape[axis + 1 :])
