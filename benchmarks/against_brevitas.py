"""Post-training quantization by Sateen and by Brevitas: one float model, the same images, formats and measure.

pip install brevitas==0.13.4 torch==2.13.0 tqdm onnxoptimizer
python benchmarks/against_brevitas.py --model resnet8.onnx --data FOLDER [--output docs/results/brevitas.json]

FOLDER has cifar10_train.zip and cifar10_test.zip. With --output the rows that are there already are kept, so that an
interrupted run goes on where it was, and the tables are written beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from cifar10 import accuracy as percent
from cifar10 import cifar10
from ptq import apart

from sateen.compiler.given import activation_format, conform, weight_format
from sateen.compiler.importer import import_model
from sateen.compiler.ptq.recipe import RECIPES, run_recipe
from sateen.compiler.quantize import quantize
from sateen.errors import SateenError
from sateen.formats import Integer, Minifloat, parse_format
from sateen.ir.graph import Activation, Add, Conv, Graph, Node, Pool
from sateen.sim.reference import run_reference

if TYPE_CHECKING:
    import torch
    from torch import nn

VERSION = "0.13.4"
FORMATS = ("int8", "e4m3", "int6", "e3m2", "int4", "e2m1")
BATCH = 64

OURS = RECIPES | {r.name: r for r in map(apart, ("balanced", "best"))}

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

ABOUT = """Accuracy in percent on the same {images} test images, {samples} training images for calibration. The
standard error of a figure is {error:.1f} points. Sateen's is that of the bit-exact integer network, Brevitas' that
of its own simulation in float32. Seconds are processor time on one thread, calibration included, import and
evaluation not; on a busy machine it is up to twice as long, as when Brevitas' int8, int6 and all of its rows "Qronos"
and "quantized inputs" were measured, so the seconds compare roughly. Empty: not measured.

Brevitas {version} runs as its example for vision does (`brevitas_examples.imagenet_classification.ptq`): graph
equalization ({equalize} iterations, biases merged), a scale for each output channel of weights and each tensor, the
latter at the {percentile} percentile (rows "MSE": both by MSE), GPTQ with activation order (rows "quantized inputs":
on them; rows "Qronos": that instead), bias correction; biases of 32 bits with integers, float with minifloats. "fx"
quantizes every tensor, also before additions and after pooling, as the machine does. "layerwise" quantizes only what
convolutions read; additions and pooling stay in float32, which no machine here can do. Asymmetric activations are for
integers only. With minifloats "fx" fails at residual additions, for want of an attribute that the benchmark adds.

