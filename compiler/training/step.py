"""One training step on exact arithmetic, in NumPy: the definition that programs and the machine are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sateen.compiler.training import plan as plans
from sateen.compiler.training.kinds import KINDS, learn
from sateen.compiler.training.layers import Layer
from sateen.compiler.training.plan import Plan
from sateen.compiler.training.rounding import Term, rounded
from sateen.compiler.training.rules import factor, update_rule
from sateen.compiler.training.scales import fitting, next_scale
from sateen.compiler.training.settings import Settings
from sateen.compiler.training.state import State, Weights, weights_name
from sateen.compiler.training.values import Gradients, Values
from sateen.errors import DataError
from sateen.formats import Format
from sateen.formats.sparsity import DENSE
from sateen.ir.gradients import MASTER_EXPONENT
from sateen.sim import gradients
from sateen.sim.exact_sums import INT64_SAFE, ExactSum, largest


@dataclass(slots=True)
class Result:
    """Of a step, before its update is done: everything that another engine has to give, too."""

    loss: float
    """Mean cross entropy of the batch."""
    correct: int
    tensors: dict[str, Values] = field(default_factory=dict)
    """Layers' results by tensor, gradients as `plan.backward` names what is rounded, "d " and the tensor the last."""
    gradients: dict[str, Gradients] = field(default_factory=dict)
    codes: dict[str, np.ndarray] = field(default_factory=dict)
    """Of the updated weights (taps, I, O), in the scales of the step."""
    scales: dict[str, int] = field(default_factory=dict)
    """Of the step."""


