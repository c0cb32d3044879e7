"""Unary functions: what an activation table holds, computed in float64 from ONNX's definitions.

A name is ONNX's operator in lower case with underscores, its parameters are ONNX's attributes. `evaluate` is
the one entry; the tables, the float executor and the checks all call it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np

from sateen.errors import ModelError
from sateen.ir.graph import Activation, Expression

Function = Callable[..., np.ndarray]

_LARGEST = float(np.finfo(np.float32).max)  # what an ONNX float can hold
_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: np.ndarray) -> np.ndarray:
    return np.asarray(_erf(x), np.float64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))  # neither overflows nor loses small results


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def selu(
    x: np.ndarray, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> np.ndarray:
    return gamma * elu(x, alpha)


def celu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))


def hard_sigmoid(x: np.ndarray, alpha: float = 0.2, beta: float = 0.5) -> np.ndarray:
    return np.clip(alpha * x + beta, 0, 1)


def gelu(x: np.ndarray, tanh: float = 0.0) -> np.ndarray:
    """`tanh` is 1 for ONNX's approximate="tanh"."""
    if tanh:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def shrink(x: np.ndarray, bias: float = 0.0, lambd: float = 0.5) -> np.ndarray:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0))


FUNCTIONS: dict[str, Function] = {
    "clip": lambda x, low=-np.inf, high=np.inf: np.minimum(np.maximum(x, low), high),
    "affine": lambda x, scale=1.0, offset=0.0: scale * x + offset,
    "leaky_relu": lambda x, alpha=0.01: np.where(x < 0, alpha * x, x),
    "thresholded_relu": lambda x, alpha=1.0: np.where(x > alpha, x, 0.0),
    "elu": elu,
    "selu": selu,
    "celu": celu,
    "softplus": softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": lambda x: x * hard_sigmoid(x, 1 / 6, 0.5),
    "swish": lambda x, alpha=1.0: x * sigmoid(alpha * x),
    "mish": lambda x: x * np.tanh(softplus(x)),
    "gelu": gelu,
    "shrink": shrink,
    "erf": erf,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "reciprocal": lambda x: 1.0 / x,
    "abs": np.abs,
    "neg": np.negative,
    "sign": np.sign,
    "bipolar": lambda x, scale=1.0: np.where(x >= 0, scale, -scale),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "not": lambda x: np.where(x == 0, 1.0, 0.0),
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
}
"""Each takes float64 `x` and its parameters as keywords."""

COMBINING: dict[str, Function] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "greater": np.greater,
    "less": np.less,
    "greaterorequal": np.greater_equal,
    "lessorequal": np.less_equal,
    "equal": np.equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "where": lambda c, a, b: np.asarray(np.where(c != 0, a, b)),
}
"""Only inside expressions, where all arguments are functions of the same tensor; truth is 1, falsehood 0."""

X = Expression("x")


def constant(value: float) -> Expression:
    return Expression("constant", (("value", float(value)),))


def evaluate_expression(expression: Expression, x: np.ndarray) -> np.ndarray:
    """Raises ModelError for an unknown function. Infinities and NaN pass, as in ONNX."""
    parts = expression.postorder()
    uses = Counter(id(a) for part in parts for a in part.arguments)
    results: dict[int, np.ndarray] = {}  # of those that are still to be used
    for part in parts:
        results[id(part)] = _apply(part, [results[id(a)] for a in part.arguments], x)
        for a in part.arguments:
            uses[id(a)] -= 1
            if not uses[id(a)]:
                del results[id(a)]
    return results[id(expression)]


def _apply(part: Expression, arguments: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    name = part.function
    if name == "x":
        return x
    if name == "constant":
        return np.full_like(x, dict(part.parameters)["value"])
    if name in COMBINING:
        return np.asarray(COMBINING[name](*arguments), np.float64)
    if name not in FUNCTIONS:
        raise ModelError(f"function '{name}' is not known; known are {', '.join(FUNCTIONS)}")
    return np.asarray(FUNCTIONS[name](*arguments, **dict(part.parameters)), np.float64)


def as_expression(activation: Activation) -> Expression:
    """The activation as a function of "x"."""
    if activation.expression is not None:
        return activation.expression
    parameters = activation.parameters
    if activation.function == "clip":
        parameters = (("low", activation.low), ("high", activation.high))
    return Expression(activation.function, parameters, (X,))


def substitute(outer: Expression, inner: Expression) -> Expression:
    """outer(inner(x)), which shares its parts as `outer` does."""
    made: dict[int, Expression] = {}
    for part in outer.postorder():
        arguments = tuple(made[id(a)] for a in part.arguments)
        made[id(part)] = (
            inner if part.function == "x" else Expression(part.function, part.parameters, arguments)
        )
    return made[id(outer)]


def evaluate(activation: Activation, x: np.ndarray) -> np.ndarray:
    """float64 of the shape of `x`. Always finite: NaN becomes 0, infinity the largest float32."""
    with np.errstate(all="ignore"):
        y = evaluate_expression(as_expression(activation), np.asarray(x, np.float64))
    return np.nan_to_num(y, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)
