"""Random quantized graphs, made of codes directly: every op, odd shapes, no floating-point network behind them."""

import numpy as np

from sateen.formats import Format
from sateen.ir.ports import Output, Port
from sateen.ir.quantized import Concat, Constant, Linear, MaxPool, Op, Quant, QuantizedGraph, Residual, Tensor


class Builder:
    """Grows a graph op by op; scales are 1, shifts chosen so that outputs use the format's range."""

    def __init__(
        self, rng: np.random.Generator, weight: Format, activation: Format, shape: tuple[int, int, int]
    ):
        self.rng, self.weight, self.activation = rng, weight, activation
        self.quant = Quant(activation, 1.0, 0)
        self.tensors = {"x": Tensor("x", shape, self.quant)}
        self.ops: list[Op] = []

    def _add(self, op: Op, shape: tuple[int, int, int]) -> str:
        self.ops.append(op)
        self.tensors[op.output] = Tensor(op.output, shape, self.quant)
        return op.output

    def codes(self, shape: tuple[int, ...]) -> np.ndarray:
        codes = self.rng.integers(0, 1 << self.weight.bits, shape).astype(np.uint8)
        return np.where(np.isfinite(self.weight.decode(codes)), codes, self.weight.zero_code).astype(np.uint8)

    def conv(
        self, x, out, kernel, stride=(1, 1), pads=(0, 0, 0, 0), dilation=(1, 1), groups=1, residual=None, raw=False,
        table=False,
    ):  # fmt: skip
        h, w, c = self.tensors[x].shape
        oh = (h + pads[0] + pads[2] - (kernel[0] - 1) * dilation[0] - 1) // stride[0] + 1
        ow = (w + pads[1] + pads[3] - (kernel[1] - 1) * dilation[1] - 1) // stride[1] + 1
        weight = self.codes((out, *kernel, c // groups))
        low, high = self.activation.min_fixed, self.activation.max_fixed
        sums = np.abs(self.weight.fixed(weight).astype(object)).reshape(out, -1).sum(1)
        largest = int(max(sums)) * max(high, -low)
        shift = max(1, largest.bit_length() - high.bit_length() + 12)
        name = f"t{len(self.ops)}"
        op = Linear(
            name, x, name, Constant(weight, self.weight),
            bias=self.rng.integers(-50, 50, out), multiplier=self.rng.integers(1 << 14, 1 << 16, out),
            shift=np.full(out, shift) + self.rng.integers(0, 2, out), requantized=self.quant,
            low=low if self.rng.random() < 0.5 else min(0, high), high=high,
            stride=stride, dilation=dilation, pads=pads, groups=groups,
            residual=Residual(residual, int(self.rng.integers(1, 1 << 16)), max(0, shift - 4)) if residual else None,
            table=self._table() if table else None, raw=raw, raw_scale=np.ones(out) if raw else None,
        )  # fmt: skip
        return self._add(op, (oh, ow, out))

    def _table(self) -> np.ndarray:
        table = self.rng.integers(0, 1 << self.activation.bits, 1 << self.activation.bits).astype(np.uint8)
        return np.where(np.isfinite(self.activation.decode(table)), table, self.activation.zero_code).astype(
            np.uint8
        )

    def pool(self, x, kernel, stride, pads):
        h, w, c = self.tensors[x].shape
        oh = (h + pads[0] + pads[2] - kernel[0]) // stride[0] + 1
        ow = (w + pads[1] + pads[3] - kernel[1]) // stride[1] + 1
        name = f"t{len(self.ops)}"
        return self._add(MaxPool(name, x, name, kernel, stride, (1, 1), pads), (oh, ow, c))

    def concat(self, *parts):
        h, w, _ = self.tensors[parts[0]].shape
        name = f"t{len(self.ops)}"
        return self._add(Concat(name, parts, name), (h, w, sum(self.tensors[p].shape[2] for p in parts)))

    def graph(self, *outputs: str) -> QuantizedGraph:
        def port(t: str) -> Port:
            shape = self.tensors[t].shape
            return Port(t, shape, shape)

        outs = tuple(Output(port(t), t) for t in outputs)
        return QuantizedGraph("random", (port("x"),), outs, tuple(self.ops), dict(self.tensors))


def random_graph(seed: int, weight: Format, activation: Format) -> QuantizedGraph:
    """Three to eight ops: convolutions with odd geometry, residuals, pooling, concatenation, tables, raw outputs."""
    rng = np.random.default_rng(seed)

    def pick(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    b = Builder(rng, weight, activation, (pick(1, 12), pick(1, 12), pick(1, 20)))
    x = "x"
    for _ in range(pick(1, 4)):
        h, w, c = b.tensors[x].shape
        kernel = (pick(1, min(3, h)), pick(1, min(3, w)))
        dilation = (pick(1, 2) if kernel[0] * 2 <= h else 1, 1)
        pads = (pick(0, 1), pick(0, 1), pick(0, 1), pick(0, 1))
        stride = (pick(1, 2), pick(1, 2))
        groups = int(rng.choice([g for g in range(1, c + 1) if c % g == 0])) if rng.random() < 0.3 else 1
        out = groups * pick(1, max(1, 24 // groups))
        x = b.conv(x, out, kernel, stride, pads, dilation, groups, table=rng.random() < 0.2)
        kind = rng.random()
        h, w, c = b.tensors[x].shape
        if kind < 0.3:
            y = b.conv(x, c, (3, 3), (1, 1), (1, 1, 1, 1))
            x = b.conv(y, c, (1, 1), residual=x)
        elif kind < 0.5 and h > 1 and w > 1:
            x = b.pool(x, (2, 2), (pick(1, 2), pick(1, 2)), (pick(0, 1), 0, pick(0, 1), 0))
        elif kind < 0.7:
            x = b.concat(x, b.conv(x, pick(1, 20), (1, 1)), x)
    h, w, _ = b.tensors[x].shape
    last = b.conv(x, pick(1, 20), (h, w), raw=True)
    return b.graph(last, x) if rng.random() < 0.3 else b.graph(last)