@dataclass(slots=True)
class Numpy:
    """`plan.Passes` on `Values`. Scales that are missing are found, and all that occurs is noted in `seen`."""

    plan: Plan
    settings: Settings
    scales: dict[str, int]
    weights: Mapping[str, np.ndarray]
    """Fixed-point values of the dense codes, float32 (taps, I, O)."""
    biases: Mapping[str, np.ndarray]
    """int32 (O,), as master weights."""
    seen: dict[str, int] = field(default_factory=dict)
    gradients: dict[str, Gradients] = field(default_factory=dict)
    made: dict[str, Values] = field(default_factory=dict)
    """Gradients as they were rounded."""
    normalized: dict[str, np.ndarray] = field(default_factory=dict)
    """Of each normalization what it gives before its scale."""
    samples: int = 1
    """Of the batch, what is stored being the same for all."""

    def layer(self, layer: Layer, x: Values, residual: Values | None) -> Values:
        if layer.kind == "max":
            return Values(_max_pool(x.data, layer), x.exponent)
        exponent = x.exponent
        if layer.kind == "conv":
            weight = self.weights[layer.name]
            w = weight * gradients.selected(weight, layer.forward_pattern, 1)
            exponent += self.exponent_of_weights(layer)
            sums = gradients.forward(x.data, w, layer.window)
            if layer.output == self.plan.logits:
                acc = sums.integers()
                wide = acc.astype(np.int64) if acc.dtype != object else acc
                return Values(wide + bias_integers(self.biases[layer.name], exponent), exponent)
            terms: list[Term] = [(sums, exponent), self.bias(layer, exponent)]
        elif layer.kind == "average":
            terms = [_averaged(_window_sums(x.data, layer), layer, exponent)]
        else:
            terms = [(x.data, exponent)]
        if residual is not None:
            terms.append((residual.data, residual.exponent))
        return self._result(layer, terms)

    def other(self, layer: Layer, operands: tuple[Values, ...], residual: Values | None) -> Values:
        found = KINDS[layer.kind].forward(self, layer, operands)
        if isinstance(found, Values):
            return found
        return self._result(layer, found + ([(residual.data, residual.exponent)] if residual else []))

    def _result(self, layer: Layer, terms: list[Term]) -> Values:
        """The sum of terms, rounded as what the layer gives."""
        fmt = self.settings.formats[1]
        name = self.plan.groups[layer.output]
        scale = self._scale(name, terms, fmt, layer.low, layer.high)
        low, high = self.clamp(layer, scale)
        return self.note(name, rounded(terms, scale + fmt.lsb_exponent, fmt, low, high), scale, fmt)

    def clamp(self, layer: Layer, scale: int) -> tuple[int, int]:
        """The ends of a layer's clamp in fixed-point units of its output."""
        fmt = self.settings.formats[1]
        ends = np.array([layer.low, layer.high]) * 2.0**-scale
        low, high = (int(v) for v in fmt.fixed(fmt.encode(np.clip(ends, fmt.min, fmt.max))))
        return low, high

    def gate(self, layer: Layer, gradient: Values, result: Values) -> Values:
        low, high = self.clamp(layer, result.exponent - self.settings.formats[1].lsb_exponent)
        low, high = gate_ends(layer, low, high, self.settings.formats[1])
        return Values(gradients.gate(gradient.data, result.data, low, high), gradient.exponent)

    def weigh(self, layer: Layer, x: Values, gradient: Values) -> None:
        self.gradients[layer.name] = Gradients(
            gradients.weight_gradient(x.data, gradient.data, layer.window), x.exponent + gradient.exponent,
            gradients.bias_gradient(gradient.data), gradient.exponent,
        )  # fmt: skip

    def learn(self, layer: Layer, x: Values | None, gradient: Values) -> None:
        self.gradients[layer.name] = learn(self, layer, x, gradient)

    def other_back(
        self, layer: Layer, name: str, gradient: Values, operands: tuple[Values, ...], result: Values,
        rest: Values | None, at: int,
    ) -> Values:  # fmt: skip
        found = KINDS[layer.kind].back(self, layer, operands, at, result, gradient)
        if isinstance(found, Values):
            if rest is None:
                return found  # codes that move
            found = [(found.data, found.exponent)]
        return self._gradient(name, found + ([(rest.data, rest.exponent)] if rest else []))

    def back(
        self, layer: Layer, name: str, gradient: Values, x: Values, result: Values, rest: Values | None
    ) -> Values:
        if layer.kind == "max":
            spread = gradients.pool_gradient(gradient.data, x.data, result.data, layer.window)
            if rest is None and not layer.overlapping:
                return Values(spread.astype(np.float32), gradient.exponent)  # codes that move
            terms: list[Term] = [(spread, gradient.exponent)]
        elif layer.kind == "average":
            terms = [_averaged(_spread(gradient.data, layer), layer, gradient.exponent)]
        else:
            weight = self.weights[layer.name]
            pattern, axis = (layer.forward_pattern, 1) if layer.shared else (layer.backward_pattern, 2)
            w = weight * gradients.selected(weight, pattern, axis)
            sums = gradients.backward(gradient.data, w, layer.window, layer.plane)
            terms = [(sums, gradient.exponent + self.exponent_of_weights(layer))]
        if rest is not None:
            terms.append((rest.data, rest.exponent))
        return self._gradient(name, terms)

    def add(self, name: str, a: Values, b: Values) -> Values:
        return self._gradient(name, [(a.data, a.exponent), (b.data, b.exponent)])

    def of_loss(self, gradient: np.ndarray) -> Values:
        """Codes of the logits' gradient, whose scale is that of the same step."""
        fmt = self.settings.formats[2]
        scale = fitting(float(np.abs(gradient).max()), fmt)
        fixed = fmt.fixed(fmt.encode(gradient * 2.0**-scale)).astype(np.float32)
        return Values(fixed, scale + fmt.lsb_exponent)

    def of_input(self, x: np.ndarray) -> Values:
        """Codes of samples (N, H, W, C)."""
        fmt, scale = self.settings.formats[1], self.scales[self.plan.input]
        self.samples = len(x)
        fixed = fmt.fixed(fmt.encode(np.asarray(x, np.float64) * 2.0**-scale)).astype(np.float32)
        return Values(fixed, scale + fmt.lsb_exponent)

    def _gradient(self, name: str, terms: list[Term]) -> Values:
        fmt = self.settings.formats[2]
        scale = self._scale(name, terms, fmt, -np.inf, np.inf)
        fixed = rounded(terms, scale + fmt.lsb_exponent, fmt, fmt.min_fixed, fmt.max_fixed)
        self.made[name] = self.note(name, fixed, scale, fmt)
        return self.made[name]

    def _scale(self, name: str, terms: list[Term], fmt: Format, low: float, high: float) -> int:
        if name not in self.scales:
            total = sum(
                (t.rounded() if isinstance(t, ExactSum) else t.astype(np.float64)) * 2.0**e for t, e in terms
            )
            self.scale_of(name, float(np.abs(np.clip(total, low, high)).max()), fmt)
        return self.scales[name]

    def scale_of(self, name: str, most: float, fmt: Format) -> int:
        """The scale by that name; where there is none yet, the least for that magnitude."""
        if name not in self.scales:
            self.scales[name] = fitting(most, fmt)
        return self.scales[name]

    def note(self, name: str, fixed: np.ndarray, scale: int, fmt: Format) -> Values:
        self.seen[name] = max(self.seen.get(name, 0), largest(fixed))
        return Values(fixed, scale + fmt.lsb_exponent)

    def exponent_of_weights(self, layer: Layer) -> int:
        return self.scales[weights_name(layer)] + self.settings.formats[0].lsb_exponent

    def bias(self, layer: Layer, exponent: int) -> Term:
        bias = self.biases[layer.name]
        if exponent < MASTER_EXPONENT:
            return bias, MASTER_EXPONENT
        return bias_integers(bias, exponent), exponent


