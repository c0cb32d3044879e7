"""LSTM, GRU and RNN, unrolled: a step is made of nodes that are there anyway, with the same weights in each.

What a step computes of the input alone is one convolution over all steps. Tensors that play one part in all steps are
tied: they share a scale, so that each step has the same codes of weights and the same tables, and a state that leaves
the network comes back into it without a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sateen.compiler.importer.pointwise import selection
from sateen.compiler.importer.walk import Walk
from sateen.ir.nodes import Activation, Add, Arrange, Conv, Mul
from sateen.ir.pieces import Lattice, Pair, Piece
from sateen.ir.ports import Shape

Make = Callable[[str, str, str], Activation]
"""An activation of a name, what it reads, and what it writes."""


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Of one direction, float64: input (G * H, I), state (G * H, H), and their biases (G * H,), gate after gate."""

    input: np.ndarray
    state: np.ndarray
    input_bias: np.ndarray
    state_bias: np.ndarray

    @property
    def hidden(self) -> int:
        return self.state.shape[1]

    def gates(self, of: np.ndarray, *gates: int) -> np.ndarray:
        """The rows of some gates."""
        return of.reshape(-1, self.hidden, *of.shape[1:])[list(gates)].reshape(-1, *of.shape[1:])


@dataclass(slots=True)
class Unrolling:
    """Emits the steps of one direction of a node.

    walk, name : where nodes go, and how their names begin
    source, axis : the tensor with all steps, along rows (0) or columns (1); the other axis has sequences side by side
    steps : in the order in which they are taken
    """

    walk: Walk
    name: str
    source: str
    axis: int
    steps: Sequence[int]
    tied: dict[str, list[str]] = field(default_factory=dict)

    def tie(self, part: str, tensor: str) -> str:
        self.tied.setdefault(part, []).append(tensor)
        return tensor

    def finish(self) -> None:
        """Says which tensors share a scale."""
        self.walk.ties += [tuple(names) for names in self.tied.values() if len(names) > 1]

    # -- nodes ---------------------------------------------------------------------------------------------

    def _new(self, part: str, step: int) -> str:
        return self.tie(part, self.walk.fresh(f"{self.name}.{part}.{step}"))

    def _shape(self, tensor: str, channels: int | None = None) -> Shape:
        h, w, c = self.walk.shapes[tensor]
        return h, w, c if channels is None else channels

    def product(
        self, part: str, step: int, x: str, weight: np.ndarray, bias: np.ndarray | None = None
    ) -> str:
        """A matrix (O, I) times every pixel."""
        out, bias = self._new(part, step), np.zeros(len(weight)) if bias is None else bias
        node = Conv(out, x, out, weight[:, None, None, :], bias)
        return self.walk.emit(node, self._shape(x, len(weight)))

    def all_steps(self, part: str, weight: np.ndarray, bias: np.ndarray) -> str:
        return self.product(part, -1, self.source, weight, bias)

    def at(self, part: str, step: int, x: str) -> str:
        """One step of what has all."""
        place: Pair = (step, 0) if self.axis == 0 else (0, step)
        if self.walk.shapes[x][self.axis] == 1:
            return x
        out, plane = self._new(part, step), self.plane(1)
        piece = Piece(0, plane, Lattice(place, (1, 0), (0, 1)), Lattice((0, 0), (1, 0), (0, 1)))
        return self.walk.emit(Arrange(out, (x,), (piece,), out), (*plane, self.walk.shapes[x][2]))

    def plane(self, steps: int) -> Pair:
        """Rows and columns of so many steps."""
        h, w, _ = self.walk.shapes[self.source]
        return (steps, w) if self.axis == 0 else (h, steps)

    def joined(self, part: str, states: Sequence[str]) -> str:
        """All steps, in the order of time, of what was computed in that of `steps`."""
        if len(states) == 1:
            return states[0]
        out, count = self._new(part, -1), len(states)
        pieces = []
        for k, step in enumerate(self.steps):
            place: Pair = (step, 0) if self.axis == 0 else (0, step)
            one = self.plane(1)
            pieces.append(Piece(k, one, Lattice((0, 0), (1, 0), (0, 1)), Lattice(place, (1, 0), (0, 1))))
        return self.walk.emit(
            Arrange(out, tuple(states), tuple(pieces), out),
            (*self.plane(count), self.walk.shapes[states[0]][2]),
        )

    def gate(
        self, step: int, x: str, number: int, hidden: int, scale: object = 1.0, offset: float = 0.0
    ) -> str:
        """scale * (one gate of what has several) + offset, which a product takes up."""
        out = self._new(f"gate{number}_{offset:g}", step)
        made = selection(out, x, out, np.arange(number * hidden, (number + 1) * hidden))
        weight = made.weight * np.broadcast_to(np.asarray(scale, np.float64), hidden).reshape(-1, 1, 1, 1)
        node = Conv(out, x, out, weight, np.full(hidden, offset), groups=hidden, channels=made.channels)
        return self.walk.emit(node, self._shape(x, hidden))

    def add(self, part: str, step: int, a: str, b: str) -> str:
        out = self._new(part, step)
        return self.walk.emit(Add(out, a, b, out), self._shape(a))

    def times(self, part: str, step: int, a: str, b: str) -> str:
        out = self._new(part, step)
        return self.walk.emit(Mul(out, a, b, out), self._shape(a))

    def function(self, part: str, step: int, x: str, make: Make, limit: float) -> str:
        """`make`'s function of x, which is between -limit and limit."""
        shape = self._shape(x)
        if np.isfinite(limit):
            clipped = self._new(f"{part}.clip", step)
            x = self.walk.emit(Activation(clipped, x, clipped, "clip", low=-limit, high=limit), shape)
        out = self._new(part, step)
        return self.walk.emit(make(out, x, out), shape)


