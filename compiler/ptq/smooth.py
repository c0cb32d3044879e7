"""Activation equalization: channels rescaled so that those with large values do not set the scale of all others.

Ref: Xiao et al., SmoothQuant, arXiv 2211.10438, equation 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.ptq.channels import channel_sets, read_range, rescale
from sateen.compiler.ptq.equalize import bounded
from sateen.compiler.ptq.passes import KNOWN, Context, Pass
from sateen.compiler.ptq.state import State
from sateen.compiler.quantize.calibrate import Statistics
from sateen.errors import ConfigError, DataError
from sateen.ir.graph import Graph


@dataclass(frozen=True, slots=True)
class Smooth(Pass):
    """alpha : how much of the difference between channels moves from the activations to the weights, 0 to 1"""

    alpha: float = 0.5
    name = "smooth"
    needs = ("statistics",)
    undoes = KNOWN

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"smooth: alpha = {self.alpha}; it must be 0 to 1")

    def run(self, state: State, context: Context) -> State:
        assert state.statistics is not None
        graph = smooth(state.network.graph, state.statistics, self)
        return replace(state, network=state.network.with_graph(graph))


def smooth(graph: Graph, statistics: Statistics, options: Smooth = Smooth()) -> Graph:
    """The same function, activations divided by max|x|^alpha / max|w|^(1 - alpha) of each channel.

    The factors are relative to their geometric mean, and go into the layers that write the channels.
    """
    for found in channel_sets(graph):
        peaks = []
        for tensor in found.tensors:
            seen = statistics.tensors.get(tensor)
            if seen is None or seen.peak is None:
                raise DataError(
                    f"calibration has no tensor '{tensor}'; calibrate the same model that is smoothed"
                )
            peaks.append(seen.peak)
        peak, read = np.max(peaks, axis=0), read_range(graph, found)
        alive = (peak > 0) & (read > 0)
        if not alive.any():
            continue
        factors = bounded(peak**options.alpha, read ** (1 - options.alpha))
        middle = np.exp(np.mean(np.log(factors[alive])))
        factors = bounded(np.where(alive, factors / middle, 1.0), np.ones_like(factors))
        graph = rescale(graph, found, factors)
    return graph
