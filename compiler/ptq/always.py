"""Passes that every recipe has: statistics of the samples, scales of activations, and the codes at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sateen.compiler.ptq.passes import KNOWN, Context, Pass
from sateen.compiler.ptq.state import State
from sateen.compiler.quantize.activations import plan_activations
from sateen.compiler.quantize.branches import scale_branches
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.network import quantize_fused


@dataclass(frozen=True, slots=True)
class Calibrate(Pass):
    """See `calibrate`."""

    name = "calibrate"
    gives = ("statistics",)
    share = 2.0

    def run(self, state: State, context: Context) -> State:
        found = calibrate(state.network.graph, dict(context.samples), progress=context.progress)
        return replace(state, statistics=found)


@dataclass(frozen=True, slots=True)
class Branches(Pass):
    """See `scale_branches`. The manifest's `branches` has parts of a Concat, and what they are multiplied by."""

    name = "branches"
    needs = ("statistics",)
    gives = ("statistics",)
    undoes = KNOWN

    def run(self, state: State, context: Context) -> State:
        assert state.statistics is not None
        options = context.options
        graph, factors = scale_branches(
            state.network.graph,
            state.statistics,
            options.weight_format,
            options.activation_format,
            scale_method=options.scale_method,
            power_of_two=options.power_of_two,
        )
        if not factors:
            return state
        return replace(
            state,
            network=state.network.with_graph(graph),
            statistics=calibrate(graph, dict(context.samples)),
            said={**state.said, "branches": factors},
        )


@dataclass(frozen=True, slots=True)
class Scales(Pass):
    """See `plan_activations`."""

    name = "scales"
    needs = ("statistics",)
    gives = ("plan",)

    def run(self, state: State, context: Context) -> State:
        return replace(state, plan=plan_activations(state.network, state.statistics, context.options))


@dataclass(frozen=True, slots=True)
class Rounding(Pass):
    """Codes of weights and biases, see `quantize`. Weights that no pass has fitted are rounded to nearest, and their
    biases take the mean error."""

    name = "rounding"
    needs = ("plan",)
    gives = ("quantized",)

    def run(self, state: State, context: Context) -> State:
        assert state.plan is not None
        scales = {name: f.scale for name, f in (state.fitted or {}).items()}
        made = quantize_fused(state.rounded, state.statistics, state.plan, context.options, scales)
        return replace(state, quantized=made)