def lstm(
    u: Unrolling, w: Weights, functions: Sequence[Make], limit: float, h: str | None, c: str | None
) -> tuple[list[str], str, str]:
    """States after each step, and the last ones: gates are input, output, forget, cell."""
    f, g, last = functions
    n = w.hidden
    bias = w.input_bias + w.state_bias
    three, cell = (0, 1, 2), (3,)
    x_gates = u.all_steps("x_gates", w.gates(w.input, *three), w.gates(bias, *three))
    x_cell = u.all_steps("x_cell", w.gates(w.input, *cell), w.gates(bias, *cell))
    of_gates, of_cell = w.gates(w.state, *three), w.gates(w.state, *cell)
    states = []
    for t in u.steps:
        gates, new = u.at("x_gates", t, x_gates), u.at("x_cell", t, x_cell)
        if h is not None:
            gates = u.add("gates_in", t, u.product("h_gates", t, h, of_gates), gates)
            new = u.add("cell_in", t, u.product("h_cell", t, h, of_cell), new)
        gates, new = u.function("gates", t, gates, f, limit), u.function("cell", t, new, g, limit)
        added = u.times("c" if c is None else "added", t, u.gate(t, gates, 0, n), new)
        c = added if c is None else u.add("c", t, u.times("kept", t, u.gate(t, gates, 2, n), c), added)
        h = u.times("h", t, u.gate(t, gates, 1, n), u.function("shown", t, c, last, np.inf))
        states.append(h)
    assert h is not None and c is not None
    return states, h, c


def gru(
    u: Unrolling, w: Weights, functions: Sequence[Make], limit: float, h: str | None, *, inside: bool
) -> tuple[list[str], str]:
    """States after each step, and the last one: gates are update, reset, hidden. `inside`: linear_before_reset."""
    f, g = functions
    n = w.hidden
    both, new = (0, 1), (2,)
    bias = w.input_bias + w.state_bias
    x_gates = u.all_steps("x_gates", w.gates(w.input, *both), w.gates(bias, *both))
    own = w.gates(w.state_bias, *new)
    x_new = u.all_steps("x_new", w.gates(w.input, *new), w.gates(w.input_bias if inside else bias, *new))
    of_gates, of_new = w.gates(w.state, *both), w.gates(w.state, *new)
    states = []
    for t in u.steps:
        gates, hidden = u.at("x_gates", t, x_gates), u.at("x_new", t, x_new)
        if h is not None:
            gates = u.add("gates_in", t, u.product("h_gates", t, h, of_gates), gates)
        gates = u.function("gates", t, gates, f, limit)
        if inside and h is not None:
            gate = u.gate(t, gates, 1, n)  # before the product, which takes up the gate's
            reset = u.times("reset", t, u.product("h_new", t, h, of_new, own), gate)
            hidden = u.add("new_in", t, reset, hidden)
        elif inside and own.any():
            hidden = u.add("new_in", t, u.gate(t, gates, 1, n, scale=own), hidden)
        elif not inside and h is not None:
            reset = u.times("reset", t, u.gate(t, gates, 1, n), h)
            hidden = u.add("new_in", t, u.product("h_new", t, reset, of_new), hidden)
        hidden = u.function("new", t, hidden, g, limit)
        part = "h" if h is None else "taken"
        taken = u.times(part, t, u.gate(t, gates, 0, n, scale=-1.0, offset=1.0), hidden)
        h = taken if h is None else u.add("h", t, u.times("kept", t, u.gate(t, gates, 0, n), h), taken)
        states.append(h)
    assert h is not None
    return states, h


def rnn(
    u: Unrolling, w: Weights, functions: Sequence[Make], limit: float, h: str | None
) -> tuple[list[str], str]:
    """States after each step, and the last one."""
    (f,) = functions
    x_all = u.all_steps("x", w.input, w.input_bias + w.state_bias)
    states = []
    for t in u.steps:
        new = u.at("x", t, x_all)
        if h is not None:
            new = u.add("h_in", t, u.product("h_all", t, h, w.state), new)
        h = u.function("h", t, new, f, limit)
        states.append(h)
    assert h is not None
    return states, h
