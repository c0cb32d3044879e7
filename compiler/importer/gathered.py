"""Moves of pixels brought together: one pass over a tensor where the file moves it in several steps.

Slices, rolls, windows and their way back come from the walk as an `Arrange` or a window of one pixel each. Here a move
of what has been moved becomes one of its source. What takes each pixel by itself changes places with a move:
convolutions that all move their results alike read what has been moved, and scales come beside what takes them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sateen.compiler.importer.passes import (
    is_affine,
    is_pointwise,
    only_consumer,
    with_nodes,
)
from sateen.compiler.importer.transpose import MOST_PIECES
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Add, Arrange, Conv, MatMul, Mul, Node, Pool
from sateen.ir.pieces import Lattice, Piece, collected, map_of

_FREELY = 1 << 18
"""Elements of a tensor that may be read as a whole for each row of a result."""
_PIECES = 256
"""More than the moves had before are taken up to here: an instruction each."""


def gather_moves(graph: Graph) -> Graph | None:
    """A graph with a pass over pixels less, or one step nearer to it."""
    for node in graph.nodes:
        changed: Graph | None = None
        if isinstance(node, Arrange):
            changed = _of_a_move(graph, node) or _below_scale(graph, node) or _above_scale(graph, node)
        elif isinstance(node, Conv):
            changed = _before_convolutions(graph, node)
        if changed is not None:
            return changed
    return None


def _of_a_move(graph: Graph, node: Arrange) -> Graph | None:
    """A move of what has been moved, or cropped, is a move of that one's source."""
    for k, part in enumerate(node.parts):
        inner = graph.producer(part)
        own = None if inner is None or part in graph.quantizers else _as_move(graph, inner)
        if inner is None or own is None:
            continue
        which, rows, columns = map_of(node.pieces, graph.shapes[node.output][:2])
        through = which == k
        there = map_of(own, graph.shapes[part][:2])
        at = rows[through], columns[through]
        names = list(dict.fromkeys((*node.parts, *inner.inputs)))
        number = np.array([names.index(p) for p in node.parts])[which]
        number[through] = np.array([names.index(p) for p in inner.inputs])[there[0][at]]
        rows[through], columns[through] = there[1][at], there[2][at]
        used = [i for i in range(len(names)) if (number == i).any()]
        number = np.searchsorted(used, number)
        kept = tuple(names[i] for i in used)
        pieces = collected(number, rows, columns, MOST_PIECES)
        most = max(_PIECES, len(node.pieces) + len(own))
        if pieces is None or len(pieces) > most:
            continue
        changed = dataclasses.replace(node, parts=kept, pieces=tuple(pieces))
        if _reach(graph, changed) <= max(_FREELY, _reach(graph, node), _span(graph, inner, own)):
            return with_nodes(graph, {node.name: changed})
    return None


def _as_move(graph: Graph, node: Node) -> tuple[Piece, ...] | None:
    """Its pieces, if it moves pixels and does nothing else."""
    if isinstance(node, Arrange):
        return node.pieces
    if not isinstance(node, Conv | Pool) or max(node.pads) > 0:
        return None
    if isinstance(node, Pool):
        copies = node.kind == "max" and node.kernel == (1, 1)
    else:
        plain = dataclasses.replace(node, pads=(0, 0, 0, 0), stride=(1, 1))
        copies = is_affine(plain) and not node.bias.any() and bool((node.weight == 1).all())
    if not copies:
        return None
    (dy, dx), (top, left, _, _) = node.stride, node.pads
    source = Lattice((-top, -left), (dy, 0), (0, dx))
    return (Piece(0, graph.shapes[node.output][:2], source, Lattice((0, 0), (1, 0), (0, 1))),)


def _reach(graph: Graph, node: Arrange) -> int:
    return _span(graph, node, node.pieces)


def _span(graph: Graph, node: Node, pieces: tuple[Piece, ...]) -> int:
    """Elements of the rows that a row of the result is made of, at most."""
    _, width, channels = graph.shapes[node.inputs[0]]
    spans: dict[tuple[int, int], tuple[int, int]] = {}
    for p in pieces:
        low, high = p.target.rows(p.counts)
        for y in range(low, high):
            if (part := p.within(y, y + 1)) is None:
                continue
            a, b = part.source.rows(part.counts)
            c, d = spans.get((p.part, y), (a, b))
            spans[p.part, y] = min(a, c), max(b, d)
    return max(b - a for a, b in spans.values()) * width * channels


