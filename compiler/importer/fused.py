"""ONNX Runtime's own operators that its optimizer makes of several: written in ONNX's before the walk.

Ref: ONNX Runtime, "Contrib Operators" (onnxruntime.ai).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

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


_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}
"""What ONNX Runtime fuses behind a product, with the attributes that its parameters are."""


def with_activation(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """FusedConv and FusedGemm: the product, of a convolution plus a tensor, and a function of it."""
    proto, y = node.proto, node.proto.output[0]
    conv = node.op_type == "FusedConv"
    inner = onnx.NodeProto()
    inner.CopyFrom(proto)
    inner.op_type, inner.domain = node.op_type.removeprefix("Fused"), ""
    own = [a for a in proto.attribute if not a.name.startswith(("activation", "leaky_relu"))]
    del inner.attribute[:], inner.input[3:]
    inner.attribute.extend(own)
    added = proto.input[3] if conv and len(proto.input) > 3 else ""
    name = node.text("activation", "")
    if name not in (*_ACTIVATIONS, "Clip", ""):
        raise Unsupported(f"activation '{name}'", f"use {', '.join(_ACTIVATIONS)} or Clip")
    if conv:
        parameters = list(node.numbers("activation_params", ()))
    else:
        keys = [f"activation_{p}" for p in ("alpha", "beta")]
        parameters = [node.number(k, 0.0) for k in keys if k in node.attributes]
    summed = f"{y}.summed" if name else y
    inner.output[0] = f"{y}.product" if added else summed
    if name == "Clip":
        bounds = [rewriter.add(f"{y}.{k}", np.array(v, np.float32)) for k, v in enumerate(parameters)]
        yield helper.make_node("Clip", [summed, *bounds], [y])
    elif name:
        given: dict[str, Any] = dict(zip(_ACTIVATIONS[name], parameters, strict=False))
        yield helper.make_node(name, [summed], [y], **given)
    yield inner
    if added:
        yield helper.make_node("Add", [inner.output[0], added], [summed])


def fused_matmul(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """alpha times a product, of factors whose last two dimensions change places."""
    proto, y = node.proto, node.proto.output[0]
    if any(node.integer(f"transBatch{k}", 0) for k in "AB"):
        raise Unsupported("a factor's batch changes places, too", "export the model without that")
    factors = [
        f"{y}.{k}" if node.integer(f"trans{k}", 0) else i for k, i in zip("AB", proto.input, strict=True)
    ]
    scaled = node.number("alpha", 1.0)
    product = f"{y}.product" if scaled != 1 else y
    yield helper.make_node("MatMul", factors, [product])
    for source, factor in zip(proto.input, factors, strict=True):
        if factor != source:
            rank = rewriter.rank(source)
            order = [*range(rank - 2), rank - 1, rank - 2]
            yield helper.make_node("Transpose", [source], [factor], perm=order)
    if scaled != 1:
        alpha = rewriter.add(f"{y}.alpha", np.array(scaled, np.float32))
        yield helper.make_node("Mul", [product, alpha], [y])


def multi_head_attention(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """ONNX's Attention of queries, keys and values (N, tokens, features), each plus its part of a bias."""
    proto, y = node.proto, node.proto.output[0]
    given = [*proto.input, *[""] * 8][:8]
    if any(given[4:5] + given[6:8]) or any(proto.output[1:]):
        raise Unsupported(
            "it has a mask of keys or earlier keys and values", "give a mask as attention_bias, and no cache"
        )
    if not all(given[1:3]):
        raise Unsupported("its keys and values are in one tensor with the queries", "export them apart")
    operands = given[:3]
    bias = rewriter.constants.get(given[3]) if given[3] else None
    if given[3]:
        if bias is None:
            raise Unsupported("its bias is computed", "make it a constant of the model")
        operands = [f"{y}.{k}" for k in "qkv"]
    yield attended(node, operands, given[5])
    if bias is not None:
        for source, target, part in zip(given, operands, np.split(bias, 3), strict=False):
            yield helper.make_node("Add", [source, rewriter.add(f"{target}.bias", part)], [target])


