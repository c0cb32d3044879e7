"""Layers of tokens and gates, each in a step of a network, against PyTorch's autograd on the same values."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from token_nets import NETS, token_trainer

from sateen.compiler.functions import slope as slope_of
from sateen.compiler.training.scales import fitting
from sateen.compiler.training.step import Numpy, Trainer
from sateen.formats import parse_format
from sateen.formats.rows import fraction_bits, normalize_rows
from sateen.ir.nodes import Normalize
from sateen.sim.row_gradients import normalize_gradient, softmax_gradient

torch = pytest.importorskip("torch", reason="needs the extra learn")

CUT = {"normalize", "softmax"}
"""Kinds that are cut off, or made of exponentials of 16 bits, before they are rounded."""


def real(values):
    """(N, C, H, W) of values, a leaf."""
    t = values.data.astype(np.float64) * 2.0**values.exponent
    return torch.tensor(t.transpose(0, 3, 1, 2).copy()).requires_grad_()


class Checked(Numpy):
    """The reference's step; what each layer of `kinds.KINDS` gives is compared."""

    def run(self, layer, inputs):
        from sateen.compiler.ptq.torch_graph import run_node

        node = layer.node
        if layer.kind == "normalize":
            scale = self.weights[layer.name].ravel().astype(np.float64) * 2.0 ** self.exponent_of_weights(
                layer
            )
            offset = self.biases[layer.name] * 2.0**-24
            more = {f.name: getattr(node, f.name) for f in fields(node)} | {"scale": scale, "offset": offset}
            node = Normalize(**more)
        weight = (
            {"weight": torch.tensor(node.weight.transpose(0, 3, 1, 2).copy())}
            if layer.kind == "select"
            else {}
        )
        if layer.kind in ("arrange", "concat"):
            inputs = [inputs[layer.operands.index(p)] for p in node.parts]
        bias = {"bias": torch.zeros(len(node.weight), dtype=torch.float64)} if weight else {}
        return run_node(node, list(inputs), **weight, **bias)

    def other(self, layer, operands, residual):
        found = super().other(layer, operands, residual)
        self.seen_kinds.add(layer.kind)
        if layer.kind in ("stored", "constant"):
            return found
        y = self.run(layer, [real(v) for v in operands])
        if residual is not None:
            y = y + real(residual)
        wanted = y.detach().numpy().transpose(0, 2, 3, 1)
        self.compare(
            layer,
            found,
            wanted,
            self.settings.formats[1],
            self.clamp(layer, self.scales[self.plan.groups[layer.output]]),
        )
        return found

    def other_back(self, layer, name, gradient, operands, result, rest, at):
        found = super().other_back(layer, name, gradient, operands, result, rest, at)
        inputs = [real(v) for v in operands]
        upstream = real(gradient).detach()
        if layer.kind == "softmax":  # whose gradient is that of the probabilities as they were rounded
            slope = torch.ops.aten._softmax_backward_data(upstream, real(result).detach(), 1, torch.float64)
        elif layer.kind == "function":
            sides = [(inputs[0] + h).detach().requires_grad_() for h in (2.0**-17, -(2.0**-17))]
            slopes = [torch.autograd.grad(self.run(layer, [s]).sum(), [s])[0] for s in sides]
            slope = self.as_codes(layer, operands[0], (slopes[0] + slopes[1]) / 2) * upstream
        else:
            (slope,) = torch.autograd.grad(self.run(layer, inputs), inputs[at : at + 1], upstream)
        wanted = slope.numpy().transpose(0, 2, 3, 1)
        if rest is not None:
            wanted = wanted + rest.data * 2.0**rest.exponent
        fmt = self.settings.formats[2]
        self.compare(layer, found, wanted, fmt, (fmt.min_fixed, fmt.max_fixed))
        return found

    def as_codes(self, layer, x, slope):
        """Slopes rounded to the activations' format, in the scale that holds those of all codes."""
        fmt = self.settings.formats[1]
        every = np.abs(slope_of(layer.node, fmt.fixed(fmt.codes) * 2.0**x.exponent)).max()
        scale = fitting(float(every), fmt)
        codes = fmt.encode(np.rint(slope.numpy() * 2.0**20) * 2.0 ** (-20 - scale))
        return torch.tensor(fmt.fixed(codes) * 2.0 ** (scale + fmt.lsb_exponent))

    def learn(self, layer, x, gradient):
        super().learn(layer, x, gradient)
        found, upstream = self.gradients[layer.name], real(gradient).detach().numpy()
        wanted = upstream.sum(axis=0).transpose(1, 2, 0)
        if layer.kind == "normalize":
            wanted = wanted.sum(axis=(0, 1))
            more = {f.name: getattr(layer.node, f.name) for f in fields(layer.node)}
            channels = len(layer.node.scale)
            more |= {"scale": np.ones(channels), "offset": np.zeros(channels)}
            from sateen.compiler.ptq.torch_graph import run_node

            y = run_node(Normalize(**more), [real(x)]).detach().numpy()
            scale = (y * upstream).sum(axis=(0, 2, 3))
            own = found.weight.ravel().astype(np.float64) * 2.0**found.exponent
            assert np.abs(own - scale).max() <= 1e-3 * np.abs(upstream).sum()
        assert (found.bias * 2.0**found.bias_exponent == wanted).all()

    def compare(self, layer, found, wanted, fmt, ends):
        unit = 2.0**found.exponent
        codes = np.clip(fmt.fixed(fmt.encode(wanted / unit * 2.0**fmt.lsb_exponent)), *ends)
        different = codes != found.data
        # a sum that was cut off, and exponentials of 16 bits, round another way where they are near a middle
        most = 0.01 if layer.kind in CUT else 0.0
        assert different.mean() <= most, (layer.name, layer.kind, different.mean())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("fmt", "gradients"), [("int8", "int8"), ("e4m3fn", "e4m3fn"), ("int8", "e4m3fn")])
