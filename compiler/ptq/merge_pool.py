"""Average pooling into the layer that reads it, so that the mean is never rounded to a code.

A mean over many positions has more precision than the codes that it is a mean of, and a code in the activation format
loses it again. As one convolution over the whole window the sum stays in the accumulator. Weights at each position
are rounded each by itself, so that the layer's weights gain precision too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.ptq.passes import KNOWN, Context, Pass
from sateen.compiler.ptq.state import State
from sateen.compiler.quantize.fuse import fuse
from sateen.errors import ConfigError
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv, Pool


@dataclass(frozen=True, slots=True)
class MergePool(Pass):
    """growth : weights of a merged layer, at most, over all weights that the network has without it"""

    growth: float = 1.0
    name = "mergepool"
    undoes = KNOWN

    def __post_init__(self) -> None:
        if not self.growth > 0:
            raise ConfigError(f"mergepool: growth = {self.growth}; it must be positive")

    def run(self, state: State, context: Context) -> State:
        """The manifest's `merged` has the layers that have taken a pool in."""
        graph, merged = merge_pools(state.network.graph, self)
        if not merged:
            return state
        return replace(state, network=fuse(graph), said={**state.said, "merged": merged})


def merge_pools(graph: Graph, options: MergePool = MergePool()) -> tuple[Graph, list[str]]:
    """The same function, and the layers that have taken a pool in: dense ones with one output position each, so that
    no product is computed twice. What the file rounds in between stays."""
    nodes = {n.name: n for n in graph.nodes}
    weights = sum(n.weight.size for n in graph.nodes if isinstance(n, Conv))
    merged = []
    for pool in [n for n in graph.nodes if isinstance(n, Pool) and n.kind == "average"]:
        layer = _reader(graph, pool)
        if layer is None:
            continue
        if math.prod(_shape(pool, layer)) <= options.growth * (weights - layer.weight.size):
            nodes[layer.name] = replace(
                layer,
                input=pool.input,
                weight=_composed(pool, layer),
                stride=(pool.stride[0] * layer.stride[0], pool.stride[1] * layer.stride[1]),
                pads=pool.pads,
            )
            del nodes[pool.name]
            merged.append(layer.name)
    alive = {p.name for p in graph.inputs} | {n.output for n in nodes.values()}
    shapes = {t: s for t, s in graph.shapes.items() if t in alive}
    return replace(graph, nodes=tuple(nodes.values()), shapes=shapes), merged


def _reader(graph: Graph, pool: Pool) -> Conv | None:
    """The only node that reads the pool, if it is a layer that can take it in."""
    readers = graph.consumers(pool.output)
    if len(readers) != 1 or pool.output in graph.quantizers:
        return None
    layer = readers[0]
    if (
        isinstance(layer, Conv)
        and layer.whole
        and layer.given is None
        and layer.sparsity.dense
        and graph.shapes[layer.output][:2] == (1, 1)
        and not any(layer.pads)
        and layer.dilation == pool.dilation == (1, 1)
        and all(o.tensor != pool.output for o in graph.outputs)
    ):
        return layer
    return None


def _shape(pool: Pool, layer: Conv) -> tuple[int, int, int, int]:
    """(O, KH, KW, I) over the pool's input."""
    o, kh, kw, channels = layer.weight.shape
    (sy, sx), (ph, pw) = pool.stride, pool.kernel
    return o, (kh - 1) * sy + ph, (kw - 1) * sx + pw, channels


def _composed(pool: Pool, layer: Conv) -> np.ndarray:
    """Weights of that shape; windows of the pool may overlap."""
    _, kh, kw, _ = layer.weight.shape
    (sy, sx), (ph, pw) = pool.stride, pool.kernel
    weight = np.zeros(_shape(pool, layer))
    for y in range(kh):
        for x in range(kw):
            weight[:, y * sy : y * sy + ph, x * sx : x * sx + pw] += layer.weight[:, y : y + 1, x : x + 1]
    return weight / (ph * pw)