def joint_attention(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """ONNX Runtime's Attention: queries, keys and values of one input by one matrix."""
    proto = node.proto
    given = [*proto.input, *[""] * 6][:6]
    if any(given[3:5]) or any(proto.output[1:]):
        raise Unsupported(
            "it has a mask of keys or earlier keys and values", "give a mask as attention_bias, and no cache"
        )
    weight, bias = (rewriter.constants.get(i) if i else None for i in given[1:3])
    if weight is None:
        raise Unsupported("its weights are computed", "make them constants of the model")
    yield from _joint(rewriter, node, given[0], weight, bias, given[5])


def quantized_attention(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """QAttention: the same of codes, with weights of codes."""
    proto, y = node.proto, node.proto.output[0]
    given = [*proto.input, *[""] * 9][:9]
    if given[5] or given[8] or any(proto.output[1:]):
        raise Unsupported("it has a mask of keys or earlier keys and values", "export it without")
    weight = _dequantized(rewriter, given[1], given[4], given[7])
    bias = rewriter.constants.get(given[2]) if given[2] else None
    yield from _joint(rewriter, node, f"{y}.real", weight, bias, "")
    codes = [given[0], given[3], given[6]] if given[6] else [given[0], given[3]]
    yield helper.make_node("DequantizeLinear", codes, [f"{y}.real"])


def _dequantized(rewriter: Rewriter, codes: str, scale: str, zero: str, *, apart: bool = False) -> np.ndarray:
    """Constant codes as float32; scales are one or along the last axis, or along the first, too, if `apart`."""
    w, s = rewriter.constants.get(codes), rewriter.constants.get(scale)
    z = rewriter.constants.get(zero) if zero else None
    if w is None or s is None or (zero and z is None):
        raise Unsupported("its weights are computed", "make them constants of the model")
    z = np.zeros((), w.dtype) if z is None else z
    if apart:
        s, z = (v.reshape(len(v), 1, -1) if v.ndim else v for v in (s, z))
    return ((w.astype(np.float32) - z.astype(np.float32)) * s).astype(np.float32)


def quantized_lstm(rewriter: Rewriter, node: OnnxNode) -> Iterator[onnx.NodeProto]:
    """DynamicQuantizeLSTM: an LSTM whose weights are codes (directions, features, 4 * hidden)."""
    proto, y = node.proto, node.proto.output[0]
    given = [*proto.input, *[""] * 12][:12]
    weights = []
    for k, (codes, scale, zero) in enumerate(((given[1], *given[8:10]), (given[2], *given[10:12]))):
        real = _dequantized(rewriter, codes, scale, zero, apart=True)
        weights.append(rewriter.add(f"{y}.weight{k}", real.transpose(0, 2, 1)))
    inner = onnx.NodeProto()
    inner.CopyFrom(proto)
    inner.op_type, inner.domain = "LSTM", ""
    del inner.input[:]
    inner.input.extend([given[0], *weights, *given[3:8]])
    yield inner


def _joint(
    rewriter: Rewriter, node: OnnxNode, x: str, weight: np.ndarray, bias: np.ndarray | None, mask: str
) -> Iterator[onnx.NodeProto]:
    """Queries, keys and values of x by one matrix, and their attention."""
    y = node.proto.output[0]
    sizes = node.integers("qkv_hidden_sizes", [weight.shape[1] // 3] * 3)
    ends = np.cumsum(sizes)[:-1]
    operands = [f"{y}.{k}" for k in "qkv"]
    yield attended(node, operands, mask)
    biases = [None] * 3 if bias is None else np.split(bias, ends)
    for target, own, added in zip(operands, np.split(weight, ends, axis=1), biases, strict=True):
        product = target if added is None else f"{target}.product"
        yield helper.make_node("MatMul", [x, rewriter.add(f"{target}.weight", own)], [product])
        if added is not None:
            yield helper.make_node("Add", [product, rewriter.add(f"{target}.bias", added)], [target])


def attended(node: OnnxNode, operands: list[str], mask: str) -> onnx.NodeProto:
    heads = node.integer("num_heads", 1)
    kept: dict[str, Any] = {"scale": node.number("scale", 0.0)} if node.number("scale", 0.0) else {}
    return helper.make_node(
        "Attention", [*operands, mask] if mask else operands, list(node.proto.output[:1]), q_num_heads=heads,
        kv_num_heads=heads, is_causal=node.integer("unidirectional", 0), **kept,
    )  # fmt: skip


MISPLACED = {"SimplifiedLayerNormalization": simplified}
"""Those that ONNX Runtime has in ONNX's domain, which does not know them."""
FUSED = {
    "SkipLayerNormalization": skip_normalization,
    "SkipSimplifiedLayerNormalization": skip_normalization,
    **dict.fromkeys(("Gelu", "BiasGelu", "FastGelu"), gelu),
    "QuickGelu": quick_gelu,
    **dict.fromkeys(("FusedConv", "FusedGemm"), with_activation),
    "FusedMatMul": fused_matmul,
    "MultiHeadAttention": multi_head_attention,
    "Attention": joint_attention,
    "QAttention": quantized_attention,
    "DynamicQuantizeLSTM": quantized_lstm,
}
"""By operator of ONNX Runtime's domain."""
