"""Functions of one tensor, a row each: all that the importer, tables, calibration, learning and the host know of one.

A name is ONNX's operator in lower case with underscores, its parameters are ONNX's attributes. A new row is a new
function everywhere (tests/compiler/test_functions.py walks them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Values = Callable[..., np.ndarray]
Torch = Callable[..., Any]
"""Takes the module `torch`, the arguments, and the parameters as keywords."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function of x."""

    values: Values
    """Takes float64 `x` and the parameters as keywords."""
    operator: str = ""
    """ONNX's, whose float attributes are the parameters; "" where none is, or a handler of its own reads it."""
    defaults: Mapping[str, float] = field(default_factory=dict)
    """Every parameter, as it is where it is not given."""
    torch: Torch | None = None
    """None without a gradient: learning stops before the function."""
    host: bool = False
    """Whether the host may compute it on a graph input, before it is rounded."""
    increasing: bool = False
    """Known: a larger x never gives less, where NaN reads as 0, with the default parameters."""
    non_negative: bool = False
    """Known: no x gives less than 0, with the default parameters."""
    homogeneous: bool = False
    """Known: f(x / s) = f(x) / s for s > 0."""

    def __call__(self, x: np.ndarray, **parameters: float) -> np.ndarray:
        """float64; infinities and NaN pass, as in ONNX."""
        return np.asarray(self.values(x, **{**self.defaults, **parameters}), np.float64)

    def in_torch(self, torch: Any, x: Any, **parameters: float) -> Any:
        assert self.torch is not None
        return self.torch(torch, x, **{**self.defaults, **parameters})


_erf = np.frompyfunc(math.erf, 1, 1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))  # neither overflows nor loses small results


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def _elu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _celu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))


def _hard_sigmoid(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    return np.clip(alpha * x + beta, 0, 1)


def _gelu(x: np.ndarray, tanh: float) -> np.ndarray:
    if tanh:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.asarray(_erf(x / math.sqrt(2)), np.float64))


def _shrink(x: np.ndarray, bias: float, lambd: float) -> np.ndarray:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0))


def _named(name: str) -> Torch:
    """torch's own function of that name."""
    return lambda t, *x: getattr(t, name)(*x)


def _torch_elu(t: Any, x: Any, alpha: float) -> Any:
    return t.where(x > 0, x, alpha * t.expm1(x.clamp(max=0)))


def _torch_softplus(t: Any, x: Any) -> Any:
    return t.nn.functional.softplus(x)


def _torch_hard_sigmoid(t: Any, x: Any, alpha: float, beta: float) -> Any:
    return t.clamp(alpha * x + beta, 0, 1)


_SELU = {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}

_LEAST_DIVISOR = 1e-20
"""In place of 0: more than any quotient, and still finite in sums of squares."""

