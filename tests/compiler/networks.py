"""Small float networks built by hand, and an evaluation of them apart from the code under test."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Add, Concat, Conv, Pool
from sateen.ir.ports import HostOp, Output, Port


@dataclass
class Builder:
    """Nodes appended one by one; every method returns the name of the tensor that it writes."""

    seed: int = 0
    nodes: list = field(default_factory=list)
    shapes: dict = field(default_factory=dict)
    inputs: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def _write(self, kind: str, shape: tuple[int, int, int]) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.shapes[name] = shape
        return name

    def input(self, h: int, w: int, c: int, name: str = "x") -> str:
        """Presented as ONNX does, (C, H, W)."""
        self.inputs.append(Port(name, (c, h, w), (c, h, w), (1, 2, 0)))
        self.shapes[name] = (h, w, c)
        return name

    def conv(
        self, x: str, out: int, k=3, stride=1, pad=None, groups=1, dilation=1, bias=True, std=None
    ) -> str:
        h, w, c = self.shapes[x]
        kh, kw = (k, k) if isinstance(k, int) else k
        pads = (pad,) * 4 if isinstance(pad, int) else pad or (kh // 2, kw // 2, kh // 2, kw // 2)
        oh = (h + pads[0] + pads[2] - (kh - 1) * dilation - 1) // stride + 1
        ow = (w + pads[1] + pads[3] - (kw - 1) * dilation - 1) // stride + 1
        fan = kh * kw * c // groups
        weight = self.rng.normal(0, fan**-0.5, (out, kh, kw, c // groups))
        b = self.rng.normal(0, 0.2, out)
        name = self._write("conv", (oh, ow, out))
        self.nodes.append(
            Conv(name, x, name, weight, b, (stride, stride), (dilation, dilation), pads, groups)
        )
        return name

    def select(
        self, x: str, channels: list[int], crop=(0, 0, 0, 0), stride: int = 1, scale: float = 1.0
    ) -> str:
        """Channels, -1 for zeros, without the outermost rows and columns, and of those every nth, times `scale`."""
        h, w, _ = self.shapes[x]
        top, left, bottom, right = crop
        shape = ((h - top - bottom - 1) // stride + 1, (w - left - right - 1) // stride + 1, len(channels))
        name = self._write("select", shape)
        found = np.array(channels)
        weight = scale * (found >= 0).reshape(-1, 1, 1, 1)
        self.nodes.append(
            Conv(name, x, name, weight, np.zeros(len(found)), (stride, stride), pads=tuple(-c for c in crop),
                 groups=len(found), channels=np.maximum(found, 0)[:, None])
        )  # fmt: skip
        return name

    def gemm(self, x: str, out: int) -> str:
        h, w, _ = self.shapes[x]
        return self.conv(x, out, k=(h, w), pad=0)

    def clip(self, x: str, low: float = 0.0, high: float = np.inf) -> str:
        name = self._write("clip", self.shapes[x])
        self.nodes.append(Activation(name, x, name, "clip", low=low, high=high))
        return name

    def function(self, x: str, function: str, **parameters: float) -> str:
        name = self._write(function, self.shapes[x])
        self.nodes.append(Activation(name, x, name, function, tuple(parameters.items())))
        return name

    def add(self, a: str, b: str) -> str:
        name = self._write("add", self.shapes[a])
        self.nodes.append(Add(name, a, b, name))
        return name

    def pool(self, x: str, kind: str, k, stride: int | None = None, pad: int = 0) -> str:
        h, w, c = self.shapes[x]
        k = (k, k) if isinstance(k, int) else k
        s = stride or k[0]
        name = self._write(f"{kind}_pool", ((h + 2 * pad - k[0]) // s + 1, (w + 2 * pad - k[1]) // s + 1, c))
        self.nodes.append(Pool(name, x, name, kind, k, (s, s), (1, 1), (pad,) * 4))
        return name

    def concat(self, *parts: str) -> str:
        h, w, _ = self.shapes[parts[0]]
        name = self._write("concat", (h, w, sum(self.shapes[p][2] for p in parts)))
        self.nodes.append(Concat(name, parts, name))
        return name

    def graph(self, *outputs: str, softmax: bool = False) -> Graph:
        found = []
        for i, tensor in enumerate(outputs):
            h, w, c = self.shapes[tensor]
            name = "out" if i == 0 else f"out{i}"
            port = (
                Port(name, (c,), (1, 1, c))
                if (h, w) == (1, 1)
                else Port(name, (c, h, w), (c, h, w), (1, 2, 0))
            )
            found.append(Output(port, tensor, (HostOp("softmax", -1),) if softmax else ()))
        graph = Graph("net", tuple(self.inputs), tuple(found), tuple(self.nodes), dict(self.shapes))
        graph.verify()
        return graph

    def samples(self, n: int = 16, seed: int = 1) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {p.name: rng.normal(0, 1, (n, *p.shape)).astype(np.float32) for p in self.inputs}


def run_slowly(graph: Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor (N, H, W, C) in float64, window by window."""
    from sateen.compiler.functions import evaluate

    t = {p.name: p.to_hwc(np.asarray(inputs[p.name], np.float64)) for p in graph.inputs}
    for node in graph.nodes:
        match node:
            case Conv():
                t[node.output] = np.stack(_convolve(t[node.input], node), axis=-1)
            case Add():
                t[node.output] = t[node.input_a] + t[node.input_b]
            case Activation():
                t[node.output] = evaluate(node, t[node.input])
            case Concat():
                t[node.output] = np.concatenate([t[p] for p in node.parts], axis=-1)
            case Pool():
                fill = -np.inf if node.kind == "max" else 0.0
                reduce = np.max if node.kind == "max" else np.mean
                h, w, _ = graph.shapes[node.output]
                padded = _padded(t[node.input], node.pads, fill)
                t[node.output] = np.stack(
                    [
                        np.stack(
                            [reduce(_window(padded, node, node.kernel, y, x), axis=(1, 2)) for x in range(w)],
                            axis=1,
                        )
                        for y in range(h)
                    ],
                    axis=1,
                )
    return t


