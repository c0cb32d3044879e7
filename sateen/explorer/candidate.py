"""One point of the space: a machine, formats, a recipe, patterns, and the memory that the machine is connected to."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sateen.machine.config import AcceleratorConfig
from sateen.options import DEFAULT_PTQ
from sateen.sim.memory_timing import NOMINAL, MemoryTiming


@dataclass(frozen=True)
class Candidate:
    """What one trial measures.

    Attributes
    ----------
    config : AcceleratorConfig
        With the formats of weights and activations.
    recipe : str
        How the network is quantized: a name, or a TOML file's path.
    sparsity : str
        "dense", or "N:M" for all layers but the first and the last.
    layers : tuple
        (layer, pattern) of single layers, before `sparsity`.
    memory : MemoryTiming
    channels : float
        The most that is left of the array's steps once channels are removed, see `sateen.compiler.prune.channels`.
    """

    config: AcceleratorConfig
    recipe: str = "fast"
    sparsity: str = "dense"
    layers: tuple[tuple[str, str], ...] = ()
    memory: MemoryTiming = NOMINAL
    channels: float = 1.0

    @cached_property
    def network(self) -> tuple[str, ...]:
        """All that the network in codes depends on; machines that share it are mapped from one."""
        layers = json.dumps(self.layers) if self.layers else ""
        config = self.config
        cut = json.dumps([self.channels, config.elements, config.cols]) if self.channels < 1 else ""
        return config.weight_format, config.activation_format, self.recipe, self.sparsity, layers, cut

    @cached_property
    def key(self) -> str:
        """The same for the same choice."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        config = {k: v for k, v in self.config.to_dict().items() if k != "name"}
        return {
            "config": config,
            "recipe": self.recipe,
            "sparsity": self.sparsity,
            "layers": [list(pair) for pair in self.layers],
            "channels": self.channels,
            "latency": self.memory.latency,
            "interval": self.memory.interval,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        return cls(
            AcceleratorConfig.from_dict(dict(values["config"])),
            values["recipe"],
            values["sparsity"],
            tuple((name, pattern) for name, pattern in values["layers"]),
            MemoryTiming(values["latency"], values["interval"]),
            values["channels"],
        )

    def toml(self, name: str) -> str:
        """The machine, as `sateen compile --config` takes it."""
        return toml_text(self.config.stated() | {"name": name})

    def sparsity_map(self) -> str:
        """The patterns, as `sateen compile --sparsity-map` takes them; empty where one option says them."""
        if not self.layers:
            return ""
        return toml_text({"default": self.sparsity}) + "\n[layers]\n" + toml_text(dict(self.layers))

    def command(
        self,
        model: str,
        calibration: str | None,
        config: str,
        sparsity_map: str,
        board: str | None,
        build: str,
        method: str = "sparsegpt",
    ) -> str:
        """What compiles it in a shell."""
        words = ["sateen", "compile", model, "-o", build, "--config", config]
        words += ["--calibration", calibration] if calibration else []
        words += ["--ptq", self.recipe] if self.recipe != DEFAULT_PTQ else []
        words += ["--channels", f"{self.channels:g}"] if self.channels < 1 else []
        if self.layers:
            words += ["--sparsity-map", sparsity_map]
        elif self.sparsity != "dense":
            words += ["--sparsity", self.sparsity]
        if method != "sparsegpt" and (self.layers or self.sparsity != "dense"):
            words += ["--sparsity-method", method]
        words += ["--board", board] if board else []
        return shlex.join(words)


def toml_text(values: Mapping[str, Any]) -> str:
    """Lines of a TOML file: texts, numbers, booleans and lists of them."""
    return "".join(f"{_key(k)} = {_value(v)}\n" for k, v in values.items())


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def write_member(folder: Path, index: int, candidate: Candidate) -> tuple[Path, Path]:
    """Write FOLDER/INDEX.toml, and the map of patterns where there is one; both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    config, patterns = folder / f"{index}.toml", folder / f"{index}.sparsity.toml"
    config.write_text(candidate.toml(f"front-{index}"), encoding="utf-8")
    if text := candidate.sparsity_map():
        patterns.write_text(text, encoding="utf-8")
    return config, patterns