The image: Brevitas' input quantizer is uint8 in every row, which loses nothing. Sateen's recipes `balanced` and `best`
give the image as at most four codes of the row's format (docs/adr/0020-input-terms.md), `fast` as one. "Pools apart":
the average pool's output is codes (docs/adr/0024-merged-pools.md).
"""


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
            case Conv():
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
    """Aligning the operands of an addition, Brevitas reads an attribute that only quantizers of integers have."""
    from brevitas.core.quant.float import FloatQuant

    if not hasattr(FloatQuant, "int_scaling_impl"):
        FloatQuant.int_scaling_impl = property(lambda quantizer: quantizer.float_scaling_impl)


def _bits(name: str) -> dict[str, Any]:
    fmt = parse_format(name)
    found: dict[str, Any] = {"weight_bit_width": fmt.bits, "act_bit_width": fmt.bits}
    found["layerwise_first_last_bit_width"] = fmt.bits
    if isinstance(fmt, Integer):
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
        graph = import_model(path)
    weights, activations = weight_format(graph), activation_format(graph)
    assert weights is not None and activations is not None
    exact = quantize(conform(graph, activations), None, weight_format=weights, activation_format=activations)
    return next(iter(run_reference(exact, {graph.inputs[0].name: images.numpy()}).values()))


# -- the comparison --------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--calibration", type=int, default=256, help="training images")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), help="of weights and activations")
    parser.add_argument("--recipes", nargs="*", choices=OURS, default=list(RECIPES), help="Sateen's")
    parser.add_argument("--flows", nargs="*", choices=THEIRS, default=list(THEIRS), help="Brevitas'")
    parser.add_argument("--output", type=Path, help="JSON, and Markdown tables beside it")
    args = parser.parse_args()
    version = _versions()
    if args.flows and version["brevitas"] != VERSION:
        print(f"Brevitas {version['brevitas']}; the results in docs/ are those of {VERSION}", file=sys.stderr)

    import torch

    torch.set_num_threads(1)
    calibration, images, labels = cifar10(args.data, args.calibration, args.images)
    graph = import_model(args.model)
    port = graph.inputs[0]
    first = [torch.from_numpy(port.to_hwc(x).transpose(0, 3, 1, 2).copy()) for x in (calibration, images)]
    settings = {"images": len(images), "samples": len(calibration)}
    rows: list[dict[str, Any]] = []
    if args.output and args.output.exists():
        rows = json.loads(args.output.read_text())

    def measured(key: dict[str, Any], run: Callable[[], dict[str, Any]]) -> None:
        key = key | settings
        if any(key.items() <= r.items() for r in rows):
            return
        rows.append(key | run())
        print(json.dumps(rows[-1]), flush=True)
        if args.output:
            args.output.write_text(json.dumps(rows, indent=1) + "\n")

    def accuracy(logits: np.ndarray) -> float:
        return percent(logits, labels)

    def float_rows() -> dict[str, Any]:
        session = onnxruntime.InferenceSession(args.model)
        wanted = np.concatenate([session.run(None, {port.name: x[None]})[0] for x in images])
        given = brevitas_logits(torch_model(graph), first[1])
        return {"accuracy": accuracy(wanted), "in_torch": accuracy(given), **version}

    def ours(fmt: str, recipe: str) -> dict[str, Any]:
        began = time.process_time()
        quantized, _ = run_recipe(
            graph, {port.name: calibration}, OURS[recipe], weight_format=fmt, activation_format=fmt
        )
        seconds = time.process_time() - began
        found = run_reference(quantized, {port.name: images})[graph.outputs[0].port.name]
        return {"accuracy": accuracy(found), "seconds": round(seconds, 1)}

    def theirs(fmt: str, flow: str) -> dict[str, Any]:
        model = torch_model(graph)
        began = time.process_time()
        network = brevitas_network(model, first[0], fmt, THEIRS[flow])
        row: dict[str, Any] = {"seconds": round(time.process_time() - began, 1)}
        row["accuracy"] = accuracy(brevitas_logits(network, first[1]))
        try:
            row["compiled"] = accuracy(compiled_logits(network, first[1]))
        except SateenError as e:
            row["refused"] = str(e)
        return row

    measured({"who": "float"}, float_rows)
    for fmt in args.formats:
        for recipe in args.recipes:
            measured({"who": "Sateen", "how": recipe, "format": fmt}, lambda f=fmt, r=recipe: ours(f, r))
        for flow in args.flows:
            if "asymmetric" not in flow or isinstance(parse_format(fmt), Integer):
                measured({"who": "Brevitas", "how": flow, "format": fmt}, lambda f=fmt, r=flow: theirs(f, r))
    text = report([r for r in rows if settings.items() <= r.items()])
    print(text)
    if args.output:
        args.output.with_suffix(".md").write_text(text)


def _versions() -> dict[str, str]:
    """Ends the program with a clear message where Brevitas or torch is missing."""
    import importlib.metadata

    try:
        return {name: importlib.metadata.version(name) for name in ("brevitas", "torch")}
    except importlib.metadata.PackageNotFoundError as e:
        raise SystemExit(
            f"{e.name} is not installed; this benchmark alone needs it: pip install brevitas=={VERSION} "
            "torch==2.13.0 tqdm onnxoptimizer"
        ) from None


def report(rows: list[dict[str, Any]]) -> str:
    """Accuracies and seconds by format, and where Sateen loses."""
    base = next(r for r in rows if r["who"] == "float")
    formats = [f for f in FORMATS if any(r.get("format") == f for r in rows)]
    found = {(r["who"], r["how"], r["format"]): r for r in rows if r["who"] != "float"}
    methods = [("Sateen", n) for n in OURS] + [("Brevitas", n) for n in THEIRS]
    methods = [m for m in methods if any((*m, f) in found for f in formats)]

    def table(cell: Callable[[dict[str, Any]], str]) -> Iterable[str]:
        yield f"| | {' | '.join(formats)} |"
        yield f"|---{'|---' * len(formats)}|"
        for who, how in methods:
            cells = [cell(found[who, how, f]) if (who, how, f) in found else "" for f in formats]
            if any(cells):
                yield f"| {who}, {how} | {' | '.join(cells)} |"

    def best(who: str, fmt: str, hows: Iterable[str]) -> dict[str, Any] | None:
        given = [found[who, h, fmt] for h in hows if (who, h, fmt) in found]
        return max(given, key=lambda r: r["accuracy"], default=None)

    error = (base["accuracy"] * (100 - base["accuracy"]) / base["images"]) ** 0.5
    about = ABOUT.format(
        **{k: base[k] for k in ("images", "samples")}, version=base["brevitas"], error=error, equalize=EQUALIZE,
        percentile=COMMON["act_quant_percentile"], threads="torch and BLAS",
    )  # fmt: skip
    lines = [
        "# Side by side with Brevitas: ResNet8 on CIFAR-10\n",
        about,
        "    python benchmarks/against_brevitas.py --model resnet8.onnx --data FOLDER --output brevitas.json\n",
        f"Float: {base['accuracy']:.2f} % in ONNX Runtime, {base['in_torch']:.2f} % in torch.\n",
        "## Accuracy\n",
        *table(lambda r: f"{r['accuracy']:.2f}"),
        "\nBrevitas' networks, compiled by Sateen. Empty: not to be expressed as integers throughout.\n",
        *table(lambda r: f"{r['compiled']:.2f}" if "compiled" in r else ""),
        "\n## Seconds\n",
        *table(lambda r: f"{r['seconds']:.1f}"),
        "\n## The best of each\n",
        "| | Sateen | Brevitas, all tensors quantized | difference | Brevitas, layerwise | difference |",
        "|---|---|---|---|---|---|",
    ]
    for fmt in formats:
        mine = best("Sateen", fmt, OURS)
        whole, part = (
            best("Brevitas", fmt, [n for n in THEIRS if n.startswith(kind)]) for kind in ("fx", "layerwise")
        )
        cells = [fmt, _named(mine)]
        for other in (whole, part):
            gap = f"{mine['accuracy'] - other['accuracy']:+.2f}" if mine and other else ""
            cells += [_named(other), gap]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _named(row: dict[str, Any] | None) -> str:
    return f"{row['accuracy']:.2f} ({row['how']})" if row else ""


if __name__ == "__main__":
    main()
