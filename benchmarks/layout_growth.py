"""Grows a random ONNX graph node by node and follows the shapes: `layout_graphs` makes networks of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = (11, 13, 17, 18, 21)
SIZES = (1, 1, 2, 2, 3, 4, 6, 8)
MOST_ELEMENTS = 1500


class Grower:
    """Appends one random node after the other and follows the shape that ONNX gives each tensor."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.opset = self.pick(OPSETS)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.x = ""
        self.dynamic = dynamic = bool(rng.random() < 0.3)
        batch = 1 if dynamic or rng.random() < 0.6 else int(rng.integers(2, 4))
        for i in range(1 + (rng.random() < 0.2)):
            name = "xy"[i]
            if i and rng.random() < 0.5:
                shape = self.shapes["x"]
            else:
                shape = (batch, *(self.pick(SIZES) for _ in range(self.pick((0, 1, 2, 2, 3, 3, 3, 4)))))
            sizes = ["N" if dynamic else batch, *shape[1:]]
            self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
            self.shapes[name] = shape
        self.x = "x"

    # -- choices ------------------------------------------------------------------------------------------

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[self.x]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def signed(self, axis: int, rank: int) -> int:
        """The axis, or the negative number of the same."""
        return axis - rank if self.chance(0.3) else axis

    def axes(self) -> list[int]:
        count = int(self.rng.integers(1, self.rank + 1))
        return sorted(int(a) for a in self.rng.choice(self.rank, count, replace=False))

    # -- writing ------------------------------------------------------------------------------------------

    def constant(self, values: object, dtype: type = np.float32) -> str:
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def random(self, *shape: int) -> str:
        return self.constant(self.rng.uniform(0.25, 2, shape))

    def node(self, op: str, *inputs: str, shapes: Sequence[Sequence[int]], **attributes: object) -> list[str]:
        names = [f"t{len(self.nodes)}_{i}" for i in range(len(shapes))]
        self.nodes.append(
            helper.make_node(op, list(inputs), names, name=f"{op}_{len(self.nodes)}", **attributes)
        )
        for name, shape in zip(names, shapes, strict=True):
            self.shapes[name] = tuple(int(s) for s in shape)
        return names

    def then(self, op: str, *inputs: str, shape: Sequence[int], **attributes: object) -> None:
        self.x = self.node(op, *inputs, shapes=[shape], **attributes)[0]

    def with_axes(
        self, op: str, axes: Sequence[int], shape: Sequence[int], since: int, **more: object
    ) -> None:
        """A node whose axes are an attribute before opset `since`, an input from there on."""
        given = [self.signed(a, max(self.rank, len(shape))) for a in axes]
        if self.opset < since:
            self.then(op, self.x, shape=shape, axes=given, **more)
        else:
            self.then(op, self.x, self.constant(given, np.int64), shape=shape, **more)

    # -- moves --------------------------------------------------------------------------------------------

    def reshape(self) -> None:
        rest, shape = math.prod(self.shape), []
        if self.chance(0.6):  # split or merge neighbours
            shape = list(self.shape)
            d = int(self.rng.integers(self.rank)) if self.rank else 0
            if self.rank > 1 and self.chance(0.5):
                d = min(d, self.rank - 2)
                shape[d : d + 2] = [shape[d] * shape[d + 1]]
            elif self.rank:
                cut = self.pick([k for k in range(1, shape[d] + 1) if shape[d] % k == 0])
                shape[d : d + 1] = [cut, shape[d] // cut]
        else:
            for _ in range(self.pick((0, 1, 2, 3, 4))):
                shape.append(self.pick([k for k in range(1, rest + 1) if rest % k == 0]))
                rest //= shape[-1]
            shape.append(rest)
        if len(shape) > 6:
            return
        given = [
            0 if d < self.rank and s == self.shape[d] and self.chance(0.2) else s for d, s in enumerate(shape)
        ]
        if given and self.chance(0.4):
            given[int(self.rng.integers(len(given)))] = -1
        self.then("Reshape", self.x, self.constant(given, np.int64), shape=shape)

    def transpose(self) -> None:
        if not self.rank:
            return
        perm = [int(p) for p in self.rng.permutation(self.rank)]
        if self.chance(0.5) and self.rank > 1:  # the batch stays where it is
            perm = [0, *(int(p) + 1 for p in self.rng.permutation(self.rank - 1))]
        self.then("Transpose", self.x, shape=[self.shape[p] for p in perm], perm=perm)

    def squeeze(self) -> None:
        ones = [d for d, s in enumerate(self.shape) if s == 1]
        axes = [d for d in ones if self.chance(0.6)]
        if len(axes) == self.rank:
            axes = axes[1:]
        if axes:
            self.with_axes("Squeeze", axes, [s for d, s in enumerate(self.shape) if d not in axes], 13)
        elif len(ones) < self.rank and ones and not self.dynamic:  # else the batch decides what it takes away
            self.then("Squeeze", self.x, shape=[s for s in self.shape if s != 1])

    def unsqueeze(self) -> None:
        if self.rank > 4:
            return
        at = int(self.rng.integers(self.rank + 1))
        shape = list(self.shape)
        shape.insert(at, 1)
        self.with_axes("Unsqueeze", [at], shape, 13)

    def flatten(self) -> None:
        axis = int(self.rng.integers(self.rank + 1))
        shape = (math.prod(self.shape[:axis]), math.prod(self.shape[axis:]))
        axis = self.signed(axis, self.rank) if axis < self.rank else axis
        self.then("Flatten", self.x, shape=shape, axis=axis)

    def same(self) -> None:
        self.then(self.pick(("Identity", "Dropout", "Relu", "Sigmoid", "Neg")), self.x, shape=self.shape)

    # -- joins and cuts -----------------------------------------------------------------------------------

    def others(self, fits: Callable[[tuple[int, ...]], bool]) -> list[str]:
        return [n for n, s in self.shapes.items() if len(s) == self.rank and fits(s)]

    def concat(self) -> None:
        if not self.rank:
            return
        axis = int(self.rng.integers(self.rank))
        parts = self.others(lambda s: s[:axis] + s[axis + 1 :] == self.shape[:axis] + self.shape[axis + 1 :])
        chosen = [self.x, self.pick(parts)][:: self.pick((1, -1))]
        shape = list(self.shape)
        shape[axis] = sum(self.shapes[p][axis] for p in chosen)
        if math.prod(shape) <= MOST_ELEMENTS:
            self.then("Concat", *chosen, shape=shape, axis=self.signed(axis, self.rank))

    def add(self) -> None:
        parts = self.others(lambda s: s == self.shape)
        self.then(self.pick(("Add", "Sub", "Sum")), self.x, self.pick(parts), shape=self.shape)

    def split(self) -> None:
        axes = [d for d, s in enumerate(self.shape) if s > 1]
        if not axes:
            return
        axis = self.pick(axes)
        cut = int(self.rng.integers(1, self.shape[axis]))
        sizes = [cut, self.shape[axis] - cut]
        shapes = [[s if d == axis else n for d, n in enumerate(self.shape)] for s in sizes]
        given = self.signed(axis, self.rank)
        if self.opset < 13:
            parts = self.node("Split", self.x, shapes=shapes, axis=given, split=sizes)
        else:
            parts = self.node("Split", self.x, self.constant(sizes, np.int64), shapes=shapes, axis=given)
        self.x = self.pick(parts)

    def slice(self) -> None:
        if not self.rank:
            return
        axis = int(self.rng.integers(self.rank))
        size = self.shape[axis]
        start = int(self.rng.integers(size))
        end, step = int(self.rng.integers(start + 1, size + 1)), self.pick((1, 1, 2, 3))
        count = len(range(start, end, step))
        start = start - size if self.chance(0.3) else start
        end = 2**31 - 1 if end == size and self.chance(0.5) else end
        values = [[start], [end], [self.signed(axis, self.rank)], [step]]
        shape = [count if d == axis else s for d, s in enumerate(self.shape)]
        self.then("Slice", self.x, *(self.constant(v, np.int64) for v in values), shape=shape)

    def gather(self) -> None:
        if not self.rank:
            return
        axis = int(self.rng.integers(self.rank))
        size = self.shape[axis]
        if self.chance(0.4):
            index: object = int(self.rng.integers(-size, size))
            inner: list[int] = []
        else:
            step = self.pick((1, 2))
            start = int(self.rng.integers(size))
            index = list(range(start, size, step))
            inner = [len(index)]  # type: ignore[arg-type]
        shape = [*self.shape[:axis], *inner, *self.shape[axis + 1 :]]
        self.then(
            "Gather", self.x, self.constant(index, np.int64), shape=shape, axis=self.signed(axis, self.rank)
        )

    def pad(self) -> None:
        begin, end = ([self.pick((0, 0, 0, 1)) for _ in self.shape] for _ in range(2))
        shape = [s + a + b for s, a, b in zip(self.shape, begin, end, strict=True)]
        if self.rank and math.prod(shape) <= MOST_ELEMENTS:
            self.then("Pad", self.x, self.constant([*begin, *end], np.int64), shape=shape)

    # -- arithmetic ---------------------------------------------------------------------------------------

    def reduce(self) -> None:
        if not self.rank:
            return
        op = self.pick(("ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax"))
        axes = self.axes()
        if self.chance(0.6) and self.rank > 1:
            axes = [a for a in axes if a] or [1]
        keep = int(self.rng.integers(2))
        shape = [1 if d in axes else s for d, s in enumerate(self.shape) if keep or d not in axes]
        if len(axes) == self.rank and self.chance(0.5):
            self.then(op, self.x, shape=shape, keepdims=keep)
        else:
            self.with_axes(op, axes, shape, 13 if op == "ReduceSum" else 18, keepdims=keep)

    def normalize(self) -> None:
        if self.rank > 1:
            c = self.shape[1]
            self.then("BatchNormalization", self.x, *(self.random(c) for _ in range(4)), shape=self.shape)

    def gemm(self) -> None:
        if self.rank != 2:
            return
        k, n, turned = self.shape[1], self.pick(SIZES), int(self.rng.integers(2))
        bias = [self.random(*self.pick(((n,), (1, n), (1,), ())))] if self.chance(0.5) else []
        weight = self.random(n, k) if turned else self.random(k, n)
        self.then("Gemm", self.x, weight, *bias, shape=(self.shape[0], n), transB=turned)

    def matmul(self) -> None:
        if self.rank < 1:
            return
        n = self.pick(SIZES)
        kind = self.pick(("right", "right", "right", "vector", "left", "deep"))
        k = self.shape[-1]
        if kind == "vector":
            self.then("MatMul", self.x, self.random(k), shape=self.shape[:-1])
        elif kind == "left" and self.rank > 1:
            shape = [*self.shape[:-2], n, k]
            self.then("MatMul", self.random(n, self.shape[-2]), self.x, shape=shape)
        elif kind == "deep":
            lead = (1,) * self.pick((1, 2, 3))
            inner = self.shape[:-1] or ()
            shape = [*((1,) * max(0, len(lead) + 2 - max(2, self.rank))), *inner, n]
            if self.rank > 1:
                self.then("MatMul", self.x, self.random(*lead, k, n), shape=shape)
        else:
            self.then("MatMul", self.x, self.random(k, n), shape=[*self.shape[:-1], n])

    def conv(self) -> None:
        if self.rank not in (3, 4):
            return
        c, *spatial = self.shape[1:]
        kernel = [int(self.rng.integers(1, min(3, s) + 1)) for s in spatial]
        group = self.pick([g for g in range(1, c + 1) if c % g == 0])
        out = group * self.pick((1, 2, 3))
        shape = [self.shape[0], out, *(s - k + 1 for s, k in zip(spatial, kernel, strict=True))]
        self.then("Conv", self.x, self.random(out, c // group, *kernel), shape=shape, group=group)

    def pool(self) -> None:
        if self.rank not in (3, 4):
            return
        c, *spatial = self.shape[1:]
        op = self.pick(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"))
        if op.startswith("Global"):
            self.then(op, self.x, shape=[self.shape[0], c, *(1 for _ in spatial)])
            return
        kernel = [int(self.rng.integers(1, min(3, s) + 1)) for s in spatial]
        shape = [self.shape[0], c, *(s - k + 1 for s, k in zip(spatial, kernel, strict=True))]
        self.then(op, self.x, shape=shape, kernel_shape=kernel)

    def constant_of(self, *, enlarge: bool) -> tuple[str, tuple[int, ...]]:
        """A constant that ONNX broadcasts to the tensor, and the shape of both together."""
        varying = {int(self.rng.integers(self.rank))} if self.rank and self.chance(0.7) else set()
        shape = [s if d in varying else 1 for d, s in enumerate(self.shape)]
        if self.chance(0.5):
            while shape and shape[0] == 1 and self.chance(0.7):
                shape = shape[1:]
        elif enlarge and self.rank < 5:
            shape = [1] * self.pick((1, 1, 2)) + shape
        return self.random(*shape), tuple(np.broadcast_shapes(tuple(shape), self.shape))

    def arithmetic(self) -> None:
        op = self.pick(("Add", "Add", "Sub", "Mul", "Mul", "Div", "Max", "Min", "Pow"))
        k, shape = self.constant_of(enlarge=True)
        pair = (k, self.x) if op in ("Add", "Sub", "Mul", "Max", "Min") and self.chance(0.4) else (self.x, k)
        if op == "Pow":  # of a positive number
            self.then("Sigmoid", self.x, shape=self.shape)
            pair = (self.x, k)
        self.then(op, *pair, shape=shape)

    def prelu(self) -> None:
        k, shape = self.constant_of(enlarge=False)
        if shape == self.shape:
            self.then("PRelu", self.x, k, shape=shape)

    def where(self) -> None:
        number = self.random(*(1,) * self.pick((0, 1, self.rank, self.rank + 1)))
        limit = self.random(*(1,) * self.pick((0, 1, self.rank, self.rank + 1)))
        above = self.node(
            "Greater", self.x, limit, shapes=[np.broadcast_shapes(self._shape(limit), self.shape)]
        )[0]
        shape = np.broadcast_shapes(self.shapes[above], self._shape(number), self.shape)
        del self.shapes[above]  # truths: no operand of the nodes that follow
        self.then("Where", above, *(self.x, number)[:: self.pick((1, -1))], shape=shape)

    def _shape(self, name: str) -> tuple[int, ...]:
        return next(tuple(t.dims) for t in self.constants if t.name == name)

    def softmax(self) -> None:
        if self.rank:
            self.then("Softmax", self.x, shape=self.shape, axis=int(self.rng.integers(-self.rank, self.rank)))

    def grow(self) -> None:
        operations: list[Callable[[], None]] = [
            self.reshape, self.reshape, self.transpose, self.transpose, self.squeeze, self.unsqueeze, self.flatten,
            self.same, self.concat, self.add, self.split, self.slice, self.gather, self.pad, self.reduce,
            self.normalize, self.gemm, self.matmul, self.conv, self.pool, self.arithmetic, self.arithmetic,
            self.prelu, self.where,
        ]  # fmt: skip
        self.pick(operations)()
        if self.chance(0.08):  # go on from an earlier tensor
            self.x = self.pick(list(self.shapes))
