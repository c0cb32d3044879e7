"""A training step: against itself written in real numbers, and against PyTorch's autograd on the same formats."""

from __future__ import annotations

import numpy as np
import pytest
from training_nets import network, samples

from sateen.compiler.importer import import_model
from sateen.compiler.training import Settings, make_plan
from sateen.compiler.training import plan as plans
from sateen.compiler.training.rounding import rounded
from sateen.compiler.training.rules import factor
from sateen.compiler.training.scales import fitting, next_scale
from sateen.compiler.training.state import initial, weights_name
from sateen.compiler.training.step import Trainer, bias_integers, cross_entropy
from sateen.errors import DataError
from sateen.formats import parse_format
from sateen.formats.requantize import requantize

FORMATS = [("int8", "int8"), ("e4m3fn", "e5m2"), ("e5m2", "e5m2"), ("e2m1", "e4m3fn")]


def trainer(fmt="int8", gradients="int8", **more):
    settings = Settings(sparsity="2:4", weights=fmt, activations=fmt, gradients=gradients, **more)
    plan = make_plan(import_model(network()), settings)
    state = initial(plan, settings)
    x, labels = samples()
    hwc = plan.graph.inputs[0].to_hwc(x).astype(np.float32)
    state.scales[plan.input] = fitting(float(np.abs(hwc).max()), settings.formats[1])
    return Trainer(plan, settings, state), hwc, labels


def test_the_plan_has_every_layer():
    made = trainer()[0].plan
    assert [layer.kind for layer in made.layers] == ["conv", "max", "conv", "conv", "conv", "average", "conv"]
    assert [str(layer.forward_pattern) for layer in made.trainable] == ["dense", "2:4", "2:4", "2:4", "dense"]
    assert sum(layer.residual is not None for layer in made.layers) == 2


@pytest.mark.parametrize(("fmt", "gradients"), FORMATS)
def test_a_step_is_the_same_for_any_order_of_its_samples(fmt, gradients):
    """Sums are exact, so their order, and a batch's, changes no bit; the first step finds the scales."""
    states = []
    for order in (slice(None), slice(None, None, -1)):
        made, x, labels = trainer(fmt, gradients)
        for _ in range(3):
            made.step(x[order], labels[order], 0.05)
        states.append(made.state)
    assert states[0].scales == states[1].scales
    for name, weights in states[0].layers.items():
        for part in weights.__slots__:
            assert (getattr(weights, part) == getattr(states[1].layers[name], part)).all(), (name, part)


@pytest.mark.parametrize("method", ["bdwp", "sr-ste", "dense"])
def test_training_lowers_the_loss(method):
    made, x, labels = trainer(method=method, scratch=True)
    losses = [made.step(x, labels, 0.05).loss for _ in range(30)]
    assert losses[-1] < 0.3 * losses[0]


def test_gradients_of_the_loss_by_finite_differences():
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(0, 3, (5, 4)), np.array([0, 3, 1, 1, 2])
    loss, gradient = cross_entropy(logits, labels)
    for at in np.ndindex(logits.shape):
        moved = logits.copy()
        moved[at] += 1e-6
        assert (cross_entropy(moved, labels)[0] - loss) * 5 / 1e-6 == pytest.approx(gradient[at], abs=1e-4)


class Real:
    """`Passes` in float64, forward alone."""

    def __init__(self, made, weights):
        self.made, self.weights = made, weights

    def layer(self, layer, x, residual):
        if layer.kind == "conv":
            y = _conv(x, self.weights[layer.name], layer) + self.made.state.layers[layer.name].bias * 2.0**-24
        elif layer.kind == "average":
            y = x.reshape(len(x), 1, 2, 1, 2, -1).mean(axis=(2, 4))
        else:
            y = _max(x, layer)
        y = y if residual is None else y + residual
        return np.clip(y, layer.low, layer.high) if layer.gated else y


