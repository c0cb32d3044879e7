"""Post-training quantization by Sateen and by Brevitas: one float model, the same images, formats and measure.

pip install brevitas==0.13.4 torch==2.13.0 tqdm onnxoptimizer
python benchmarks/against_brevitas.py --model resnet8.onnx --data FOLDER [--output docs/results/brevitas.json]
                                      [--formats F ...] [--recipes R ...] [--flows F ...] [--rounds 3]

With --rounds what is chosen is quantized so many times, all of a format in turn, for its seconds. FOLDER has
cifar10_train.zip and cifar10_test.zip. With --output the rows that are there already are kept, so that an interrupted
run goes on where it was, and the tables are written beside it.
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
from threadpoolctl import threadpool_limits

from sateen.compiler.importer import import_model
from sateen.compiler.ptq.recipe import LEAST_SAMPLES, RECIPES, run_recipe
from sateen.compiler.quantize.given import activation_format, conform, weight_format
from sateen.compiler.quantize.network import quantize
from sateen.errors import SateenError
from sateen.formats import Integer, Minifloat, parse_format
from sateen.ir.graph import Activation, Add, Conv, Graph, Node, Pool
from sateen.ir.quantized import QuantizedGraph
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

ABOUT = """Accuracy in percent on the same {images} test images, {samples} training images for calibration. The
standard error of a figure is {error:.1f} points. Sateen's is that of the bit-exact integer network, Brevitas' that
of its own simulation in float32. Empty: not measured.

