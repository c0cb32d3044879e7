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
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from sateen.compiler.ptq.adaround import AdaRound
from sateen.compiler.ptq.always import Branches, Calibrate, Rounding, Scales
from sateen.compiler.ptq.equalize import Equalize
from sateen.compiler.ptq.gptq import Gptq
from sateen.compiler.ptq.layer_passes import together
from sateen.compiler.ptq.merge_pool import MergePool
from sateen.compiler.ptq.passes import Context, Pass, check_order, run_passes, silent
from sateen.compiler.ptq.reconstruct import Reconstruct
from sateen.compiler.ptq.smooth import Smooth
from sateen.compiler.ptq.state import State
from sateen.compiler.quantize.calibrate import Progress
from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.quantize.input_terms import MOST_TERMS
from sateen.compiler.quantize.options import Options, as_format
from sateen.compiler.quantize.scales import METHODS
from sateen.errors import ConfigError, DataError
from sateen.files import read_toml, shown
from sateen.formats import Format
from sateen.ir.fused import FusedGraph
from sateen.ir.graph import Graph
from sateen.ir.nodes import Conv

PASSES: dict[str, type[Pass]] = {
    "mergepool": MergePool,  # first: it changes which layers there are
    "equalize": Equalize,  # it needs nothing but weights
    "smooth": Smooth,  # moves what equalization has left in the activations
    "gptq": Gptq,  # needs the scales of the activations that the two above have changed
    "adaround": AdaRound,  # starts from what GPTQ found, layer by layer
    "reconstruct": Reconstruct,  # starts from what those found, and moves scales too
}
"""Those that a recipe can name, in the order in which they must come."""

LEAST_SAMPLES = 8
"""That passes fit weights to; of fewer they learn the samples by heart."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """passes : options of each, in order
    scales : how activation scales are found, see `quantize`
    input_terms : see `quantize`
    power_of_two : all scales are powers of two
    """

    name: str
    passes: tuple[Pass, ...] = ()
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
                f"recipe '{self.name}': passes {', '.join(p.name for p in self.passes)}; each may come once, in the "
                f"order {', '.join(PASSES)}; reconstruct may come again"
            )
        for i, p in enumerate(self.passes):
            if p.starts_from and p.starts_from not in [q.name for q in self.passes[:i]]:
                raise ConfigError(
                    f"recipe '{self.name}': {p.name} starts from {p.starts_from}; put {p.starts_from} before it"
                )
        self.steps()

    def steps(self, calibrated: bool = True) -> tuple[Pass, ...]:
        """All passes that run, in order: those named, those of every recipe, and calibration where it is needed.

        Without samples the file says how tensors are rounded. Raises ConfigError where a pass lacks what it needs.
        """
        of_weights = [p for p in self.passes if "plan" not in p.needs]
        fitting = together([p for p in self.passes if "plan" in p.needs])
        found: list[Pass] = []
        for p in (*of_weights, *([Branches()] if calibrated else []), Scales(), *fitting, Rounding()):
            if calibrated and "statistics" in p.needs and not _has(found, "statistics"):
                found.append(Calibrate())
            found.append(p)
        check_order(self.name, found, () if calibrated else ("statistics",))
        return tuple(found)


def _has(passes: list[Pass], part: str) -> bool:
    """Whether the state has it after the passes."""
    last = next((p for p in reversed(passes) if part in (*p.gives, *p.undoes)), None)
    return last is not None and part in last.gives


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


AUTO = "auto"


def chosen(
    recipe: Recipe, samples: int, given: bool, weight_format: str | Format, activation_format: str | Format
) -> Recipe:
    """What `auto` stands for: `balanced` where rounding to nearest loses accuracy and there are samples to fit to.

    Integers of 8 bits lose nothing that `fast` does not keep (docs/adr/0045-default-recipe.md). `given`: the file is
    quantized already, and keeps its weights.
    """
    if recipe.name != AUTO:
        return recipe
    formats = as_format(weight_format), as_format(activation_format)
    fine = all(f.uniform and f.bits >= 8 for f in formats)
    base = RECIPES["fast" if fine or given or samples < LEAST_SAMPLES else "balanced"]
    return replace(base, scales=recipe.scales, power_of_two=recipe.power_of_two)


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by name, or from a TOML file. Raises ConfigError."""
    named = RECIPES | {AUTO: Recipe(AUTO)}
    if str(name) in named:
        return named[str(name)]
    path = Path(name)
    if path.suffix != ".toml":
        raise ConfigError(f"recipe '{name}' is unknown; it must be {', '.join(named)}, or a .toml file")
    content = read_toml(path, "recipe")
    allowed = {"scales": str, "input_terms": int, "power_of_two": bool, "pass": list}
    for key, value in content.items():
        if key not in allowed:
            raise ConfigError(f"recipe {path}: unknown key '{key}'; known are {', '.join(allowed)}")
        if type(value) is not allowed[key]:
            raise ConfigError(f"recipe {path}: {key} = {value!r}; it must be a {allowed[key].__name__}")
    passes = tuple(_pass(path, entry) for entry in content.pop("pass", []))
    return Recipe(shown(path.name), passes, **content)