def _padded(x: np.ndarray, pads: tuple[int, int, int, int], fill: float) -> np.ndarray:
    top, left, bottom, right = (max(-p, 0) for p in pads)
    x = x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]
    top, left, bottom, right = (max(p, 0) for p in pads)
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)


def _window(x: np.ndarray, node, kernel: tuple[int, int], oy: int, ox: int) -> np.ndarray:
    y, x0 = oy * node.stride[0], ox * node.stride[1]
    ys = y + np.arange(kernel[0]) * node.dilation[0]
    xs = x0 + np.arange(kernel[1]) * node.dilation[1]
    return x[:, ys][:, :, xs]


def _convolve(x: np.ndarray, node: Conv, fill: float = 0.0) -> list[np.ndarray]:
    o, kh, kw, per_group = node.weight.shape
    padded = _padded(x, node.pads, fill)
    h = (padded.shape[1] - (kh - 1) * node.dilation[0] - 1) // node.stride[0] + 1
    w = (padded.shape[2] - (kw - 1) * node.dilation[1] - 1) // node.stride[1] + 1
    channels = []
    for c in range(o):
        first = c // (o // node.groups) * per_group
        plane = np.empty((len(x), h, w))
        for y in range(h):
            for x0 in range(w):
                window = _window(padded, node, (kh, kw), y, x0)
                read = slice(first, first + per_group) if node.channels is None else node.channels[c]
                window = window[..., read]
                plane[:, y, x0] = (window * node.weight[c]).sum(axis=(1, 2, 3)) + node.bias[c]
        channels.append(plane)
    return channels


def lenet(seed: int = 0) -> tuple[Graph, Builder]:
    b = Builder(seed)
    y = b.clip(b.conv(b.input(12, 12, 1), 6, 5, pad=0))
    y = b.pool(y, "max", 2)
    y = b.clip(b.conv(y, 16, 3))
    return b.graph(b.gemm(y, 10)), b


def residual(seed: int = 0) -> tuple[Graph, Builder]:
    b = Builder(seed)
    a = b.clip(b.conv(b.input(8, 8, 3), 8))
    main = b.conv(a, 12, 3, stride=2)
    side = b.conv(a, 12, 1, stride=2)
    y = b.clip(b.add(main, side))
    y = b.pool(y, "average", 4)
    return b.graph(b.gemm(y, 5)), b


def mlp(seed: int = 0) -> tuple[Graph, Builder]:
    b = Builder(seed)
    y = b.function(b.gemm(b.input(1, 1, 50), 40), "tanh")
    return b.graph(b.gemm(y, 3)), b


def everything(seed: int = 0) -> tuple[Graph, Builder]:
    """All ops and all ways of fusing them."""
    b = Builder(seed)
    x = b.input(8, 8, 4)
    a = b.function(b.conv(x, 8), "sigmoid")
    d = b.clip(b.conv(a, 8, 3, groups=8), 0, 6)
    e = b.add(a, d)  # no convolution to fuse: an identity
    f = b.function(e, "leaky_relu", alpha=0.1)
    g = b.concat(f, b.pool(x, "max", 3, stride=1, pad=1))
    h = b.conv(g, 8, 3, groups=2, dilation=2, pad=2)
    i = b.clip(b.add(h, e), -1, 1)
    j = b.clip(i, 0, 0.5)  # alone
    k = b.add(b.pool(j, "average", (2, 3), stride=2), b.conv(i, 8, (2, 3), stride=2, pad=0))
    m = b.function(k, "hard_swish")
    return b.graph(b.gemm(m, 7), m, k, i), b


def selections(seed: int = 0) -> tuple[Graph, Builder]:
    """Channels in another order, repeated, left out and zero; a part of the plane; alone and fused."""
    b = Builder(seed)
    x = b.input(7, 6, 5)
    c = b.clip(b.conv(x, 20))
    mixed = b.clip(b.select(c, [19, 0, 7, 7, 3, -1, 12, 1, 18, 4]), 0, 0.8)
    part = b.select(mixed, list(range(10)), crop=(1, 2, 0, 1))
    odd = b.function(b.select(c, list(range(1, 20, 2)), crop=(1, 1, 0, 2), scale=0.7), "tanh")
    y = b.add(b.select(part, [2, 3, 4, 5, 6, 7, 8, 9, 0, 1]), b.select(odd, list(range(10))))
    z = b.select(b.select(x, [4, 2]), [1, 0], crop=(1, 0, 1, 1), stride=2)
    return b.graph(b.gemm(y, 5), z, y), b


NETWORKS = {"lenet": lenet, "residual": residual, "mlp": mlp, "everything": everything} | {
    "selections": selections
}
