"""The exported model in ONNX Runtime against the reference engine, code by code."""

from __future__ import annotations

from typing import Any

import numpy as np

from sateen.compiler.export.model import Exporter
from sateen.compiler.export.network_writer import uses_standard_types
from sateen.ir.quantized import QuantizedGraph
from sateen.sim.reference import reference_codes, value_order


class _Unavailable(Exception):
    """Why there is nothing to compare with."""


def compare_with_onnxruntime(
    qgraph: QuantizedGraph, inputs: dict[str, np.ndarray], batch: int = 8
) -> dict[str, int | str]:
    """Run the exported model in ONNX Runtime and compare the codes of every tensor with the reference.

    Returns
    -------
    codes : how many were compared
    differing, max_steps : how many differ, and by how many codes in order of value at most, when every
        operator gets the reference's operands. What differs is float32 rounding next to a tie.
    end_to_end_differing, end_to_end_max_steps : the same when the model runs as a whole, so that one
        difference causes others.
    skipped : why nothing was compared, "" if it was; ONNX Runtime has not all formats.
    """
    keys = ("codes", "differing", "max_steps", "end_to_end_differing", "end_to_end_max_steps")
    result: dict[str, int | str] = dict.fromkeys(keys, 0) | {"skipped": ""}
    try:
        apart, whole = (_Session(qgraph, apart=a) for a in (True, False))
    except _Unavailable as e:
        return result | {"skipped": str(e)}
    counts = np.zeros(5, np.int64)
    kinds = {p.source: p.kind for p in qgraph.inputs}
    for start in range(0, len(next(iter(inputs.values()))), batch):
        part = {k: np.asarray(v[start : start + batch], kinds[k]) for k, v in inputs.items()}
        ours = reference_codes(qgraph, part)
        for at, session in ((1, apart), (3, whole)):
            for steps in session.steps(part, ours):
                counts[0] += steps.size if session is whole else 0
                counts[at] += np.count_nonzero(steps)
                counts[at + 1] = max(counts[at + 1], steps.max(initial=0))
    return result | dict(zip(keys, counts.tolist(), strict=True))


class _Session:
    """ONNX Runtime with the value of every tensor that has codes as an output."""

    def __init__(self, qgraph: QuantizedGraph, *, apart: bool) -> None:
        self.qgraph = qgraph
        if not uses_standard_types(qgraph):
            raise _Unavailable("the model is QONNX, which ONNX Runtime does not run")
        try:
            import onnxruntime as ort
        except ImportError:
            raise _Unavailable("onnxruntime is not installed") from None
        self.exporter = Exporter(qgraph, None, apart=apart)
        model = self.exporter.model()
        raw = {op.output for op in qgraph.ops if op.raw}
        self.names = {t: v for t, v in self.exporter.value.items() if t not in raw}
        shown = {o.name for o in model.graph.output}
        values = self.exporter.writer.values
        model.graph.output.extend(values[v] for v in self.names.values() if v not in shown)
        options = ort.SessionOptions()
        # In float32, operator by operator: fused integer kernels saturate sums on some processors.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            self.session: Any = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # onnxruntime's exceptions have no common base
            raise _Unavailable(f"ONNX Runtime cannot run it: {str(e).splitlines()[0]}") from None

    def steps(self, inputs: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> list[np.ndarray]:
        """For each tensor how many codes apart the two are, (N, H, W, C)."""
        feeds = dict(inputs)
        for tensor, name in self.exporter.given.items():
            if tensor in self.names:
                real = self.qgraph.tensors[tensor].quant.dequantize(ours[tensor])
            else:
                real = np.zeros(ours[tensor].shape)  # a raw output, which nothing reads
            feeds[name] = np.ascontiguousarray(real.transpose(0, 3, 1, 2), np.float32)
        theirs = self.session.run(list(self.names.values()), feeds)
        found = []
        for tensor, value in zip(self.names, theirs, strict=True):
            quant = self.qgraph.tensors[tensor].quant
            rank = value_order(quant.format)[0].astype(np.int64)
            found.append(np.abs(rank[quant.quantize(value.transpose(0, 2, 3, 1))] - rank[ours[tensor]]))
        return found
