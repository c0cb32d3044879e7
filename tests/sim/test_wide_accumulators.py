"""The reference where weights are zero, biases huge and accumulators beyond 64 bits, against Python integers."""

from __future__ import annotations

import numpy as np
import pytest
import slow_reference
from networks import Builder, run_slowly

from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.network import quantize
from sateen.ir.nodes import Conv
from sateen.ir.quantized import Linear
from sateen.sim.integer import conv
from sateen.sim.reference import reference_codes, run_reference

FIVE_BITS = ("e5m0", "e5m1", "e5m2", "e5m1b0", "e5m2b30", "e4m3fn", "int8")
WEIGHTS = ("zero", "one zero row", "tiny", "huge", "normal")


def network(kind: str, bias: float, seed: int):
    """Layers of the kind before a residual, a depthwise layer, a pool and a raw output."""
    b = Builder(seed)
    x = b.input(3, 3, 3)
    a = b.conv(x, 3, 1)
    r = b.add(a, x)
    d = b.clip(b.conv(r, 3, 3, groups=3))
    y = b.gemm(b.pool(d, "average", 3), 2)
    z = b.conv(r, 4, 2, pad=0)
    graph = b.graph(y, z, r)
    for node in graph.nodes:
        if isinstance(node, Conv):
            factor = {"zero": 0.0, "tiny": 1e-9, "huge": 1e9}.get(kind, 1.0)
            np.multiply(node.weight, factor, out=node.weight)
            if kind == "one zero row":
                node.weight[0] = 0
            np.multiply(node.bias, bias, out=node.bias)
    return graph, b


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("bias", [0.0, 1.0, 1e6])
def test_equals_the_definition(kind, bias):
    rng = np.random.default_rng(WEIGHTS.index(kind))
    graph, b = network(kind, bias, seed=3)
    statistics = calibrate(graph, b.samples(8), run=run_slowly)
    for _ in range(4):
        weights, activations = rng.choice(FIVE_BITS, 2)
        qgraph = quantize(graph, statistics, weight_format=weights, activation_format=activations)
        x = b.samples(1, seed=2)
        tensors = {k: v[0] for k, v in reference_codes(qgraph, x).items()}
        wrong = slow_reference.differences(qgraph, tensors, samples=12)
        assert wrong == [], (kind, bias, weights, activations)
        for name, y in run_reference(qgraph, x).items():
            assert np.isfinite(y).all(), name


def test_a_bias_beyond_63_bits():
    graph, b = network("zero", 1.0, seed=0)
    statistics = calibrate(graph, b.samples(8), run=run_slowly)
    qgraph = quantize(graph, statistics, weight_format="e5m2", activation_format="e5m2")
    assert max(abs(int(v)) for op in qgraph.ops if isinstance(op, Linear) for v in op.bias) >= 1 << 63
    x = b.samples(1, seed=2)
    tensors = {k: v[0] for k, v in reference_codes(qgraph, x).items()}
    assert slow_reference.differences(qgraph, tensors, samples=100) == []


@pytest.mark.parametrize("bits", [(21, 41), (31, 32), (42, 21), (40, 40)])
def test_products_next_to_63_bits(bits):
    rng = np.random.default_rng(0)
    x = rng.integers(-(1 << bits[0]) + 1, 1 << bits[0], (1, 1, 1, 1))
    x[...] = 1 - (1 << bits[0])
    w = np.full((2, 1, 1, 1), 1 - (1 << bits[1]))
    w[1] = (1 << bits[1]) - 1
    found = conv(x, w)
    assert [int(v) for v in found.ravel()] == [int(x.item()) * int(v) for v in w.ravel()]
