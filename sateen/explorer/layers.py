"""Patterns layer by layer at the cycles of one pattern for all, chosen by what they do to the prediction.

Each layer is pruned to each pattern once, by itself. A map of patterns is then put together from these: its fitness is
the divergence of the network's prediction on calibration samples, its cost the exact cycles of its program.

`evolve` is an evolutionary search: Ref: Sieberling et al., "EvoPress", arXiv 2410.14649, algorithm 1: offspring switch
levels of two layers, and the fewer are left the more samples tell them apart. `guided` takes the patterns that add up
to the least loss of single layers: their divergences, measured (`measured_losses`), or estimated from the trace of each
layer's Hessian (`trace_losses`), Ref: Dong et al., "HAWQ-V2", arXiv 1911.03852.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.float_executor import float_outputs, run_float
from sateen.compiler.prune.one_shot import sparsify
from sateen.errors import ConfigError
from sateen.explorer.evaluate import first_output
from sateen.formats import parse_sparsity
from sateen.formats.sparsity import DENSE
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv

Map = tuple[str, ...]
"""A pattern for each layer."""
OFFSPRING = 12
SURVIVORS = 3
FEW = 16
"""Samples that offspring are compared on first."""
PROBES = 8
"""Random directions in which a layer's Hessian is looked at."""
STEP = 0.05
"""By which weights are moved for that, of their mean magnitude."""


@dataclass(frozen=True, eq=False)
class Levels:
    """What layers may be.

    Attributes
    ----------
    graph : Graph
        Unpruned.
    names : tuple of str
        Of the layers that may be sparse.
    patterns : tuple of str
        From the densest on.
    layers : mapping
        (layer, pattern) to the layer pruned.
    samples : mapping
        (N, …) by input.
    target : ndarray
        (N, classes), the unpruned network's prediction.
    """

    graph: Graph
    names: tuple[str, ...]
    patterns: tuple[str, ...]
    layers: Mapping[tuple[str, str], Conv]
    samples: Mapping[str, np.ndarray]
    target: np.ndarray

    def network(self, chosen: Map) -> Graph:
        """The network with these patterns."""
        level = dict(zip(self.names, chosen, strict=True))
        nodes = tuple(self.layers.get((n.name, level.get(n.name, DENSE.name)), n) for n in self.graph.nodes)
        return replace(self.graph, nodes=nodes)

    def divergence(self, chosen: Map, count: int | None = None) -> float:
        """Mean Kullback-Leibler divergence, in nats, of the prediction on the first `count` samples."""
        return self.divergence_of(self.network(chosen), count)

    def divergence_of(self, graph: Graph, count: int | None = None) -> float:
        """The same of a network with other weights."""
        few = {k: a[:count] for k, a in self.samples.items()}
        return divergence(self.target[:count], first_output(float_outputs(graph, run_float(graph, few))))


def divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """Mean KL divergence of predictions (N, classes), logits or probabilities, in nats."""
    p, q = _log_softmax(expected), _log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(1).mean())


def _log_softmax(x: np.ndarray) -> np.ndarray:
    if (x >= 0).all() and np.allclose(x.sum(1), 1, atol=1e-3):  # the network ends in a softmax
        return np.asarray(np.log(np.maximum(x, 1e-12)))
    x = x - x.max(1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(1, keepdims=True)))


def levels(
    graph: Graph, patterns: Sequence[str], samples: Mapping[str, np.ndarray], method: str = "sparsegpt"
) -> Levels:
    """Prune each layer that can be to each pattern, the others as they are. Raises ConfigError where none can be."""
    names = tuple(n.name for n in graph.nodes if isinstance(n, Conv) and n.whole and n.weight.shape[-1] > 1)
    ordered = sorted({DENSE.name, *patterns}, key=lambda p: (-parse_sparsity(p).density, p))
    if not names or len(ordered) < 2:
        raise ConfigError(
            "no layer can have a pattern of its own; give a network and patterns that allow some"
        )
    layers: dict[tuple[str, str], Conv] = {}
    for pattern in ordered[1:]:
        wanted = dict.fromkeys(names, parse_sparsity(pattern))
        pruned, _ = sparsify(graph, DENSE, method=method, samples=samples, layers=wanted)
        for node in pruned.nodes:
            if isinstance(node, Conv) and node.name in names:
                layers[node.name, pattern] = node
    target = first_output(float_outputs(graph, run_float(graph, dict(samples))))
    return Levels(graph, names, tuple(ordered), layers, samples, target)


