"""One candidate measured, the cheap before the dear.

First a sketch: the network in the candidate's formats with scales from a few samples, which has the same program as
the one that is quantized with care, and so the same cycles. What misses a limit there, or could not be on the front
however accurate it were, goes no further. Then the recipe, accuracy on a part of the data, and on all of them.
Machines that share a network in codes share all of that: it is kept in memory and in the study's folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sateen.compiler.pipeline import Quantized, map_network, quantize_graph
from sateen.compiler.prune.channels import Words, prune_channels
from sateen.compiler.ptq.merge_pool import MergePool
from sateen.compiler.ptq.recipe import Recipe, load_recipe
from sateen.compiler.warn import quiet
from sateen.errors import ConfigError, ModelError, SateenError
from sateen.explorer.candidate import Candidate
from sateen.explorer.goals import METRICS, Goals, dominates
from sateen.explorer.target import Target
from sateen.files import load_entry, store_entry
from sateen.formats import parse_sparsity
from sateen.fpga.estimate.energy import energy
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv
from sateen.ir.serialize import float_from_bytes, from_bytes, to_bytes
from sateen.machine.config import AcceleratorConfig
from sateen.mapped import MappedNetwork
from sateen.sim.reference import run_reference

SKETCH_SAMPLES = 2
PART = 256
"""Samples of the first, cheap accuracy."""
KEPT_IN_MEMORY = 8
"""Networks in codes."""
SIGMAS = 2.0
"""Of the part's sampling error, that a candidate may lie beyond a limit or the front and still go on."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is the same for all candidates of a study, and travels to each worker once."""

    model: str
    graph: Graph
    calibration: dict[str, np.ndarray] | None
    data: dict[str, np.ndarray]
    expected: np.ndarray
    """Logits of the float network on `data`, (samples, classes)."""
    labels: np.ndarray | None
    target: Target
    goals: Goals
    method: str
    """How weights are pruned."""
    cache: Path
    identity: str
    """The same for the same network, data and options."""


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate.

    Attributes
    ----------
    state : str
        "measured"; "screened": as far as it costs little; "limit": it misses one, known before all was measured;
        "dominated" likewise; "impossible": the model does not fit the machine, or its formats.
    """

    state: str
    metrics: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0


@dataclass
class Evaluator:
    """Measures candidates of one task; networks in codes are kept between them."""

    task: Task
    _networks: OrderedDict[tuple[str, ...], Quantized] = field(default_factory=OrderedDict)
    _sketches: OrderedDict[tuple[str, ...], Quantized] = field(default_factory=OrderedDict)
    _smaller: dict[str, Graph] = field(default_factory=dict)
    """Float networks with channels removed."""

    def measure(self, candidate: Candidate, front: Sequence[tuple[float, ...]] = ()) -> Outcome:
        """All metrics of a candidate, or as many as it takes to know that it misses a limit, or lies behind `front`.

        `front` are the gains (`Goals.gains`) of those that are known.
        """
        began = time.perf_counter()

        def done(state: str, reason: str = "") -> Outcome:
            return Outcome(state, metrics, reason, round(time.perf_counter() - began, 4))

        goals, metrics = self.task.goals, {}
        needs_run = any(METRICS[name].dear for name in (*goals.objectives, *(n for n, _ in goals.limits)))
        try:
            known = self._scores(candidate, whole=True, make=False)
            if known is None and needs_run:
                metrics = self._cheap(candidate, self._sketch(candidate))
                if reason := self._missed(metrics):
                    return done("limit", reason)
                if self._behind(metrics, front, best={"accuracy": 100.0, "agreement": 100.0, "sqnr": 1e3}):
                    return done("dominated")
                part = self._scores(candidate, whole=False)
                assert part is not None
                lucky = self._lucky(part)
                if reason := self._missed(metrics | lucky):
                    metrics |= {"part": part}
                    return done("limit", f"{reason}, on {part['samples']} samples")
                if self._behind(metrics, front, best=lucky):
                    metrics |= {"part": part}
                    return done("dominated", f"on {part['samples']} samples")
            metrics = self._cheap(
                candidate, self.network(candidate) if needs_run else self._sketch(candidate)
            )
            if needs_run:
                metrics |= self._scores(candidate, whole=True) or {}
        except (ConfigError, ModelError) as e:
            return done("impossible", str(e))
        return done("measured", self._missed(metrics))

    def screen(self, candidate: Candidate) -> Outcome:
        """What is known of a candidate without quantizing with care or running it."""
        began = time.perf_counter()
        metrics: dict[str, Any] = {}
        state, reason = "screened", ""
        try:
            metrics = self.task.target.estimate(candidate.config, 0)
            if not (reason := self._missed(metrics)):
                metrics = self._cheap(candidate, self._sketch(candidate))
                reason = self._missed(metrics)
            state = "limit" if reason else state
        except (ConfigError, ModelError) as e:
            state, reason = "impossible", str(e)
        return Outcome(state, metrics, reason, round(time.perf_counter() - began, 4))

    def cycles(self, candidate: Candidate) -> int:
        """Exact, of a sketch."""
        return int(self._cheap(candidate, self._sketch(candidate))["cycles"])

    # -- cycles and resources ---------------------------------------------------------------------------------

    def _cheap(self, candidate: Candidate, quantized: Quantized) -> dict[str, Any]:
        config = candidate.config.replace(
            weight_format=quantized.config.weight_format,
            activation_format=quantized.config.activation_format,
        )
        made = replace(quantized, config=config)
        mapped = MappedNetwork(Path(self.task.model), made, map_network(made))
        cycles = mapped.predict(candidate.memory.latency, candidate.memory.interval)
        totals = mapped.schedule["totals"]
        found = self.task.target.estimate(mapped.config, mapped.program.memory_bytes)
        clock = found["clock"]
        uj = energy(totals, mapped.config)["uj"]
        weights = totals["weights"]
        return {
            "cycles": cycles,
            "fps": None if clock is None else 1e6 * clock / cycles * mapped.config.arrays,
            **{name: found[name] for name in ("lut", "ff", "dsp", "bram", "clock")},
            "energy": (uj["total_low"] + uj["total_high"]) / 2,
            "bytes": totals["bytes"]["total"],
            "weight_bytes": weights["values_bytes"] + weights["index_bytes"],
            "utilization": totals["utilization"],
            "multipliers": mapped.config.arrays * mapped.config.multipliers,
            "outside": found["outside"],
        }

    def _missed(self, metrics: dict[str, Any]) -> str:
        """The limit that is missed by the most, in words; empty if none is."""
        excess = self.task.goals.excess(metrics)
        name = max(excess, key=excess.__getitem__, default="")
        if not name or excess[name] <= 1e-12:
            return ""
        limit = dict(self.task.goals.limits)[name]
        return f"{name} = {metrics[name]:.6g} with a limit of {limit:g}"

    def _behind(
        self, metrics: dict[str, Any], front: Sequence[tuple[float, ...]], best: dict[str, float]
    ) -> bool:
        """Whether one of the front is better everywhere, however well this candidate may still do."""
        goals = self.task.goals
        if not goals.objectives or not front:
            return False
        hopeful = {"drop": -100.0} | metrics | best
        if any(hopeful.get(name) is None for name in goals.objectives):
            return False
        gains = goals.gains(hopeful)
        return any(dominates(other, gains) for other in front)

    def _lucky(self, part: dict[str, Any]) -> dict[str, float]:
        """The best that all data may give, as far as a part of them says."""
        margin = SIGMAS * part["error"] + 100 / part["samples"]
        found = {
            "agreement": part["agreement"] + margin,
            "drop": part["drop"] - margin,
            "sqnr": part["sqnr"] + 1.0,
        }
        if (labels := self.task.labels) is not None:
            right = 100 * float((self.task.expected.argmax(1) == labels).mean())
            found["accuracy"] = right - found["drop"]
        return found

    # -- the network in codes ---------------------------------------------------------------------------------

    def graph(self, candidate: Candidate) -> Graph:
        """The float network, without the channels that the candidate leaves out."""
        *_, cut = candidate.network
        if not cut:
            return self.task.graph
        if cut not in self._smaller:
            entry = self._entry("channels", cut)
            if (data := load_entry(entry)) is not None:
                self._smaller[cut] = float_from_bytes(data)
            else:
                self._smaller[cut] = self._cut(candidate)
                store_entry(entry, to_bytes(self._smaller[cut]))
        return self._smaller[cut]

    def _cut(self, candidate: Candidate) -> Graph:
        graph, config = self.task.graph, candidate.config
        samples = {k: a for k, a in (self.task.calibration or {}).items() if k not in graph.unused}
        words = Words(config.elements, config.cols)
        return prune_channels(graph, candidate.channels, samples=samples, words=words)[0]

    def network(self, candidate: Candidate) -> Quantized:
        """As `sateen compile` makes it."""
        return self._made(self._networks, candidate, load_recipe(candidate.recipe), self.task.method, None)

    def _sketch(self, candidate: Candidate) -> Quantized:
        recipe = load_recipe(candidate.recipe)
        passes = tuple(
            p for p in recipe.passes if isinstance(p, MergePool)
        )  # the one that changes the program
        quick = Recipe(
            "sketch",
            passes,
            scales="minmax",
            input_terms=recipe.input_terms,
            power_of_two=recipe.power_of_two,
        )
        return self._made(self._sketches, candidate, quick, "magnitude", SKETCH_SAMPLES)

    def _made(
        self,
        kept: OrderedDict[tuple[str, ...], Quantized],
        candidate: Candidate,
        recipe: Recipe,
        method: str,
        samples: int | None,
    ) -> Quantized:
        key = candidate.network
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        entry = self._entry("network", *key)
        data = load_entry(entry) if samples is None else None
        if data is not None:
            made = _from_bytes(data)
        else:
            given = self.task.calibration
            with quiet():
                made = quantize_graph(
                    self.graph(candidate),
                    self.task.model,
                    config=candidate.config,
                    calibration=given and {k: a[:samples] for k, a in given.items()},
                    recipe=recipe,
                    sparsity=parse_sparsity(candidate.sparsity),
                    sparsity_method=method,
                    sparsity_layers={name: parse_sparsity(p) for name, p in candidate.layers},
                )
            if samples is None:
                store_entry(entry, _to_bytes(made))
        kept[key] = made
        while len(kept) > (KEPT_IN_MEMORY if samples is None else self._kept_sketches):
            kept.popitem(last=False)
        return made

    @functools.cached_property
    def _kept_sketches(self) -> int:
        weights = sum(n.weight.size for n in self.task.graph.nodes if isinstance(n, Conv))
        return max(KEPT_IN_MEMORY, min(64, (1 << 28) // max(1, weights)))

    # -- accuracy ---------------------------------------------------------------------------------------------

    def _scores(self, candidate: Candidate, *, whole: bool, make: bool = True) -> dict[str, Any] | None:
        """Of the network in codes on a part of the data or all; None if it is not known and not to be made."""
        count = len(self.task.expected)
        samples = count if whole else min(PART, count)
        entry = self._entry("scores", *candidate.network, str(samples))
        if (data := load_entry(entry)) is not None:
            return dict(json.loads(data))
        if not make:
            return None
        quantized = self.network(candidate).graph
        inputs = {k: a[:samples] for k, a in self.task.data.items() if k not in self.task.graph.unused}
        found = first_output(run_reference(quantized, inputs))
        labels = None if self.task.labels is None else self.task.labels[:samples]
        scores = score(found, self.task.expected[:samples], labels)
        store_entry(entry, json.dumps(scores).encode())
        return scores

    def _entry(self, kind: str, *key: str) -> Path:
        text = chr(0).join((self.task.identity, kind, *key))
        return self.task.cache / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _to_bytes(made: Quantized) -> bytes:
    about = {
        "config": made.config.to_dict(),
        "record": made.record,
        "unused": {k: list(v) for k, v in made.unused.items()},
        "warnings": made.warnings,
    }
    return json.dumps(about).encode() + b"\n" + to_bytes(made.graph)


def _from_bytes(data: bytes) -> Quantized:
    head, _, graph = data.partition(b"\n")
    about = json.loads(head)
    return Quantized(
        from_bytes(graph),
        AcceleratorConfig.from_dict(about["config"]),
        about["record"],
        {k: tuple(v) for k, v in about["unused"].items()},
        tuple(about["warnings"]),
    )


def first_output(outputs: dict[str, np.ndarray]) -> np.ndarray:
    """(samples, classes) of the network's one output, or the first of several."""
    values = next(iter(outputs.values()))
    return values.reshape(len(values), -1).astype(np.float64)


