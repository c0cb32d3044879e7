"""Operators that will not do, with a reason and a remedy that help more than "not supported"."""

RANDOM_OPERATORS = "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial"

_DYNAMIC = (
    "its scale differs from sample to sample, and is an output of the model",
    "use QuantizeLinear with a fixed scale at the model's end",
)
_INCOMPLETE = ("it lacks inputs that it needs", "export the model again")
_CONTROL = ("control flow is not supported", "export the model with the branch or loop resolved")
_ROTARY = (
    "it turns pairs of features by their position",
    "export the model with Mul, Add and Concat in its place",
)
_UPSAMPLE = ("it reads pixels at computed places", "compute it on the host, or end the model before it")
_RANDOM = ("it gives random numbers", "export the model for inference, without noise")
_SELECT = ("it chooses by computed values", "end the model before it and compute it on the host")

_BY_REASON: tuple[tuple[tuple[str, str], str], ...] = (
    (_DYNAMIC, "DynamicQuantizeLinear"),
    (_INCOMPLETE, "QLinearConv QLinearMatMul ConvInteger MatMulInteger"),
    (_RANDOM, RANDOM_OPERATORS),
    (_CONTROL, "If Loop Scan SequenceMap"),
    (_ROTARY, "RotaryEmbedding"),
    (_UPSAMPLE, "GridSample AffineGrid MaxUnpool MaxRoiPool RoiAlign"),
    (
        _SELECT,
        "NonMaxSuppression NonZero OneHot GatherND GatherElements ScatterElements",
    ),
    (("deformable convolution is not supported", "use a plain convolution"), "DeformConv"),
)

REFUSED: dict[str, tuple[str, str]] = {
    operator: text for text, operators in _BY_REASON for operator in operators.split()
}
