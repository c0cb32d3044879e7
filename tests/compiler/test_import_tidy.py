"""Each pass on graphs of a few nodes: what is left, as text, and the same values as before."""

import numpy as np
import pytest

from sateen.compiler.float_executor import float_outputs, run_float
from sateen.compiler.importer.tidy import tidy
from sateen.ir.graph import Graph
from sateen.ir.nodes import Activation, Conv, Pool
from sateen.ir.ports import Output, Port

RNG = np.random.default_rng(0)
SHAPE = (6, 6, 4)


def port(name, shape=SHAPE):
    return Port(name, shape, shape)


def conv(name, source, out, kernel=1, outputs=4, channels=4, **more):
    weight = RNG.normal(size=(outputs, kernel, kernel, channels // more.get("groups", 1)))
    return Conv(name, source, out, weight, RNG.normal(size=outputs), **more)


def scale(name, source, out, factor=None, offset=None):
    factor = RNG.normal(size=4) if factor is None else np.full(4, factor)
    offset = RNG.normal(size=4) if offset is None else np.full(4, offset)
    return Conv(name, source, out, factor.reshape(4, 1, 1, 1), offset, groups=4)


def padding(name, source, out, *pads):
    return Conv(name, source, out, np.ones((4, 1, 1, 1)), np.zeros(4), pads=pads, groups=4)


def clip(name, source, out, low=0.0, high=np.inf):
    return Activation(name, source, out, "clip", low=low, high=high)


def graph(*nodes, outputs=None):
    """Shapes come from running it."""
    outputs = outputs or [nodes[-1].output]
    g = Graph("g", (port("x"),), (), nodes, {})
    tensors = run_float(g, {"x": np.zeros((1, *SHAPE))})
    shapes = {t: v.shape[1:] for t, v in tensors.items()}
    return Graph("g", (port("x"),), tuple(Output(port(o, shapes[o]), o) for o in outputs), nodes, shapes)


def text(g):
    return [f"{n.output} = {n.name}({', '.join(n.inputs)})" for n in g.nodes]


def same(before, after):
    after.verify()
    x = {"x": RNG.normal(size=(2, *SHAPE))}
    a, b = (float_outputs(g, run_float(g, x)) for g in (before, after))
    for name in a:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-9, atol=1e-9)


CASES = {
    "scale after a convolution": (
        [conv("c", "x", "a", 3), scale("s", "a", "b")],
        ["b = c(x)"],
    ),
    "scale before a convolution": (
        [scale("s", "x", "a"), conv("c", "a", "b", 3, 6, groups=2)],
        ["b = c(x)"],
    ),
    "offset before a padded convolution stays": (
        [scale("s", "x", "a"), conv("c", "a", "b", 3, pads=(1, 1, 1, 1))],
        ["a = s(x)", "b = c(a)"],
    ),
    "factor before a padded convolution": (
        [scale("s", "x", "a", offset=0), conv("c", "a", "b", 3, pads=(1, 1, 1, 1))],
        ["b = c(x)"],
    ),
    "two scales": (
        [scale("s", "x", "a"), scale("t", "a", "b")],
        ["b = s(x)"],
    ),
    "padding before a convolution": (
        [padding("p", "x", "a", 1, 0, 2, 1), conv("c", "a", "b", 3, pads=(0, 1, 0, 0))],
        ["b = c(x)"],
    ),
    "padding before an average pool": (
        [padding("p", "x", "a", 1, 1, 1, 1), Pool("q", "a", "b", "average", (2, 2), (2, 2))],
        ["b = q(x)"],
    ),
    "padding before a maximum of values of any sign": (
        [padding("p", "x", "a", 1, 1, 1, 1), Pool("q", "a", "b", "max", (2, 2), (2, 2))],
        ["a = p(x)", "b = q(a)"],
    ),
    "padding before a maximum of values that are not negative": (
        [clip("r", "x", "y"), padding("p", "y", "a", 1, 1, 1, 1), Pool("q", "a", "b", "max", (2, 2), (2, 2))],
        ["y = r(x)", "b = q(y)"],
    ),
    "padding as wide as the window": (
        [clip("r", "x", "y"), padding("p", "y", "a", 2, 0, 0, 0), Pool("q", "a", "b", "max", (2, 2), (2, 2))],
        ["y = r(x)", "a = p(y)", "b = q(a)"],
    ),
    "padding that is read twice": (
        [padding("p", "x", "a", 1, 1, 1, 1), conv("c", "a", "b", 3), Pool("q", "a", "d", "max", (2, 2))],
        ["a = p(x)", "b = c(x)", "d = q(a)"],
        ["b", "d"],
    ),
    "clamps": (
        [clip("r", "x", "a"), clip("s", "a", "b", -1.0, 1.0)],
        ["b = r(x)"],
    ),
    "a scale between functions": (
        [Activation("t", "x", "a", "tanh"), scale("s", "a", "b", 0.5, 0.25), Activation("e", "b", "c", "exp")],
        ["c = t(x)"],
    ),
    "a scale per channel between functions stays": (
        [Activation("t", "x", "a", "tanh"), scale("s", "a", "b"), Activation("e", "b", "c", "exp")],
        ["a = t(x)", "b = s(a)", "c = e(b)"],
    ),
    "identity": (
        [clip("r", "x", "a", -np.inf), scale("s", "a", "b", 1.0, 0.0), Activation("t", "b", "c", "tanh")],
        ["c = r(x)"],
    ),
    "every second pixel": (
        [Pool("a1", "x", "a", "max", (1, 1), (2, 1)), Pool("a2", "a", "b", "max", (1, 1), (1, 2)), conv("c", "b", "d")],
        ["d = c(x)"],
    ),
    "nobody reads it": (
        [conv("c", "x", "a"), conv("d", "x", "b"), conv("e", "a", "f")],
        ["b = d(x)"],
        ["b"],
    ),
    "an output in between": (
        [conv("c", "x", "a"), scale("s", "a", "b")],
        ["a = c(x)", "b = s(a)"],
        ["a", "b"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_tidy(case):
    nodes, want, *outputs = CASES[case]
    before = graph(*nodes, outputs=outputs[0] if outputs else None)
    after = tidy(before)
    assert text(after) == want
    same(before, after)
    assert set(after.shapes) == {"x", *(n.output for n in after.nodes)}


def test_order_of_channels():
    order = Conv("o", "x", "a", np.eye(4)[[2, 0, 3, 1]].reshape(4, 1, 1, 4), np.zeros(4))
    before = graph(order, conv("c", "a", "b", 3), conv("d", "a", "e", 1, groups=2), outputs=["b", "e"])
    after = tidy(before)
    assert text(after) == ["a = o(x)", "b = c(x)", "e = d(a)"]
    same(before, after)
