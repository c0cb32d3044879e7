"""A training step on a machine: each op of it as a program of its own, with everything in memory before and after.

`Recorded` does a step in NumPy and notes each op with what it reads and gives; `cycles` asks the exact model,
`differences` runs the programs and compares. What a machine cannot do yet is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from sateen.compiler.quantize.bounds import accumulator_bits
from sateen.compiler.schedule.backend import Program, generate
from sateen.compiler.schedule.update import UpdateProgram, generate_updates
from sateen.compiler.schedule.update import Weights as Updated
from sateen.compiler.training.plan import Layer
from sateen.compiler.training.state import weights_name
from sateen.compiler.training.step import (
    Numpy,
    Result,
    Trainer,
    Values,
    averaging,
    bias_integers,
    gate_ends,
    update_rule,
)
from sateen.errors import ConfigError
from sateen.formats import Format
from sateen.hw.chip.verilog import emit_verilog
from sateen.ir.gradients import BiasGradient, ComputedConv, Gate, PoolGate, WeightGradient
from sateen.ir.graph import Output, Port
from sateen.ir.operation import Constant
from sateen.ir.pieces import Lattice, Piece
from sateen.ir.quantized import Arrange, Linear, MaxPool, Op, Quant, QuantizedGraph, Residual, Tensor
from sateen.ir.sums import MULTIPLIER_MAX
from sateen.ir.verify import verify
from sateen.machine.config import AcceleratorConfig
from sateen.machine.packing import unpack_integers
from sateen.sim import verilator
from sateen.sim.memory_timing import NOMINAL
from sateen.sim.program import Interpreter

PASSES = ("ff", "bp", "wu", "update")


@dataclass(frozen=True, slots=True)
class Work:
    """Ops that are one program, of the pass `kind` of a layer; codes that they read, (N, H, W, C), and what they give:
    codes, or sums."""

    kind: str
    layer: str
    graph: QuantizedGraph
    inputs: dict[str, np.ndarray]
    results: dict[str, np.ndarray]


@dataclass(slots=True)
class Recorded(Numpy):
    """A step that notes its ops."""

    works: list[Work] = field(default_factory=list)
    kind: str = "ff"

    @property
    def format(self) -> Format:
        return self.settings.formats[0]

    def layer(self, layer: Layer, x: Values, residual: Values | None) -> Values:
        found = super(Recorded, self).layer(layer, x, residual)
        fmt, raw = self.format, layer.output == self.plan.logits
        tensors = {"x": x} | ({"r": residual} if residual is not None else {})
        if layer.kind == "max":
            w = layer.window
            self._note_work(
                layer,
                [MaxPool("op", "x", "y", w.kernel, w.stride, w.dilation, w.pads)],
                tensors,
                {"y": found},
            )
            return found
        low, high = (
            (fmt.min_fixed, fmt.max_fixed) if raw else self.clamp(layer, found.exponent - fmt.lsb_exponent)
        )
        if layer.kind == "conv":
            acc = x.exponent + self._exponent_of_weights(layer)
            op: Op = self._convolution(
                layer, acc, found, residual, bias_integers(self.biases[layer.name], acc), low, high, raw
            )
            tensors |= {"w": self._weight_values(layer)}
        else:
            k, s = averaging(layer) if layer.kind == "average" else (1, 0)
            op = _depthwise(
                layer if layer.kind == "average" else None, x, found, residual, k, s, low, high, fmt
            )
        self._note_work(layer, [op], tensors, {"y": found})
        return found

    def gate(self, layer: Layer, gradient: Values, result: Values) -> Values:
        self.kind = "bp"
        found = super(Recorded, self).gate(layer, gradient, result)
        low, high = self.clamp(layer, result.exponent - self.format.lsb_exponent)
        op = Gate("op", "x", "r", "y", *gate_ends(layer, low, high, self.format))
        self._note_work(layer, [op], {"x": gradient, "r": result}, {"y": found})
        return found

    def weigh(self, layer: Layer, x: Values, gradient: Values) -> None:
        super(Recorded, self).weigh(layer, x, gradient)
        own, w = self.gradients[layer.name], layer.window
        pixels = int(np.prod(gradient.data.shape[1:3]))
        ops: list[Op] = [
            WeightGradient("op", "x", "r", "y", w.kernel, pixels, w.stride, w.dilation, w.pads),
            BiasGradient("bias", "r", "b", pixels),
        ]
        sums = {"y": Values(own.weight, own.exponent), "b": Values(own.bias[None, None], own.bias_exponent)}
        self._note_work(layer, ops, {"x": x, "r": gradient}, sums, "wu")

    def back(
        self, layer: Layer, name: str, gradient: Values, x: Values, result: Values, rest: Values | None
    ) -> Values:
        self.kind = "bp"
        found = super(Recorded, self).back(layer, name, gradient, x, result, rest)
        fmt = self.format
        tensors = {"x": gradient} | ({"r": rest} if rest is not None else {})
        if layer.kind == "conv":
            if layer.shared:
                raise ConfigError(
                    f"layer '{layer.name}': the machine selects weights for each direction; sr-ste takes the "
                    "forward ones backward, too; use --method bdwp"
                )
            acc = gradient.exponent + self._exponent_of_weights(layer)
            zeros = np.zeros(layer.shape[1], np.int64)
            op: Op = self._convolution(
                layer, acc, found, rest, zeros, fmt.min_fixed, fmt.max_fixed, False, True
            )
            self._note_work(layer, [op], tensors | {"w": self._weight_values(layer)}, {"y": found})
            return found
        pieces = _spread_pieces(layer, gradient.data.shape[1:3])
        w = layer.window
        if layer.kind == "max":
            if rest is not None:
                raise ConfigError(
                    f"max pool '{layer.name}': another layer reads what it reads, and their gradients' sum is not "
                    "lowered yet; use --engine reference"
                )
            taps = [(i, j) for i in range(w.kernel[0]) for j in range(w.kernel[1])]
            gates: list[Op] = [
                PoolGate(f"tap{n}", "x", "i", "p", f"t{n}", tap, w.stride, w.dilation, w.pads)
                for n, tap in enumerate(taps)
            ]
            ops = [*gates, Arrange("op", tuple(f"t{n}" for n in range(len(taps))), pieces, "y")]
            self._note_work(layer, ops, tensors | {"i": x, "p": result}, {"y": found})
            return found
        spread = Arrange("spread", ("x",), tuple(replace(p, part=0) for p in pieces), "s")
        k, s = averaging(layer)
        op = _depthwise(None, gradient, found, rest, k, s, fmt.min_fixed, fmt.max_fixed, fmt)
        self._note_work(layer, [spread, replace(op, input="s")], tensors, {"y": found})
        return found

    def add(self, name: str, a: Values, b: Values) -> Values:
        found = super(Recorded, self).add(name, a, b)
        fmt = self.format
        op = _depthwise(None, a, found, b, 1, 0, fmt.min_fixed, fmt.max_fixed, fmt)
        self._note_work(None, [op], {"x": a, "r": b}, {"y": found})
        return found

    def _convolution(
        self, layer: Layer, acc: int, out: Values, rest: Values | None, bias: np.ndarray, low: int, high: int,
        raw: bool, transposed: bool = False,
    ) -> ComputedConv:  # fmt: skip
        m, s, residual = (1, 0, None) if raw else _rescaling(layer.name, acc, 1, out.exponent, rest)
        channels, w = len(bias), layer.window
        pattern = layer.backward_pattern if transposed else layer.forward_pattern
        return ComputedConv(
            "op", "x", "w", "y", w.kernel, bias, np.full(channels, m), np.full(channels, s), Quant(self.format, 1.0),
            low, high, pattern, w.stride, w.dilation, w.pads, transposed, layer.plane if transposed else (0, 0),
            residual, layer.shape[2 if transposed else 1], raw=raw,
            raw_scale=np.full(channels, 2.0**acc) if raw else None,
        )  # fmt: skip

    def _weight_values(self, layer: Layer) -> Values:
        return Values(self.weights[layer.name], self._exponent_of_weights(layer))

    def _note_work(
        self,
        layer: Layer | None,
        ops: list[Op],
        read: dict[str, Values],
        give: dict[str, Values],
        kind: str = "",
    ) -> None:
        """`read` and `give` by tensor; weights (taps, I, O) are the same for all samples."""
        fmt = self.format
        codes, shapes = {}, {}
        samples = len(next(v for n, v in read.items() if n != "w").data)
        for name, values in read.items():
            array = fmt.from_fixed(values.data.astype(np.int64))
            codes[name] = np.broadcast_to(array, (samples, *array.shape)) if name == "w" else array
            shapes[name] = codes[name].shape[1:]
        for op in ops:
            shapes[op.output] = op.shape(shapes)
        raw = {op.output for op in ops if op.raw}
        results = {
            n: v.data if n in raw else fmt.from_fixed(v.data.astype(np.int64)) for n, v in give.items()
        }
        tensors = {n: Tensor(n, s, Quant(fmt, 1.0)) for n, s in shapes.items()}
        ports = tuple(Port(n, shapes[n], shapes[n]) for n in read)
        outputs = tuple(Output(Port(n, shapes[n], shapes[n]), n) for n in give)
        graph = verify(QuantizedGraph("step", ports, outputs, tuple(ops), tensors), after="a training step")
        self.works.append(Work(kind or self.kind, layer.name if layer else "sums", graph, codes, results))


def _rescaling(
    name: str, acc: int, multiplier: int, out: int, rest: Values | None
) -> tuple[int, int, Residual | None]:
    """Multiplier and shift from sums that count 2**acc to units of 2**out, and the residual's."""
    shift = out - acc
    needed = max(shift, 0, out - rest.exponent if rest is not None else 0)
    multiplier <<= needed - shift
    residual = None
    if rest is not None:
        own = max(out - rest.exponent, 0)
        residual = Residual("r", 1 << own - (out - rest.exponent), own)
    if max(multiplier, residual.multiplier if residual else 1) > MULTIPLIER_MAX:
        raise ConfigError(
            f"layer '{name}': its sums are rescaled by {multiplier} * 2**-{needed}, multipliers reach "
            f"{MULTIPLIER_MAX}; train a few steps more, until scales have settled"
        )
    return multiplier, needed, residual


