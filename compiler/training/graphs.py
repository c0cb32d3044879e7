"""A training step as two quantized graphs, forward and backward, for the engines and the machine.

Their inputs are codes: samples, weights (taps, I, O), and for the backward graph the logits' gradient and what the
forward graph kept. Their outputs are the same codes and exact sums that `step.Numpy` computes. Scales, and with them
biases and shifts, are those of one step: constants of the graphs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from sateen.compiler.training import plan as plans
from sateen.compiler.training.layers import Layer, without_program
from sateen.compiler.training.plan import Plan
from sateen.compiler.training.settings import Settings
from sateen.compiler.training.spread import line, progressions
from sateen.compiler.training.state import State, weights_name
from sateen.compiler.training.step import averaging, bias_integers, gate_ends
from sateen.errors import ModelError
from sateen.formats import Format, SparsityPattern
from sateen.ir.gradients import BiasGradient, ComputedConv, Gate, PoolGate, WeightGradient
from sateen.ir.operation import Constant, Window
from sateen.ir.pieces import Lattice, Piece
from sateen.ir.ports import Output, Port, Shape
from sateen.ir.quantized import Arrange, Linear, MaxPool, Op, Quant, QuantizedGraph, Residual, Stored, Tensor
from sateen.ir.sums import MULTIPLIER_MAX, SHIFT_MAX
from sateen.ir.verify import verify


@dataclass(frozen=True, slots=True)
class StepGraphs:
    """`kept` are tensors that the forward graph gives and the backward graph reads; `owners` has the pass ("ff", "bp",
    "wu") and the layer of each op."""

    forward: QuantizedGraph
    backward: QuantizedGraph
    kept: tuple[str, ...]
    owners: dict[str, tuple[str, str]]

    @property
    def residual_bits(self) -> int:
        """Bits of the widest residual operand as it is shifted before it is added."""
        graphs = self.forward, self.backward
        widest = max(t.quant.format.fixed_bits for g in graphs for t in g.tensors.values())
        return max((_shifted_bits(op, widest) for g in graphs for op in g.ops), default=0)


def _shifted_bits(op: Op, bits: int) -> int:
    residual = op.residual if isinstance(op, Linear | ComputedConv) else None
    if not isinstance(residual, Residual) or not isinstance(op, Linear | ComputedConv):
        return 0
    return bits + int(op.shift.max()) - residual.shift


def weight_gradient_name(layer: str) -> str:
    return f"dw {layer}"


def bias_gradient_name(layer: str) -> str:
    return f"db {layer}"


def step_graphs(plan: Plan, settings: Settings, state: State, acc_bits: int, start: int = 0) -> StepGraphs:
    """The graphs of the step that comes, for accumulators of `acc_bits`; `start` is the scale of the logits' gradient.

    Weights and activations have one format. Scales that the state does not have yet are an error: the reference finds
    them. Raises ModelError, too, for scales that the machine's shifts do not reach.
    """
    maker = _Maker(plan, settings, state, acc_bits)
    codes = plans.forward(plan, maker, maker.tensor(plan.input, plan.input))
    ops, maker.ops, maker.kind = maker.ops, [], "bp"
    names = [codes[layer.output] for layer in plan.layers]
    forward = maker.graph("forward", ops, names)
    gradient = maker.tensor(f"d {plan.logits}", plan.logits, start)
    plans.backward(plan, maker, codes, gradient)
    back = maker.ops
    outputs = [op.output for op in back if not isinstance(op, Arrange | PoolGate | Gate | Stored)]
    backward = maker.graph("backward", back, outputs)
    kept = {p.name for p in backward.inputs} & set(codes.values())
    return StepGraphs(forward, backward, tuple(t for t in codes.values() if t in kept), maker.owners)


_PIXEL = Window()


@dataclass(slots=True)
class _Maker:
    """`plan.Passes` on names of tensors."""

    plan: Plan
    settings: Settings
    state: State
    acc_bits: int
    ops: list[Op] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    scales: dict[str, int] = field(default_factory=dict)
    owners: dict[str, tuple[str, str]] = field(default_factory=dict)
    kind: str = "ff"
    """The pass of the ops that come."""

    def __post_init__(self) -> None:
        self.scales = dict(self.state.scales)

    @property
    def fmt(self) -> Format:
        """Of weights and activations."""
        return self.settings.formats[0]

    @property
    def made(self) -> Format:
        """Of the tensors that the pass makes."""
        return self.settings.formats[2] if self.kind == "bp" else self.fmt

    def tensor(self, name: str, like: str, scale: int | None = None) -> str:
        """A tensor of codes with the shape of the plan's `like`, and its own scale if none is given."""
        return self._tensor(
            name, self.plan.graph.shapes[like], 2.0 ** (self._scale(name) if scale is None else scale)
        )

    def _tensor(self, name: str, shape: Shape, scale: float, fmt: Format | None = None) -> str:
        self.tensors[name] = Tensor(name, shape, Quant(fmt or self.made, scale))
        return name

    def _op(self, owner: str, *ops: Op, kind: str = "") -> None:
        """Add ops of a layer."""
        self.ops += ops
        self.owners |= {op.name: (kind or self.kind, owner) for op in ops}

    def _scale(self, name: str) -> int:
        if name not in self.scales:
            raise ModelError(
                f"{self.plan.graph.name}: '{name}' has no scale before a first step; run it on the reference"
            )
        return self.scales[name]

    def _exponent(self, tensor: str) -> int:
        """log2 of what a fixed-point unit of a tensor stands for."""
        quant = self.tensors[tensor].quant
        return int(np.log2(quant.scale)) + quant.format.lsb_exponent

    def graph(self, name: str, ops: list[Op], outputs: list[str]) -> QuantizedGraph:
        """Of ops; its inputs are what none of them writes."""
        written = {op.output for op in ops}
        read = dict.fromkeys(t for op in ops for t in op.inputs if t not in written)
        ports = {t: Port(t, self.tensors[t].shape, self.tensors[t].shape) for t in (*read, *outputs)}
        used = {t: self.tensors[t] for t in dict.fromkeys((*read, *written))}
        outs = tuple(Output(ports[t], t) for t in dict.fromkeys(outputs))
        made = QuantizedGraph(
            f"{self.plan.graph.name} {name}", tuple(ports[t] for t in read), outs, tuple(ops), used
        )
        return verify(made, after=f"step_graphs ({name})")

    # -- plan.Passes ---------------------------------------------------------------------------------------

    def layer(self, layer: Layer, x: str, residual: str | None) -> str:
        window = layer.window
        if layer.kind == "max":
            out = self.tensor(layer.output, layer.output, self._scale(self.plan.groups[layer.output]))
            self._op(
                layer.name,
                MaxPool(layer.name, x, out, window.kernel, window.stride, window.dilation, window.pads),
            )
            return out
        if layer.output == self.plan.logits:
            exponent = self._exponent(x) + self._scale(weights_name(layer)) + self.fmt.lsb_exponent
            out = self._tensor(layer.output, self.plan.graph.shapes[layer.output], 2.0**exponent)
            self._conv(layer, layer.name, x, out, layer.forward_pattern, bias=True)
            return out
        out = self.tensor(layer.output, layer.output, self._scale(self.plan.groups[layer.output]))
        if layer.kind == "conv":
            self._conv(layer, layer.name, x, out, layer.forward_pattern, residual, bias=True)
        elif layer.kind == "average":
            self._copy(
                layer.name, layer.name, x, out, residual, averaging(layer), self._clamp(layer, out), window
            )
        else:
            self._copy(layer.name, layer.name, x, out, residual, (1, 0), self._clamp(layer, out))
        return out

    def other(self, layer: Layer, operands: tuple[str, ...], residual: str | None) -> str:
        raise without_program(layer)

    def learn(self, layer: Layer, x: str | None, gradient: str) -> None:
        raise without_program(layer)

    def other_back(
        self, layer: Layer, name: str, gradient: str, operands: tuple[str, ...], result: str, rest: str | None,
        at: int,
    ) -> str:  # fmt: skip
        raise without_program(layer)

    def gate(self, layer: Layer, gradient: str, result: str) -> str:
        out = self._like(f"gate {layer.name}", gradient)
        low, high = gate_ends(layer, *self._clamp(layer, result), self.fmt)
        self._op(layer.name, Gate(out, gradient, result, out, low, high))
        return out

    def weigh(self, layer: Layer, x: str, gradient: str) -> None:
        w, (h, width, channels) = layer.window, self.tensors[gradient].shape
        names = weight_gradient_name(layer.name), bias_gradient_name(layer.name)
        exponent = self._exponent(gradient)
        dw = self._tensor(names[0], layer.shape, 2.0 ** (exponent + self._exponent(x)))
        db = self._tensor(names[1], (1, 1, channels), 2.0**exponent)
        self._op(
            layer.name,
            WeightGradient(dw, x, gradient, dw, w.kernel, h * width, w.stride, w.dilation, w.pads),
            BiasGradient(db, gradient, db, h * width),
            kind="wu",
        )

    def back(self, layer: Layer, name: str, gradient: str, x: str, result: str, rest: str | None) -> str:
        if layer.kind == "conv":
            out = self.tensor(name, layer.input)
            pattern = layer.forward_pattern if layer.shared else layer.backward_pattern
            if layer.shared and not pattern.dense:
                raise ModelError(
                    f"Conv '{layer.name}': its backward pass takes the weights that the forward pass selected, and the "
                    "machine selects along its own reduction; use --method bdwp"
                )
            self._conv(layer, f"back {layer.name}", gradient, out, pattern, rest, back=True)
            return out
        moved, window = self._spread(layer, gradient, x, result)
        if layer.kind == "max" and rest is None and not layer.overlapping:
            return moved
        out = self.tensor(name, layer.input)
        factor = averaging(layer) if layer.kind == "average" else (1, 0)
        ends = self.made.min_fixed, self.made.max_fixed
        self._copy(layer.name, f"back {layer.name}", moved, out, rest, factor, ends, window)
        return out

    def _spread(self, layer: Layer, gradient: str, x: str, result: str) -> tuple[str, Window]:
        """What a pool's windows give to each pixel, side by side, and the window whose sums these are."""
        rows, columns, channels = self.tensors[gradient].shape
        axes = [
            line(*geometry)
            for geometry in zip(
                layer.window.kernel, layer.window.stride, layer.window.dilation, layer.window.pads[:2],
                (rows, columns), layer.plane, strict=True,
            )
        ]  # fmt: skip
        parts: list[str] = []
        pieces = []
        for row in axes[0].taps:
            for column in axes[1].taps:
                part = gradient
                if layer.kind == "max":
                    part = self._like(f"gate {layer.name} {row.tap} {column.tap}", gradient)
                    w = layer.window
                    taps = row.tap, column.tap
                    self._op(
                        layer.name,
                        PoolGate(part, gradient, x, result, part, taps, w.stride, w.dilation, w.pads),
                    )
                if part not in parts:
                    parts.append(part)
                source = Lattice((row.first, column.first), (1, 0), (0, 1))
                target = Lattice((row.target, column.target), (row.step, 0), (0, column.step))
                pieces.append(Piece(parts.index(part), (row.count, column.count), source, target))
        if layer.kind == "average" and rows * columns < len(
            pieces
        ):  # as of a global pool: each window at once
            pieces = [
                Piece(
                    0, (down, across), Lattice((y, x), (0, 0), (0, 0)), Lattice((top, left), (dy, 0), (0, dx))
                )
                for y in range(rows)
                for x in range(columns)
                for top, down, dy in progressions(axes[0].places(y))
                for left, across, dx in progressions(axes[1].places(x))
            ]
        plane = axes[0].size, axes[1].size
        zeros = Lattice((0, 0), (0, 0), (0, 0))
        empty = []
        for first, count, step in progressions(axes[0].free):
            empty.append(((count, plane[1]), Lattice((first, 0), (step, 0), (0, 1))))
        for row in axes[0].taps:
            for first, count, step in progressions(axes[1].free):
                empty.append(((row.count, count), Lattice((row.target, first), (row.step, 0), (0, step))))
        if empty:
            zero = self._tensor(f"zero {layer.name}", (1, 1, channels), self.tensors[gradient].quant.scale)
            codes = np.full((1, 1, channels), self.made.zero_code, self.made.code_dtype)
            self._op(layer.name, Stored(zero, zero, codes))
            parts.append(zero)
        pieces += [Piece(len(parts) - 1, counts, zeros, target) for counts, target in empty]
        moved = self._tensor(f"spread {layer.name}", (*plane, channels), self.tensors[gradient].quant.scale)
        self._op(layer.name, Arrange(moved, tuple(parts), tuple(pieces), moved))
        deep = axes[0].deep, axes[1].deep
        return moved, Window(deep, deep)

    def add(self, name: str, a: str, b: str) -> str:
        out = self._tensor(name, self.tensors[a].shape, 2.0 ** self._scale(name))
        self._copy("sums", name, a, out, b, (1, 0), (self.made.min_fixed, self.made.max_fixed))
        return out

    # -- ops -----------------------------------------------------------------------------------------------

    def _like(self, name: str, tensor: str) -> str:
        self.tensors[name] = replace(self.tensors[tensor], name=name)
        return name

    def _clamp(self, layer: Layer, out: str) -> tuple[int, int]:
        """As `step.Numpy.clamp`."""
        fmt = self.fmt
        ends = np.array([layer.low, layer.high]) / self.tensors[out].quant.scale
        low, high = (int(v) for v in fmt.fixed(fmt.encode(np.clip(ends, fmt.min, fmt.max))))
        return low, high

    def _conv(
        self, layer: Layer, name: str, x: str, out: str, pattern: SparsityPattern, residual: str | None = None, *,
        bias: bool = False, back: bool = False,
    ) -> None:  # fmt: skip
        scale = 2.0 ** self._scale(weights_name(layer))
        weight = self._tensor(weights_name(layer), layer.shape, scale, self.fmt)
        _, inputs, outputs = layer.shape
        channels = inputs if back else outputs
        exponent, w = self._exponent(x) + self._exponent(weight), layer.window
        raw = out == self.plan.logits
        biases = np.zeros(channels, np.int64)
        if bias:
            biases = bias_integers(self.state.layers[layer.name].bias, exponent)
        low, high = (
            self._clamp(layer, out) if not back and not raw else (self.made.min_fixed, self.made.max_fixed)
        )
        multiplier, shift, r = (1, 0, None) if raw else self._factors(name, exponent, out, residual)
        self._op(
            layer.name,
            ComputedConv(
                name, x, weight, out, w.kernel, biases, np.full(channels, multiplier), np.full(channels, shift),
                self.tensors[out].quant, low, high, pattern, w.stride, w.dilation, w.pads, back,
                layer.plane if back else (0, 0), r, outputs if back else inputs, raw=raw,
                raw_scale=np.full(channels, 2.0**exponent) if raw else None,
            ),
        )  # fmt: skip

    def _copy(
        self, owner: str, name: str, x: str, out: str, residual: str | None, factor: tuple[int, int],
        clamp: tuple[int, int], w: Window = _PIXEL,
    ) -> None:  # fmt: skip
        """Sums of a window's elements, times a factor k * 2**-s, and a residual."""
        fmt, channels = self.fmt, self.tensors[x].shape[2]
        one = next(c for c in fmt.codes if fmt.fixed(c) == 1)
        weight = Constant(np.full((channels, *w.kernel, 1), one, fmt.code_dtype), fmt, np.full(channels, 1.0))
        multiplier, shift, r = self._factors(name, self._exponent(x) - factor[1], out, residual, factor[0])
        self._op(
            owner,
            Linear(
                name, x, out, weight, np.zeros(channels, np.int64), np.full(channels, multiplier),
                np.full(channels, shift), self.tensors[out].quant, *clamp,
                w.stride, w.dilation, w.pads, channels, r, macs=0,
            ),
        )  # fmt: skip

    def _factors(
        self, name: str, exponent: int, out: str, residual: str | None, factor: int = 1
    ) -> tuple[int, int, Residual | None]:
        """Multiplier, shift and residual by which sums that count 2**`exponent` become codes of `out`."""
        target = self._exponent(out)
        first = target - exponent
        second = target - self._exponent(residual) if residual else first
        most = max(0, self.acc_bits - max(f.fixed_bits for f in self.settings.formats))
        for k in range(16):
            for j in range(16):
                shift, other = first + k, second + j
                if not (0 <= shift <= SHIFT_MAX and factor << k <= MULTIPLIER_MAX):
                    continue
                if not residual:
                    return factor << k, shift, None
                if 0 <= other <= shift <= other + most:
                    return factor << k, shift, Residual(residual, 1 << j, other)
        raise ModelError(
            f"'{name}': scales 2**{exponent} of its sums, 2**{target} of its result"
            + (f", 2**{target - second} of what is added" if residual else "")
            + f" are too far apart for the machine's shifts, with acc_bits = {self.acc_bits}"
        )
