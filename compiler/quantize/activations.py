"""Scales and zero points of all activations, and the number of terms of inputs, from a network's statistics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.functions import evaluate
from sateen.compiler.quantize.branches import FAR_APART, free, split_branches
from sateen.compiler.quantize.calibrate import Statistics
from sateen.compiler.quantize.fuse import Pass, Step, fuse, shared_scales
from sateen.compiler.quantize.given import sign_of
from sateen.compiler.quantize.input_terms import split_input
from sateen.compiler.quantize.residuals import snap_scales
from sateen.compiler.quantize.scales import METHODS, Observed, activation_quant
from sateen.errors import DataError
from sateen.formats import Format, parse_format
from sateen.ir.graph import Concat, Conv, Graph
from sateen.ir.quantized import Quant

_logger = logging.getLogger("sateen")


@dataclass(frozen=True, slots=True)
class Choice:
    """How scales are chosen, see `plan_activations`."""

    format: Format
    scale_method: str
    power_of_two: bool
    input_terms: int


@dataclass(frozen=True, slots=True)
class ActivationPlan:
    """The Quant of every tensor that gets codes, and the number of terms of the inputs that get several."""

    quants: dict[str, Quant]
    terms: dict[str, int]

    def rounded(self, tensor: str, x: np.ndarray) -> np.ndarray:
        """(..., C) float64 as it is once it has been given codes; unchanged if it gets none."""
        if tensor not in self.quants:
            return x
        quant, terms = self.quants[tensor], self.terms.get(tensor, 1)
        real = quant.dequantize(quant.quantize_terms(x, terms))
        return real.reshape(*x.shape[:-1], terms, x.shape[-1]).sum(axis=-2)


def plan_activations(
    graph: Graph,
    statistics: Statistics | None,
    *,
    activation_format: str | Format,
    scale_method: str = "mse",
    power_of_two: bool = False,
    input_terms: int = 1,
) -> ActivationPlan:
    """Scales and zero points, the file's own or from statistics, as `quantize` describes them. Raises as it does."""
    fmt = activation_format if isinstance(activation_format, Format) else parse_format(activation_format)
    options = Choice(fmt, scale_method, power_of_two, input_terms)
    if scale_method not in METHODS:
        raise DataError(f"scale method '{scale_method}' is unknown; it must be {', '.join(METHODS)}")
    graph.verify()
    steps = fuse(graph)
    names = [p.name for p in graph.inputs] + [s.output for s in steps]
    quants = _quants(graph, names, steps, statistics, options)
    split = _split_inputs(graph, statistics, options)
    return ActivationPlan(
        {n: split[n][0] if n in split else q for n, q in quants.items()},
        {n: terms for n, (_, terms) in split.items()},
    )


def scale_groups(graph: Graph, steps: tuple[Step, ...]) -> dict[str, str]:
    """Of every tensor that has a Quant, the representative of those that share it."""
    names = [p.name for p in graph.inputs] + [s.output for s in steps]
    shared = shared_scales(steps, names)
    # a table's input is a tensor with codes when the table stands alone; else its own error counts for nothing
    before = [s.before for s in steps if isinstance(s, Pass) and s.table and s.before]
    return shared | {b: b for b in before if b not in shared}


def rescaled(graph: Graph, plan: ActivationPlan, scales: Mapping[str, float]) -> ActivationPlan:
    """The plan with other scales of some tensors, moved by as little as Adds need: at most 2**-10."""
    steps = fuse(graph)
    shared = scale_groups(graph, steps)
    quants = {g: plan.quants[t] for t, g in shared.items()}
    quants |= {shared[t]: replace(plan.quants[t], scale=s) for t, s in scales.items()}
    quants = snap_scales(steps, quants, shared)
    # an input that is given as several terms has a Quant of its own
    return replace(
        plan, quants={t: plan.quants[t] if t in plan.terms else quants[shared[t]] for t in plan.quants}
    )


def raw_outputs(graph: Graph, steps: tuple[Step, ...]) -> set[str]:
    """Outputs whose exact accumulators the host reads: nothing else reads them, nothing follows the sum."""
    read = {i for s in steps for i in s.inputs}
    return {
        s.output
        for s in steps
        if isinstance(s, Pass)
        and s.main is not None
        and s.residual is None
        and s.activation is None
        and s.output in {o.tensor for o in graph.outputs}
        and s.output not in read
        and s.output not in graph.quantizers
    }


def open_tensors(graph: Graph) -> list[str]:
    """Tensors that get codes, of which the file does not say how they are rounded: they need calibration."""
    steps = fuse(graph)
    shared = scale_groups(graph, steps)
    kept = {shared[t] for t in (*graph.quantizers, *_meaningless(graph, steps)) if t in shared}
    return [t for t, group in shared.items() if group not in kept]


def _meaningless(graph: Graph, steps: tuple[Step, ...]) -> set[str]:
    """Tensors whose scale is nowhere used: raw outputs of a quantized file, sums of which only the sign counts."""
    signs = {s.requantized for s in steps if isinstance(s, Pass) and sign_of(s, graph)}
    return signs | (raw_outputs(graph, steps) if graph.quantizers else set())


