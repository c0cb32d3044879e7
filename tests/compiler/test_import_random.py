"""Random networks of every operator: what is imported computes what ONNX Runtime computes.

A layout that the machine cannot have may be refused; then the message must name the node.
"""

import re

import numpy as np
import pytest
from onnx_nets import Net, compare, runtime, samples

from sateen.errors import ModelError
from sateen.models.random_computed import random_computed_network
from sateen.models.random_network import SMALL

NETWORKS = 60


class Grower:
    """Appends random nodes to a network, on (batch, channels, height, width) or, `last`, channels last."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.net = Net(int(self.rng.choice([11, 12])), seed)
        self.last = bool(self.rng.integers(4) == 0)
        self.batch = [1, 3, "N"][self.rng.integers(3)]
        self.shape = [int(self.rng.integers(1, 6)), *(int(s) for s in self.rng.integers(1, 9, 2))]
        self.residuals: list[tuple[list[int], str]] = []
        c, h, w = self.shape
        self.tensor = self.net.input(self.batch, *((h, w, c) if self.last else (c, h, w)))

    def channels_first(self) -> None:
        if self.last:
            self.tensor = self.net("Transpose", self.tensor, perm=[0, 3, 1, 2])
            self.last = False

    def any(self, n: int, low: int = 1) -> int:
        return int(self.rng.integers(low, n + 1))

    def window(self, most: int = 3) -> dict:
        """Attributes of a window that fits."""
        _, h, w = self.shape
        kernel = [self.any(min(most, s)) for s in (h, w)]
        out = {"kernel_shape": kernel, "strides": [self.any(3), self.any(3)]}
        choice = self.any(3)
        if choice == 1:
            out["auto_pad"] = ["SAME_UPPER", "SAME_LOWER", "VALID"][self.any(3) - 1]
        elif choice == 2:
            out["pads"] = [self.any(k - 1, 0) for k in kernel * 2]
        return out

    def grow(self) -> None:
        operations = [
            self.conv, self.pool, self.activation, self.constant, self.residual, self.concat, self.pad,
            self.normalize, self.turn, self.twist, self.take, self.keep,
        ]  # fmt: skip
        operations[self.rng.integers(len(operations))]()
        self.measure()

    def measure(self) -> None:
        """The sizes so far, from a run: ONNX's shape inference is wrong about some windows."""
        if self.net.nodes:
            model = self.net.output(self.tensor).model()
            self.net.outputs.clear()
            dims = [int(d) for d in runtime(model, samples(model))[self.tensor].shape[1:]]
            self.shape = [dims[2], *dims[:2]] if self.last else dims

    def conv(self) -> None:
        self.channels_first()
        c = self.shape[0]
        group = int(self.rng.choice([g for g in range(1, c + 1) if c % g == 0]))
        window = self.window()
        if "auto_pad" not in window and self.any(2) == 1:
            window["dilations"] = [1 if k == 1 else self.any(max(1, (s - 1) // (k - 1))) for k, s in
                                   zip(window["kernel_shape"], self.shape[1:], strict=True)]  # fmt: skip
        out = group * self.any(3)
        self.tensor = self.net.conv(self.tensor, c, out, *window["kernel_shape"], group=group, **window)

    def pool(self) -> None:
        self.channels_first()
        kind = ["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"][min(3, self.any(8, 0))]
        kind = kind if self.any(4) == 1 else kind.removeprefix("Global")
        attributes = {} if kind.startswith("Global") else self.window()
        if kind == "MaxPool" and "auto_pad" not in attributes:
            attributes["ceil_mode"] = self.any(1, 0)
        if kind == "AveragePool":
            attributes["count_include_pad"] = 1
        self.tensor = self.net(kind, self.tensor, **attributes)

    def activation(self) -> None:
        op = ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Softsign", "Abs", "HardSigmoid", "Neg"][
            self.any(8, 0)
        ]
        y = self.net(op, self.tensor)
        if self.any(4) == 1:
            y = self.net(["Mul", "Add", "Sub", "Max"][self.any(3, 0)], self.tensor, y)
        self.tensor = y

    def constant(self) -> None:
        c = self.shape[0]
        shape = [(), (1,), (c,) if self.last else (c, 1, 1), (1, 1, 1, c) if self.last else (1, c, 1, 1)][
            self.any(3, 0)
        ]
        value = self.net.random(*shape, low=0.5)
        op = ["Add", "Sub", "Mul", "Div"][self.any(3, 0)]
        pair = [value, self.tensor] if op != "Div" and self.any(2) == 1 else [self.tensor, value]
        self.tensor = self.net(op, *pair)

    def residual(self) -> None:
        for shape, tensor in self.residuals:
            if shape == [self.last, *self.shape]:
                self.tensor = self.net(["Add", "Sub"][self.any(1, 0)], self.tensor, tensor)
                return

    def concat(self) -> None:
        for shape, tensor in self.residuals:
            if shape[0] == self.last and shape[2:] == self.shape[1:] and shape[1] + self.shape[0] < 20:
                self.tensor = self.net("Concat", tensor, self.tensor, axis=3 if self.last else 1)
                return

    def pad(self) -> None:
        amounts = [0, self.any(1, 0), self.any(2, 0), self.any(2, 0)]
        amounts += [0, self.any(1, 0), self.any(2, 0), self.any(2, 0)]
        self.tensor = self.net("Pad", self.tensor, self.net.constant(amounts, np.int64))

    def normalize(self) -> None:
        self.channels_first()
        c = self.shape[0]
        self.tensor = self.net(
            "BatchNormalization", self.tensor, *(self.net.random(c, low=0.5) for _ in range(4))
        )

    def turn(self) -> None:
        if self.last:
            self.channels_first()
        else:
            self.tensor = self.net("Transpose", self.tensor, perm=[0, 2, 3, 1])
            self.last = True

    def twist(self) -> None:
        """Height and width swapped, or channels shuffled."""
        self.channels_first()
        c, h, w = self.shape
        if self.any(2) == 1:
            self.tensor = self.net("Transpose", self.tensor, perm=[0, 1, 3, 2])
        elif c % 2 == 0:
            n = self.batch if isinstance(self.batch, int) else 0
            y = self.net("Reshape", self.tensor, self.net.constant([n, 2, c // 2, h, w], np.int64))
            y = self.net("Transpose", y, perm=[0, 2, 1, 3, 4])
            self.tensor = self.net("Reshape", y, self.net.constant([n, c, h, w], np.int64))

    def take(self) -> None:
        axis = self.any(3)
        size = (self.shape[1:] + self.shape[:1] if self.last else self.shape)[axis - 1]
        start = self.any(size - 1, 0)
        given = (start, self.any(size, start + 1), axis, self.any(2))
        self.tensor = self.net("Slice", self.tensor, *(self.net.constant([v], np.int64) for v in given))

    def keep(self) -> None:
        self.residuals.append(([self.last, *self.shape], self.tensor))

    def finish(self) -> Net:
        net = self.net
        end = self.any(4)
        if end == 1:
            size = int(np.prod(self.shape))
            flat = net("Flatten", self.tensor)
            self.tensor = net("Gemm", flat, net.random(size, 3), net.random(3))
        elif end == 2:
            axes = [[2, 3], [1, 2]][self.last]
            self.tensor = net("ReduceMean", self.tensor, axes=axes, keepdims=self.any(1, 0))
        elif end == 3 and self.last:
            self.tensor = net("MatMul", self.tensor, net.random(self.shape[0], 4))
        kept = [t for _, t in self.residuals[:1] if t.startswith("conv") and t != self.tensor]
        return net.output(self.tensor, *kept)


@pytest.mark.parametrize("seed", range(NETWORKS))
def test_random_network(seed):
    grower = Grower(seed)
    for _ in range(grower.any(9, 2)):
        grower.grow()
    net = grower.finish()
    if not net.nodes:
        return
    try:
        compare(net)
    except ModelError as e:
        assert re.match(r"^(\w+ '\w+'|graph (in|out)put '\w+'): ", str(e)), e
        assert "malformed" not in str(e)


@pytest.mark.parametrize("seed", range(40))
def test_random_network_of_computed_operands(seed):
    """Products of two tensors, attention, normalization, recurrent layers, larger planes: all of it is taken."""
    compare(random_computed_network(seed, SMALL), tolerance=1e-3)
