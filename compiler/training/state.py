"""What a run is between two steps: master weights, velocities, scales, and where it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sateen.compiler.training.layers import Layer
from sateen.compiler.training.plan import Plan
from sateen.compiler.training.scales import fitting
from sateen.compiler.training.settings import Settings
from sateen.errors import ModelError
from sateen.ir.gradients import MASTER_EXPONENT
from sateen.ir.nodes import Conv, Node, Normalize, Stored

_INT32 = (1 << 31) - 1
_STORED = 0.02
"""Standard deviation of what is stored, as vision transformers begin with."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one layer, int32: weights (taps, I, O), biases (O,), and their velocities.

    Of a normalization its scale (1, 1, C) and offset (C,); of what is stored no weights, and itself as biases.
    """

    master: np.ndarray
    velocity: np.ndarray
    bias: np.ndarray
    bias_velocity: np.ndarray


@dataclass(slots=True)
class State:
    """`scales` are exponents by tensor; a layer's weights have the layer's name after "w "."""

    layers: dict[str, Weights]
    scales: dict[str, int]
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def arrays(self) -> dict[str, np.ndarray]:
        """As the arrays of a file."""
        found: dict[str, np.ndarray] = {}
        names = list(self.layers)
        for i, weights in enumerate(self.layers.values()):
            for part in Weights.__slots__:
                found[f"{i}.{part}"] = getattr(weights, part)
        about = {"layers": names, "scales": self.scales, "step": self.step, "history": self.history}
        found["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        return found

    @staticmethod
    def of_arrays(arrays: dict[str, np.ndarray]) -> State:
        """The inverse of `arrays`. Raises KeyError, ValueError for others."""
        about = json.loads(arrays["about"].tobytes())
        layers = {
            name: Weights(**{part: arrays[f"{i}.{part}"] for part in Weights.__slots__})
            for i, name in enumerate(about["layers"])
        }
        return State(
            layers, {k: int(v) for k, v in about["scales"].items()}, int(about["step"]), about["history"]
        )


def initial(plan: Plan, settings: Settings) -> State:
    """Of the file's weights, or at random: normal, with twice the power that keeps it through a Relu's inputs (He),
    less at the end of a residual branch, so that sums keep their size. Networks that normalize keep it without the
    factor of two, and begin with scales of 1."""
    rng = np.random.default_rng(settings.seed)
    named = {n.name: n for n in plan.graph.nodes}
    sums = max(1, sum(layer.residual is not None for layer in plan.layers))
    layers, scales = {}, {}
    fmt = settings.formats[0]
    for layer in plan.trainable:
        weight, bias = _numbers(named[layer.name], layer)
        if settings.scratch:
            weight, bias = _random(rng, plan, layer, sums)
        master = _fixed_point(weight, layer)
        layers[layer.name] = Weights(
            master, np.zeros_like(master), fixed := _fixed_point(bias, layer), np.zeros_like(fixed)
        )
        if layer.kind != "stored":
            scales[weights_name(layer)] = fitting(float(np.abs(master).max()) * 2.0**MASTER_EXPONENT, fmt)
    return State(layers, scales)


def _numbers(node: Node, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Of the file."""
    if isinstance(node, Normalize):
        return node.scale.reshape(layer.shape), node.offset
    if isinstance(node, Stored):
        return np.zeros((0, 0, 0)), node.values
    assert isinstance(node, Conv)
    return node.weight.transpose(1, 2, 3, 0).reshape(layer.shape), node.bias


def _random(rng: np.random.Generator, plan: Plan, layer: Layer, sums: int) -> tuple[np.ndarray, np.ndarray]:
    if layer.kind == "normalize":
        return np.ones(layer.shape), np.zeros(layer.shape[2])
    if layer.kind == "stored":
        return np.zeros((0, 0, 0)), rng.normal(0, _STORED, layer.shape)
    normalized = any(other.kind == "normalize" for other in plan.layers)
    gain = 1.0 if normalized or layer.output == plan.logits else 2.0
    gain /= sums if layer.residual else 1
    weight = rng.normal(0, np.sqrt(gain / (layer.shape[0] * layer.shape[1])), layer.shape)
    return weight, np.zeros(layer.shape[2])


def weights_name(layer: Layer) -> str:
    """The name of the scale that a layer's weights have."""
    return f"w {layer.name}"


def _fixed_point(x: np.ndarray, layer: Layer) -> np.ndarray:
    fixed = np.rint(np.asarray(x, np.float64) * 2.0**-MASTER_EXPONENT)
    if fixed.size and np.abs(fixed).max() > _INT32:
        worst, kind = float(np.abs(x).max()), "Conv" if layer.kind == "conv" else layer.kind
        raise ModelError(
            f"{kind} '{layer.name}': a weight or bias of magnitude {worst:g}; master weights reach "
            f"{_INT32 * 2.0**MASTER_EXPONENT:g}; scale the network, or begin with --from-scratch"
        )
    return fixed.astype(np.int32)
