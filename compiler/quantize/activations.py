"""Scales and zero points of all activations, and the number of terms of inputs, from a network's statistics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.functions import evaluate
from sateen.compiler.quantize.branches import FAR_APART, free, split_branches
from sateen.compiler.quantize.calibrate import Statistics
from sateen.compiler.quantize.divisors import check_divisors
from sateen.compiler.quantize.input_terms import split_input
from sateen.compiler.quantize.options import Options
from sateen.compiler.quantize.residuals import snap_scales
from sateen.compiler.quantize.scales import Observed, activation_quant
from sateen.compiler.quantize.signs import sign_of
from sateen.errors import DataError
from sateen.formats import Format
from sateen.formats.digits import two_digits
from sateen.ir.fused import FusedGraph, FusedLayer
from sateen.ir.nodes import Concat, MatMul, Softmax
from sateen.ir.quantized import Quant

_logger = logging.getLogger("sateen")


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


def plan_activations(network: FusedGraph, statistics: Statistics | None, options: Options) -> ActivationPlan:
    """Scales and zero points, the file's own or from statistics, and the number of terms of inputs. Raises as
    `quantize` does."""
    if statistics is not None:
        check_divisors(network, statistics)
    quants = _quants(network, statistics, options)
    split = _split_inputs(network, statistics, options)
    return ActivationPlan(
        {n: split[n][0] if n in split else q for n, q in quants.items()},
        {n: terms for n, (_, terms) in split.items()},
    )


def rescaled(network: FusedGraph, plan: ActivationPlan, scales: Mapping[str, float]) -> ActivationPlan:
    """The plan with other scales of some tensors, moved by as little as Adds need: at most 2**-10."""
    shared = network.scale_groups
    quants = {g: plan.quants[t] for t, g in shared.items()}
    quants |= {shared[t]: replace(plan.quants[t], scale=s) for t, s in scales.items()}
    quants = snap_scales(network, quants)
    # an input that is given as several terms has a Quant of its own
    return replace(
        plan, quants={t: plan.quants[t] if t in plan.terms else quants[shared[t]] for t in plan.quants}
    )


def open_tensors(network: FusedGraph) -> list[str]:
    """Tensors that get codes, of which the file does not say how they are rounded: they need calibration."""
    shared = network.scale_groups
    kept = {shared[t] for t in (*network.graph.quantizers, *_meaningless(network)) if t in shared}
    return [t for t, group in shared.items() if group not in kept]


def _meaningless(network: FusedGraph) -> set[str]:
    """Tensors whose scale is nowhere used: raw outputs of a quantized file, sums of which only the sign counts."""
    signs = {n.requantized for n in network.layers if sign_of(n, network)}
    return signs | (network.raw if network.graph.quantizers else set())


def _quants(network: FusedGraph, statistics: Statistics | None, options: Options) -> dict[str, Quant]:
    """The Quant of every tensor that is rounded."""
    given = network.graph.quantizers
    functions = {n.before: table_function(n) for n in network.layers if n.table and n.before}
    shared, stored = network.scale_groups, set(network.tensors)
    groups: dict[str, list[str]] = {}
    for name, group in shared.items():
        groups.setdefault(group, []).append(name)
    kept = {shared[name]: q.quant for name, q in given.items() if name in shared}
    kept |= {shared[t]: Quant(options.activation_format, 1.0) for t in _meaningless(network)}
    symmetric = {shared[t]: n for n in network.layers if isinstance(n.main, MatMul) for t in n.main.inputs}
    for group, node in symmetric.items():
        if group in kept and kept[group].zero_point:
            raise DataError(
                f"MatMul '{node.name}': its operand '{group}' has zero point {kept[group].zero_point} in the file, and "
                "the array multiplies what it computed with 0 alone; quantize it symmetrically"
            )
    digits = two_digits(options.activation_format, options.weight_format)
    made_weights = {
        shared[n.main.input_b]: n for n in network.layers if isinstance(n.main, MatMul) and digits
    }
    if digits and digits.saturates:
        for tensor, q in given.items():
            if tensor in shared and shared[tensor] in made_weights and q.high > digits.most:
                name, digit = made_weights[shared[tensor]].name, options.weight_format
                raise DataError(
                    f"MatMul '{name}': the file rounds its operand '{tensor}' to codes up to {q.high}, and two digits "
                    f"of {digit.name} hold {digits.most}; quantize it to that, or take weights of {digit.bits + 1} bits"
                )
    unknown = [t for group, members in groups.items() if group not in kept for t in members]
    if unknown and statistics is None:
        raise DataError(
            f"the model says of {_listed(unknown)} not how it is rounded; give --calibration X.npz with real samples, "
            "or quantize the model there too"
        )
    if unknown and given:
        _logger.warning("calibrated, as the model does not quantize them: %s", ", ".join(unknown))
    # products add nothing to minifloats before they are rounded
    products = [
        n for n in network.layers if n.product and n.residual and not options.activation_format.uniform
    ]
    centered = {shared[t] for n in products for t in (n.requantized, n.residual) if t}
    centered |= {shared[n.output] for n in network.nodes if isinstance(n, Softmax)}
    centered |= set(symmetric)
    for group, node in symmetric.items():
        if group not in kept and statistics is not None:
            _check_sign(node, _observed(statistics, groups[group]), options.activation_format)
    quants = kept | {
        group: activation_quant(
            _observed(statistics, members),
            options.activation_format,
            method=options.scale_method,
            power_of_two=options.power_of_two,
            function=functions.get(group) if group not in stored and options.scale_method == "mse" else None,
            centered=group in centered,
            highest=digits.most if digits and group in made_weights else None,
        )
        for group, members in groups.items()
        if group not in kept and statistics is not None
    }
    if not options.power_of_two:
        quants = snap_scales(network, quants, kept)
    if statistics is not None:
        found = {t: quants[shared[t]] for t in network.tensors if shared[t] not in kept}
        _warn_of_ranges(network, statistics, found)
    return {name: quants[group] for name, group in shared.items()}


def _check_sign(node: FusedLayer, seen: Observed, fmt: Format) -> None:
    """DataError where a format of one sign would have to hold the other without a zero point."""
    if (seen.minimum < 0 and fmt.min >= 0) or (seen.maximum > 0 and fmt.max <= 0):
        raise DataError(
            f"MatMul '{node.name}': its operand '{seen.name}' reaches from {seen.minimum:.3g} to {seen.maximum:.3g}; a "
            f"computed factor has no zero point, without which {fmt.name} has one sign; choose a signed format"
        )


def _warn_of_ranges(network: FusedGraph, statistics: Statistics, quants: dict[str, Quant]) -> None:
    """Parts of a Concat share the scale of the largest: the small ones may be left with hardly a code, where they
    cannot be scaled (`branches`)."""
    branches = split_branches(network.graph)
    for node in network.nodes:
        if not isinstance(node, Concat) or node.output not in quants:
            continue
        quant = quants[node.output]
        values = quant.format.fixed(quant.format.codes) * 2.0**quant.format.lsb_exponent
        seen = {p: statistics.tensors[p] for p in node.parts if p in statistics.tensors}
        peaks = {p: max(abs(s.minimum), abs(s.maximum)) for p, s in seen.items()}
        largest = max(peaks, key=lambda p: peaks[p], default="")
        for part, peak in peaks.items():
            left = np.count_nonzero(np.unique(values[(values > 0) & (values * quant.scale <= peak)]))
            few = 0 < peak * FAR_APART <= peaks[largest] and left < _FEW
            if few and not free(network.graph, branches, part, largest):
                _logger.warning(
                    "Concat '%s': '%s' reaches %.3g and '%s' %.3g; they share a scale, in which %d of %s's values are "
                    "left for '%s': bring them to similar ranges (normalize a branch) or use more bits",
                    node.name, part, peak, largest, peaks[largest], left, quant.format.name, part,
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
    network: FusedGraph, statistics: Statistics | None, options: Options
) -> dict[str, tuple[Quant, int]]:
    """The inputs that are given as several terms: scale and number of terms. What the file quantizes stays one; what
    it does not, though it has a format of few bits elsewhere, gets the precision of eight."""
    if statistics is None:
        return {}
    given = network.graph.quantizers
    wanted = 0 if given and options.input_terms == 1 else options.input_terms
    split = {}
    for name in network.term_inputs:
        if name in given:
            continue
        quant, terms = split_input(
            _observed(statistics, [name]),
            options.activation_format,
            wanted,
            method=options.scale_method,
            power_of_two=options.power_of_two,
        )
        if terms > 1:
            split[name] = (quant, terms)
    return split


def table_function(layer: FusedLayer) -> Callable[[np.ndarray], np.ndarray]:
    activation = layer.activation
    assert activation is not None
    return lambda x: evaluate(activation, x)
