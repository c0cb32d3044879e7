"""What is chosen from: axes with their values, and legal candidates made of positions on them.

A point is a position on each axis. Where rules of the configuration forbid the machine that it names, the nearest
legal one is taken, field by field in the order of the axes: so every point is a candidate, and no trial is illegal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sateen.compiler.prune.channels import check_keep
from sateen.compiler.ptq.recipe import load_recipe
from sateen.errors import ConfigError, SateenError
from sateen.explorer.candidate import Candidate
from sateen.files import read_toml
from sateen.formats import parse_format, parse_sparsity
from sateen.formats.sparsity import DENSE
from sateen.machine.config import FIELDS, FIELDS_OF, RULES, AcceleratorConfig
from sateen.machine.presets import PRESETS, preset
from sateen.machine.settings import Rule
from sateen.sim.memory_timing import NOMINAL, MemoryTiming

OWN = ("recipe", "channels", "sparsity", "latency", "interval")
"""Axes that are no field of the configuration. `sparsity` decides on its patterns."""
FORMATS = ("int3", "int4", "e2m1", "int5", "e2m2", "int6", "e3m2", "int7", "e3m3", "int8", "e4m3")
"""By default, of weights and of activations: from the cheapest on."""
DEFAULT: dict[str, tuple[Any, ...]] = {
    "weight_format": FORMATS,
    "activation_format": FORMATS,
    "recipe": ("fast",),
    "sparsity": ("dense", "2:4", "2:8"),
    "rows": (1, 2, 4, 8, 16),
    "cols": (1, 2, 4, 8, 16, 32, 64),
    "lanes": (1, 2, 4),
    "group": (1, 2, 4, 8),
    "multipliers_in": ("dsp", "mixed", "lut"),
    "dataflows": (("weight_stationary",), ("weight_stationary", "output_stationary")),
    "depthwise": (False, True),
    "act_bank_depth": (512, 1024, 2048, 4096, 8192),
    "weight_depth": (256, 512, 1024, 2048, 4096),
    "acc_depth": (64, 128, 256, 512),
    "vector_lanes": (1, 2, 4, 8),
    "parameter_depth": (64, 128, 256),
    "bus_bits": (32, 64, 128, 256),
    "queue_depth": (2, 4, 8),
}
"""The ranges that estimates and networks of the usual sizes make sense of; `--space` takes any legal value."""


@dataclass(frozen=True)
class Space:
    """Axes, each with its values in an order in which neighbours are alike, and what all machines have besides.

    Examples
    --------
    >>> space = Space({"cols": (4, 8), "weight_format": ("int4", "int8")}, sateen.preset("tiny"))
    >>> space.candidate({"cols": 1, "weight_format": 0})
    """

    axes: Mapping[str, Sequence[Any]]
    base: AcceleratorConfig
    memory: MemoryTiming = NOMINAL
    _rules: dict[str, list[Rule]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        order = [*(n for n in self.axes if n not in FIELDS), *(n for n in FIELDS if n in self.axes)]
        object.__setattr__(self, "axes", {name: tuple(self.axes[name]) for name in order})
        chosen = {"patterns" if name == "sparsity" else name for name in order}
        for r in RULES:
            last = next((n for n in reversed(order) if _field(n) in r.needs), None)
            if last is not None and chosen & set(r.needs):
                self._rules.setdefault(last, []).append(r)
        self.candidate(dict.fromkeys(self.axes, 0))  # ConfigError where there is no legal machine

    @property
    def size(self) -> int:
        """Points, of which some may name the same machine."""
        return math.prod(len(values) for values in self.axes.values())

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.axes)

    def points(self) -> Iterator[dict[str, int]]:
        """All points, one by one."""
        for n in range(self.size):
            yield self.point(n)

    def point(self, n: int) -> dict[str, int]:
        """The n-th point."""
        found = {}
        for name in reversed(self.names):
            n, found[name] = divmod(n, len(self.axes[name]))
        return {name: found[name] for name in self.names}

    def candidate(self, point: Mapping[str, int]) -> Candidate:
        """The legal candidate at a point, or nearest to it. Raises ConfigError if there is none in the space."""
        config = self.base.to_dict()
        own: dict[str, Any] = {
            "recipe": "fast",
            "channels": 1.0,
            "sparsity": DENSE.name,
            "latency": self.memory.latency,
            "interval": self.memory.interval,
        }

        def fill(i: int) -> bool:
            if i == len(self.names):
                return True
            name = self.names[i]
            values, wanted = self.axes[name], point[name]
            for j in sorted(range(len(values)), key=lambda j: (abs(j - wanted), j)):
                if name in own:
                    own[name] = values[j]
                else:
                    config[name] = values[j]
                if name == "sparsity":
                    pattern = values[j]
                    config["patterns"] = (DENSE.name,) if pattern == DENSE.name else (DENSE.name, pattern)
                if all(r.check(config) is None for r in self._rules.get(name, ())) and fill(i + 1):
                    return True
            return False

        if not fill(0):
            raise ConfigError(f"the space holds no legal machine: {self._reason(config)}")
        memory = MemoryTiming(own["latency"], own["interval"])
        try:
            made = AcceleratorConfig(**config)
        except SateenError as e:
            raise ConfigError(f"the space holds no legal machine: {e}") from None
        return Candidate(made, own["recipe"], own["sparsity"], (), memory, float(own["channels"]))

    def position(self, values: Mapping[str, Any]) -> dict[str, int]:
        """The point nearest to these values, by name; an axis that has none of them is at its first value."""
        return {name: _nearest(axis, values.get(name)) for name, axis in self.axes.items()}

    def _reason(self, config: Mapping[str, Any]) -> str:
        for rules in self._rules.values():
            for r in rules:
                if limit := r.check(config):
                    return f"{r.field} = {config[r.field]!r} must be {limit}; give {', '.join(r.needs)} more values"
        return f"give {', '.join(self.names)} more values"


def _field(axis: str) -> str:
    return "patterns" if axis == "sparsity" else axis


def _nearest(axis: Sequence[Any], value: Any) -> int:
    if value in axis:
        return axis.index(value)
    numbers = isinstance(value, int) and all(isinstance(v, int) for v in axis)
    return min(range(len(axis)), key=lambda i: abs(axis[i] - value)) if numbers else 0


def default_space(base: AcceleratorConfig, memory: MemoryTiming) -> Space:
    """All axes of `DEFAULT`, with the values of a machine, around it."""
    axes = {}
    for name, values in DEFAULT.items():
        own = getattr(base, name, values[0])
        axes[name] = values if own in values else tuple(sorted({*values, own}))
    return Space(axes, base, memory)


def load_space(path: str | Path, base: AcceleratorConfig, memory: MemoryTiming) -> Space:
    """The space of a TOML file: a list of values for each axis, a value for what is the same everywhere.

    `preset = "tiny"` names the machine that has all other fields. Raises ConfigError.
    """
    return space_of(read_toml(path, "space"), f"space {path}", base, memory)


def space_of(given: Mapping[str, Any], source: str, base: AcceleratorConfig, memory: MemoryTiming) -> Space:
    """The space that a mapping states, as `load_space`."""
    values = dict(given)
    fitted = FIELDS_OF["fitted"]
    allowed = [n for n in (*OWN, *FIELDS) if n not in ("name", "patterns", *fitted)]
    if "preset" in values:
        base = preset(str(values.pop("preset"))).replace(
            weight_format=base.weight_format, activation_format=base.activation_format
        )
    axes: dict[str, tuple[Any, ...]] = {}
    for name, value in values.items():
        if name not in allowed:
            more = "; sparsity decides on it" if name == "patterns" else ""
            raise ConfigError(
                f"{source}: unknown axis '{name}'{more}; known are preset, {', '.join(allowed)}"
            )
        listed = isinstance(value, list | tuple) and name != "dataflows"
        listed = listed or (name == "dataflows" and bool(value) and isinstance(value[0], list | tuple))
        choices = tuple(tuple(v) if isinstance(v, list) else v for v in (value if listed else [value]))
        if not choices or len(set(map(repr, choices))) < len(choices):
            raise ConfigError(f"{source}: {name} = {value!r}; give at least one value, and each once")
        for choice in choices:
            _check(source, name, choice)
        axes[name] = choices
    if not axes:
        raise ConfigError(f"{source}: has no axis; give a list of values to some of {', '.join(allowed)}")
    try:
        return Space(axes, base, memory)
    except ConfigError as e:
        raise ConfigError(f"{source}: {e}") from None


def _check(source: str, name: str, value: Any) -> None:
    """Raises ConfigError for a value that no legal machine has."""
    try:
        if name == "recipe":
            load_recipe(value)
        elif name == "sparsity":
            parse_sparsity(value)
        elif name == "channels":
            check_keep(value)
        elif name in ("latency", "interval"):
            MemoryTiming(**{name: value})
        elif name in ("weight_format", "activation_format"):
            parse_format(value)
        else:
            s = FIELDS[name]
            kind = {"int": int, "bool": bool, "str": str}.get(s.type, tuple)
            if type(value) is not kind or not all(limit.holds(value) for limit in s.limits):
                texts = " and ".join(limit.text for limit in s.limits) or s.type
                raise ConfigError(f"it must be {texts}")
    except (SateenError, TypeError) as e:
        raise ConfigError(f"{source}: {name} = {value!r}: {e}") from None


def starts(space: Space, base: AcceleratorConfig) -> list[dict[str, int]]:
    """Points to begin with: the presets, and a coarse grid of formats, sizes and patterns."""
    found: dict[str, dict[str, int]] = {}

    def add(point: dict[str, int]) -> None:
        found.setdefault(space.candidate(point).key, point)

    for machine in (base, *PRESETS.values()):
        add(space.position(machine.to_dict()))
    first = space.position(base.to_dict())
    for rows in (0, -1, 1):
        for cols in (0, 1, -1):
            steps = {"rows": rows, "cols": cols}
            add(first | {n: _within(space, n, first[n] + steps[n]) for n in steps if n in first})
    for name in ("sparsity", "recipe", "channels"):
        for i in range(1, len(space.axes.get(name, ()))):
            add(first | {name: i})
    for share in (0.7, 0.4, 0.1):  # of the axes of formats, together and apart
        for names in (("weight_format", "activation_format"), ("weight_format",), ("activation_format",)):
            add(first | _at(space, names, share))
    return list(found.values())


def _within(space: Space, name: str, position: int) -> int:
    return min(len(space.axes[name]) - 1, max(0, position))


def _at(space: Space, names: Sequence[str], share: float) -> dict[str, int]:
    """Positions so far along these axes."""
    return {name: round(share * (len(space.axes[name]) - 1)) for name in names if name in space.axes}
