"""Recurrent operators: what ONNX says of weights, activations, directions and layouts; steps are `recurrent`'s."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sateen.compiler.functions import X
from sateen.compiler.importer.layout import normal, row_major, without_batch
from sateen.compiler.importer.moves import place_channels, rebuilt
from sateen.compiler.importer.nouns import OnnxNode, Unsupported, Value
from sateen.compiler.importer.recurrent import Make, Unrolling, Weights, gru, lstm, rnn
from sateen.compiler.importer.walk import Walk
from sateen.ir.nodes import Activation, Concat, Expression, Stored

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
"""By default, of one direction."""
_FUNCTIONS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "Tanh": ("tanh", (), ()),
    "Sigmoid": ("sigmoid", (), ()),
    "Softsign": ("softsign", (), ()),
    "Softplus": ("softplus", (), ()),
    "Affine": ("affine", ("scale", "offset"), (1.0, 0.0)),
    "LeakyRelu": ("leaky_relu", ("alpha",), (0.01,)),
    "ThresholdedRelu": ("thresholded_relu", ("alpha",), (1.0,)),
    "HardSigmoid": ("hard_sigmoid", ("alpha", "beta"), (0.2, 0.5)),
    "Elu": ("elu", ("alpha",), (1.0,)),
}
"""ONNX's name: ours, what its alpha and beta are, and their defaults."""
MOST_STEPS = 1024


def recurrent(walk: Walk, node: OnnxNode) -> Sequence[Value]:
    """LSTM, GRU and RNN. Results are Y, Y_h and, of an LSTM, Y_c."""
    kind = node.op_type
    x = walk.value(node)
    layout = int(node.number("layout", 0))
    sequence, batch = (1, 0) if layout else (0, 1)
    if x.rank != 3:
        raise Unsupported(f"its input has shape {x.shape}", "give (sequence, batch, features)")
    _check(walk, node, x.shape[sequence])
    backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    if (direction := node.text("direction", "forward")) not in backward:
        raise Unsupported(f"direction '{direction}'", "use forward, reverse or bidirectional")
    directions = backward[direction]
    weights = [_weights(walk, node, d, len(directions), x.shape[2]) for d in range(len(directions))]
    hidden, count = weights[0].hidden, x.shape[sequence]
    functions = list(_activations(node, kind, len(directions)))
    if walk.is_batch(x, sequence):
        raise Unsupported("its sequence is the batch", "put the batch where its layout says")
    starts = [_starts(walk, node, i, len(directions), hidden, layout) for i in (5, 6)[: 1 + (kind == "LSTM")]]
    if not walk.is_open(x) and without_batch(x.layout[batch]):  # sequences side by side
        placed, axis = rebuilt(walk, node.name, x, ((sequence,), (batch,), (2,))), 0
    else:
        seen = Value(x.tensor, (x.layout[batch], x.layout[sequence], x.layout[2]), x.host)
        placed, (axis,) = place_channels(walk, node, seen, 2, (1,))
    open_starts = any(isinstance(v, Value) and walk.is_open(v) for own in starts for v in own)
    if walk.is_open(placed) or open_starts:
        return _stand_ins(walk, node, _shapes(kind, layout, count, x.shape[batch], len(directions), hidden))
    found = []
    for d, back in enumerate(directions):
        name = f"{node.name}.{'backward' if back else 'forward'}"
        steps = range(count)[::-1] if back else range(count)
        u = Unrolling(walk, name, placed.tensor, axis, steps)
        first = [_first(u, f"{name}.{part}", own[d], d) for part, own in zip("hc", starts, strict=False)]
        found.append(_unrolled(u, node, kind, weights[d], functions[d], first))
        u.finish()
    results = [_beside(walk, node, [f[k] for f in found]) for k in range(len(found[0]))]
    return [_seen(walk, r, k == 0, layout, axis, x, batch, len(directions)) for k, r in enumerate(results)]