FUNCTIONS: dict[str, Function] = {
    "clip": Function(
        lambda x, low, high: np.minimum(np.maximum(x, low), high),
        defaults={"low": -np.inf, "high": np.inf},
        torch=lambda t, x, low, high: x.clamp(low, high),
        increasing=True,
    ),
    "affine": Function(
        lambda x, scale, offset: scale * x + offset,
        defaults={"scale": 1.0, "offset": 0.0},
        torch=lambda t, x, scale, offset: scale * x + offset,
    ),
    "leaky_relu": Function(
        lambda x, alpha: np.where(x < 0, alpha * x, x),
        "LeakyRelu",
        {"alpha": 0.01},
        torch=lambda t, x, alpha: t.where(x < 0, alpha * x, x),
        homogeneous=True,
    ),
    "thresholded_relu": Function(
        lambda x, alpha: np.where(x > alpha, x, 0.0),
        "ThresholdedRelu",
        {"alpha": 1.0},
        torch=lambda t, x, alpha: t.where(x > alpha, x, 0.0),
    ),
    "elu": Function(_elu, "Elu", {"alpha": 1.0}, torch=_torch_elu),
    "selu": Function(
        lambda x, alpha, gamma: gamma * _elu(x, alpha),
        "Selu",
        _SELU,
        torch=lambda t, x, alpha, gamma: gamma * _torch_elu(t, x, alpha),
    ),
    "celu": Function(
        _celu,
        "Celu",
        {"alpha": 1.0},
        torch=lambda t, x, alpha: x.clamp(min=0) + alpha * t.expm1(x.clamp(max=0) / alpha),
    ),
    "softplus": Function(_softplus, "Softplus", torch=_torch_softplus, non_negative=True),
    "softsign": Function(
        lambda x: x / (1 + np.abs(x)), "Softsign", torch=lambda t, x: t.nn.functional.softsign(x)
    ),
    "sigmoid": Function(_sigmoid, "Sigmoid", torch=_named("sigmoid"), non_negative=True),
    "tanh": Function(np.tanh, "Tanh", torch=_named("tanh"), host=True, increasing=True),
    "hard_sigmoid": Function(
        _hard_sigmoid,
        "HardSigmoid",
        {"alpha": 0.2, "beta": 0.5},
        torch=_torch_hard_sigmoid,
        non_negative=True,
    ),
    "hard_swish": Function(
        lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5),
        "HardSwish",
        torch=lambda t, x: x * _torch_hard_sigmoid(t, x, 1 / 6, 0.5),
    ),
    "swish": Function(
        lambda x, alpha: x * _sigmoid(alpha * x),
        "Swish",
        {"alpha": 1.0},
        torch=lambda t, x, alpha: x * t.sigmoid(alpha * x),
    ),
    "mish": Function(
        lambda x: x * np.tanh(_softplus(x)),
        "Mish",
        torch=lambda t, x: x * t.tanh(_torch_softplus(t, x)),
    ),
    # its handler makes `tanh` 1 for ONNX's approximate="tanh"
    "gelu": Function(
        _gelu,
        defaults={"tanh": 0.0},
        torch=lambda t, x, tanh: t.nn.functional.gelu(x, approximate="tanh" if tanh else "none"),
    ),
    "shrink": Function(_shrink, "Shrink", {"bias": 0.0, "lambd": 0.5}),
    "erf": Function(_erf, "Erf", torch=_named("erf")),
    "exp": Function(np.exp, "Exp", torch=_named("exp"), host=True, increasing=True, non_negative=True),
    "log": Function(np.log, "Log", torch=_named("log"), host=True),
    "sqrt": Function(np.sqrt, "Sqrt", torch=_named("sqrt"), host=True, increasing=True, non_negative=True),
    "reciprocal": Function(lambda x: 1.0 / x, "Reciprocal", torch=_named("reciprocal"), host=True),
    # of a Div by a computed tensor, which keeps away from 0 (compiler/quantize/divisors.py)
    "divisor": Function(
        lambda x: 1.0 / np.where(x == 0, _LEAST_DIVISOR, x),
        torch=lambda t, x: 1.0 / t.where(x == 0, t.full_like(x, _LEAST_DIVISOR), x),
    ),
    "abs": Function(np.abs, "Abs", torch=_named("abs"), host=True, non_negative=True),
    "neg": Function(np.negative, "Neg", torch=_named("neg"), host=True),
    "sign": Function(np.sign, "Sign", host=True, increasing=True),
    "bipolar": Function(
        lambda x, scale: np.where(x >= 0, scale, -scale), defaults={"scale": 1.0}, increasing=True
    ),
    "floor": Function(np.floor, "Floor", host=True, increasing=True),
    "ceil": Function(np.ceil, "Ceil", host=True, increasing=True),
    "round": Function(np.rint, "Round", host=True, increasing=True),
    "not": Function(lambda x: np.where(x == 0, 1.0, 0.0), "Not"),
    "sin": Function(np.sin, "Sin", torch=_named("sin")),
    "cos": Function(np.cos, "Cos", torch=_named("cos")),
    "tan": Function(np.tan, "Tan"),
    "asin": Function(np.arcsin, "Asin"),
    "acos": Function(np.arccos, "Acos"),
    "atan": Function(np.arctan, "Atan", torch=_named("atan")),
    "sinh": Function(np.sinh, "Sinh"),
    "cosh": Function(np.cosh, "Cosh"),
    "asinh": Function(np.arcsinh, "Asinh", torch=_named("asinh")),
    "acosh": Function(np.arccosh, "Acosh"),
    "atanh": Function(np.arctanh, "Atanh"),
}


@dataclass(frozen=True, slots=True)
class Combining:
    """A function of several functions of the same tensor, inside an expression; truth is 1, falsehood 0."""

    values: Values
    torch: Torch | None = None

    def __call__(self, *arguments: np.ndarray) -> np.ndarray:
        return np.asarray(self.values(*arguments), np.float64)

    def in_torch(self, torch: Any, *arguments: Any) -> Any:
        assert self.torch is not None
        return self.torch(torch, *arguments)


COMBINING: dict[str, Combining] = {
    "add": Combining(np.add, _named("add")),
    "sub": Combining(np.subtract, _named("sub")),
    "mul": Combining(np.multiply, _named("mul")),
    "div": Combining(np.divide, _named("div")),
    "max": Combining(np.maximum, _named("maximum")),
    "min": Combining(np.minimum, _named("minimum")),
    "pow": Combining(np.power),
    "mod": Combining(np.mod),
    "fmod": Combining(np.fmod),
    "greater": Combining(np.greater),
    "less": Combining(np.less),
    "greaterorequal": Combining(np.greater_equal),
    "lessorequal": Combining(np.less_equal),
    "equal": Combining(np.equal),
    "and": Combining(np.logical_and),
    "or": Combining(np.logical_or),
    "xor": Combining(np.logical_xor),
    "where": Combining(lambda c, a, b: np.asarray(np.where(c != 0, a, b))),
}


@dataclass(frozen=True, slots=True)
class OutputFunction:
    """What the host does to a graph output along one axis."""

    operator: str
    """ONNX's."""
    values: Callable[[np.ndarray, int], np.ndarray]
    """Of float64 x and the axis, of the same shape."""


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    shifted = x - x.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def _hardmax(x: np.ndarray, axis: int) -> np.ndarray:
    found = np.zeros_like(x)
    np.put_along_axis(found, np.expand_dims(x.argmax(axis=axis), axis), 1.0, axis=axis)
    return found


OUTPUT_FUNCTIONS: dict[str, OutputFunction] = {
    "softmax": OutputFunction("Softmax", _softmax),
    "log_softmax": OutputFunction("LogSoftmax", _log_softmax),
    "hardmax": OutputFunction("Hardmax", _hardmax),
}
