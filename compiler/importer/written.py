"""Operators that are others one behind the other: norms, logarithms of sums, minima, means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from sateen.compiler.importer.nouns import OnnxNode

if TYPE_CHECKING:
    from sateen.compiler.importer.rewrite import Rewriter

_SUM_AXES_ARE_INPUT = 13
"""The operator set from which on ReduceSum has its axes as an input; the other reductions follow later."""
_AXES_ARE_INPUT = 18


def _reduced(
    rewriter: Rewriter, node: OnnxNode, kind: str, source: str, target: str, axes: list[int] | None = None
) -> onnx.NodeProto:
    """Reduction `kind` over the node's axes, or over `axes`, in the way of the file's operator set."""
    proto = node.proto
    given = proto.input[1] if len(proto.input) > 1 else ""
    axes = [*node.integers("axes", ())] if axes is None else axes
    kept: dict[str, Any] = {"keepdims": node.integer("keepdims", 1)}
    if noop := node.integer("noop_with_empty_axes", 0):
        kept["noop_with_empty_axes"] = noop
    if rewriter.opset >= (_SUM_AXES_ARE_INPUT if kind == "ReduceSum" else _AXES_ARE_INPUT):
        if axes:
            given = rewriter.add(f"{target}.axes", np.array(axes, np.int64))
        return helper.make_node(kind, [source, given] if given else [source], [target], **kept)
    if axes:
        kept["axes"] = axes
    return helper.make_node(kind, [source], [target], **kept)


def norm(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """ReduceL1, ReduceL2, ReduceSumSquare: sums of sizes or squares; ReduceLogSum: the logarithm of a sum."""
    kind, x, y = node.op_type, node.proto.input[0], node.proto.output[0]
    summed = y if kind in ("ReduceL1", "ReduceSumSquare") else f"{y}.sum"
    source = x if kind == "ReduceLogSum" else f"{y}.terms"
    yield _reduced(rewriter, node, "ReduceSum", source, summed)
    if kind == "ReduceL1":
        yield helper.make_node("Abs", [x], [source])
    elif kind != "ReduceLogSum":
        yield helper.make_node("Mul", [x, x], [source])
    if kind == "ReduceL2":
        yield helper.make_node("Sqrt", [summed], [y])
    elif kind == "ReduceLogSum":
        yield helper.make_node("Log", [summed], [y])


def global_norm(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """GlobalLpPool: the root of a plane's sum of powers."""
    p, x, y = node.integer("p", 2), node.proto.input[0], node.proto.output[0]
    axes = list(range(2, rewriter.ranks.get(x) or 4))
    power, inverse = (
        rewriter.add(f"{y}.{k}", np.array(v, np.float32)) for k, v in (("power", p), ("inverse", 1 / p))
    )
    yield _reduced(rewriter, node, "ReduceSum", f"{y}.terms", f"{y}.sum", axes)
    yield helper.make_node("Abs", [x], [f"{y}.size"])
    yield helper.make_node("Pow", [f"{y}.size", power], [f"{y}.terms"])
    yield helper.make_node("Pow", [f"{y}.sum", inverse], [y])


def minimum(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """ReduceMin, as the negative of a maximum."""
    x, y = node.proto.input[0], node.proto.output[0]
    yield _reduced(rewriter, node, "ReduceMax", f"{y}.negative", f"{y}.maximum")
    yield helper.make_node("Neg", [x], [f"{y}.negative"])
    yield helper.make_node("Neg", [f"{y}.maximum"], [y])


def mean(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """Mean of any number of operands."""
    operands, y = list(node.inputs), node.proto.output[0]
    yield helper.make_node("Sum", operands, [f"{y}.sum"])
    share = rewriter.add(f"{y}.share", np.array(1 / len(operands), np.float32))
    yield helper.make_node("Mul", [f"{y}.sum", share], [y])


def of_nothing(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """A number of an integer input times 0, by which exporters keep an input that nothing needs."""
    for number, other in (node.inputs, node.inputs[::-1]):
        zero = rewriter.constants.get(other)
        if number in rewriter.integers and zero is not None and zero.ndim == 0 and not zero.any():
            yield helper.make_node("Identity", [other], node.proto.output)
            return
    yield node.proto


WRITTEN = {
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"), norm),
    "GlobalLpPool": global_norm,
    "ReduceMin": minimum,
    "Mean": mean,
}
"""By ONNX's operator."""
