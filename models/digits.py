"""Train the digits networks and export them: `python -m sateen.models.digits --out DIR`.

The committed digits_cnn.onnx, digits_resnet.onnx and digits_dscnn.onnx are what this writes. Needs the `train` extra
(PyTorch).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from sateen.models.data import digits_split

OPSET = 17
SEED = 7
EPOCHS = 60
BATCH = 64


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class DigitsCnn(nn.Module):
    """Conv 16, Conv 16, MaxPool, Conv 32, MaxPool, Gemm 32, Gemm 10; 8 × 8 pixels in."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(_conv(1, 16), nn.ReLU(), _conv(16, 16), nn.ReLU(), nn.MaxPool2d(2)),
            *(_conv(16, 32), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x))


class Block(nn.Module):
    """Two 3 × 3 convolutions and a shortcut, which is a strided 1 × 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(inputs, outputs, stride=stride), nn.ReLU(), _conv(outputs, outputs))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class DigitsResnet(nn.Module):
    """Conv 16, blocks of 16, 32 (stride 2) and 32 channels, global average, Gemm 10."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(1, 16), nn.ReLU())
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1))
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1)
        return self.classifier(torch.flatten(x, 1))


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 3 × 3 convolution of each channel by itself, then a 1 × 1 convolution."""
    depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
    return nn.Sequential(
        *(depthwise, nn.BatchNorm2d(inputs), nn.ReLU()), _conv(inputs, outputs, kernel=1), nn.ReLU()
    )


class DigitsDscnn(nn.Module):
    """Conv 16, separable 32 (stride 2), 32, 64 and 64, global average, Gemm 10.

    Ref: depthwise-separable convolutions as in MobileNets, arXiv 1704.04861.
    """

    def __init__(self) -> None:
        super().__init__()
        shapes = ((16, 32, 2), (32, 32, 1), (32, 64, 1), (64, 64, 1))
        self.features = nn.Sequential(_conv(1, 16), nn.ReLU(), *(_separable(*shape) for shape in shapes))
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


MODELS: dict[str, type[nn.Module]] = {
    "digits_cnn": DigitsCnn,
    "digits_resnet": DigitsResnet,
    "digits_dscnn": DigitsDscnn,
}
POSITIONS = {"digits_cnn": {"classifier.1": 4}}
"""For each Linear that follows a Flatten, the pixels of the plane that it reads."""


def train(model: nn.Module, epochs: int = EPOCHS) -> float:
    """Train on the training scans, each shifted by up to one pixel; returns the test accuracy, 0 to 1."""
    digits = digits_split()
    x, y = torch.from_numpy(digits.x_train), torch.from_numpy(digits.y_train)
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            images = augment(x[batch], generator)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), y[batch], label_smoothing=0.05)
            loss.backward()
            optimizer.step()
            schedule.step()
        if epoch % 10 == 9:
            print(f"  epoch {epoch + 1:3}/{epochs}: loss {loss.item():.3f}", file=sys.stderr)
    model.eval()
    with torch.no_grad():
        guess = model(torch.from_numpy(digits.x_test)).argmax(1).numpy()
    return float(np.mean(guess == digits.y_test))


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(N, 1, H, W) moved by up to one pixel each way, the same for all, zeros moving in."""
    dy, dx = (int(v) for v in torch.randint(-1, 2, (2,), generator=generator))
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    h, w = x.shape[2:]
    return padded[:, :, 1 - dy : 1 - dy + h, 1 - dx : 1 - dx + w]


def export(model: nn.Module, path: Path, shape: tuple[int, ...] = (1, 1, 8, 8), opset: int = OPSET) -> None:
    """Write ONNX, float32, input "input" of `shape`, output "logits" (1, 10); BatchNormalization stays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package announces its end
        torch.onnx.export(
            model.eval(),
            (torch.zeros(shape),),
            str(path),
            input_names=["input"],
            output_names=["logits"],
            opset_version=opset,
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,  # keeps BatchNormalization unfolded
            do_constant_folding=False,
        )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sateen.models.digits", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the ONNX files")
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the order of float additions must not depend on the machine
    torch.use_deterministic_algorithms(True)
    for name in MODELS if options.model == "all" else [options.model]:
        print(f"training {name}", file=sys.stderr)
        torch.manual_seed(SEED)
        model = MODELS[name]()
        accuracy = train(model)
        path = options.out / f"{name}.onnx"
        export(model, path)
        print(f"{path}: test accuracy {accuracy:.1%}, {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