def gate_ends(layer: Layer, low: int, high: int, fmt: Format) -> tuple[int, int]:
    """Between which a gradient passes, both excluded: an end that the format sets, not the layer, does not stop it."""
    if layer.high == np.inf or high >= fmt.max_fixed:
        high = fmt.max_fixed + 1
    if layer.low == -np.inf or low <= fmt.min_fixed:
        low = fmt.min_fixed - 1
    return low, high


def bias_integers(bias: np.ndarray, exponent: int) -> np.ndarray:
    """Biases in units of 2**MASTER_EXPONENT as the integers of an accumulator that counts 2**exponent: RNE."""
    shift = exponent - MASTER_EXPONENT
    if shift >= 0:
        return gradients.rounded_shift(bias.astype(np.int64), min(shift, 62))
    return np.asarray(bias.astype(np.int64 if shift > -31 else object) * (1 << -shift))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean loss, and the gradient of the sum (N, classes), float64."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float(np.mean(np.log(total[:, 0]) - shifted[rows, labels]))
    gradient = exponentials / total
    gradient[rows, labels] -= 1
    return loss, gradient


class Trainer:
    """Steps of a run. `state` is always that after a whole step."""

    def __init__(self, plan: Plan, settings: Settings, state: State) -> None:
        self.plan, self.settings, self.state = plan, settings, state
        self.codes = {
            layer.name: self._weights(state.layers[layer.name].master, state.scales[weights_name(layer)])
            for layer in plan.trainable
            if layer.kind != "stored"
        }

    def _weights(self, master: np.ndarray, scale: int) -> np.ndarray:
        fmt = self.settings.formats[0]
        return fmt.fixed(gradients.encoded(master, scale, fmt)).astype(np.float32)

    def passes(self) -> Numpy:
        biases = {name: w.bias for name, w in self.state.layers.items()}
        return Numpy(self.plan, self.settings, dict(self.state.scales), self.codes, biases)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Real logits (N, classes) of samples (N, H, W, C)."""
        passes = self.passes()
        return _logits(plans.forward(self.plan, passes, passes.of_input(x))[self.plan.logits])

    def step(self, x: np.ndarray, labels: np.ndarray, rate: float) -> Result:
        """Forward, backward and update with samples (N, H, W, C). Raises DataError where the run diverges."""
        passes = self.passes()
        found = plans.forward(self.plan, passes, passes.of_input(x))
        logits = _logits(found[self.plan.logits])
        loss, gradient = cross_entropy(logits, labels)
        if not np.isfinite(loss):
            raise DataError(
                f"training: the loss of step {self.state.step} is {loss}: the run diverges; begin again with a lower "
                "--rate"
            )
        start = passes.of_loss(gradient[:, None, None])
        backward = plans.backward(self.plan, passes, found, start)
        result = Result(loss, int((logits.argmax(axis=1) == labels).sum()))
        result.tensors = {**found, **passes.made, **{f"d {t}": v for t, v in backward.items()}}
        result.gradients, result.scales = passes.gradients, dict(passes.scales)
        result.codes = self._update(passes, rate / len(labels), rate)
        return result

    def _update(self, passes: Numpy, rate: float, whole_rate: float) -> dict[str, np.ndarray]:
        """`rate` is that of sums over the batch, `whole_rate` that of means. New codes in the old scales."""
        s = self.settings
        layers, codes, updated = {}, {}, {}
        scales = dict(passes.scales)
        for layer in self.plan.trainable:
            old, found = self.state.layers[layer.name], passes.gradients[layer.name]
            name = weights_name(layer)
            master, velocity = old.master, old.velocity
            if layer.kind != "stored":
                plain = None if layer.kind == "normalize" else layer
                rule = update_rule(s, plain, rate, whole_rate, found.exponent, scales[name])
                master, velocity, new = gradients.update(
                    rule, master, velocity, found.sums, s.formats[0], layer.forward_pattern
                )
                updated[layer.name] = new
                fixed = s.formats[0].fixed(new)
                codes[layer.name] = fixed.astype(np.float32)
                passes.seen[name] = int(np.abs(fixed).max())
            bias_rule = update_rule(s, None, rate, whole_rate, found.bias_exponent, 0)
            bias, bias_velocity, _ = gradients.update(
                bias_rule, old.bias, old.bias_velocity, found.bias, s.formats[0], DENSE
            )
            layers[layer.name] = Weights(master, velocity, bias, bias_velocity)
        for name, seen in passes.seen.items():
            fmt = s.formats[0 if name.startswith("w ") else 2 if name.startswith("d ") else 1]
            scales[name] = next_scale(scales[name], seen, fmt, name)
        for layer_name in codes:
            name = f"w {layer_name}"
            if scales[name] != passes.scales[name]:
                codes[layer_name] = self._weights(layers[layer_name].master, scales[name])
        self.state = State(layers, scales, self.state.step + 1, self.state.history)
        self.codes = codes
        return updated


def _logits(values: Values) -> np.ndarray:
    return np.asarray(values.data.astype(np.float64) * 2.0**values.exponent).reshape(len(values.data), -1)


def _max_pool(x: np.ndarray, layer: Layer) -> np.ndarray:
    w = layer.window
    rows, columns = w.plane(*layer.plane)
    best = np.full((len(x), rows, columns, x.shape[3]), -np.inf, x.dtype)
    for target, source in _taps(layer, rows, columns):
        np.maximum(best[:, *target], x[:, *source], out=best[:, *target])
    return best


def _window_sums(x: np.ndarray, layer: Layer) -> np.ndarray:
    rows, columns = layer.window.plane(*layer.plane)
    total = np.zeros((len(x), rows, columns, x.shape[3]))
    for target, source in _taps(layer, rows, columns):
        total[:, *target] += x[:, *source]
    return total


def _spread(dy: np.ndarray, layer: Layer) -> np.ndarray:
    """The transpose of `_window_sums`."""
    rows, columns = dy.shape[1:3]
    total = np.zeros((len(dy), *layer.plane, dy.shape[3]))
    for target, source in _taps(layer, rows, columns):
        total[:, *source] += dy[:, *target]
    return total


def _taps(layer: Layer, rows: int, columns: int) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Of each tap of a window the output pixels that read the plane, and the pixels that they read."""
    w = layer.window
    found = []
    for i in range(w.kernel[0]):
        for j in range(w.kernel[1]):
            pairs = []
            for tap, axis, count in ((i, 0, rows), (j, 1, columns)):
                begin, step = tap * w.dilation[axis] - w.pads[axis], w.stride[axis]
                first = max(0, -(begin // step)) if begin < 0 else 0
                last = min(count - 1, (layer.plane[axis] - 1 - begin) // step)
                if last < first:
                    break
                at = begin + first * step
                pairs.append((slice(first, last + 1), slice(at, begin + last * step + 1, step)))
            if len(pairs) == 2:
                found.append(((pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1])))
    return found


def averaging(layer: Layer) -> tuple[int, int]:
    """k, s with k * 2**-s nearest to the reciprocal of an average pool's window; k below 2**16."""
    return factor(1 / (layer.window.kernel[0] * layer.window.kernel[1]))


def _averaged(sums: np.ndarray, layer: Layer, exponent: int) -> Term:
    k, s = averaging(layer)
    bound = largest(sums) * k
    if bound < 1 << 53:
        return sums * k, exponent - s
    return sums.astype(np.int64).astype(np.int64 if bound < INT64_SAFE else object) * k, exponent - s