def _quants(
    graph: Graph,
    names: list[str],
    steps: tuple[Step, ...],
    statistics: Statistics | None,
    options: Choice,
) -> dict[str, Quant]:
    """The Quant of every tensor in `names`, and of what the tables read."""
    given = graph.quantizers
    functions = {s.before: table_function(s) for s in steps if isinstance(s, Pass) and s.table and s.before}
    shared = scale_groups(graph, steps)
    groups: dict[str, list[str]] = {}
    for name, group in shared.items():
        groups.setdefault(group, []).append(name)
    kept = {shared[name]: q.quant for name, q in given.items() if name in shared}
    kept |= {shared[t]: Quant(options.format, 1.0) for t in _meaningless(graph, steps)}
    unknown = [t for group, members in groups.items() if group not in kept for t in members]
    if unknown and statistics is None:
        raise DataError(
            f"the model says of {_listed(unknown)} not how it is rounded; give --calibration X.npz with real samples, "
            "or quantize the model there too"
        )
    if unknown and given:
        _logger.warning("calibrated, as the model does not quantize them: %s", ", ".join(unknown))
    quants = kept | {
        group: activation_quant(
            _observed(statistics, members),
            options.format,
            method=options.scale_method,
            power_of_two=options.power_of_two,
            function=functions.get(group) if group not in names and options.scale_method == "mse" else None,
        )
        for group, members in groups.items()
        if group not in kept and statistics is not None
    }
    if not options.power_of_two:
        quants = snap_scales(steps, quants, shared, kept)
    if statistics is not None:
        chosen = {name: quants[shared[name]] for name in names if shared[name] not in kept}
        _warn_of_ranges(graph, steps, statistics, chosen)
    return {name: quants[group] for name, group in shared.items()}


def _warn_of_ranges(
    graph: Graph, steps: tuple[Step, ...], statistics: Statistics, quants: dict[str, Quant]
) -> None:
    """Parts of a Concat share the scale of the largest: the small ones may be left with hardly a code, where they
    cannot be scaled (`branches`)."""
    branches = split_branches(graph)
    for step in steps:
        if not isinstance(step, Concat) or step.output not in quants:
            continue
        quant = quants[step.output]
        values = quant.format.fixed(np.arange(1 << quant.format.bits)) * 2.0**quant.format.lsb_exponent
        seen = {p: statistics.tensors[p] for p in step.parts if p in statistics.tensors}
        peaks = {p: max(abs(s.minimum), abs(s.maximum)) for p, s in seen.items()}
        largest = max(peaks, key=lambda p: peaks[p], default="")
        for part, peak in peaks.items():
            steps_left = np.count_nonzero(np.unique(values[(values > 0) & (values * quant.scale <= peak)]))
            few = 0 < peak * FAR_APART <= peaks[largest] and steps_left < _FEW
            if few and not free(graph, branches, part, largest):
                _logger.warning(
                    "Concat '%s': '%s' reaches %.3g and '%s' %.3g; they share a scale, in which %d of %s's values are "
                    "left for '%s': bring them to similar ranges (normalize a branch) or use more bits",
                    step.name, part, peak, largest, peaks[largest], steps_left, quant.format.name, part,
                )  # fmt: skip


_FEW = 4
"""Positive values, of a part that is far smaller than another one, that are worth a warning."""


def _listed(names: list[str], most: int = 4) -> str:
    quoted = ", ".join(f"'{n}'" for n in names[:most])
    return quoted + (f" and {len(names) - most} more tensors" if len(names) > most else "")


def _observed(statistics: Statistics, names: list[str]) -> Observed:
    for name in names:
        if name not in statistics.tensors:
            raise DataError(f"calibration has no tensor '{name}'; calibrate the same model that is compiled")
    found = [statistics.tensors[n] for n in names]
    return Observed(
        names[0],
        min(s.minimum for s in found),
        max(s.maximum for s in found),
        np.concatenate([s.values for s in found]),
    )


def _split_inputs(
    graph: Graph, statistics: Statistics | None, options: Choice
) -> dict[str, tuple[Quant, int]]:
    """The inputs that are given as several terms: scale and number of terms. What the file quantizes stays one; what
    it does not, though it has a format of few bits elsewhere, gets the precision of eight."""
    split = {}
    wanted = 0 if graph.quantizers and options.input_terms == 1 else options.input_terms
    for port in graph.inputs:
        if statistics is None or port.name in graph.quantizers:
            continue
        readers = graph.consumers(port.name)
        alone = port.name not in {o.tensor for o in graph.outputs}
        if alone and readers and all(isinstance(n, Conv) and _may_read_terms(n) for n in readers):
            quant, terms = split_input(
                _observed(statistics, [port.name]),
                options.format,
                wanted,
                method=options.scale_method,
                power_of_two=options.power_of_two,
            )
            if terms > 1:
                split[port.name] = (quant, terms)
    return split


def _may_read_terms(conv: Conv) -> bool:
    return (conv.whole or conv.channels is not None) and conv.sparsity.dense


def table_function(step: Pass) -> Callable[[np.ndarray], np.ndarray]:
    activation = step.activation
    assert activation is not None
    return lambda x: evaluate(activation, x)
