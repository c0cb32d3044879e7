"""What the options of the command line and of the Python interface stand for: files, machines, recipes, arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sateen.errors import ConfigError, DataError, FormatError, ModelError
from sateen.files import read_toml
from sateen.formats import SparsityPattern, parse_format, parse_sparsity
from sateen.formats.sparsity import DENSE
from sateen.machine.config import AcceleratorConfig
from sateen.machine.presets import preset as preset_config
from sateen.samples import Given

if TYPE_CHECKING:
    from sateen.compiler.ptq.recipe import Recipe

Progress = Callable[[str, float], None]
"""Called with a stage's name and the fraction done, 0 to 1."""

Arrays = Given
"""A path (.npz, .npy, a folder of images), "random", `Images`, or one array per graph input, batch first."""

Shapes = Mapping[str, Sequence[int]]
"""By graph input, the batch first."""

Values = Mapping[str, float | np.ndarray]
"""By graph input: what it always is."""

Machine = AcceleratorConfig | str | Path
"""A configuration, a preset's name, or a TOML file's path."""

ENGINES = ("reference", "program", "model", "rtl")
FLOAT = "float"
"""Not one of the four: the network as it was imported, whose outputs are those that rounding changes."""
BOARD = "board"
"""Not an engine of its own: the RTL, on a chip."""
SIMULATED = "sim"
"""In the place of a board's serial device: the chip with its memory, link and pins, under Verilator."""
DEFAULT_BAUD = 115200
DEFAULT_ATTEMPTS = 3
"""Placements of a bitstream, at most."""
SCALES = ("mse", "minmax", "percentile", "entropy")
SPARSITY_METHODS = ("magnitude", "wanda", "sparsegpt", "keep")
TRAINING_METHODS = ("bdwp", "sr-ste", "dense")
DEFAULT_PRESET = "mac256"
DEFAULT_PTQ = "auto"
SPARSE_PRESET = "sat256"


def choose_config(
    config: AcceleratorConfig | str | Path | None,
    preset: str | None,
    weights: str | None,
    activations: str | None,
) -> AcceleratorConfig:
    """The configuration that the options ask for. Raises ConfigError, FormatError."""
    if config is not None and preset is not None:
        raise ConfigError("both a configuration and a preset are given; choose one")
    if isinstance(config, AcceleratorConfig):
        chosen = config
    elif config is not None:
        chosen = AcceleratorConfig.load(config)
    else:
        chosen = preset_config(preset or DEFAULT_PRESET)
    formats = {"weight_format": weights, "activation_format": activations}
    given = {k: v for k, v in formats.items() if v is not None}
    for name in given.values():
        parse_format(name)
    return chosen.replace(**given)


def as_config(
    machine: Machine, weights: str | None = None, activations: str | None = None
) -> AcceleratorConfig:
    """The machine that is meant, with these formats. Raises ConfigError, FormatError."""
    if isinstance(machine, str | Path) and not str(machine).endswith(".toml"):
        return choose_config(None, str(machine), weights, activations)
    return choose_config(machine, None, weights, activations)


def default_machine(patterns: Sequence[SparsityPattern], formats: AcceleratorConfig) -> AcceleratorConfig:
    """The preset for patterns where no machine is named, with these formats."""
    sparse = [p for p in dict.fromkeys(patterns) if not p.dense]
    base = preset_config(SPARSE_PRESET if sparse else DEFAULT_PRESET)
    if any(p.name not in base.patterns for p in sparse):  # as many elements in wider groups
        group = max(p.m for p in sparse)
        rows = max(1, base.elements // group)
        base = base.replace(rows=rows, group=group, patterns=(DENSE.name, *(p.name for p in sparse)))
    return base.replace(weight_format=formats.weight_format, activation_format=formats.activation_format)


def choose_recipe(ptq: str | Path | Recipe, scales: str | None, power_of_two: bool) -> Recipe:
    """The recipe that the options ask for. Raises ConfigError, DataError."""
    from sateen.compiler.ptq.recipe import Recipe, load_recipe

    if scales is not None and scales not in SCALES:
        raise DataError(f"unknown scale search '{scales}'; choose one of {', '.join(SCALES)}")
    recipe = ptq if isinstance(ptq, Recipe) else load_recipe(ptq)
    return replace(recipe, scales=scales or recipe.scales, power_of_two=power_of_two or recipe.power_of_two)


SparsityMap = str | Path | Mapping[str, str]
"""A TOML file's path, or the pattern of each layer by name, "default" for those that are not named."""


def choose_patterns(
    sparsity: str, given: SparsityMap | None
) -> tuple[SparsityPattern, dict[str, SparsityPattern]]:
    """The pattern of all but the first and last layers, and those of single ones. Raises ConfigError, FormatError."""
    if given is None:
        return parse_sparsity(sparsity), {}
    if sparsity != DENSE.name:
        raise ConfigError(
            f'both sparsity {sparsity} and a sparsity map are given; say default = "{sparsity}" in the map'
        )
    if isinstance(given, Mapping):
        source, values = "sparsity map", {k: v for k, v in given.items() if k != "default"}
        default = given.get("default", DENSE.name)
    else:
        source, content = f"sparsity map {given}", read_toml(given, "sparsity map")
        if unknown := next((k for k in content if k not in ("default", "layers")), None):
            raise ConfigError(f"{source}: unknown key '{unknown}'; known are default and the table layers")
        default, values = content.get("default", DENSE.name), content.get("layers", {})
        if not isinstance(values, dict):
            raise ConfigError(f'{source}: layers = {values!r}; it must be a table of layer = "N:M"')

    def read(name: str, text: str) -> SparsityPattern:
        try:
            return parse_sparsity(text)
        except FormatError as e:
            raise FormatError(f"{source}: {name}: {e}") from None

    return read("default", default), {name: read(name, text) for name, text in values.items()}


def model_path(model: str | Path) -> Path:
    """The path of a file that is there. Raises ModelError."""
    path = Path(model)
    if not path.exists():
        raise ModelError(f"model {path}: no such file; give an ONNX file")
    if path.is_dir():
        raise ModelError(f"model {path}: is a folder; give an ONNX file")
    return path