def _depthwise(
    layer: Layer | None,
    x: Values,
    out: Values,
    rest: Values | None,
    k: int,
    s: int,
    low: int,
    high: int,
    fmt: Format,
) -> Linear:
    """Sums of a pool's window, or of nothing but the element, times k * 2**-s."""
    channels = x.data.shape[3]
    kernel = layer.window.kernel if layer else (1, 1)
    m, shift, residual = _rescaling(layer.name if layer else "sum", x.exponent - s, k, out.exponent, rest)
    codes = np.full((channels, *kernel, 1), int(fmt.from_fixed(np.array([1]))[0]), fmt.code_dtype)
    made = Linear(
        "op", "x", "y", Constant(codes, fmt, np.ones(channels)), np.zeros(channels, np.int64), np.full(channels, m),
        np.full(channels, shift), Quant(fmt, 1.0), low, high, groups=channels, residual=residual, macs=0,
    )  # fmt: skip
    if layer is None:
        return made
    return replace(made, stride=layer.window.stride, dilation=layer.window.dilation, pads=layer.window.pads)


def _spread_pieces(layer: Layer, counts: tuple[int, ...]) -> tuple[Piece, ...]:
    """Of each tap of a pool's window its pixels in the plane that the pool reads."""
    w, (rows, columns) = layer.window, counts
    apart = all(n == 1 or k == stride for n, k, stride in zip(counts, w.kernel, w.stride, strict=True))
    plain = apart and w.dilation == (1, 1) and not any(w.pads)
    if not plain or (rows * w.kernel[0], columns * w.kernel[1]) != layer.plane:
        raise ConfigError(
            f"{layer.kind} pool '{layer.name}': its windows overlap, or do not fill the plane, and its gradient is not "
            "lowered yet; use --engine reference"
        )
    (kh, kw), source = w.kernel, Lattice((0, 0), (1, 0), (0, 1))
    return tuple(
        Piece(i * kw + j, (rows, columns), source, Lattice((i, j), (kh, 0), (0, kw)))
        for i in range(kh)
        for j in range(kw)
    )


