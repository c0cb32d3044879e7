"""Unary functions: against ONNX's reference implementation, and at the edges."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sateen.compiler.functions import X, as_expression, constant, evaluate, substitute
from sateen.compiler.importer.handlers import HANDLERS
from sateen.errors import ModelError
from sateen.ir.functions import COMBINING, FUNCTIONS
from sateen.ir.nodes import Activation, Expression

ONNX_NAME = {"affine": None, "clip": "Clip", "gelu": "Gelu"}
POINTS = np.concatenate([np.linspace(-6, 6, 97), [-100.0, -1e-7, 0.0, 1e-7, 100.0]])


OTHERS = ("affine", "clip", "gelu", "not", "bipolar", "divisor")
"""Tested by themselves, or, bipolar, against qonnx's executor."""


def activation(function, **parameters):
    return Activation("a", "x", "y", function, tuple(parameters.items()))


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f not in OTHERS])
def test_definition_is_that_of_onnx(function):
    """ONNX's own Python implementation, in double precision."""
    op = FUNCTIONS[function].operator
    x = POINTS
    if function in ("asin", "acos", "atanh"):
        x = x[np.abs(x) < 1]
    elif function in ("log", "sqrt", "reciprocal", "acosh"):
        x = x[x > 1]
    elif function in ("exp", "sinh", "cosh", "tan"):
        x = x[np.abs(x) < 7]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None])],
            [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None])],
        ),
        opset_imports=[helper.make_opsetid("", onnx.defs.onnx_opset_version())],
    )
    with np.errstate(all="ignore"):
        want = ReferenceEvaluator(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(evaluate(activation(function), x), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_a_row_says_of_its_function_holds(function):
    """At many points; NaN reads as 0. A default is ONNX's."""
    row, x = FUNCTIONS[function], np.concatenate([np.linspace(-9, 9, 721), [-1e-3, 1e-3]])
    x.sort()
    with np.errstate(all="ignore"):
        y = np.nan_to_num(row(x), nan=0.0)
        if row.increasing:
            assert (np.diff(y) >= 0).all()
        if row.non_negative:
            assert (y >= 0).all()
        if row.homogeneous:
            np.testing.assert_allclose(row(x / 4), row(x) / 4)
            given = {name: 2.5 for name in row.defaults}
            np.testing.assert_allclose(row(x / 4, **given), row(x, **given) / 4)
    if row.operator:
        attributes = onnx.defs.get_schema(row.operator).attributes
        defaults = {
            n: a.default_value.f for n, a in attributes.items() if a.type == onnx.defs.OpSchema.AttrType.FLOAT
        }
        assert {n: np.float32(v) for n, v in row.defaults.items()} == pytest.approx(defaults)


def test_every_function_is_imported():
    """By the handler that is made of its row, or one of its own."""
    assert {f.operator for f in FUNCTIONS.values() if f.operator} <= set(HANDLERS)
    assert {"Clip", "Gelu", "BipolarQuant"} <= set(HANDLERS)
    assert set(COMBINING) - {"fmod"} <= {name.lower() for name in HANDLERS}  # an attribute of Mod


def test_parameters():
    x = np.array([-2.0, -0.5, 0.5, 2.0])
    assert evaluate(activation("leaky_relu", alpha=0.25), x).tolist() == [-0.5, -0.125, 0.5, 2]
    assert evaluate(activation("thresholded_relu", alpha=1.0), x).tolist() == [0, 0, 0, 2]
    assert evaluate(activation("hard_sigmoid", alpha=0.5, beta=0.5), x).tolist() == [0, 0.25, 0.75, 1]
    assert evaluate(activation("shrink", bias=1.0, lambd=1.0), x).tolist() == [-1, 0, 0, 1]
    exact = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]
    np.testing.assert_allclose(evaluate(activation("gelu"), x), exact, rtol=1e-15)


def test_clip_uses_low_and_high():
    x = np.array([-3.0, 0.2, 9.0])
    assert evaluate(Activation("a", "x", "y", "clip", low=0.0, high=6.0), x).tolist() == [0, 0.2, 6]
    assert evaluate(Activation("a", "x", "y", "clip", low=0.0), x).tolist() == [0, 0.2, 9]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_always_finite(function):
    """A table has no NaN and no infinity, whatever the code's value."""
    x = np.array([-1e30, -1e4, -1.0, -0.0, 0.0, 1.0, 1e4, 1e30])
    y = evaluate(activation(function), x)
    assert y.dtype == np.float64 and np.isfinite(y).all()


def test_shape_is_kept():
    assert evaluate(activation("tanh"), np.zeros((2, 3, 4))).shape == (2, 3, 4)


def test_expressions():
    silu = Expression("mul", (), (X, Expression("sigmoid", (), (X,))))
    node = Activation("a", "x", "y", "composed", expression=silu)
    np.testing.assert_allclose(evaluate(node, POINTS), POINTS / (1 + np.exp(-POINTS)), rtol=1e-12)
    twice = substitute(as_expression(node), Expression("add", (), (X, constant(1.0))))
    node = Activation("a", "x", "y", "composed", expression=twice)
    np.testing.assert_allclose(evaluate(node, POINTS), (POINTS + 1) / (1 + np.exp(-POINTS - 1)), rtol=1e-12)


def test_shared_parts_are_evaluated_once():
    """x * sigmoid(x), 40 times one behind the other, in both orders: a tree has 2**40 leaves."""
    silu = Expression("mul", (), (X, Expression("sigmoid", (), (X,))))
    outer = inner = X
    expected = POINTS
    for _ in range(40):
        outer, inner = substitute(silu, outer), substitute(inner, silu)
        expected = expected / (1 + np.exp(-expected))
    for e in (outer, inner):
        assert len(e.postorder()) == 1 + 2 * 40
        np.testing.assert_allclose(
            evaluate(Activation("a", "x", "y", "composed", expression=e), POINTS), expected
        )
        assert len(repr(e)) < 100


def test_deep_expressions():
    """Deeper than Python's stack."""
    e = X
    for _ in range(3000):
        e = substitute(Expression("affine", (("offset", 1.0),), (X,)), e)
    assert evaluate(Activation("a", "x", "y", "composed", expression=e), np.zeros(1)) == 3000


def test_unknown_function():
    with pytest.raises(ModelError, match="function 'nothing' is not known"):
        evaluate(activation("nothing"), np.zeros(1))
