"""The torch interpreter against the float executor, and rounding in torch against the formats."""

from __future__ import annotations

import numpy as np
import pytest
from networks import NETWORKS

torch = pytest.importorskip("torch", reason="needs the extra learn")

from sateen.compiler.float_executor import run_float, run_node  # noqa: E402
from sateen.compiler.functions import constant, evaluate  # noqa: E402
from sateen.compiler.ptq import torch_graph  # noqa: E402
from sateen.compiler.ptq.torch_learn import run  # noqa: E402
from sateen.compiler.ptq.torch_rounding import rounded  # noqa: E402
from sateen.formats import parse_format  # noqa: E402
from sateen.ir.functions import FUNCTIONS  # noqa: E402
from sateen.ir.nodes import Activation, Conv, Expression, Normalize, Pool, Softmax  # noqa: E402
from sateen.ir.quantized import Quant  # noqa: E402


def last(y):
    return y.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    graph, b = NETWORKS[name]()
    x = b.samples(5)
    real = run_float(graph, x)
    inputs = {p.name: torch_graph.channels_second(p.to_hwc(x[p.name])) for p in graph.inputs}
    found = run(graph.nodes, inputs, {}, {})
    for tensor, y in real.items():
        np.testing.assert_allclose(last(found[tensor]), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "node",
    [
        Conv("n", "x", "y", np.ones((4, 2, 3, 2)), np.arange(4.0), (2, 1), (1, 2), (0, 1, 2, 3), 2),
        Pool("n", "x", "y", "max", (2, 3), (1, 2), (2, 1), (0, 1, 2, 1)),
        Pool("n", "x", "y", "average", (2, 3), (1, 2), (1, 1), (0, 1, 2, 1)),
        Pool("n", "x", "y", "average", (2, 2), (1, 1), (2, 1), (1, 1, 1, 1)),
        Pool("n", "x", "y", "average", (2, 2), (2, 2), (1, 1), (1, 1, 1, 1)),
        Softmax("n", "x", "y"),
        Normalize("n", "x", "y", np.arange(4.0), np.ones(4), 1e-3),
        Normalize("n", "x", "y", np.arange(4.0), np.ones(4), 1e-3, plane=True, groups=2),
        Normalize("n", "x", "y", np.ones(4), np.zeros(4), 0.0, centred=False, averaged=False),
    ],
)
def test_geometry(node):
    x = np.random.default_rng(0).normal(0, 1, (2, 9, 8, 4))
    found = torch_graph.run_node(node, [torch_graph.channels_second(x)])
    np.testing.assert_allclose(last(found), run_node(node, [x]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions(name):
    x = np.random.default_rng(0).uniform(0.1, 0.9, (2, 3, 3, 2))
    x = x if name in ("log", "sqrt", "reciprocal") else 4 * x - 2
    node = Activation("n", "x", "y", name, low=-0.5, high=0.7)
    given = torch_graph.channels_second(x).requires_grad_()
    y = torch_graph.run_node(node, [given])
    np.testing.assert_allclose(
        last(y), evaluate(node, given.detach().numpy().transpose(0, 2, 3, 1)), rtol=1e-4, atol=1e-5
    )
    assert y.requires_grad == torch_graph.differentiable(node) == (FUNCTIONS[name].torch is not None)


def test_expressions():
    x = Expression("x")
    swish = Expression("mul", (), (x, Expression("sigmoid", (), (x,))))
    larger = Expression("max", (), (swish, constant(0.25)))
    values = np.random.default_rng(0).normal(0, 1, (2, 3, 3, 2))
    node = Activation("n", "x", "y", "composed", expression=larger)
    found = torch_graph.run_node(node, [torch_graph.channels_second(values)])
    np.testing.assert_allclose(last(found), evaluate(node, values), rtol=1e-4, atol=1e-5)
    assert torch_graph.differentiable(node)
    for _ in range(40):  # shared parts are evaluated once
        larger = Expression("max", (), (larger, Expression("sigmoid", (), (larger,))))
    assert torch_graph.differentiable(Activation("n", "x", "y", "composed", expression=larger))
    steps = Expression("greater", (), (x, constant(0.0)))
    assert not torch_graph.differentiable(Activation("n", "x", "y", "composed", expression=steps))


@pytest.mark.parametrize("name", ["int4", "uint3", "int2n", "e2m1", "e3m2", "e1m1", "e3m0", "e4m3fn", "e5m2"])
def test_rounding_is_that_of_the_format(name):
    fmt = parse_format(name)
    values = fmt.fixed(np.arange(1 << fmt.bits))
    x = np.random.default_rng(0).normal(0, fmt.max / 2, 4000)
    for zero in (0, int(values[1]), int(fmt.min_fixed)):
        quant = Quant(fmt, 0.5, zero)
        found = rounded(torch.from_numpy(x).float(), torch.tensor(0.5), fmt, quant.offset)
        expected = quant.dequantize(quant.quantize(x.astype(np.float32)))
        assert np.isclose(found.numpy(), expected, rtol=1e-6, atol=1e-6).mean() > 0.999  # but for ties


@pytest.mark.parametrize("name", ["int4", "e2m1"])
def test_the_gradient_of_a_scale_is_that_of_lsq(name):
    """Inside the range q - x / s, outside the value at its end; x gets the gradient inside only."""
    fmt = parse_format(name)
    x = torch.tensor([0.3, -1.4, 100.0, -100.0], requires_grad=True)
    scale = torch.tensor(0.9, requires_grad=True)
    y = rounded(x, scale, fmt)
    y.sum().backward()
    q = y.detach() / 0.9
    assert x.grad.tolist() == [1, 1, 0, 0]
    inside = q[:2] - x.detach()[:2] / 0.9
    assert scale.grad.item() == pytest.approx(float(inside.sum() + fmt.max + fmt.min), abs=1e-4)