Brevitas {version} runs as its example for vision does (`brevitas_examples.imagenet_classification.ptq`): graph
equalization ({equalize} iterations, biases merged), a scale for each output channel of weights and each tensor, the
latter at the {percentile} percentile (rows "MSE": both by MSE), GPTQ with activation order (rows "quantized inputs":
on them; rows "Qronos": that instead), bias correction; biases of 32 bits with integers, float with minifloats. "fx"
quantizes every tensor, also before additions and after pooling, as the machine does. "layerwise" quantizes only what
convolutions read; additions and pooling stay in float32, which no machine here can do. Asymmetric activations are for
integers only. With minifloats "fx" of Brevitas fails at residual additions, for want of an attribute
(https://github.com/Xilinx/brevitas/issues/897); the benchmark adds it, so that minifloats are aligned as integers are.

The image: Brevitas' input quantizer is uint8 in every row, which loses nothing. Sateen's recipes `balanced` and `best`
give the image as at most four codes of the row's format (docs/adr/0020-input-terms.md), `fast` as one. "Pools apart":
the average pool's output is codes (docs/adr/0024-merged-pools.md).
"""


SECONDS = """Processor time of all threads, calibration included, import and evaluation not. Torch and BLAS have one
thread, and both programs have quantized once before. The cells of a format ran one after another in one process, once
each (`--rounds`: the shortest of several turns); the machine was shared, and a cell's processor time varies by a tenth.
Empty: not timed in that way.
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


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its seconds of processor time."""
    began = time.process_time()
    found = run()
    return found, round(time.process_time() - began, 2)


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
    parser.add_argument(
        "--rounds", type=int, default=1, help="quantize each so many times, in turn, for seconds"
    )
    parser.add_argument("--output", type=Path, help="JSON, and Markdown tables beside it")
    args = parser.parse_args()
    version = _versions()
    if args.flows and version["brevitas"] != VERSION:
        print(f"Brevitas {version['brevitas']}; the results in docs/ are those of {VERSION}", file=sys.stderr)

    import torch

    torch.set_num_threads(1)
    threadpool_limits(1, "blas")
    calibration, images, labels = cifar10(args.data, args.calibration, args.images)
    graph = import_model(args.model)
    port = graph.inputs[0]
    first = [torch.from_numpy(port.to_hwc(x).transpose(0, 3, 1, 2).copy()) for x in (calibration, images)]
    settings = {"images": len(images), "samples": len(calibration)}
    rows: list[dict[str, Any]] = []
    if args.output and args.output.exists():
        rows = json.loads(args.output.read_text())

    def save() -> None:
        if args.output:
            args.output.write_text("[\n" + ",\n".join(f" {json.dumps(r)}" for r in rows) + "\n]\n")

    def measured(key: dict[str, Any], run: Callable[[], dict[str, Any]]) -> None:
        key = key | settings
        if any(key.items() <= r.items() for r in rows):
            return
        rows.append(key | run())
        print(json.dumps(rows[-1]), flush=True)
        save()

    def accuracy(logits: np.ndarray) -> float:
        return percent(logits, labels)

    def float_rows() -> dict[str, Any]:
        session = onnxruntime.InferenceSession(args.model)
        wanted = np.concatenate([session.run(None, {port.name: x[None]})[0] for x in images])
        given = brevitas_logits(torch_model(graph), first[1])
        return {"accuracy": accuracy(wanted), "in_torch": accuracy(given), **version}

    def by_us(fmt: str, recipe: str, samples: np.ndarray = calibration) -> QuantizedGraph:
        formats = {"weight_format": fmt, "activation_format": fmt}
        return run_recipe(graph, {port.name: samples}, OURS[recipe], **formats)[0]

    def by_them(fmt: str, flow: str, samples: torch.Tensor = first[0]) -> nn.Module:
        return brevitas_network(torch_model(graph), samples, fmt, THEIRS[flow])

    def ours(fmt: str, recipe: str) -> dict[str, Any]:
        quantized, seconds = timed(lambda: by_us(fmt, recipe))
        found = run_reference(quantized, {port.name: images})[graph.outputs[0].port.name]
        return {"accuracy": accuracy(found), "seconds": [seconds]}

    def theirs(fmt: str, flow: str) -> dict[str, Any]:
        network, seconds = timed(lambda: by_them(fmt, flow))
        row: dict[str, Any] = {"accuracy": accuracy(brevitas_logits(network, first[1])), "seconds": [seconds]}
        if not isinstance(parse_format(fmt), Integer):
            return row  # Brevitas cannot export minifloats that are not OCP's
        try:
            row["compiled"] = accuracy(compiled_logits(network, first[1]))
        except SateenError as e:
            row["refused"] = str(e)
        return row

    def in_turn(fmt: str) -> None:
        chosen = [
            r
            for r in rows
            if (settings | {"format": fmt}).items() <= r.items()
            and r["how"] in (args.recipes if r["who"] == "Sateen" else args.flows)
        ]
        for done in range(args.rounds):
            for row in chosen:
                seconds = row.setdefault("seconds", [])
                if len(seconds) <= done:
                    run = by_us if row["who"] == "Sateen" else by_them
                    seconds.append(timed(lambda run=run, how=row["how"]: run(fmt, how))[1])
                    print(fmt, row["who"], row["how"], seconds, flush=True)
                    save()

    by_us("int8", "fast", calibration[:LEAST_SAMPLES])  # imports and caches, which are not to be timed
    if args.flows:
        by_them("int8", "fx", first[0][:LEAST_SAMPLES])
    measured({"who": "float"}, float_rows)
    for fmt in args.formats:
        for recipe in args.recipes:
            measured({"who": "Sateen", "how": recipe, "format": fmt}, lambda f=fmt, r=recipe: ours(f, r))
        for flow in args.flows:
            if "asymmetric" not in flow or isinstance(parse_format(fmt), Integer):
                measured({"who": "Brevitas", "how": flow, "format": fmt}, lambda f=fmt, r=flow: theirs(f, r))
        in_turn(fmt)
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

    def best(fmt: str, kind: str) -> dict[str, Any] | None:
        given = [
            r for (who, how, f), r in found.items() if (who, f) == ("Brevitas", fmt) and how.startswith(kind)
        ]
        return max(given, key=lambda r: r["accuracy"], default=None)

    error = (base["accuracy"] * (100 - base["accuracy"]) / base["images"]) ** 0.5
    about = ABOUT.format(
        **{k: base[k] for k in ("images", "samples")}, version=base["brevitas"], error=error, equalize=EQUALIZE,
        percentile=COMMON["act_quant_percentile"],
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
        SECONDS,
        *table(lambda r: f"{shortest(r):.1f}" if "seconds" in r else ""),
        "\n## Against the most accurate flow of Brevitas\n",
        "Of those that were measured. Difference: Sateen's accuracy less Brevitas', in points. Time: Brevitas' seconds",
        "over Sateen's, so that above 1 Sateen is faster; empty where one of the two was not timed.\n",
        "| | Sateen | | Brevitas, all tensors | difference | time | Brevitas, layerwise | difference | time |",
        "|---|---|--:|---|--:|--:|---|--:|--:|",
    ]
    for fmt in formats:
        for how in RECIPES:
            if ("Sateen", how, fmt) in found:
                mine = found["Sateen", how, fmt]
                cells = [fmt, how, f"{mine['accuracy']:.2f}"]
                for kind in ("fx", "layerwise"):
                    cells += against(mine, best(fmt, kind))
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def against(mine: dict[str, Any], other: dict[str, Any] | None) -> list[str]:
    """Cells: what it is, the difference in accuracy, how many times as long it takes."""
    if other is None:
        return ["", "", ""]
    timed = "seconds" in mine and "seconds" in other
    return [
        f"{other['accuracy']:.2f} ({other['how']})",
        f"{mine['accuracy'] - other['accuracy']:+.2f}",
        f"{shortest(other) / shortest(mine):.1f}" if timed else "",
    ]


def shortest(row: dict[str, Any]) -> float:
    return min(row["seconds"])


if __name__ == "__main__":
    main()
