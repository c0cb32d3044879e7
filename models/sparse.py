"""Training of N:M sparse networks: SR-STE, PDP and bidirectional pruning, for Conv2d and Linear of any network.

    python -m sateen.models.sparse --model digits_cnn --pattern 2:8 --method sr-ste --out sparse.onnx

starts from the committed network, fine-tunes it and writes ONNX whose weights hold the pattern; with
`--model resnet8_cifar10 --data FOLDER` it trains from random weights, or from those of `--start F.onnx`.
Groups lie along input channels, as in `SparsityPattern`. Needs the `train` extra (PyTorch).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.autograd import Function
from torch.nn.grad import conv2d_input, conv2d_weight

from sateen.errors import DataError
from sateen.formats import PATTERNS, SparsityPattern, parse_sparsity

METHODS = ("sr-ste", "pdp", "bdwp")
DECAY = 2e-4
"""Of pruned weights, SR-STE's lambda (arXiv 2102.04010, section 4.2)."""
TEMPERATURES = (1.0, 0.01)
"""Of PDP's soft masks at the first and the last epoch, in units of a group's squared threshold."""
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
SMOOTHING = 0.05
CLIP = 1.0

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


# -- masks -------------------------------------------------------------------------------------------------


def keep_mask(weight: torch.Tensor, pattern: SparsityPattern, dim: int = 1) -> torch.Tensor:
    """Which n of each m consecutive elements along `dim` are of greatest magnitude, bool; ties to the lower index."""
    groups = _grouped(weight.detach().abs(), pattern.m, dim, fill=-1.0)
    order = groups.argsort(dim=-1, descending=True, stable=True)[..., : pattern.n]
    return _ungrouped(torch.zeros_like(groups, dtype=torch.bool).scatter(-1, order, True), weight, dim)


def soft_mask(weight: torch.Tensor, pattern: SparsityPattern, temperature: float) -> torch.Tensor:
    """PDP's mask from 0 to 1 along dim 1: how far w² lies above the group's threshold t².

    t is midway between the n-th and the next magnitude, and differentiable. The temperature is in units of t²,
    so that it means the same in every layer.

    Ref: Cho et al., PDP, arXiv 2305.11203, section 3, with a threshold for each group.
    """
    groups = _grouped(weight.abs(), pattern.m, 1, fill=0.0)
    top = groups.sort(dim=-1, descending=True).values
    threshold = (
        (top[..., pattern.n - 1] + top[..., min(pattern.n, pattern.m - 1)]).mul(0.5).square()[..., None]
    )
    scale = threshold.detach().mean().clamp_min(1e-20) * temperature
    mask = torch.sigmoid((groups.square() - threshold) / scale)
    return _ungrouped(mask, weight, 1)


def _grouped(x: torch.Tensor, m: int, dim: int, fill: float) -> torch.Tensor:
    """(..., groups, m) with `dim` last, the last group filled up."""
    x = x.movedim(dim, -1)
    x = nn.functional.pad(x, (0, -x.shape[-1] % m), value=fill)
    return x.unflatten(-1, (-1, m))


def _ungrouped(groups: torch.Tensor, like: torch.Tensor, dim: int) -> torch.Tensor:
    return groups.flatten(-2)[..., : like.shape[dim]].movedim(-1, dim)


# -- differentiation ---------------------------------------------------------------------------------------


class StraightThrough(Function):
    """weight * mask; the gradient goes to all weights, and pruned ones decay.

    Ref: Zhou et al., SR-STE, arXiv 2102.04010, equation 9.
    """

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, mask: torch.Tensor, decay: float) -> torch.Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        weight, mask = ctx.saved_tensors
        return gradients[0] + ctx.decay * ~mask * weight, None, None


