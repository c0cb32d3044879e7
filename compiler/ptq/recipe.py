"""Recipes: which passes a network goes through on its way to integers, by name or from a TOML file.

scales = "mse"            # how activation scales are found: mse, minmax, percentile, entropy
input_terms = 1           # codes per input value; 0: as many as 8 bits need

[[pass]]                  # in this order, each at most once
name = "equalize"         # mergepool, equalize, smooth, gptq, adaround, reconstruct
iterations = 20           # the pass's options
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sateen.compiler.ptq.adaround import AdaRound
from sateen.compiler.ptq.equalize import Equalize, equalize
from sateen.compiler.ptq.gptq import Gptq, gptq
from sateen.compiler.ptq.merge_pool import MergePool, merge_pools
from sateen.compiler.ptq.reconstruct import Reconstruct, reconstruct, require_torch
from sateen.compiler.ptq.smooth import Smooth, smooth
from sateen.compiler.quantize.activations import plan_activations
from sateen.compiler.quantize.branches import scale_branches
from sateen.compiler.quantize.calibrate import Progress, Statistics, calibrate
from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.quantize.input_terms import MOST_TERMS
from sateen.compiler.quantize.network import quantize_fused
from sateen.compiler.quantize.options import Options, as_format
from sateen.compiler.quantize.scales import METHODS
from sateen.errors import ConfigError, DataError
from sateen.files import read_toml, shown
from sateen.formats import Format
from sateen.ir.fused import FusedGraph
from sateen.ir.graph import Conv, Graph
from sateen.ir.quantized import QuantizedGraph

PassOptions = MergePool | Equalize | Smooth | Gptq | AdaRound | Reconstruct

PASSES: dict[str, type] = {
    "mergepool": MergePool,  # first: it changes which layers there are
    "equalize": Equalize,  # it needs nothing but weights
    "smooth": Smooth,  # moves what equalization has left in the activations
    "gptq": Gptq,  # needs the scales of the activations that the two above have changed
    "adaround": AdaRound,  # starts from what GPTQ found, layer by layer
    "reconstruct": Reconstruct,  # starts from what those found, and moves scales too
}
"""In the order in which they must come."""

LEAST_SAMPLES = 8
"""That "gptq" and "adaround" fit weights to; of fewer they learn the samples by heart."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """passes : options of each, in order
    scales : how activation scales are found, see `quantize`
    input_terms : see `quantize`
    power_of_two : all scales are powers of two
    """

    name: str
    passes: tuple[PassOptions, ...] = ()
    scales: str = "mse"
    input_terms: int = 1
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if self.scales not in METHODS:
            raise ConfigError(
                f"recipe '{self.name}': scales = {self.scales!r}; it must be {', '.join(METHODS)}"
            )
        if type(self.input_terms) is not int or not 0 <= self.input_terms <= MOST_TERMS:
            raise ConfigError(
                f"recipe '{self.name}': input_terms = {self.input_terms!r}; it must be 0 to {MOST_TERMS}"
            )
        order = [list(PASSES.values()).index(type(p)) for p in self.passes]
        last = order.index(len(PASSES) - 1) if len(PASSES) - 1 in order else len(order)
        if order != sorted(order) or len(set(order[:last])) < last:
            raise ConfigError(
                f"recipe '{self.name}': passes {', '.join(map(pass_name, self.passes))}; each may come once, in the "
                f"order {', '.join(PASSES)}; reconstruct may come again"
            )
        if any(isinstance(p, AdaRound) for p in self.passes) and not any(
            isinstance(p, Gptq) for p in self.passes
        ):
            raise ConfigError(f"recipe '{self.name}': adaround starts from gptq; put gptq before it")


RECIPES = {
    "fast": Recipe("fast"),
    "balanced": Recipe("balanced", (MergePool(), Gptq()), input_terms=0),
    "best": Recipe("best", (MergePool(), Gptq(sweeps=32), AdaRound()), input_terms=0),
    "learned": Recipe(
        "learned",
        (
            MergePool(),
            Gptq(sweeps=32),
            AdaRound(),
            Reconstruct(),
            Reconstruct(unit="network", loss="prediction", drop=0.0, iterations=500),
        ),
        input_terms=0,
    ),
}
"""`fast` costs no cycles; the others read inputs of few bits as several terms (docs/adr/0020-input-terms.md), and have
no pool before a small dense layer (docs/adr/0024-merged-pools.md)."""


def pass_name(options: PassOptions) -> str:
    return next(name for name, kind in PASSES.items() if isinstance(options, kind))


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by name, or from a TOML file. Raises ConfigError."""
    if str(name) in RECIPES:
        return RECIPES[str(name)]
    path = Path(name)
    if path.suffix != ".toml":
        raise ConfigError(f"recipe '{name}' is unknown; it must be {', '.join(RECIPES)}, or a .toml file")
    content = read_toml(path, "recipe")
    allowed = {"scales": str, "input_terms": int, "power_of_two": bool, "pass": list}
    for key, value in content.items():
        if key not in allowed:
            raise ConfigError(f"recipe {path}: unknown key '{key}'; known are {', '.join(allowed)}")
        if type(value) is not allowed[key]:
            raise ConfigError(f"recipe {path}: {key} = {value!r}; it must be a {allowed[key].__name__}")
    passes = tuple(_pass(path, entry) for entry in content.pop("pass", []))
    return Recipe(shown(path.name), passes, **content)


