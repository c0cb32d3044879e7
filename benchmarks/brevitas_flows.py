"""Brevitas' flows of post-training quantization, on the network that Sateen imports: for against_brevitas.py."""

# extras: brevitas

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import sateen
from sateen.formats import Minifloat, parse_format
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Add, Conv, Node, Pool

if TYPE_CHECKING:
    import torch
    from torch import nn

VERSION = "0.13.4"
BATCH = 64

MSE = {"weight_param_method": "mse", "act_param_method": "mse"}
THEIRS: dict[str, dict[str, Any]] = {
    "fx": {},
    "fx, MSE": MSE,
    "fx, asymmetric": {"act_quant_type": "asym"},
    "fx, asymmetric, MSE": MSE | {"act_quant_type": "asym"},
    "fx, MSE, Qronos": MSE | {"solver": "qronos"},
    "fx, asymmetric, MSE, quantized inputs": MSE | {"act_quant_type": "asym", "solver": "gptq_quantized"},
    "fx, asymmetric, MSE, Qronos": MSE | {"act_quant_type": "asym", "solver": "qronos"},
    "layerwise": {"backend": "layerwise"},
    "layerwise, MSE": MSE | {"backend": "layerwise"},
    "layerwise, MSE, Qronos": MSE | {"backend": "layerwise", "solver": "qronos"},
}
"""What differs from `COMMON`; the asymmetric ones are for integers only."""

COMMON: dict[str, Any] = {
    "backend": "fx",
    "weight_quant_granularity": "per_channel",
    "scale_factor_type": "float_scale",
    "act_quant_percentile": 99.999,
    "act_quant_type": "sym",
}
"""Ref: RESULTS_TORCHVISION_BEST_CONFIGS.csv of Brevitas' example, ResNet-18 with scales per channel."""

EQUALIZE = 20
"""Iterations of graph equalization, as there."""

# -- the float network in torch ----------------------------------------------------------------------


def torch_model(graph: Graph) -> nn.Module:
    """The imported graph as torch modules, channels first. Raises SystemExit for what it does not know."""
    from torch import nn

    def module(node: Node) -> nn.Module | None:
        match node:
            case Conv() if graph.shapes[node.input][:2] == (1, 1) and node.groups == 1:
                linear = nn.Linear(node.weight.shape[3], len(node.weight))
                _fill(linear, node.weight[:, 0, 0, :], node.bias)
                return linear
            case Conv(channels=None):
                o, kh, kw, per_group = node.weight.shape
                top, left, bottom, right = node.pads
                even = (top, left) == (bottom, right)
                conv = nn.Conv2d(
                    per_group * node.groups, o, (kh, kw), node.stride, (top, left) if even else 0, node.dilation,
                    node.groups,
                )  # fmt: skip
                _fill(conv, node.weight.transpose(0, 3, 1, 2), node.bias)
                return conv if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv)
            case Activation(function="clip", low=0.0, high=np.inf):
                return nn.ReLU()
            case Pool(kind="average", pads=(0, 0, 0, 0), dilation=(1, 1)):
                return nn.AvgPool2d(node.kernel, node.stride)
            case Pool(kind="max", pads=(0, 0, 0, 0), dilation=(1, 1)):
                return nn.MaxPool2d(node.kernel, node.stride)
            case Add():
                return None
        raise SystemExit(
            f"{node.name}: this benchmark cannot give a {type(node).__name__} of this kind to torch"
        )

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for i, node in enumerate(graph.nodes):
                made = module(node)
                if made is not None:
                    setattr(self, f"n{i}", made)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values = {graph.inputs[0].name: x}
            for i, node in enumerate(graph.nodes):
                inputs = [values[t] for t in node.inputs]
                if isinstance(node, Add):
                    values[node.output] = inputs[0] + inputs[1]
                    continue
                made = getattr(self, f"n{i}")
                value = inputs[0].flatten(1) if isinstance(made, nn.Linear) else inputs[0]
                values[node.output] = made(value)
            return values[graph.outputs[0].tensor]

    return Network().eval()


def _fill(layer: Any, weight: np.ndarray, bias: np.ndarray) -> None:
    import torch

    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        layer.bias.copy_(torch.from_numpy(np.asarray(bias, np.float64)))


# -- Brevitas ------------------------------------------------------------------------------------------