def evolve(
    made: Levels,
    start: Map,
    cycles: Callable[[Map], int],
    budget: int,
    *,
    generations: int = 20,
    seed: int = 0,
) -> Map:
    """The map of least divergence that was met within `budget` cycles. `start` keeps it."""
    rng, best, known = random.Random(seed), start, {start: cycles(start)}
    if known[start] > budget:
        raise ConfigError(f"the first map takes {known[start]} cycles, more than the budget of {budget}")

    def fits(chosen: Map) -> bool:
        if chosen not in known:
            known[chosen] = cycles(chosen)
        return known[chosen] <= budget

    for _ in range(generations):
        offspring = {best}
        for _ in range(20 * OFFSPRING):
            if len(offspring) > OFFSPRING:
                break
            child = _switched(made, best, rng)
            if child not in offspring and fits(child):
                offspring.add(child)
        few = sorted(sorted(offspring), key=lambda m: made.divergence(m, FEW))[:SURVIVORS]
        best = min(dict.fromkeys([best, *few]), key=made.divergence)
    return best


def _switched(made: Levels, parent: Map, rng: random.Random) -> Map:
    """One layer or two a level denser, and as many a level sparser."""
    child, most = list(parent), len(made.patterns) - 1
    for _ in range(rng.choice((1, 1, 2))):
        for step in (-1, 1):
            i = rng.randrange(len(child))
            level = made.patterns.index(child[i]) + step
            child[i] = made.patterns[min(most, max(0, level))]
    return tuple(child)


Losses = Mapping[tuple[str, str], float]
"""Of a layer with a pattern, all others dense."""


def measured_losses(made: Levels) -> Losses:
    """The divergence of each, in nats."""
    dense = (DENSE.name,) * len(made.names)
    return {
        (name, pattern): made.divergence((*dense[:i], pattern, *dense[i + 1 :]))
        for i, name in enumerate(made.names)
        for pattern in made.patterns[1:]
    }


def trace_losses(made: Levels, probes: int = PROBES, seed: int = 0) -> Losses:
    """Half the mean of the diagonal of the layer's Hessian, times the squared change of its weights.

    The Hessian is that of the divergence from the dense network's prediction, which with its gradient is 0 there. So
    Hutchinson's v'Hv of a random v of signs is twice the divergence at weights moved by `STEP` v, over `STEP` squared.
    """
    rng = np.random.default_rng(seed)
    whole = {n.name: n for n in made.graph.nodes if isinstance(n, Conv)}
    losses: dict[tuple[str, str], float] = {}
    for name in made.names:
        node = whole[name]
        step = STEP * float(np.abs(node.weight).mean())
        curved = []
        for _ in range(probes):
            moved = node.weight + step * rng.choice((-1.0, 1.0), node.weight.shape)
            there = replace(node, weight=moved.astype(node.weight.dtype))
            nodes = tuple(there if n.name == name else n for n in made.graph.nodes)
            curved.append(2 * made.divergence_of(replace(made.graph, nodes=nodes)) / step**2)
        for pattern in made.patterns[1:]:
            change = ((made.layers[name, pattern].weight - node.weight) ** 2).sum()
            losses[name, pattern] = float(0.5 * np.mean(curved) / node.weight.size * change)
    return losses


def guided(made: Levels, losses: Losses, cycles: Callable[[Map], int], budget: int) -> Map:
    """From all dense, the step of one layer to a sparser pattern that loses the least for each cycle saved, losses of
    single layers added, until the budget is kept. Raises ConfigError where it cannot be."""
    alone = {(name, DENSE.name): 0.0 for name in made.names} | dict(losses)
    chosen: Map = (DENSE.name,) * len(made.names)
    now = cycles(chosen)
    while now > budget:
        steps = []
        for i, (name, pattern) in enumerate(zip(made.names, chosen, strict=True)):
            for sparser in made.patterns[made.patterns.index(pattern) + 1 :]:
                after = (*chosen[:i], sparser, *chosen[i + 1 :])
                saved = now - cycles(after)
                if saved > 0:
                    steps.append(((alone[name, sparser] - alone[name, pattern]) / saved, after))
        if not steps:
            raise ConfigError(
                f"no map of these patterns takes as few as {budget} cycles; the sparsest takes {now}"
            )
        chosen = min(steps)[1]
        now = cycles(chosen)
    return chosen