class BidirectionalConv(Function):
    """A convolution by one weight whose input gradient is that of another; the weight gradient stays dense.

    Ref: Fang et al., BDWP, arXiv 2309.13015, section III.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, ahead: torch.Tensor, back: torch.Tensor, geometry: tuple[Any, ...]
    ) -> torch.Tensor:
        ctx.save_for_backward(x, back)
        ctx.geometry = geometry
        return nn.functional.conv2d(x, ahead, None, *geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, back = ctx.saved_tensors
        (g,) = gradients
        dx = conv2d_input(x.shape, back, g, *ctx.geometry) if ctx.needs_input_grad[0] else None
        return dx, conv2d_weight(x, back.shape, g, *ctx.geometry), None, None


class _Sparse:
    """What the two kinds of sparse layer share: how a dense weight becomes the one that is multiplied by."""

    weight: torch.Tensor
    pattern: SparsityPattern
    method: str
    positions = 1  # of the plane that a Flatten before a Linear laid out, channels outermost
    temperature = TEMPERATURES[0]

    def folded(self) -> torch.Tensor:
        """The weight with input channels in dim 1."""
        w = self.weight
        return w.unflatten(1, (-1, self.positions)) if isinstance(self, nn.Linear) else w

    def effective(self) -> torch.Tensor:
        """The weight of the forward pass."""
        w = self.folded()
        if self.method == "pdp" and self.training:  # type: ignore[attr-defined]
            return (w * soft_mask(w, self.pattern, self.temperature)).reshape(self.weight.shape)
        return StraightThrough.apply(w, keep_mask(w, self.pattern), DECAY).reshape(self.weight.shape)

    def backward_weight(self) -> torch.Tensor:
        """BDWP's weight of the backward pass: the same pattern along output channels."""
        w = self.weight.detach()
        return w * keep_mask(w, self.pattern, dim=0)


