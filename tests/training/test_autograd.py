"""The step's gradients are PyTorch's autograd on the same formats: rounded where, and as, the step says."""

from __future__ import annotations

import numpy as np
import pytest
from test_step import trainer

from sateen.compiler.training.state import weights_name
from sateen.compiler.training.step import gate_ends
from sateen.sim.gradients import selected

torch = pytest.importorskip("torch", reason="needs the extra learn")


def rounded(t, fmt, scale, low=None, high=None):
    """Real numbers to the format's, scaled by 2**scale."""
    codes = fmt.encode(t.detach().numpy() * 2.0**-scale)
    fixed = np.clip(
        fmt.fixed(codes), fmt.min_fixed if low is None else low, fmt.max_fixed if high is None else high
    )
    return torch.tensor(fixed * 2.0 ** (scale + fmt.lsb_exponent))


class Gradient(torch.autograd.Function):
    """Identity; its gradient is rounded."""

    @staticmethod
    def forward(ctx, x, fmt, scale):
        ctx.fmt, ctx.scale = fmt, scale
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return rounded(g, ctx.fmt, ctx.scale), None, None


class Net:
    """The plan in PyTorch's float64, NCHW; every tensor of it is a code's value."""

    def __init__(self, made):
        self.made, self.plan, self.scales = made, made.plan, made.state.scales
        self.weight_format, self.format, self.gradient_format = made.settings.formats
        self.leaves = {}

    def run(self, x):
        found = {self.plan.input: x}
        readers = {}
        for layer in self.plan.layers:
            readers.setdefault(layer.input, []).append(layer)
        chain = {}

        def read(layer, tensor, residual):
            """What readers from the last to the first give is rounded one after the other, summands not."""
            if (tensor, 0) not in chain:
                order = readers.get(tensor, [])
                value = found[tensor]
                for k in range(len(order)):
                    name = f"d {tensor} {len(order) - 1 - k}"
                    if name in self.scales:
                        value = Gradient.apply(value, self.gradient_format, self.scales[name])
                    chain[tensor, k] = value
                    chain[tensor, order[k].name] = value
                chain[tensor, "last"] = value
            return chain[tensor, "last"] if residual else chain[tensor, layer.name]

        for layer in self.plan.layers:
            residual = read(layer, layer.residual, True) if layer.residual else None
            found[layer.output] = self.layer(layer, read(layer, layer.input, False), residual)
        return found

    def layer(self, layer, x, residual):
        w = layer.window
        top, left, bottom, right = w.pads
        pad = (left, right, top, bottom)
        if layer.kind == "max":
            padded = torch.nn.functional.pad(x, pad, value=-torch.inf)
            rows, columns = w.plane(*layer.plane)
            taps = [
                padded[:, :, i:, j:][:, :, : (rows - 1) * w.stride[0] + 1 : w.stride[0]][
                    ..., : (columns - 1) * w.stride[1] + 1 : w.stride[1]
                ]
                for i in range(w.kernel[0])
                for j in range(w.kernel[1])
            ]
            most = torch.stack([t.detach() for t in taps]).amax(0)
            for t in taps:
                wins = t.detach() == most
                most = most + torch.where(wins, t - t.detach(), torch.zeros_like(t))
            return most
        if layer.kind == "conv":
            name = layer.name
            codes = self.made.codes[name].astype(np.float64)
            scale = 2.0 ** (self.scales[weights_name(layer)] + self.weight_format.lsb_exponent)

            def oihw(pattern, axis):
                real = codes * selected(codes, pattern, axis) * scale
                return torch.tensor(real.reshape(*w.kernel, *layer.shape[1:]).transpose(3, 2, 0, 1).copy())

            leaf = oihw(layer.forward_pattern, 1).requires_grad_()
            unit = np.log2(scale) + np.log2(self.unit(layer.input))
            bias = np.rint(self.made.state.layers[name].bias * 2.0 ** (-24 - unit)) * 2.0**unit
            bias = torch.tensor(bias).requires_grad_()
            self.leaves[name] = (leaf, bias)
            padded = torch.nn.functional.pad(x, pad)
            conv = torch.nn.functional.conv2d
            back = conv(padded, oihw(layer.backward_pattern, 2), None, w.stride)
            t = conv(padded.detach(), leaf, bias, w.stride) + back - back.detach()
        else:
            t = torch.nn.functional.avg_pool2d(x, w.kernel, w.stride)
        t = t if residual is None else t + residual
        if layer.output == self.plan.logits:
            return t
        scale = self.scales[self.plan.groups[layer.output]]
        passes = self.made.passes()
        low, high = passes.clamp(layer, scale)
        y = rounded(t, self.format, scale, low, high)
        fixed = y * 2.0 ** -(scale + self.format.lsb_exponent)
        low, high = gate_ends(layer, low, high, self.format) if layer.gated else (-torch.inf, torch.inf)
        return y + torch.where((fixed > low) & (fixed < high), t - t.detach(), torch.zeros_like(t))

    def unit(self, tensor):
        return 2.0 ** (self.scales[self.plan.groups[tensor]] + self.format.lsb_exponent)


@pytest.mark.parametrize("method", ["dense", "bdwp"])
@pytest.mark.parametrize(
    ("fmt", "gradients"), [("int8", "int8"), ("e4m3fn", "e4m3fn"), ("e2m1", "e4m3fn"), ("e4m3fn", "e5m2")]
)
def test_gradients_are_those_of_autograd(fmt, gradients, method):
    made, x, labels = trainer(fmt, gradients, method=method)
    for _ in range(3):  # scales of a run
        made.step(x, labels, 0.02)
    net = Net(made)
    start = made.passes().of_input(x)
    values = torch.tensor((start.data.astype(np.float64) * 2.0**start.exponent).transpose(0, 3, 1, 2).copy())
    found = net.run(values)
    logits = found[made.plan.logits].flatten(1)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
    (slope,) = torch.autograd.grad(loss, logits, retain_graph=True)
    codes = made.passes().of_loss(slope.numpy())
    logits.backward(torch.tensor(codes.data.astype(np.float64) * 2.0**codes.exponent))
    result = made.step(x, labels, 0.02)
    assert result.loss * len(labels) == pytest.approx(float(loss.detach()), rel=1e-12)
    for layer in made.plan.trainable:
        own, (weight, bias) = result.gradients[layer.name], net.leaves[layer.name]
        _, i, o = layer.shape
        wanted = weight.grad.numpy().transpose(2, 3, 1, 0).reshape(-1, i, o)
        assert (own.weight.astype(np.float64) * 2.0**own.exponent == wanted).all(), layer.name
        assert (own.bias * 2.0**own.bias_exponent == bias.grad.numpy()).all(), layer.name
