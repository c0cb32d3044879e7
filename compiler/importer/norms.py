"""Normalizations that a file has as operators one behind the other, as exporters of older opsets write them.

Found by what they compute, from their last product or quotient backwards:

    d / sqrt(mean(d * d) + epsilon)      with d = x - mean(x), or x itself: LayerNormalization, RMSNormalization
    x / max(sqrt(sum(x * x)), epsilon)   of functions that divide by the norm

A scale and an offset behind them are operators like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from sateen.compiler.importer.constants import Constants, Light
from sateen.compiler.importer.domains import DEFAULT
from sateen.compiler.importer.nouns import FLOAT_TYPES

ABSORBED = "a part of a normalization"
_SMALL = 1e-6
"""Below it what a norm is at least may as well be added to its square."""


@dataclass(frozen=True, slots=True)
class _Found:
    source: str
    axes: tuple[int, ...]
    epsilon: float
    centred: bool
    averaged: bool


def recognized(light: Light) -> tuple[Light, frozenset[str]]:
    """The model with one LayerNormalization, with `axes`, in the place of each; names of nodes that went into them."""
    search = _Search(light)
    made: dict[str, onnx.NodeProto] = {}
    for node in light.model.graph.node:
        found = search.normalization(node)
        if found is not None:
            made[node.output[0]] = helper.make_node(
                "LayerNormalization", [found.source], list(node.output), name=node.name, axes=found.axes,
                epsilon=found.epsilon, centred=int(found.centred), averaged=int(found.averaged),
            )  # fmt: skip
    if not made:
        return light, frozenset()
    nodes = [made.get(n.output[0], n) if n.output else n for n in light.model.graph.node]
    needed = {o.name for o in light.model.graph.output}
    kept: list[onnx.NodeProto] = []
    before = {i for n in light.model.graph.node for i in n.input} | needed
    for node in reversed(nodes):
        if needed.intersection(node.output) or not before.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    model = onnx.ModelProto()
    model.CopyFrom(light.model)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    names = {n.name for n in kept}
    gone = frozenset(n.name for n in nodes if n.name not in names)
    return replace(light, model=model), gone


class _Search:
    """What writes each tensor, without what changes no value."""

    def __init__(self, light: Light) -> None:
        self.constants = Constants(light.model.graph, light.arrays)
        self.writers = {
            o: n for n in light.model.graph.node if n.domain in DEFAULT for o in n.output[:1] if o
        }

    def normalization(self, node: onnx.NodeProto) -> _Found | None:
        """What the node is the end of."""
        for value, divisor in self._quotients(node):
            for of_root in (self._root, self._at_least):
                found = of_root(value, divisor)
                if found is not None:
                    return found
        return None

    def _quotients(self, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
        """(value, divisor) of what the node divides, or multiplies by a reciprocal."""
        if node.domain not in DEFAULT or len(node.input) != 2:
            return
        if node.op_type == "Div":
            yield node.input[0], node.input[1]
        if node.op_type == "Mul":
            for value, factor in (node.input, reversed(list(node.input))):
                writer = self._writer(factor)
                if writer is None:
                    continue
                if writer.op_type == "Reciprocal":
                    yield value, writer.input[0]
                if writer.op_type == "Div" and self._number(writer.input[0]) == 1:
                    yield value, writer.input[1]
                if writer.op_type == "Pow" and self._number(writer.input[1]) == -0.5:
                    yield value, factor

    def _root(self, value: str, divisor: str) -> _Found | None:
        """divisor = sqrt(mean(value**2) + epsilon)."""
        writer = self._writer(divisor)
        if writer is None:
            return None
        power = self._number(writer.input[1]) if writer.op_type == "Pow" else None
        if writer.op_type != "Sqrt" and power not in (0.5, -0.5):
            return None
        return self._of_square(value, writer.input[0], 0.0)

    def _at_least(self, value: str, divisor: str) -> _Found | None:
        """divisor = max(sqrt(sum(value**2)), epsilon)."""
        writer = self._writer(divisor)
        if writer is not None and writer.op_type == "Expand":
            writer = self._writer(writer.input[0])
        least = 0.0
        if writer is not None and writer.op_type in ("Clip", "Max"):
            bounds = [self._number(i) for i in writer.input[1:2]]
            upper = writer.input[2] if len(writer.input) > 2 else ""
            if len(bounds) != 1 or bounds[0] is None or not 0 <= bounds[0] <= _SMALL or upper:
                return None
            least, writer = bounds[0], self._writer(writer.input[0])
        if writer is None:
            return None
        if writer.op_type == "ReduceL2":
            return self._reduced(value, writer, least**2, averaged=False)
        return self._of_square(value, writer.input[0], least**2) if writer.op_type == "Sqrt" else None

    def _of_square(self, value: str, variance: str, epsilon: float) -> _Found | None:
        writer = self._writer(variance)
        if writer is not None and writer.op_type == "Add":
            for total, number in (writer.input, reversed(list(writer.input))):
                added = self._number(number)
                if added is not None and added >= 0:
                    return self._of_square(value, total, epsilon + added)
        if writer is None:
            return None
        if writer.op_type == "ReduceSumSquare":
            return self._reduced(value, writer, epsilon, averaged=False)
        if writer.op_type not in ("ReduceMean", "ReduceSum"):
            return None
        square = self._writer(writer.input[0])
        if square is None or not self._is_square(square, value):
            return None
        return self._reduced(value, writer, epsilon, averaged=writer.op_type == "ReduceMean")

    def _is_square(self, square: onnx.NodeProto, value: str) -> bool:
        if square.op_type == "Pow":
            return self._number(square.input[1]) == 2 and self._same(square.input[0], value)
        if square.op_type == "Mul":
            return all(self._same(i, value) for i in square.input)
        return False

    def _reduced(
        self, value: str, reduction: onnx.NodeProto, epsilon: float, averaged: bool
    ) -> _Found | None:
        axes = self._axes(reduction)
        if reduction.op_type in ("ReduceL2", "ReduceSumSquare") and not self._same(reduction.input[0], value):
            return None
        if not axes:
            return None
        source = self._centred(value, axes)
        if source is not None:
            return _Found(source, axes, epsilon, True, averaged)
        return _Found(self._past(value), axes, epsilon, False, averaged)

    def _centred(self, value: str, axes: tuple[int, ...]) -> str | None:
        """x where the value is x - mean(x) along the same axes."""
        writer = self._writer(value)
        if writer is None or writer.op_type != "Sub":
            return None
        mean = self._writer(writer.input[1])
        if mean is None or mean.op_type != "ReduceMean" or self._axes(mean) != axes:
            return None
        return self._past(writer.input[0]) if self._same(mean.input[0], writer.input[0]) else None

    def _same(self, a: str, b: str) -> bool:
        """Whether two tensors are equal: one tensor, or the same differences of the same tensors."""
        a, b = self._past(a), self._past(b)
        if a == b:
            return True
        x, y = self.writers.get(a), self.writers.get(b)
        if x is None or y is None or x.op_type != y.op_type or x.op_type not in ("Sub", "ReduceMean"):
            return False
        if x.op_type == "ReduceMean":
            return self._axes(x) == self._axes(y) and self._same(x.input[0], y.input[0])
        return all(self._same(i, j) for i, j in zip(x.input, y.input, strict=True))

    def _past(self, name: str) -> str:
        """The tensor before what changes no value: Identity, and Casts between floating-point types."""
        while (writer := self.writers.get(name)) is not None:
            kind = next((a.i for a in writer.attribute if a.name == "to"), 0)
            if writer.op_type != "Identity" and not (writer.op_type == "Cast" and kind in FLOAT_TYPES):
                break
            name = writer.input[0]
        return name

    def _writer(self, name: str) -> onnx.NodeProto | None:
        return self.writers.get(self._past(name))

    def _number(self, name: str) -> float | None:
        """A constant of one element."""
        value = self.constants.get(name) if name else None
        return float(np.ravel(value)[0]) if value is not None and value.size == 1 else None

    def _axes(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """In order; none where they are not known, or the dimensions go."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        axes: Sequence[int] | np.ndarray | None = attributes.get("axes")
        if axes is None and len(node.input) > 1:
            axes = self.constants.get(node.input[1])
        if axes is None or not attributes.get("keepdims", 1):
            return ()
        return tuple(int(a) for a in np.ravel(np.asarray(axes)))
