"""Reconstruction: rounding of weights, biases and scales learned by gradients, so that each block of the network, once
quantized, gives what the float network's does.

Weights are rounded by FlexRound or AdaRound, on the format's own grid; scales, those of activations too, move by their
gradient through the rounding; some activations, by chance, are left unrounded while a block learns. What is found goes
on as weights on the grid and as scales, which the integer network keeps. Needs PyTorch, the extra `learn`.

Ref: Li et al., BRECQ, arXiv 2102.05426; Lee et al., FlexRound, arXiv 2306.00317; Wei et al., QDrop, arXiv 2203.05740;
Liu et al., PD-Quant, arXiv 2212.07048; Esser et al., LSQ, arXiv 1902.08153.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from dataclasses import dataclass, replace

from sateen.compiler.ptq.blocks import UNITS, split_blocks
from sateen.compiler.ptq.hessian import choose_samples
from sateen.compiler.ptq.kept import Kept
from sateen.compiler.ptq.passes import Context, Pass
from sateen.compiler.ptq.state import Fitted, State
from sateen.compiler.quantize.activations import ActivationPlan, rescaled
from sateen.compiler.quantize.scales import weight_scales
from sateen.compiler.quantize.weights import check_weights
from sateen.errors import ConfigError
from sateen.ir.fused import FusedGraph
from sateen.ir.nodes import Conv

LOSSES = ("mse", "prediction")
ROUNDINGS = ("flexround", "adaround")

_logger = logging.getLogger("sateen")


@dataclass(frozen=True, slots=True)
class Reconstruct(Pass):
    """unit : what is learned at a time: "layer", "block" (between places where the network is one tensor), "network"
    rounding : "flexround", "adaround"
    loss : "mse" of the unit's outputs; "prediction" adds the divergence of the network's outputs
    scales : learn those of activations, and with FlexRound those of weights
    drop : share of activations that is not rounded while learning
    iterations, batch : steps of Adam for each unit, samples in each
    rate, scale_rate : of the rounding; of scales and biases. They fall to 0 along a cosine
    seed : of the choice of samples and of what is dropped
    threads : of torch. With 1 the result is the same in each run on the same machine
    """

    unit: str = "block"
    rounding: str = "flexround"
    loss: str = "mse"
    scales: bool = True
    drop: float = 0.5
    iterations: int = 400
    batch: int = 32
    rate: float = 0.002
    scale_rate: float = 0.001
    seed: int = 0
    threads: int = 1
    name = "reconstruct"
    needs = ("plan",)
    gives = ("fitted",)
    fits = True
    share = 20.0

    def __post_init__(self) -> None:
        for name, choices in (("unit", UNITS), ("rounding", ROUNDINGS), ("loss", LOSSES)):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"reconstruct: {name} = {getattr(self, name)!r}; it must be {', '.join(choices)}"
                )
        if not 0 <= self.drop < 1:
            raise ConfigError(f"reconstruct: drop = {self.drop}; it must be at least 0 and below 1")
        for name in ("iterations", "batch", "rate", "scale_rate", "threads"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"reconstruct: {name} = {getattr(self, name)}; it must be positive")
        if self.seed < 0:
            raise ConfigError(f"reconstruct: seed = {self.seed}; it must not be negative")

    def check(self) -> None:
        if importlib.util.find_spec("torch") is None:
            raise ConfigError(
                "reconstruct needs PyTorch, which is not installed; install it with: pip install 'sateen[learn]', "
                "or use --ptq best, which needs none"
            )

    def run(self, state: State, context: Context) -> State:
        """All weights on the format's grid, and scales of activations, from where the passes before have left them.

        Zeros of the float weights stay zero, so N:M patterns do. With powers of two scales stay as they are. The
        manifest's `reconstruct` has the share of its error that each block has left, and blocks that were learned by
        layers.

        Raises
        ------
        DataError
            Samples that `calibrate` would refuse.
        ModelError, FormatError
            Weights that are not finite, or of a sign that the format lacks.
        """
        from sateen.compiler.ptq.torch_graph import differentiable
        from sateen.compiler.ptq.torch_learn import learn_network, threads
        from sateen.compiler.ptq.torch_rounding import nearest

        assert state.plan is not None
        network, plan, fmt = state.network, state.plan, context.options.weight_format
        options = replace(self, scales=False) if context.options.power_of_two else self
        blocks, by_layer = split_blocks(network, options.unit, differentiable)
        if by_layer:
            _logger.warning(
                "reconstruct: no gradient through all of %s; learned by layers", "; ".join(by_layer)
            )
        start = {}
        for conv in (n for n in state.rounded.graph.nodes if isinstance(n, Conv)):
            weight = check_weights(conv, fmt)
            if state.fitted and conv.name in state.fitted:
                scale = state.fitted[conv.name].scale
            else:
                scale = weight_scales(weight, fmt, power_of_two=context.options.power_of_two)
            start[conv.name] = nearest(weight, scale, conv.bias, fmt)
        arrays, groups = choose_samples(network.graph, context.samples), _groups(network, plan)
        torch = importlib.metadata.version("torch")
        names = [[n.name for n in b.nodes] for b in blocks]
        kept = Kept("reconstruct", torch, network.graph, arrays, plan, groups, names, fmt, options, start)
        with threads(options.threads):
            found, quants, errors = learn_network(
                network, blocks, arrays, plan, groups, fmt, start, options, kept, context.progress
            )
        learned = {t: q.scale for t, q in quants.items() if q.scale != plan.quants[t].scale}
        statement = {"blocks": errors, "by_layer": by_layer, "scales": options.scales}
        return replace(
            state,
            plan=rescaled(network, plan, learned) if learned else plan,
            fitted={name: Fitted(r.weight, r.scale, r.bias) for name, r in found.items()},
            said={**state.said, "reconstruct": [*state.said.get("reconstruct", ()), statement]},
        )


def _groups(network: FusedGraph, plan: ActivationPlan) -> dict[str, str]:
    """Tensors that are rounded where a node writes them: which of them share a scale. Inputs keep theirs."""
    graph, groups = network.graph, network.scale_groups
    written = {n.output for n in graph.nodes}
    fixed = {groups[p.name] for p in graph.inputs if p.name in groups}
    return {
        t: g for t, g in groups.items() if t in written - network.raw and g not in fixed and t in plan.quants
    }
