"""`split_wide`: weights that need more than 8 bits, as a sum of weights of 8 bits.

uint8 weights less their zero point reach from -255 to 255. A weight of 130 is 127 and 3: the convolution reads those
of its input channels that have such weights a second time, and the sum is the same, exactly.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sateen.formats import Integer
from sateen.ir.graph import Graph
from sateen.ir.nodes import Concat, Conv, Node
from sateen.ir.quant import GivenWeights

EIGHT = Integer(8)


def split_wide(graph: Graph) -> Graph:
    """The graph with all weights of the file in the range of their formats, of which there is one."""
    given = [n.given.format for n in graph.nodes if isinstance(n, Conv) and n.given is not None]
    mixed = len(set(given)) > 1
    shapes, quantizers = dict(graph.shapes), dict(graph.quantizers)
    nodes: list[Node] = []
    for node in graph.nodes:
        parts = _parts(node, mixed) if isinstance(node, Conv) else []
        if len(parts) < 2:
            nodes.append(node)
            continue
        assert isinstance(node, Conv)
        new, copies = _split(node, parts, graph.shapes[node.input][2])
        for copy in copies:
            h, w, _ = shapes[node.input]
            channels = len(copy.weight) if isinstance(copy, Conv) else sum(shapes[p][2] for p in copy.inputs)
            shapes[copy.output] = (h, w, channels)
            if node.input in quantizers:
                quantizers[copy.output] = quantizers[node.input]
        nodes += [*copies, new]
    return replace(graph, nodes=tuple(nodes), shapes=shapes, quantizers=quantizers)


def _parts(node: Conv, mixed: bool) -> list[np.ndarray]:
    """Integers (O, KH, KW, I / groups) whose sum the weights are, each in the range of int8; one where they fit."""
    if node.given is None or not node.given.format.uniform or node.given.format.bits < 8:
        return []
    fmt = EIGHT if mixed else node.given.format
    scale = np.where(node.given.scale == 0, 1.0, node.given.scale)
    rest = np.rint(node.weight / scale[:, None, None, None])
    if (rest >= fmt.min_fixed).all() and (rest <= fmt.max_fixed).all():
        return []
    parts = []
    while rest.any():
        parts.append(np.clip(rest, EIGHT.min_fixed, EIGHT.max_fixed))
        rest = rest - parts[-1]
    return parts


def _split(node: Conv, parts: list[np.ndarray], total: int) -> tuple[Conv, list[Node]]:
    """The convolution with its parts side by side, and what copies channels of its input for it."""
    assert node.given is not None
    columns = [np.flatnonzero(p.any(axis=(0, 1, 2))) for p in parts[1:]]
    weight = np.concatenate(
        [parts[0], *(p[..., c] for p, c in zip(parts[1:], columns, strict=True))], axis=-1
    )
    given = GivenWeights(EIGHT, node.given.scale, sum(map(len, columns)))
    own = np.broadcast_to(np.arange(total), (len(weight), total))
    own = own if node.whole else node.read_by(own[0])  # (O, I / groups)
    read, copied, offset = [own], [], total
    for c in columns:
        again = np.unique(own[:, c])
        read.append(offset + np.searchsorted(again, own[:, c]))
        copied.append(again)
        offset += len(again)
    joined = f"{node.input}.{node.name}.twice"
    copies: list[Node] = []
    tensors = [node.input]
    for k, again in enumerate(copied):
        tensors.append(node.input)
        if len(again) < total:
            tensors[-1] = name = f"{node.input}.{node.name}.again{k}"
            ones, zeros = np.ones((len(again), 1, 1, 1)), np.zeros(len(again))
            one = Conv(name, node.input, name, ones, zeros, groups=len(again), channels=again[:, None])
            copies.append(one)
    copies.append(Concat(joined, tuple(tensors), joined))
    new = replace(node, input=joined, weight=weight * node.given.scale[:, None, None, None], given=given)
    if node.whole:
        return new, copies
    return replace(new, channels=np.concatenate(read, axis=1), groups=len(weight)), copies