def _check(walk: Walk, node: OnnxNode, count: int) -> None:
    """Raise Unsupported for what is not unrolled."""
    if node.number("input_forget", 0):
        raise Unsupported("input_forget couples two of its gates", "export it without")
    peepholes = walk.constant(node, 7) if node.op_type == "LSTM" else None
    if peepholes is not None and peepholes.any():
        raise Unsupported("it has peepholes", "use an LSTM without: its gates read input and state alone")
    lengths = walk.constant(node, 4)
    if lengths is not None and (lengths != count).any():
        raise Unsupported(
            f"sequences of {sorted(set(map(int, lengths.ravel())))} steps of {count}", "give whole ones"
        )
    if count > MOST_STEPS:
        raise Unsupported(f"{count} steps, of which {MOST_STEPS} are unrolled at most", "cut the sequence")


def _weights(walk: Walk, node: OnnxNode, d: int, directions: int, features: int) -> Weights:
    gates = GATES[node.op_type]
    w, r, b = (walk.weights(node, i) for i in (1, 2, 3))
    if w is None or r is None:
        raise Unsupported("it has no weights", "export the model again")
    hidden = r.shape[-1]
    b = np.zeros((directions, 2 * gates * hidden)) if b is None else b
    wanted = (
        (directions, gates * hidden, features),
        (directions, gates * hidden, hidden),
        (directions, 2 * gates * hidden),
    )
    if (w.shape, r.shape, b.shape) != wanted:
        raise Unsupported(f"weights of {w.shape}, {r.shape} and {b.shape}", f"they must be {wanted}")
    own, state = np.split(b[d], 2)
    return Weights(w[d], r[d], own, state)


def _activations(node: OnnxNode, kind: str, directions: int) -> Iterator[list[Make]]:
    """Those of each direction."""
    default = ACTIVATIONS[kind]
    names = [str(n) for n in node.texts("activations", default * directions)]
    if len(names) != len(default) * directions:
        raise Unsupported(f"{len(names)} activations", f"it has {len(default)} for each direction")
    given = {p: list(node.numbers(f"activation_{p}", ())) for p in ("alpha", "beta")}
    made = [_function(name, given) for name in names]
    for d in range(directions):
        yield made[d * len(default) : (d + 1) * len(default)]


def _function(name: str, given: dict[str, list[float]]) -> Make:
    known = {n.lower(): n for n in (*_FUNCTIONS, "Relu", "ScaledTanh")}
    own = known.get(name.lower())
    if own is None:
        raise Unsupported(f"activation '{name}'", f"use {', '.join(known.values())}")
    if own == "Relu":
        return lambda n, x, y: Activation(n, x, y, "clip", low=0.0)
    if own == "ScaledTanh":
        alpha, beta = (given[p].pop(0) if given[p] else 1.0 for p in ("alpha", "beta"))
        inner = Expression("affine", (("scale", beta), ("offset", 0.0)), (X,))
        scaled = Expression(
            "affine", (("scale", alpha), ("offset", 0.0)), (Expression("tanh", (), (inner,)),)
        )
        return lambda n, x, y: Activation(n, x, y, "composed", expression=scaled)
    function, parameters, defaults = _FUNCTIONS[own]
    pairs = zip(parameters, ("alpha", "beta"), defaults, strict=False)
    values = tuple((p, float(given[at].pop(0)) if given[at] else default) for p, at, default in pairs)
    return lambda n, x, y: Activation(n, x, y, function, values)


