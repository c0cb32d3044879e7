"""ONNX Runtime's own operators that its optimizer makes of several: written in ONNX's before the walk.

Ref: ONNX Runtime, "Contrib Operators" (onnxruntime.ai).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from sateen.compiler.importer.nouns import OnnxNode, Unsupported

if TYPE_CHECKING:
    from sateen.compiler.importer.rewrite import Rewriter

_SIGMOID_FACTOR = 1.702
"""QuickGelu's default."""


def skip_normalization(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """A normalization of a sum, which is the last output; one of variances (`Simplified`) has no offset."""
    proto, y = node.proto, node.proto.output[0]
    centred = node.op_type == "SkipLayerNormalization"
    inputs = [*proto.input, *[""] * 5][:5]
    if any(proto.output[1:3]):
        raise Unsupported("its statistics are outputs", "export the model for inference")
    scale, offset, bias = inputs[2:5] if centred else (inputs[2], "", inputs[3])
    summed = proto.output[3] if len(proto.output) > 3 and proto.output[3] else f"{y}.sum"
    factors = [scale, offset] if offset else [scale]
    # RMSNormalization came with operator set 23; ours takes the attribute with any
    epsilon = node.number("epsilon", 1e-12)
    yield helper.make_node(
        "LayerNormalization", [summed, *factors], [y], axis=-1, epsilon=epsilon, centred=int(centred)
    )
    yield helper.make_node("Sum", [i for i in (*inputs[:2], bias) if i], [summed])


def gelu(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """Of a sum with a bias, if there is one; FastGelu by tanh."""
    proto, y = node.proto, node.proto.output[0]
    source = f"{y}.biased" if len(proto.input) > 1 and proto.input[1] else proto.input[0]
    form = "tanh" if node.op_type == "FastGelu" else "none"
    yield helper.make_node("Gelu", [source], [y], approximate=form)
    if source != proto.input[0]:
        yield helper.make_node("Add", proto.input[:2], [source])


def quick_gelu(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """x * sigmoid(alpha * x)."""
    x, y = node.proto.input[0], node.proto.output[0]
    alpha = rewriter.add(f"{y}.alpha", np.array(node.number("alpha", _SIGMOID_FACTOR), np.float32))
    yield helper.make_node("Mul", [x, f"{y}.gate"], [y])
    yield helper.make_node("Mul", [x, alpha], [f"{y}.scaled"])
    yield helper.make_node("Sigmoid", [f"{y}.scaled"], [f"{y}.gate"])


def simplified(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """RMSNormalization by its older name."""
    axis, epsilon = node.integer("axis", -1), node.number("epsilon", 1e-5)
    if any(node.proto.output[1:]):
        raise Unsupported("its statistics are outputs", "export the model for inference")
    yield helper.make_node(
        "LayerNormalization",
        node.proto.input[:2],
        node.proto.output[:1],
        axis=axis,
        epsilon=epsilon,
        centred=0,
    )


MISPLACED = {"SimplifiedLayerNormalization": simplified}
"""Those that ONNX Runtime has in ONNX's domain, which does not know them."""
FUSED = {
    "SkipLayerNormalization": skip_normalization,
    "SkipSimplifiedLayerNormalization": skip_normalization,
    **dict.fromkeys(("Gelu", "BiasGelu", "FastGelu"), gelu),
    "QuickGelu": quick_gelu,
}
"""By operator of ONNX Runtime's domain."""
