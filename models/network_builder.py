"""Builds ONNX networks with seeded random weights, layer by layer, shapes and the size of activations tracked.

`NetworkBuilder` is what the networks of `sateen.models.architectures` are written with. Batch normalization is
folded, as in a deployed file: a convolution has a bias, and leaves activations of about unit power (mean square),
however deep the network. The weights' variance is 1 / (fan-in · power of what they read) for that; the power of every
tensor is estimated from that of its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""What opset 17 was released with."""

Size = int | tuple[int, ...]

POWER = {
    "Relu": 0.5,
    "LeakyRelu": 0.505,
    "Sigmoid": 0.29,
    "HardSwish": 0.35,
    "Silu": 0.36,
    "PRelu": 0.53,
    "Clip": 0.5,
    "Tanh": 0.39,
    "HardSigmoid": 0.29,
}
"""Mean square of the function of a normal variable, about."""
MAX_POWER = 1.5
"""Mean square of the largest of some values over that of one, about: neighbours are alike."""


@dataclass
class NetworkBuilder:
    """One network under construction; tensors are named after the node that makes them, channels first, no batch."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    power: dict[str, float] = field(default_factory=dict)
    sums: set[str] = field(default_factory=set)

    # -- plumbing -------------------------------------------------------------------------------------------

    def input(self, name: str, *shape: int) -> str:
        """A graph input of zero mean and unit variance, shape without batch."""
        self.inputs.append(name)
        return self._is(name, shape, 1.0)

    def node(
        self, op: str, name: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any
    ) -> str:
        self.nodes.append(
            helper.make_node(op, list(inputs), list(outputs) or [name], name=name, **attributes)
        )
        return name

    def constant(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def model(self, name: str, *outputs: str) -> onnx.ModelProto:
        def info(tensor: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [1, *self.shapes[tensor]])

        graph = helper.make_graph(
            self.nodes, name, [info(i) for i in self.inputs], [info(o) for o in outputs], self.weights
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="sateen"
        )
        model.ir_version = IR_VERSION
        return model

    def derived(self, name: str, shape: tuple[int, ...], power: float) -> str:
        """Says of what `node` made its shape, without batch, and its mean square."""
        return self._is(name, shape, power)

    def _is(self, name: str, shape: tuple[int, ...], power: float) -> str:
        self.shapes[name], self.power[name] = tuple(shape), power
        return name

    # -- layers that compute --------------------------------------------------------------------------------

    def conv(
        self,
        name: str,
        x: str,
        out: int,
        kernel: Size,
        stride: Size = 1,
        *,
        groups: int = 1,
        pads: Sequence[int] | None = None,
        dilation: Size = 1,
        gain: float | None = None,
    ) -> str:
        """Conv, 1-D or 2-D as `x` is. Pads of half the kernel by default. `gain` replaces 1 / power of `x`."""
        inputs, *size = self.shapes[x]
        k, s, d = (each(v, len(size)) for v in (kernel, stride, dilation))
        if pads is None:
            pads = [(n - 1) * f // 2 for n, f in zip(k, d, strict=True)] * 2
        shape = (out, inputs // groups, *k)
        operands = [x, *self._weight(name, shape, 1 / self.power[x] if gain is None else gain)]
        attributes: dict[str, Any] = {"kernel_shape": list(k), "pads": list(pads), "strides": list(s)}
        if groups > 1:
            attributes["group"] = groups
        if set(d) != {1}:
            attributes["dilations"] = list(d)
        self.node("Conv", name, operands, **attributes)
        plane = _windows(size, k, s, pads, d)
        return self._is(name, (out, *plane), self.power[x] * (1 / self.power[x] if gain is None else gain))

    def depthwise(self, name: str, x: str, kernel: Size, stride: Size = 1, **options: Any) -> str:
        channels = self.shapes[x][0]
        return self.conv(name, x, channels, kernel, stride, groups=channels, **options)

    def conv_transpose(self, name: str, x: str, out: int, kernel: int, stride: int) -> str:
        """A plane that is `stride` times as large, without padding; `kernel` is a multiple of `stride`."""
        inputs, *size = self.shapes[x]
        taps = (kernel // stride) ** 2 * inputs
        weight = self.rng.standard_normal((inputs, out, kernel, kernel)) / np.sqrt(taps * self.power[x])
        bias = 0.05 * self.rng.standard_normal(out)
        named = zip(("weight", "bias"), (weight, bias), strict=True)
        constants = [self.constant(f"{name}.{part}", v.astype(np.float32)) for part, v in named]
        self.node("ConvTranspose", name, [x, *constants], kernel_shape=[kernel] * 2, strides=[stride] * 2)
        return self._is(name, (out, *((n - 1) * stride + kernel for n in size)), 1.0)

    def gate(self, name: str, x: str, squeezed: int, inner: str, outer: str) -> str:
        """Squeeze-and-excitation; the functions by ONNX's names, and "Silu"."""
        channels, *plane = self.shapes[x]
        self.node("GlobalAveragePool", f"{name}.mean", [x])
        y = self._is(f"{name}.mean", (channels, *(1 for _ in plane)), 0.3 * self.power[x])
        y = self.conv(f"{name}.squeeze", y, squeezed, 1)
        y = self.silu(f"{name}.f1", y) if inner == "Silu" else self.function(inner, f"{name}.f1", y)
        y = self.function(outer, f"{name}.f2", self.conv(f"{name}.excite", y, channels, 1))
        self.node("Mul", name, [x, y])
        return self._is(name, self.shapes[x], 0.3 * self.power[x])

    def linear(self, name: str, x: str, out: int, gain: float | None = None, weight: str = "") -> str:
        """Gemm of a vector; `weight` names its constants, by default as itself."""
        (features,) = self.shapes[x]
        gain = 1 / self.power[x] if gain is None else gain
        self.node("Gemm", name, [x, *self._weight(weight or name, (out, features), gain)], transB=1)
        return self._is(name, (out,), 1.0)

    def _weight(self, name: str, shape: tuple[int, ...], gain: float) -> list[str]:
        """Normal weights of variance gain / fan-in, and a small bias as folded normalization leaves."""
        values = self.rng.standard_normal(shape) * np.sqrt(gain / math.prod(shape[1:]))
        bias = 0.05 * self.rng.standard_normal(shape[0])
        named = zip(("weight", "bias"), (values, bias), strict=True)
        return [self.constant(f"{name}.{part}", v.astype(np.float32)) for part, v in named]

    def normalize(self, name: str, x: str) -> str:
        """BatchNormalization that stands by itself, in front of what it would fold into."""
        c, deviation = self.shapes[x][0], math.sqrt(self.power[x])
        values = {
            "scale": self.rng.uniform(0.8, 1.2, c),
            "shift": 0.1 * self.rng.standard_normal(c),
            "mean": 0.1 * deviation * self.rng.standard_normal(c),
            "variance": self.power[x] * self.rng.uniform(0.8, 1.2, c),
        }
        named = [self.constant(f"{name}.{part}", v.astype(np.float32)) for part, v in values.items()]
        self.node("BatchNormalization", name, [x, *named])
        return self._is(name, self.shapes[x], 1.0)

    # -- functions, sums, pools -----------------------------------------------------------------------------

    def relu(self, name: str, x: str) -> str:
        return self.function("Relu", name, x)

    def relu6(self, name: str, x: str) -> str:
        if "relu6.low" not in self.shapes:
            for bound, value in (("low", 0.0), ("high", 6.0)):
                self._is(self.constant(f"relu6.{bound}", np.array(value, np.float32)), (), value)
        self.node("Clip", name, [x, "relu6.low", "relu6.high"])
        return self._is(name, self.shapes[x], self._after("Clip", x))

    def leaky_relu(self, name: str, x: str, alpha: float = 0.1) -> str:
        return self.function("LeakyRelu", name, x, alpha=alpha)

    def prelu(self, name: str, x: str) -> str:
        """One slope for each channel, 0.05 to 0.45."""
        channels, *plane = self.shapes[x]
        slope = self.rng.uniform(0.05, 0.45, (channels, *(1 for _ in plane)))
        self.node("PRelu", name, [x, self.constant(f"{name}.slope", slope.astype(np.float32))])
        return self._is(name, self.shapes[x], self._after("PRelu", x))

    def hard_swish(self, name: str, x: str) -> str:
        return self.function("HardSwish", name, x)

    def silu(self, name: str, x: str) -> str:
        self.node("Sigmoid", f"{name}.sigmoid", [x])
        self.node("Mul", name, [x, f"{name}.sigmoid"])
        return self._is(name, self.shapes[x], self._after("Silu", x))

    def function(self, op: str, name: str, x: str, **attributes: Any) -> str:
        self.node(op, name, [x], **attributes)
        return self._is(name, self.shapes[x], self._after(op, x))

    def _after(self, op: str, x: str) -> float:
        """Power of a function of `x`; of a sum all is kept, as most of it is what the function's like gave before."""
        return self.power[x] * (1.0 if x in self.sums else POWER.get(op, 0.5))

    def add(self, name: str, a: str, b: str) -> str:
        self.node("Add", name, [a, b])
        self.sums.add(name)
        return self._is(name, self.shapes[a], self.power[a] + self.power[b])

    def max_pool(
        self,
        name: str,
        x: str,
        kernel: Size,
        stride: Size,
        pads: Sequence[int] | None = None,
        ceil: bool = False,
    ) -> str:
        return self._pool("MaxPool", name, x, kernel, stride, pads, ceil)

    def average_pool(
        self, name: str, x: str, kernel: Size, stride: Size, pads: Sequence[int] | None = None
    ) -> str:
        """Zeros of the padding count."""
        return self._pool("AveragePool", name, x, kernel, stride, pads, False)

    def _pool(
        self, op: str, name: str, x: str, kernel: Size, stride: Size, pads: Sequence[int] | None, ceil: bool
    ) -> str:
        channels, *size = self.shapes[x]
        k, s = each(kernel, len(size)), each(stride, len(size))
        attributes: dict[str, Any] = {"pads": list(pads)} if pads is not None else {}
        if ceil:
            attributes["ceil_mode"] = 1
        if op == "AveragePool" and pads is not None:
            attributes["count_include_pad"] = 1
        self.node(op, name, [x], kernel_shape=list(k), strides=list(s), **attributes)
        plane = _windows(size, k, s, pads or [0] * 2 * len(size), each(1, len(size)), ceil)
        return self._is(name, (channels, *plane), self.power[x] * (MAX_POWER if op == "MaxPool" else 0.6))

    def global_pool(self, name: str, x: str) -> str:
        """The mean of each channel, as a vector."""
        self.node("GlobalAveragePool", name, [x])
        self._is(name, (self.shapes[x][0], *(1 for _ in self.shapes[x][1:])), 0.5 * self.power[x])
        return self.flatten("flatten", name)

    # -- layout ---------------------------------------------------------------------------------------------

    def flatten(self, name: str, x: str) -> str:
        self.node("Flatten", name, [x], axis=1)
        return self._is(name, (math.prod(self.shapes[x]),), self.power[x])

    def concat(self, name: str, *parts: str) -> str:
        self.node("Concat", name, parts, axis=1)
        channels = [self.shapes[p][0] for p in parts]
        power = sum(c * self.power[p] for c, p in zip(channels, parts, strict=True)) / sum(channels)
        return self._is(name, (sum(channels), *self.shapes[parts[0]][1:]), power)

    def halves(self, name: str, x: str) -> tuple[str, str]:
        """The first and the second half of the channels."""
        channels, *plane = self.shapes[x]
        names = (f"{name}.0", f"{name}.1")
        self.node("Split", name, [x], names, axis=1)
        for n in names:
            self._is(n, (channels // 2, *plane), self.power[x])
        return names

    def resize(self, name: str, x: str, mode: str = "nearest") -> str:
        """Twice as many rows and columns."""
        channels, *plane = self.shapes[x]
        scales = self.constant(f"{name}.scales", np.array([1, 1, *(2 for _ in plane)], np.float32))
        transform = "asymmetric" if mode == "nearest" else "half_pixel"
        how = {"coordinate_transformation_mode": transform, "nearest_mode": "floor"}
        self.node("Resize", name, [x, "", scales], mode=mode, **how)
        return self._is(name, (channels, *(2 * n for n in plane)), self.power[x])

    def depth_to_space(self, name: str, x: str, block: int) -> str:
        channels, *plane = self.shapes[x]
        self.node("DepthToSpace", name, [x], blocksize=block, mode="CRD")
        return self._is(name, (channels // block**2, *(block * n for n in plane)), self.power[x])

    def lines(self, name: str, x: str) -> str:
        """Rows and columns as one dimension."""
        channels, *plane = self.shapes[x]
        shape = self.constant(f"{name}.shape", np.array([1, channels, math.prod(plane)]))
        self.node("Reshape", name, [x, shape])
        return self._is(name, (channels, math.prod(plane)), self.power[x])

    def side_by_side(self, name: str, *parts: str) -> str:
        """Along the last dimension."""
        self.node("Concat", name, parts, axis=-1)
        *before, _ = self.shapes[parts[0]]
        power = sum(self.power[p] for p in parts) / len(parts)
        return self._is(name, (*before, sum(self.shapes[p][-1] for p in parts)), power)

    def shuffle(self, name: str, x: str, groups: int) -> str:
        """Channel shuffle: channel i of group g becomes channel g of group i."""
        channels, *plane = self.shapes[x]
        split = self.constant(f"{name}.split", np.array([1, groups, channels // groups, *plane]))
        merged = self.constant(f"{name}.merged", np.array([1, channels, *plane]))
        y = self.node("Reshape", f"{name}.grouped", [x, split])
        y = self.node("Transpose", f"{name}.turned", [y], perm=[0, 2, 1, *range(3, 3 + len(plane))])
        self.node("Reshape", name, [y, merged])
        return self._is(name, self.shapes[x], self.power[x])

    def pad_channels(self, name: str, x: str, channels: int) -> str:
        """Zero channels behind the others."""
        have, *plane = self.shapes[x]
        amounts = [0, 0, *(0 for _ in plane), 0, channels - have, *(0 for _ in plane)]
        self.node("Pad", name, [x, self.constant(f"{name}.pads", np.array(amounts))])
        return self._is(name, (channels, *plane), self.power[x] * have / channels)


def each(value: Size, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else value


def _windows(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    ceil: bool = False,
) -> tuple[int, ...]:
    out = []
    for i, n in enumerate(size):
        span = n + pads[i] + pads[i + len(size)] - (kernel[i] - 1) * dilation[i] - 1
        steps = -(-span // stride[i]) if ceil else span // stride[i]
        if steps * stride[i] >= n + pads[i]:  # a window that starts in the padding behind is not there
            steps -= 1
        out.append(steps + 1)
    return tuple(out)