def test_gradients_of_weights_by_finite_differences():
    """Of the same network in float64, at the weights' codes: as near as 8 bits of activations and gradients are."""
    made, x, labels = trainer(method="dense")
    real = {
        layer.name: made.codes[layer.name].astype(np.float64) * 2.0 ** made.state.scales[weights_name(layer)]
        for layer in made.plan.trainable
    }

    def loss(weights):
        tensors = plans.forward(made.plan, Real(made, weights), x.astype(np.float64))
        return cross_entropy(tensors[made.plan.logits].reshape(len(x), -1), labels)[0] * len(x)

    rng = np.random.default_rng(0)
    slopes = {}
    for layer in made.plan.trainable:
        slopes[layer.name] = np.empty((8, 2))
        for i in range(8):
            direction = rng.normal(0, 1, layer.shape)
            ends = [loss(real | {layer.name: real[layer.name] + step * direction}) for step in (1e-5, -1e-5)]
            slopes[layer.name][i] = (ends[0] - ends[1]) / 2e-5, i
            slopes[layer.name, i] = direction
    result = made.step(x, labels, 0.0)
    for layer in made.plan.trainable:
        g = result.gradients[layer.name]
        gradient = g.weight * 2.0**g.exponent
        found = np.array([(gradient * slopes[layer.name, i]).sum() for i in range(8)])
        wanted = slopes[layer.name][:, 0]
        assert np.linalg.norm(found - wanted) < 0.2 * np.linalg.norm(wanted), layer.name


def _conv(x, weight, layer):
    w = layer.window
    x = np.pad(x, ((0, 0), (w.pads[0], w.pads[2]), (w.pads[1], w.pads[3]), (0, 0)))
    rows, columns = w.plane(*layer.plane)
    total = 0
    for tap in range(len(weight)):
        i, j = divmod(tap, w.kernel[1])
        down = slice(i, i + (rows - 1) * w.stride[0] + 1, w.stride[0])
        right = slice(j, j + (columns - 1) * w.stride[1] + 1, w.stride[1])
        total = total + x[:, down, right] @ weight[tap]
    return total


def _max(x, layer):
    w = layer.window
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = w.plane(*layer.plane)
    taps = [x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for i in range(3) for j in range(3)]
    return np.max(taps, axis=0)


# -- pieces ------------------------------------------------------------------------------------------------


def test_scales():
    fmt = parse_format("int8")
    assert fitting(127.0, fmt) == 0
    assert fitting(127.5, fmt) == 1
    assert fitting(63.5, fmt) == -1
    after = {127: 1, 128: 1, 126: 0, 64: 0, 63: -1, 32: -1, 31: -2, 1: -6, 0: 0}
    assert {a: next_scale(0, a, fmt, "t") for a in after} == after
    with pytest.raises(DataError, match=r"the scale of 't' became 2\*\*61.*lower --rate"):
        next_scale(60, 127, fmt, "t")


def test_factors():
    for value in (0.9, 1.0, 65535.0, 3.7e-12, 2.0**-61):
        k, s = factor(value)
        assert 0 < k < 1 << 16
        assert 0 <= s < 62
        assert k * 2.0**-s == pytest.approx(value, rel=2**-16)
    assert factor(0.0) == (0, 0)
    with pytest.raises(
        DataError, match="a factor of 70000 in the update, which reaches 65535: the run diverges"
    ):
        factor(70000.0)
    assert factor(70000.0, -16) == (35000, -1)


def test_biases_round_to_the_accumulator():
    bias = np.array([3 << 20, -(3 << 20), (1 << 22) + 1], np.int32)
    assert bias_integers(bias, -3).tolist() == [2, -2, 2]  # 1.5 steps to the even neighbour
    assert bias_integers(bias, -26).tolist() == [4 * int(b) for b in bias]
    assert bias_integers(np.array([1 << 30], np.int32), -80)[0] == 1 << 86


@pytest.mark.parametrize("name", ["int8", "e4m3fn", "e5m2", "e2m1"])
def test_one_rounding_of_a_sum_of_any_size(name):
    fmt = parse_format(name)
    rng = np.random.default_rng(6)
    for bits, exponent in ((20, 4), (55, 30), (70, 50)):
        a = np.array([int(v) << bits - 20 for v in rng.integers(-(1 << 20), 1 << 20, 60)], object) + 1
        a = a if bits > 60 else a.astype(np.int64)
        b = rng.integers(-100, 100, 60)
        found = rounded([(a, 0), (b, exponent - 3)], exponent, fmt, fmt.min_fixed, fmt.max_fixed)
        total = a.astype(object) * 1 + b.astype(object) * (1 << exponent - 3)
        wanted = fmt.fixed(requantize(total, 1, exponent, fmt))
        assert (found == wanted).all()
