"""What the walk speaks of: computed values, views of inputs, nodes, and what is found about them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from sateen.compiler.importer.layout import Dim, Layout, Unsupported, axis_dims, reshape, shape_of
from sateen.errors import ModelError
from sateen.formats import Format
from sateen.ir.chosen import Chosen
from sateen.ir.ports import Shape
from sateen.ir.quant import Quantizer

FLOAT_TYPES = frozenset(
    (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
)

PORTS = ("graph input", "graph output")
"""What a finding that is not about a node has as its `op_type`."""
NOT_CHECKED = "not checked: it depends on what is not supported"


def axes_in(given: Iterable[int], rank: int, name: str = "axes") -> tuple[int, ...]:
    """Axes made positive, in their order. Raises Unsupported for one that is out of range or given twice."""
    given = [int(i) for i in given]
    if any(not -rank <= i < rank for i in given):
        raise Unsupported(
            f"{name} {given} on {rank} dimensions", f"use {-rank} to {rank - 1}" if rank else "give it none"
        )
    axes = tuple(i % rank for i in given)
    if len(set(axes)) != len(axes):
        raise Unsupported(f"{name} {given} name a dimension twice", "name each once")
    return axes


def axis_in(given: int, rank: int) -> int:
    """One axis made positive. Raises Unsupported if it is out of range."""
    if not -rank <= given < rank:
        raise Unsupported(
            f"axis {given} on {rank} dimensions", f"use {-rank} to {rank - 1}" if rank else "remove it"
        )
    return given % rank


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, or `name` with the first number from 2 on that makes it new."""
    n, found = 1, name
    while found in taken:
        n += 1
        found = f"{name}_{n}"
    return found


class Undecided(Unsupported):
    """An open tensor does not fit. That is a problem only of a graph input, never of a stand-in."""


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


@dataclass(frozen=True, slots=True)
class Finding:
    """What the importer says about one node (or graph input or output, where `op_type` says so)."""

    node: str
    op_type: str
    supported: bool | None
    """None where that cannot be said before other findings are gone."""
    reason: str
    """Why not, or how it runs."""
    remedy: str = ""
    limit: str = ""
    """What is supported of the operator, from `limits`, where only a part is."""
    calibrated: tuple[str, ...] = ()
    """Tensors that it gives, where a quantized file does not say how they are rounded."""

    @property
    def state(self) -> str:
        return {True: "supported", False: "not supported", None: "not checked"}[self.supported]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: "node", "op_type", "supported", "state", "reason", "remedy", "calibrated"."""
        keys = ("node", "op_type", "supported", "state", "reason", "remedy")
        return {key: getattr(self, key) for key in keys} | {"calibrated": list(self.calibrated)}

    def __str__(self) -> str:
        return f"{self.op_type} '{self.node}': {self.reason}" + (f"; {self.remedy}" if self.remedy else "")


class Refused(ModelError):
    """A node that fits nowhere once the whole graph is known."""

    def __init__(self, node: str, op_type: str, reason: str, remedy: str) -> None:
        self.finding = Finding(node, op_type, False, reason, remedy)
        super().__init__(str(self.finding))


@dataclass(frozen=True, slots=True)
class Value:
    """An ONNX tensor: `layout` of all its dimensions, batch first, in the IR tensor `tensor`."""

    tensor: str
    layout: Layout
    host: tuple[tuple[str | Chosen, Dim | Quantizer], ...] = ()
    """Operations that the host does on it: kind, or choice, and the dimension along which, or "round" and the
    quantizer."""

    @property
    def shape(self) -> tuple[int, ...]:
        return shape_of(self.layout)

    @property
    def rank(self) -> int:
        return len(self.layout)


@dataclass(frozen=True, slots=True, eq=False)
class GivenConstant:
    """What is behind a constant that a quantizer of the file gives: fixed * scale * 2**format.lsb_exponent.

    `fixed` and `scale` have the constant's shape. Without a format it is no weight of ours, and `why` says so.
    """

    format: Format | None
    fixed: np.ndarray
    scale: np.ndarray
    why: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """How a graph input becomes (H, W, C): see `sateen.ir.ports.Port`."""

    view: tuple[int, int, int]
    axes: tuple[int, int, int]

    @property
    def hwc(self) -> Shape:
        h, w, c = (self.view[a] for a in self.axes)
        return h, w, c

    @property
    def line(self) -> bool:
        """Whether it is one row or one column of more than one pixel."""
        h, w, _ = self.hwc
        return (h == 1) != (w == 1)

    def turned(self, column: bool) -> View:
        """A line as one column, or else as one row; any other view as it is."""
        if not self.line or (self.hwc[1] == 1) == column:
            return self
        h, w, c = self.axes
        return View(self.view, (w, h, c))

    def layout(self, shape: Sequence[int]) -> Layout | None:
        """Of the ONNX tensor, batch left out."""
        dims = axis_dims(self.hwc)
        return reshape(tuple(dims[self.axes.index(p)] for p in range(3)), shape)


@dataclass(slots=True)
class OnnxNode:
    """A node with its attributes as Python values."""

    proto: onnx.NodeProto
    opset: int
    attributes: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in self.proto.attribute}

    @property
    def name(self) -> str:
        return self.proto.name

    @property
    def op_type(self) -> str:
        return self.proto.op_type

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.proto.input)

    def input(self, i: int) -> str:
        """ "" where an optional input is left out."""
        return self.proto.input[i] if i < len(self.proto.input) else ""

    def integer(self, name: str, default: int) -> int:
        return int(self.attributes.get(name, default))  # type: ignore[call-overload]

    def number(self, name: str, default: float) -> float:
        return float(self.attributes.get(name, default))  # type: ignore[arg-type]

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(i) for i in self.attributes.get(name, default))  # type: ignore[attr-defined]

    def numbers(self, name: str, default: Sequence[float]) -> tuple[float, ...]:
        return tuple(float(x) for x in self.attributes.get(name, default))  # type: ignore[attr-defined]

    def text(self, name: str, default: str) -> str:
        return _text(self.attributes.get(name, default))

    def texts(self, name: str, default: Sequence[str]) -> tuple[str, ...]:
        return tuple(map(_text, self.attributes.get(name, default)))  # type: ignore[call-overload]