def _below_scale(graph: Graph, node: Arrange) -> Graph | None:
    """A scale of what has been moved, if what was moved can take it."""
    user = only_consumer(graph, node.output)
    producer = graph.producer(node.parts[0])
    if len(node.parts) > 1 or not isinstance(user, Conv) or not is_affine(user):
        return None
    if not isinstance(producer, Conv | MatMul) or only_consumer(graph, producer.output) is not node:
        return None
    if _pinned(graph, producer.output, node.output):
        return None
    return _swapped(graph, node, user)


def _above_scale(graph: Graph, node: Arrange) -> Graph | None:
    """A move of what has been scaled, if convolutions that read what is moved can take the scale."""
    scale = graph.producer(node.parts[0])
    if len(node.parts) > 1 or not isinstance(scale, Conv) or not is_affine(scale):
        return None
    if only_consumer(graph, scale.output) is not node or isinstance(
        graph.producer(scale.input), Conv | MatMul
    ):
        return None
    users = graph.consumers(node.output)
    if _pinned(graph, scale.output, node.output):
        return None
    if not users or not all(isinstance(u, Conv) and not any(u.pads) for u in users):
        return None
    return _swapped(graph, scale, node)


def _swapped(graph: Graph, first: Arrange | Conv, second: Arrange | Conv) -> Graph:
    """The two in the other order; the tensor between them is what the second wrote."""
    between = first.output
    before = dataclasses.replace(second.reading({between: first.inputs[0]}), output=between)
    behind = dataclasses.replace(first.reading({first.inputs[0]: between}), output=second.output)
    source, target = graph.shapes[first.inputs[0]], graph.shapes[second.output]
    moved = target if isinstance(second, Arrange) else source
    shapes = graph.shapes | {between: (*moved[:2], target[2] if isinstance(second, Conv) else source[2])}
    return with_nodes(dataclasses.replace(graph, shapes=shapes), {first.name: before, second.name: behind})


def _before_convolutions(graph: Graph, node: Conv) -> Graph | None:
    """What all readers of a tensor move alike behind a convolution of single pixels, is moved before them."""
    tensor = node.input
    users = graph.consumers(tensor)
    moves = [m for u in users if (m := _moved_behind(graph, u)) is not None]
    if users[0] is not node or len(moves) < len(users) or _pinned(graph, tensor):
        return None
    if any(m.pieces != moves[0].pieces for m in moves):
        return None
    before, behind = graph.shapes[tensor][2], sum(graph.shapes[m.output][2] for m in moves)
    after = only_consumer(graph, moves[0].output)
    gains = isinstance(graph.producer(tensor), Arrange) or isinstance(after, Add | Mul | Activation)
    if before > behind or (before == behind and not gains):
        return None
    moved = f"{moves[0].output}.before"
    first = dataclasses.replace(moves[0], parts=(tensor,), output=moved)
    plane = graph.shapes[moves[0].output][:2]
    shapes = graph.shapes | {moved: (*plane, before)}
    # each in the place of one that came before whatever reads it
    changes: dict[str, Node | None] = {node.name: first}
    for user, move in zip(users, moves, strict=True):
        behind_move = dataclasses.replace(user.reading({tensor: moved}), output=move.output)  # type: ignore[type-var]
        changes[move.name] = behind_move
        if user is not node:
            changes[user.name] = None
    return with_nodes(dataclasses.replace(graph, shapes=shapes), changes)


def _moved_behind(graph: Graph, node: Node) -> Arrange | None:
    """The move that alone reads a convolution of single pixels."""
    if not isinstance(node, Conv) or not is_pointwise(node) or node.stride != (1, 1) or is_affine(node):
        return None
    move = only_consumer(graph, node.output)
    if not isinstance(move, Arrange) or len(move.parts) > 1 or _pinned(graph, node.output):
        return None
    return move


def _pinned(graph: Graph, *tensors: str) -> bool:
    """Whether anything is said of one of these, so that it has to stay what it is."""
    said = {*graph.quantizers, *(t for tie in graph.ties for t in tie), *(o.tensor for o in graph.outputs)}
    return not said.isdisjoint(tensors)