# -- programs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A recorded step and its machine; `updates` is its last program."""

    works: tuple[Work, ...]
    updates: UpdateProgram
    config: AcceleratorConfig
    batch: int

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """Of the works."""
        return tuple(generate(work.graph, self.config, batch=self.batch) for work in self.works)


def record(
    trainer: Trainer, x: np.ndarray, labels: np.ndarray, rate: float, machine: AcceleratorConfig
) -> tuple[Step, Result]:
    """Do a step, and make its programs for `machine`, as wide as they need it. Raises ConfigError."""
    s = trainer.settings
    if len({f.name for f in s.formats}) != 1:
        raise ConfigError(
            f"formats {', '.join(f.name for f in s.formats)}: a machine has one for weights, activations and gradients "
            "in training; choose one for all, or --engine reference"
        )
    if s.pruned_decay and not s.pattern.dense:
        raise ConfigError(
            f"decay of pruned weights {s.pruned_decay:g}: the machine's UPDATE has none; use --pruned-decay 0, or "
            "--engine reference"
        )
    found: list[Recorded] = []

    def passes() -> Recorded:
        plain = trainer.passes()
        found.append(Recorded(plain.plan, plain.settings, plain.scales, plain.weights, plain.biases))
        return found[-1]

    before = trainer.state
    result = trainer.step(x, labels, rate, passes)
    works = tuple(found[-1].works)
    bits = max(accumulator_bits(w.graph, len(x)) for w in works)
    fmt = s.formats[0].name
    config = machine.replace(weight_format=fmt, activation_format=fmt, specialize=False, acc_bits=bits)
    layers = []
    for layer in trainer.plan.trainable:
        g = result.gradients[layer.name]
        scale = before.scales.get(weights_name(layer), 0)
        layers.append(
            Updated(layer.name, layer.shape, update_rule(s, layer, rate / len(x), rate, g.exponent, scale))
        )
    return Step(works, generate_updates(layers, config), config, len(x)), result


