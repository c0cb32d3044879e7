"""What a Softmax cannot tell apart is no part of a tensor's range: masks reach far below the scores that they mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sateen.ir.graph import Graph
from sateen.ir.nodes import Add, Softmax, Stored

REACH = 14.0
"""Below a row's largest score: exp(-REACH) of thousands together is less than half a step of an 8-bit result."""


@dataclass(frozen=True, slots=True)
class Scores:
    """A tensor that only Softmax reads; where it is a sum with a constant that nobody else reads, its parts."""

    tensor: str
    other: str = ""
    mask: str = ""


def scores_of(graph: Graph) -> tuple[Scores, ...]:
    written = {n.output: n for n in graph.nodes}
    given = {o.tensor for o in graph.outputs}
    found = []
    for tensor in dict.fromkeys(n.input for n in graph.nodes if isinstance(n, Softmax)):
        if tensor in given or not all(isinstance(n, Softmax) for n in graph.consumers(tensor)):
            continue
        total = written.get(tensor)
        parts = total.inputs if isinstance(total, Add) else ()
        masks = [p for p in parts if isinstance(written.get(p), Stored) and len(graph.consumers(p)) == 1]
        if len(masks) == 1 and masks[0] not in given:
            (other,) = (p for p in parts if p != masks[0])
            found.append(Scores(tensor, other, masks[0]))
        else:
            found.append(Scores(tensor))
    return tuple(found)


def within_reach(scores: tuple[Scores, ...], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors (N, H, W, C), scores that do not count all as far below as the lowest row needs, masks as deep as
    that takes."""
    found = dict(tensors)
    for s in scores:
        x = np.asarray(tensors[s.tensor], np.float64)
        counted = x.max(axis=-1, keepdims=True) - REACH
        lowest = counted.min()
        found[s.tensor] = np.where(x < counted, lowest, x)
        if s.mask:
            found[s.mask] = np.maximum(tensors[s.mask], lowest - tensors[s.other].max())
    return found