def test_layers_in_a_step_are_those_of_autograd(net, fmt, gradients, monkeypatch):
    made, x, labels = token_trainer(net, fmt, gradients, method="bdwp")
    for _ in range(2):  # scales of a run
        made.step(x, labels, 0.02)
    seen: set[str] = set()

    def passes(self):
        own = Trainer.__dict__["original"](self)
        checked = Checked(own.plan, own.settings, own.scales, own.weights, own.biases)
        checked.seen_kinds = seen
        return checked

    monkeypatch.setattr(Trainer, "original", Trainer.passes, raising=False)
    monkeypatch.setattr(Trainer, "passes", passes)
    made.step(x, labels, 0.02)
    assert (
        seen
        == {
            "vit": {"stored", "arrange", "normalize", "product", "softmax", "function", "select"},
            "gated": {"function", "mul", "concat", "normalize"},
        }[net]
    )


# -- pieces ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int8", "e4m3fn", "e5m2"])
@pytest.mark.parametrize("centred", [True, False])
def test_the_gradient_of_a_normalized_row(name, centred):
    """Rows of the format's own values and gradients of any size, against autograd in float64."""
    fmt, rng, n = parse_format(name), np.random.default_rng(0), 24
    x = fmt.fixed(fmt.encode(rng.normal(0, fmt.max / 8, (40, n)))).astype(np.int64)
    g = rng.integers(-(1 << 14), 1 << 14, (40, n))
    count = n if centred else 1
    found = normalize_gradient(g, x, fmt, count=count, epsilon=40, centred=centred)
    t = torch.tensor(x.astype(np.float64), requires_grad=True)
    total = t.sum(-1, keepdim=True) if centred else 0
    variance = count * (t**2).sum(-1, keepdim=True) - total**2 + 40 / 256
    y = (count * t - total) / variance.sqrt()
    y.backward(torch.tensor(g.astype(np.float64)))
    unit, wanted = 2.0 ** -fraction_bits(fmt), t.grad.numpy()
    assert np.abs(found.astype(np.float64) * unit - wanted).max() <= 2.0**-14 * np.abs(wanted).max()
    h = normalize_rows(x, fmt, count=count, epsilon=40, centred=centred)
    assert np.abs(h.astype(np.float64) * unit - y.detach().numpy()).max() < 1e-3


def test_the_gradient_of_a_softmax_of_any_size():
    """Of e5m2's fixed-point numbers, whose products need 70 bits: against Python integers."""
    fmt, rng = parse_format("e5m2"), np.random.default_rng(1)
    p, dp = (fmt.fixed(fmt.encode(rng.normal(0, fmt.max / 4, (3, 5)))).astype(np.float32) for _ in range(2))
    own, total = softmax_gradient(dp, p)
    a, b = ([[int(v) for v in row] for row in t] for t in (p, dp))
    for i, j in np.ndindex(p.shape):
        assert int(own[i, j]) == a[i][j] * b[i][j]
        assert int(total[i, j]) == -a[i][j] * sum(u * v for u, v in zip(a[i], b[i], strict=True))
