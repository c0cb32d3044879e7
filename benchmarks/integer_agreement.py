"""Files of integer networks beside ONNX Runtime: output codes, every layer's codes, and why some differ.

python benchmarks/integer_agreement.py FILE... [--inputs X.npz] [--samples 64] [--rtl] [--preset mac256]

Every layer is computed alone, from the codes that ONNX Runtime's layers before it gave, and so is the file in float64
with one rounding. Of the codes that are not ONNX Runtime's, `ties` lie between two codes to 1e-6 of a step, as averages
often do; elsewhere it is `float32` where float64 gives ours, and `constants`, multipliers of 16 bits and biases in
whole steps, where it gives theirs. Inputs are random where none are given.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import sateen
from sateen.compiler.float_executor import run_node
from sateen.compiler.importer import load_model, read_model
from sateen.compiler.importer.integer import in_floating_point
from sateen.compiler.importer.loading import complete
from sateen.compiler.pipeline import quantize_graph
from sateen.ir.graph import Graph
from sateen.ir.quantized import Linear, QuantizedGraph, Tensor
from sateen.machine.presets import preset
from sateen.sim import reference

Codes = dict[str, np.ndarray]
"""By IR tensor, (N, H, W, C)."""


@dataclass(slots=True)
class Layers:
    """Codes of all layers alone, and how many are not ONNX Runtime's."""

    codes: int = 0
    differ: int = 0
    steps: int = 0
    ties: int = 0
    float32: int = 0
    constants: int = 0


def random_inputs(graph: Graph, n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """All codes evenly, or normal numbers."""
    rng = np.random.default_rng(seed)
    found = {}
    for port in graph.inputs:
        shape = (n, *port.shape)
        if port.codes is None:
            found[port.name] = rng.normal(0, 1, shape).astype(np.float32)
        else:
            low, high = port.codes.format.min_fixed, port.codes.format.max_fixed
            found[port.name] = rng.integers(low, high + 1, shape).astype(port.kind)
    return found


def run_file(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], extra: dict[str, int], level: Any
) -> dict[str, np.ndarray]:
    """Outputs and the tensors `extra` (name: type) in ONNX Runtime, sample by sample."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    shown = {o.name for o in model.graph.output}
    for name, kind in extra.items():
        if name not in shown:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    n = len(next(iter(feeds.values())))
    found = [session.run(names, {k: v[i : i + 1] for k, v in feeds.items()}) for i in range(n)]
    return {name: np.concatenate(parts) for name, *parts in zip(names, *found, strict=True)}


def written_codes(model: onnx.ModelProto, tensors: set[str]) -> dict[str, tuple[str, int]]:
    """The file's tensor of codes, and its type, of every IR tensor that has one."""
    graph = in_floating_point(complete(model)).light.model.graph
    kinds = {t.name: t.data_type for t in graph.initializer}
    own = {i for n in model.graph.node for i in n.output}
    return {
        n.input[0]: (n.output[0], kinds[n.input[2]])
        for n in graph.node
        if n.op_type == "QuantizeLinear" and n.input[0] in tensors and n.output[0] in own
    }


def alone(qgraph: QuantizedGraph, known: Codes) -> Codes:
    """What each layer makes of the known codes before it."""
    found, tensors = {}, dict(known)
    for op in qgraph.ops:
        if isinstance(op, Linear) and op.raw:
            continue
        y = reference._prepare(qgraph, op)(tensors)
        if op.output in known:
            found[op.output] = y
        else:
            tensors[op.output] = y
    return found


def in_float64(graph: Graph, qgraph: QuantizedGraph, known: Codes) -> tuple[Codes, Codes]:
    """What the file says of each layer, from the known codes before it: real numbers, rounded once; and which of them,
    or of those within the layer, lie between two codes."""
    found, ties = {}, {}
    real = {t: qgraph.tensors[t].quant.dequantize(c) for t, c in known.items() if t in qgraph.tensors}
    tensors = dict(real)
    for node in graph.nodes:
        y = run_node(node, [tensors[i] for i in node.inputs])
        ties[node.output] = np.zeros(y.shape, bool)
        for i in node.inputs:
            if i in ties and i not in real and ties[i].shape == y.shape:
                ties[node.output] |= ties[i]
        if node.output in graph.quantizers:
            step = graph.quantizers[node.output].quant.scale
            ties[node.output] |= np.abs(np.abs(y / step) % 1 - 0.5) < 1e-6
        y = graph.rounded(node.output, y)
        if node.output in real:
            found[node.output] = qgraph.tensors[node.output].quant.quantize(y)
        tensors[node.output] = real.get(node.output, y)
    return found, ties