def _pass(path: Path, entry: Any) -> PassOptions:
    name = entry.get("name") if isinstance(entry, dict) else None
    if name not in PASSES:
        raise ConfigError(f"recipe {path}: pass {name!r} is unknown; known are {', '.join(PASSES)}")
    kind = PASSES[name]
    known = {f.name: type(f.default) for f in fields(kind)}
    options = {k: v for k, v in entry.items() if k != "name"}
    for key, value in options.items():
        if key not in known:
            raise ConfigError(f"recipe {path}: pass {name} has no option '{key}'; it has {', '.join(known)}")
        if known[key] is float and type(value) is int:
            options[key] = float(value)
        elif type(value) is not known[key]:
            raise ConfigError(f"recipe {path}: {name}.{key} = {value!r}; it must be a {known[key].__name__}")
    return kind(**options)


def run_recipe(
    graph: Graph | FusedGraph,
    samples: Mapping[str, np.ndarray] | None,
    recipe: Recipe,
    *,
    weight_format: str | Format,
    activation_format: str | Format,
    progress: Progress | None = None,
) -> tuple[QuantizedGraph, dict[str, Any]]:
    """The quantized network, and what was done: recipe, options, seed, number of samples, seconds of each pass.

    `samples` may be None for a file that says how every tensor is rounded. `progress` is called with (done, all).
    Nothing is random but the choice of samples, whose seeds are fixed.

    Raises
    ------
    ConfigError
        A recipe that changes weights or scales, of a file that is quantized already.
    DataError
        Samples that are unfit, or fewer than `LEAST_SAMPLES` for passes that fit weights to them.
    FormatError
        A format that cannot hold what the network needs of it.
    """
    network = graph if isinstance(graph, FusedGraph) else fuse(graph)
    graph = network.graph
    given = {
        "tensors": len(graph.quantizers),
        "weights": sum(isinstance(n, Conv) and n.given is not None for n in graph.nodes),
    }
    if any(given.values()):
        _check_given(recipe)
    if samples is None and not graph.quantizers:
        raise DataError("calibration: no samples, and the model does not say how its tensors are rounded")
    samples, calibrated = dict(samples or {}), samples is not None
    fitted = [p for p in recipe.passes if isinstance(p, Gptq | AdaRound | Reconstruct)]
    learning = [p for p in recipe.passes if isinstance(p, Reconstruct)]
    if learning:
        require_torch()  # before anything else takes time
    count = len(next(iter(samples.values()), ()))
    if fitted and 0 < count < LEAST_SAMPLES:
        raise DataError(
            f"calibration: {count} samples, but recipe '{recipe.name}' fits weights to them and needs at least "
            f"{LEAST_SAMPLES}; give more, or use --ptq fast"
        )
    began = time.perf_counter()
    seconds: dict[str, float] = {}
    last = began

    def done(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[name], last = seconds.get(name, 0.0) + round(now - last, 3), now

    share = 0.05 if learning else 0.4 if fitted else 0.9  # of the time, that calibration takes
    fit = 0.1 if learning else 1.0  # where GPTQ ends

    def report(fraction: float) -> None:
        if progress:
            progress(round(1000 * fraction), 1000)

    merged: list[str] = []
    for options in recipe.passes:
        if isinstance(options, MergePool):
            graph, merged = merge_pools(graph, options)
            if merged:
                network = fuse(graph)
            done("mergepool")
        elif isinstance(options, Equalize):
            graph = equalize(graph, options)
            done("equalize")
        elif isinstance(options, Smooth):
            graph = smooth(graph, calibrate(graph, samples), options)
            done("smooth")
    formats = as_format(weight_format), as_format(activation_format)
    statistics: Statistics | None = None
    branches: dict[str, float] = {}
    if calibrated:
        statistics = calibrate(graph, samples, progress=lambda i, n: report(share * i / n))
        done("calibrate")
        graph, branches = scale_branches(
            graph, statistics, *formats, scale_method=recipe.scales, power_of_two=recipe.power_of_two
        )
        if branches:
            statistics = calibrate(graph, samples)
            done("branches")
    settings = Options(*formats, recipe.scales, recipe.power_of_two, recipe.input_terms)
    network = network.with_graph(graph)
    plan = plan_activations(network, statistics, settings)
    done("scales")
    scales = None
    chosen = next((p for p in recipe.passes if isinstance(p, Gptq)), None)
    if chosen:
        graph, scales = gptq(
            graph,
            samples,
            plan,
            formats[0],
            chosen,
            learned=next((p for p in recipe.passes if isinstance(p, AdaRound)), None),
            power_of_two=recipe.power_of_two,
            progress=lambda i, n: report(share + (fit - share) * i / n),
        )
        done("gptq and adaround" if any(isinstance(p, AdaRound) for p in fitted) else "gptq")
    statements = []
    for k, unit in enumerate(learning):

        def of_all(i: int, n: int, k: int = k) -> None:
            report(fit + (1 - fit) * (k + i / n) / len(learning))

        graph, scales, plan, statement = reconstruct(
            network,
            samples,
            plan,
            formats[0],
            unit,
            start=None if scales is None else (graph, scales),
            power_of_two=recipe.power_of_two,
            progress=of_all,
        )
        statements.append(statement)
        done("reconstruct")
    result = quantize_fused(network.with_graph(graph), statistics, plan, settings, scales)
    done("bias correction and rounding" if not fitted else "rounding")
    report(1.0)
    record = {
        "recipe": recipe.name,
        "scales": recipe.scales,
        "power_of_two": recipe.power_of_two,
        "input_terms": plan.terms,
        "passes": [{"name": pass_name(p), **asdict(p)} for p in recipe.passes],
        "seed": 0,
        "samples": statistics.samples if statistics else 0,
        "seconds": seconds | {"all": round(time.perf_counter() - began, 3)},
    }
    if merged:
        record["merged"] = merged  # layers that have taken a pool in
    if branches:
        record["branches"] = branches  # parts of a Concat, and what they are multiplied by
    if statements:
        record["reconstruct"] = statements
    if any(given.values()):
        record["given"] = given  # how many keep the scales that the file has
    return result, record


def _check_given(recipe: Recipe) -> None:
    does = [pass_name(p) for p in recipe.passes]
    if recipe.input_terms != 1:
        does.append(f"input_terms = {recipe.input_terms}")
    if does:
        raise ConfigError(
            f"recipe '{recipe.name}': {', '.join(does)} would change weights or scales, but the model is quantized "
            "already and keeps its own; use --ptq fast, or give the model before it was quantized"
        )
