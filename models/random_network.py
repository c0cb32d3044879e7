"""Random networks, each from a seed, of every shape that the machine computes: what the fuzzer feeds the engines.

Most are small; some are deep, some wide, some have large planes. Tensors are read more than once, added to others and
to themselves, concatenated and split; windows are padded unevenly, dilated and grouped; there are several inputs and
outputs; weights may be all zero, all equal, of ranges that differ by 2**20, or pruned to N:M.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from sateen.models.network_builder import NetworkBuilder

FUNCTIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "Elu", "Softplus", "HardSigmoid")
PRUNED = ((1, 2), (2, 4), (4, 8), (1, 4), (2, 8), (1, 8), (2, 16))


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a network is: the most blocks, channels, elements of a plane's axis and multiplications."""

    blocks: int
    channels: int
    side: int
    macs: int


SMALL = Scale(4, 24, 12, 150_000)
SCALES = {
    "small": SMALL,
    "deep": Scale(24, 12, 6, 200_000),
    "wide": Scale(3, 200, 5, 300_000),
    "plane": Scale(3, 12, 60, 300_000),
}
SHARES = (0.64, 0.12, 0.12, 0.12)


def random_network(seed: int, scale: Scale | None = None, *, unsigned: bool = False) -> onnx.ModelProto:
    """The network of a seed; of `scale`, or of one of SCALES by chance; `unsigned` has no weight below 0."""
    rng = np.random.default_rng(seed)
    if scale is None:
        scale = SCALES[str(rng.choice(list(SCALES), p=SHARES))]
    grower = Grower(NetworkBuilder(rng), scale)
    model = grower.grown()
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".weight"):
            weight = _degenerate(numpy_helper.to_array(tensor), rng)
            tensor.CopyFrom(numpy_helper.from_array(np.abs(weight) if unsigned else weight, tensor.name))
    return model