def measure(path: Path, args: argparse.Namespace) -> str:
    """A row of the table."""
    model = load_model(path)
    graph, _ = read_model(path)
    if graph is None:
        return f"| {path.stem} | not supported: see `sateen check` |"
    feeds = dict(np.load(args.inputs)) if args.inputs else random_inputs(graph, args.samples)
    quantized = quantize_graph(
        graph, str(path), config=preset(args.preset), calibration=feeds, fixed_formats=(False, False)
    )
    qgraph = quantized.graph
    written = written_codes(model, set(qgraph.tensors))
    none, all_ = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    theirs = run_file(model, feeds, dict(written.values()), none)
    fused = run_file(model, feeds, {}, all_)
    ours = reference.run_reference(qgraph, feeds)
    outputs = []
    for name, y in ours.items():
        want, other = theirs[name].reshape(y.shape), fused[name].reshape(y.shape)
        outputs.append(f"{_apart(y, want)}; with itself {_apart(other, want)}")
    layers = compare(graph, qgraph, feeds, {t: theirs[name] for t, (name, _) in written.items()})
    share = 100 * layers.differ / max(layers.codes, 1)
    row = [path.stem, ", ".join(outputs), f"{layers.codes:,}", f"{share:.3f} %, {layers.steps} steps"]
    row += [f"{layers.ties}", f"{layers.float32}", f"{layers.constants}", *_machine(path, feeds, args)]
    return f"| {' | '.join(row)} |"


def _apart(a: np.ndarray, b: np.ndarray) -> str:
    if a.dtype.kind == "f":
        return f"cosine {float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)):.6f}"
    steps = np.abs(a.astype(int) - b)
    return f"{np.count_nonzero(steps)} of {steps.size}, {steps.max()} steps"


def compare(
    graph: Graph, qgraph: QuantizedGraph, feeds: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> Layers:
    known, ours = reference.quantize_inputs(qgraph, feeds), reference.reference_codes(qgraph, feeds)
    for tensor, codes in theirs.items():
        quant = graph.quantizers[tensor].quant
        real = quant.scale * (codes.astype(np.float64) - _zero(codes, quant))
        known[tensor] = _as_ours(qgraph.tensors[tensor], real, ours[tensor])
    return _counted(qgraph, known, alone(qgraph, known), *in_float64(graph, qgraph, known))


def _as_ours(tensor: Tensor, real: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Codes (N, H, W, C) of real numbers with channels first or last: where both fit, as they are most like ours."""
    n, shape = len(real), tensor.shape
    orders = [real] + ([real.transpose(0, 2, 3, 1)] if real.ndim == 4 else [])
    fitting = [r for r in orders if r.ndim < 4 or r.shape[1:] == shape] or [real]
    found = [tensor.quant.quantize(r.reshape(n, *shape)) for r in fitting]
    return max(found, key=lambda codes: np.count_nonzero(codes == ours))


def _zero(codes: np.ndarray, quant: Any) -> int:
    """In the file's own type: the same format may have been moved to another here."""
    return int(quant.zero_point) + int(np.iinfo(codes.dtype).min) - int(quant.format.min_fixed)


def _counted(qgraph: QuantizedGraph, known: Codes, ours: Codes, exact: Codes, ties: Codes) -> Layers:
    result = Layers()
    for tensor, y in ours.items():
        fixed = qgraph.tensors[tensor].quant.format.fixed
        a, b, c = fixed(y), fixed(known[tensor]), fixed(exact[tensor])
        result.codes += a.size
        result.differ += int(np.count_nonzero(a != b))
        result.steps = max(result.steps, int(np.abs(a - b).max()))
        clear = (a != b) & ~ties[tensor]
        result.ties += int(np.count_nonzero((a != b) & ties[tensor]))
        result.float32 += int(np.count_nonzero(clear & (a == c)))
        result.constants += int(np.count_nonzero(clear & (b == c)))
    return result


def _machine(path: Path, feeds: dict[str, np.ndarray], args: argparse.Namespace) -> list[str]:
    """Cycles, utilisation, and whether the RTL gives the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = sateen.compile(path, folder, preset=args.preset, calibration=feeds)
        some = {k: v[:1] for k, v in feeds.items()}
        found = sateen.run(folder, some, "rtl" if args.rtl else "model")
        equal = "not run"
        if args.rtl:
            want = sateen.run(folder, some, "reference").outputs or {}
            same = all((v == (found.outputs or {})[k]).all() for k, v in want.items())
            equal = "equal" if same and found.cycles == manifest["cycles"] else "DIFFERENT"
        return [f"{manifest['cycles']:,}", f"{100 * (found.utilization or 0):.1f} %", equal]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--inputs", type=Path, help="one array per input; default: random")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--preset", default="mac256")
    parser.add_argument("--rtl", action="store_true")
    args = parser.parse_args()
    print(
        "| file | outputs that differ | codes of layers | of those differ | ties | float32 | constants | cycles | "
        "utilisation | RTL |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path in args.files:
        print(measure(path, args), flush=True)


if __name__ == "__main__":
    main()
