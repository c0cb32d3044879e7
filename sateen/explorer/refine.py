"""Members of a front with one pattern for all layers, given a pattern for each layer at the same cycles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sateen.compiler.prune.one_shot import ends_of
from sateen.errors import ConfigError, SateenError
from sateen.explorer.candidate import Candidate
from sateen.explorer.evaluate import Evaluator, Task
from sateen.explorer.layers import Levels, Map, evolve, guided, levels, measured_losses, trace_losses
from sateen.explorer.search import Search
from sateen.formats.sparsity import DENSE, PATTERNS
from sateen.machine.array import indices_for_patterns
from sateen.machine.config import AcceleratorConfig

SAMPLES = 64
"""Of calibration, that predictions are compared on."""
GENERATIONS = 10


Cycles = Callable[[Map], int]


def _evolved(made: Levels, start: Map, cycles: Cycles, budget: int, seed: int) -> Map:
    return evolve(made, start, cycles, budget, generations=GENERATIONS, seed=seed)


def _by_measured(made: Levels, start: Map, cycles: Cycles, budget: int, seed: int) -> Map:
    return guided(made, measured_losses(made), cycles, budget)


def _by_trace(made: Levels, start: Map, cycles: Cycles, budget: int, seed: int) -> Map:
    return guided(made, trace_losses(made, seed=seed), cycles, budget)


METHODS = {"evolve": _evolved, "sensitivity": _by_measured, "trace": _by_trace}
"""By the names of `--per-layer-by`."""


def refine(
    search: Search, task: Task, count: int, progress: Callable[[str, float], None], method: str = "evolve"
) -> int:
    """Measure a pattern for each layer for the first `count` sparse members; how many were. Raises ConfigError.

    `method` is one of `METHODS`: what looks for the patterns.
    """
    if method not in METHODS:
        raise ConfigError(f"per_layer_by = '{method}'; it must be one of {', '.join(METHODS)}")
    if task.calibration is None:
        raise ConfigError("a pattern for each layer needs calibration samples; give --calibration X.npz")
    evaluator = Evaluator(task)
    members = [t for t in search.study.front() if t.candidate.sparsity != DENSE.name][:count]
    samples = {k: a[:SAMPLES] for k, a in task.calibration.items() if k not in task.graph.unused}
    for done, member in enumerate(members):
        progress("patterns of layers", done / len(members))
        candidate = member.candidate
        config = candidate.config.replace(patterns=_allowed(candidate.config))
        graph = evaluator.graph(candidate)
        made = levels(graph, config.patterns, samples, task.method)

        mixed = partial(_mixed, candidate, config, made.names)

        def cycles(chosen: Map, mixed: Callable[[Map], Candidate] = mixed) -> int:
            return evaluator.cycles(mixed(chosen))

        ends = ends_of(graph)  # as the member was pruned
        start = tuple(DENSE.name if name in ends else candidate.sparsity for name in made.names)
        try:
            budget = max(int(member.metrics["cycles"]), cycles(start))
            best = METHODS[method](made, start, cycles, budget, search.options.seed)
            search.add(member.point, mixed(best), evaluator.measure(mixed(best)))
        except SateenError as e:
            progress(f"patterns of layers: trial {member.number} stays as it is: {e}", done / len(members))
    search.study.write_results()
    return len(members)


def _mixed(candidate: Candidate, config: AcceleratorConfig, names: tuple[str, ...], chosen: Map) -> Candidate:
    """The candidate with these patterns, on a machine with no others."""
    used = dict.fromkeys((DENSE.name, *sorted(set(chosen))))
    layers = tuple(zip(names, chosen, strict=True))
    return replace(candidate, config=config.replace(patterns=tuple(used)), sparsity=DENSE.name, layers=layers)


def _allowed(config: AcceleratorConfig) -> tuple[str, ...]:
    """All patterns that an array of these groups and lanes can have."""
    return tuple(
        p
        for p in PATTERNS
        if indices_for_patterns.broken(config.group, config.lanes, (p,), config.split_groups) is None
    )