@dataclass
class Grower:
    """A network that grows by blocks drawn at random."""

    b: NetworkBuilder
    scale: Scale
    spent: int = 0
    open: list[str] = field(default_factory=list)
    """Tensors that have a plane and may be read again."""
    read: set[str] = field(default_factory=set)
    outputs: list[str] = field(default_factory=list)

    # -- chance ---------------------------------------------------------------------------------------------

    def any(self, low: int, high: int) -> int:
        return int(self.b.rng.integers(low, max(low, high) + 1))

    def chance(self, p: float) -> bool:
        return bool(self.b.rng.random() < p)

    def one(self, options: Sequence[str]) -> str:
        return options[self.any(0, len(options) - 1)]

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.b.nodes)}"

    def use(self, x: str) -> str:
        self.read.add(x)
        return x

    def source(self) -> str:
        """Most often what came last."""
        return self.use(self.open[-1] if self.chance(0.75) else self.one(self.open))

    def like(self, x: str, channels: bool) -> list[str]:
        """Open tensors of the same plane, or the same shape."""
        first = 0 if channels else 1
        return [t for t in self.open if self.b.shapes[t][first:] == self.b.shapes[x][first:]]

    # -- the network ----------------------------------------------------------------------------------------

    def grown(self) -> onnx.ModelProto:
        axes = 1 if self.chance(0.15) else 2
        side = self.scale.side * (4 if axes == 1 else 1)
        shape = (self.any(1, min(20, self.scale.channels)), *(self.any(1, side) for _ in range(axes)))
        self.open.append(self.b.input("x", *shape))
        self.conv()
        if self.chance(0.15):
            self.open.append(
                self.b.input("x2", *(shape if self.chance(0.7) else (self.any(1, 9), *shape[1:])))
            )
        blocks = self.blocks()
        for _ in range(self.any(1, self.scale.blocks)):
            blocks[self.any(0, len(blocks) - 1)]()
        if self.chance(0.4):
            self.classify()
        loose = [t for t in self.open if t not in self.read and t not in self.b.inputs]
        for i in self.b.inputs:  # every input is read
            if i not in self.read:
                self.open.append(i)
                loose.append(self.convolve(i, self.any(1, 5)))
        if not self.outputs and not loose:  # what came last was read for a block that was not to be
            loose.append(self.convolve(self.open[-1], self.any(1, 9)))
        outputs = [*self.outputs, *loose[-2:]]
        inner = [t for t in self.open if t in self.read and t not in self.b.inputs]
        if inner and self.chance(0.2):
            outputs.append(self.one(inner))
        return self.b.model("random", *dict.fromkeys(outputs))

    def blocks(self) -> Sequence[Callable[[], None]]:
        """What is drawn from; what is there twice comes twice as often."""
        return (
            self.conv, self.conv, self.conv, self.depthwise, self.pool, self.activate, self.residual, self.add,
            self.concat, self.split, self.shuffle, self.pad, self.normalize,
        )  # fmt: skip

    def classify(self) -> None:
        x, name = self.source(), self.name("head")
        vector = self.b.global_pool(name, x) if self.chance(0.5) else self.b.flatten(name, x)
        classes = self.any(1, 20)
        if self.chance(0.3):
            hidden = self.b.linear(f"{name}.hidden", vector, self.any(1, 2 * self.scale.channels))
            vector = self.b.function(self.one(FUNCTIONS), f"{name}.function", hidden)
        self.outputs.append(self.b.linear(f"{name}.logits", vector, classes))

    def add_block(self, y: str) -> str:
        self.open.append(y)
        return y

    def convolve(self, x: str, out: int, *, same: bool = False, groups: int | None = None) -> str:
        """A convolution of any geometry that the plane and the budget allow, keeping the plane where it is `same`."""
        channels, *size = self.b.shapes[x]
        if groups is None:
            divisors = [g for g in range(1, channels + 1) if channels % g == 0]
            groups = divisors[self.any(0, len(divisors) - 1)] if self.chance(0.15) else 1
            out = -(-out // groups) * groups
        kernel, stride, pads, dilation = [], [], [[], []], []  # type: ignore[var-annotated]
        for n in size:
            k = min(self.any(1, 5) if self.chance(0.2) else self.any(1, 3), n + 2)
            if same:
                k -= 1 - k % 2
            d = self.any(1, 3) if k > 1 and self.chance(0.15) else 1
            span = (k - 1) * d + 1
            before, after = (span // 2,) * 2 if same else (self.any(0, span - 1) for _ in range(2))
            if not same and self.chance(0.3):
                before = after = 0
            if n + before + after < span:
                before, after = span // 2, span - span // 2
            kernel.append(k)
            dilation.append(d)
            stride.append(1 if same else self.any(1, 3) if self.chance(0.3) else 1)
            pads[0].append(before)
            pads[1].append(after)
        # Channels until the budget is used up.
        plane = math.prod(
            (n + a + b - (k - 1) * d - 1) // s + 1
            for n, a, b, k, d, s in zip(size, *pads, kernel, dilation, stride, strict=True)
        )
        each = max(1, math.prod(kernel) * (channels // groups) * plane)
        if groups == 1 and not same:
            out = max(1, min(out, (self.scale.macs - self.spent) // each))
        self.spent += out * each
        return self.b.conv(
            self.name("conv"), x, out, tuple(kernel), tuple(stride), groups=groups, pads=[*pads[0], *pads[1]],
            dilation=tuple(dilation),
        )  # fmt: skip

    def conv(self) -> None:
        y = self.convolve(self.source(), self.any(1, self.scale.channels))
        self.add_block(self.activated(y) if self.chance(0.6) else y)

    def depthwise(self) -> None:
        x = self.source()
        channels = self.b.shapes[x][0]
        self.add_block(self.convolve(x, channels * self.any(1, 2), groups=channels))

    def activated(self, x: str) -> str:
        kind, name = self.any(0, 5), self.name("function")
        if kind == 0:
            return self.b.prelu(name, x)
        if kind == 1:
            return self.b.silu(name, x)
        if kind == 2:
            return self.b.relu6(name, x)
        if kind == 3 and self.chance(0.9):
            return self.b.function(self.one(FUNCTIONS), name, x)
        return self.b.relu(name, x)

    def activate(self) -> None:
        self.add_block(self.activated(self.source()))

    def residual(self) -> None:
        x = self.source()
        y = self.convolve(x, self.any(1, self.scale.channels), same=True)
        y = self.convolve(self.activated(y), self.b.shapes[x][0], same=True, groups=1)
        y = self.b.add(self.name("add"), *((x, y) if self.chance(0.5) else (y, x)))
        self.add_block(self.activated(y) if self.chance(0.5) else y)

    def add(self) -> None:
        x = self.source()
        self.add_block(self.b.add(self.name("add"), x, self.use(self.one(self.like(x, channels=True)))))

    def concat(self) -> None:
        x = self.source()
        parts = [x, *(self.use(self.one(self.like(x, channels=False))) for _ in range(self.any(1, 2)))]
        if sum(self.b.shapes[p][0] for p in parts) <= 3 * self.scale.channels:
            self.add_block(self.b.concat(self.name("concat"), *parts))

    def split(self) -> None:
        x = self.source()
        if self.b.shapes[x][0] % 2 == 0:
            self.open.extend(self.b.halves(self.name("split"), x))

    def shuffle(self) -> None:
        x = self.source()
        groups = [g for g in (2, 3, 4) if self.b.shapes[x][0] % g == 0]
        if groups:
            self.add_block(self.b.shuffle(self.name("shuffle"), x, groups[self.any(0, len(groups) - 1)]))

    def pad(self) -> None:
        x = self.source()
        if self.b.shapes[x][0] < 2 * self.scale.channels:
            self.add_block(self.b.pad_channels(self.name("pad"), x, self.b.shapes[x][0] + self.any(1, 5)))

    def normalize(self) -> None:
        self.add_block(self.b.normalize(self.name("norm"), self.source()))

    def pool(self) -> None:
        x = self.source()
        size = self.b.shapes[x][1:]
        kernel = tuple(min(n, self.any(1, 3)) for n in size)
        stride = tuple(self.any(1, 3) for _ in size)
        pads = [self.any(0, k - 1) for k in kernel * 2] if self.chance(0.4) else None
        if self.chance(0.5):
            # With wider strides ONNX's shape inference and ONNX Runtime disagree about the last window.
            overlapping = all(s <= k for s, k in zip(stride, kernel, strict=True))
            ceil = pads is None and overlapping and self.chance(0.5)
            self.add_block(self.b.max_pool(self.name("pool"), x, kernel, stride, pads, ceil))
        else:
            self.add_block(self.b.average_pool(self.name("pool"), x, kernel, stride, pads))


def _degenerate(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Now and then, weights that no training would leave."""
    out = weight.copy()
    outputs = len(out)
    column = (outputs, *(1 for _ in out.shape[1:]))
    match int(rng.integers(0, 40)):
        case 0:
            out[:] = 0
        case 1:
            out[:] = rng.choice([1.0, -0.25, 1e-6])
        case 2:
            out[rng.integers(0, outputs)] = 0
        case 3:
            out *= np.exp2(rng.integers(-10, 11, column))
        case 4:
            out *= np.exp2(float(rng.integers(-20, 21)))
        case 5:
            keep = rng.integers(0, out.size)
            out.reshape(-1)[np.arange(out.size) != keep] = 0
        case 6:
            out = np.abs(out)
        case 7 | 8 | 9 | 10:
            out = _pruned(out, *PRUNED[int(rng.integers(0, len(PRUNED)))])
    return out.astype(np.float32)


def _pruned(weight: np.ndarray, n: int, m: int) -> np.ndarray:
    """The n largest of every m consecutive input channels."""
    out = weight.copy()
    for first in range(0, weight.shape[1], m):
        part = out[:, first : first + m]
        order = np.argsort(-np.abs(part), axis=1, kind="stable")
        np.put_along_axis(part, order[:, n:], 0.0, axis=1)
    return out
