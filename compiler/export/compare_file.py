"""A file of integers in ONNX Runtime against what it became here, layer by layer, and why codes differ."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import onnx

from sateen.compiler.float_executor import run_node
from sateen.compiler.importer.integer import in_floating_point
from sateen.compiler.importer.loading import complete
from sateen.errors import ModelError
from sateen.ir.graph import Graph
from sateen.ir.quant import Quant
from sateen.ir.quantized import Linear, QuantizedGraph, Tensor
from sateen.sim.reference import REFERENCE, quantize_inputs, reference_codes

Codes = dict[str, np.ndarray]
"""By tensor, (N, H, W, C)."""

TIE = 1e-6
"""Of a step: what is as near to the middle of two codes rounds either way in float32."""


@dataclass(slots=True)
class Differences:
    """Codes of all layers, each computed from the codes that ONNX Runtime's layers before it gave.

    Attributes
    ----------
    codes : how many
    differ, steps : how many are not ONNX Runtime's, and by how many codes at most
    ties : of those that differ, how many lie between two codes, as averages often do
    float32 : of the others, how many are those of float64: ONNX Runtime's float32 rounded otherwise
    constants : how many are not: multipliers of 16 bits, biases in whole steps
    """

    codes: int = 0
    differ: int = 0
    steps: int = 0
    ties: int = 0
    float32: int = 0
    constants: int = 0


def compare_with_file(
    model: onnx.ModelProto, graph: Graph, qgraph: QuantizedGraph, inputs: dict[str, np.ndarray]
) -> Differences:
    """`graph` and `qgraph` are what the model was imported as and quantized to, `inputs` (N, *shape) by name.

    Raises ModelError where ONNX Runtime is not installed or does not run the file.
    """
    written = _written(model, graph, qgraph)
    theirs = run_file(model, inputs, dict(written.values()))
    known, ours = quantize_inputs(qgraph, inputs), reference_codes(qgraph, inputs)
    for tensor, (name, _) in written.items():
        quant = graph.quantizers[tensor].quant
        codes = theirs[name]
        real = quant.scale * (codes.astype(np.float64) - _zero(codes, quant))
        known[tensor] = _as_ours(qgraph.tensors[tensor], real, ours[tensor])
    exact, ties = _in_float64(graph, qgraph, known)
    result = Differences()
    for tensor, y in _alone(qgraph, known).items():
        fixed = qgraph.tensors[tensor].quant.format.fixed
        a, b, c = fixed(y), fixed(known[tensor]), fixed(exact[tensor])
        clear = (a != b) & ~ties[tensor]
        found = Differences(
            a.size,
            int(np.count_nonzero(a != b)),
            0,
            int(np.count_nonzero((a != b) & ties[tensor])),
            int(np.count_nonzero(clear & (a == c))),
            int(np.count_nonzero(clear & (a != c))),
        )
        steps = max(result.steps, int(np.abs(a - b).max()))
        result = Differences(*(getattr(result, f.name) + getattr(found, f.name) for f in fields(found)))
        result.steps = steps
    return result


def run_file(
    model: onnx.ModelProto,
    inputs: dict[str, np.ndarray],
    extra: dict[str, int] | None = None,
    *,
    fused: bool = False,
) -> dict[str, np.ndarray]:
    """Outputs, and the tensors `extra` (name: ONNX type), in ONNX Runtime, sample by sample.

    `fused`: with its optimizations, without which it computes operator by operator. Raises ModelError where it is not
    installed or does not run the file.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise ModelError("onnxruntime is not installed; install sateen[test]") from None
    shown = {o.name for o in model.graph.output}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, kind, None)
        for name, kind in (extra or {}).items()
        if name not in shown
    )
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session: Any = ort.InferenceSession(
            changed.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [o.name for o in session.get_outputs()]
        n = len(next(iter(inputs.values())))
        found = [session.run(names, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(n)]
    except Exception as e:  # onnxruntime's exceptions have no common base
        raise ModelError(
            f"ONNX Runtime cannot run the file: {str(e).splitlines()[0]}; export it again"
        ) from None
    return {name: np.concatenate(parts) for name, *parts in zip(names, *found, strict=True)}


def _written(model: onnx.ModelProto, graph: Graph, qgraph: QuantizedGraph) -> dict[str, tuple[str, int]]:
    """The file's tensor of codes, and its type, of every tensor that has one."""
    found = in_floating_point(complete(model)).light.model.graph
    kinds = {t.name: t.data_type for t in found.initializer}
    own = {o for n in model.graph.node for o in n.output}
    return {
        n.input[0]: (n.output[0], kinds[n.input[2]])
        for n in found.node
        if n.op_type == "QuantizeLinear" and len(n.input) > 2 and n.input[2] in kinds and n.output[0] in own
        if n.input[0] in qgraph.tensors and n.input[0] in graph.quantizers
    }


def _zero(codes: np.ndarray, quant: Quant) -> int:
    """In the file's own type: the same numbers may have been moved to another here."""
    return quant.zero_point + int(np.iinfo(codes.dtype).min) - quant.format.min_fixed


def _as_ours(tensor: Tensor, real: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Codes (N, H, W, C) of real numbers with channels first or last: where both fit, as they are most like ours."""
    n, shape = len(real), tensor.shape
    orders = [real] + ([real.transpose(0, 2, 3, 1)] if real.ndim == 4 else [])
    fitting = [r for r in orders if r.ndim < 4 or r.shape[1:] == shape] or [real]
    found = [tensor.quant.quantize(r.reshape(n, *shape)) for r in fitting]
    return max(found, key=lambda codes: np.count_nonzero(codes == ours))


def _alone(qgraph: QuantizedGraph, known: Codes) -> Codes:
    """What each layer makes of the known codes before it."""
    found, tensors = {}, dict(known)
    for op in qgraph.ops:
        if isinstance(op, Linear) and op.raw:
            continue
        y = REFERENCE[type(op)](qgraph, op)(tensors)
        if op.output in known:
            found[op.output] = y
        else:
            tensors[op.output] = y
    return found


def _in_float64(graph: Graph, qgraph: QuantizedGraph, known: Codes) -> tuple[Codes, Codes]:
    """What the file says of each layer, from the known codes before it: real numbers, rounded once; and which of them,
    or of those within the layer, lie between two codes."""
    found: Codes = {}
    ties: Codes = {}
    real = {t: qgraph.tensors[t].quant.dequantize(c) for t, c in known.items()}
    tensors = dict(real)
    for node in graph.nodes:
        y = run_node(node, [tensors[i] for i in node.inputs])
        tie = np.zeros(y.shape, bool)
        for i in node.inputs:
            if i in ties and i not in real and ties[i].shape == y.shape:
                tie |= ties[i]
        if node.output in graph.quantizers:
            quant = graph.quantizers[node.output].quant
            step = quant.scale * 2.0**quant.format.lsb_exponent
            tie |= np.abs(np.abs(y / step) % 1 - 0.5) < TIE
        ties[node.output], y = tie, graph.rounded(node.output, y)
        if node.output in real:
            found[node.output] = qgraph.tensors[node.output].quant.quantize(y)
        tensors[node.output] = real.get(node.output, y)
    return found, ties
