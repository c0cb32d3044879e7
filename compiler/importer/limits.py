"""What is supported of an operator in part only: the words of `sateen check`'s findings and of docs/operators.md.

A handler that refuses a node for one of these reasons says so with `Unsupported(..., limit=...)`.
"""

ONE_OR_TWO_D = "1-D and 2-D"
CONSTANT_OR_SAME = "one operand constant or both functions of one tensor"
NUMBER = "a constant operand is one number"
ONE_TENSOR = "between functions of one tensor"
NO_INDICES = "without Indices"
COORDINATES = "nearest, linear and cubic, without antialias"
LAST = "as the last node"
A_BOX = "one slice written by constant indices"
CONSTANT_INDICES = "constant indices"
ONE_LENGTH = "sequences of one length"
TO_FLOAT = "to floating point"
PER_TENSOR = "one scale for each computed tensor"
PER_OUTPUT = "one scale for each output channel of a weight"
TYPES = "types of at most 8 bits"
EIGHT_BITS = "1 to 8 bits"
NEAREST = "rounding to nearest, ties to even"
AFTER_POOL = "after AveragePool"
ROUNDING = "ROUND, FLOOR, CEIL"
TWO_OTHERS = "at most two dimensions besides the normalized one"
ROWS = "over a pixel's channels, or groups of whole planes"
EUCLIDEAN = "p = 2"
NO_CACHE = "without a cache of keys and values"
RESULT_ALONE = "its first output alone"
PRODUCTS = "products of two operands, sums and orders of one"

_COMPARISONS = ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "And", "Or", "Xor")

LIMITS: dict[str, tuple[str, ...]] = {
    "Conv": (ONE_OR_TWO_D,),
    **{name: (CONSTANT_OR_SAME, NUMBER) for name in ("Pow", "Mod", *_COMPARISONS)},
    "Where": (ONE_TENSOR,),
    "MaxPool": (ONE_OR_TWO_D, NO_INDICES),
    "AveragePool": (ONE_OR_TWO_D,),
    "Resize": (COORDINATES,),
    "ConvTranspose": (ONE_OR_TWO_D,),
    **{name: (LAST,) for name in ("ArgMax", "ArgMin", "TopK")},
    **{name: (TWO_OTHERS,) for name in ("Softmax", "LogSoftmax")},
    "Hardmax": (LAST,),
    **{name: (TWO_OTHERS, ROWS) for name in ("LayerNormalization", "RMSNormalization")},
    "MeanVarianceNormalization": (TWO_OTHERS, ROWS),
    "LRN": (TWO_OTHERS,),
    "InstanceNormalization": (ROWS,),
    "LpNormalization": (TWO_OTHERS, EUCLIDEAN),
    "Attention": (NO_CACHE, RESULT_ALONE),
    "Einsum": (PRODUCTS,),
    "ScatterND": (A_BOX,),
    "Gather": (CONSTANT_INDICES,),
    "LpPool": (ONE_OR_TWO_D,),
    "ReverseSequence": (ONE_LENGTH,),
    "Cast": (TO_FLOAT,),
    "CastLike": (TO_FLOAT,),
    "QuantizeLinear": (PER_TENSOR, TYPES),
    "DequantizeLinear": (PER_TENSOR, PER_OUTPUT),
    "Quant": (PER_TENSOR, EIGHT_BITS, NEAREST),
    "IntQuant": (PER_TENSOR, EIGHT_BITS, NEAREST),
    "FloatQuant": (PER_TENSOR, EIGHT_BITS, NEAREST),
    "BipolarQuant": (PER_TENSOR,),
    "Trunc": (AFTER_POOL, EIGHT_BITS, ROUNDING),
}