def _starts(
    walk: Walk, node: OnnxNode, i: int, directions: int, hidden: int, layout: int
) -> list[np.ndarray | Value | None]:
    """For each direction the state before its first step: (H,), computed (directions, batch, H), or None for zeros."""
    value = walk.values[node.input(i)] if node.input(i) else None
    if isinstance(value, Value):
        if value.rank != 3 or value.shape[1 if layout else 0] != directions or value.shape[2] != hidden:
            raise Unsupported(
                f"a state of shape {value.shape}", f"{directions} direction(s) of {hidden} are wanted"
            )
        own = (
            Value(value.tensor, (value.layout[1], value.layout[0], value.layout[2]), value.host)
            if layout
            else value
        )
        if walk.is_open(own):
            walk.decide(own, walk.beside(own, 2), own.layout[2], 3)
        return [own] * directions
    array = walk.weights(node, i)
    if array is None or not array.any():
        return [None] * directions
    array = array.reshape(array.shape if not layout else (array.shape[1], array.shape[0], -1))
    if (array != array[:, :1]).any():
        raise Unsupported("its first states differ from sample to sample", "give one for all")
    return list(array[:, 0])


def _first(u: Unrolling, name: str, start: np.ndarray | Value | None, d: int) -> str | None:
    """The tensor of the state before the first step, of all sequences; None for zeros."""
    if start is None:
        return None
    part = name.rpartition(".")[2]
    if isinstance(start, Value):
        picks = {0: np.array([d])}
        return u.tie(part, rebuilt(u.walk, name, start, ((0,), (1,), (2,)), picks).tensor)
    out, shape = u.tie(part, u.walk.fresh(name)), (*u.plane(1), len(start))
    return u.walk.emit(Stored(name, out, np.broadcast_to(start, shape).copy()), shape)


def _unrolled(
    u: Unrolling, node: OnnxNode, kind: str, w: Weights, functions: list[Make], first: list[str | None]
) -> list[str]:
    """All states, the last, and of an LSTM the last cell."""
    limit = node.number("clip", np.inf)
    if kind == "LSTM":
        states, *last = lstm(u, w, functions, limit, first[0], first[1])
    elif kind == "GRU":
        inside = bool(node.number("linear_before_reset", 0))
        states, *last = gru(u, w, functions, limit, first[0], inside=inside)
    else:
        states, *last = rnn(u, w, functions, limit, first[0])
    return [u.joined("h", states), *last]


def _beside(walk: Walk, node: OnnxNode, directions: list[str]) -> str:
    """Both directions' channels in one tensor."""
    if len(directions) == 1:
        return directions[0]
    out = walk.fresh(f"{node.name}.directions")
    channels = sum(walk.shapes[t][2] for t in directions)
    return walk.emit(Concat(out, tuple(directions), out), (*walk.shapes[directions[0]][:2], channels))


def _seen(
    walk: Walk, tensor: str, whole: bool, layout: int, axis: int, x: Value, batch: int, directions: int
) -> Value:
    """(sequence, directions, batch, H), or without the sequence, as ONNX lays them out."""
    h, w, c = walk.shapes[tensor]
    hidden = c // directions
    samples = tuple(f for f in x.layout[batch] if f not in without_batch(x.layout[batch]))
    steps, beside = ((h, w * c), (w, c)) if axis == 0 else ((w, c), (h, w * c))
    time = normal([steps])
    own = (normal([(directions, hidden)]), normal([*samples, beside]), normal([(hidden, 1)]))
    if layout:
        own = (own[1], own[0], own[2])
        return Value(tensor, (own[0], time, *own[1:]) if whole else own)
    return Value(tensor, (time, *own) if whole else own)


def _shapes(
    kind: str, layout: int, count: int, batch: int, directions: int, hidden: int
) -> list[tuple[int, ...]]:
    state = (batch, directions, hidden) if layout else (directions, batch, hidden)
    states = (batch, count, *state[1:]) if layout else (count, *state)
    return [states, state, state][: 2 + (kind == "LSTM")]


def _stand_ins(walk: Walk, node: OnnxNode, shapes: list[tuple[int, ...]]) -> list[Value]:
    """For results whose layout is open."""
    walk.unsure = True
    found = []
    for k, shape in enumerate(shapes):
        out = walk.fresh(f"{node.name}.result{k}")
        walk.open[out] = (-1, None)
        found.append(Value(out, row_major(shape)))
    return found
