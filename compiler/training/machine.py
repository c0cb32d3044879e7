"""A training step on a machine: a program of the forward pass, one of the backward pass, one of all updates.

`record` does a step in the reference and makes its programs; `cycles` counts them by the exact model, `differences`
runs them one after the other, each with what the one before gave, and compares. The loss, its gradient and biases are
the host's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sateen.compiler.quantize.bounds import accumulator_bits
from sateen.compiler.schedule.backend import SHIFT_OPERAND_BITS, Program, generate, layer_cycles, op_of
from sateen.compiler.schedule.update import UpdateProgram, generate_updates
from sateen.compiler.schedule.update import Weights as Updated
from sateen.compiler.training.graphs import (
    StepGraphs,
    bias_gradient_name,
    step_graphs,
    weight_gradient_name,
)
from sateen.compiler.training.layers import without_program
from sateen.compiler.training.rules import update_rule
from sateen.compiler.training.state import State, weights_name
from sateen.compiler.training.step import Result, Trainer
from sateen.compiler.training.values import Values
from sateen.errors import ConfigError
from sateen.formats import Format
from sateen.hw.chip.verilog import emit_verilog
from sateen.ir.quantized import QuantizedGraph
from sateen.machine.config import AcceleratorConfig
from sateen.sim import verilator
from sateen.sim.image import Given, Image, Wanted, packed, places, unpacked
from sateen.sim.memory_timing import NOMINAL

PASSES = ("ff", "bp", "wu", "update")
_PROGRAMS = ("forward", "backward", "update")
WIDEST = 1 << 10
"""Bits of accumulators with which graphs are made to see how many they need."""


@dataclass(frozen=True)
class Step:
    """A step that the reference did, and its programs."""

    graphs: StepGraphs
    forward: Program
    backward: Program
    updates: UpdateProgram
    codes: dict[str, np.ndarray]
    """What the host gives, (N, H, W, C): samples, the gradient of the logits, and weights, the same for all samples."""
    before: State
    after: State
    result: Result
    batch: int

    @property
    def config(self) -> AcceleratorConfig:
        return self.updates.config

    def wanted(self, tensor: str) -> np.ndarray | None:
        """Codes or sums of an output as the reference has them; None if it has none by that name."""
        for layer, own in self.result.gradients.items():
            if tensor == weight_gradient_name(layer):
                return own.weight[None]
            if tensor == bias_gradient_name(layer):
                return own.bias[None, None, None]
        values = self.result.tensors.get(tensor)
        if values is None:
            return None
        graph = next(g for g in (self.graphs.forward, self.graphs.backward) if tensor in g.tensors)
        op = next(op for op in graph.ops if op.output == tensor)
        return values.data if op.raw else _codes(values, graph.tensors[tensor].quant.format)


def _codes(values: Values, fmt: Format) -> np.ndarray:
    return fmt.from_fixed(values.data.astype(np.int64))


def record(
    trainer: Trainer, x: np.ndarray, labels: np.ndarray, rate: float, machine: AcceleratorConfig
) -> Step:
    """Do a step with samples (N, H, W, C), and make its programs for `machine`.

    Unless it is not to be specialised, its accumulators get as many whole digits as the step needs. Raises ConfigError,
    ModelError for what the machine cannot do.
    """
    s, plan, batch = trainer.settings, trainer.plan, len(x)
    fmt, own = s.formats[0], s.formats[2]
    if s.formats[1] != fmt or own.bits != fmt.bits:
        raise ConfigError(
            f"formats {', '.join(f.name for f in s.formats)}: a machine has one for weights and activations in "
            "training, and gradients have as many bits; choose such formats, or --engine reference"
        )
    if plan.only_reference is not None:
        raise without_program(plan.only_reference)
    before, weights, given = trainer.state, trainer.codes, trainer.passes().of_input(x)
    result = trainer.step(x, labels, rate)
    start = result.tensors[f"d {plan.logits}"]
    scaled = replace(before, scales=result.scales)

    def graphs(acc_bits: int) -> StepGraphs:
        return step_graphs(plan, s, scaled, acc_bits, start.exponent - own.lsb_exponent)

    bits, multiplier = machine.acc_bits, machine.multiplier
    if machine.specialize:
        widest = graphs(WIDEST)
        passes = widest.forward, widest.backward
        bits = max(widest.residual_bits, *(accumulator_bits(g, batch) for g in passes))
        bits = -(-bits // fmt.bits) * fmt.bits
        if max(fmt.fixed_bits, own.fixed_bits) > SHIFT_OPERAND_BITS:
            multiplier = "shift"
    config = machine.replace(
        weight_format=fmt.name, activation_format=fmt.name, gradient_format=own.name if own != fmt else "",
        specialize=False, acc_bits=bits, multiplier=multiplier,
    )  # fmt: skip
    made = graphs(bits)
    rules = [
        Updated(
            layer.name, layer.shape,
            update_rule(
                s, layer, rate / batch, rate, result.gradients[layer.name].exponent,
                result.scales[weights_name(layer)],
            ),
            layer.forward_pattern,
        )
        for layer in plan.trainable
    ]  # fmt: skip
    codes = {plan.input: _codes(given, fmt), f"d {plan.logits}": _codes(start, own)}
    for layer in plan.trainable:
        dense = fmt.from_fixed(weights[layer.name].astype(np.int64))
        codes[weights_name(layer)] = np.broadcast_to(dense, (batch, *dense.shape))
    return Step(
        made,
        generate(made.forward, config, batch=batch),
        generate(made.backward, config, batch=batch),
        generate_updates(rules, config),
        codes,
        before,
        trainer.state,
        result,
        batch,
    )


def cycles(step: Step) -> dict[str, Any]:
    """By the exact model: of each pass, "total", and "layers" by pass and layer: by how much it moves the end."""
    layers: dict[str, dict[str, int]] = {kind: {} for kind in PASSES}
    for graph, program in ((step.graphs.forward, step.forward), (step.graphs.backward, step.backward)):
        for op, moved in zip(graph.ops, layer_cycles(program, len(graph.ops)), strict=True):
            kind, layer = step.graphs.owners[op.name]
            layers[kind][layer] = layers[kind].get(layer, 0) + moved
    layers["update"] = step.updates.layer_cycles()
    sums = {kind: sum(own.values()) for kind, own in layers.items()}
    return {**sums, "total": sum(sums.values()), "layers": layers}


def events(step: Step) -> list[dict[str, Any]]:
    """A row for each instruction of the three programs, one after the other: "pass", "layer" ("" if of none), "unit",
    "opcode", "start", and "end", the first cycle after it."""
    found: list[dict[str, Any]] = []
    begin = 0
    for graph, program in (
        (step.graphs.forward, step.forward), (step.graphs.backward, step.backward), (None, step.updates),
    ):  # fmt: skip
        timeline = program.predict(NOMINAL)
        for e in timeline.events:
            i, kind, layer = e.instruction, "update" if graph is None else "", ""
            if i.layer >= 0 and isinstance(program, UpdateProgram):
                layer = program.layers[i.layer].name
            elif i.layer >= 0 and graph is not None and isinstance(program, Program):
                kind, layer = step.graphs.owners[graph.ops[op_of(program, i.layer)].name]
            found.append(
                {
                    "pass": kind, "layer": layer, "unit": i.unit.label, "opcode": i.opcode.name,
                    "start": begin + e.start, "end": begin + e.done + 1,
                }
            )  # fmt: skip
        begin += timeline.cycles
    return found


def differences(step: Step, engine: str, report: Callable[[float], None] | None = None) -> dict[str, Any]:
    """Run a step in engine "program" or "rtl": "differences", elements by what they belong to, none where equal, and
    "cycles", those that the RTL took (None in the interpreter)."""
    runner = _Runner(step, verilator.build(emit_verilog(step.config)) if engine == "rtl" else None, report)
    codes = dict(step.codes)
    codes |= runner.graph(step.graphs.forward, step.forward, codes)
    found = runner.graph(step.graphs.backward, step.backward, codes)
    runner.updates({layer.name: found[weight_gradient_name(layer.name)][0] for layer in step.updates.layers})
    return {"differences": runner.found, "cycles": runner.cycles if engine == "rtl" else None}


class _Runner:
    """What was found so far."""

    def __init__(self, step: Step, simulator: Path | None, report: Callable[[float], None] | None) -> None:
        self.step, self.simulator, self.report = step, simulator, report
        self.expected = [step.forward.cycles, step.backward.cycles, step.updates.predict(NOMINAL).cycles]
        self.found: dict[str, int] = {}
        self.cycles = 0
        self.runs = 0

    def graph(
        self, graph: QuantizedGraph, program: Program, codes: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        config, shapes = program.config, {t: tensor.shape for t, tensor in graph.tensors.items()}
        given = packed(program.inputs, codes, config, program.batch)
        results = unpacked(
            program.outputs, self._run(program.image, given, places(program.outputs)), shapes, config
        )
        owner = {op.output: " ".join(self.step.graphs.owners[op.name]) for op in graph.ops}
        for tensor, value in results.items():
            wanted = self.step.wanted(tensor)
            self._compare(f"{owner[tensor]}: {tensor}", value, wanted)
        return results

    def updates(self, sums: dict[str, np.ndarray]) -> None:
        made, step = self.step.updates, self.step
        old = [step.before.layers[layer.name] for layer in made.layers]
        given = made.pack(
            [
                (o.master, o.velocity, sums[layer.name], step.codes[f"w {layer.name}"][0])
                for o, layer in zip(old, made.layers, strict=True)
            ]
        )
        found = made.unpack(self._run(made.image, given, made.results))
        for layer, values in zip(made.layers, found, strict=True):
            new = step.after.layers[layer.name]
            wanted = new.master, new.velocity, step.result.codes[layer.name]
            for what, value, want in zip(("weights", "velocities", "codes"), values, wanted, strict=True):
                self._compare(f"update {layer.name} {what}", value, want)

    def _compare(self, what: str, value: np.ndarray, wanted: np.ndarray | None) -> None:
        if wanted is None or value.shape != wanted.shape:
            self.found[what] = value.size
        elif wrong := int((value != wanted).sum()):
            self.found[what] = wrong

    def _run(self, image: Image, given: Given, wanted: Wanted) -> list[np.ndarray]:
        expected, total = self.expected[self.runs], sum(self.expected)
        done = sum(self.expected[: self.runs])
        self.runs += 1

        def part(fraction: float) -> None:
            if self.report:
                self.report((done + min(1.0, fraction) * expected) / total)

        if self.simulator is None:
            return image.interpret(given, wanted, progress=part)
        simulated = image.simulate(
            self.simulator, given, wanted, progress=lambda runs, cycle: part(cycle / expected)
        )
        (run,) = simulated.samples
        if not run.done or run.error or run.cycles != expected:
            self.found[f"cycles of the {_PROGRAMS[self.runs - 1]} program"] = abs(run.cycles - expected)
        self.cycles += run.cycles
        return list(simulated.outputs)
