"""Cross-layer equalization: channels rescaled until layers that write and read them use equal ranges of weights.

Ref: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, arXiv 1906.04721.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.ptq.channels import channel_sets, read_range, rescale, written_range
from sateen.compiler.ptq.passes import KNOWN, Context, Pass
from sateen.compiler.ptq.state import State
from sateen.errors import ConfigError
from sateen.ir.graph import Graph

LARGEST_FACTOR = 2.0**8
"""By which a channel is rescaled at most: one that is nearly dead says little about its range."""


@dataclass(frozen=True, slots=True)
class Equalize(Pass):
    """iterations : over all layers; it stops before when nothing changes any more"""

    iterations: int = 20
    name = "equalize"
    undoes = KNOWN

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"equalize: iterations = {self.iterations}; it must be at least 1")

    def run(self, state: State, context: Context) -> State:
        graph = equalize(state.network.graph, self)
        return replace(state, network=state.network.with_graph(graph))


def equalize(graph: Graph, options: Equalize = Equalize()) -> Graph:
    """The same function, with sqrt(written * read) as the range on both sides of each channel."""
    sets = channel_sets(graph)
    for _ in range(options.iterations):
        change = 0.0
        for found in sets:
            written, read = written_range(graph, found), read_range(graph, found)
            factors = bounded(np.sqrt(written), np.sqrt(read))
            graph = rescale(graph, found, factors)
            change = max(change, float(np.abs(np.log2(factors)).max()))
        if change < 1e-3:
            break
    return graph


def bounded(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """over / under of each channel, at most LARGEST_FACTOR either way; 1 where a side is zero."""
    alive = (over > 0) & (under > 0)
    ratio = np.divide(over, under, out=np.ones_like(over), where=alive)
    return np.clip(ratio, 1 / LARGEST_FACTOR, LARGEST_FACTOR)