def cycles(step: Step) -> dict[str, Any]:
    """By the exact model: of each pass, "total", and "layers" by pass and layer."""
    layers: dict[str, dict[str, int]] = {kind: {} for kind in PASSES}
    for work, program in zip(step.works, step.programs, strict=True):
        own = layers[work.kind]
        own[work.layer] = own.get(work.layer, 0) + program.cycles
    layers["update"]["all layers"] = step.updates.predict(NOMINAL).cycles
    sums = {kind: sum(own.values()) for kind, own in layers.items()}
    return {**sums, "total": sum(sums.values()), "layers": layers}


def differences(
    step: Step,
    result: Result,
    before: Any,
    after: Any,
    engine: str,
    report: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Run all programs of a step in engine "program" or "rtl": "differences", elements by what they belong to, none
    where equal, and "cycles", those that the RTL took (None in the interpreter). `before` and `after` are states."""
    simulator = verilator.build(emit_verilog(step.config)) if engine == "rtl" else None
    found: dict[str, int] = {}
    total = 0
    for n, (work, program) in enumerate(zip(step.works, step.programs, strict=True)):
        outputs, took = _run(program, work, simulator)
        total += took
        for name, value in outputs.items():
            wanted = work.results[name]
            wrong = int((value.reshape(wanted.shape) != wanted).sum())
            if wrong or (took and took != program.cycles):
                found[f"{work.kind} {work.layer}"] = wrong
        if report:
            report((n + 1) / (len(step.works) + 1))
    wrong_updates, took = _run_updates(step, result, before, after, simulator)
    return {"differences": found | wrong_updates, "cycles": total + took if simulator else None}


def _run(program: Program, work: Work, simulator: Any) -> tuple[dict[str, np.ndarray], int]:
    packed = {r.tensor: r.pack(work.inputs[r.tensor], program.config, program.batch) for r in program.inputs}
    if simulator is None:
        data = np.zeros((1, program.data_size), np.uint8)
        for r in program.inputs:
            start = r.offset - program.data_offset
            data[:, start : start + r.size] = packed[r.tensor]
        Interpreter(
            program.config, program.constants, program.code, program.program_offset, data, program.data_offset
        ).run()
        regions = [data[:, r.offset - program.data_offset :][:, : r.size] for r in program.outputs]
        took = 0
    else:
        image = program.constants.ljust(program.program_offset, b"\0") + program.code
        simulated = verilator.simulate(
            simulator, image.ljust(program.data_offset, b"\0"),
            inputs=[(r.offset, packed[r.tensor]) for r in program.inputs],
            outputs=[(r.offset, r.size) for r in program.outputs], batch=1, memory=NOMINAL,
            memory_bytes=program.data_offset + program.data_size, program=program.program_offset,
        )  # fmt: skip
        regions, took = list(simulated.outputs), simulated.samples[0].cycles
    return {
        r.tensor: r.unpack(d, program.config) for r, d in zip(program.outputs, regions, strict=True)
    }, took


def _run_updates(
    step: Step, result: Result, before: Any, after: Any, simulator: Any
) -> tuple[dict[str, int], int]:
    made, config = step.updates, step.config
    data = np.zeros(made.data_size, np.uint8)
    for k, layer in enumerate(made.layers):
        old = before.layers[layer.name]
        sums = result.gradients[layer.name].weight
        sums = sums if sums.dtype == object else sums.astype(np.int64)
        for at, held in made.pack(k, old.master, old.velocity, sums).items():
            data[at - made.data_offset :][: len(held)] = np.frombuffer(held, np.uint8)
    took = 0
    if simulator is None:
        memory = data[None]
        Interpreter(config, b"", made.code, 0, memory, made.data_offset).run()
        data = memory[0]
    else:
        simulated = verilator.simulate(
            simulator, made.code.ljust(made.data_offset, b"\0"),
            inputs=[(made.data_offset, data[None])], outputs=[(made.data_offset, made.data_size)], batch=1,
            memory=NOMINAL, memory_bytes=made.data_offset + made.data_size, program=0,
        )  # fmt: skip
        data, took = simulated.outputs[0][0], simulated.samples[0].cycles
    found = {}
    for layer, place in zip(made.layers, made.places, strict=True):
        new = after.layers[layer.name]
        size = place.codes.size * 32 // config.activation.bits
        for wanted, at, what in (
            (new.master, place.master, "weights"),
            (new.velocity, place.velocity, "velocities"),
        ):
            at -= made.data_offset
            got = unpack_integers(data[None, at : at + size], layer.shape, config)[0]
            if wrong := int((got != wanted).sum()):
                found[f"update {layer.name} {what}"] = wrong
    if took and (off := took - made.predict(NOMINAL).cycles):
        found["update cycles"] = abs(off)
    return found, took
