"""Integer operators as data: each is a floating-point operator between DequantizeLinear and QuantizeLinear.

`sateen.compiler.importer.integer` rewrites a graph by this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from sateen.compiler.importer.domains import DEFAULT

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


@dataclass(frozen=True, slots=True)
class Operand:
    """Codes at input `codes`, their scale and zero point; without a scale it is 1, or that of the quantizer before.
    Negative: not there."""

    codes: int
    scale: int = -1
    zero: int = -1


@dataclass(frozen=True, slots=True)
class Form:
    """What an integer operator computes.

    Attributes
    ----------
    op : the floating-point operator
    operands : its operands, in order
    result : the inputs with scale and zero point of the result; None: its result is real, or a sum of products
    bias : the input with a bias: int32 with the product of the operands' scales, real where there is no `result`
    plain : inputs of the floating-point operator that are no codes, in front of the operands
    left_out : attributes of the integer operator that the floating-point one lacks
    """

    op: str
    operands: tuple[Operand, ...]
    result: tuple[int, int] | None = None
    bias: int = -1
    plain: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ("channels_last",)


_ONE = (Operand(0, 1, 2),)
_TWO = (Operand(0, 1, 2), Operand(3, 4, 5))
_NO_SCALES = (Operand(0, zero=2), Operand(1, zero=3))

FORMS: dict[tuple[str, str], Form] = {
    ("", "QLinearConv"): Form("Conv", _TWO, (6, 7), bias=8),
    ("", "QLinearMatMul"): Form("MatMul", _TWO, (6, 7)),
    ("", "ConvInteger"): Form("Conv", _NO_SCALES),
    ("", "MatMulInteger"): Form("MatMul", _NO_SCALES),
    (MICROSOFT, "QLinearConv"): Form("Conv", _TWO, (6, 7), bias=8),
    (MICROSOFT, "QLinearAdd"): Form("Add", _TWO, (6, 7)),
    (MICROSOFT, "QLinearMul"): Form("Mul", _TWO, (6, 7)),
    (MICROSOFT, "QLinearSigmoid"): Form("Sigmoid", _ONE, (3, 4)),
    (MICROSOFT, "QLinearLeakyRelu"): Form("LeakyRelu", _ONE, (3, 4)),
    (MICROSOFT, "QLinearSoftmax"): Form("Softmax", _ONE, (3, 4), left_out=("opset",)),
    (MICROSOFT, "QLinearAveragePool"): Form("AveragePool", _ONE, (3, 4)),
    (MICROSOFT, "QLinearGlobalAveragePool"): Form("GlobalAveragePool", _ONE, (3, 4)),
    (MICROSOFT, "QLinearReduceMean"): Form("ReduceMean", _ONE, (3, 4)),
    (MICROSOFT, "QLinearWhere"): Form("Where", (Operand(1, 2, 3), Operand(4, 5, 6)), (7, 8), plain=(0,)),
    (MICROSOFT, "QGemm"): Form("Gemm", _TWO, (7, 8), bias=6),
    (MICROSOFT, "MatMulIntegerToFloat"): Form("MatMul", (Operand(0, 2, 4), Operand(1, 3, 5)), bias=6),
    (MICROSOFT, "DynamicQuantizeMatMul"): Form("MatMul", (Operand(1, 2, 3),), bias=4, plain=(0,)),
}
"""By domain and operator; QLinearConcat has any number of operands (`form_of`)."""

DYNAMIC = "DynamicQuantizeLinear"
ACCUMULATORS = ("ConvInteger", "MatMulInteger")
"""Their result is the sum itself, int32."""

OPERATORS = (*(name for _, name in FORMS), "QLinearConcat", DYNAMIC)

MOVES = frozenset(("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"))
"""Operators that change no code, whatever it stands for."""
WRAPPED = frozenset(
    (
        "Concat", "DepthToSpace", "Dropout", "Expand", "Gather", "GlobalMaxPool", "MaxPool", "Pad", "ReduceMax",
        "Resize", "Slice", "SpaceToDepth", "Split", "Tile", "Upsample",
    )
)  # fmt: skip
"""Operators on codes that are the same on what the codes stand for."""

REFUSED: dict[str, str] = {
    "QEmbedLayerNormalization": "it looks up embeddings and normalizes by statistics of the sample",
    "MatMulNBits": "its weights have a scale for each block along the sum",
    "MatMulBnb4": "its weights have a scale for each block along the sum",
    "QMoE": "it chooses by computed values",
    "QOrderedMatMul": "it is for one maker's processors",
    "QOrderedAttention": "it is for one maker's processors",
}
"""Why ONNX Runtime's other quantized operators are not imported."""


def domain_of(domain: str) -> str:
    return "" if domain in DEFAULT else domain


def form_of(domain: str, op_type: str, inputs: int) -> Form | None:
    """The form of an operator with so many inputs; None if it is none of these, or lacks one that it needs."""
    key = (domain_of(domain), op_type)
    if key == (MICROSOFT, "QLinearConcat"):
        whole = inputs >= 5 and inputs % 3 == 2
        parts = tuple(Operand(i, i + 1, i + 2) for i in range(2, inputs, 3))
        return Form("Concat", parts, (0, 1)) if whole else None
    form = FORMS.get(key)
    if form is None:
        return None
    needed = [i for o in form.operands for i in (o.codes, o.scale)] + list(form.plain)
    needed += [] if form.result is None or key[1] == "QGemm" else [form.result[0]]
    return form if max(needed) < inputs else None


def given(node: onnx.NodeProto, i: int) -> str:
    """Input i; "" where it is left out."""
    return node.input[i] if 0 <= i < len(node.input) else ""


def scale_of(name: str, nodes: Sequence[onnx.NodeProto]) -> tuple[str, str] | None:
    """Scale and zero point, "" where there is none, by which the first node that says so reads codes."""
    names = {name}
    for node in nodes:
        read = [i for i, tensor in enumerate(node.input) if tensor in names]
        if not read:
            continue
        if node.op_type == "DequantizeLinear" and node.domain in (*DEFAULT, MICROSOFT):
            return given(node, 1), given(node, 2)
        form = form_of(node.domain, node.op_type, len(node.input))
        operands = form.operands if form is not None else ()
        found = next((o for o in operands if o.codes in read), None)
        if found is not None:
            return given(node, found.scale), given(node, found.zero)
        if node.domain in DEFAULT and node.op_type in MOVES | WRAPPED:
            names.update(node.output)
    return None