def brevitas_network(model: nn.Module, samples: torch.Tensor, fmt: str, changes: dict[str, Any]) -> nn.Module:
    """The network as Brevitas quantizes it, every weight and tensor in the format, the image in uint8."""
    import torch
    from brevitas.graph.quantize import preprocess_for_quantize
    from brevitas_examples.imagenet_classification.ptq import ptq_common

    torch.manual_seed(0)
    _repair_additions()
    loader = [(x, None) for x in samples.split(BATCH)]
    options = COMMON | changes
    solver = options.pop("solver", "gptq")
    model = preprocess_for_quantize(model, equalize_iters=EQUALIZE, equalize_merge_bias=True)
    quantized = ptq_common.quantize_model(model, **options, **_bits(fmt))
    _image_of_8_bits(quantized, options["backend"])
    with torch.no_grad():
        quantized(loader[0][0])
    ptq_common.calibrate(loader, quantized)
    if solver == "qronos":
        ptq_common.apply_qronos(quantized, loader, act_order=True)
    else:
        inputs = {"create_weight_orig": True, "use_quant_activations": solver == "gptq_quantized"}
        ptq_common.apply_gptq(loader, quantized, act_order=True, **inputs)
    ptq_common.apply_bias_correction(loader, quantized)
    return quantized.eval()


def _repair_additions() -> None:
    """Gives minifloats the attribute that Brevitas compares when it aligns the operands of an addition.

    Two operands are aligned when it is the same object. With integers that is a constant of the format; what
    minifloats have in its place is made anew for each quantizer, and Brevitas would align them for ever. The scale,
    the other thing that it compares and shares, is enough.
    """
    from brevitas.core.quant.float import FloatQuant

    if not hasattr(FloatQuant, "int_scaling_impl"):
        FloatQuant.int_scaling_impl = property(lambda quantizer: quantizer.scaling_impl)


def _bits(name: str) -> dict[str, Any]:
    fmt = parse_format(name)
    found: dict[str, Any] = {"weight_bit_width": fmt.bits, "act_bit_width": fmt.bits}
    found["layerwise_first_last_bit_width"] = fmt.bits
    if fmt.uniform:
        return found | {"quant_format": "int", "bias_bit_width": 32}
    assert isinstance(fmt, Minifloat)
    for place in ("weight_", "act_", "layerwise_first_last_"):
        found[f"{place}exponent_bit_width"] = fmt.exponent_bits
        found[f"{place}mantissa_bit_width"] = fmt.mantissa_bits
    return found | {"quant_format": "float", "bias_bit_width": None}


def _image_of_8_bits(quantized: Any, backend: str) -> None:
    """In place: the quantizer that the image meets first becomes uint8."""
    import brevitas.nn as qnn
    from brevitas.quant import Uint8ActPerTensorFloat

    port = next(n for n in quantized.graph.nodes if n.op == "placeholder")
    for user in port.users:
        module = quantized.get_submodule(user.target)
        if isinstance(module, qnn.QuantIdentity):
            fresh = qnn.QuantIdentity(act_quant=Uint8ActPerTensorFloat, return_quant_tensor=True)
            owner, _, name = user.target.rpartition(".")
            setattr(quantized.get_submodule(owner), name, fresh.eval())
        elif backend == "layerwise":
            module.input_quant = qnn.QuantIdentity(act_quant=Uint8ActPerTensorFloat).eval().act_quant
        else:
            raise SystemExit(f"Brevitas: '{user.target}' reads the image, and is no quantizer")


def brevitas_logits(network: nn.Module, images: torch.Tensor) -> np.ndarray:
    import torch

    with torch.no_grad():
        found = [network(x) for x in images.split(BATCH)]
    return torch.cat([getattr(y, "value", y) for y in found]).flatten(1).numpy()


def compiled_logits(network: nn.Module, images: torch.Tensor) -> np.ndarray:
    """The same network by way of QONNX, as bit-exact integers. Raises SateenError if that is impossible."""
    from brevitas.export import export_qonnx

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        export_qonnx(network, args=images[:1], export_path=str(path), dynamo=False)
        exact = sateen.load(path).quantize()
    return next(iter(exact.run({exact.graph.inputs[0].name: images.numpy()}).values()))


def versions() -> dict[str, str]:
    """Ends the program with a clear message where Brevitas or torch is missing."""
    import importlib.metadata

    try:
        return {name: importlib.metadata.version(name) for name in ("brevitas", "torch")}
    except importlib.metadata.PackageNotFoundError as e:
        raise SystemExit(
            f"{e.name} is not installed; this benchmark alone needs it: pip install brevitas=={VERSION} "
            "torch==2.13.0 tqdm onnxoptimizer"
        ) from None
