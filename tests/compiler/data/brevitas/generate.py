"""Makes the files beside it with Brevitas, which the tests then need not install.

python generate.py [NAME ...]      (pip install brevitas==0.13.4 torch==2.13.0 onnx onnxscript onnxoptimizer)

For each network NAME.onnx as Brevitas exports it; cases.npz holds the input "x" of all, and by name Brevitas' own
output in float32. Weights are seeded, activation scales calibrated on random inputs.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import brevitas.nn as qnn
import numpy as np
import onnx
import torch
from brevitas.export import export_onnx_qcdq, export_qonnx
from brevitas.graph.calibrate import calibration_mode
from brevitas.inject.enum import RestrictValueType
from brevitas.quant import (
    Int8ActPerTensorFixedPoint,
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFixedPoint,
    Int8WeightPerTensorFloat,
    Int32Bias,
    ShiftedUint8ActPerTensorFloat,
    ShiftedUint8WeightPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryActPerTensorConst,
    SignedTernaryWeightPerTensorConst,
    Uint8ActPerTensorFixedPoint,
    Uint8ActPerTensorFloat,
)
from brevitas.quant.fixed_point import Int8WeightPerChannelFixedPoint
from brevitas.quant.float_quant_ocp import (
    Fp8e4m3OCPActPerTensorFloat,
    Fp8e4m3OCPWeightPerChannelFloat,
    Fp8e4m3OCPWeightPerTensorFloat,
)
from brevitas.quant.scaled_int import RoundTo8bit, TruncTo8bit
from torch import nn

FOLDER = Path(__file__).parent
CHANNELS, SIZE, SAMPLES = 3, 8, 16


@dataclass(frozen=True)
class Kinds:
    """The quantizers of a network."""

    weight: type
    signed: type  # activations of either sign
    unsigned: type
    bias: type | None = None


def bits(width: int, kinds: Kinds) -> Kinds:
    narrow = (k.let(bit_width=width) for k in (kinds.weight, kinds.signed, kinds.unsigned))
    return Kinds(*narrow, kinds.bias)


FLOAT = Kinds(Int8WeightPerTensorFloat, Int8ActPerTensorFloat, Uint8ActPerTensorFloat)
CHANNEL = Kinds(Int8WeightPerChannelFloat, Int8ActPerTensorFloat, Uint8ActPerTensorFloat)
BIASED = Kinds(Int8WeightPerChannelFloat, Int8ActPerTensorFloat, Uint8ActPerTensorFloat, Int32Bias)
POT = Kinds(Int8WeightPerTensorFixedPoint, Int8ActPerTensorFixedPoint, Uint8ActPerTensorFixedPoint)
POT_BIASED = Kinds(
    Int8WeightPerChannelFixedPoint, Int8ActPerTensorFixedPoint, Uint8ActPerTensorFixedPoint, Int32Bias
)
SHIFTED = Kinds(Int8WeightPerTensorFloat, ShiftedUint8ActPerTensorFloat, ShiftedUint8ActPerTensorFloat)
SHIFTED_WEIGHTS = Kinds(ShiftedUint8WeightPerTensorFloat, Int8ActPerTensorFloat, Uint8ActPerTensorFloat)
OCP = Kinds(Fp8e4m3OCPWeightPerTensorFloat, Fp8e4m3OCPActPerTensorFloat, Fp8e4m3OCPActPerTensorFloat)


def minifloat(e: int, m: int, power_of_two: bool = True) -> Kinds:
    """Brevitas exports those of OCP only; its plain `Fp8e4m3...` fail in export_qonnx."""
    options = {"bit_width": 1 + e + m, "exponent_bit_width": e, "mantissa_bit_width": m}
    if power_of_two:
        options["restrict_scaling_type"] = RestrictValueType.POWER_OF_TWO
    weight = Fp8e4m3OCPWeightPerTensorFloat if power_of_two else Fp8e4m3OCPWeightPerChannelFloat
    act = Fp8e4m3OCPActPerTensorFloat.let(**options)
    return Kinds(weight.let(**options), act, act)


def plain(kinds: Kinds) -> nn.Module:
    """Convolution, batch normalization, Relu, pooling, a depthwise convolution, Linear."""
    return nn.Sequential(
        qnn.QuantIdentity(act_quant=kinds.signed, return_quant_tensor=True),
        qnn.QuantConv2d(CHANNELS, 4, 3, padding=1, weight_quant=kinds.weight, bias_quant=kinds.bias),
        nn.BatchNorm2d(4),
        qnn.QuantReLU(act_quant=kinds.unsigned, return_quant_tensor=True),
        nn.MaxPool2d(2),
        qnn.QuantConv2d(
            4,
            4,
            3,
            stride=2,
            groups=4,
            weight_quant=kinds.weight,
            bias_quant=kinds.bias,
            bias=bool(kinds.bias),
        ),
        qnn.QuantReLU(act_quant=kinds.unsigned, return_quant_tensor=True),
        nn.Flatten(),
        qnn.QuantLinear(4, 5, bias=True, weight_quant=kinds.weight, bias_quant=kinds.bias),
    )


class Residual(nn.Module):
    """QuantEltwiseAdd gives both sides one scale; then an average pool and a signed output quantizer."""

    def __init__(self, kinds: Kinds, trunc: type | None = None) -> None:
        super().__init__()
        act = {"return_quant_tensor": True}
        self.input = qnn.QuantIdentity(act_quant=kinds.signed, **act)
        self.first = qnn.QuantConv2d(CHANNELS, 4, 3, padding=1, weight_quant=kinds.weight, bias=False)
        self.relu = qnn.QuantReLU(act_quant=kinds.unsigned, **act)
        self.second = qnn.QuantConv2d(4, 4, 3, padding=1, weight_quant=kinds.weight, bias_quant=kinds.bias)
        self.join = qnn.QuantEltwiseAdd(input_quant=kinds.signed, output_quant=kinds.signed, **act)
        self.after = qnn.QuantReLU(act_quant=kinds.unsigned, **act)
        self.pool = nn.AvgPool2d(4) if trunc is None else qnn.TruncAvgPool2d(4, trunc_quant=trunc, **act)
        self.last = qnn.QuantLinear(16, 5, bias=False, weight_quant=kinds.weight)
        self.output = qnn.QuantIdentity(act_quant=kinds.signed)
        self.pooled = qnn.QuantIdentity(act_quant=kinds.signed, **act) if trunc is None else nn.Identity()

    def forward(self, x):
        x = self.relu(self.first(self.input(x)))
        y = self.join(x, self.second(x))
        y = self.pooled(self.pool(self.after(y)))
        return self.output(self.last(y.flatten(1)))


def signs(weight: type, act: type) -> nn.Module:
    """Weights and activations of two or three values, batch normalization between."""
    return nn.Sequential(
        qnn.QuantIdentity(act_quant=Int8ActPerTensorFixedPoint),
        qnn.QuantConv2d(CHANNELS, 6, 3, padding=1, bias=False, weight_quant=weight),
        nn.BatchNorm2d(6),
        qnn.QuantIdentity(act_quant=act),
        qnn.QuantConv2d(6, 6, 3, bias=False, weight_quant=weight),
        nn.BatchNorm2d(6),
        qnn.QuantIdentity(act_quant=act),
        nn.MaxPool2d(2),
        nn.Flatten(),
        qnn.QuantLinear(54, 5, bias=False, weight_quant=weight),
    )


def functions() -> nn.Module:
    """Sigmoid, Tanh and HardTanh as quantized activations."""
    layers: list[nn.Module] = [qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat)]
    for layer in (qnn.QuantSigmoid(), qnn.QuantTanh(), qnn.QuantHardTanh(min_val=-1.0, max_val=1.0)):
        channels = CHANNELS if len(layers) == 1 else 4
        layers += [qnn.QuantConv2d(channels, 4, 3, bias=True), layer]
    return nn.Sequential(*layers)


SCRIPTED = {"dynamo": False}
"""Brevitas has two exporters, of TorchScript and of torch.export; they name and arrange nodes differently."""

CASES: dict[str, tuple[Callable[[], nn.Module], Callable, dict]] = {
    "int8": (lambda: plain(FLOAT), export_qonnx, {}),
    "int8_channels_bias": (lambda: plain(BIASED), export_qonnx, SCRIPTED),
    "int4_channels": (lambda: plain(bits(4, CHANNEL)), export_qonnx, SCRIPTED),
    "int3": (lambda: plain(bits(3, FLOAT)), export_qonnx, {}),
    "int8_pot": (lambda: plain(POT), export_qonnx, {}),
    "int4_pot_residual": (lambda: Residual(bits(4, POT_BIASED)), export_qonnx, SCRIPTED),
    "int8_residual": (lambda: Residual(BIASED), export_qonnx, SCRIPTED),
    "shifted": (lambda: plain(SHIFTED), export_qonnx, SCRIPTED),
    "shifted_weights": (lambda: plain(SHIFTED_WEIGHTS), export_qonnx, SCRIPTED),
    "trunc_floor": (lambda: Residual(POT_BIASED, TruncTo8bit.let(bit_width=4)), export_qonnx, {}),
    "trunc_round": (
        lambda: Residual(bits(4, POT_BIASED), RoundTo8bit.let(bit_width=6)),
        export_qonnx,
        SCRIPTED,
    ),
    "binary": (
        lambda: signs(SignedBinaryWeightPerTensorConst, SignedBinaryActPerTensorConst),
        export_qonnx,
        {},
    ),
    "ternary": (
        lambda: signs(SignedTernaryWeightPerTensorConst, SignedTernaryActPerTensorConst),
        export_qonnx,
        {},
    ),
    "functions": (functions, export_qonnx, SCRIPTED),
    "e3m2": (lambda: plain(minifloat(3, 2)), export_qonnx, SCRIPTED),
    "e2m1": (lambda: Residual(minifloat(2, 1)), export_qonnx, SCRIPTED),
    "e3m2_channels": (lambda: plain(minifloat(3, 2, power_of_two=False)), export_qonnx, {}),
    "e4m3fn": (lambda: plain(OCP), export_qonnx, {}),
    "qcdq_int8": (lambda: plain(FLOAT), export_onnx_qcdq, {"opset_version": 18}),
    "qcdq_int4_channels": (lambda: plain(bits(4, CHANNEL)), export_onnx_qcdq, {"opset_version": 18}),
    "qcdq_pot_residual": (lambda: Residual(bits(6, POT_BIASED)), export_onnx_qcdq, SCRIPTED),
    "qcdq_trunc": (lambda: Residual(POT, TruncTo8bit.let(bit_width=4)), export_onnx_qcdq, SCRIPTED),
    "qcdq_shifted": (lambda: plain(SHIFTED), export_onnx_qcdq, SCRIPTED),
    "qcdq_e4m3fn": (lambda: plain(OCP), export_onnx_qcdq, {"opset_version": 19}),
    "qcdq_bias": (lambda: plain(BIASED), export_onnx_qcdq, SCRIPTED),
    "qcdq_int4_bias": (lambda: plain(bits(4, BIASED)), export_onnx_qcdq, SCRIPTED),
}


def make(name: str) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """The exported model, an input, and what Brevitas makes of it."""
    build, export, options = CASES[name]
    torch.manual_seed(0)
    model = build()
    shape = (SAMPLES, CHANNELS, SIZE, SIZE)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.uniform_(-0.2, 0.2)
                m.running_var.uniform_(0.2, 0.6)
                m.weight.uniform_(0.5, 1.5)
                m.bias.uniform_(-0.3, 0.3)
        model.train()
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eval()
        model(torch.randn(shape))
        model.eval()
        with calibration_mode(model):
            for _ in range(4):
                model(torch.randn(shape))
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        y = model(x)
        y = getattr(y, "value", y)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = str(Path(folder) / "model.onnx")
            export(copy.deepcopy(model), args=x[:1], export_path=path, **options)
            exported = onnx.load(path)
    for part in (exported, exported.graph, *exported.graph.node, *exported.graph.value_info):
        del part.metadata_props[:]  # where in the Python source it comes from: kilobytes
        part.ClearField("doc_string")
    del exported.graph.value_info[:]
    return exported, x.numpy(), y.detach().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(CASES))
    names = parser.parse_args().names
    path = FOLDER / "cases.npz"
    arrays = dict(np.load(path)) if path.exists() else {}
    for name in names:
        model, x, y = make(name)
        onnx.save(model, FOLDER / f"{name}.onnx")
        arrays["x"], arrays[name] = x, y
        print(name, model.ByteSize(), y.shape)
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main()
