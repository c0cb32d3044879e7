"""Passes that round the weights of one layer after another, each layer as it is once all before it are rounded.

Those that follow one another in a recipe are run together: all of them on a layer, before the next layer is seen.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sateen.compiler.ptq.hessian import DAMPING
from sateen.compiler.ptq.kept import Kept
from sateen.compiler.ptq.layerwise import Moments, moments, rewrite_quantized
from sateen.compiler.ptq.passes import Context, Pass
from sateen.compiler.ptq.state import Fitted, State
from sateen.compiler.quantize.scales import weight_scales
from sateen.compiler.quantize.weights import check_weights
from sateen.formats import Format
from sateen.ir.nodes import Conv

LONG = 1.0
"""Seconds that a layer takes, from which on what is found is kept in the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of a Conv that read the same channels, and what passes have made of them.

    weight : float (O, K); seen : of the inputs; format, scale (O,) : the grid
    keep : bool (O, K), where false a weight stays zero; None: nowhere
    rounded : (O, K) on the grid; None before the first pass
    damping : of the Hessian, as the pass before has it
    """

    weight: np.ndarray
    seen: Moments
    format: Format
    scale: np.ndarray
    keep: np.ndarray | None = None
    rounded: np.ndarray | None = None
    damping: float = DAMPING


class LayerPass(Pass):
    """A pass that rounds rows by their inputs' moments."""

    __slots__ = ()
    needs = ("plan",)
    gives = ("fitted",)
    fits = True
    share = 3.0

    @abstractmethod
    def round_rows(self, rows: Rows) -> Rows:
        """The same with `rounded` on the grid, zero where `keep` is false."""

    def run(self, state: State, context: Context) -> State:
        return round_layers(state, context, (self,))


@dataclass(frozen=True, slots=True)
class Together(Pass):
    """Layer passes that follow one another."""

    parts: tuple[LayerPass, ...]
    name = "together"
    needs = LayerPass.needs
    gives = LayerPass.gives
    fits = True
    share = LayerPass.share

    @property
    def label(self) -> str:
        return " and ".join(p.label for p in self.parts)

    def run(self, state: State, context: Context) -> State:
        return round_layers(state, context, self.parts)


def together(passes: Sequence[Pass]) -> list[Pass]:
    """The list with layer passes that follow one another as one."""
    found: list[Pass] = []
    for p in passes:
        before = found[-1] if found else None
        if isinstance(p, LayerPass) and isinstance(before, LayerPass | Together):
            parts = before.parts if isinstance(before, Together) else (before,)
            found[-1] = Together((*parts, p))
        else:
            found.append(p)
    return found


def round_layers(state: State, context: Context, parts: Sequence[LayerPass]) -> State:
    """All weights on the format's grid, and biases that take the mean error. Zeros of a layer with an N:M pattern stay
    zero.

    Raises
    ------
    DataError
        Samples that `calibrate` would refuse.
    ModelError, FormatError
        Weights that are not finite, or of a sign that the format lacks.
    """
    assert state.plan is not None
    graph, options = state.network.graph, context.options
    samples = {name: np.asarray(x) for name, x in context.samples.items()}
    kept = Kept("layers", graph, state.plan, options, samples, parts)
    fitted: dict[str, Fitted] = {}

    def rewrite(conv: Conv, x: np.ndarray, real: np.ndarray) -> Conv:
        found = kept.load(len(fitted))
        began = time.perf_counter()
        new = (
            Fitted(**found)
            if found
            else _fitted(conv, x, real, parts, options.weight_format, options.power_of_two)
        )
        if not found and time.perf_counter() - began >= LONG:
            kept.store(len(fitted), {"weight": new.weight, "scale": new.scale, "bias": new.bias})
        fitted[conv.name] = new
        return replace(conv, weight=new.weight, bias=new.bias)

    rewrite_quantized(graph, samples, state.plan, rewrite, context.progress)
    return replace(state, fitted=fitted)


def _fitted(
    conv: Conv,
    x: np.ndarray,
    real: np.ndarray,
    parts: Sequence[LayerPass],
    fmt: Format,
    power_of_two: bool,
) -> Fitted:
    """Of inputs (N, H, W, C) as quantized, x, and as in the float network."""
    scale = weight_scales(check_weights(conv, fmt), fmt, power_of_two=power_of_two)
    if conv.selects:  # each output is an input: there is nothing to round
        return Fitted(conv.weight, scale, conv.bias)
    weight, bias = np.empty_like(conv.weight), conv.bias.copy()
    wide = len(weight) // conv.groups
    for g in range(conv.groups):
        at = slice(g * wide, (g + 1) * wide)
        flat = conv.weight[at].reshape(wide, -1)
        keep = flat != 0 if not conv.sparsity.dense else None
        rows = Rows(flat, moments(conv, x, real, g), fmt, scale[at], keep)
        for p in parts:
            rows = p.round_rows(rows)
        assert rows.rounded is not None
        weight[at] = rows.rounded.reshape(weight[at].shape)
        bias[at] += flat @ rows.seen.float_mean - rows.rounded @ rows.seen.mean
    return Fitted(weight, scale, bias)