class SparseConv2d(_Sparse, nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        geometry: tuple[Any, ...] = (self.stride, self.padding, self.dilation, self.groups)
        if self.method == "bdwp":
            y = BidirectionalConv.apply(x, self.effective(), self.backward_weight(), geometry)
            return y if self.bias is None else y + self.bias[:, None, None]
        return nn.functional.conv2d(x, self.effective(), self.bias, *geometry)


class SparseLinear(_Sparse, nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.method == "bdwp":
            ahead, back = (w[..., None, None] for w in (self.effective(), self.backward_weight()))
            y = BidirectionalConv.apply(x[..., None, None], ahead, back, (1, 0, 1, 1))[..., 0, 0]
            return y if self.bias is None else y + self.bias
        return nn.functional.linear(x, self.effective(), self.bias)


# -- networks ----------------------------------------------------------------------------------------------


def make_sparse(
    model: nn.Module,
    pattern: SparsityPattern,
    method: str,
    *,
    keep_dense: set[str] | None = None,
    positions: Mapping[str, int] | None = None,
) -> list[str]:
    """Turn Conv2d without groups and Linear into sparse layers, in place; returns the names of those turned.

    keep_dense : names that stay dense, by default the first and the last such layer
    positions : for each Linear after a Flatten, the pixels of the plane that it lays out
    """
    if method not in METHODS:
        raise DataError(f"sparse training method '{method}' is unknown; it must be {', '.join(METHODS)}")
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    dense = keep_dense if keep_dense is not None else {found[0][0], found[-1][0]}
    turned = []
    for name, layer in found:
        if name in dense or getattr(layer, "groups", 1) > 1:
            continue
        layer.__class__ = SparseConv2d if isinstance(layer, nn.Conv2d) else SparseLinear
        layer.pattern, layer.method = pattern, method  # type: ignore[assignment]
        layer.positions = (positions or {}).get(name, 1)  # type: ignore[assignment]
        turned.append(name)
    return turned


def harden(model: nn.Module) -> None:
    """Prune the weights of sparse layers for good and turn the layers back into plain ones, in place."""
    for layer in sparse_layers(model):
        with torch.no_grad():
            mask = keep_mask(layer.folded(), layer.pattern).reshape(layer.weight.shape)
            layer.weight.mul_(mask)
        layer.__class__ = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear  # type: ignore[assignment]


def sparse_layers(model: nn.Module) -> Iterator[SparseConv2d | SparseLinear]:
    return (m for m in model.modules() if isinstance(m, SparseConv2d | SparseLinear))


def fine_tune(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epochs: int,
    rate: float,
    batch: int = 64,
    seed: int = 7,
    augment: Augment | None = None,
    progress: bool = False,
) -> None:
    """Train in place, with the masks of `make_sparse` drawn anew at each step: SGD, the rate falling as a cosine."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), rate, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    steps = epochs * math.ceil(len(x) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    model.train()
    for epoch in range(epochs):
        first, last = TEMPERATURES
        for layer in sparse_layers(model):
            layer.temperature = first * (last / first) ** (epoch / max(1, epochs - 1))
        for chosen in torch.randperm(len(x), generator=generator).split(batch):
            images = _real(x[chosen])
            optimizer.zero_grad()
            guess = model(augment(images, generator) if augment else images)
            loss = nn.functional.cross_entropy(guess, y[chosen], label_smoothing=SMOOTHING)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
        if progress:
            print(f"  epoch {epoch + 1:3}/{epochs}: loss {loss.item():.3f}", file=sys.stderr)
    model.eval()


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor, batch: int = 500) -> float:
    """Fraction of right guesses, 0 to 1."""
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(_real(x[i : i + batch])).argmax(1) == y[i : i + batch]).sum())
            for i in range(0, len(x), batch)
        )
    return right / len(x)


def _real(x: torch.Tensor) -> torch.Tensor:
    """Bytes as 0 to 1; anything else as it is."""
    return x / 255 if x.dtype == torch.uint8 else x


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Take the weights of an ONNX file that `sateen.models.digits.export` wrote of the same network."""
    graph = onnx.load(path).graph
    stored = {t.name: torch.from_numpy(np.array(numpy_helper.to_array(t))) for t in graph.initializer}
    for node in graph.node:  # the export writes equal tensors once
        if node.op_type == "Identity" and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    for name, value in wanted.items():
        if name not in stored or stored[name].shape != value.shape:
            raise DataError(
                f"{path}: '{name}' of shape {tuple(value.shape)} is missing; give a file of this network"
            )
    model.load_state_dict({k: stored[k] for k in wanted}, strict=False)


# -- command -----------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    from sateen.models import cifar, digits, images
    from sateen.models.data import digits_split

    parser = argparse.ArgumentParser(
        prog="python -m sateen.models.sparse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    parser.add_argument("--model", choices=[*digits.MODELS, cifar.NAME], default="digits_cnn")
    parser.add_argument("--pattern", default="2:8", help=f"one of {', '.join(PATTERNS)}")
    parser.add_argument("--method", choices=METHODS, default="sr-ste")
    parser.add_argument("--out", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--start", type=Path, help="ONNX file of trained weights; digits have their own")
    parser.add_argument("--data", type=Path, help="folder of cifar10_train.zip and cifar10_test.zip")
    parser.add_argument("--images", type=int, help="of CIFAR-10 to train with; default all")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.05)
    options = parser.parse_args(arguments)
    try:
        pattern = parse_sparsity(options.pattern)
        torch.set_num_threads(1)  # the order of float additions must not depend on the machine
        torch.manual_seed(digits.SEED)
        if options.model == cifar.NAME:
            if options.data is None:
                raise DataError(f"--model {cifar.NAME} needs --data, the folder of its images")
            model: nn.Module = cifar.Resnet8()
            train = images.load(options.data / "cifar10_train.zip", options.images)
            test = images.load(options.data / "cifar10_test.zip")
            (x, y), (xt, yt) = ((torch.from_numpy(v) for v in pair) for pair in (train, test))
            augment, shape, positions = cifar.augment, (1, 3, 32, 32), {}
            start = options.start
        else:
            model = digits.MODELS[options.model]()
            data = digits_split()
            x, y, xt, yt = (torch.from_numpy(v) for v in data)
            augment, shape = digits.augment, (1, 1, 8, 8)
            positions = digits.POSITIONS.get(options.model, {})
            start = options.start or Path(__file__).with_name(f"{options.model}.onnx")
        if start:
            load_weights(model, start)
            print(f"start: test accuracy {accuracy(model, xt, yt):.1%}", file=sys.stderr)
        make_sparse(model, pattern, options.method, positions=positions)
        fine_tune(model, x, y, epochs=options.epochs, rate=options.rate, augment=augment, progress=True)
        harden(model)
        digits.export(model, options.out, shape)
    except (DataError, ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"{options.out}: {pattern}, test accuracy {accuracy(model, xt, yt):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
