"""Which dimensions of a tensor are rows, columns and channels, and the decisions about those that are open."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from sateen.compiler.importer.layout import (
    Dim,
    axis_dims,
    batch_dim,
    dim_size,
    normal,
    rebased,
    row_major,
    without_batch,
)
from sateen.compiler.importer.nouns import Undecided, Unsupported, Value, View
from sateen.ir.ports import Shape


class Layouts:
    """The tensors of one walk: a graph input is open until it is decided, and so is a stand-in for what failed."""

    def __init__(self) -> None:
        self.batch = 1
        self.any_batch = False
        """Whether the file leaves the batch open; it is 1 here, but no dimension of size 1."""
        self.names: set[str] = set()
        self._numbers: dict[str, int] = {}  # the last that `fresh` gave each name
        self.shapes: dict[str, Shape] = {}
        self.open: dict[str, tuple[int, View | None]] = {}  # strength of the decision and the decision
        self.derived: dict[str, list[tuple[Value, Value]]] = {}  # open tensors made from open ones
        self.links: list[tuple[str, str]] = []  # open tensors that must get the same view
        self.unsure = False  # whether the node at hand could be checked in part only: its input is a stand-in

    def fresh(self, name: str) -> str:
        """`name`, or `name` with a number, so that no tensor is written twice."""
        n = self._numbers.get(name, 1)
        while (found := name if n == 1 else f"{name}_{n}") in self.names:
            n += 1
        self._numbers[name] = n
        self.names.add(found)
        return found

    def is_open(self, value: Value) -> bool:
        return value.tensor in self.open

    def hwc(self, value: Value) -> Shape:
        return self.shapes[value.tensor]

    def decide(
        self, value: Value, spatial: Sequence[Dim], channel: Dim, strength: int
    ) -> tuple[Value, Shape]:
        """Say that these dimensions are rows, columns and channels of an open tensor; the strongest saying counts.

        Returns the value as it lies in a tensor of this (H, W, C). A single spatial dimension is W.
        """
        dims = [normal(sorted(without_batch(d), key=lambda f: -f[1])) for d in (*_two(spatial), channel)]
        sizes = [dim_size(d) for d in dims]
        if any(len(d) > 1 for d in dims) or math.prod(sizes) * self.batch != math.prod(value.shape):
            raise Undecided(
                f"its input, of shape {value.shape}, is not laid out as height, width and channels",
                "remove the Reshape or Transpose before it",
            )
        hwc = sizes[0], sizes[1], sizes[2]
        layout = [rebased(d, dims, hwc) for d in value.layout]
        order = sorted(range(3), key=lambda k: -(dims[k][0][1] if dims[k] else math.inf))
        view = View(
            (sizes[order[0]], sizes[order[1]], sizes[order[2]]),
            (order.index(0), order.index(1), order.index(2)),
        )
        if strength > self.open[value.tensor][0]:
            self.open[value.tensor] = (strength, view)
        for base, own in self.derived.get(value.tensor, ()):
            with contextlib.suppress(Undecided):
                h, w, c = _translate(dims, own, base)
                sure = all(bool(a) == bool(b) for a, b in zip((h, w, c), dims, strict=True))
                self.decide(base, (h, w), c, strength if sure else 0)
        if any(d is None for d in layout):
            raise Undecided(f"its input, of shape {value.shape}, merges rows, columns and channels", "")
        return Value(value.tensor, tuple(d for d in layout if d is not None), value.host), hwc

    def beside(self, value: Value, *channel: int) -> list[Dim]:
        """The dimensions of an open tensor that are neither the batch nor `channel`: where its rows and columns are."""
        others = [without_batch(d) for i, d in enumerate(value.layout) if i not in channel]
        return others if 0 in channel or others[:1] != [()] else others[1:]

    def derive(self, name: str, shape: Sequence[int], bases: Sequence[Value]) -> Value:
        """An open tensor with the dimensions of `bases` in other sizes; what is decided for it holds for them."""
        first = bases[0].layout[0]
        if first == batch_dim(self.batch) and shape[0] == self.batch:
            layout = (first, *row_major(shape[1:]))
        elif self.batch == 1:
            layout = row_major(shape)
        else:
            raise Undecided(f"its input of shape {bases[0].shape} does not have the batch first", "")
        self.unsure = True
        own = Value(self.fresh(name), layout)
        self.open[own.tensor] = (-1, None)
        self.derived[own.tensor] = [(base, own) for base in bases if self.is_open(base)]
        return own

    def place(self, value: Value, channel: int, spatial: Sequence[int], strength: int = 3) -> tuple[int, ...]:
        """The IR axis (0 = H, 1 = W) of each of one or two spatial dimensions, `channel` being C.

        Raises Unsupported if the layout is another one. For a single dimension the other axis has size 1.
        """
        layout = value.layout
        if any(layout[d] for d in range(1, value.rank) if d != channel and d not in spatial):
            raise Unsupported(f"its input has shape {value.shape}", "remove the Reshape before it")
        self.batch_first(value)
        if self.is_open(value):
            self.decide(value, [layout[d] for d in spatial], layout[channel], strength)
            return (0, 1)[2 - len(spatial) :]
        own = axis_dims(self.hwc(value))
        if layout[channel] == own[2]:
            for axes in ((0, 1), (1, 0)) if len(spatial) == 2 else ((1,), (0,)):
                rest = [own[a] for a in (0, 1) if a not in axes]
                if all(layout[d] == own[a] for d, a in zip(spatial, axes, strict=True)) and not any(rest):
                    return axes
        raise Unsupported(
            f"its input is {self.hwc(value)} (height, width, channels), which a Reshape or Transpose "
            f"shows as {value.shape} with other channels or rows",
            "remove the Reshape or Transpose before it: only the order of the dimensions may change",
        )

    def is_batch(self, value: Value, *dims: int) -> bool:
        """Whether the batch is among these dimensions. One of a single sample is sought where ONNX has it: first; where
        the file fixes it, it is a dimension like any other."""
        if self.batch == 1 and not self.any_batch:
            return False
        return (0 in dims and value.layout[0] == batch_dim(self.batch)) or any(
            without_batch(value.layout[d]) != value.layout[d] for d in dims
        )

    def batch_first(self, value: Value) -> None:
        if value.rank == 0 or value.layout[0] != batch_dim(self.batch):
            raise Unsupported(
                f"a tensor of shape {value.shape} does not have the batch ({self.batch}) as dimension 0",
                "keep the batch first; a Squeeze without axes takes away a batch of 1",
            )


def _two(spatial: Sequence[Dim]) -> tuple[Dim, Dim]:
    """Rows and columns of any number of dimensions, which are merged where there are more than two."""
    dims = [*spatial]
    if len(dims) > 2:
        dims = [d for d in dims if d]
    if len(dims) > 2:
        dims = [(f,) for f in normal(f for d in dims for f in d)]
    if len(dims) > 2:
        raise Undecided(f"{len(dims)} dimensions besides the channels", "use at most two")
    dims = [()] * (2 - len(dims)) + dims
    return dims[0], dims[1]


def _translate(dims: Sequence[Dim], own: Value, base: Value) -> list[Dim]:
    """Dimensions of `own` as those of `base` with the same numbers; what is left over takes the empty places."""
    if any(d and d not in own.layout for d in dims):
        raise Undecided("dimensions were merged", "")
    numbers = [own.layout.index(d) for d in dims if d]
    rest = [d for i, d in enumerate(base.layout) if without_batch(d) and i not in numbers]
    if len(rest) + len(numbers) > len(dims):
        raise Undecided("too many dimensions", "")
    known = iter(numbers)
    left = iter(rest)
    return [base.layout[next(known)] if d else next(left, ()) for d in dims]
