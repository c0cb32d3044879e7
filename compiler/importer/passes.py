"""Passes from Graph to Graph that remove what need not be computed. Each is a pure function.

The graph comes from the walk with one node for each ONNX node: padding, scales, offsets and functions on
their own.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sateen.compiler.functions import X, as_expression, substitute
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Arrange, Conv, Expression, MatMul, Node, Normalize, Pool
from sateen.ir.quant import GivenWeights


def drop_dead(graph: Graph) -> Graph:
    """Without nodes whose output nobody reads."""
    needed = {o.tensor for o in graph.outputs}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            kept.append(node)
            needed.update(node.inputs)
    names = {p.name for p in graph.inputs} | {n.output for n in kept}
    shapes = {t: s for t, s in graph.shapes.items() if t in names}
    return dataclasses.replace(graph, nodes=tuple(reversed(kept)), shapes=shapes)


# -- small questions --------------------------------------------------------------------------------


def only_consumer(graph: Graph, tensor: str) -> Node | None:
    """The one node that reads the tensor; None if there are others or it is a graph output."""
    consumers = graph.consumers(tensor)
    if len(consumers) != 1 or any(o.tensor == tensor for o in graph.outputs):
        return None
    return consumers[0]


def _is_depthwise_1x1(node: Node) -> bool:
    return (
        isinstance(node, Conv)
        and node.weight.shape[1:] == (1, 1, 1)
        and node.groups == node.weight.shape[0]
        and node.channels is None
        and node.stride == (1, 1)
    )


def is_affine(node: Node) -> bool:
    """A scale and an offset for each channel, nothing else; not if the file has quantized the scale."""
    return _is_depthwise_1x1(node) and isinstance(node, Conv) and not any(node.pads) and node.given is None


def is_padding(node: Node) -> bool:
    """Zeros around, nothing else."""
    return (
        isinstance(node, Conv)
        and _is_depthwise_1x1(node)
        and any(node.pads)
        and min(node.pads) >= 0
        and bool((node.weight == 1).all())
        and not node.bias.any()
    )


def with_nodes(graph: Graph, old: dict[str, Node | None]) -> Graph:
    """Nodes by name replaced, or dropped where None."""
    nodes = (old.get(n.name, n) for n in graph.nodes)
    return dataclasses.replace(graph, nodes=tuple(n for n in nodes if n is not None))


# -- passes -----------------------------------------------------------------------------------------


def merge_padding(graph: Graph) -> Graph | None:
    """Padding into the windows that read it; into max pooling only if no value is negative."""
    for node in graph.nodes:
        if not is_padding(node):
            continue
        assert isinstance(node, Conv)
        producer = graph.producer(node.input)
        for user in graph.consumers(node.output):
            if not isinstance(user, Conv | Pool):
                continue
            if isinstance(user, Pool) and user.kind == "max":
                padded = tuple(a + b for a, b in zip(node.pads, user.pads, strict=True))
                reach = [(k - 1) * d + 1 for k, d in zip(user.kernel, user.dilation, strict=True)]
                outside = max(padded[0], padded[2]) >= reach[0] or max(padded[1], padded[3]) >= reach[1]
                if (
                    outside
                    or any(user.pads)
                    or user.dilation != (1, 1)
                    or not (producer and producer.non_negative)
                ):
                    continue
            (a, b, c, d), (e, f, g, h) = node.pads, user.pads
            pads = (a + e, b + f, c + g, d + h)
            return with_nodes(graph, {user.name: dataclasses.replace(user, input=node.input, pads=pads)})
    return None


def stride_into_consumer(graph: Graph) -> Graph | None:
    """Every nth pixel (a pool of one pixel) into the pointwise window that reads it."""
    for node in graph.nodes:
        user = only_consumer(graph, node.output)
        if not _is_stride(node) or not (_is_stride(user) or is_pointwise(user)):
            continue
        assert isinstance(node, Pool) and isinstance(user, Conv | Pool)
        stride = (node.stride[0] * user.stride[0], node.stride[1] * user.stride[1])
        changed = dataclasses.replace(user, input=node.input, stride=stride)
        return with_nodes(graph, {user.name: changed, node.name: None})
    return None


def _is_stride(node: Node | None) -> bool:
    return isinstance(node, Pool) and node.kind == "max" and node.kernel == (1, 1) and not any(node.pads)


def is_pointwise(node: Node | None) -> bool:
    return isinstance(node, Conv) and node.weight.shape[1:3] == (1, 1) and not any(node.pads)


def affine_into_producer(graph: Graph) -> Graph | None:
    """scale * conv(x) + offset is a convolution."""
    for node in graph.nodes:
        producer = graph.producer(node.inputs[0]) if node.inputs else None
        if is_affine(node) and isinstance(producer, Conv) and only_consumer(graph, producer.output) is node:
            assert isinstance(node, Conv)
            scale = node.weight.reshape(-1)
            merged = dataclasses.replace(
                producer,
                output=node.output,
                weight=producer.weight * scale[:, None, None, None],
                bias=producer.bias * scale + node.bias,
                given=_scaled(producer.given, scale),
            )
            return with_nodes(graph, {producer.name: merged, node.name: None})
    return None


def affine_into_product(graph: Graph) -> Graph | None:
    """scale * (a · b) + offset, of scales above 0, is what the product is rounded with."""
    for node in graph.nodes:
        if not isinstance(node, Conv) or not is_affine(node):
            continue
        producer = graph.producer(node.input)
        if not isinstance(producer, MatMul):
            continue
        scale = node.weight.reshape(-1)
        if (scale <= 0).any() or only_consumer(graph, producer.output) is not node:
            continue
        bias = producer.bias * scale + node.bias
        merged = dataclasses.replace(producer, output=node.output, scale=producer.scale * scale, bias=bias)
        return with_nodes(graph, {producer.name: merged, node.name: None})
    return None


def selection_into_producer(graph: Graph) -> Graph | None:
    """Channels of a convolution that only products of two tensors read are a convolution of their own: what is
    multiplied is then not copied."""
    for node in graph.nodes:
        producer = graph.producer(node.input) if isinstance(node, Conv) else None
        if not isinstance(node, Conv) or not isinstance(producer, Conv) or not producer.whole:
            continue
        selects = node.channels is not None and node.weight.shape[1:] == (1, 1, 1) and node.stride == (1, 1)
        if not selects or any(node.pads) or not _feeds_products(graph, node.output):
            continue
        if node.given is not None or producer.given is not None or producer.output in graph.quantizers:
            continue
        if not all(isinstance(u, Conv) and u.channels is not None for u in graph.consumers(producer.output)):
            continue
        assert node.channels is not None
        taken, scale = node.channels[:, 0], node.weight.reshape(-1)
        merged = dataclasses.replace(
            producer,
            name=node.name,
            output=node.output,
            weight=producer.weight[taken] * scale[:, None, None, None],
            bias=producer.bias[taken] * scale + node.bias,
        )
        return with_nodes(graph, {node.name: merged})
    return None


def _feeds_products(graph: Graph, tensor: str) -> bool:
    """Whether all that becomes of a tensor is a factor, perhaps with its pixels moved and its channels scaled."""
    users = graph.consumers(tensor)
    on_the_way = (
        isinstance(u, MatMul)
        or ((isinstance(u, Arrange) or is_affine(u)) and _feeds_products(graph, u.output))
        for u in users
    )
    return bool(users) and all(on_the_way) and all(o.tensor != tensor for o in graph.outputs)


def affine_into_normalize(graph: Graph) -> Graph | None:
    """A scale and an offset behind a normalization are its own."""
    for node in graph.nodes:
        producer = graph.producer(node.inputs[0]) if node.inputs else None
        if not isinstance(node, Conv) or not is_affine(node) or not isinstance(producer, Normalize):
            continue
        plain = node.stride == (1, 1) and node.channels is None
        if plain and only_consumer(graph, producer.output) is node:
            scale = node.weight.reshape(-1)
            merged = dataclasses.replace(
                producer,
                output=node.output,
                scale=producer.scale * scale,
                offset=producer.offset * scale + node.bias,
            )
            return with_nodes(graph, {producer.name: merged, node.name: None})
    return None


def affine_into_consumers(graph: Graph) -> Graph | None:
    """conv(scale * x + offset) is a convolution, unless its padding would have to be other than zero.

    Into several of them only what a normalization would have to keep as factors of channels.
    """
    for node in graph.nodes:
        if (
            not isinstance(node, Conv)
            or not is_affine(node)
            or any(o.tensor == node.output for o in graph.outputs)
        ):
            continue
        users = graph.consumers(node.output)
        if len(users) > 1 and not _scales_normalized(graph, node):
            continue
        merged: dict[str, Node | None] = {
            u.name: _behind_affine(node, u) if isinstance(u, Conv) else None for u in users
        }
        if merged and None not in merged.values():
            return with_nodes(graph, merged | {node.name: None})
    return None


def _scales_normalized(graph: Graph, node: Conv) -> bool:
    return (
        node.stride == (1, 1) and node.channels is None and isinstance(graph.producer(node.input), Normalize)
    )


def _behind_affine(node: Conv, user: Conv) -> Conv | None:
    """The convolution of what the scale and offset read; None if it is none."""
    if any(user.pads) and node.bias.any():
        return None
    scale, offset = user.read_by(node.weight.reshape(-1)), user.read_by(node.bias)  # (O, I / groups)
    if user.given is not None and (scale != scale[:, :1]).any():
        return None  # the weights would leave their grid
    return dataclasses.replace(
        user,
        input=node.input,
        weight=user.weight * scale[:, None, None, :],
        bias=user.bias + (user.weight * offset[:, None, None, :]).sum(axis=(1, 2, 3)),
        given=_scaled(user.given, scale[:, 0]),
    )


def _scaled(given: GivenWeights | None, factor: np.ndarray) -> GivenWeights | None:
    return None if given is None else dataclasses.replace(given, scale=given.scale * factor)


def order_into_consumer(graph: Graph) -> Graph | None:
    """A selection of channels into the convolutions that read it, unless their weights would grow out of hand."""
    for node in graph.nodes:
        if not isinstance(node, Conv) or (selected := _selection(node)) is None:
            continue
        channels, kept = selected
        total = graph.shapes[node.input][2]
        for user in graph.consumers(node.output):
            if not isinstance(user, Conv):
                continue
            changed = None
            if user.whole and user.weight.size // len(kept) * total <= max(_LARGEST, 2 * user.weight.size):
                columns = np.zeros((total, user.weight.size // len(kept)))
                np.add.at(columns, channels[kept], user.weight[..., kept].reshape(columns.shape[1], -1).T)
                weight = np.ascontiguousarray(columns.T).reshape(*user.weight.shape[:3], total)
                changed = dataclasses.replace(user, input=node.input, weight=weight)
            elif (
                user.groups == len(user.weight) and user.weight.shape[1:] == (1, 1, 1) and not any(user.pads)
            ):
                weight = user.weight * user.read_by(kept.astype(np.float64))[:, None, None, :]
                changed = dataclasses.replace(
                    user, input=node.input, weight=weight, channels=user.read_by(channels)
                )
            if changed is not None:
                return with_nodes(graph, {user.name: changed})
    return None


_LARGEST = 1 << 24
"""Weights of a convolution that a selection may be merged into, however few they were."""


def _selection(node: Conv) -> tuple[np.ndarray, np.ndarray] | None:
    """(O,) the channel that each output is a copy of, and whether it is one and not zero; None for anything else."""
    pointwise = node.weight.shape[1:3] == (1, 1) and node.stride == (1, 1) and not any(node.pads)
    if not pointwise or node.bias.any() or not (node.whole or node.channels is not None) or not node.selects:
        return None
    rows = node.weight[:, 0, 0, :]
    first = rows.argmax(axis=1)
    channels = first if node.channels is None else node.channels[np.arange(len(rows)), first]
    return channels, np.count_nonzero(rows, axis=1) > 0


def drop_identity(graph: Graph) -> Graph | None:
    """A scale of 1 with offset 0, or a clamp to everything; not where it makes a graph output."""
    outputs = {o.tensor for o in graph.outputs}
    for node in graph.nodes:
        if node.output in outputs or not _is_identity(graph, node):
            continue
        source = node.inputs[0]
        changes: dict[str, Node | None] = {
            user.name: user.reading({node.output: source}) for user in graph.consumers(node.output)
        }
        return with_nodes(graph, changes | {node.name: None})
    return None


def _is_identity(graph: Graph, node: Node) -> bool:
    if isinstance(node, Activation):
        return node.function == "clip" and node.low == -np.inf and node.high == np.inf
    if isinstance(node, Arrange):
        stays = len(node.parts) == 1 and all(p.source == p.target for p in node.pieces)
        return stays and graph.shapes[node.parts[0]] == graph.shapes[node.output]
    return (
        is_affine(node) and isinstance(node, Conv) and bool((node.weight == 1).all()) and not node.bias.any()
    )


def compose_functions(graph: Graph) -> Graph | None:
    """A function of a function that nobody else reads is one function; two clamps stay a clamp."""
    for node in graph.nodes:
        user = only_consumer(graph, node.output)
        if user is None or not (isinstance(node, Activation) or isinstance(user, Activation)):
            continue
        inner, outer = as_function(node), as_function(user)
        if inner is None or outer is None:
            continue
        if (
            isinstance(node, Activation)
            and isinstance(user, Activation)
            and node.function == user.function == "clip"
        ):
            low = min(max(node.low, user.low), user.high)
            high = min(max(node.high, user.low), user.high)
            merged = dataclasses.replace(node, output=user.output, low=low, high=high)
        elif _keeps_sign(node) and isinstance(user, Activation) and user.function == "bipolar":
            merged = dataclasses.replace(user, input=node.inputs[0])
        else:
            expression = substitute(outer, inner)
            merged = Activation(node.name, node.inputs[0], user.output, "composed", expression=expression)
        return with_nodes(graph, {node.name: merged, user.name: None})
    return None


def _keeps_sign(node: Node) -> bool:
    """Whether exactly the negative numbers stay negative."""
    return isinstance(node, Activation) and node.function == "clip" and node.low < 0 <= node.high


def as_function(node: Node) -> Expression | None:
    """The node as a function of each element; None if it is not the same for all elements."""
    if isinstance(node, Activation):
        return as_expression(node)
    if isinstance(node, Conv) and is_affine(node):
        scale, offset = node.weight.reshape(-1), node.bias
        if (scale == scale[0]).all() and (offset == offset[0]).all():
            return Expression("affine", (("scale", float(scale[0])), ("offset", float(offset[0]))), (X,))
    return None