def score(found: np.ndarray, expected: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
    """What the codes lose against the float network.

    Parameters
    ----------
    found, expected : (samples, classes)
    labels : (samples,), optional

    Returns
    -------
    dict
        "accuracy" (with labels), "agreement" and "drop" in percent, "sqnr" in dB, "samples", "float", the float
        network's accuracy, and "error", the standard error of "drop".
    """
    n = len(found)
    mine, theirs = found.argmax(1), expected.argmax(1)
    same = mine == theirs
    noise = float(((found - expected) ** 2).sum())
    power = float((expected**2).sum())
    sqnr = 10 * np.log10(power / noise) if noise and power else (0.0 if noise else 200.0)
    agreement = 100 * float(same.mean())
    scores: dict[str, Any] = {"samples": n, "agreement": agreement, "sqnr": float(sqnr)}
    if labels is None:
        changed, drop = float((~same).mean()), 100 - agreement
    else:
        right, was = mine == labels, theirs == labels
        scores["accuracy"], scores["float"] = 100 * float(right.mean()), 100 * float(was.mean())
        changed, drop = float((right != was).mean()), scores["float"] - scores["accuracy"]
    scores["drop"] = drop
    # Ref: McNemar: only the samples on which the two differ vary.
    scores["error"] = 100 * float(np.sqrt(max(changed - (drop / 100) ** 2, 0.0) / n))
    return scores


def checked_measure(
    evaluator: Evaluator, candidate: Candidate, front: Sequence[tuple[float, ...]] | None
) -> Outcome:
    """`Evaluator.measure`, or `screen` without a front; an error of the candidate's own is its outcome, and no end of
    the study."""
    try:
        return evaluator.screen(candidate) if front is None else evaluator.measure(candidate, front)
    except SateenError as e:
        return Outcome("impossible", {}, str(e))