def _pass(path: Path, entry: Any) -> Pass:
    name = entry.get("name") if isinstance(entry, dict) else None
    if name not in PASSES:
        raise ConfigError(f"recipe {path}: pass {name!r} is unknown; known are {', '.join(PASSES)}")
    kind = PASSES[name]
    known = {f.name: type(f.default) for f in fields(kind)}  # type: ignore[arg-type]
    options = {k: v for k, v in entry.items() if k != "name"}
    for key, value in options.items():
        if key not in known:
            raise ConfigError(f"recipe {path}: pass {name} has no option '{key}'; it has {', '.join(known)}")
        if known[key] is float and type(value) is int:
            options[key] = float(value)
        elif type(value) is not known[key]:
            raise ConfigError(f"recipe {path}: {name}.{key} = {value!r}; it must be a {known[key].__name__}")
    return kind(**options)


def fit(
    graph: Graph | FusedGraph,
    samples: Mapping[str, np.ndarray] | None,
    recipe: Recipe,
    *,
    weight_format: str | Format,
    activation_format: str | Format,
    progress: Progress | None = None,
) -> tuple[State, dict[str, Any]]:
    """The quantized network with all that the passes have found (`network` is what was rounded), and what was done:
    recipe, options, seed, number of samples, seconds of each pass.

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
    given = {
        "tensors": len(network.graph.quantizers),
        "weights": sum(isinstance(n, Conv) and n.given is not None for n in network.graph.nodes),
    }
    count = len(next(iter((samples or {}).values()), ()))
    recipe = chosen(recipe, count, any(given.values()), weight_format, activation_format)
    if any(given.values()):
        _check_given(recipe)
    if samples is None and not network.graph.quantizers:
        raise DataError("calibration: no samples, and the model does not say how its tensors are rounded")
    steps = recipe.steps(calibrated=samples is not None)
    for step in steps:  # before any takes time
        step.check()
    if any(step.fits for step in steps) and 0 < count < LEAST_SAMPLES:
        raise DataError(
            f"calibration: {count} samples, but recipe '{recipe.name}' fits weights to them and needs at least "
            f"{LEAST_SAMPLES}; give more, or use --ptq fast"
        )
    formats = as_format(weight_format), as_format(activation_format)
    options = Options(*formats, recipe.scales, recipe.power_of_two, recipe.input_terms)
    context = Context(dict(samples or {}), options, progress or silent)
    began = time.perf_counter()
    seconds: dict[str, float] = {}

    def ran(name: str, took: float) -> None:
        seconds[name] = round(seconds.get(name, 0.0) + took, 3)

    state = run_passes(State(network), steps, context, ran)
    assert state.quantized is not None and state.plan is not None
    record = {
        "recipe": recipe.name,
        "scales": recipe.scales,
        "power_of_two": recipe.power_of_two,
        "input_terms": state.plan.terms,
        "passes": [{"name": p.name, **asdict(p)} for p in recipe.passes],  # type: ignore[call-overload]
        "seed": 0,
        "samples": state.statistics.samples if state.statistics else 0,
        "seconds": seconds | {"all": round(time.perf_counter() - began, 3)},
        **state.said,
    }
    if any(given.values()):
        record["given"] = given  # how many keep the scales that the file has
    return state, record


def _check_given(recipe: Recipe) -> None:
    does = [p.name for p in recipe.passes]
    if recipe.input_terms != 1:
        does.append(f"input_terms = {recipe.input_terms}")
    if does:
        raise ConfigError(
            f"recipe '{recipe.name}': {', '.join(does)} would change weights or scales, but the model is quantized "
            "already and keeps its own; use --ptq fast, or give the model before it was quantized"
        )
