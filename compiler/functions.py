"""Functions of one tensor, and expressions made of them (`sateen.ir.functions` has what they are made of).

`evaluate` is the one entry; activation tables, the float executor and the checks all call it.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from sateen.errors import ModelError
from sateen.ir.functions import COMBINING, FUNCTIONS
from sateen.ir.nodes import Activation, Expression

_LARGEST = float(np.finfo(np.float32).max)  # what an ONNX float can hold

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
        return COMBINING[name](*arguments)
    if name not in FUNCTIONS:
        raise ModelError(f"function '{name}' is not known; known are {', '.join(FUNCTIONS)}")
    return FUNCTIONS[name](arguments[0], **dict(part.parameters))


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


def has_gradient(activation: Activation) -> bool:
    """Whether it has a slope: functions made of steps have none."""
    rows = (FUNCTIONS | COMBINING).items()
    known = {"x", "constant", *(name for name, row in rows if row.torch is not None)}
    return all(part.function in known for part in as_expression(activation).postorder())


def slope(activation: Activation, x: np.ndarray) -> np.ndarray:
    """The derivative at each x, float64, to 2**-20: a central difference, the mean of both sides where they differ."""
    step = 2.0**-17 * np.maximum(1.0, 2.0 ** np.ceil(np.log2(np.abs(x) + 1e-300)))
    difference = (evaluate(activation, x + step) - evaluate(activation, x - step)) / (2 * step)
    return np.asarray(np.rint(difference * 2.0**20) * 2.0**-20)
